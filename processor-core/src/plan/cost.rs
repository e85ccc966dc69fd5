//! What a plan costs: records and bytes that its operators write, and rows that they keep.
//!
//! An estimate from above, worked out of the plan and a [`Load`] alone. What it takes for granted:
//!
//! | | formula |
//! |---|---|
//! | input of an operator | the sum over what feeds it; an input topic gives [`records_per_s`](Load::records_per_s), and every operator passes on as many records as it gets |
//! | windows of a record, `w` | ⌈size / advance⌉ for time windows, 1 otherwise |
//! | repartition topic | one record for each record, of key, value and [`RECORD_BYTES`] |
//! | changelog | `w` records for each record, 1 for a key-value store or a side of a join, 2 for the unmatched ones of an outer join, none for a table that is rebuilt from its topic |
//! | rows, key-value | [`keys`](Load::keys) |
//! | rows, windows | the smaller of keys × ⌈retention / advance⌉ and records/s × `w` × retention |
//! | rows, sessions | the smaller of keys × ⌈retention / gap⌉ and records/s × retention |
//! | rows, joins | records/s × retention, of the input of that side |
//! | bytes of a row | key, value and [`ROW_BYTES`] (window start, timestamp); [`ROW_MEMORY_BYTES`] more where state is in memory |
//!
//! So a filter makes it too much, a `flat_map` or a join with many partners too little. A changelog gets each key once a
//! commit, so less than this where keys repeat within the commit interval. Sizes are of one copy, before compression.

use std::collections::HashMap;
use std::fmt;

use serde::Serialize;

use super::{NodePlan, Role, StorePlan, TopicPlan, TopologyPlan};

/// Bytes that a record has on a topic besides key and value: the headers of its time and its share of a batch.
pub const RECORD_BYTES: u64 = 48;
/// Bytes that a row has in a store besides key and value: a window's start and the timestamp.
pub const ROW_BYTES: u64 = 16;
/// Bytes that a row costs besides in memory: an entry of an ordered map and two counted buffers.
pub const ROW_MEMORY_BYTES: u64 = 112;

/// What comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Load {
    /// Records a second of each input topic.
    pub records_per_s: u64,
    /// Distinct keys of each input topic.
    pub keys: u64,
    /// Bytes of a key.
    pub key_bytes: u64,
    /// Bytes of a value.
    pub value_bytes: u64,
}

impl Default for Load {
    /// 1,000 records a second of 100,000 keys, with 32 bytes of key and 128 of value.
    fn default() -> Self {
        Self {
            records_per_s: 1_000,
            keys: 100_000,
            key_bytes: 32,
            value_bytes: 128,
        }
    }
}

/// What a plan costs under a load.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlanCost {
    /// The load.
    pub load: Load,
    /// Operators that write an internal topic or keep something, in the order of the program.
    pub operators: Vec<OperatorCost>,
}

/// What one operator costs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OperatorCost {
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: String,
    /// Records that reach it, a second.
    pub records_per_s: u64,
    /// Records that it writes to its repartition topic or changelogs for each record that reaches it.
    pub writes_per_record: u64,
    /// Bytes that this is, a second.
    pub written_bytes_per_s: u64,
    /// How long it keeps rows, in ms; nothing where it is for ever or where it keeps none.
    pub retention_ms: Option<i64>,
    /// Rows that it keeps.
    pub rows: u64,
    /// Bytes of these on disk.
    pub disk_bytes: u64,
    /// Bytes of these where state is in memory.
    pub memory_bytes: u64,
}

impl TopologyPlan {
    /// What the plan costs under `load`: see [`PlanCost`] and the source of this file for the formulas.
    ///
    /// ```
    /// # use processor_core::dsl::{Consumed, Grouped, StreamsBuilder};
    /// # use processor_core::plan::Load;
    /// # use processor_core::serde::{int64, utf8};
    /// # let builder = StreamsBuilder::new("words");
    /// let words = builder.stream("words", Consumed::new(utf8(), utf8()));
    /// words.group_by(|_, word| word.clone(), Grouped::by(utf8())).count("counts");
    /// let cost = builder.build().unwrap().plan().cost(Load::default());
    /// let [topic, counts] = &cost.operators[..] else { panic!("{cost}") };
    /// assert_eq!(topic.written_bytes_per_s, 1_000 * (32 + 128 + 48));
    /// assert_eq!((counts.rows, counts.disk_bytes), (100_000, 100_000 * (32 + 128 + 16)));
    /// ```
    #[must_use]
    pub fn cost(&self, load: Load) -> PlanCost {
        let mut rates = Rates {
            plan: self,
            load,
            known: HashMap::new(),
        };
        let mut operators = Vec::new();
        for node in self.nodes() {
            let records_per_s = rates.reaching(node);
            let cost = match &node.role {
                Role::Sink(topic) => match self.topic(topic) {
                    Some(topic) if topic.internal => repartition(node, topic, records_per_s, load),
                    _ => continue,
                },
                Role::Operator(kind) => {
                    let own = self.stores_of(node);
                    if own.is_empty() {
                        continue;
                    }
                    let cost = keeping(node, kind, &own, records_per_s, load);
                    match own[..] {
                        [table] if self.is_read_back(table) => cost.unwritten(),
                        _ => cost,
                    }
                }
                Role::Source(_) | Role::DynamicSink => continue,
            };
            operators.push(cost);
        }
        PlanCost { load, operators }
    }

