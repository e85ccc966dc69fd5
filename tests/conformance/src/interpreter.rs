//! Turns the operators of a case into calls of the DSL.

use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;
use std::time::Duration;

use processor_core::dsl::{
    Buffer, CogroupedStream, Consumed, GlobalTable, Grouped, JoinWindows, KGroupedStream,
    KGroupedTable, KStream, KTable, Lineage, Partitioned, Produced, Rekeyed, SessionWindows,
    SlidingWindows, TimeWindows, UnlimitedWindows, VersionedTable, WhenFull,
    Windows as EventWindows,
};
use processor_core::error::Result as Processed;
use processor_core::processor::{
    KeyValue, Processor, ProcessorContext, Punctuated, Punctuation, Setup,
};
use processor_core::serde::{Int64, Nullable, Utf8, int64, nullable, utf8};
use processor_core::{Data, Record, StreamsBuilder, Topology, Windowed};

use crate::case::{Case, Op};
use crate::functions::{
    Key, Mapper, Number, Predicate, fold, group, join, length, nz, plus, render, unfold,
};

/// Why a case has no topology: it makes no sense.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal(String);

/// The topology of a case.
pub(crate) fn build(case: &Case) -> Result<Topology, Refusal> {
    let builder = StreamsBuilder::new(&case.name);
    let mut interpreter = Interpreter {
        builder: match case.optimize {
            true => builder.optimize(),
            false => builder,
        },
        made: HashMap::new(),
    };
    for op in &case.topology {
        interpreter.add(op)?;
    }
    let built = interpreter.builder.build();
    built.map_err(|error| Refusal(error.to_string()))
}

pub(crate) fn key_serde() -> Nullable<Utf8> {
    nullable(utf8())
}

pub(crate) fn value_serde() -> Nullable<Int64> {
    nullable(int64())
}

/// What an operator made.
#[derive(Clone)]
enum Made {
    Stream(Stream),
    Table(Table<Key>),
    WindowedTable(Table<Windowed<Key>>),
    GlobalTable(Rc<GlobalTable<Key, i64>>),
    Group(Rc<KGroupedStream<Key, Number>>),
    TableGroup(Rc<KGroupedTable<Key, i64>>),
    Windows(Rc<KGroupedStream<Key, Number>>, Windows, Emit),
    Cogroup(Rc<CogroupedStream<Key, i64>>),
    CogroupWindows(Rc<CogroupedStream<Key, i64>>, Windows, Emit),
}

#[derive(Clone)]
enum Stream {
    Partitioned(KStream<Key, Number, Partitioned>),
    Rekeyed(KStream<Key, Number, Rekeyed>),
}

#[derive(Clone, Copy)]
enum Windows {
    Time(EventWindows),
    Session(SessionWindows),
}

/// When a windowed aggregation emits.
#[derive(Clone, Copy)]
enum Emit {
    Updates,
    Finals,
}

#[derive(Clone)]
struct Table<K> {
    rows: KTable<K, i64>,
    /// Kafka Streams would have its rows, or those it derives from, in a store of their own.
    kept: bool,
    /// The same table with its history, where it has one.
    versioned: Option<VersionedTable<K, i64>>,
}

impl<K: Data> Table<K> {
    fn kept(rows: KTable<K, i64>) -> Self {
        Self::of(rows, true)
    }

    fn of(rows: KTable<K, i64>, kept: bool) -> Self {
        Self {
            rows,
            kept,
            versioned: None,
        }
    }
}

/// A table's key, which is text or becomes it.
trait TableKey: Data {
    fn text(&self) -> Key;
}

impl TableKey for Key {
    fn text(&self) -> Key {
        self.clone()
    }
}

impl TableKey for Windowed<Key> {
    fn text(&self) -> Key {
        render(self)
    }
}

impl From<KStream<Key, Number, Partitioned>> for Made {
    fn from(stream: KStream<Key, Number, Partitioned>) -> Self {
        Self::Stream(Stream::Partitioned(known(&stream)))
    }
}

