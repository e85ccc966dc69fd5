//! Joins of two streams over a window of event time: inner, left and outer.
//!
//! A left record at `t` meets right records in `[t − before, t + after]`, both ends included. Its window is closed once
//! stream time is beyond `t + after + grace`; a right record's, once it is beyond `t + before + grace`; a bound that is
//! negative counts as 0 there. Stream time is the largest timestamp of both inputs.
//!
//! Source of the semantics: Kafka Streams' `KStreamKStreamJoin`, with two deliberate differences.
//! - A record whose own window is closed is late: it goes to the late branch and meets nothing (Kafka Streams joins
//!   whatever its store still holds, KAFKA-16123). One in time meets every partner within the window, closed or not.
//! - An unmatched record waits for its window *and grace*, and a record of an outer side meets nobody once its window is
//!   closed, so an unmatched result is final (KAFKA-19536).
//!
//! Unmatched results leave when a record with key and value comes at stream time and their window is closed: before that
//! record is joined, by timestamp, right side first, then key.

pub(super) mod node;
pub(super) mod pending;
mod windows;

use std::cell::RefCell;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;

use crate::processor::OperatorTime;
use crate::record::Data;
use crate::serde::SharedSerde;
use crate::topology::{NodeKind, StoreId, StoreKind};

use self::node::{JoinNode, LeftInput, RightInput, Side};
use self::pending::Pending;
pub use self::windows::{JoinWindows, JoinWithoutGrace};
use super::late::{Late, LateBranch};
use super::lineage::{Lineage, Partitioned};
use super::outlet::Outlet;
use super::{KStream, Keyless, repartition_once};

/// The results of a join, and the records that came too late for it.
pub struct Joined<K, V, W, R> {
    results: KStream<K, R, Partitioned>,
    late_left: KStream<K, Late<V>, Partitioned>,
    late_right: KStream<K, Late<W>, Partitioned>,
}

impl<K: Data, V: Data, W: Data, R: Data> Joined<K, V, W, R> {
    /// Left records that came after their window had closed. Without a consumer they are counted as dropped.
    ///
    /// They keep their key, timestamp and headers. No store and no topic is made. Kafka Streams joins such a record
    /// with what its store still holds (KAFKA-16123).
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use processor_core::dsl::{Consumed, JoinWindows, Produced, StreamsBuilder};
    /// # use processor_core::serde::{int64, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("auctions");
    /// # let bids = builder.stream("bids", Consumed::new(utf8(), int64()));
    /// # let wins = builder.stream("wins", Consumed::new(utf8(), int64()));
    /// let within = JoinWindows::of(Duration::from_millis(10)).grace(Duration::from_millis(5));
    /// let saved = bids.join("saved", &wins, within, |_, bid, price| bid - price);
    /// saved.late_left().map_values(|_, late| late.value).to_with("late-bids", Produced::new(utf8(), int64()));
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let (bids, wins) = (driver.input("bids", utf8(), int64()), driver.input("wins", utf8(), int64()));
    /// wins.pipe(&mut driver, "vase".to_owned(), 60, 100);
    /// bids.pipe(&mut driver, "vase".to_owned(), 70, 85);
    /// bids.pipe(&mut driver, "vase".to_owned(), 80, 84); // its window and grace ended at 99
    /// let late = driver.output("late-bids", utf8(), int64()).read_key_values(&mut driver);
    /// assert_eq!(late, [("vase".to_owned(), 80)]);
    /// ```
    #[must_use]
    pub fn late_left(&self) -> KStream<K, Late<V>, Partitioned> {
        self.late_left.clone()
    }