    /// The stores that `node` is the first to use: tables are read by others as well.
    fn stores_of(&self, node: &NodePlan) -> Vec<&StorePlan> {
        let is_owner = |store: &&StorePlan| {
            let mut users = self
                .nodes()
                .filter(|node| node.stores.contains(&store.name));
            users.next().is_some_and(|owner| owner.name == node.name)
        };
        self.stores.iter().filter(is_owner).collect()
    }
}

impl OperatorCost {
    /// The same for an operator whose rows are in a topic already.
    fn unwritten(self) -> Self {
        Self {
            writes_per_record: 0,
            written_bytes_per_s: 0,
            ..self
        }
    }
}

fn repartition(node: &NodePlan, topic: &TopicPlan, records_per_s: u64, load: Load) -> OperatorCost {
    let bytes = load.key_bytes + load.value_bytes + RECORD_BYTES;
    OperatorCost {
        name: node.name.clone(),
        kind: format!("to {}", topic.name),
        records_per_s,
        writes_per_record: 1,
        written_bytes_per_s: records_per_s.saturating_mul(bytes),
        retention_ms: None,
        rows: 0,
        disk_bytes: 0,
        memory_bytes: 0,
    }
}

fn keeping(
    node: &NodePlan,
    kind: &str,
    stores: &[&StorePlan],
    records_per_s: u64,
    load: Load,
) -> OperatorCost {
    let given = |name: &str| {
        let number = node.parameters.get(name).copied();
        number
            .and_then(|number| u64::try_from(number).ok())
            .filter(|number| *number > 0)
    };
    let joins = stores.iter().filter(|store| store.kind == "join").count() as u64;
    let is_join = joins > 0;
    // A row is a window, or a pane of several.
    let row_ms = given("pane_ms").or(given("advance_ms"));
    let windows_per_record = match (given("size_ms"), given("advance_ms")) {
        (Some(size), Some(advance)) if given("pane_ms").is_none() => size.div_ceil(advance),
        _ => 1,
    };
    let within = |ms: Option<i64>| {
        let ms = u64::try_from(ms.unwrap_or(0)).unwrap_or(0);
        per_s_times_ms(records_per_s, ms)
    };
    let (mut rows, mut writes) = (0_u64, 0_u64);
    for store in stores {
        let retention = u64::try_from(store.retention_ms.unwrap_or(0)).unwrap_or(0);
        let by_keys = |step: Option<u64>| match step {
            Some(step) => load.keys.saturating_mul(retention.div_ceil(step)),
            None => u64::MAX,
        };
        let (kept, written) = match store.kind.as_str() {
            "window" => (
                by_keys(row_ms).min(within(store.retention_ms).saturating_mul(windows_per_record)),
                windows_per_record,
            ),
            "session" => (by_keys(given("gap_ms")).min(within(store.retention_ms)), 1),
            // Each side keeps its own records, and a record is written to one side.
            "join" => (within(store.retention_ms) / joins, 0),
            // What waits of an outer join is put once, and taken out once.
            _ if is_join => {
                let retention_ms = stores.iter().filter_map(|store| store.retention_ms).max();
                (within(retention_ms), 2)
            }
            _ => (load.keys, 1),
        };
        rows = rows.saturating_add(kept);
        writes += written;
    }
    writes += u64::from(is_join);
    let row = load.key_bytes + load.value_bytes + ROW_BYTES;
    OperatorCost {
        name: node.name.clone(),
        kind: kind.to_owned(),
        records_per_s,
        writes_per_record: writes,
        written_bytes_per_s: records_per_s
            .saturating_mul(writes)
            .saturating_mul(row + RECORD_BYTES),
        retention_ms: stores.iter().filter_map(|store| store.retention_ms).max(),
        rows,
        disk_bytes: rows.saturating_mul(row),
        memory_bytes: rows.saturating_mul(row + ROW_MEMORY_BYTES),
    }
}

