//! The fixed functions that the operators of a case apply; `SPEC.md` defines them. Arithmetic wraps at 64 bits.

use processor_core::Windowed;

use crate::case::Op;

/// Keys of all streams.
pub(crate) type Key = Option<String>;
/// Values of all streams.
pub(crate) type Number = Option<i64>;

const PRIME: i64 = 1_000_003;

/// Null counts as −1 wherever a function needs a number.
pub(crate) fn nz(value: Number) -> i64 {
    value.unwrap_or(-1)
}

pub(crate) fn join(left: Number, right: Number) -> Number {
    Some(nz(left).wrapping_mul(100_000).wrapping_add(nz(right)))
}

/// The adder of reduce.
pub(crate) fn plus(a: Number, b: Number) -> Number {
    Some(nz(a).wrapping_add(nz(b)))
}

/// The adder of aggregate, and what merges sessions.
pub(crate) fn fold(aggregate: i64, value: Number) -> i64 {
    step(aggregate, 31, value)
}

/// The subtractor of aggregate.
pub(crate) fn unfold(aggregate: i64, value: Number) -> i64 {
    step(aggregate, 37, value)
}

fn step(aggregate: i64, factor: i64, value: Number) -> i64 {
    aggregate
        .wrapping_mul(factor)
        .wrapping_add(nz(value))
        .rem_euclid(PRIME)
}

pub(crate) fn group(value: Number, modulus: i64) -> Key {
    value.map(|value| format!("g{}", value.rem_euclid(modulus)))
}

/// A windowed key as text.
pub(crate) fn render(key: &Windowed<Key>) -> Key {
    let inner = key.key.as_deref().unwrap_or("null");
    Some(format!("{inner}@{}..{}", key.start, key.end))
}

/// The predicate of filters and branches.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Predicate {
    modulus: i64,
    remainder: i64,
}

impl Predicate {
    pub(crate) fn of(op: &Op) -> Self {
        Self {
            modulus: op.number("mod", 2),
            remainder: op.number("rem", 0),
        }
    }

    pub(crate) fn holds(self, value: Number) -> bool {
        value.is_some_and(|value| value.rem_euclid(self.modulus) == self.remainder)
    }
}

/// The value mapper.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mapper {
    factor: i64,
    summand: i64,
    with_key: bool,
}

impl Mapper {
    pub(crate) fn of(op: &Op) -> Self {
        Self {
            factor: op.number("mul", 1),
            summand: op.number("add", 0),
            with_key: op.flag("with_key"),
        }
    }

    pub(crate) fn apply(self, key: &Key, value: Number) -> Number {
        let mapped = value?.wrapping_mul(self.factor).wrapping_add(self.summand);
        match key {
            Some(key) if self.with_key => Some(mapped.wrapping_add(length(key))),
            _ => Some(mapped),
        }
    }
}

/// Length as Java counts it.
pub(crate) fn length(key: &str) -> i64 {
    i64::try_from(key.encode_utf16().count()).unwrap_or(i64::MAX)
}
