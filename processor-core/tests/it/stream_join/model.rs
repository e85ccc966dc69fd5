//! What a join must give, worked out with lists and nothing else. It shares no code with the operator.

use super::{Kind, Side, shown};

/// A record of either side.
#[derive(Debug, Clone)]
pub struct Event {
    pub side: Side,
    pub key: u8,
    pub timestamp: i64,
    pub value: i64,
}

#[derive(Debug, Clone, Copy)]
pub struct Windows {
    pub before: i64,
    pub after: i64,
    pub grace: i64,
}

impl Windows {
    /// The last stream time at which a record at `timestamp` is open.
    fn open_until(self, side: Side, timestamp: i64) -> i64 {
        let reach = match side {
            Side::Left => self.after,
            Side::Right => self.before,
        };
        timestamp + reach + self.grace
    }

    fn meet(self, left: i64, right: i64) -> bool {
        left - self.before <= right && right <= left + self.after
    }
}

/// `(key, "left+right", timestamp)`, in order.
pub type Rows = Vec<(String, String, i64)>;

#[derive(Debug, Default, PartialEq)]
pub struct Outcome {
    pub results: Rows,
    pub late_left: Vec<i64>,
    pub late_right: Vec<i64>,
}

struct Seen {
    event: Event,
    matched: bool,
    emitted: bool,
}

pub fn expected(kind: Kind, windows: Windows, events: &[Event]) -> Outcome {
    let mut outcome = Outcome::default();
    let mut seen: Vec<Seen> = Vec::new();
    let mut time = -1;
    for event in events {
        time = time.max(event.timestamp);
        if event.timestamp == time {
            close(kind, windows, time, &mut seen, &mut outcome.results);
        }
        if time > windows.open_until(event.side, event.timestamp) {
            match event.side {
                Side::Left => outcome.late_left.push(event.value),
                Side::Right => outcome.late_right.push(event.value),
            }
            continue;
        }
        let mut partners: Vec<&mut Seen> = seen
            .iter_mut()
            .filter(|s| s.event.side != event.side && s.event.key == event.key)
            .filter(|s| {
                let open = time <= windows.open_until(s.event.side, s.event.timestamp);
                open || !kind.gives_up(s.event.side)
            })
            .filter(|s| match event.side {
                Side::Left => windows.meet(event.timestamp, s.event.timestamp),
                Side::Right => windows.meet(s.event.timestamp, event.timestamp),
            })
            .collect();
        partners.sort_by_key(|s| s.event.timestamp);
        let matched = !partners.is_empty();
        for partner in partners {
            partner.matched = true;
            let pair = match event.side {
                Side::Left => shown(Some(event.value), Some(partner.event.value)),
                Side::Right => shown(Some(partner.event.value), Some(event.value)),
            };
            let later = event.timestamp.max(partner.event.timestamp);
            outcome.results.push((event.key.to_string(), pair, later));
        }
        seen.push(Seen {
            event: event.clone(),
            matched,
            emitted: false,
        });
    }
    outcome
}

fn close(kind: Kind, windows: Windows, time: i64, seen: &mut [Seen], results: &mut Rows) {
    let mut closed: Vec<&mut Seen> = seen
        .iter_mut()
        .filter(|s| !s.matched && !s.emitted)
        .filter(|s| time > windows.open_until(s.event.side, s.event.timestamp))
        .filter(|s| kind.gives_up(s.event.side))
        .collect();
    // Stable: equal ones stay in the order in which they came.
    closed.sort_by_key(|s| (s.event.timestamp, s.event.side == Side::Left, s.event.key));
    for s in closed {
        s.emitted = true;
        let value = Some(s.event.value);
        let pair = match s.event.side {
            Side::Left => shown(value, None),
            Side::Right => shown(None, value),
        };
        results.push((s.event.key.to_string(), pair, s.event.timestamp));
    }
}
