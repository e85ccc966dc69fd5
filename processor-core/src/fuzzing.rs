//! What must hold for bytes that nobody of ours wrote: each function takes any bytes and panics where a promise breaks.
//!
//! The fuzzer calls these (`fuzz/README.md` has the list), and a test calls them for every file of its corpora. A format
//! has its check beside it, as `check_any`.

use std::fmt::Debug;

use ::serde::{Deserialize, Serialize};

pub use crate::log::embedded::fuzzing::{
    damage as log_damage, directory as log_directory, formats as log_formats,
};
use crate::plan::TopologyPlan;
use crate::serde::{
    Serde, bytes, csv, int64, json, nullable, session_windowed, unit, utf8, windowed,
};
#[cfg(feature = "avro")]
pub use crate::serde::{avro_fuzzing::avro, registry::fuzzing::registry};

/// A flat row, with what `serde` types are made of.
#[derive(Debug, Serialize, Deserialize)]
struct Row {
    name: String,
    count: i64,
    part: Option<u32>,
    ratio: f64,
    kept: bool,
}

/// What JSON has besides.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Tree {
    Leaf(Option<String>),
    Counts(Vec<(i64, u64)>),
    Kept(bool),
    Ratio(f64),
    Branches(Vec<Tree>),
}

/// Serdes, one at a time; the first byte chooses.
pub fn serdes(data: &[u8]) {
    let Some((serde, bytes_of)) = data.split_first() else {
        return;
    };
    match serde % 9 {
        0 => survives(&int64(), bytes_of),
        1 => survives(&utf8(), bytes_of),
        2 => survives(&bytes(), bytes_of),
        3 => survives(&unit(), bytes_of),
        4 => survives(&json::<Tree>(), bytes_of),
        5 => survives(&csv::<Row>(), bytes_of),
        6 => survives(&windowed(utf8(), 1_000), bytes_of),
        7 => survives(&session_windowed(windowed(utf8(), 1_000)), bytes_of),
        _ => survives(&nullable(json::<Tree>()), bytes_of),
    }
}

/// A serde that takes bytes for a value writes the value as bytes that it takes for the same; if it takes them for none, it
/// says why.
pub(crate) fn survives<T: Debug>(serde: &dyn Serde<T>, bytes: &[u8]) {
    assert!(serde.partition_bytes(bytes).len() <= bytes.len());
    let value = match serde.deserialize(bytes) {
        Ok(value) => value,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    let mut written = Vec::new();
    serde
        .serialize(&value, &mut written)
        .unwrap_or_else(|error| panic!("{value:?} was read and is not written: {error}"));
    let again = serde
        .deserialize(&written)
        .unwrap_or_else(|error| panic!("{value:?} was written and is not read: {error}"));
    // Compared as text, in which a number that is none equals itself.
    assert_eq!(format!("{again:?}"), format!("{value:?}"));
}

/// Rows that operators keep, messages of internal topics, and what a task says of its times; the first byte chooses.
pub fn rows(data: &[u8]) {
    let Some((format, bytes)) = data.split_first() else {
        return;
    };
    match format % 16 {
        format @ 0..8 => crate::dsl::fuzzing::rows(format, bytes),
        8 | 9 => crate::processor::timers::check_any(bytes),
        10 | 11 => {
            if let Ok(text) = std::str::from_utf8(bytes) {
                crate::processor::time_metadata::check_any(text);
            }
        }
        12 => crate::task::time_header::check_any(bytes, None),
        _ => {
            let (idle, time) = bytes.split_at(bytes.len().min(1));
            crate::task::time_header::check_any(time, Some(idle));
        }
    }
}

/// Plans: as a start finds them, and as `plan --diff` does.
pub fn plans(data: &[u8]) {
    crate::runtime::kept_plan::check_any(data);
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    // Whoever edits a plan does not know its hash. What is made of a plan must not depend on that.
    let rehashed = serde_json::from_str::<TopologyPlan>(text).map(crate::plan::rehashed);
    let text = rehashed.map_or_else(|_| text.to_owned(), |plan| plan.to_json());
    let plan = match TopologyPlan::from_json(&text) {
        Ok(plan) => plan,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    let again = TopologyPlan::from_json(&plan.to_json());
    assert_eq!(again.expect("a plan reads what it writes"), plan);
    let _ = (plan.to_string(), plan.to_mermaid());
    let _ = plan.cost(crate::plan::Load::default()).to_string();
    let changes = crate::plan::diff::compare(&plan, &plan);
    assert!(changes.is_safe(), "{changes}");
}

#[cfg(test)]
mod tests {
    use corpus::replay;

    #[test]
    fn the_corpus_of_serdes_breaks_no_promise() {
        replay("serdes", super::serdes);
    }

    #[test]
    fn the_corpus_of_rows_breaks_no_promise() {
        replay("rows", super::rows);
    }

    #[test]
    fn the_corpus_of_plans_breaks_no_promise() {
        replay("plans", super::plans);
    }

    #[test]
    fn the_corpus_of_log_formats_breaks_no_promise() {
        replay("log_formats", super::log_formats);
    }

    #[test]
    fn the_corpus_of_log_directories_breaks_no_promise() {
        replay("log_directory", super::log_directory);
    }

    #[test]
    fn the_corpus_of_log_damage_breaks_no_promise() {
        replay("log_damage", super::log_damage);
    }

    #[test]
    #[cfg(feature = "avro")]
    fn the_corpus_of_avro_breaks_no_promise() {
        replay("avro", super::avro);
    }

    #[test]
    #[cfg(feature = "avro")]
    fn the_corpus_of_the_registry_breaks_no_promise() {
        replay("registry", super::registry);
    }
}
