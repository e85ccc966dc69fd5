//! The conversions whose results are not final.
//!
//! They are kept by the precedence of the touches they are credited to, then by time, then by id: with each precedence its
//! streams decide how far results are final, so what becomes final is the first part of each. Where a touch may have to
//! find them, they are also kept by the key under which they meet it.

use std::cell::RefCell;
use std::ops::{Bound, ControlFlow};
use std::rc::Rc;

use state::{Direction, JoinStore, KeyValueStore};

use crate::dsl::stream_join::pending::{ordered, timestamp_of};
use crate::error::{Fault, Result};
use crate::log::Timestamp;
use crate::serde::SerdeError;

use super::touch::{put, take};

/// A conversion in its store, under `precedence (1) ‖ time (8, sorts like the number) ‖ id`:
///
/// ```text
/// value in micros (8) ‖ revision (4) ‖ what was told (16) ‖ length of the meeting key (4) ‖ meeting key ‖ conversion
/// ```
/// Numbers are big endian.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OpenConversion {
    pub value_micros: i64,
    /// Results emitted so far.
    pub revision: u32,
    /// A hash of the last one of them; 0 when what it said no longer holds.
    pub told: u128,
    /// The key under which it meets touches.
    pub meeting_key: Vec<u8>,
    /// The bytes of the conversion itself.
    pub conversion: Vec<u8>,
}

impl OpenConversion {
    fn encode(&self, into: &mut Vec<u8>) {
        into.clear();
        into.extend_from_slice(&self.value_micros.to_be_bytes());
        into.extend_from_slice(&self.revision.to_be_bytes());
        into.extend_from_slice(&self.told.to_be_bytes());
        put(&self.meeting_key, into);
        into.extend_from_slice(&self.conversion);
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (value_micros, rest) = bytes.split_first_chunk()?;
        let (revision, rest) = rest.split_first_chunk()?;
        let (told, rest) = rest.split_first_chunk()?;
        let (meeting_key, conversion) = take(rest)?;
        Some(Self {
            value_micros: i64::from_be_bytes(*value_micros),
            revision: u32::from_be_bytes(*revision),
            told: u128::from_be_bytes(*told),
            meeting_key: meeting_key.to_vec(),
            conversion: conversion.to_vec(),
        })
    }
}

/// Where an open conversion lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// Of the touches it is credited to; 0 if there are none.
    pub precedence: u8,
    pub timestamp: Timestamp,
    pub id: String,
}

impl Place {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = prefix(self.precedence, self.timestamp);
        bytes.extend_from_slice(self.id.as_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (precedence, rest) = bytes.split_first()?;
        Some(Self {
            precedence: *precedence,
            timestamp: timestamp_of(rest),
            id: std::str::from_utf8(rest.get(8..)?).ok()?.to_owned(),
        })
    }
}

/// What the keys of a precedence from a time on begin with.
fn prefix(precedence: u8, timestamp: Timestamp) -> Vec<u8> {
    let mut bytes = vec![precedence];
    bytes.extend_from_slice(&ordered(timestamp));
    bytes
}

/// See the [module](self).
pub(super) struct OpenConversions {
    operator: String,
    rows: Rc<RefCell<KeyValueStore>>,
    /// Ids by meeting key and time, where a touch may change what is known.
    by_key: Option<Rc<RefCell<JoinStore>>>,
    /// Each precedence there may be, 0 included, with a time before which nothing of it is open. It spares a look into the
    /// store for most records.
    earliest: Vec<(u8, Timestamp)>,
    /// No conversion is later; spares another look.
    latest: Timestamp,
    buffer: Vec<u8>,
}