impl From<KStream<Key, Number, Rekeyed>> for Made {
    fn from(stream: KStream<Key, Number, Rekeyed>) -> Self {
        Self::Stream(Stream::Rekeyed(known(&stream)))
    }
}

impl From<Table<Key>> for Made {
    fn from(table: Table<Key>) -> Self {
        let rows = table.rows.with_serdes(key_serde(), int64());
        Self::Table(Table { rows, ..table })
    }
}

impl From<Table<Windowed<Key>>> for Made {
    fn from(table: Table<Windowed<Key>>) -> Self {
        Self::WindowedTable(table)
    }
}

/// The stream with its serdes, which operators that change the type lose.
fn known<L: Lineage>(stream: &KStream<Key, Number, L>) -> KStream<Key, Number, L> {
    stream.with_serdes(key_serde(), value_serde())
}

/// The same code for a stream of either lineage.
macro_rules! on {
    ($stream:expr, $inner:ident => $code:expr) => {
        match $stream {
            Stream::Partitioned($inner) => $code,
            Stream::Rekeyed($inner) => $code,
        }
    };
}

struct Interpreter {
    builder: StreamsBuilder,
    made: HashMap<String, Made>,
}

impl Interpreter {
    fn add(&mut self, op: &Op) -> Result<(), Refusal> {
        let inputs: Vec<Made> = op
            .inputs
            .iter()
            .map(|id| {
                self.made
                    .get(id)
                    .cloned()
                    .ok_or_else(|| unknown("input", id))
            })
            .collect::<Result<_, _>>()?;
        let made = match inputs.as_slice() {
            [] => self.source(op)?,
            [Made::Stream(stream)] if op.op == "branch" => return self.branch(op, stream),
            [Made::Stream(stream)] if op.op == "merge" => Made::Stream(stream.clone()),
            [Made::Stream(stream)] => match self.of_stream(op, stream)? {
                Some(made) => made,
                None => return Ok(()),
            },
            [Made::Table(table)] if op.op == "to_stream" => to_stream(op, table),
            [Made::WindowedTable(table)] if op.op == "to_stream" => to_stream(op, table),
            [Made::Table(table)] if op.op == "to" => return write(op, &to_stream(op, table)),
            [Made::WindowedTable(table)] if op.op == "to" => {
                return write(op, &to_stream(op, table));
            }
            [Made::Table(table)] if op.op == "group_by" => regrouped(op, table),
            [Made::WindowedTable(table)] if op.op == "group_by" => regrouped(op, table),
            [Made::TableGroup(group)] => table_aggregated(op, group)?.into(),
            [Made::WindowedTable(table)]
                if op.op == "suppress" && op.text("until") == "window_close" =>
            {
                until_close(op, table).into()
            }
            [Made::Table(table)] => of_table(op, table)?.into(),
            [Made::WindowedTable(table)] => of_table(op, table)?.into(),
            [Made::Group(group)] if op.op == "window" => {
                let (windows, emit) = window(op);
                Made::Windows(Rc::clone(group), windows, emit)
            }
            [Made::Cogroup(groups)] if op.op == "window" => {
                let (windows, emit) = window(op);
                Made::CogroupWindows(Rc::clone(groups), windows, emit)
            }
            [Made::Group(first), rest @ ..] if op.op == "cogroup" => cogrouped(first, rest)?,
            [Made::Cogroup(groups)] => {
                Table::kept(groups.aggregate(&store(op), int64(), || 0)).into()
            }
            [Made::CogroupWindows(groups, windows, emit)] => {
                windowed_cogroup(op, groups, *windows, *emit).into()
            }
            [Made::Group(group)] => aggregated(op, group)?.into(),
            [Made::Windows(group, windows, emit)] => {
                windowed_aggregated(op, group, *windows, *emit)?.into()
            }
            [Made::Stream(first), rest @ ..] if op.op == "merge" => merged(first, rest)?,
            [Made::Stream(left), Made::Stream(right)] => join_streams(op, left, right)?,
            [Made::Stream(left), Made::Table(right)] => join_table(op, left, right)?,
            [Made::Table(left), Made::Table(right)] if op.op.starts_with("fk_") => {
                join_by_foreign_key(op, left, right)?.into()
            }
            [Made::Table(left), Made::Table(right)] => join_tables(op, left, right)?.into(),
            [Made::Stream(left), Made::GlobalTable(right)] => join_global(op, left, right)?,
            _ => return Err(unknown("operator for its inputs", &op.op)),
        };
        self.made.insert(op.id.clone(), made);
        Ok(())
    }

