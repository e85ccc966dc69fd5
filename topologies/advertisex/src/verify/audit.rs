//! Ids that must come out against ids that did: what is lost, what came twice, what nobody asked for, what was altered.
//!
//! Plain counting, which shares nothing with the engine that it checks. An id is kept as a hash of 128 bits, with where it
//! stands and a hash of what belongs to it: at most [`BYTES_PER_ID`] bytes an id, whatever its length. Two of a billion ids
//! share a hash with a probability of about 10⁻²¹. For more ids than memory allows, audit them in [parts](Part),
//! one after the other.

use std::collections::{BTreeSet, HashMap};
use std::fmt;

use serde::Serialize;
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

/// What an id takes at most in memory.
pub const BYTES_PER_ID: u64 = 128;
/// Examples that are kept of each finding.
pub const EXAMPLES: usize = 5;

/// Where a line or a record stands.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(untagged)]
pub enum Place {
    /// A record of a topic.
    Record {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// The offset.
        offset: i64,
    },
    /// A line of a file.
    Line {
        /// Path relative to the landing directory.
        path: String,
        /// From 1; the position in an array or container.
        line: u64,
    },
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Record {
                topic,
                partition,
                offset,
            } => write!(f, "{topic}-{partition} at offset {offset}"),
            Self::Line { path, line } => write!(f, "{path}:{line}"),
        }
    }
}

/// An id that something is wrong with.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Example {
    /// Where it stands: where it was found, or, for one that is lost, where it was to come from.
    pub at: Place,
    /// The id; none for one that is lost, of which there is a hash only.
    pub id: Option<String>,
}

impl fmt::Display for Example {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.id {
            Some(id) => write!(f, "{id} in {}", self.at),
            None => write!(f, "that of {}", self.at),
        }
    }
}

/// How often something is wrong, with the first examples by place.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// How often.
    pub count: u64,
    /// The first [`EXAMPLES`].
    pub examples: BTreeSet<Example>,
}

impl Tally {
    /// Counts one.
    pub fn add(&mut self, id: Option<&str>, at: &Place) {
        self.count += 1;
        if self.examples.len() == EXAMPLES && self.examples.last().is_some_and(|last| last.at < *at)
        {
            return;
        }
        self.examples.insert(Example {
            at: at.clone(),
            id: id.map(str::to_owned),
        });
        while self.examples.len() > EXAMPLES {
            self.examples.pop_last();
        }
    }

    fn merge(&mut self, other: Self) {
        self.count += other.count;
        self.examples.extend(other.examples);
        while self.examples.len() > EXAMPLES {
            self.examples.pop_last();
        }
    }
}

/// What an audit found. All is well when nothing is lost, duplicated, unexpected or altered.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// Ids that must come out.
    pub expected: u64,
    /// Ids that came out.
    pub found: u64,
    /// Expected, and not found.
    pub lost: Tally,
    /// Found more often than expected.
    pub duplicated: Tally,
    /// Found, and not expected.
    pub unexpected: Tally,
    /// Found with another content.
    pub altered: Tally,
}

impl Outcome {
    /// Whether each id came out as often as it must, as it was.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.tallies().iter().all(|(_, tally)| tally.count == 0)
    }

    /// The findings by name.
    #[must_use]
    pub fn tallies(&self) -> [(&'static str, &Tally); 4] {
        [
            ("lost", &self.lost),
            ("duplicated", &self.duplicated),
            ("unexpected", &self.unexpected),
            ("altered", &self.altered),
        ]
    }

    /// Adds what another part found.
    pub fn merge(&mut self, other: Self) {
        self.expected += other.expected;
        self.found += other.found;
        self.lost.merge(other.lost);
        self.duplicated.merge(other.duplicated);
        self.unexpected.merge(other.unexpected);
        self.altered.merge(other.altered);
    }
}

/// A part of all ids, by hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// From 0.
    pub number: u64,
    /// How many parts there are.
    pub of: u64,
}

impl Part {
    /// All ids at once.
    pub const WHOLE: Self = Self { number: 0, of: 1 };

    /// The parts that `ids` must be audited in to take no more than `memory_bytes`.
    pub fn within(ids: u64, memory_bytes: u64) -> impl Iterator<Item = Self> {
        let of = (ids.saturating_mul(BYTES_PER_ID)).div_ceil(memory_bytes.max(1));
        let of = of.max(1);
        (0..of).map(move |number| Self { number, of })
    }

    /// Whether an id belongs to it.
    #[must_use]
    pub fn holds(self, id: &[u8]) -> bool {
        // Other bits than those that a hash map goes by.
        self.of == 1 || xxh3_64(id) % self.of == self.number
    }
}

