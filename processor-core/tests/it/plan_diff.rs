//! What a change of a topology means for its state and its records under way.

use std::time::Duration;

use processor_core::dsl::{
    Consumed, Grouped, JoinWindows, Partitioned, SessionWindows, StreamsBuilder, TimeWindows,
};
use processor_core::plan::TopologyPlan;
use processor_core::plan::diff::{PlanDiff, Rollout, Subject, Verdict, compare};
use processor_core::serde::{int64, json, utf8};

use crate::support::driver::{numbers, topology};

type Describe = fn(&StreamsBuilder);
type Expected<'a> = &'a [(&'a str, Verdict, Rollout)];

use Rollout::{Rolling, StopAll};
use Verdict::{Drain, Forbidden, Reset, Safe};

fn plan(describe: Describe) -> TopologyPlan {
    topology(describe).plan()
}

fn diff(old: Describe, new: Describe) -> PlanDiff {
    compare(&plan(old), &plan(new))
}

fn found(diff: &PlanDiff) -> Vec<(String, Verdict, Rollout)> {
    let changes = diff.changes.iter();
    changes
        .map(|change| (change.subject.to_string(), change.verdict, change.rollout))
        .collect()
}

fn check(what: &str, diff: &PlanDiff, expected: Expected<'_>) {
    let expected: Vec<_> = expected
        .iter()
        .map(|(subject, verdict, rollout)| ((*subject).to_owned(), *verdict, *rollout))
        .collect();
    assert_eq!(found(diff), expected, "{what}: {diff}");
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn windowed(builder: &StreamsBuilder, size: u64, grace: u64) {
    let windows = TimeWindows::tumbling(seconds(size)).grace(seconds(grace));
    let grouped = builder.stream("in", numbers()).group_by_key();
    grouped.windowed_by(windows).count("counts");
}

fn counted(builder: &StreamsBuilder) {
    builder
        .stream("in", numbers())
        .group_by_key()
        .count("counts");
}

fn regrouped(builder: &StreamsBuilder) {
    let by_value = |_: &String, v: &i64| v.to_string();
    let grouped = builder
        .stream("in", numbers())
        .group_by(by_value, Grouped::by(utf8()));
    grouped.count("counts").to_stream().to("out");
}

fn pinned(builder: &StreamsBuilder, partitions: Option<i32>) {
    let wide = builder
        .stream("in", numbers())
        .repartition("wide", utf8(), int64(), partitions);
    wide.group_by_key().count("counts");
}

fn joined(builder: &StreamsBuilder, swapped: bool, after: u64) {
    let (left, right) = (
        builder.stream("a", numbers()),
        builder.stream("b", numbers()),
    );
    let windows = JoinWindows::between(Duration::ZERO, seconds(after)).grace(Duration::ZERO);
    let (left, right) = if swapped {
        (right, left)
    } else {
        (left, right)
    };
    left.join("join", &right, windows, |_, l, r| l + r);
}

#[test]
fn each_change_has_its_verdict() {
    let cases: &[(&str, Describe, Describe, Expected<'_>)] = &[
        ("nothing", counted, counted, &[]),
        (
            "a stateless operator and an output",
            counted,
            |b| {
                let stream = b.stream("in", numbers()).filter(|_, v| *v > 0);
                stream.to("out");
                stream.group_by_key().count("counts");
            },
            &[("topic 'out'", Safe, Rolling)],
        ),
        (
            "another name",
            counted,
            |b| drop(b.stream("in", numbers()).group_by_key().count("totals")),
            &[
                ("store 'counts'", Safe, StopAll),
                ("store 'totals'", Safe, StopAll),
            ],
        ),
        (
            "another kind of store",
            counted,
            |b| windowed(b, 60, 0),
            &[("store 'counts'", Reset, StopAll)],
        ),
        (
            "another kind of operator",
            counted,
            |b| drop(b.table("in", "counts", numbers())),
            &[("store 'counts'", Reset, StopAll)],
        ),
        (
            "another format of values",
            counted,
            |b| {
                let grouped = b.stream("in", numbers()).group_by_key();
                grouped.aggregate("counts", json::<i64>(), || 0, |_, _, n| n + 1);
            },
            &[("store 'counts'", Reset, StopAll)],
        ),
        (
            "another size of windows, though as much is kept",
            |b| windowed(b, 60, 30),
            |b| windowed(b, 30, 60),
            &[("store 'counts'", Reset, StopAll)],
        ),
        (
            "another gap of sessions",
            |b| {
                let sessions = SessionWindows::gap(seconds(5)).grace(seconds(5));
                let grouped = b.stream("in", numbers()).group_by_key();
                grouped.windowed_by_session(sessions).count("counts");
            },
            |b| {
                let sessions = SessionWindows::gap(seconds(6)).grace(seconds(4));
                let grouped = b.stream("in", numbers()).group_by_key();
                grouped.windowed_by_session(sessions).count("counts");
            },
            &[("store 'counts'", Reset, StopAll)],
        ),
        (
            "less grace",
            |b| windowed(b, 60, 30),
            |b| windowed(b, 60, 10),
            &[("store 'counts'", Safe, Rolling)],
        ),
        (
            "more grace, which the changelog has rows for",
            |b| windowed(b, 60, 30),
            |b| windowed(b, 60, 3_600),
            &[("store 'counts'", Safe, Rolling)],
        ),
        (
            "more grace than the changelog has rows for",
            |b| windowed(b, 60, 30),
            |b| windowed(b, 60, 48 * 3_600),
            &[("store 'counts'", Reset, StopAll)],
        ),
        (
            "a wider join",
            |b| joined(b, false, 5),
            |b| joined(b, false, 7),
            &[
                ("store 'join-other'", Safe, Rolling),
                ("store 'join-this'", Safe, Rolling),
            ],
        ),
        (
            "a join the other way round",
            |b| joined(b, false, 5),
            |b| joined(b, true, 5),
            &[
                ("store 'join-other'", Reset, StopAll),
                ("store 'join-this'", Reset, StopAll),
            ],
        ),
        (
            "a key that is made by an operator now",
            |b| {
                let table = b.stream("in", numbers()).group_by_key().count("counts");
                table.to_stream().to("out");
            },
            regrouped,
            &[
                ("store 'counts'", Reset, StopAll),
                ("topic '<application>-counts-repartition'", Safe, StopAll),
            ],
        ),
        (
            "an input that is another topic, of unknown width",
            counted,
            |b| drop(b.stream("in-2", numbers()).group_by_key().count("counts")),
            &[
                ("store 'counts'", Reset, StopAll),
                ("topic 'in'", Safe, StopAll),
                ("topic 'in-2'", Safe, StopAll),
            ],
        ),
        (
            "one more input",
            counted,
            |b| {
                let both = b
                    .stream("in", numbers())
                    .merge(&b.stream("more", numbers()));
                both.group_by_key().count("counts");
            },
            &[
                ("store 'counts'", Safe, StopAll),
                ("topic 'more'", Safe, StopAll),
            ],
        ),
        (
            "a repartition that falls away, and its results do not",
            regrouped,
            |b| {
                counted(b);
                b.stream("other", numbers()).to("out");
            },
            &[
                ("store 'counts'", Reset, StopAll),
                ("topic '<application>-counts-repartition'", Drain, StopAll),
                ("topic 'other'", Safe, StopAll),
            ],
        ),
        (
            "a repartition that goes with all behind it",
            regrouped,
            |b| b.stream("in", numbers()).to("elsewhere"),
            &[
                ("store 'counts'", Safe, StopAll),
                ("topic '<application>-counts-repartition'", Safe, StopAll),
                ("topic 'elsewhere'", Safe, Rolling),
                ("topic 'out'", Safe, Rolling),
            ],
        ),
        (
            "another pinned number of partitions",
            |b| pinned(b, Some(4)),
            |b| pinned(b, Some(8)),
            &[
                ("topic '<application>-wide-repartition'", Forbidden, StopAll),
                ("store 'counts'", Reset, StopAll),
            ],
        ),
        (
            "a number of partitions that is pinned now",
            |b| pinned(b, None),
            |b| pinned(b, Some(8)),
            &[("topic '<application>-wide-repartition'", Forbidden, StopAll)],
        ),
        (
            "a number of partitions that is pinned no more: the topic has it",
            |b| pinned(b, Some(4)),
            |b| pinned(b, None),
            &[],
        ),
        (
            "another format under way",
            |b| pinned(b, None),
            |b| {
                let stream = b.stream("in", Consumed::new(utf8(), json::<i64>()));
                let wide = stream.repartition("wide", utf8(), json::<i64>(), None);
                wide.group_by_key().count("counts");
            },
            &[("topic '<application>-wide-repartition'", Drain, StopAll)],
        ),
        (
            "two sub-topologies that become one",
            |b| {
                b.stream("a", numbers()).group_by_key().count("as");
                b.stream("b", numbers()).group_by_key().count("bs");
            },
            |b| {
                let (a, other) = (b.stream("a", numbers()), b.stream("b", numbers()));
                let bs = other.group_by_key().count("bs");
                a.group_by_key().count("as");
                a.join_table("with-bs", &bs, |_, a, b| a + b)
                    .with_serdes(utf8(), int64())
                    .to("out");
            },
            &[
                ("topic 'out'", Safe, Rolling),
                ("operator 'with-bs'", Safe, Rolling),
                ("tasks", Safe, StopAll),
            ],
        ),
        (
            "a store that belongs to another operator",
            |b| processed(b, "first"),
            |b| processed(b, "second"),
            &[("store 'seen'", Safe, StopAll)],
        ),
        (
            "a global table from another topic",
            |b| global(b, "rows"),
            |b| global(b, "rows-2"),
            &[("global table 'rows'", Safe, Rolling)],
        ),
    ];
    for (what, old, new, expected) in cases {
        check(what, &diff(*old, *new), expected);
    }
}

struct Forget;

impl processor_core::processor::Processor<String, i64> for Forget {
    type KOut = String;
    type VOut = i64;

    fn process(
        &mut self,
        _: processor_core::Record<String, i64>,
        _: &mut processor_core::processor::ProcessorContext<'_, '_, String, i64>,
    ) -> processor_core::error::Result {
        Ok(())
    }
}

fn processed(builder: &StreamsBuilder, name: &str) {
    let seen = builder.key_value_store("seen", utf8(), int64());
    builder
        .stream("in", numbers())
        .process(name, seen, |_| Forget);
}

fn global(builder: &StreamsBuilder, topic: &str) {
    let rows = builder.global_table(topic, "rows", numbers());
    let stream = builder.stream::<_, _>("in", numbers());
    let joined: processor_core::dsl::KStream<String, i64, Partitioned> =
        stream.join_global("with-row", &rows, |k, _| k.clone(), |_, _, v, row| v + row);
    joined.with_serdes(utf8(), int64()).to("out");
}

fn on_a_log(mut plan: TopologyPlan, partitions: &[(&str, i32)]) -> TopologyPlan {
    for topic in &mut plan.topics {
        let known = partitions.iter().find(|(name, _)| *name == topic.name);
        topic.partitions = known.map(|(_, partitions)| *partitions);
    }
    plan
}

#[test]
fn known_partition_counts_settle_what_a_plan_alone_cannot() {
    let counts = |topic: &'static str, partitions: i32| {
        let builder = StreamsBuilder::new("under-test");
        builder
            .stream(topic, numbers())
            .group_by_key()
            .count("counts");
        on_a_log(builder.build().unwrap().plan(), &[(topic, partitions)])
    };
    let verdict = |old: &TopologyPlan, new: &TopologyPlan| {
        let diff = compare(old, new);
        diff.changes.into_iter().map(|change| change.verdict).max()
    };
    assert_eq!(verdict(&counts("in", 4), &counts("in", 4)), None);
    assert_eq!(verdict(&counts("in", 4), &counts("in", 8)), Some(Reset));
    assert_eq!(verdict(&counts("in", 8), &counts("in", 4)), Some(Forbidden));
    assert_eq!(verdict(&counts("in", 4), &counts("in-2", 4)), Some(Safe));
    assert_eq!(verdict(&counts("in", 4), &counts("in-2", 8)), Some(Reset));
    let join = |swapped| {
        let builder = StreamsBuilder::new("under-test");
        joined(&builder, swapped, 5);
        on_a_log(builder.build().unwrap().plan(), &[("a", 4), ("b", 4)])
    };
    assert_eq!(verdict(&join(false), &join(true)), Some(Reset));
    let wide = |wish: Option<i32>, has: i32| {
        let builder = StreamsBuilder::new("under-test");
        pinned(&builder, wish);
        let topics = [("<application>-wide-repartition", has), ("in", 4)];
        on_a_log(builder.build().unwrap().plan(), &topics)
    };
    assert_eq!(verdict(&wide(None, 4), &wide(Some(4), 4)), None);
    assert_eq!(verdict(&wide(None, 4), &wide(Some(8), 8)), Some(Forbidden));
}

#[test]
fn no_change_is_unsafe_where_a_plan_is_compared_with_itself() {
    let everything = crate::topology::everything().plan();
    let diff = compare(&everything, &everything);
    assert!(diff.changes.is_empty() && diff.is_safe());
    assert_eq!(diff.rollout(), Rolling);
    insta::assert_snapshot!(diff);
}

#[test]
fn a_diff_reads_as_a_list_of_what_to_do() {
    let old = |builder: &StreamsBuilder| {
        regrouped(builder);
        windowed_of(builder, "clicks", 60);
    };
    let new = |builder: &StreamsBuilder| {
        counted(builder);
        builder.stream("more", numbers()).to("out");
        windowed_of(builder, "clicks", 30);
    };
    insta::assert_snapshot!(diff(old, new));
}

#[test]
fn a_safe_diff_says_how_it_is_rolled_out() {
    let stop_all = diff(counted, |builder| {
        counted(builder);
        windowed_of(builder, "clicks", 60);
    });
    insta::assert_snapshot!(stop_all);
    let rolling = diff(|b| windowed(b, 60, 30), |b| windowed(b, 60, 40));
    insta::assert_snapshot!(rolling);
}

fn windowed_of(builder: &StreamsBuilder, topic: &str, size: u64) {
    let windows = TimeWindows::tumbling(seconds(size)).grace(Duration::ZERO);
    let grouped = builder.stream(topic, numbers()).group_by_key();
    grouped.windowed_by(windows).count("clicks-per-window");
}

#[test]
fn the_subjects_of_changes_are_told_apart() {
    let store = Subject::Store("x".to_owned());
    let operator = Subject::Operator("x".to_owned());
    assert_ne!(store, operator);
    assert_eq!(store.to_string(), "store 'x'");
}
