//! What the type of a stream says about its key.

/// Whether records still lie in the partition of their key.
///
/// A stream read from a topic is [`Partitioned`]: equal keys are in one partition. An operator that may change the key
/// makes it [`Rekeyed`]; grouping or joining such a stream sends it through a repartition topic first.
pub trait Lineage: 'static {
    /// Whether a stateful operator must repartition first.
    const MUST_REPARTITION: bool;
}

/// Equal keys are in the same partition.
#[derive(Debug, Clone, Copy)]
pub struct Partitioned;

/// The key may have changed since the records were partitioned.
#[derive(Debug, Clone, Copy)]
pub struct Rekeyed;

impl Lineage for Partitioned {
    const MUST_REPARTITION: bool = false;
}

impl Lineage for Rekeyed {
    const MUST_REPARTITION: bool = true;
}

/// The lineage of two merged streams: partitioned only if both are.
pub trait MergeWith<Other: Lineage>: Lineage {
    /// The lineage of the merged stream.
    type Merged: Lineage;
}

impl<L: Lineage> MergeWith<L> for Partitioned {
    type Merged = L;
}

impl<L: Lineage> MergeWith<L> for Rekeyed {
    type Merged = Rekeyed;
}
