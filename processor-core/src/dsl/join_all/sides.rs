//! The streams that are joined with a first one, as a tuple.

use std::sync::Arc;

use crate::dsl::KStream;
use crate::dsl::late::Late;
use crate::dsl::lineage::{Lineage, Partitioned};
use crate::record::Data;
use crate::serde::{SerdeError, SharedSerde};

use super::Building;
use super::node::Decode;

/// One to five streams that are joined with a first one: a tuple of references to them.
pub trait JoinSides<K, V> {
    /// A value of each stream.
    type Complete: Data;
    /// A value of each stream that has one.
    type Partial: Data;
    /// The late records of each stream.
    type Late;

    #[doc(hidden)]
    fn count(&self) -> usize;
    #[doc(hidden)]
    fn decode_complete(&self, first: Option<SharedSerde<V>>) -> Decode<Self::Complete>;
    #[doc(hidden)]
    fn decode_partial(&self, first: Option<SharedSerde<V>>) -> Decode<Self::Partial>;
    #[doc(hidden)]
    fn attach<R: Data>(
        &self,
        first: &KStream<K, V, Partitioned>,
        building: &Building<K, R>,
    ) -> Self::Late;
}

macro_rules! tuple_of_streams {
    ($($value:ident $lineage:ident $serde:ident $index:tt $side:literal),+; $count:literal) => {
        impl<K: Data, V: Data, $($value: Data, $lineage: Lineage),+> JoinSides<K, V>
            for ($(&KStream<K, $value, $lineage>,)+)
        {
            type Complete = (V, $($value),+);
            type Partial = (Option<V>, $(Option<$value>),+);
            type Late = (
                KStream<K, Late<V>, Partitioned>,
                $(KStream<K, Late<$value>, Partitioned>),+
            );

            fn count(&self) -> usize {
                $count
            }

            fn decode_complete(&self, first: Option<SharedSerde<V>>) -> Decode<Self::Complete> {
                $(let $serde = self.$index.value.clone();)+
                Arc::new(move |parts| {
                    Ok((required(&first, parts[0])?, $(required(&$serde, parts[$side])?),+))
                })
            }

            fn decode_partial(&self, first: Option<SharedSerde<V>>) -> Decode<Self::Partial> {
                $(let $serde = self.$index.value.clone();)+
                Arc::new(move |parts| {
                    Ok((optional(&first, parts[0])?, $(optional(&$serde, parts[$side])?),+))
                })
            }

            fn attach<R: Data>(
                &self,
                first: &KStream<K, V, Partitioned>,
                building: &Building<K, R>,
            ) -> Self::Late {
                (building.side(0, first), $(building.side($side, self.$index)),+)
            }
        }
    };
}

tuple_of_streams!(A LA a 0 1; 1);
tuple_of_streams!(A LA a 0 1, B LB b 1 2; 2);
tuple_of_streams!(A LA a 0 1, B LB b 1 2, C LC c 2 3; 3);
tuple_of_streams!(A LA a 0 1, B LB b 1 2, C LC c 2 3, D LD d 3 4; 4);
tuple_of_streams!(A LA a 0 1, B LB b 1 2, C LC c 2 3, D LD d 3 4, E LE e 4 5; 5);

fn optional<T>(
    serde: &Option<SharedSerde<T>>,
    bytes: Option<&[u8]>,
) -> Result<Option<T>, SerdeError> {
    let serde = serde.as_ref().expect("a topology without is refused");
    bytes.map(|bytes| serde.deserialize(bytes)).transpose()
}

fn required<T>(serde: &Option<SharedSerde<T>>, bytes: Option<&[u8]>) -> Result<T, SerdeError> {
    let value = optional(serde, bytes)?;
    Ok(value.expect("a complete result has a value of each stream"))
}
