//! Whether what is left on disks is what changelogs say.
//!
//! **Claim.** Whoever comes next sees the same rows whichever disk it has: one that an instance left behind, be it long ago,
//! or an empty one. A real stream thread starts on a copy of each disk after the last instance has left: it wipes what a
//! start wipes, replays committed changelogs from the markers on, and its operators hide what has expired by the committed
//! times. What all stores of its tasks show then is compared, row by row with values and timestamps, with what they show
//! after a start on an empty disk. And no marker vouches for more than its changelog has: a store is never ahead of the log.
//!
//! So expired rows that one disk has dropped and another has not are no difference, nor is a store whose marker was lost or
//! torn. Tables that are rebuilt from their topics are compared as well, as of the committed offset.
//!
//! **Not compared.** Applications that run at least once: two owners may write to a changelog at the same time, and the
//! disk of the one knows nothing of the other's rows. Global tables, which are in memory. The order in time of expiring
//! stores, of which no changelog tells what was swept. Of versioned tables and join buffers, which can be read by key only,
//! keys that no transaction ever sent to the changelog, be it one that was aborted.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;
use std::time::Duration;

use state::{Direction, MemoryDatabase, Stamped};

use crate::clock::Clock as _;
use crate::config::StreamsConfig;
use crate::error::Result;
use crate::log::{ConsumerConfig, Isolation, Log as _, LogError, Offset, Polled, TopicPartition};
use crate::processor::StoreCell;
use crate::record::TaskId;
use crate::runtime::{Pace, Streams, StreamsError, changelog_of};
use crate::topology::{StoreId, Topology};

use super::disk::{Contents, database_of, markers_of};
use super::world::{WallClock, World};

/// Rounds within which a thread that has nothing to process has all of its tasks.
const MOST_ROUNDS: u64 = 20_000;

/// A disk as an instance left it.
pub(super) struct Left {
    pub instance: usize,
    /// When, for the report.
    pub step: u64,
    pub contents: Contents,
}

/// A store of a task.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    task: TaskId,
    store: StoreId,
    name: String,
    changelog: TopicPartition,
}

/// What a store shows: by key and place in time, value and timestamp.
type Shown = BTreeMap<String, String>;

/// See the [module](self). All have left, all transactions are decided, and the group has forgotten the dead.
///
/// # Errors
/// The first store and row that differ, and on which disk.
pub(super) fn check(
    topology: &Topology,
    config: &StreamsConfig,
    world: &World,
    disks: &[Left],
) -> Result<(), String> {
    let cannot = |error: &dyn std::fmt::Display| format!("stores cannot be read: {error}");
    let stores = Stores {
        topology,
        config,
        world,
    };
    let places = stores.places().map_err(|error| cannot(&error))?;
    let keys = stores.keys(&places).map_err(|error| cannot(&error))?;
    let show = |database| stores.shown(database, &places, &keys);
    let replayed = show(MemoryDatabase::default()).map_err(|error| cannot(&error))?;
    let mut seen: Vec<&Contents> = Vec::new();
    for disk in disks {
        if seen.contains(&&disk.contents) {
            continue;
        }
        seen.push(&disk.contents);
        let on_disk = format!(
            "on the disk of instance {}, step {}",
            disk.instance, disk.step
        );
        stores
            .no_marker_is_ahead(disk, &places)
            .map_err(|why| format!("{why} {on_disk}"))?;
        let shown = show(database_of(&disk.contents))
            .map_err(|error| format!("stores cannot be opened {on_disk}: {error}"))?;
        for place in &places {
            if let Some(differs) = first_difference(&shown[place], &replayed[place]) {
                let Place { task, name, .. } = place;
                return Err(format!(
                    "store '{name}' of task {task} {on_disk} is not what its changelog says; the first row that \
                     differs: {differs}"
                ));
            }
        }
    }
    Ok(())
}

fn first_difference(shown: &Shown, replayed: &Shown) -> Option<String> {
    let keys: BTreeSet<&String> = shown.keys().chain(replayed.keys()).collect();
    let key = keys
        .into_iter()
        .find(|key| shown.get(*key) != replayed.get(*key))?;
    let value = |of: &Shown| of.get(key).cloned().unwrap_or_else(|| "nothing".to_owned());
    Some(format!(
        "{key} is {}, and {} when replayed",
        value(shown),
        value(replayed)
    ))
}

struct Stores<'a> {
    topology: &'a Topology,
    config: &'a StreamsConfig,
    world: &'a World,
}

