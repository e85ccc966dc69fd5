//! Joins of more than two streams, in one step and with one store: no intermediate results.
//!
//! Records of a key belong together if they lie within the window of each other, each of another stream: the earliest and
//! the latest of them are no further apart than the window, both ends included. Where a stream has several records in
//! reach, each of them gives a result of its own, as in a join of two.
//!
//! | | a result has | it leaves |
//! |---|---|---|
//! | [`join_all`](KStream::join_all) | a record of each stream | at once, when the last of them has come |
//! | [`outer_join_all`](KStream::outer_join_all) | records to which no further one could be added; the other streams are `None` | once, when it is final: when a record that could be added would be late |
//!
//! So an outer join gives all that the other one does, and what is left over. With two streams they are the inner and the
//! outer join over a window that reaches as far before as after.
//!
//! **Time** is that of each stream: the largest timestamp it has brought, behind a repartition topic the slowest upstream
//! task's. A record that lies more than the grace below the time of its own stream is late, goes to a late branch, and meets
//! nobody. A stream that lags delays what an outer join emits, and loses nothing; one that has ended holds it back for ever,
//! unless its source lets it be [idle](super::Consumed::idle_after) or [`JoinAllWindow::max_lag`] says how far it may lag.
//!
//! Results have the largest timestamp of their records. Those that leave at once have the headers of the record that
//! completes them, and leave by the order of the streams, each by time. Final ones have none, and leave by the time of their
//! earliest record, then by the bytes of their key.

mod combinations;
mod node;
mod sides;
mod window;

use std::cell::RefCell;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;

use crate::error::Result;
use crate::processor::Instantiation;
use crate::record::Data;
use crate::serde::SharedSerde;
use crate::topology::{NodeId, NodeKind, Plan, StoreId, StoreKind};

use self::node::{Decode, JoinAllNode, Open, SideInput};
pub use self::sides::JoinSides;
pub use self::window::{JoinAllWindow, JoinAllWithoutGrace};
use super::KStream;
use super::late::{Late, LateBranch};
use super::lateness::{InputTimes, wake_by_input};
use super::lineage::{Lineage, Partitioned};
use super::outlet::Outlet;

/// The results of a join of many streams, and the records that came too late for it.
pub struct JoinedAll<K, R, L> {
    results: KStream<K, R, Partitioned>,
    late: L,
}

impl<K, R, L> JoinedAll<K, R, L> {
    /// The late records of each stream, as a tuple. Without a consumer they are counted as dropped.
    ///
    /// No store and no topic is made.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use processor_core::dsl::{Consumed, JoinAllWindow, Produced, StreamsBuilder};
    /// # use processor_core::serde::{int64, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("auctions");
    /// # let bids = builder.stream("bids", Consumed::new(utf8(), int64()));
    /// # let clicks = builder.stream("clicks", Consumed::new(utf8(), int64()));
    /// let window = JoinAllWindow::of(Duration::from_millis(10)).grace(Duration::from_millis(5));
    /// let clicked = bids.join_all("clicked", (&clicks,), window);
    /// let (late_bids, _late_clicks) = clicked.late();
    /// late_bids.map_values(|_, late| late.value).to_with("late-bids", Produced::new(utf8(), int64()));
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let bids = driver.input("bids", utf8(), int64());
    /// // 94 comes when the time of the bids is past it by 6.
    /// for (price, time) in [(70, 100), (80, 95), (90, 94)] {
    ///     bids.pipe(&mut driver, "vase".to_owned(), price, time);
    /// }
    /// let late = driver.output("late-bids", utf8(), int64()).read_key_values(&mut driver);
    /// assert_eq!(late, [("vase".to_owned(), 90)]);
    /// ```
    #[must_use]
    pub fn late(&self) -> &L {
        &self.late
    }
}

impl<K, R, L> Deref for JoinedAll<K, R, L> {
    type Target = KStream<K, R, Partitioned>;

    fn deref(&self) -> &Self::Target {
        &self.results
    }
}