fn per_s_times_ms(per_s: u64, ms: u64) -> u64 {
    let product = u128::from(per_s) * u128::from(ms) / 1_000;
    u64::try_from(product).unwrap_or(u64::MAX)
}

/// Records a second that reach nodes.
struct Rates<'a> {
    plan: &'a TopologyPlan,
    load: Load,
    /// A node that is being worked out counts as 0, so that a circle over topics ends.
    known: HashMap<&'a str, u64>,
}

impl<'a> Rates<'a> {
    fn reaching(&mut self, node: &'a NodePlan) -> u64 {
        if let Some(known) = self.known.get(node.name.as_str()) {
            return *known;
        }
        self.known.insert(&node.name, 0);
        let plan = self.plan;
        let above: Vec<&NodePlan> = match &node.role {
            Role::Source(topic) => {
                let writes = |other: &&NodePlan| matches!(&other.role, Role::Sink(written) if written == topic);
                plan.nodes().filter(writes).collect()
            }
            _ => node
                .parents
                .iter()
                .filter_map(|name| plan.node(name))
                .collect(),
        };
        let is_input = matches!(&node.role, Role::Source(_)) && above.is_empty();
        let rate = if is_input {
            self.load.records_per_s
        } else {
            above.into_iter().map(|node| self.reaching(node)).sum()
        };
        self.known.insert(&node.name, rate);
        rate
    }
}

impl fmt::Display for PlanCost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Load {
            records_per_s,
            keys,
            key_bytes,
            value_bytes,
        } = self.load;
        writeln!(
            f,
            "Cost at {} records/s of each input, {} keys of {key_bytes} bytes, values of {value_bytes} bytes (at most):",
            grouped(records_per_s),
            grouped(keys)
        )?;
        let names = self
            .operators
            .iter()
            .map(|operator| operator.name.chars().count());
        let width = names.max().unwrap_or(0).max("operator".len());
        writeln!(
            f,
            "  {:<width$} {:>10} {:>7} {:>11} {:>12} {:>14} {:>10} {:>10}",
            "operator", "records/s", "writes", "written/s", "kept for", "rows", "disk", "memory"
        )?;
        for operator in &self.operators {
            let kept = operator.retention_ms.map_or_else(
                || if operator.rows > 0 { "ever" } else { "-" }.to_owned(),
                duration,
            );
            writeln!(
                f,
                "  {:<width$} {:>10} {:>7} {:>11} {:>12} {:>14} {:>10} {:>10}",
                operator.name,
                grouped(operator.records_per_s),
                operator.writes_per_record,
                bytes(operator.written_bytes_per_s),
                kept,
                grouped(operator.rows),
                bytes(operator.disk_bytes),
                bytes(operator.memory_bytes)
            )?;
        }
        let sum = |of: fn(&OperatorCost) -> u64| self.operators.iter().map(of).sum::<u64>();
        writeln!(
            f,
            "  {:<width$} {:>10} {:>7} {:>11} {:>12} {:>14} {:>10} {:>10}",
            "all",
            "",
            "",
            bytes(sum(|operator| operator.written_bytes_per_s)),
            "",
            grouped(sum(|operator| operator.rows)),
            bytes(sum(|operator| operator.disk_bytes)),
            bytes(sum(|operator| operator.memory_bytes))
        )
    }
}

/// A number with its thousands set apart.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Bytes in the largest unit that leaves a whole part, with one digit behind the point.
fn bytes(number: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut tenths = u128::from(number) * 10;
    let mut unit = 0;
    while tenths >= 10_000 && unit + 1 < UNITS.len() {
        tenths /= 1_000;
        unit += 1;
    }
    match unit {
        0 => format!("{} B", tenths / 10),
        _ => format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit]),
    }
}

fn duration(ms: i64) -> String {
    const UNITS: [(i64, &str); 4] = [
        (86_400_000, "d"),
        (3_600_000, "h"),
        (60_000, "min"),
        (1_000, "s"),
    ];
    let unit = UNITS.iter().find(|(unit, _)| ms >= *unit && ms % unit == 0);
    unit.map_or_else(
        || format!("{ms} ms"),
        |(unit, name)| format!("{} {name}", ms / unit),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_told_as_people_read_them() {
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(
            [bytes(999), bytes(1_250), bytes(2_000_000)],
            ["999 B", "1.2 kB", "2.0 MB"]
        );
        assert_eq!(
            [duration(90_000), duration(60_000), duration(1)],
            ["90 s", "1 min", "1 ms"]
        );
    }
}