    fn source(&self, op: &Op) -> Result<Made, Refusal> {
        let topic = op.text("topic");
        let store = store(op);
        Ok(match op.op.as_str() {
            "stream" => {
                let consumed = Consumed::new(key_serde(), value_serde());
                self.builder.stream(topic, consumed).into()
            }
            "table" if op.has("versioned") => {
                let consumed = Consumed::new(key_serde(), int64());
                let history = ms(op, "versioned");
                let table = self
                    .builder
                    .versioned_table(topic, &store, history, consumed);
                versioned(table).into()
            }
            "table" => {
                let consumed = Consumed::new(key_serde(), int64());
                let rows = self.builder.table(topic, &store, consumed);
                let kept = op.flag("materialized");
                Table::of(rows, kept).into()
            }
            "global_table" => {
                let consumed = Consumed::new(key_serde(), int64());
                let table = self.builder.global_table(topic, &store, consumed);
                Made::GlobalTable(Rc::new(table))
            }
            other => return Err(unknown("source", other)),
        })
    }

    /// An operator over one stream; a terminal one makes nothing.
    fn of_stream(&self, op: &Op, stream: &Stream) -> Result<Option<Made>, Refusal> {
        let (mapper, modulus) = (Mapper::of(op), op.number("mod", 2));
        let (predicate, times) = (Predicate::of(op), op.number("times", 2));
        Ok(Some(match op.op.as_str() {
            "filter" => on!(stream, s => s.filter(move |_, v| predicate.holds(*v)).into()),
            "filter_not" => on!(stream, s => s.filter_not(move |_, v| predicate.holds(*v)).into()),
            "map_values" => on!(stream, s => s.map_values(move |k, v| mapper.apply(k, v)).into()),
            "flat_map_values" => on!(stream, s => s
                .flat_map_values(move |_, v| (0..times).map(move |i| plus_i(v, i)))
                .into()),
            "flat_map" => on!(stream, s => s
                .flat_map(move |k: Key, v| {
                    (0..times).map(move |i| (k.as_ref().map(|k| format!("{k}{i}")), plus_i(v, i)))
                })
                .into()),
            "map" => on!(stream, s => s
                .map(move |k, v| (group(v, modulus), mapper.apply(&k, v)))
                .into()),
            "select_key" => on!(stream, s => s.select_key(move |_, v| group(*v, modulus)).into()),
            "peek" => on!(stream, s => s.peek(|_, _| {}).into()),
            "foreach" => {
                on!(stream, s => s.foreach(|_, _| {}));
                return Ok(None);
            }
            "repartition" => on!(stream, s => s
                .repartition(&op.id, key_serde(), value_serde(), None)
                .into()),
            "to" => {
                write(op, &Made::Stream(stream.clone()))?;
                return Ok(None);
            }
            "group_by_key" => Made::Group(Rc::new(on!(stream, s => s.group_by_key()))),
            "group_by" => {
                let grouped = Grouped::by(key_serde()).value(value_serde());
                let group = on!(stream, s => s.group_by(move |_, v| group(*v, modulus), grouped));
                Made::Group(Rc::new(group))
            }
            "process" => {
                let counter = Counter::of(op);
                on!(stream, s => s.process(&op.id, (), move |()| counter.clone()).into())
            }
            "to_table" => {
                let rows = on!(stream, s => s.to_table_with_deletes(&store(op)));
                let kept = op.flag("materialized");
                Table::of(rows, kept).into()
            }
            "process_values" => {
                let sums = self
                    .builder
                    .key_value_store(&store(op), key_serde(), int64());
                on!(stream, s => s
                    .process_values(&op.id, sums, |sums| RunningSum { sums })
                    .into())
            }
            other => return Err(unknown("operator of a stream", other)),
        }))
    }

