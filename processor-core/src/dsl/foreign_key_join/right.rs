//! The right table of a foreign-key join: who points to its rows, and what they are told.

use std::cell::RefCell;
use std::ops::ControlFlow;
use std::rc::Rc;

use state::{Direction, KeyValueStore};

use crate::dsl::view::Look;
use crate::error::{Fault, Result};
use crate::log::Timestamp;
use crate::processor::{Child, Context, Process};
use crate::record::{Change, Data, Record};
use crate::serde::{SerdeError, SharedSerde};

use super::messages::{Hash, Instruction, Registration, Response, read_hash, write_hash};

/// The left rows that point to right ones, in a key-value store:
///
/// ```text
/// length of the foreign key (4) ‖ foreign key ‖ primary key   →   partition (4) ‖ hash
/// ```
/// Numbers are big-endian; the keys are as in Kafka Streams.
pub(super) struct Subscriptions<FK, K> {
    operator: String,
    store: Rc<RefCell<KeyValueStore>>,
    foreign: SharedSerde<FK>,
    primary: SharedSerde<K>,
    key: Vec<u8>,
    value: Vec<u8>,
}

impl<FK, K> Subscriptions<FK, K> {
    pub(super) fn new(
        operator: &str,
        store: Rc<RefCell<KeyValueStore>>,
        foreign: SharedSerde<FK>,
        primary: SharedSerde<K>,
    ) -> Self {
        Self {
            operator: operator.to_owned(),
            store,
            foreign,
            primary,
            key: Vec::new(),
            value: Vec::new(),
        }
    }

    fn fault(&self, part: &str, error: SerdeError) -> Fault {
        let what = format_args!("a {part} of foreign-key join {}", self.operator);
        Fault::serde(what, error)
    }

    /// Keeps the subscription of a left row, or forgets it.
    fn update(&mut self, foreign: &FK, sent: &Registration<K>, timestamp: Timestamp) -> Result {
        self.write_prefix(foreign)?;
        self.primary
            .serialize(&sent.primary, &mut self.key)
            .map_err(|error| self.fault("primary key", error))?;
        let mut store = self.store.borrow_mut();
        match sent.instruction {
            Instruction::Leave | Instruction::LeaveAndAnswer => {
                store.delete(&self.key, timestamp)?;
            }
            Instruction::Answer | Instruction::AnswerIfFound => {
                self.value.clear();
                self.value.extend_from_slice(&sent.partition.to_be_bytes());
                write_hash(sent.hash, &mut self.value);
                store.put(&self.key, &self.value, timestamp)?;
            }
        }
        Ok(())
    }

    /// Visits the subscriptions of a foreign key, in the order of the bytes of their primary keys.
    fn of(&mut self, foreign: &FK, mut visit: impl FnMut(K, i32, Hash) -> Result) -> Result {
        self.write_prefix(foreign)?;
        let mut outcome = Ok(());
        let forward = Direction::Forward;
        self.store
            .borrow()
            .prefix_scan(&self.key, forward, &mut |key, row| {
                let mut each = || {
                    let primary = self.primary.deserialize(&key[self.key.len()..]);
                    let primary = primary.map_err(|error| self.fault("primary key", error))?;
                    let (partition, hash) = parse(&row.value).ok_or_else(|| {
                        self.fault("subscription", SerdeError::new("not a subscription"))
                    })?;
                    visit(primary, partition, hash)
                };
                match each() {
                    Ok(()) => ControlFlow::Continue(()),
                    Err(fault) => {
                        outcome = Err(fault);
                        ControlFlow::Break(())
                    }
                }
            })?;
        outcome
    }

    /// Begins `key` with what all subscriptions of a foreign key begin with.
    fn write_prefix(&mut self, foreign: &FK) -> Result {
        self.key.clear();
        self.key.extend_from_slice(&[0; 4]);
        self.foreign
            .serialize(foreign, &mut self.key)
            .map_err(|error| self.fault("foreign key", error))?;
        let length = u32::try_from(self.key.len() - 4).expect("a Kafka key is smaller than 4 GiB");
        self.key[..4].copy_from_slice(&length.to_be_bytes());
        Ok(())
    }
}

fn parse(row: &[u8]) -> Option<(i32, Hash)> {
    let (partition, rest) = row.split_first_chunk::<4>()?;
    let (hash, _) = read_hash(rest)?;
    Some((i32::from_be_bytes(*partition), hash))
}

/// Takes what left rows register, and answers with the right row as it is now.
pub(super) struct Registered<FK, K, W> {
    pub subscriptions: Subscriptions<FK, K>,
    pub rows: Box<dyn Look<FK, W>>,
    pub responses: Child<K, Response<W>>,
}

impl<FK, K, W> Process<Option<FK>, Registration<K>> for Registered<FK, K, W>
where
    FK: Data,
    K: Data,
    W: Data,
{
    fn process(
        &mut self,
        context: &mut Context<'_>,
        record: Record<Option<FK>, Registration<K>>,
    ) -> Result {
        let Record {
            key: foreign,
            value: sent,
            timestamp,
            headers,
        } = record;
        let found = match &foreign {
            Some(foreign) => {
                self.subscriptions.update(foreign, &sent, timestamp)?;
                self.rows.get(foreign)?
            }
            None => None,
        };
        let timestamp = found.as_ref().map_or(timestamp, |(_, t)| timestamp.max(*t));
        let value = match (sent.instruction, found) {
            (Instruction::Leave, _) | (Instruction::AnswerIfFound, None) => return Ok(()),
            (Instruction::LeaveAndAnswer, _) => None,
            (_, found) => found.map(|(row, _)| row),
        };
        let response = Response {
            hash: sent.hash,
            value,
            partition: sent.partition,
        };
        self.responses.process(
            context,
            Record {
                key: sent.primary,
                value: response,
                timestamp,
                headers,
            },
        )
    }
}

/// Tells a change of the right table to all that point to its row.
pub(super) struct Changed<FK, K, W> {
    pub subscriptions: Subscriptions<FK, K>,
    pub responses: Child<K, Response<W>>,
}

impl<FK, K, W> Process<FK, Change<W>> for Changed<FK, K, W>
where
    FK: Data,
    K: Data,
    W: Data,
{
    fn process(&mut self, context: &mut Context<'_>, record: Record<FK, Change<W>>) -> Result {
        let Record {
            key: foreign,
            value: Change { new, .. },
            timestamp,
            headers,
        } = record;
        let responses = &mut self.responses;
        self.subscriptions.of(&foreign, |primary, partition, hash| {
            let response = Response {
                hash,
                value: new.clone(),
                partition,
            };
            let record = Record {
                key: primary,
                value: response,
                timestamp,
                headers: headers.clone(),
            };
            responses.process(context, record)
        })
    }
}

/// What holds of any bytes.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn check_any(bytes: &[u8]) {
    use super::messages::write_hash;
    if let Some((partition, hash)) = parse(bytes) {
        let mut written = partition.to_be_bytes().to_vec();
        write_hash(hash, &mut written);
        assert_eq!(parse(&written), Some((partition, hash)));
    }
}
