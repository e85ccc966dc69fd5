//! What of `SPEC.md` the DSL does not have.

use crate::case::Op;

/// What an operator makes, and takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Stream,
    Table,
    WindowedTable,
    GlobalTable,
    Group,
    TableGroup,
    Cogroup,
    Windows,
}

/// Something that the DSL lacks: what it is, and whether an operator over inputs of these kinds is one.
struct Missing {
    what: &'static str,
    is: fn(&Op, &[Kind]) -> bool,
}

/// The one list of what is unsupported. A case that has any of it gives the error `Unsupported`.
const MISSING: &[Missing] = &[
    Missing {
        what: "versioned tables",
        is: |op, _| op.op == "table" && op.has("versioned"),
    },
    Missing {
        what: "stream-table joins with grace",
        is: |op, of| is_join(op) && of.get(1) == Some(&Kind::Table) && op.has("grace"),
    },
];
/// What the DSL lacks for this operator, if anything.
pub(crate) fn missing(op: &Op, of: &[Kind]) -> Option<&'static str> {
    let lacking = MISSING.iter().find(|missing| (missing.is)(op, of));
    lacking.map(|missing| missing.what)
}

fn is_one_of(op: &Op, names: &[&str]) -> bool {
    names.contains(&op.op.as_str())
}

fn is_join(op: &Op) -> bool {
    is_one_of(op, &["join", "left_join", "outer_join"])
}
