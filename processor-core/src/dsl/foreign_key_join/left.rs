//! The left table of a foreign-key join: what its changes register, and what becomes of the answers.

use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_128;

use crate::dsl::view::Look;
use crate::error::{Fault, Result};
use crate::processor::{Context, Fanout, Process};
use crate::record::{Change, Data, Record};
use crate::serde::SharedSerde;

use super::Kind;
use super::messages::{Hash, Instruction, Registration, Response};

/// The foreign key of a left row; the bytes tell whether it is another.
#[derive(Debug, Clone, PartialEq, Eq)]
struct ForeignKey<FK> {
    key: FK,
    bytes: Vec<u8>,
}

/// A left row as far as the right table cares.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Row<FK> {
    /// There is none.
    Missing,
    /// It points nowhere.
    Pointless,
    PointsTo(ForeignKey<FK>),
}

/// What a change registers: first what it leaves, then what it asks.
#[derive(Debug, PartialEq, Eq)]
struct Steps<FK> {
    leave: Option<FK>,
    ask: Option<(Option<FK>, Instruction)>,
}

/// Decides what the change of a row from `old` to `new` registers.
fn steps<FK>(kind: Kind, old: Row<FK>, new: Row<FK>) -> Steps<FK> {
    use Instruction::{Answer, AnswerIfFound, LeaveAndAnswer};
    let nothing = Steps {
        leave: None,
        ask: None,
    };
    match (kind, old, new) {
        (Kind::Left, Row::Missing, Row::Missing) => nothing,
        (_, Row::PointsTo(old), Row::PointsTo(new)) if old.bytes == new.bytes => {
            let instruction = match kind {
                Kind::Left => Answer,
                // Without a right row there had been no result either.
                Kind::Inner => AnswerIfFound,
            };
            Steps {
                leave: None,
                ask: Some((Some(new.key), instruction)),
            }
        }
        (_, Row::PointsTo(old), Row::PointsTo(new)) => Steps {
            leave: Some(old.key),
            ask: Some((Some(new.key), Answer)),
        },
        (Kind::Left, Row::PointsTo(old), _) => Steps {
            leave: Some(old.key),
            ask: Some((None, Answer)),
        },
        (Kind::Left, _, Row::PointsTo(new)) => Steps {
            leave: None,
            ask: Some((Some(new.key), Answer)),
        },
        // The answer has no right row, and is wanted all the same.
        (Kind::Left, _, _) => Steps {
            leave: None,
            ask: Some((None, Answer)),
        },
        (Kind::Inner, Row::PointsTo(old), _) => Steps {
            leave: None,
            ask: Some((Some(old.key), LeaveAndAnswer)),
        },
        (Kind::Inner, _, Row::PointsTo(new)) => Steps {
            leave: None,
            ask: Some((Some(new.key), AnswerIfFound)),
        },
        (Kind::Inner, _, _) => nothing,
    }
}

/// Hashes left values by their bytes.
pub(super) struct ValueHash<V> {
    operator: String,
    value: SharedSerde<V>,
    buffer: Vec<u8>,
}

impl<V> ValueHash<V> {
    pub(super) fn new(operator: &str, value: SharedSerde<V>) -> Self {
        Self {
            operator: operator.to_owned(),
            value,
            buffer: Vec::new(),
        }
    }

    fn of(&mut self, value: Option<&V>) -> Result<Hash> {
        let Some(value) = value else {
            return Ok(None);
        };
        self.buffer.clear();
        self.value
            .serialize(value, &mut self.buffer)
            .map_err(|error| {
                let what = format_args!("a left value of foreign-key join {}", self.operator);
                Fault::serde(what, error)
            })?;
        Ok(Some(xxh3_128(&self.buffer)))
    }
}

/// Registers the changes of the left table.
pub(super) struct Subscribe<K, V, FK, F> {
    pub kind: Kind,
    pub foreign_key: Arc<F>,
    pub foreign: SharedSerde<FK>,
    pub hash: ValueHash<V>,
    pub children: Fanout<Option<FK>, Registration<K>>,
}

impl<K, V, FK, F> Process<K, Change<V>> for Subscribe<K, V, FK, F>
where
    K: Data,
    V: Data,
    FK: Data,
    F: Fn(&K, &V) -> Option<FK>,
{
    fn process(&mut self, context: &mut Context<'_>, record: Record<K, Change<V>>) -> Result {
        let Record {
            key: primary,
            value: Change { new, old },
            timestamp,
            headers,
        } = record;
        let before = self.row(&primary, old.as_ref())?;
        let now = self.row(&primary, new.as_ref())?;
        if self.kind == Kind::Inner && matches!(now, Row::Pointless) {
            metrics::counter!("dropped-records", "reason" => "null foreign key").increment(1);
        }
        let Steps { leave, ask } = steps(self.kind, before, now);
        let left = leave.map(|old| (Some(old), Instruction::Leave));
        if left.is_none() && ask.is_none() {
            return Ok(());
        }
        let hash = self.hash.of(new.as_ref())?;
        for (key, instruction) in left.into_iter().chain(ask) {
            let value = Registration {
                instruction,
                hash,
                primary: primary.clone(),
                partition: context.task.partition,
            };
            let registration = Record {
                key,
                value,
                timestamp,
                headers: headers.clone(),
            };
            self.children.forward(context, registration)?;
        }
        Ok(())
    }
}

