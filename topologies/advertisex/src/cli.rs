//! The command line.

#[cfg(feature = "kafka")]
mod kafka;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use attribution::ConversionRules;
use clap::{Args, Parser, Subcommand, ValueEnum};
use events::generator::{GeneratorConfig, generate};
use events::reference::{Definitions, Sharing};
use processor_core::Backend;
use processor_core::dsl::Model;
use processor_core::log::Log;
use processor_core::log::embedded::EmbeddedLog;
use tracing_subscriber::EnvFilter;

use crate::demo::{self, Demo};
use crate::duration;
use crate::plan::Question;
use crate::progress::grouped;
use crate::size;
use crate::verify::{self, Report, Settings};

/// AdvertiseX: ad events from landing files to attributed campaigns
#[derive(Parser)]
#[command(name = "advertisex", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the whole platform on the embedded log: no broker, no network
    Demo(DemoArgs),
    /// Write a synthetic landing directory, seeded, with the results it must give in truth/
    Generate(GenerateArgs),
    /// Run an instance on Kafka, until SIGTERM
    #[cfg(feature = "kafka")]
    Run(kafka::RunArgs),
    /// Write the results that are committed on Kafka into files
    #[cfg(feature = "kafka")]
    Results(kafka::ResultsArgs),
    /// Prove from what is committed that nothing was lost and nothing came twice
    Verify(VerifyArgs),
    /// Print the topology: sub-topologies, operators, topics and stores, what they cost, and what changed
    Plan(PlanArgs),
}

#[derive(Args)]
struct Rules {
    /// How long before a click an impression may be to be credited with it
    #[arg(long, value_parser = duration::parse, default_value = "30m")]
    click_window: Duration,
    /// How long before a conversion a click may be to be credited with it
    #[arg(long, value_parser = duration::parse, default_value = "7d")]
    conversion_click_window: Duration,
    /// How long before a conversion an impression may be to be credited with it, where there is no such click
    #[arg(long, value_parser = duration::parse, default_value = "1d")]
    conversion_view_window: Duration,
    /// How several touches share a conversion
    #[arg(long, value_enum, default_value = "last")]
    model: ModelName,
    /// How far below the largest timestamp before it in its feed a record may be
    #[arg(long, value_parser = duration::parse, default_value = "5m")]
    grace: Duration,
    /// How long the id of a record is remembered, in event time, to notice a delivery that is repeated
    #[arg(long, value_parser = duration::parse, default_value = "48h")]
    id_ttl: Duration,
}

impl Rules {
    fn conversions(&self) -> ConversionRules {
        ConversionRules {
            click_window: self.conversion_click_window,
            view_window: self.conversion_view_window,
            model: match self.model {
                ModelName::Last => Model::Last,
                ModelName::First => Model::First,
                ModelName::Linear => Model::Linear,
                ModelName::Position => Model::POSITION,
            },
        }
    }

    fn definitions(&self) -> Result<Definitions> {
        let ms = |duration: Duration| i64::try_from(duration.as_millis());
        Ok(Definitions {
            click_window_ms: ms(self.click_window)?,
            grace_ms: ms(self.grace)?,
            conversion_click_window_ms: ms(self.conversion_click_window)?,
            conversion_view_window_ms: ms(self.conversion_view_window)?,
            sharing: match self.model {
                ModelName::Last => Sharing::Last,
                ModelName::First => Sharing::First,
                ModelName::Linear => Sharing::Linear,
                ModelName::Position => Sharing::Position,
            },
        })
    }
}

/// A model of attribution. Time decay is left to users of the library: the reference does without floating point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ModelName {
    /// All to the latest touch
    Last,
    /// All to the earliest touch
    First,
    /// The same to all
    Linear,
    /// 40 % to the first and the last, the rest to those between
    Position,
}

#[derive(Args)]
struct Storage {
    /// Storage engine of the stores: sled, fjall or redb. A state directory belongs to the engine that wrote it
    #[arg(long, default_value_t)]
    backend: Backend,
}

#[derive(Args)]
struct Memory {
    /// Memory for changes of stores, their page cache, and records that wait: docs/memory.md says what is beside it
    #[arg(long = "memory", value_name = "SIZE", value_parser = size::parse, default_value = "512MiB")]
    bytes: u64,
}