impl OpenConversions {
    /// What is in the stores. `precedences` are those of the touch streams.
    pub(super) fn read(
        operator: &str,
        rows: Rc<RefCell<KeyValueStore>>,
        by_key: Option<Rc<RefCell<JoinStore>>>,
        precedences: impl IntoIterator<Item = u8>,
    ) -> Result<Self> {
        let mut precedences: Vec<u8> = precedences.into_iter().chain([0]).collect();
        precedences.sort_unstable();
        precedences.dedup();
        let mut open = Self {
            operator: operator.to_owned(),
            rows,
            by_key,
            earliest: Vec::new(),
            latest: Timestamp::MIN,
            buffer: Vec::new(),
        };
        for precedence in precedences {
            let first = open.end_of(precedence, Direction::Forward)?;
            open.earliest
                .push((precedence, first.unwrap_or(Timestamp::MAX)));
            let last = open.end_of(precedence, Direction::Backward)?;
            open.latest = open.latest.max(last.unwrap_or(Timestamp::MIN));
        }
        Ok(open)
    }

    /// Time of the first open conversion of a precedence, or of the last.
    fn end_of(&self, precedence: u8, direction: Direction) -> Result<Option<Timestamp>> {
        let (from, to) = (
            prefix(precedence, Timestamp::MIN),
            prefix(precedence, Timestamp::MAX),
        );
        let (from, to) = (Bound::Included(&from[..]), Bound::Included(&to[..]));
        let mut end = None;
        let rows = self.rows.borrow();
        rows.scan(from, to, direction, &mut |key, _| {
            end = Some(timestamp_of(&key[1..]));
            ControlFlow::Break(())
        })?;
        Ok(end)
    }

    /// The least time of an open conversion there may be.
    pub(super) fn earliest(&self) -> Timestamp {
        let times = self.earliest.iter().map(|(_, time)| *time);
        times.min().unwrap_or(Timestamp::MAX)
    }

    /// Adds a conversion; `sequence` keeps those of one key and time apart.
    pub(super) fn add(
        &mut self,
        place: &Place,
        conversion: &OpenConversion,
        sequence: u32,
    ) -> Result {
        if let Some(by_key) = &self.by_key {
            let (key, id) = (&conversion.meeting_key, place.id.as_bytes());
            by_key
                .borrow_mut()
                .append(key, place.timestamp, sequence, id)?;
        }
        self.put(place, conversion)
    }

    /// Writes down what is now known of a conversion.
    pub(super) fn put(&mut self, place: &Place, conversion: &OpenConversion) -> Result {
        conversion.encode(&mut self.buffer);
        let timestamp = place.timestamp;
        self.rows
            .borrow_mut()
            .put(&place.encode(), &self.buffer, timestamp)?;
        for (precedence, earliest) in &mut self.earliest {
            if *precedence == place.precedence {
                *earliest = timestamp.min(*earliest);
            }
        }
        self.latest = timestamp.max(self.latest);
        Ok(())
    }

    /// The open conversion of this time and id.
    pub(super) fn find(
        &self,
        timestamp: Timestamp,
        id: &str,
    ) -> Result<Option<(Place, OpenConversion)>> {
        for (precedence, earliest) in &self.earliest {
            if timestamp < *earliest {
                continue;
            }
            let place = Place {
                precedence: *precedence,
                timestamp,
                id: id.to_owned(),
            };
            if let Some(row) = self.rows.borrow().get(&place.encode())? {
                let conversion = OpenConversion::decode(&row.value);
                return Ok(Some((place, conversion.ok_or_else(|| self.broken())?)));
            }
        }
        Ok(None)
    }

    /// Takes out an open conversion.
    pub(super) fn remove(&mut self, place: &Place) -> Result {
        let key = place.encode();
        self.rows.borrow_mut().delete(&key, place.timestamp)?;
        Ok(())
    }

    /// Takes out what is final, by time, then id. `final_before` says for each precedence how far results are final.
    pub(super) fn take_final(
        &mut self,
        final_before: impl Fn(u8) -> Timestamp,
    ) -> Result<Vec<(Place, OpenConversion)>> {
        let mut all = Vec::new();
        for i in 0..self.earliest.len() {
            let (precedence, earliest) = self.earliest[i];
            let end = final_before(precedence);
            if earliest >= end {
                continue;
            }
            let closed = self.rows_of(precedence, end)?;
            for (place, _) in &closed {
                self.remove(place)?;
            }
            all.extend(closed);
            let first = self.end_of(precedence, Direction::Forward)?;
            self.earliest[i].1 = first.unwrap_or(Timestamp::MAX);
        }
        all.sort_by(|(a, _), (b, _)| (a.timestamp, &a.id).cmp(&(b.timestamp, &b.id)));
        Ok(all)
    }