impl<K, V, FK, F: Fn(&K, &V) -> Option<FK>> Subscribe<K, V, FK, F> {
    fn row(&self, key: &K, value: Option<&V>) -> Result<Row<FK>> {
        let Some(value) = value else {
            return Ok(Row::Missing);
        };
        let points_to = (self.foreign_key)(key, value).filter(|key| !self.foreign.is_null(key));
        let Some(key) = points_to else {
            return Ok(Row::Pointless);
        };
        let mut bytes = Vec::new();
        self.foreign.serialize(&key, &mut bytes).map_err(|error| {
            let what = format_args!("a foreign key of join {}", self.hash.operator);
            Fault::serde(what, error)
        })?;
        Ok(Row::PointsTo(ForeignKey { key, bytes }))
    }
}

/// Makes results of answers, if the left row is still the one they are for.
pub(super) struct Resolve<K, V, R, F> {
    pub rows: Box<dyn Look<K, V>>,
    pub hash: ValueHash<V>,
    pub pair: Arc<F>,
    pub children: Fanout<K, Option<R>>,
}

impl<K, V, W, R, F> Process<K, Response<W>> for Resolve<K, V, R, F>
where
    K: Data,
    V: Data,
    R: Data,
    F: Fn(&K, V, Option<W>) -> Option<R>,
{
    fn process(&mut self, context: &mut Context<'_>, record: Record<K, Response<W>>) -> Result {
        let Record {
            key,
            value: Response { hash, value, .. },
            timestamp,
            headers,
        } = record;
        let left = self.rows.get(&key)?.map(|(row, _)| row);
        if self.hash.of(left.as_ref())? != hash {
            metrics::counter!("dropped-records", "reason" => "stale foreign-key response")
                .increment(1);
            return Ok(());
        }
        let result = left.and_then(|left| (self.pair)(&key, left, value));
        self.children.forward(
            context,
            Record {
                key,
                value: result,
                timestamp,
                headers,
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points_to(key: &'static str) -> Row<&'static str> {
        let bytes = key.as_bytes().to_vec();
        Row::PointsTo(ForeignKey { key, bytes })
    }

    #[test]
    fn what_a_change_registers() {
        use Instruction::{Answer, AnswerIfFound, LeaveAndAnswer};
        type Asked = Option<(Option<&'static str>, Instruction)>;
        let cases: [(_, _, (_, Asked), (_, Asked)); 9] = [
            (Row::Missing, Row::Missing, (None, None), (None, None)),
            (
                Row::Missing,
                Row::Pointless,
                (None, None),
                (None, Some((None, Answer))),
            ),
            (
                Row::Missing,
                points_to("a"),
                (None, Some((Some("a"), AnswerIfFound))),
                (None, Some((Some("a"), Answer))),
            ),
            (
                Row::Pointless,
                Row::Missing,
                (None, None),
                (None, Some((None, Answer))),
            ),
            (
                Row::Pointless,
                points_to("a"),
                (None, Some((Some("a"), AnswerIfFound))),
                (None, Some((Some("a"), Answer))),
            ),
            (
                points_to("a"),
                Row::Missing,
                (None, Some((Some("a"), LeaveAndAnswer))),
                (Some("a"), Some((None, Answer))),
            ),
            (
                points_to("a"),
                Row::Pointless,
                (None, Some((Some("a"), LeaveAndAnswer))),
                (Some("a"), Some((None, Answer))),
            ),
            (
                points_to("a"),
                points_to("a"),
                (None, Some((Some("a"), AnswerIfFound))),
                (None, Some((Some("a"), Answer))),
            ),
            (
                points_to("a"),
                points_to("b"),
                (Some("a"), Some((Some("b"), Answer))),
                (Some("a"), Some((Some("b"), Answer))),
            ),
        ];
        for (old, new, inner, left) in cases {
            let of = |(leave, ask)| Steps { leave, ask };
            assert_eq!(steps(Kind::Inner, old.clone(), new.clone()), of(inner));
            assert_eq!(steps(Kind::Left, old, new), of(left));
        }
    }
}