    /// Right records that came after their window had closed.
    ///
    /// Otherwise as [`late_left`](Self::late_left).
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use processor_core::dsl::{Consumed, JoinWindows, Produced, StreamsBuilder};
    /// # use processor_core::serde::{int64, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("auctions");
    /// # let bids = builder.stream("bids", Consumed::new(utf8(), int64()));
    /// # let wins = builder.stream("wins", Consumed::new(utf8(), int64()));
    /// let within = JoinWindows::of(Duration::from_millis(10)).grace(Duration::from_millis(5));
    /// let saved = bids.join("saved", &wins, within, |_, bid, price| bid - price);
    /// saved.late_right().map_values(|_, late| late.value).to_with("late-wins", Produced::new(utf8(), int64()));
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let (bids, wins) = (driver.input("bids", utf8(), int64()), driver.input("wins", utf8(), int64()));
    /// bids.pipe(&mut driver, "vase".to_owned(), 70, 100);
    /// wins.pipe(&mut driver, "vase".to_owned(), 60, 84); // its window and grace ended at 99
    /// let late = driver.output("late-wins", utf8(), int64()).read_key_values(&mut driver);
    /// assert_eq!(late, [("vase".to_owned(), 60)]);
    /// ```
    #[must_use]
    pub fn late_right(&self) -> KStream<K, Late<W>, Partitioned> {
        self.late_right.clone()
    }
}

impl<K, V, W, R> Deref for Joined<K, V, W, R> {
    type Target = KStream<K, R, Partitioned>;

    fn deref(&self) -> &Self::Target {
        &self.results
    }
}

/// Which sides emit without a match.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Outer {
    left: bool,
    right: bool,
}

type Join<K, V, W, R> = Arc<dyn Fn(&K, Option<V>, Option<W>) -> R + Send + Sync>;

impl<K: Data, V: Data, L: Lineage> KStream<K, V, L> {
    /// Joins each pair of records with equal keys that lie within the windows.
    ///
    /// Emits when the second of a pair comes, with the later timestamp of the two and the headers of the second. Records with
    /// a null key or value are dropped and counted. One whose own window and grace are over is late: it meets nothing and
    /// comes out of [`late_left`](Joined::late_left) or [`late_right`](Joined::late_right).
    ///
    /// Keeps both sides in the join stores `<name>-this` and `<name>-other`, for the window and the grace; a stream that is
    /// joined with itself, where the topology is [optimised](super::StreamsBuilder::optimize), in `<name>-this` alone. Their
    /// changelogs are `<application id>-<store>-changelog`. Both streams must be co-partitioned; one whose key may have
    /// changed is sent through a repartition topic (`<application id>-<name>-left-repartition`, `…-right-repartition`) first.
    /// Source of the semantics: Kafka Streams' `KStreamKStreamJoin`, with two differences that the page of the module names.
    ///
    /// # Errors
    /// [`build`](super::StreamsBuilder::build) refuses a stream without serdes; the start refuses topics with unequal
    /// partition counts.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use processor_core::dsl::{Consumed, JoinWindows, Produced, StreamsBuilder};
    /// # use processor_core::serde::{int64, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("auctions");
    /// let bids = builder.stream("bids", Consumed::new(utf8(), int64()));
    /// let wins = builder.stream("wins", Consumed::new(utf8(), int64()));
    /// let within = JoinWindows::of(Duration::from_millis(10)).grace(Duration::from_millis(5));
    /// bids.join("saved", &wins, within, |_, bid, price| bid - price)
    ///     .to_with("saved", Produced::new(utf8(), int64()));
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let (bids, wins) = (driver.input("bids", utf8(), int64()), driver.input("wins", utf8(), int64()));
    /// bids.pipe(&mut driver, "vase".to_owned(), 70, 0);
    /// bids.pipe(&mut driver, "lamp".to_owned(), 30, 1);
    /// wins.pipe(&mut driver, "vase".to_owned(), 60, 10);
    /// wins.pipe(&mut driver, "lamp".to_owned(), 20, 12); // one too far apart
    /// let saved = driver.output("saved", utf8(), int64()).read(&mut driver);
    /// assert_eq!(saved.len(), 1);
    /// assert_eq!((saved[0].value, saved[0].timestamp), (10, 10));
    /// ```
    pub fn join<W: Data, R: Data, M: Lineage>(
        &self,
        name: &str,
        other: &KStream<K, W, M>,
        windows: JoinWindows,
        join: impl Fn(&K, V, W) -> R + Send + Sync + 'static,
    ) -> Joined<K, V, W, R> {
        let both = move |key: &K, left: Option<V>, right: Option<W>| match (left, right) {
            (Some(left), Some(right)) => join(key, left, right),
            _ => unreachable!("an inner join emits pairs only"),
        };
        self.join_streams(
            name,
            other,
            windows,
            Outer {
                left: false,
                right: false,
            },
            Arc::new(both),
        )
    }

