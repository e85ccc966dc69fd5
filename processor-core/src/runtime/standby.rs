//! Which tasks an instance keeps warm copies of, for the case that the group gives them to it.
//!
//! Instances are called `<name><ordinal>`, as the pods of a StatefulSet are, and their stream threads are static members
//! `<instance>-<thread>`. The `range` assignor sorts members by name, **as strings**, so `app-10` comes before `app-2`, and
//! gives each a run of partitions in that order. An instance keeps the tasks of the one behind it in that order; the last one
//! keeps those of the one before it.
//!
//! ```text
//!  members        app-0      app-1      app-2            app-2 goes         app-0 goes
//!  own            0 1        2 3        4 5        app-0  0 1 2       app-1  0 1 2   0 and 1 are cold
//!  copies         2 3        4 5        2 3        app-1  3 4 5       app-2  3 4 5   3 is warm
//! ```
//!
//! When an instance goes, those before it take from the one behind them, and those behind it from the one before them. So
//! all moves are warm when the last one goes, and most are not when the first one goes: `docs/standby.md` of the repository
//! has the cases.
//!
//! This is a guess about the group and no more: the assignor does not know of copies. Where it is wrong, a copy is of no
//! use, and a task restores as if there were none. Nothing here does anything: the [tailer](super::tailer) follows the
//! changelogs.

use std::collections::BTreeSet;
use std::ops::Range;

use crate::config::StreamsConfig;
use crate::record::TaskId;
use crate::topology::{StoreId, Topology};

use super::topics::TopicPartitions;

/// Which stores an instance keeps copies of.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum StandbyStores {
    /// All that have a changelog of their own.
    #[default]
    All,
    /// Those with these names.
    Named(BTreeSet<String>),
}

/// Warm copies of stores of another instance's tasks: a restore without an end, which follows the changelogs and writes them
/// to this instance's state directory. When the group gives such a task to this instance, it reads what is left of the
/// changelog since the copy was last written down.
///
/// An instance keeps the tasks of the instance behind it, by the order in which the `range` assignor sorts names (`app-10`
/// comes before `app-2`); the last one keeps those of the one before it. So a copy costs the disk of these stores once more,
/// and the network once more what is written to their changelogs.
///
/// It helps where an instance goes for good and those before it take over. It does nothing for the group: an instance that is
/// away keeps its tasks until its session ends, and where the first instance goes, most tasks move to where no copy is. With
/// `group.protocol=consumer` the broker decides who gets what, and nothing is promised. All instances must have the same
/// number of threads.
///
/// A table that is rebuilt from the topic that it reads has no copies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standby {
    /// How many instances there are, with ordinals from 0.
    pub instances: u32,
    /// Which of their stores are kept.
    pub stores: StandbyStores,
}

impl Standby {
    /// Copies of all stores, among so many instances.
    #[must_use]
    pub fn among(instances: u32) -> Self {
        Self {
            instances,
            stores: StandbyStores::All,
        }
    }

    /// Copies of stores with these names only.
    #[must_use]
    pub fn of(mut self, stores: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.stores = StandbyStores::Named(stores.into_iter().map(Into::into).collect());
        self
    }

    fn includes(&self, store: &str) -> bool {
        match &self.stores {
            StandbyStores::All => true,
            StandbyStores::Named(names) => names.contains(store),
        }
    }
}

/// What is to be kept: tasks, and which of the stores of a task.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Copies {
    pub tasks: BTreeSet<TaskId>,
    pub stores: BTreeSet<StoreId>,
}

