//! The path to a conversion: the eligible touches of one precedence, in the order of their times, as many as a model looks
//! at.

use crate::log::Timestamp;

use super::Model;
use super::touch::TouchRow;

/// A touch on a path, with its value as bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OnPath {
    pub timestamp: Timestamp,
    pub id: String,
    /// Number of its stream.
    pub stream: usize,
    pub campaign: String,
    pub value: Vec<u8>,
}

impl OnPath {
    fn place(&self) -> Place<'_> {
        (self.timestamp, &self.id, self.stream)
    }
}

/// Where a touch lies on a path: by time, then id. Ids of two streams may be equal.
type Place<'a> = (Timestamp, &'a str, usize);

/// Which touches a path holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keeps {
    Earliest,
    Latest,
    /// So many, the latest.
    UpTo(usize),
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Path {
    keeps: Keeps,
    touches: Vec<OnPath>,
    offered: usize,
}

impl Path {
    /// A path for `model`, of up to `max` touches. `Last` and `First` look at one.
    pub(super) fn new(model: Model, max: usize) -> Self {
        Self {
            keeps: match model {
                Model::First => Keeps::Earliest,
                Model::Last => Keeps::Latest,
                _ => Keeps::UpTo(max),
            },
            touches: Vec::new(),
            offered: 0,
        }
    }

    /// Takes an eligible touch, if it belongs to those that the path keeps. In any order; the copying is for what stays.
    pub(super) fn offer(&mut self, stream: usize, timestamp: Timestamp, row: &TouchRow<'_>) {
        self.offered += 1;
        let place = (timestamp, row.id, stream);
        let at = self.touches.partition_point(|other| other.place() < place);
        let touch = || OnPath {
            timestamp,
            id: row.id.to_owned(),
            stream,
            campaign: row.campaign.to_owned(),
            value: row.value.to_vec(),
        };
        let room = match self.keeps {
            Keeps::Earliest if at > 0 => return,
            Keeps::Earliest => {
                self.touches = vec![touch()];
                return;
            }
            Keeps::Latest => 1,
            Keeps::UpTo(max) => max,
        };
        if self.touches.len() < room {
            self.touches.insert(at, touch());
        } else if at > 0 {
            // The earliest one makes room.
            self.touches[..at].rotate_left(1);
            self.touches[at - 1] = touch();
        }
    }

    /// Whether no touch was offered.
    pub(super) fn is_empty(&self) -> bool {
        self.offered == 0
    }

    /// Its touches, the earliest first.
    pub(super) fn touches(&self) -> &[OnPath] {
        &self.touches
    }

    /// Touches that were eligible, but more than a model of several touches looks at.
    pub(super) fn truncated(&self) -> usize {
        match self.keeps {
            Keeps::UpTo(_) => self.offered - self.touches.len(),
            Keeps::Earliest | Keeps::Latest => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn path(model: Model, max: usize, touches: &[(Timestamp, &str)]) -> Path {
        let mut path = Path::new(model, max);
        for (timestamp, id) in touches {
            let row = TouchRow {
                id,
                campaign: "",
                value: b"",
            };
            path.offer(0, *timestamp, &row);
        }
        path
    }

    fn ids(path: &Path) -> Vec<&str> {
        path.touches().iter().map(|t| t.id.as_str()).collect()
    }

    #[test]
    fn it_is_in_order_of_time_then_id_whatever_comes_first() {
        let touches = [(5, "a"), (3, "z"), (5, "B"), (4, "m")];
        assert_eq!(ids(&path(Model::Linear, 9, &touches)), ["z", "m", "B", "a"]);
        assert_eq!(ids(&path(Model::Last, 9, &touches)), ["a"]);
        assert_eq!(ids(&path(Model::First, 9, &touches)), ["z"]);
    }

    #[test]
    fn it_holds_the_latest_and_says_how_many_more_there_were() {
        let touches = [(5, "a"), (3, "z"), (5, "b"), (4, "m")];
        let linear = path(Model::Linear, 2, &touches);
        assert_eq!((ids(&linear), linear.truncated()), (vec!["a", "b"], 2));
        // One touch is all that these look at, so nothing is cut off.
        assert_eq!(path(Model::Last, 2, &touches).truncated(), 0);
        assert_eq!(path(Model::First, 2, &touches).truncated(), 0);
        assert!(path(Model::First, 2, &[]).is_empty());
    }

    proptest! {
        #[test]
        fn it_holds_what_sorting_all_would_give(
            touches in prop::collection::vec((0..9_i64, "[a-c]{1,2}"), 0..30),
            max in 1..9_usize,
        ) {
            let touches: Vec<(i64, &str)> = touches.iter().map(|(t, id)| (*t, id.as_str())).collect();
            let mut sorted = touches.clone();
            sorted.sort_unstable();
            let latest = &sorted[sorted.len().saturating_sub(max)..];
            let found = path(Model::Linear, max, &touches);
            prop_assert_eq!(ids(&found), latest.iter().map(|t| t.1).collect::<Vec<_>>());
            prop_assert_eq!(found.touches().len() + found.truncated(), sorted.len());
        }
    }
}