    /// Like [`join`](Self::join), and a left record that met nothing until its window and grace were over is joined
    /// with `None`, once, with its own timestamp. A left record with a null key is joined with `None` at once.
    ///
    /// What met nothing leaves when a record with key and value moves stream time past it, before that record is joined: by
    /// timestamp, then key. It waits in a key-value store beside the other two, `<name>-pending`.
    ///
    /// Stores, topics and errors are otherwise as for [`join`](Self::join). Source of the semantics: Kafka Streams'
    /// `KStream#leftJoin`.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use processor_core::dsl::{Consumed, JoinWindows, Produced, StreamsBuilder};
    /// # use processor_core::serde::{int64, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("ads");
    /// let shown = builder.stream("shown", Consumed::new(utf8(), int64()));
    /// let clicks = builder.stream("clicks", Consumed::new(utf8(), int64()));
    /// let within = JoinWindows::between(Duration::ZERO, Duration::from_millis(10)).grace(Duration::from_millis(5));
    /// shown
    ///     .left_join("clicked", &clicks, within, |_, _, click| i64::from(click.is_some()))
    ///     .to_with("clicked", Produced::new(utf8(), int64()));
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let (shown, clicks) = (driver.input("shown", utf8(), int64()), driver.input("clicks", utf8(), int64()));
    /// shown.pipe(&mut driver, "ann".to_owned(), 1, 0);
    /// shown.pipe(&mut driver, "bob".to_owned(), 1, 1);
    /// clicks.pipe(&mut driver, "ann".to_owned(), 1, 7);
    /// shown.pipe(&mut driver, "cid".to_owned(), 1, 17); // bob's window and grace are over
    /// let clicked = driver.output("clicked", utf8(), int64()).read_key_values(&mut driver);
    /// assert_eq!(clicked, [("ann".to_owned(), 1), ("bob".to_owned(), 0)]);
    /// ```
    pub fn left_join<W: Data, R: Data, M: Lineage>(
        &self,
        name: &str,
        other: &KStream<K, W, M>,
        windows: JoinWindows,
        join: impl Fn(&K, V, Option<W>) -> R + Send + Sync + 'static,
    ) -> Joined<K, V, W, R> {
        let left_always = move |key: &K, left: Option<V>, right: Option<W>| match left {
            Some(left) => join(key, left, right),
            None => unreachable!("a left join emits no right record alone"),
        };
        let outer = Outer {
            left: true,
            right: false,
        };
        self.join_streams(name, other, windows, outer, Arc::new(left_always))
    }