impl Stores<'_> {
    /// All stores of all tasks.
    fn places(&self) -> Result<Vec<Place>, LogError> {
        let mut places = Vec::new();
        for (subtopology, part) in self.topology.subtopologies.iter().enumerate() {
            for &store in &part.stores {
                let plan = &self.topology.plan;
                let topic = changelog_of(plan, &self.config.application_id, store);
                for partition in 0..self.world.log.partitions(&topic)?.unwrap_or(0) {
                    places.push(Place {
                        task: TaskId {
                            subtopology,
                            partition,
                        },
                        store,
                        name: plan.stores[store.0].name.clone(),
                        changelog: TopicPartition::new(topic.as_str(), partition),
                    });
                }
            }
        }
        Ok(places)
    }

    /// The keys of each changelog, of whatever transactions.
    fn keys(&self, places: &[Place]) -> Result<BTreeMap<Place, BTreeSet<Vec<u8>>>, LogError> {
        let mut keys = BTreeMap::new();
        let mut consumer = self.world.log.consumer(ConsumerConfig {
            isolation: Isolation::ReadUncommitted,
            ..ConsumerConfig::default()
        })?;
        for place in places {
            let changelog = &place.changelog;
            let of_place: &mut BTreeSet<Vec<u8>> = keys.entry(place.clone()).or_default();
            let end = consumer.end_offset(changelog, Isolation::ReadUncommitted, Duration::ZERO)?;
            consumer.assign(&[(changelog.clone(), Some(0))])?;
            while consumer.position(changelog)?.unwrap_or(0) < end {
                if let Polled::Records(batches) = consumer.poll(Duration::ZERO)? {
                    let records = batches.into_iter().flat_map(|batch| batch.records);
                    of_place.extend(records.filter_map(|record| Some(record.key?.to_vec())));
                }
            }
            consumer.release(std::slice::from_ref(changelog))?;
        }
        Ok(keys)
    }

    fn no_marker_is_ahead(&self, disk: &Left, places: &[Place]) -> Result<(), String> {
        let consumer = self.world.log.consumer(ConsumerConfig::default());
        let end_of = |changelog: &TopicPartition| -> Result<Offset, LogError> {
            let consumer = consumer.as_deref().map_err(Clone::clone)?;
            consumer.end_offset(changelog, Isolation::ReadUncommitted, Duration::ZERO)
        };
        let markers = markers_of(&disk.contents);
        for place in places {
            let on_disk = format!("{}/{}", place.name, place.task.partition);
            let marker = markers.get(&on_disk);
            let Some(&offset) = marker.and_then(|marker| marker.changelog_offsets.get(&place.name))
            else {
                continue;
            };
            let end = end_of(&place.changelog).map_err(|error| error.to_string())?;
            if offset > end {
                let Place {
                    task,
                    name,
                    changelog,
                    ..
                } = place;
                return Err(format!(
                    "store '{name}' of task {task} is marked to be at offset {offset} of {changelog}, which ends at {end},"
                ));
            }
        }
        Ok(())
    }

    /// What all stores show after a start on `database`.
    fn shown(
        &self,
        database: MemoryDatabase,
        places: &[Place],
        keys: &BTreeMap<Place, BTreeSet<Vec<u8>>>,
    ) -> Result<BTreeMap<Place, Shown>, StreamsError> {
        let config = StreamsConfig {
            instance: Some("afterwards".to_owned()),
            static_membership: false,
            standby: None,
            ..self.config.clone()
        };
        // Nothing is to be due for it that is not due for the others.
        let clock = WallClock::at(self.world.clock.now_ms());
        let mut streams = Streams::on(
            self.topology.clone(),
            config,
            Arc::new(self.world.log.clone()),
            Arc::new(clock),
            Arc::new(database),
        )?;
        let thread = streams.inline()?;
        let mut rounds = 0;
        while places
            .iter()
            .any(|place| thread.store(place.store, place.task.partition).is_none())
        {
            thread.round(Duration::ZERO, Pace::Interval)?;
            rounds += 1;
            if rounds > MOST_ROUNDS {
                return Err(LogError::fatal("not all tasks are restored in the end").into());
            }
        }
        let mut shown = BTreeMap::new();
        for place in places {
            let store = thread.store(place.store, place.task.partition);
            let rows = rows(store.expect("it is there now"), &keys[place])?;
            shown.insert(place.clone(), rows);
        }
        Ok(shown)
    }
}

/// All that `store` shows. Of a store that can only be read by key, these of its changelog are asked for.
fn rows(store: &StoreCell, changelog_keys: &BTreeSet<Vec<u8>>) -> Result<Shown> {
    let mut shown = Shown::new();
    let mut show = |key: String, value: String| {
        shown.insert(key, value);
        ControlFlow::Continue(())
    };
    let (from, to) = (i64::MIN, i64::MAX);
    match store {
        StoreCell::KeyValue(store) => {
            let mut visit = |key: &[u8], row: Stamped| show(text(key), stamped(&row));
            let all = (Bound::Unbounded, Bound::Unbounded);
            store
                .borrow()
                .scan(all.0, all.1, Direction::Forward, &mut visit)?;
        }
        StoreCell::Versioned(store) => {
            for key in changelog_keys {
                let store = store.borrow();
                if let Some(latest) = store.latest(key)? {
                    let _ = show(format!("{} now", text(key)), stamped(&latest));
                }
                store.versions(key, &mut |time, value| {
                    show(
                        format!("{} from {time} on", text(key)),
                        value.map_or("nothing".to_owned(), text),
                    )
                })?;
            }
        }
        StoreCell::Window(store) => {
            let mut visit = |key: &[u8], start: i64, row: Stamped| {
                show(format!("{} from {start} on", text(key)), stamped(&row))
            };
            store.borrow().fetch_all(from, to, &mut visit)?;
        }
        StoreCell::Session(store) => {
            let mut visit = |key: &[u8], start: i64, end: i64, row: Stamped| {
                show(
                    format!("{} from {start} to {end}", text(key)),
                    stamped(&row),
                )
            };
            store.borrow().find_all(from, to, &mut visit)?;
        }
        StoreCell::Join(store) => {
            // Behind the key are the time and the sequence of an entry.
            let keys = changelog_keys
                .iter()
                .filter_map(|key| Some(&key[..key.len().checked_sub(12)?]));
            for key in keys.collect::<BTreeSet<_>>() {
                store
                    .borrow()
                    .fetch(key, from, to, &mut |time, sequence, value| {
                        show(format!("{} at {time}, {sequence}", text(key)), text(value))
                    })?;
            }
        }
    }
    Ok(shown)
}

fn stamped(row: &Stamped) -> String {
    format!("{} at {}", text(&row.value), row.timestamp)
}

fn text(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}