    fn branch(&mut self, op: &Op, stream: &Stream) -> Result<(), Refusal> {
        let branches = op.parameters.get("branches").cloned().unwrap_or_default();
        let branches: Vec<Op> = serde_json::from_value(branches)
            .map_err(|error| Refusal(format!("the branches of {}: {error}", op.id)))?;
        on!(stream, s => {
            let split = s.split();
            for branch in &branches {
                let predicate = Predicate::of(branch);
                let taken = split.branch(move |_, v| predicate.holds(*v));
                self.made.insert(branch.id.clone(), taken.into());
            }
            if op.has("default") {
                let rest = split.default_branch();
                self.made.insert(op.text("default").to_owned(), rest.into());
            }
        });
        Ok(())
    }
}

fn unknown(what: &str, name: &str) -> Refusal {
    Refusal(format!("there is no {what} '{name}'"))
}

fn store(op: &Op) -> String {
    format!("{}-store", op.id)
}

fn ms(op: &Op, name: &str) -> Duration {
    Duration::from_millis(op.number(name, 0).try_into().unwrap_or(0))
}

fn plus_i(value: Number, i: i64) -> Number {
    value.map(|value| value.wrapping_add(i))
}

fn write(op: &Op, made: &Made) -> Result<(), Refusal> {
    let Made::Stream(stream) = made else {
        return Err(Refusal("only streams are written".to_owned()));
    };
    let produced = Produced::new(key_serde(), value_serde());
    match dynamic_topic(op) {
        None => on!(stream, s => s.to_with(op.text("topic"), produced)),
        Some(topic) => on!(stream, s => s.to_dynamic_with(move |r| topic(r.value), produced)),
    }
    Ok(())
}

/// The topic of a value, where it depends on that.
fn dynamic_topic(op: &Op) -> Option<impl Fn(Number) -> String + Send + Sync + use<>> {
    let topic = op.text("topic").to_owned();
    let modulus = op.has("dynamic").then(|| op.number("dynamic", 2))?;
    Some(move |value: Number| match value {
        Some(value) => format!("{topic}-{}", value.rem_euclid(modulus)),
        None => format!("{topic}-null"),
    })
}

/// All topics that the records of `ops` may choose.
pub(crate) fn dynamic_topics(ops: &[Op]) -> BTreeSet<String> {
    let of = |op: &Op| {
        let topic = dynamic_topic(op)?;
        let values = (0..op.number("dynamic", 2)).map(Some).chain([None]);
        Some(values.map(topic).collect::<Vec<_>>())
    };
    ops.iter().filter_map(of).flatten().collect()
}

fn to_stream<K: TableKey>(op: &Op, table: &Table<K>) -> Made {
    let modulus = op.has("mod").then(|| op.number("mod", 2));
    let stream = match &table.versioned {
        Some(table) => table.to_stream(),
        None => table.rows.to_stream(),
    };
    stream
        .select_key(move |key, v| match modulus {
            Some(modulus) => group(*v, modulus),
            None => key.text(),
        })
        .into()
}