/// Expects ids, then finds them.
///
/// ```
/// use advertisex::verify::{Audit, Part, Place};
///
/// let line = |line| Place::Line { path: "clicks/a.csv".to_owned(), line };
/// let record = |offset| Place::Record { topic: "clicks".to_owned(), partition: 0, offset };
/// let mut audit = Audit::new(Part::WHOLE);
/// audit.expect("k1", b"shoes", &line(1));
/// audit.expect("k2", b"cars", &line(2));
/// audit.find("k1", b"shoes", &record(0));
/// audit.find("k1", b"shoes", &record(1));
/// let outcome = audit.outcome();
/// assert_eq!((outcome.lost.count, outcome.duplicated.count), (1, 1));
/// assert_eq!(outcome.lost.examples.first().unwrap().to_string(), "that of clicks/a.csv:2");
/// assert_eq!(outcome.duplicated.examples.first().unwrap().to_string(), "k1 in clicks-0 at offset 1");
/// ```
#[derive(Debug)]
pub struct Audit {
    part: Part,
    entries: HashMap<u128, Entry>,
    places: Places,
    outcome: Outcome,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    content: u64,
    place: Stored,
    expected: u32,
    found: u32,
}

impl Audit {
    /// An audit of a part of all ids; others are passed over.
    #[must_use]
    pub fn new(part: Part) -> Self {
        Self {
            part,
            entries: HashMap::new(),
            places: Places::default(),
            outcome: Outcome::default(),
        }
    }

    /// An id that must come out once more, with this content.
    pub fn expect(&mut self, id: &str, content: &[u8], at: &Place) {
        if !self.part.holds(id.as_bytes()) {
            return;
        }
        self.outcome.expected += 1;
        let place = self.places.store(at);
        let fresh = Entry {
            content: xxh3_64(content),
            place,
            expected: 0,
            found: 0,
        };
        let entry = self.entries.entry(xxh3_128(id.as_bytes())).or_insert(fresh);
        entry.expected += 1;
    }

    /// An id that came out.
    pub fn find(&mut self, id: &str, content: &[u8], at: &Place) {
        if !self.part.holds(id.as_bytes()) {
            return;
        }
        self.outcome.found += 1;
        let Some(entry) = self.entries.get_mut(&xxh3_128(id.as_bytes())) else {
            return self.outcome.unexpected.add(Some(id), at);
        };
        entry.found += 1;
        if entry.found > entry.expected {
            self.outcome.duplicated.add(Some(id), at);
        } else if entry.expected == 1 && entry.content != xxh3_64(content) {
            // Of an id that is expected several times it is not known which one this is.
            self.outcome.altered.add(Some(id), at);
        }
    }

    /// An id that came out where nothing is known of what must: it must be the only one.
    pub fn find_once(&mut self, id: &str, at: &Place) {
        if !self.part.holds(id.as_bytes()) {
            return;
        }
        if self.entries.contains_key(&xxh3_128(id.as_bytes())) {
            self.outcome.found += 1;
            self.outcome.duplicated.add(Some(id), at);
        } else {
            self.expect(id, b"", at);
            self.find(id, b"", at);
        }
    }

    /// What is lost, and all the rest.
    #[must_use]
    pub fn outcome(self) -> Outcome {
        let mut outcome = self.outcome;
        let missing = |entry: &Entry| entry.expected.saturating_sub(entry.found);
        let lost = self.entries.values().filter(|entry| missing(entry) > 0);
        let mut places: Vec<Stored> = Vec::new();
        for entry in lost {
            outcome.lost.count += u64::from(missing(entry));
            places.push(entry.place);
            // The order of a hash map is none, so the first by place are looked for.
            if places.len() > 64 {
                places.sort_unstable();
                places.truncate(EXAMPLES);
            }
        }
        places.sort_unstable();
        places.truncate(EXAMPLES);
        let example = |place: Stored| Example {
            at: self.places.restore(place),
            id: None,
        };
        outcome.lost.examples = places.into_iter().map(example).collect();
        outcome
    }
}

/// A place in 16 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Stored {
    /// Of the topic or path.
    source: u32,
    /// −1 for a line.
    partition: i32,
    /// Offset or line.
    number: i64,
}

/// Topics and paths, each once.
#[derive(Debug, Default)]
struct Places {
    names: Vec<String>,
    numbers: HashMap<String, u32>,
}

impl Places {
    fn store(&mut self, place: &Place) -> Stored {
        let (name, partition, number) = match place {
            Place::Record {
                topic,
                partition,
                offset,
            } => (topic, *partition, *offset),
            Place::Line { path, line } => (path, -1, line.cast_signed()),
        };
        let source = match self.numbers.get(name) {
            Some(source) => *source,
            None => {
                let source = u32::try_from(self.names.len()).expect("fewer files than 4 billion");
                self.names.push(name.clone());
                self.numbers.insert(name.clone(), source);
                source
            }
        };
        Stored {
            source,
            partition,
            number,
        }
    }