    /// Like [`left_join`](Self::left_join), for both sides. At equal timestamps the right side's unmatched records leave
    /// first.
    ///
    /// Nulls, late records, stores, topics and errors are as for [`join`](Self::join), but a record of either side with
    /// a null key is joined with `None` at once. Source of the semantics: Kafka Streams' `KStream#outerJoin`.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use processor_core::dsl::{Consumed, JoinWindows, Produced, StreamsBuilder};
    /// # use processor_core::serde::{int64, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("books");
    /// let ours = builder.stream("ours", Consumed::new(utf8(), int64()));
    /// let theirs = builder.stream("theirs", Consumed::new(utf8(), int64()));
    /// let within = JoinWindows::of(Duration::from_millis(10)).grace(Duration::ZERO);
    /// ours.outer_join("differences", &theirs, within, |_, ours, theirs| ours.unwrap_or(0) - theirs.unwrap_or(0))
    ///     .to_with("differences", Produced::new(utf8(), int64()));
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let (ours, theirs) = (driver.input("ours", utf8(), int64()), driver.input("theirs", utf8(), int64()));
    /// ours.pipe(&mut driver, "a".to_owned(), 5, 0);
    /// theirs.pipe(&mut driver, "a".to_owned(), 5, 3);
    /// ours.pipe(&mut driver, "b".to_owned(), 7, 4);
    /// theirs.pipe(&mut driver, "c".to_owned(), 9, 5);
    /// ours.pipe(&mut driver, "d".to_owned(), 1, 30);
    /// let differences = driver.output("differences", utf8(), int64()).read_key_values(&mut driver);
    /// assert_eq!(differences, [("a".to_owned(), 0), ("b".to_owned(), 7), ("c".to_owned(), -9)]);
    /// ```
    pub fn outer_join<W: Data, R: Data, M: Lineage>(
        &self,
        name: &str,
        other: &KStream<K, W, M>,
        windows: JoinWindows,
        join: impl Fn(&K, Option<V>, Option<W>) -> R + Send + Sync + 'static,
    ) -> Joined<K, V, W, R> {
        self.join_streams(
            name,
            other,
            windows,
            Outer {
                left: true,
                right: true,
            },
            Arc::new(join),
        )
    }