impl<K: Data, V: Data, L: Lineage> KStream<K, V, L> {
    /// Joins the records of this stream and up to five others that have equal keys and lie within the window of each other,
    /// one of each: at once, when the last of them comes. Results are tuples.
    ///
    /// Records with a null key or value are dropped and counted; late ones go to [`JoinedAll::late`]. Keeps all of them in
    /// the store `<name>`, for window and grace. All streams must be co-partitioned; one whose key may have changed is sent
    /// through a repartition topic (`<name>-0` for this one, `<name>-1` for the first of the others, …) first. The topology
    /// does not build when a stream has no serdes or the name is used twice.
    ///
    /// Kafka Streams joins two at a time, with a store for each pair and every intermediate result; the peer is `join` with
    /// `emit_mode="complete"` of Bytewax, without its ways to replace a record of the same side.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use processor_core::dsl::{Consumed, JoinAllWindow, Produced, StreamsBuilder};
    /// # use processor_core::serde::{int64, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("auctions");
    /// // All keyed by auction.
    /// let bids = builder.stream("bids", Consumed::new(utf8(), int64()));
    /// let impressions = builder.stream("impressions", Consumed::new(utf8(), utf8()));
    /// let clicks = builder.stream("clicks", Consumed::new(utf8(), utf8()));
    /// let window = JoinAllWindow::of(Duration::from_secs(60)).grace(Duration::from_secs(5));
    /// bids.join_all("clicked", (&impressions, &clicks), window)
    ///     .map_values(|_, (price, site, user)| format!("{user} clicked on {site} for {price}"))
    ///     .to_with("clicked", Produced::new(utf8(), utf8()));
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let bids = driver.input("bids", utf8(), int64());
    /// # let impressions = driver.input("impressions", utf8(), utf8());
    /// # let clicks = driver.input("clicks", utf8(), utf8());
    /// # let auction = || "auction".to_owned();
    /// clicks.pipe(&mut driver, auction(), "ann".to_owned(), 8_000);
    /// bids.pipe(&mut driver, auction(), 40, 1_000);
    /// impressions.pipe(&mut driver, auction(), "news".to_owned(), 2_000);
    /// let clicked = driver.output("clicked", utf8(), utf8()).read(&mut driver);
    /// assert_eq!(clicked.len(), 1);
    /// assert_eq!((clicked[0].value.as_str(), clicked[0].timestamp), ("ann clicked on news for 40", 8_000));
    /// ```
    pub fn join_all<S: JoinSides<K, V>>(
        &self,
        name: &str,
        others: S,
        window: JoinAllWindow,
    ) -> JoinedAll<K, S::Complete, S::Late> {
        let decode = others.decode_complete(self.value.clone());
        self.joined(name, &others, window, decode, Emit::Complete)
    }