fn window(op: &Op) -> (Windows, Emit) {
    let grace = ms(op, "grace");
    let windows = match op.text("kind") {
        "session" => Windows::Session(SessionWindows::gap(ms(op, "gap")).grace(grace)),
        "hopping" => {
            let windows = TimeWindows::hopping(ms(op, "size"), ms(op, "advance"));
            Windows::Time(windows.grace(grace).into())
        }
        "sliding" => Windows::Time(SlidingWindows::of(ms(op, "diff")).grace(grace).into()),
        "unlimited" => Windows::Time(UnlimitedWindows::from(op.number("start", 0)).into()),
        _ => Windows::Time(TimeWindows::tumbling(ms(op, "size")).grace(grace).into()),
    };
    let emit = match op.text("emit") {
        "close" => Emit::Finals,
        _ => Emit::Updates,
    };
    (windows, emit)
}

/// The groups as one; the values of each weigh as much as its number, from 1.
fn cogrouped(first: &KGroupedStream<Key, Number>, others: &[Made]) -> Result<Made, Refusal> {
    let add = |weight: i64| {
        move |_: &Key, value: Number, sum| fold(sum, Some(nz(value).wrapping_mul(weight)))
    };
    let mut groups = first.cogroup(add(1));
    for (weight, other) in (2..).zip(others) {
        let Made::Group(group) = other else {
            return Err(Refusal("only groups can be cogrouped".to_owned()));
        };
        groups = groups.cogroup(group, add(weight));
    }
    Ok(Made::Cogroup(Rc::new(groups)))
}

fn windowed_cogroup(
    op: &Op,
    groups: &CogroupedStream<Key, i64>,
    windows: Windows,
    emit: Emit,
) -> Table<Windowed<Key>> {
    let store = store(op);
    Table::kept(match windows {
        Windows::Time(windows) => {
            let windowed = match emit {
                Emit::Updates => groups.windowed_by(windows),
                Emit::Finals => groups.windowed_by(windows).emit_final(),
            };
            windowed.aggregate(&store, int64(), || 0).table()
        }
        Windows::Session(windows) => {
            let windowed = match emit {
                Emit::Updates => groups.windowed_by_session(windows),
                Emit::Finals => groups.windowed_by_session(windows).emit_final(),
            };
            let merge = |_: &Key, a, b| fold(a, Some(b));
            windowed.aggregate(&store, int64(), || 0, merge).table()
        }
    })
}

fn regrouped<K: TableKey>(op: &Op, table: &Table<K>) -> Made {
    let modulus = op.number("mod", 2);
    let grouped = Grouped::by(key_serde()).value(int64());
    let select = move |_: &K, v: &i64| (group(Some(*v), modulus), *v);
    Made::TableGroup(Rc::new(table.rows.group_by(select, grouped)))
}

fn table_aggregated(op: &Op, group: &KGroupedTable<Key, i64>) -> Result<Table<Key>, Refusal> {
    let store = store(op);
    Ok(Table::kept(match op.op.as_str() {
        "count" => group.count(&store),
        "reduce" => group.reduce(&store, i64::wrapping_add, i64::wrapping_sub),
        "aggregate" => group.aggregate(
            &store,
            int64(),
            || 0,
            |_, v, sum| fold(sum, Some(v)),
            |_, v, sum| unfold(sum, Some(v)),
        ),
        other => return Err(unknown("aggregation", other)),
    }))
}

fn merged(first: &Stream, rest: &[Made]) -> Result<Made, Refusal> {
    let mut merged = first.clone();
    for other in rest {
        let Made::Stream(other) = other else {
            return Err(Refusal("only streams can be merged".to_owned()));
        };
        let both: Made = on!(&merged, a => on!(other, b => a.merge(b).into()));
        if let Made::Stream(both) = both {
            merged = both;
        }
    }
    Ok(Made::Stream(merged))
}

fn aggregated(op: &Op, group: &KGroupedStream<Key, Number>) -> Result<Table<Key>, Refusal> {
    let store = store(op);
    Ok(Table::kept(match op.op.as_str() {
        "count" => group.count(&store),
        // A reduction has values of the stream's type; none is null.
        "reduce" => group.reduce(&store, plus).map_values(|_, v| nz(v)),
        "aggregate" => group.aggregate(&store, int64(), || 0, |_, v, sum| fold(sum, v)),
        other => return Err(unknown("aggregation", other)),
    }))
}