#[derive(Args)]
struct DemoArgs {
    /// Landing directory [default: the shipped sample]
    #[arg(long, value_name = "DIR")]
    input: Option<PathBuf>,
    /// Where results go
    #[arg(long, value_name = "DIR", default_value = "advertisex-out")]
    out: PathBuf,
    /// Where the log and the stores are [default: inside --out]
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    #[command(flatten)]
    storage: Storage,
    /// End with the input instead of watching for more
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    memory: Memory,
    #[command(flatten)]
    rules: Rules,
}

#[derive(Args)]
struct VerifyArgs {
    /// Landing directory; with --bootstrap it may be left out, and lines are not read again [default: the shipped sample]
    #[arg(long, value_name = "DIR")]
    input: Option<PathBuf>,
    /// Where the results of the demo are
    #[arg(long, value_name = "DIR", default_value = "advertisex-out")]
    out: PathBuf,
    /// Where its log is [default: inside --out]
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Verify what is on Kafka instead: brokers, host:port, several separated by commas
    #[cfg(feature = "kafka")]
    #[arg(long, conflicts_with_all = ["out", "state"])]
    bootstrap: Option<String>,
    /// A property of the Kafka client (librdkafka); may be repeated
    #[cfg(feature = "kafka")]
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = kafka::property, requires = "bootstrap")]
    properties: Vec<(String, String)>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Memory for the ids of a feed: with more ids the feed is read several times
    #[arg(long, value_name = "SIZE", value_parser = size::parse, default_value = "1GiB")]
    memory: u64,
    #[command(flatten)]
    rules: Rules,
}

#[derive(Args)]
struct GenerateArgs {
    /// Directory to make
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Same seed, same bytes
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Impressions, before duplicates
    #[arg(long, default_value_t = 100_000)]
    impressions: u64,
    /// Impressions per second of event time
    #[arg(long, default_value_t = 50)]
    rate: u64,
    /// Users
    #[arg(long, default_value_t = 20_000)]
    users: u64,
    /// Campaigns
    #[arg(long, default_value_t = 40)]
    campaigns: u64,
    /// Share of impressions that are clicked
    #[arg(long, default_value_t = 0.02)]
    click_rate: f64,
    /// Share of records written twice
    #[arg(long, default_value_t = 0.005)]
    duplicate_rate: f64,
    /// Share of records that break the contract
    #[arg(long, default_value_t = 0.001)]
    malformed_rate: f64,
    /// Share of records that come an hour late
    #[arg(long, default_value_t = 0.0001)]
    late_rate: f64,
    /// Files of each feed
    #[arg(long, default_value_t = 4)]
    files: u64,
    #[command(flatten)]
    rules: Rules,
}

#[derive(Args)]
struct PlanArgs {
    /// Which part of the platform
    #[arg(long, value_enum, default_value = "all")]
    part: crate::Part,
    #[command(flatten)]
    question: Question,
}

/// Exit code where the answer is no: a plan may not follow the older one, or a check does not hold.
const REFUSED: u8 = 3;

/// Parses the arguments and does what they say. Exit code 1 when it fails, 2 when the arguments are wrong, 3 when a plan is
/// compared and a change is unsafe, or a verification does not hold.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    log_to_stderr();
    match dispatch(cli.command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {}", sentence(&error));
            ExitCode::FAILURE
        }
    }
}

/// The error and its causes, but for those that it repeats.
fn sentence(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

fn dispatch(command: Command) -> Result<ExitCode> {
    match command {
        Command::Demo(args) => run_demo(args)?,
        Command::Generate(args) => generate_landing(&args)?,
        #[cfg(feature = "kafka")]
        Command::Run(args) => args.into_run()?.run(&stop_on_signals()?)?,
        #[cfg(feature = "kafka")]
        Command::Results(args) => args.write()?,
        Command::Verify(args) => return answer(args),
        Command::Plan(args) => return plan(&args),
    }
    Ok(ExitCode::SUCCESS)
}

#[expect(
    clippy::print_stdout,
    reason = "the answer of a command line goes there"
)]
fn run_demo(args: DemoArgs) -> Result<()> {
    let demo = Demo {
        input: args.input,
        out: args.out,
        state: args.state,
        backend: args.storage.backend,
        once: args.once,
        memory_bytes: args.memory.bytes,
        click_window: args.rules.click_window,
        conversions: args.rules.conversions(),
        grace: args.rules.grace,
        id_ttl: args.rules.id_ttl,
    };
    let stop = stop_on_signals()?;
    demo.run(&stop, &mut |text| println!("{text}"))
}