impl Copies {
    /// What `config` asks for.
    ///
    /// # Errors
    /// Why it cannot be done, and what to change.
    pub(crate) fn of(
        topology: &Topology,
        config: &StreamsConfig,
        partitions: &TopicPartitions,
    ) -> Result<Self, String> {
        let Some(standby) = &config.standby else {
            return Ok(Self::default());
        };
        let stores = stores_of(topology, standby)?;
        let instance = config.instance.as_deref().unwrap_or_default();
        let (name, ordinal) = split(instance)
            .filter(|(_, ordinal)| *ordinal < standby.instances)
            .ok_or_else(|| {
                format!(
                    "`instance` is '{instance}' and must be a name with an ordinal below {} at its end, such as \
                     '{}-0': copies are kept for the next one",
                    standby.instances, config.application_id
                )
            })?;
        if !config.static_membership {
            return Err(
                "set `static_membership`: who gets which task follows from names only for static members".to_owned(),
            );
        }
        let order = in_order(name, standby.instances);
        let Some(of) = kept_for(&order, ordinal) else {
            return Ok(Self::default());
        };
        let threads = config.threads.max(1);
        let members = of * threads..(of + 1) * threads;
        let mut tasks = BTreeSet::new();
        for (number, subtopology) in topology.subtopologies.iter().enumerate() {
            if !subtopology.stores.iter().any(|id| stores.contains(id)) {
                continue;
            }
            let Some(&source) = subtopology.sources.first() else {
                continue;
            };
            let topic = topology.plan.sources[source]
                .topic
                .resolve(&config.application_id);
            let count = partitions.of(&topic).map_err(|fault| fault.to_string())?;
            let given = partitions_of(count, order.len() * threads, members.clone());
            tasks.extend(given.map(|partition| TaskId {
                subtopology: number,
                partition,
            }));
        }
        Ok(Self { tasks, stores })
    }
}

/// The stores that `standby` asks for and that have changelogs.
fn stores_of(topology: &Topology, standby: &Standby) -> Result<BTreeSet<StoreId>, String> {
    let plan = &topology.plan;
    if let StandbyStores::Named(names) = &standby.stores {
        for name in names {
            let Some(id) = plan.stores.iter().position(|store| store.name == *name) else {
                return Err(format!("there is no store '{name}' in the topology"));
            };
            if plan.read_back.contains_key(&StoreId(id)) {
                return Err(format!(
                    "store '{name}' has no changelog: it is rebuilt from the topic that its table reads, up to where its \
                     task is, which a copy does not know"
                ));
            }
        }
    }
    let ids = (0..plan.stores.len()).map(StoreId);
    let chosen = |id: &StoreId| {
        standby.includes(&plan.stores[id.0].name) && !plan.read_back.contains_key(id)
    };
    Ok(ids.filter(chosen).collect())
}

/// A name and the ordinal at its end.
fn split(instance: &str) -> Option<(&str, u32)> {
    let name = instance.trim_end_matches(|c: char| c.is_ascii_digit());
    let digits = &instance[name.len()..];
    // `app-01` is another member than `app-1`.
    let is_plain = digits == "0" || !digits.starts_with('0');
    let ordinal = digits.parse().ok()?;
    is_plain.then_some((name, ordinal))
}

/// The ordinals of instances in the order of their members.
fn in_order(name: &str, instances: u32) -> Vec<u32> {
    let mut order: Vec<u32> = (0..instances).collect();
    order.sort_by_key(|ordinal| format!("{name}{ordinal}-"));
    order
}

/// The place in `order` of the instance whose tasks `ordinal` keeps.
fn kept_for(order: &[u32], ordinal: u32) -> Option<usize> {
    let own = order.iter().position(|known| *known == ordinal)?;
    match own + 1 < order.len() {
        true => Some(own + 1),
        // Nobody is behind it: when another one goes, it takes from the one before it.
        false => own.checked_sub(1),
    }
}