fn windowed_aggregated(
    op: &Op,
    group: &KGroupedStream<Key, Number>,
    windows: Windows,
    emit: Emit,
) -> Result<Table<Windowed<Key>>, Refusal> {
    let store = store(op);
    let windows = match windows {
        Windows::Time(windows) => windows,
        Windows::Session(windows) => return session_aggregated(op, group, windows, emit),
    };
    let windowed = match emit {
        Emit::Updates => group.windowed_by(windows),
        Emit::Finals => group.windowed_by(windows).emit_final(),
    };
    Ok(Table::kept(match op.op.as_str() {
        "count" => windowed.count(&store).table(),
        "reduce" => windowed
            .reduce(&store, plus)
            .table()
            .map_values(|_, v| nz(v))
            .with_value_serde(int64()),
        "aggregate" => windowed
            .aggregate(&store, int64(), || 0, |_, v, sum| fold(sum, v))
            .table(),
        other => return Err(unknown("aggregation", other)),
    }))
}

fn session_aggregated(
    op: &Op,
    group: &KGroupedStream<Key, Number>,
    windows: SessionWindows,
    emit: Emit,
) -> Result<Table<Windowed<Key>>, Refusal> {
    let store = store(op);
    let windowed = match emit {
        Emit::Updates => group.windowed_by_session(windows),
        Emit::Finals => group.windowed_by_session(windows).emit_final(),
    };
    Ok(Table::kept(match op.op.as_str() {
        "count" => windowed.count(&store).table(),
        "reduce" => windowed
            .reduce(&store, plus)
            .table()
            .map_values(|_, v| nz(v))
            .with_value_serde(int64()),
        "aggregate" => windowed
            .aggregate(
                &store,
                int64(),
                || 0,
                |_, v, sum| fold(sum, v),
                |_, a, b| fold(a, Some(b)),
            )
            .table(),
        other => return Err(unknown("aggregation", other)),
    }))
}

fn join_streams(op: &Op, left: &Stream, right: &Stream) -> Result<Made, Refusal> {
    let (before, after) = (op.number("before", 0), op.number("after", 0));
    let windows = JoinWindows::later_by_ms(-before..=after).grace(ms(op, "grace"));
    let name = op.id.as_str();
    on!(left, left => on!(right, right => {
        let joined = match op.op.as_str() {
            "join" => left.join(name, right, windows, |_, l, r| join(l, r)),
            "left_join" => left.left_join(name, right, windows, |_, l, r| join(l, r.flatten())),
            "outer_join" => {
                left.outer_join(name, right, windows, |_, l, r| join(l.flatten(), r.flatten()))
            }
            other => return Err(unknown("join of streams", other)),
        };
        Ok((*joined).clone().into())
    }))
}

fn join_table(op: &Op, left: &Stream, right: &Table<Key>) -> Result<Made, Refusal> {
    let name = op.id.as_str();
    let inner = |_: &Key, l, r| join(l, Some(r));
    let outer = |_: &Key, l, r| join(l, r);
    on!(left, left => Ok(match (op.op.as_str(), &right.versioned, op.has("grace")) {
        (_, None, true) => {
            return Err(Refusal("a grace needs a versioned table".to_owned()));
        }
        ("join", None, false) => left.join_table(name, &right.rows, inner).into(),
        ("left_join", None, false) => left.left_join_table(name, &right.rows, outer).into(),
        ("join", Some(table), false) => left.join_table_as_of(name, table, inner).into(),
        ("left_join", Some(table), false) => left.left_join_table_as_of(name, table, outer).into(),
        ("join", Some(table), true) => {
            let joined = left.join_table_as_of_with_grace(name, table, ms(op, "grace"), inner);
            (*joined).clone().into()
        }
        ("left_join", Some(table), true) => {
            let joined = left.left_join_table_as_of_with_grace(name, table, ms(op, "grace"), outer);
            (*joined).clone().into()
        }
        (other, ..) => return Err(unknown("join with a table", other)),
    }))
}