#[expect(
    clippy::print_stdout,
    reason = "the answer of a command line goes there"
)]
fn generate_landing(args: &GenerateArgs) -> Result<()> {
    let config = GeneratorConfig {
        seed: args.seed,
        impressions: args.impressions,
        per_second: args.rate,
        users: args.users,
        campaigns: args.campaigns,
        click_rate: args.click_rate,
        duplicate_rate: args.duplicate_rate,
        malformed_rate: args.malformed_rate,
        late_rate: args.late_rate,
        files_per_feed: args.files,
        definitions: args.rules.definitions()?,
        ..GeneratorConfig::default()
    };
    let truth = generate(&args.out, &config)
        .with_context(|| format!("cannot write the landing directory {}", args.out.display()))?;
    let lines: u64 = truth.files.iter().map(|file| file.lines).sum();
    println!(
        "{} records in {} files in {}; the results they must give are in {}",
        grouped(lines),
        truth.files.len(),
        args.out.display(),
        args.out.join("truth").display()
    );
    Ok(())
}

#[expect(
    clippy::print_stdout,
    reason = "the answer of a command line goes there"
)]
fn plan(args: &PlanArgs) -> Result<ExitCode> {
    let config = crate::Config {
        landing: PathBuf::new(),
        click_window: Duration::from_secs(30 * 60),
        conversions: ConversionRules::default(),
        grace: Duration::from_secs(5 * 60),
        id_ttl: ingest::ID_TTL,
        replication: 1,
    };
    // A plan needs no log; the schema registry gets one of its own.
    let topology = crate::topology(args.part, &config, Arc::new(EmbeddedLog::in_memory()))?;
    let answer = args.question.answer(&topology.plan())?;
    print!("{}", answer.text);
    Ok(match answer.is_safe {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(REFUSED),
    })
}

#[expect(
    clippy::print_stdout,
    reason = "the answer of a command line goes there"
)]
fn answer(args: VerifyArgs) -> Result<ExitCode> {
    let json = args.json;
    let report = args.report()?;
    match json {
        true => println!("{}", serde_json::to_string_pretty(&report)?),
        false => println!("{report}"),
    }
    Ok(match report.holds {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(REFUSED),
    })
}

impl VerifyArgs {
    fn report(self) -> Result<Report> {
        let log = self.log()?;
        let landing = match &self.input {
            Some(input) if !input.is_dir() => bail!(
                "the landing directory {} does not exist or is no directory",
                input.display()
            ),
            Some(input) => Some(input.clone()),
            None if self.is_on_kafka() => None,
            None => demo::sample(),
        };
        let settings = Settings {
            landing,
            click_window: self.rules.click_window,
            grace: self.rules.grace,
            id_ttl: self.rules.id_ttl,
            memory_bytes: self.memory,
        };
        Ok(verify::verify(&*log, &settings)?)
    }

    fn log(&self) -> Result<Box<dyn Log>> {
        #[cfg(feature = "kafka")]
        if let Some(bootstrap) = &self.bootstrap {
            let cluster = crate::run::Cluster {
                bootstrap: bootstrap.clone(),
                properties: self.properties.iter().cloned().collect(),
            };
            return Ok(Box::new(cluster.connect()?));
        }
        let state = self.state.clone().unwrap_or_else(|| self.out.join("state"));
        let log = state.join("log");
        if !log.is_dir() {
            bail!(
                "there is no log in {}: run `advertisex demo` first, or name the place of a run with --out or --state",
                state.display()
            );
        }
        let opened = EmbeddedLog::open(&log);
        let opened = opened.with_context(|| format!("cannot open the log in {}", log.display()))?;
        Ok(Box::new(opened))
    }

    #[cfg(feature = "kafka")]
    fn is_on_kafka(&self) -> bool {
        self.bootstrap.is_some()
    }

    #[cfg(not(feature = "kafka"))]
    fn is_on_kafka(&self) -> bool {
        false
    }
}

/// A flag that the first SIGINT or SIGTERM sets; the second ends the process at once.
fn stop_on_signals() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register_conditional_default(signal, Arc::clone(&stop))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&stop)))
            .context("cannot listen for signals")?;
    }
    Ok(stop)
}

/// Warnings and errors, unless `RUST_LOG` says otherwise.
fn log_to_stderr() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn an_error_says_each_cause_once() {
        let refused = || std::io::Error::other("refused");
        let wrapped = Err::<(), _>(anyhow::anyhow!(refused())).context("cannot write: refused");
        assert_eq!(sentence(&wrapped.unwrap_err()), "cannot write: refused");
        let named = Err::<(), _>(anyhow::anyhow!(refused())).context("cannot write");
        assert_eq!(sentence(&named.unwrap_err()), "cannot write: refused");
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}
