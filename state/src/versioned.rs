//! The history of each key: what its value was at any time, for as long as the owner says.
//!
//! A version is a value, or its absence, from its timestamp on until that of the next version. Below the horizon,
//! history is over, exactly and in every backend: no version can be put there, and of what was in force before it only
//! the latest version of a key is still found. At the horizon and later everything is found, whatever its age: a version
//! that came long ago and was never replaced is in force.
//!
//! In the changelog a version is a record with the key, the value and the timestamp. One that came late is followed by
//! the version that ends it, so that replaying a part of the changelog brings nothing back that is over, and by the
//! latest version of its key, so that compaction, which keeps the last record of each key, keeps that one.
//!
//! Locally a row is `length of the key (4) ‖ key ‖ timestamp (8)` → `0` for a deletion, or `1 ‖ value` (`keys.rs`). Rows
//! that nobody can see any more are swept out bit by bit while the store is applied.

use std::cell::Cell;
use std::cmp::Reverse;
use std::ops::{Bound, ControlFlow};

use bytes::Bytes;

use crate::arena::Arena;
use crate::keys::{Slot, from_ordered, ordered};
use crate::overlay::{Entry, Generations, Horizon, Layers, Table};
use crate::store::{Batch, MAX_BATCH, VisitVersion};
use crate::timeline::Timeline;
use crate::{Change, Direction, Stamped, StateError, Store, Tree};

/// Rows looked at for each row that is written, while what nobody sees is swept out. With one, garbage would grow as
/// fast as it is found.
const SWEEP_FACTOR: usize = 4;

/// A version: its timestamp, and its value unless it is a deletion.
type Version = (i64, Option<Bytes>);

/// What became of a version that was put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Put {
    /// It is below the horizon, and was not put.
    Expired,
    /// There is a later version.
    Superseded,
    /// It is the latest one now; this was the value before, if there was any.
    Latest(Option<Stamped>),
}

/// A versioned store.
pub struct VersionedStore {
    name: String,
    tree: Box<dyn Tree>,
    generations: Generations<Timeline>,
    horizon: Horizon,
    /// No row has a greater timestamp.
    stored_up_to: i64,
    /// Settled keys still to be applied in this round, descending.
    round: Vec<Bytes>,
    sweep: Sweep,
    arena: Arena,
    scratch: Cell<Vec<u8>>,
}

/// How far the sweep has come.
#[derive(Debug)]
struct Sweep {
    /// Where it goes on, and which horizon it sweeps below.
    under_way: Option<(Vec<u8>, i64)>,
    /// Horizon of the last complete one.
    done: i64,
}

impl VersionedStore {
    /// A store over what `tree` holds.
    ///
    /// # Errors
    /// Whatever the backend reports.
    pub fn open(name: &str, tree: Box<dyn Tree>) -> Result<Self, StateError> {
        let mut stored_up_to = i64::MIN;
        let all = (Bound::Unbounded, Bound::Unbounded);
        tree.scan(all.0, all.1, Direction::Forward, &mut |_, _| {
            // Not known, so any.
            stored_up_to = i64::MAX;
            ControlFlow::Break(())
        })?;
        Ok(Self {
            name: name.to_owned(),
            tree,
            generations: Generations::default(),
            horizon: Horizon::default(),
            stored_up_to,
            round: Vec::new(),
            sweep: Sweep {
                under_way: None,
                done: i64::MIN,
            },
            arena: Arena::default(),
            scratch: Cell::default(),
        })
    }

    /// The value of a key after its latest version.
    ///
    /// # Errors
    /// Whatever the backend reports.
    pub fn latest(&self, key: &[u8]) -> Result<Option<Stamped>, StateError> {
        Ok(self.newest(key, i64::MAX)?.and_then(stamped))
    }

    /// The value of a key at a time: that of the newest version up to it. Before the horizon there is only the latest.
    ///
    /// # Errors
    /// Whatever the backend reports.
    pub fn as_of(&self, key: &[u8], at: i64) -> Result<Option<Stamped>, StateError> {
        let version = if at < self.horizon.open {
            let latest = self.newest(key, i64::MAX)?;
            latest.filter(|(timestamp, _)| *timestamp <= at)
        } else {
            self.newest(key, at)?
        };
        Ok(version.and_then(stamped))
    }