/// A table with history, and its latest rows.
fn versioned<K: Data>(table: VersionedTable<K, i64>) -> Table<K> {
    Table {
        versioned: Some(table.clone()),
        ..Table::kept(table.latest())
    }
}

fn join_tables(op: &Op, left: &Table<Key>, right: &Table<Key>) -> Result<Table<Key>, Refusal> {
    let (name, left, right) = (op.id.as_str(), &left.rows, &right.rows);
    let joined = match op.op.as_str() {
        "join" => left.join(name, right, |_, l, r| join(Some(l), Some(r))),
        "left_join" => left.left_join(name, right, |_, l, r| join(Some(l), r)),
        "outer_join" => left.outer_join(name, right, |_, l, r| join(l, r)),
        other => return Err(unknown("join of tables", other)),
    };
    Ok(Table::kept(joined.map_values(|_, v| nz(v))))
}

fn join_by_foreign_key(
    op: &Op,
    left: &Table<Key>,
    right: &Table<Key>,
) -> Result<Table<Key>, Refusal> {
    let (modulus, none) = (op.number("mod", 2), op.number("null_rem", -1));
    let foreign_key =
        move |_: &Key, v: &i64| (v.rem_euclid(modulus) != none).then(|| group(Some(*v), modulus));
    let (store, left, right) = (store(op), &left.rows, &right.rows);
    let rows = match op.op.as_str() {
        "fk_join" => left.join_foreign_key(&store, right, int64(), foreign_key, |_, l, r| {
            nz(join(Some(l), Some(r)))
        }),
        "fk_left_join" => {
            left.left_join_foreign_key(&store, right, int64(), foreign_key, |_, l, r| {
                nz(join(Some(l), r))
            })
        }
        other => return Err(unknown("join by a foreign key", other)),
    };
    Ok(Table::of(rows, op.flag("materialized")))
}

/// An operator over one table that makes another.
fn of_table<K: TableKey>(op: &Op, table: &Table<K>) -> Result<Table<K>, Refusal> {
    let (mapper, predicate) = (Mapper::of(op), Predicate::of(op));
    // A store of its own would be one without history.
    if let Some(table) = table
        .versioned
        .as_ref()
        .filter(|_| !op.flag("materialized"))
    {
        return Ok(versioned(match op.op.as_str() {
            "filter" => table.filter(move |_, v| predicate.holds(Some(*v))),
            "filter_not" => table.filter_not(move |_, v| predicate.holds(Some(*v))),
            "map_values" => table.map_values(move |k, v| nz(mapper.apply(&k.text(), Some(v)))),
            other => return Err(unknown("operator of a versioned table", other)),
        }));
    }
    let rows = &table.rows;
    let filtered = |rows: KTable<K, i64>| match table.kept {
        true => rows.with_old_values(),
        false => rows,
    };
    let rows = match op.op.as_str() {
        "filter" => filtered(rows.filter(move |_, v| predicate.holds(Some(*v)))),
        "filter_not" => filtered(rows.filter_not(move |_, v| predicate.holds(Some(*v)))),
        "map_values" => rows.map_values(move |k, v| nz(mapper.apply(&k.text(), Some(v)))),
        "transform_values" => {
            let rows = rows.transform_values(&store(op), (), int64(), move |()| {
                move |k: &K, v, _| {
                    let key = k.text();
                    let length = key.as_deref().map_or(0, length);
                    Ok(mapper
                        .apply(&key, v)
                        .map(|mapped| mapped.wrapping_add(length)))
                }
            });
            return Ok(Table::of(rows, table.kept));
        }
        "suppress" => {
            let full = match op.text("full") {
                "shutdown" => WhenFull::Stop,
                _ => WhenFull::EmitEarly,
            };
            let rows = rows.suppress_until_time_limit(&store(op), ms(op, "ms"), buffer(op, full));
            return Ok(Table::of(rows, false));
        }
        other => return Err(unknown("operator of a table", other)),
    };
    let kept = table.kept || op.flag("materialized");
    Ok(Table::of(rows, kept))
}

