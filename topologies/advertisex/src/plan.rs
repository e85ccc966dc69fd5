//! What `advertisex plan` prints: the plan of the platform, what it costs, or what changes against an older one.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use processor_core::plan::diff::compare;
use processor_core::plan::{Load, TopologyPlan};

/// How a plan is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Text,
    /// A flowchart for Mermaid
    Mermaid,
    /// For `--diff`, and for programs
    Json,
}

/// What is asked about a plan.
#[derive(Debug, Args)]
pub(crate) struct Question {
    /// How the plan is written
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    /// Compare with this older plan, written with --format json; exit code 3 if a change is unsafe
    #[arg(long, value_name = "OLD.json", conflicts_with_all = ["format", "cost"])]
    diff: Option<PathBuf>,
    /// Estimate what each operator writes and keeps
    #[arg(long)]
    cost: bool,
    /// For --cost: records a second of each input topic
    #[arg(long, value_name = "N", requires = "cost", default_value_t = Load::default().records_per_s)]
    records_per_s: u64,
    /// For --cost: distinct keys of each input topic
    #[arg(long, value_name = "N", requires = "cost", default_value_t = Load::default().keys)]
    keys: u64,
    /// For --cost: bytes of a key
    #[arg(long, value_name = "N", requires = "cost", default_value_t = Load::default().key_bytes)]
    key_bytes: u64,
    /// For --cost: bytes of a value
    #[arg(long, value_name = "N", requires = "cost", default_value_t = Load::default().value_bytes)]
    value_bytes: u64,
}

/// What is printed, and whether it is good news.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub text: String,
    pub is_safe: bool,
}

impl Question {
    /// The answer for `plan`.
    ///
    /// # Errors
    /// When the older plan cannot be read.
    pub(crate) fn answer(&self, plan: &TopologyPlan) -> Result<Answer> {
        if let Some(old) = &self.diff {
            let diff = compare(&read(old)?, plan);
            return Ok(Answer {
                text: diff.to_string(),
                is_safe: diff.is_safe(),
            });
        }
        let cost = self.cost.then(|| plan.cost(self.load()));
        let text = match (self.format, cost) {
            (Format::Text, None) => plan.to_string(),
            (Format::Text, Some(cost)) => format!("{plan}{cost}"),
            (Format::Mermaid, _) => plan.to_mermaid(),
            (Format::Json, None) => plan.to_json() + "\n",
            (Format::Json, Some(cost)) => serde_json::to_string_pretty(&cost)? + "\n",
        };
        Ok(Answer {
            text,
            is_safe: true,
        })
    }

    fn load(&self) -> Load {
        Load {
            records_per_s: self.records_per_s,
            keys: self.keys,
            key_bytes: self.key_bytes,
            value_bytes: self.value_bytes,
        }
    }
}

fn read(path: &Path) -> Result<TopologyPlan> {
    let place = || format!("the plan {}", path.display());
    let text = std::fs::read_to_string(path).with_context(place)?;
    TopologyPlan::from_json(&text).with_context(place)
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use processor_core::StreamsBuilder;
    use processor_core::dsl::Consumed;
    use processor_core::serde::{int64, utf8};

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        question: Question,
    }

    fn ask(plan: &TopologyPlan, arguments: &[&str]) -> Answer {
        let line = ["plan"].iter().chain(arguments);
        let question = Line::try_parse_from(line).unwrap().question;
        question.answer(plan).unwrap()
    }

    fn plan(store: &str) -> TopologyPlan {
        let builder = StreamsBuilder::new("words");
        let words = builder.stream("words", Consumed::new(utf8(), int64()));
        words.group_by_key().count(store);
        builder.build().unwrap().plan()
    }

    #[test]
    fn an_older_plan_is_read_back_and_compared() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("old.json");
        let json = ask(&plan("counts"), &["--format", "json"]).text;
        std::fs::write(&path, json).unwrap();
        let diff = ["--diff", path.to_str().unwrap()];
        assert!(ask(&plan("counts"), &diff).is_safe);
        let table = {
            let builder = StreamsBuilder::new("words");
            builder.table("words", "counts", Consumed::new(utf8(), int64()));
            builder.build().unwrap().plan()
        };
        let answer = ask(&table, &diff);
        assert!(!answer.is_safe);
        assert!(
            answer.text.contains("RESET      store 'counts'"),
            "{}",
            answer.text
        );
    }

    #[test]
    fn a_file_that_is_no_plan_is_named() {
        let question = Line::try_parse_from(["plan", "--diff", "missing.json"]).unwrap();
        let error = question.question.answer(&plan("counts")).unwrap_err();
        assert!(
            format!("{error:#}").starts_with("the plan missing.json: "),
            "{error:#}"
        );
    }

    #[test]
    fn costs_follow_the_load() {
        let text = |arguments: &[&str]| ask(&plan("counts"), arguments).text;
        let costs = text(&["--cost", "--keys", "7"]);
        assert!(costs.contains("7 keys of 32 bytes"), "{costs}");
        assert!(text(&["--cost", "--format", "json"]).contains("\"rows\": 100000"));
        assert!(Line::try_parse_from(["plan", "--keys", "7"]).is_err());
        assert!(text(&["--format", "mermaid"]).starts_with("flowchart TD\n"));
    }
}