    fn join_streams<W: Data, R: Data, M: Lineage>(
        &self,
        name: &str,
        other: &KStream<K, W, M>,
        windows: JoinWindows,
        outer: Outer,
        join: Join<K, V, W, R>,
    ) -> Joined<K, V, W, R> {
        let left = self.partitioned(&format!("{name}-left"));
        let right = other.partitioned(&format!("{name}-right"));
        let results = Outlet::<K, R>::new();
        let (late_left, late_right) = (Outlet::<K, Late<V>>::new(), Outlet::<K, Late<W>>::new());

        let one_store = self.plan.borrow().optimized
            && !(outer.left || outer.right)
            && left.outlet.is(&*right.outlet)
            && same_bytes(left.value.as_ref(), right.value.as_ref());
        let retention_ms = windows.retention_ms();
        let (node, stores) = {
            let mut plan = self.plan.borrow_mut();
            let mut stores = Stores {
                left: plan.add_store(&format!("{name}-this"), StoreKind::Join { retention_ms }),
                right: None,
                pending: (outer.left || outer.right)
                    .then(|| plan.add_store(&format!("{name}-pending"), StoreKind::KeyValue)),
            };
            if !one_store {
                let right =
                    plan.add_store(&format!("{name}-other"), StoreKind::Join { retention_ms });
                stores.right = Some(right);
            }
            let ids = std::iter::once(stores.left)
                .chain(stores.right)
                .chain(stores.pending)
                .collect();
            let parents = vec![left.node, right.node];
            let kind = NodeKind::Operator(match one_store {
                true => "stream self-join",
                false => "stream-stream join",
            });
            let node = plan.add_node(name.to_owned(), kind, parents.clone(), ids);
            plan.copartitioned.push((name.to_owned(), parents));
            if let (Some(key), Some(left), Some(right)) = (&left.key, &left.value, &right.value) {
                plan.describe_store(stores.left, &**key, &**left);
                if let Some(store) = stores.right {
                    plan.describe_store(store, &**key, &**right);
                }
            }
            (node, stores)
        };
        let plan = &self.plan;
        let joined = Joined {
            results: KStream::new(
                Rc::clone(plan),
                node,
                Arc::clone(&results),
                left.key.clone(),
                None,
            ),
            late_left: KStream::new(
                Rc::clone(plan),
                node,
                Arc::clone(&late_left),
                left.key.clone(),
                None,
            ),
            late_right: KStream::new(
                Rc::clone(plan),
                node,
                Arc::clone(&late_right),
                left.key.clone(),
                None,
            ),
        };
        let (Some(key), Some(left_serde), Some(right_serde)) =
            (left.key.clone(), left.value.clone(), right.value.clone())
        else {
            plan.borrow_mut().problems.push(format!(
                "join '{name}' needs serdes for the key and both values; an operator changed a type, so send the \
                 stream through `repartition` with its serdes first"
            ));
            return joined;
        };

        let name = name.to_owned();
        let shared = Arc::new(
            move |instantiation: &mut crate::processor::Instantiation<'_>| {
                instantiation.shared(node, |instantiation| {
                    let time = OperatorTime::new(instantiation.times, &name);
                    let right_time = time.by_input(instantiation.times, &name, "right");
                    let left_store = instantiation.join(stores.left)?;
                    let right_store = instantiation.join(stores.right.unwrap_or(stores.left))?;
                    // What had expired before a restart stays so: a probe must not find it again.
                    let (left_from, right_from) = windows.met_from(outer, time.now());
                    left_store.borrow_mut().restore_horizon(left_from);
                    right_store.borrow_mut().restore_horizon(right_from);
                    let node = Rc::new(RefCell::new(JoinNode {
                        name: name.clone(),
                        windows,
                        outer,
                        join: Arc::clone(&join),
                        time,
                        right_time,
                        key: Arc::clone(&key),
                        left: Side {
                            store: left_store,
                            value: Arc::clone(&left_serde),
                        },
                        right: Side {
                            store: right_store,
                            value: Arc::clone(&right_serde),
                        },
                        one_store,
                        pending: match stores.pending {
                            Some(store) => Some(Pending::open(instantiation.key_value(store)?)?),
                            None => None,
                        },
                        key_buffer: Vec::new(),
                        value_buffer: Vec::new(),
                        results: results.instantiate(instantiation)?,
                        late_left: LateBranch::new(&name, late_left.instantiate(instantiation)?),
                        late_right: LateBranch::new(&name, late_right.instantiate(instantiation)?),
                    }));
                    instantiation.wakes.push(Rc::clone(&node) as _);
                    Ok(node)
                })
            },
        );
        let for_right = Arc::clone(&shared);
        left.outlet
            .attach(move |instantiation| Ok(Box::new(LeftInput(shared(instantiation)?))));
        right
            .outlet
            .attach(move |instantiation| Ok(Box::new(RightInput(for_right(instantiation)?))));
        joined
    }

    /// This stream, repartitioned under `name` if its key may have changed; with its records without a key, since those
    /// move time too.
    pub(crate) fn partitioned(&self, name: &str) -> KStream<K, V, Partitioned> {
        let as_it_is = || {
            let (plan, outlet) = (Rc::clone(&self.plan), Arc::clone(&self.outlet));
            KStream::new(
                plan,
                self.node,
                outlet,
                self.key.clone(),
                self.value.clone(),
            )
        };
        if !L::MUST_REPARTITION {
            return as_it_is();
        }
        match (self.key.clone(), self.value.clone()) {
            (Some(key), Some(value)) => repartition_once(self, name, key, value, Keyless::Kept),
            _ => {
                self.plan.borrow_mut().problems.push(format!(
                    "'{name}' must be repartitioned, but has no serdes, since an operator changed a type; use \
                     `repartition(\"{name}\", key serde, value serde, None)` before it"
                ));
                as_it_is()
            }
        }
    }
}

#[derive(Clone, Copy)]
struct Stores {
    left: StoreId,
    /// None where both sides are in one store.
    right: Option<StoreId>,
    pending: Option<StoreId>,
}

/// Whether these serdes, of the values of one stream, read each other's bytes, as far as can be told.
fn same_bytes<V, W>(left: Option<&SharedSerde<V>>, right: Option<&SharedSerde<W>>) -> bool {
    let format = left.and_then(|serde| serde.format());
    format.is_some() && format == right.and_then(|serde| serde.format())
}

/// A side, in the order in which unmatched results of one timestamp leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Input {
    Right = 0,
    Left = 1,
}
