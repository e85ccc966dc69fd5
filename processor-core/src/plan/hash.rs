//! The hash of a plan: see [`TopologyPlan::hash`].

use std::collections::{BTreeMap, BTreeSet};

use xxhash_rust::xxh3::xxh3_64;

use super::{FORMAT, Role, TopologyPlan};

/// The hash that `plan` should carry.
pub(super) fn of(plan: &TopologyPlan) -> String {
    format!("{FORMAT}-{:016x}", xxh3_64(canonical(plan).as_bytes()))
}

/// The lines that are hashed.
fn canonical(plan: &TopologyPlan) -> String {
    let mut lines: Vec<String> = Vec::new();
    if plan.optimized {
        lines.push("optimized".to_owned());
    }
    let mut written: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for node in plan.nodes() {
        match &node.role {
            Role::Source(topic) => {
                let pinned = plan.topic(topic).and_then(|topic| topic.pinned_partitions);
                lines.push(format!("reads {topic} {}", or_star(pinned)));
            }
            Role::Sink(topic) => {
                let parents = node.parents.iter();
                let feeders = parents.flat_map(|parent| feeders(plan, parent));
                written.entry(topic).or_default().extend(feeders);
            }
            Role::DynamicSink => {
                let parents = node.parents.iter();
                let feeders = parents.flat_map(|parent| feeders(plan, parent));
                let feeders = listed(feeders.collect::<BTreeSet<_>>());
                lines.push(format!("writes topics that records of {feeders} choose"));
            }
            Role::Operator(kind) if node.named => {
                let parents = node.parents.iter();
                let feeders = parents.map(|parent| listed(feeders(plan, parent)));
                let feeders: Vec<String> = feeders.collect();
                let mut stores = node.stores.clone();
                stores.sort();
                let mut line = format!(
                    "operator {} is {kind} from {} with {}",
                    node.name,
                    feeders.join(" and "),
                    listed(stores)
                );
                for (name, number) in &node.parameters {
                    line.push_str(&format!(" {name}={number}"));
                }
                lines.push(line);
            }
            Role::Operator(_) => {}
        }
    }
    for (topic, feeders) in written {
        lines.push(format!("writes {topic} from {}", listed(feeders)));
    }
    for store in &plan.stores {
        let part = |format: &Option<String>| format.clone().unwrap_or_else(|| "*".to_owned());
        lines.push(format!(
            "store {} is {} for {} in {} of {}/{}",
            store.name,
            store.kind,
            or_star(store.retention_ms),
            store.changelog.topic,
            part(&store.format.key),
            part(&store.format.value)
        ));
    }
    for global in &plan.global_tables {
        lines.push(format!("global {} of {}", global.name, global.topic));
    }
    lines.sort();
    lines.into_iter().map(|line| line + "\n").collect()
}

/// What comes out of the node `name`: itself if it is a topic or has a name, else what is next above it.
fn feeders(plan: &TopologyPlan, name: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut open = vec![name];
    // A plan that somebody made up may have nodes that feed themselves.
    let mut seen = BTreeSet::new();
    while let Some(node) = open.pop().and_then(|name| plan.node(name)) {
        if !seen.insert(&node.name) {
            continue;
        }
        match &node.role {
            Role::Source(topic) => {
                found.insert(format!("topic {topic}"));
            }
            Role::Operator(_) if node.named => {
                found.insert(node.name.clone());
            }
            _ => open.extend(node.parents.iter().map(String::as_str)),
        }
    }
    found
}

fn or_star(number: Option<impl ToString>) -> String {
    number.map_or_else(|| "*".to_owned(), |number| number.to_string())
}