    /// All open conversions, by time, then id.
    pub(super) fn all(&self) -> Result<Vec<(Place, OpenConversion)>> {
        let mut all = Vec::new();
        for (precedence, _) in &self.earliest {
            all.extend(self.rows_of(*precedence, Timestamp::MAX)?);
        }
        all.sort_by(|(a, _), (b, _)| (a.timestamp, &a.id).cmp(&(b.timestamp, &b.id)));
        Ok(all)
    }

    /// The open conversions of a precedence before `end`.
    fn rows_of(&self, precedence: u8, end: Timestamp) -> Result<Vec<(Place, OpenConversion)>> {
        let (from, to) = (prefix(precedence, Timestamp::MIN), prefix(precedence, end));
        let (from, to) = (Bound::Included(&from[..]), Bound::Excluded(&to[..]));
        let (mut found, mut whole) = (Vec::new(), true);
        let rows = self.rows.borrow();
        rows.scan(from, to, Direction::Forward, &mut |key, row| match (
            Place::decode(key),
            OpenConversion::decode(&row.value),
        ) {
            (Some(place), Some(conversion)) => {
                found.push((place, conversion));
                ControlFlow::Continue(())
            }
            _ => {
                whole = false;
                ControlFlow::Break(())
            }
        })?;
        match whole {
            true => Ok(found),
            false => Err(self.broken()),
        }
    }

    /// Times and ids of the open conversions that meet touches under `key`, with `from <= time <= to`, by time, then id.
    /// Some may be final already.
    pub(super) fn meeting(
        &self,
        key: &[u8],
        from: Timestamp,
        to: Timestamp,
    ) -> Result<Vec<(Timestamp, String)>> {
        let Some(by_key) = self.by_key.as_ref().filter(|_| from <= self.latest) else {
            return Ok(Vec::new());
        };
        let (mut found, mut whole) = (Vec::new(), true);
        by_key
            .borrow()
            .fetch(key, from, to, &mut |timestamp, _, id| {
                match std::str::from_utf8(id) {
                    Ok(id) => found.push((timestamp, id.to_owned())),
                    Err(_) => whole = false,
                }
                ControlFlow::Continue(())
            })?;
        // One that came twice is one.
        found.sort_unstable();
        found.dedup();
        match whole {
            true => Ok(found),
            false => Err(self.broken()),
        }
    }

    /// Forgets under which keys conversions before `timestamp` would be met.
    pub(super) fn expire_before(&mut self, timestamp: Timestamp) {
        if let Some(by_key) = &self.by_key {
            by_key.borrow_mut().expire_before(timestamp);
        }
    }

    fn broken(&self) -> Fault {
        let error = SerdeError::new("the bytes are not what an attribution keeps");
        let what = format_args!("an open conversion of attribution {}", self.operator);
        Fault::serde(what, error)
    }
}

/// What holds of any bytes.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn check_any(bytes: &[u8]) {
    if let Some(open) = OpenConversion::decode(bytes) {
        let mut written = Vec::new();
        open.encode(&mut written);
        assert_eq!(written, bytes);
    }
    if let Some(place) = Place::decode(bytes) {
        assert_eq!(place.encode(), bytes);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(any::<u8>(), 0..9)
    }

    proptest! {
        #[test]
        fn rows_and_places_survive(
            (value_micros, revision, told) in any::<(i64, u32, u128)>(),
            (meeting_key, conversion) in (bytes(), bytes()),
            (precedence, timestamp, id) in (any::<u8>(), any::<i64>(), ".{0,9}"),
        ) {
            let row = OpenConversion { value_micros, revision, told, meeting_key, conversion };
            let mut bytes = Vec::new();
            row.encode(&mut bytes);
            prop_assert_eq!(OpenConversion::decode(&bytes), Some(row));
            let place = Place { precedence, timestamp, id };
            prop_assert_eq!(Place::decode(&place.encode()), Some(place));
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = OpenConversion::decode(&bytes);
            let _ = Place::decode(&bytes);
        }
    }
}