    fn restore(&self, stored: Stored) -> Place {
        let name = self.names[stored.source as usize].clone();
        match stored.partition {
            -1 => Place::Line {
                path: name,
                line: stored.number.cast_unsigned(),
            },
            partition => Place::Record {
                topic: name,
                partition,
                offset: stored.number,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(offset: i64) -> Place {
        Place::Record {
            topic: "t".to_owned(),
            partition: 1,
            offset,
        }
    }

    fn ids(count: i64) -> impl Iterator<Item = (String, Place)> {
        (0..count).map(|number| (format!("id-{number}"), at(number)))
    }

    fn audited(part: Part, found: impl Iterator<Item = (String, Place)>) -> Outcome {
        let mut audit = Audit::new(part);
        ids(100).for_each(|(id, at)| audit.expect(&id, b"content", &at));
        found.for_each(|(id, at)| audit.find(&id, b"content", &at));
        audit.outcome()
    }

    #[test]
    fn all_is_well_when_each_id_comes_once_in_any_order() {
        let mut found: Vec<_> = ids(100).collect();
        found.reverse();
        let outcome = audited(Part::WHOLE, found.into_iter());
        assert!(outcome.holds());
        assert_eq!((outcome.expected, outcome.found), (100, 100));
    }

    #[test]
    fn one_that_is_dropped_repeated_or_made_up_is_found_with_its_place() {
        let dropped = audited(Part::WHOLE, ids(100).filter(|(id, _)| id != "id-42"));
        assert!(!dropped.holds());
        assert_eq!((dropped.lost.count, dropped.duplicated.count), (1, 0));
        assert_eq!(dropped.lost.examples.first().unwrap().at, at(42));

        let again = [("id-7".to_owned(), at(100))];
        let repeated = audited(Part::WHOLE, ids(100).chain(again));
        assert_eq!((repeated.lost.count, repeated.duplicated.count), (0, 1));
        let example = repeated.duplicated.examples.first().unwrap().to_string();
        assert_eq!(example, "id-7 in t-1 at offset 100");

        let foreign = [("x".to_owned(), at(100))];
        let made_up = audited(Part::WHOLE, ids(100).chain(foreign));
        assert_eq!((made_up.unexpected.count, made_up.lost.count), (1, 0));
    }

    #[test]
    fn one_that_is_altered_is_found() {
        let mut audit = Audit::new(Part::WHOLE);
        audit.expect("a", b"1", &at(0));
        audit.find("a", b"2", &at(1));
        assert_eq!(audit.outcome().altered.count, 1);
    }

    #[test]
    fn parts_find_together_what_the_whole_finds_and_each_id_is_in_one() {
        let found = || {
            let again = [("id-7".to_owned(), at(100)), ("x".to_owned(), at(101))];
            ids(100).filter(|(id, _)| id != "id-42").chain(again)
        };
        let whole = audited(Part::WHOLE, found());
        let parts: Vec<Part> = Part::within(100, 100 * BYTES_PER_ID / 3).collect();
        assert_eq!(parts.len(), 4);
        let mut sum = Outcome::default();
        for part in parts {
            sum.merge(audited(part, found()));
        }
        assert_eq!(sum, whole);
    }

    #[test]
    fn the_first_examples_are_kept() {
        let outcome = audited(Part::WHOLE, std::iter::empty());
        assert_eq!(outcome.lost.count, 100);
        let places: Vec<Place> = outcome.lost.examples.into_iter().map(|e| e.at).collect();
        assert_eq!(places, [0, 1, 2, 3, 4].map(at));
        let mut tally = Tally::default();
        (0..100)
            .rev()
            .for_each(|offset| tally.add(None, &at(offset)));
        let places: Vec<Place> = tally.examples.into_iter().map(|e| e.at).collect();
        assert_eq!(
            (tally.count, places),
            (100, [0, 1, 2, 3, 4].map(at).to_vec())
        );
    }

    #[test]
    fn without_expectations_an_id_must_be_the_only_one() {
        let mut audit = Audit::new(Part::WHOLE);
        for (id, at) in ids(10) {
            audit.find_once(&id, &at);
        }
        audit.find_once("id-3", &at(10));
        let outcome = audit.outcome();
        assert_eq!((outcome.found, outcome.duplicated.count), (11, 1));
        assert_eq!((outcome.lost.count, outcome.unexpected.count), (0, 0));
    }
}