fn listed(names: impl IntoIterator<Item = String>) -> String {
    let names: Vec<String> = names.into_iter().collect();
    format!("[{}]", names.join(","))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::Topology;
    use crate::dsl::{Consumed, Grouped, JoinWindows, StreamsBuilder, TimeWindows};
    use crate::serde::{int64, utf8};

    use super::*;

    fn topology(describe: impl FnOnce(&StreamsBuilder)) -> Topology {
        let builder = StreamsBuilder::new("under-test");
        describe(&builder);
        builder.build().unwrap()
    }

    fn numbers() -> Consumed<String, i64> {
        Consumed::new(utf8(), int64())
    }

    fn everything(builder: &StreamsBuilder) {
        let clicks = builder.stream("clicks", numbers());
        let users = builder.table("users", "user-table", numbers());
        let rows = builder.global_table("rows", "row-table", numbers());
        let minutes = TimeWindows::tumbling(Duration::from_secs(60)).grace(Duration::ZERO);
        clicks
            .group_by(|_, v| v.to_string(), Grouped::by(utf8()))
            .windowed_by(minutes)
            .count("per-minute")
            .to_stream()
            .to("per-minute");
        let wide = clicks.repartition("wide", utf8(), int64(), Some(7));
        let second = JoinWindows::of(Duration::from_secs(1)).grace(Duration::ZERO);
        clicks
            .join_table("with-user", &users, |_, v, user| v + user)
            .join_global("with-row", &rows, |k, _| k.clone(), |_, _, v, row| v + row)
            .with_serdes(utf8(), int64())
            .to("enriched");
        wide.left_join(
            "later",
            &builder.stream("other", numbers()),
            second,
            |_, l, r| l + r.unwrap_or(0),
        )
        .with_serdes(utf8(), int64())
        .to("joined");
    }

    #[test]
    fn the_canonical_lines_and_their_hash_are_what_they_were() {
        let plan = topology(everything).plan();
        insta::assert_snapshot!(canonical(&plan));
        assert_eq!(plan.hash(), "1-ac88ffac53eb9501");
    }

    #[test]
    fn the_hash_is_that_of_xxh3_over_the_lines() {
        let plan = topology(|b| b.stream("in", numbers()).to("out")).plan();
        assert_eq!(canonical(&plan), "reads in *\nwrites out from [topic in]\n");
        assert_eq!(plan.hash(), "1-e2d56e1f39673e6e");
    }

    #[test]
    fn stateless_operators_and_the_order_of_the_program_do_not_change_the_hash() {
        let plain = topology(|builder| {
            builder.stream("a", numbers()).group_by_key().count("as");
            builder.stream("b", numbers()).group_by_key().count("bs");
        });
        let other = topology(|builder| {
            let b = builder.stream("b", numbers());
            b.filter(|_, v| *v > 0).group_by_key().count("bs");
            let a = builder.stream("a", numbers());
            a.peek(|_, _| {}).group_by_key().count("as");
        });
        assert_eq!(plain.plan().hash(), other.plan().hash());
        assert_ne!(plain.describe(), other.describe());
    }

    #[test]
    fn a_name_a_window_a_pinned_count_and_a_format_each_change_the_hash() {
        let with = |name: &str, size: u64, partitions: i32| {
            topology(|builder| {
                let windows = TimeWindows::tumbling(Duration::from_secs(size));
                builder
                    .stream("in", numbers())
                    .repartition("wide", utf8(), int64(), Some(partitions))
                    .group_by_key()
                    .windowed_by(windows.grace(Duration::ZERO))
                    .count(name);
            })
            .plan()
            .hash
        };
        let hashes = [
            with("counts", 60, 4),
            with("count", 60, 4),
            with("counts", 61, 4),
            with("counts", 60, 5),
        ];
        let distinct: BTreeSet<&String> = hashes.iter().collect();
        assert_eq!(distinct.len(), hashes.len(), "{hashes:?}");
        let of_serdes = |text: bool| {
            topology(|builder| {
                match text {
                    true => drop(builder.table("in", "rows", Consumed::new(utf8(), utf8()))),
                    false => drop(builder.table("in", "rows", numbers())),
                };
            })
            .plan()
            .hash
        };
        assert_ne!(of_serdes(true), of_serdes(false));
    }

    #[test]
    fn a_plan_whose_nodes_feed_themselves_has_a_hash() {
        let mut plan = topology(|builder| {
            builder
                .stream("in", numbers())
                .filter(|_, _| true)
                .to("out");
        })
        .plan();
        for node in plan
            .sub_topologies
            .iter_mut()
            .flat_map(|part| &mut part.nodes)
        {
            node.parents.push(node.name.clone());
        }
        assert!(of(&plan).starts_with("1-"));
    }

    #[test]
    fn a_plan_that_names_what_it_does_not_have_is_refused_though_its_hash_is_right() {
        let whole = topology(everything).plan();
        let refusal = |mut plan: TopologyPlan| {
            plan.hash = of(&plan);
            TopologyPlan::from_json(&plan.to_json())
                .unwrap_err()
                .to_string()
        };
        let mut plan = whole.clone();
        plan.topics.retain(|topic| topic.name != "clicks");
        let error = refusal(plan);
        assert!(
            error.contains("the plan names topic clicks, which it does not have"),
            "{error}"
        );
        let mut plan = whole;
        plan.stores.retain(|store| store.name != "per-minute");
        let error = refusal(plan);
        assert!(error.contains("the plan names store per-minute"), "{error}");
    }
}