    /// Puts a version; no value says that there is none from `timestamp` on. One at the same time is replaced.
    ///
    /// # Errors
    /// Whatever the backend reports.
    pub fn put(
        &mut self,
        key: &[u8],
        value: Option<&[u8]>,
        timestamp: i64,
    ) -> Result<Put, StateError> {
        if timestamp < self.horizon.open {
            return Ok(Put::Expired);
        }
        let before = self.newest(key, i64::MAX)?;
        let value = value.map(|value| self.arena.copy(value));
        let entry = Entry { timestamp, value };
        let place = slot(timestamp);
        self.generations
            .open
            .put(key, place, entry, &mut self.arena);
        Ok(match before {
            Some((latest, _)) if latest > timestamp => Put::Superseded,
            before => Put::Latest(before.and_then(stamped)),
        })
    }

    /// Visits the versions of a key that are in force at some time from the horizon on, in order of time. Deletions are
    /// visited where there was a value before.
    ///
    /// # Errors
    /// Whatever the backend reports.
    pub fn versions(&self, key: &[u8], visit: VisitVersion<'_>) -> Result<(), StateError> {
        let in_force = self.newest(key, self.horizon.open)?;
        let mut has_value = false;
        let from = in_force.map_or(self.horizon.open, |(timestamp, _)| timestamp);
        self.walk(key, from, &mut |timestamp, value| {
            let had_value = std::mem::replace(&mut has_value, value.is_some());
            if had_value || value.is_some() {
                visit(timestamp, value)
            } else {
                ControlFlow::Continue(())
            }
        })
    }

    /// Visits all versions of a key from a time on.
    fn walk(&self, key: &[u8], from: i64, visit: VisitVersion<'_>) -> Result<(), StateError> {
        let slices = self
            .generations
            .newest_first()
            .map(|layer| layer.range(key, Slot::first(from), Slot::last(i64::MAX)));
        let sorted = slices.map(|slice| slice.iter().map(|(slot, entry)| (slot.major, entry)));
        let mut layers = Layers::new(sorted, Direction::Forward);
        let mut flow = ControlFlow::Continue(());
        if from <= self.stored_up_to {
            self.scan(key, from, i64::MAX, Direction::Forward, &mut |at, row| {
                flow = (|| {
                    while let Some(head) = layers.peek().filter(|head| *head <= at) {
                        if let Some((timestamp, entry)) = layers.next() {
                            visit(timestamp, entry.value.as_deref())?;
                        }
                        if head == at {
                            return ControlFlow::Continue(());
                        }
                    }
                    visit(at, row.as_deref())
                })();
                flow
            })?;
        }
        while flow.is_continue() {
            let Some((timestamp, entry)) = layers.next() else {
                break;
            };
            flow = visit(timestamp, entry.value.as_deref());
        }
        Ok(())
    }

    /// Ends history before `time`, for good; an abort takes it back, as it does puts.
    pub fn expire_before(&mut self, time: i64) {
        self.horizon.raise(time);
    }

    /// Says how far history had been ended, after the store was opened and before it is restored: the horizon is not
    /// stored, its owner derives it from the committed stream time. No abort takes it back.
    pub fn restore_horizon(&mut self, time: i64) {
        self.horizon.restore(time);
    }

    /// The least time at which all is known.
    pub fn horizon(&self) -> i64 {
        self.horizon.open
    }

    /// The newest version of a key up to `at`, visible or not.
    fn newest(&self, key: &[u8], at: i64) -> Result<Option<Version>, StateError> {
        let in_memory = self
            .generations
            .newest_first()
            .into_iter()
            .filter_map(|layer| {
                layer
                    .range(key, Slot::first(i64::MIN), Slot::last(at))
                    .last()
            })
            .map(|(slot, entry)| (slot.major, entry))
            // Of equal times the first wins, which is the newest write.
            .min_by_key(|(timestamp, _)| Reverse(*timestamp));
        let mut newest = in_memory.map(|(timestamp, entry)| (timestamp, entry.value.clone()));
        let known = newest.as_ref().map(|(timestamp, _)| *timestamp);
        if self.stored_up_to == i64::MIN || known.is_some_and(|known| known >= self.stored_up_to) {
            return Ok(newest);
        }
        self.scan(
            key,
            i64::MIN,
            at,
            Direction::Backward,
            &mut |stored, row| {
                if known.is_none_or(|known| known < stored) {
                    newest = Some((stored, row));
                }
                ControlFlow::Break(())
            },
        )?;
        Ok(newest)
    }