/// What `range` gives to these of `count` members of which all read a topic of so many partitions: runs in order, of which
/// the first are one longer where the numbers do not divide.
fn partitions_of(partitions: i32, count: usize, members: Range<usize>) -> Range<i32> {
    let partitions = usize::try_from(partitions).unwrap_or(0);
    let (each, longer) = (partitions / count, partitions % count);
    let start = |member: usize| member * each + member.min(longer);
    let number = |place: usize| i32::try_from(place).unwrap_or(i32::MAX);
    number(start(members.start))..number(start(members.end))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use crate::log::embedded::range;

    use super::*;

    /// The members of so many instances, sorted as the group sorts them, with the ordinal of each.
    fn members(instances: u32, threads: usize) -> Vec<(String, u32)> {
        let of = |i| (0..threads).map(move |thread| (format!("app-{i}-{thread}"), i));
        let mut members: Vec<_> = (0..instances).flat_map(of).collect();
        members.sort();
        members
    }

    /// The partitions of each ordinal, as the embedded log gives them.
    fn given(members: &[(String, u32)], partitions: i32) -> BTreeMap<u32, BTreeSet<i32>> {
        let topic: Arc<str> = "in".into();
        let subscriptions = vec![vec![Arc::clone(&topic)]; members.len()];
        let assignment = range(&subscriptions, &BTreeMap::from([(topic, partitions)]));
        let mut given = BTreeMap::<u32, BTreeSet<i32>>::new();
        for ((_, ordinal), partitions) in members.iter().zip(assignment) {
            let numbers = partitions.iter().map(|input| input.partition);
            given.entry(*ordinal).or_default().extend(numbers);
        }
        given
    }

    /// What ordinal `of` keeps copies of.
    fn copies(instances: u32, threads: usize, partitions: i32, of: u32) -> BTreeSet<i32> {
        let order = in_order("app-", instances);
        let Some(next) = kept_for(&order, of) else {
            return BTreeSet::new();
        };
        let members = next * threads..(next + 1) * threads;
        partitions_of(partitions, order.len() * threads, members).collect()
    }

    #[test]
    fn copies_are_what_the_assignor_gives_to_the_next_by_name() {
        for instances in 1..=13 {
            for threads in [1, 2, 3, 12] {
                let members = members(instances, threads);
                let mut order: Vec<u32> = members.iter().map(|(_, ordinal)| *ordinal).collect();
                order.dedup();
                for partitions in [1, 2, 6, 7, 30, 100] {
                    let given = given(&members, partitions);
                    for (place, ordinal) in order.iter().enumerate() {
                        let next = order.get(place + 1);
                        let next = next.or_else(|| order.get(place.wrapping_sub(1)));
                        let expected = next.map(|next| given[next].clone()).unwrap_or_default();
                        let copies = copies(instances, threads, partitions, *ordinal);
                        assert_eq!(
                            copies, expected,
                            "{ordinal} of {instances}, {threads} threads"
                        );
                    }
                }
            }
        }
    }

    /// Tasks that move when an instance goes, and how many of them have a copy where they go.
    fn moves(instances: u32, partitions: i32, gone: u32) -> (usize, usize) {
        let mut left = members(instances, 1);
        let before = given(&left, partitions);
        left.retain(|(_, ordinal)| *ordinal != gone);
        let (mut moved, mut warm) = (0, 0);
        for (ordinal, after) in given(&left, partitions) {
            let copies = copies(instances, 1, partitions, ordinal);
            let new = after.difference(&before[&ordinal]);
            moved += new.clone().count();
            warm += new.filter(|partition| copies.contains(partition)).count();
        }
        (moved, warm)
    }

    #[test]
    fn every_move_is_warm_when_the_last_by_name_goes() {
        for instances in 2..=10 {
            for partitions in 1..60 {
                let (moved, warm) = moves(instances, partitions, instances - 1);
                assert_eq!(
                    moved, warm,
                    "{instances} instances, {partitions} partitions"
                );
            }
        }
        // Of twelve the last by name is 9, and neither 11 nor 10.
        let (moved, warm) = moves(12, 60, 9);
        assert_eq!(moved, warm);
        let (moved, warm) = moves(12, 60, 11);
        assert!(warm < moved, "{warm} of {moved}");
    }

    #[test]
    fn with_two_instances_every_move_is_warm_and_else_few_are_when_the_first_goes() {
        assert_eq!(moves(2, 6, 0), (3, 3));
        assert_eq!(moves(2, 6, 1), (3, 3));
        assert_eq!(moves(3, 6, 0), (3, 1));
        assert_eq!(moves(3, 6, 1), (2, 2));
        assert_eq!(moves(3, 6, 2), (3, 3));
        // 0 takes from 1 and so on up to the one that went, and behind it 4 alone has a copy of what it takes.
        assert_eq!(moves(5, 60, 0), (30, 3));
        assert_eq!(moves(5, 60, 2), (18, 12));
        assert_eq!(moves(5, 60, 4), (30, 30));
    }

    #[test]
    fn an_ordinal_is_what_a_name_ends_in() {
        assert_eq!(split("app-12"), Some(("app-", 12)));
        assert_eq!(split("0"), Some(("", 0)));
        assert_eq!(split("app-10"), Some(("app-", 10)));
        assert_eq!(split("app-01"), None);
        assert_eq!(split("app"), None);
        assert_eq!(split("app-99999999999"), None);
    }
}