fn until_close(op: &Op, table: &Table<Windowed<Key>>) -> Table<Windowed<Key>> {
    let buffer = buffer(op, WhenFull::Stop);
    let rows = table.rows.suppress_until_window_closes(&store(op), buffer);
    Table::of(rows, false)
}

fn buffer(op: &Op, full: WhenFull) -> Buffer {
    if !op.has("max_records") {
        return Buffer::unbounded();
    }
    let max = usize::try_from(op.number("max_records", 0)).unwrap_or(0);
    Buffer::max_records(max, full)
}

fn join_global(op: &Op, left: &Stream, right: &GlobalTable<Key, i64>) -> Result<Made, Refusal> {
    let modulus = op.has("mod").then(|| op.number("mod", 2));
    let select = move |key: &Key, value: &Number| match modulus {
        Some(modulus) => group(*value, modulus),
        None => key.clone(),
    };
    let name = op.id.as_str();
    on!(left, left => Ok(match op.op.as_str() {
        "join" => left.join_global(name, right, select, |_, _, l, r| join(l, Some(r))).into(),
        "left_join" => left.left_join_global(name, right, select, |_, _, l, r| join(l, r)).into(),
        other => return Err(unknown("join with a global table", other)),
    }))
}

/// Counts the records it sees, and forwards how many there were at each punctuation.
#[derive(Clone)]
struct Counter {
    punctuation: Option<Punctuation>,
    forwards: bool,
    seen: i64,
}

impl Counter {
    fn of(op: &Op) -> Self {
        let interval = ms(op, "interval");
        let punctuation = match op.text("punctuate") {
            "wall" => Punctuation::WallClock(interval),
            _ => Punctuation::StreamTime(interval),
        };
        Self {
            punctuation: op.has("interval").then_some(punctuation),
            forwards: op.flag("forward"),
            seen: 0,
        }
    }
}

impl Processor<Key, Number> for Counter {
    type KOut = Key;
    type VOut = Number;

    fn init(&mut self, setup: &mut Setup<'_, '_>) -> Processed {
        if let Some(punctuation) = self.punctuation {
            setup.schedule(punctuation);
        }
        Ok(())
    }

    fn process(
        &mut self,
        record: Record<Key, Number>,
        context: &mut ProcessorContext<'_, '_, Key, Number>,
    ) -> Processed {
        self.seen += 1;
        if self.forwards {
            context.forward(record)?;
        }
        Ok(())
    }

    fn punctuate(
        &mut self,
        punctuated: Punctuated,
        context: &mut ProcessorContext<'_, '_, Key, Number>,
    ) -> Processed {
        let (key, value) = (Some("punct".to_owned()), Some(self.seen));
        context.forward(Record::new(key, value, punctuated.time))
    }
}

/// Replaces each value by the running sum of its key.
struct RunningSum {
    sums: KeyValue<Key, i64>,
}

impl Processor<Key, Number> for RunningSum {
    type KOut = Key;
    type VOut = Number;

    fn process(
        &mut self,
        record: Record<Key, Number>,
        context: &mut ProcessorContext<'_, '_, Key, Number>,
    ) -> Processed {
        let (Some(value), true) = (record.value, record.key.is_some()) else {
            return context.forward(record);
        };
        let before = self.sums.get(&record.key)?.unwrap_or(0);
        let sum = before.wrapping_add(value);
        self.sums.put(&record.key, &sum, record.timestamp)?;
        context.forward(record.with_value(Some(sum)))
    }
}