    /// Visits the backend's rows of a key between two times, both included.
    fn scan(
        &self,
        key: &[u8],
        from: i64,
        to: i64,
        direction: Direction,
        visit: &mut dyn FnMut(i64, Option<Bytes>) -> ControlFlow<()>,
    ) -> Result<(), StateError> {
        let mut low = self.scratch.take();
        low.clear();
        write_prefix(&mut low, key);
        let mut high = low.clone();
        low.extend_from_slice(&ordered(from));
        high.extend_from_slice(&ordered(to));
        let mut corrupt = false;
        let range = (Bound::Included(&low[..]), Bound::Included(&high[..]));
        let scanned =
            self.tree.scan(
                range.0,
                range.1,
                direction,
                &mut |row_key, row| match timestamp_of(row_key).zip(parse(row)) {
                    Some((timestamp, value)) => visit(timestamp, value),
                    None => {
                        corrupt = true;
                        ControlFlow::Break(())
                    }
                },
            );
        self.scratch.set(low);
        scanned?;
        if corrupt { Err(self.corrupt()) } else { Ok(()) }
    }

    fn corrupt(&self) -> StateError {
        StateError::corrupt(&self.name, "a row is not in this store's format")
    }

    /// Deletes rows that are below the settled horizon and not in force there, looking at up to `limit` rows.
    fn sweep(&mut self, limit: usize) -> Result<(), StateError> {
        let horizon = self.horizon.settled;
        let (from, goal) = match self.sweep.under_way.take() {
            Some(under_way) => under_way,
            None if horizon > self.sweep.done => (Vec::new(), horizon),
            None => return Ok(()),
        };
        // A deletion must stay as long as there may be an older version: one that still waits, or one behind the place
        // where this portion begins.
        let nothing_waits = self.generations.settled.is_empty();
        let mut from_its_start = from.is_empty();
        let mut gone = Vec::new();
        let mut before: Option<Vec<u8>> = None;
        let (mut seen, mut corrupt, mut ended) = (0, false, true);
        let range = (Bound::Included(&from[..]), Bound::Unbounded);
        self.tree
            .scan(range.0, range.1, Direction::Forward, &mut |key, row| {
                let Some((timestamp, value)) = timestamp_of(key).zip(parse(row)) else {
                    corrupt = true;
                    return ControlFlow::Break(());
                };
                if let Some(before) = before.take() {
                    let of_one_key = before[..before.len() - 8] == key[..key.len() - 8];
                    from_its_start |= !of_one_key;
                    let deleted = gone.last().is_some_and(|(last, _)| *last == before);
                    if of_one_key && timestamp <= goal && !deleted {
                        gone.push((Bytes::from(before), None));
                    }
                }
                let nothing_before = nothing_waits && from_its_start;
                if nothing_before && value.is_none() && timestamp <= goal {
                    gone.push((Bytes::copy_from_slice(key), None));
                }
                before = Some(key.to_vec());
                seen += 1;
                if seen >= limit || gone.len() >= MAX_BATCH - 1 {
                    ended = false;
                    return ControlFlow::Break(());
                }
                ControlFlow::Continue(())
            })?;
        if corrupt {
            return Err(self.corrupt());
        }
        if !gone.is_empty() {
            self.tree.apply(&gone)?;
        }
        // The last one may be superseded by the first of the next portion, so it is looked at again.
        self.sweep.under_way = before.filter(|_| !ended).map(|last| (last, goal));
        if self.sweep.under_way.is_none() {
            self.sweep.done = goal;
        }
        Ok(())
    }
}

fn slot(timestamp: i64) -> Slot {
    Slot {
        major: timestamp,
        minor: 0,
    }
}

fn stamped((timestamp, value): Version) -> Option<Stamped> {
    Some(Stamped {
        timestamp,
        value: value?,
    })
}

fn write_prefix(buffer: &mut Vec<u8>, key: &[u8]) {
    // NOTE: a Kafka record cannot hold a key of 4 GiB.
    buffer.extend_from_slice(&(key.len() as u32).to_be_bytes());
    buffer.extend_from_slice(key);
}

/// The timestamp in the key of a row; none when it is not the key of a row.
fn timestamp_of(row_key: &[u8]) -> Option<i64> {
    let (rest, timestamp) = row_key.split_last_chunk::<8>()?;
    let (length, key) = rest.split_first_chunk::<4>()?;
    // Else a longer key, which begins in the same way, would be taken for one of this key.
    (u32::from_be_bytes(*length) as usize == key.len()).then(|| from_ordered(*timestamp))
}