    /// Like [`join_all`](Self::join_all), but each result leaves once, when it is final, and streams that have no record for
    /// it are `None`. So what has come only half of the way is there as well: a bid with its impression, but without a click.
    ///
    /// A result is final when the time of every stream is more than window and grace beyond its earliest record. It has as
    /// many records as can be: those to which a further one could be added are none. Keeps besides the store `<name>` the
    /// store `<name>-open`. `join` with `emit_mode="final"` is the peer in Bytewax.
    ///
    /// Nulls, late records, topics and errors are as for [`join_all`](Self::join_all).
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use processor_core::dsl::{Consumed, JoinAllWindow, Produced, StreamsBuilder};
    /// # use processor_core::serde::{int64, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("auctions");
    /// # let stream = |topic: &str| builder.stream(topic, Consumed::new(utf8(), int64()));
    /// # let (bids, impressions, clicks) = (stream("bids"), stream("impressions"), stream("clicks"));
    /// let window = JoinAllWindow::of(Duration::from_secs(60)).grace(Duration::from_secs(5));
    /// bids.outer_join_all("funnel", (&impressions, &clicks), window)
    ///     .map_values(|_, funnel| match funnel {
    ///         (Some(_), Some(_), Some(_)) => 3,
    ///         (Some(_), Some(_), None) => 2,
    ///         (Some(_), None, None) => 1,
    ///         // A click or an impression that nobody has bid for.
    ///         _ => 0,
    ///     })
    ///     .to_with("funnel", Produced::new(utf8(), int64()));
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let mut pipe = |topic: &str, key: &str, time| {
    /// #     driver.input(topic, utf8(), int64()).pipe(&mut driver, key.to_owned(), 1, time);
    /// # };
    /// for (topic, auction, time) in [
    ///     ("bids", "a", 1_000),
    ///     ("bids", "b", 1_500),
    ///     ("impressions", "a", 2_000),
    ///     ("clicks", "c", 3_000),
    /// ] {
    ///     pipe(topic, auction, time);
    /// }
    /// for topic in ["bids", "impressions", "clicks"] {
    ///     pipe(topic, "later", 100_000);
    /// }
    /// # let steps = driver.output("funnel", utf8(), int64());
    /// # let steps = steps.read_key_values(&mut driver);
    /// let expected = [("a", 2), ("b", 1), ("c", 0)];
    /// assert_eq!(steps, expected.map(|(auction, steps)| (auction.to_owned(), steps)));
    /// ```
    pub fn outer_join_all<S: JoinSides<K, V>>(
        &self,
        name: &str,
        others: S,
        window: JoinAllWindow,
    ) -> JoinedAll<K, S::Partial, S::Late> {
        let decode = others.decode_partial(self.value.clone());
        self.joined(name, &others, window, decode, Emit::Final)
    }

    fn joined<S: JoinSides<K, V>, R: Data>(
        &self,
        name: &str,
        others: &S,
        window: JoinAllWindow,
        decode: Decode<R>,
        emit: Emit,
    ) -> JoinedAll<K, R, S::Late> {
        let first = self.partitioned(&format!("{name}-0"));
        let (node, rows, open) = {
            let mut plan = self.plan.borrow_mut();
            let windows = match emit {
                Emit::Complete => 1,
                Emit::Final => 2,
            };
            let retention_ms =
                (window.window_ms.saturating_mul(windows)).saturating_add(window.lateness.grace_ms);
            let rows = plan.add_store(name, StoreKind::Join { retention_ms });
            let open = (emit == Emit::Final)
                .then(|| plan.add_store(&format!("{name}-open"), StoreKind::KeyValue));
            let stores = [rows].into_iter().chain(open).collect();
            let kind = NodeKind::Operator("join of streams");
            let node = plan.add_node(name.to_owned(), kind, vec![], stores);
            plan.describe_node(node, &[("window_ms", window.window_ms)]);
            (node, rows, open)
        };
        if first.key.is_none() {
            self.plan.borrow_mut().problems.push(format!(
                "join '{name}' needs a serde for its key, since an operator changed its type; use `with_serdes(key serde, \
                 value serde)` before it"
            ));
        }
        let results = Outlet::new();
        let blueprint = Blueprint {
            name: name.to_owned(),
            node,
            window,
            sides: others.count() + 1,
            key: first.key.clone(),
            decode,
            rows,
            open,
            results: Arc::clone(&results),
        };
        let building = Building {
            plan: Rc::clone(&self.plan),
            first: first.node,
            blueprint: Arc::new(blueprint),
        };
        let late = others.attach(&first, &building);
        let plan = Rc::clone(&self.plan);
        JoinedAll {
            results: KStream::new(plan, node, results, first.key.clone(), None),
            late,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Emit {
    Complete,
    Final,
}

/// A join that its sides are still added to.
pub struct Building<K, R> {
    plan: Rc<RefCell<Plan>>,
    /// The first side, which the others are co-partitioned with.
    first: NodeId,
    blueprint: Arc<Blueprint<K, R>>,
}

impl<K: Data, R: Data> Building<K, R> {
    /// Adds a stream as side `number`; the stream of those that come too late for it.
    fn side<V: Data, L: Lineage>(
        &self,
        number: usize,
        stream: &KStream<K, V, L>,
    ) -> KStream<K, Late<V>, Partitioned> {
        let blueprint = Arc::clone(&self.blueprint);
        let name = format!("{}-{number}", blueprint.name);
        let stream = stream.partitioned(&name);
        let late = Outlet::<K, Late<V>>::new();
        {
            let mut plan = self.plan.borrow_mut();
            plan.nodes[blueprint.node.0].parents.push(stream.node);
            if number > 0 {
                let both = vec![self.first, stream.node];
                plan.copartitioned.push((blueprint.name.clone(), both));
            }
        }
        match stream.value.clone() {
            Some(value) => {
                let below = Arc::clone(&late);
                stream.outlet.attach(move |instantiation| {
                    let node = blueprint.instantiate(instantiation)?;
                    wake_by_input(instantiation, &node, number);
                    Ok(Box::new(SideInput {
                        node,
                        side: number,
                        value: Arc::clone(&value),
                        late: LateBranch::new(&name, below.instantiate(instantiation)?),
                    }))
                });
            }
            None => self.plan.borrow_mut().problems.push(format!(
                "side {number} of join '{}' has no serde for its values, since an operator changed their type; use \
                 `with_serdes(key serde, value serde)` before it",
                blueprint.name
            )),
        }
        let (plan, key) = (Rc::clone(&self.plan), stream.key.clone());
        KStream::new(plan, self.blueprint.node, late, key, None)
    }
}

/// What the node of each task is made from.
struct Blueprint<K, R> {
    name: String,
    node: NodeId,
    window: JoinAllWindow,
    sides: usize,
    /// Without it the topology does not build.
    key: Option<SharedSerde<K>>,
    decode: Decode<R>,
    rows: StoreId,
    open: Option<StoreId>,
    results: Arc<Outlet<K, R>>,
}

impl<K: Data, R: Data> Blueprint<K, R> {
    /// The node of a task, made once for all of its sides.
    fn instantiate(
        &self,
        instantiation: &mut Instantiation<'_>,
    ) -> Result<Rc<RefCell<JoinAllNode<K, R>>>> {
        instantiation.shared(self.node, |instantiation| {
            let names: Vec<String> = (0..self.sides).map(|side| side.to_string()).collect();
            let names = names.iter().map(String::as_str);
            let lateness = self.window.lateness;
            let times = InputTimes::restore(instantiation, &self.name, lateness, names);
            let open = match self.open {
                Some(store) => Some(Open::read(instantiation.key_value(store)?)?),
                None => None,
            };
            let key = self.key.clone();
            let mut node = JoinAllNode {
                name: self.name.clone(),
                window: self.window,
                times,
                sides: self.sides,
                key: key.expect("a topology without is refused"),
                decode: Arc::clone(&self.decode),
                rows: instantiation.join(self.rows)?,
                open,
                results: self.results.instantiate(instantiation)?,
                key_buffer: Vec::new(),
                value_buffer: Vec::new(),
            };
            // What had expired before a restart stays so.
            node.expire();
            Ok(Rc::new(RefCell::new(node)))
        })
    }
}