/// What a row says; none when it is no row.
fn parse(row: &[u8]) -> Option<Option<Bytes>> {
    match row.split_first()? {
        (0, _) => Some(None),
        (1, value) => Some(Some(Bytes::copy_from_slice(value))),
        _ => None,
    }
}

fn row(key: &[u8], timestamp: i64, entry: &Entry) -> (Bytes, Option<Bytes>) {
    let mut row_key = Vec::with_capacity(key.len() + 12);
    write_prefix(&mut row_key, key);
    row_key.extend_from_slice(&ordered(timestamp));
    let mut row = vec![u8::from(entry.value.is_some())];
    row.extend_from_slice(entry.value.as_deref().unwrap_or_default());
    (row_key.into(), Some(row.into()))
}

impl Store for VersionedStore {
    fn name(&self) -> &str {
        &self.name
    }

    fn seal(&mut self, changelog: &mut dyn FnMut(Change<'_>)) -> Result<(), StateError> {
        self.generations.seal(&self.name)?;
        self.horizon.seal();
        for (key, line) in self.generations.sealed.sorted() {
            let is_sealed = |at: i64| {
                line.binary_search_by_key(&at, |(slot, _)| slot.major)
                    .is_ok()
            };
            let Some((first, _)) = line.first() else {
                continue;
            };
            // Besides what was written, what ends it: the next version, and the latest one, which must come last.
            let mut last: Option<Version> = None;
            let mut follows = false;
            self.walk(key, first.major, &mut |timestamp, value| {
                let is_sealed = is_sealed(timestamp);
                if is_sealed || follows {
                    changelog(Change {
                        key,
                        value,
                        timestamp,
                    });
                    last = None;
                } else {
                    last = Some((timestamp, value.map(Bytes::copy_from_slice)));
                }
                follows = is_sealed;
                ControlFlow::Continue(())
            })?;
            if let Some((timestamp, value)) = last {
                changelog(Change {
                    key,
                    value: value.as_deref(),
                    timestamp,
                });
            }
        }
        Ok(())
    }

    fn settle(&mut self) {
        self.generations.settle();
        self.horizon.settle();
    }

    fn discard(&mut self) {
        self.generations.discard();
        self.horizon.discard();
    }

    fn restore(&mut self, change: Change<'_>) -> Result<(), StateError> {
        let value = change.value.map(|value| self.arena.copy(value));
        let timestamp = change.timestamp;
        let entry = Entry { timestamp, value };
        let settled = &mut self.generations.settled;
        settled.put(change.key, slot(timestamp), entry, &mut self.arena);
        Ok(())
    }

    fn apply(&mut self, max_entries: usize) -> Result<bool, StateError> {
        let limit = max_entries.clamp(1, MAX_BATCH);
        let settled = &mut self.generations.settled;
        if self.round.is_empty() {
            self.round = settled.iter().map(|(key, _)| key.clone()).collect();
            let order = |key: &Bytes| Reverse((key.len(), key.clone()));
            self.round.sort_unstable_by_key(order);
        }
        let all = (Slot::first(i64::MIN), Slot::last(i64::MAX));
        let mut batch = Batch::of(limit);
        let mut taken = Vec::new();
        let mut newest = self.stored_up_to;
        let mut at = self.round.len();
        while at > 0 && !batch.is_full() {
            let key = &self.round[at - 1];
            let line = settled.range(key, all.0, all.1);
            let mut room = 0;
            for (slot, entry) in line {
                if batch.is_full() {
                    break;
                }
                room += 1;
                let (key, row) = row(key, slot.major, entry);
                batch.push(key, row);
                newest = newest.max(slot.major);
            }
            taken.push((at - 1, room));
            if room < line.len() {
                break;
            }
            at -= 1;
        }
        if !batch.is_empty() {
            self.tree.apply(&batch.entries)?;
            self.stored_up_to = newest;
        }
        for (index, count) in taken {
            settled.remove(&self.round[index], all.0, all.1, count);
        }
        self.round.truncate(at);
        self.sweep(SWEEP_FACTOR * limit)?;
        Ok(self.generations.settled.is_empty())
    }

    fn settled_bytes(&self) -> usize {
        self.generations.settled.bytes()
    }

    fn dirty_bytes(&self) -> usize {
        self.generations.dirty_bytes()
    }

    fn clear(&mut self) -> Result<(), StateError> {
        self.generations.clear();
        self.horizon = Horizon::default();
        self.stored_up_to = i64::MIN;
        self.round.clear();
        self.sweep = Sweep {
            under_way: None,
            done: i64::MIN,
        };
        self.tree.clear()
    }
}
