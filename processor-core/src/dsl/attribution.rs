//! Attribution: conversions are credited to the touches (clicks, views, visits) that came before them.
//!
//! **What is eligible.** A touch of the conversion's key, and of its campaign unless the rules say otherwise, with
//! `conversion − window ≤ touch ≤ conversion`: each touch stream has a window of its own, and both ends are in it. Of
//! these only those of the highest precedence count: if there is an eligible click, views are ignored. They make the
//! *path*, in order of time, then of id. The model shares the conversion among them, in whole micros that add up to its
//! value; of a path that is longer than the rules allow, the latest touches count, and the result says how many do not.
//!
//! **When it emits.** A conversion has a *provisional* result at once, a *revised* one at each touch that changes it, and a
//! *final* one when none can any more: when the time of every touch stream that could is beyond its own by the grace. A
//! conversion that is credited to clicks does not wait for views, and a quiet conversion stream holds back nothing. What
//! becomes final at a record leaves after what the record itself has changed, in order of time, then id. Or only final
//! results are emitted, or those and what is known at the end of a bounded run: [`Revisions`].
//!
//! **Time** is that of each input: the largest timestamp it has brought, behind a repartition topic the slowest upstream
//! task's. A record that lies more than the grace below the time of its own input is late, goes to a late branch, and
//! changes nothing. So the faster of two feeds does not make the slower one late; the slower one holds the other's results
//! back, for ever if it has ended, unless its source lets it be [idle](super::Consumed::idle_after) or
//! [`AttributionRules::max_lag`] says how far it may lag.
//!
//! **What is kept.** For each key and campaign a list of its touches by time, in one store a stream, as long as an open
//! conversion, or one that is still to come in time, may need them: window and grace below the time of the conversions,
//! whichever feed is ahead. Open conversions, until they are final. Times, touches and open conversions survive restarts.
//!
//! **What it does not do.** A conversion is known by its time and id. One that comes again while it is open takes the place
//! of the first; one that comes again after that is attributed again, so duplicates have to be taken out before. A refund is
//! a conversion with a negative value, and is credited by its own time. A touch may be credited with many conversions.

mod credit;
mod model;
mod node;
mod open;
mod path;
mod result;
mod rules;
mod touch;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::Result;
use crate::processor::{Instantiation, Wake};
use crate::record::Data;
use crate::serde::{Serde, SharedSerde, utf8};
use crate::topology::{NodeId, NodeKind, Plan, StoreId, StoreKind};

pub use self::model::Model;
use self::node::{
    AsTouch, AttributionNode, CONVERSIONS, ConversionInput, Describe, TouchInput, TouchStream,
    follows_touches, touches_of,
};
use self::open::OpenConversions;
pub use self::result::{Attributed, AttributionStatus, Credit};
use self::rules::Campaigns;
pub use self::rules::{AttributionRules, AttributionWithoutGrace, Revisions, TouchWindow};
pub use self::touch::{Conversion, Touch};
use super::KStream;
use super::late::{Late, LateBranch};
use super::lateness::{InputTimes, wake_by_input};
use super::lineage::{Lineage, Partitioned, Rekeyed};
use super::outlet::Outlet;

/// An attribution under construction: [`touches`](Self::touches) adds the streams of touches, in any number;
/// [`results`](Self::results) are what comes of it.
pub struct Attribution<K, C, T> {
    plan: Rc<RefCell<Plan>>,
    conversions: NodeId,
    blueprint: Arc<Blueprint<K, C, T>>,
    results: KStream<String, Attributed<C, T>, Rekeyed>,
    late: KStream<K, Late<C>, Partitioned>,
}

impl<K: Data, C: Data, L: Lineage> KStream<K, C, L> {
    /// Credits each record of this stream, a conversion, to the touches of its key that came before it.
    ///
    /// `conversion` says the id of a conversion, which is the key of its results, its campaign and its value. Touches come
    /// from the streams that [`Attribution::touches`] adds; `value` is the serde of what is kept of each.
    ///
    /// Results have the conversion's time and no headers: see [`Attributed`]. What is eligible and how it is shared follows
    /// from the [rules](AttributionRules) and the [window](TouchWindow) of each stream; which results leave, from
    /// [`Revisions`]. Conversions with a null key or value are dropped and counted; those that come too late go to
    /// [`late`](Attribution::late).
    ///
    /// Stores: `<name>-open`, and `<name>-<stream>-touches` for each touch stream; where a touch may change what is known of
    /// an open conversion, that is, unless only final results are emitted and there is one precedence, also
    /// `<name>-open-by-key`. All streams must be co-partitioned; one whose key may have changed is sent through a
    /// repartition topic (`<name>-conversions`, `<name>-<stream>`) first. The topology does not build when this stream has no
    /// serdes, a name is used twice, or the rules make no sense.
    ///
    /// The rules are those of ad platforms; `docs/attribution.md` in the repository has them in full, with the formulas and
    /// the size of the state.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use processor_core::dsl::{
    /// #     Attributed, AttributionRules, Consumed, Conversion, Model, Produced, StreamsBuilder, Touch, TouchWindow,
    /// # };
    /// # use processor_core::serde::{int64, json, unit, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # const MINUTE: Duration = Duration::from_secs(60);
    /// # const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    /// # let builder = StreamsBuilder::new("shop");
    /// // All keyed by user: clicks and views carry the id of the ad, purchases their value.
    /// let purchases = builder.stream("purchases", Consumed::new(utf8(), int64()));
    /// let clicks = builder.stream("clicks", Consumed::new(utf8(), utf8()));
    /// let views = builder.stream("views", Consumed::new(utf8(), utf8()));
    ///
    /// let rules = AttributionRules::of(Model::Linear).grace(10 * MINUTE);
    /// let attribution = purchases.attribute("credit", rules, unit(), |user, value| {
    ///     Conversion::new(format!("{user} for {value}")).value_micros(*value)
    /// });
    /// let (week, day) = (TouchWindow::of(7 * DAY).precedence(2), TouchWindow::of(DAY).precedence(1));
    /// attribution.touches("clicks", &clicks, week, |_, ad| Touch::new(ad, ()));
    /// attribution.touches("views", &views, day, |_, ad| Touch::new(ad, ()));
    /// attribution.results().to_with("credits", Produced::new(utf8(), json()));
    ///
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let purchases = driver.input("purchases", utf8(), int64());
    /// # let clicks = driver.input("clicks", utf8(), utf8());
    /// # let views = driver.input("views", utf8(), utf8());
    /// # let ann = || "ann".to_owned();
    /// views.pipe(&mut driver, ann(), "v1".to_owned(), 1_000);
    /// purchases.pipe(&mut driver, ann(), 10, 60_000);
    /// // Two clicks that come late, but in time: they beat the view.
    /// clicks.pipe(&mut driver, ann(), "c1".to_owned(), 40_000);
    /// clicks.pipe(&mut driver, ann(), "c2".to_owned(), 50_000);
    /// // A click of somebody else, more than the grace after the purchase.
    /// clicks.pipe(&mut driver, "bob".to_owned(), "c3".to_owned(), 700_000);
    ///
    /// let credits = driver.output("credits", utf8(), json::<Attributed<i64, ()>>());
    /// let credits = credits.read_key_values(&mut driver);
    /// let told: Vec<String> = credits
    ///     .iter()
    ///     .map(|(id, result)| {
    ///         let shares = result.credits.iter().map(|c| format!(" {}={}", c.touch_id, c.credit_micros));
    ///         format!("{id}: {:?} {}{}", result.status, result.revision, shares.collect::<String>())
    ///     })
    ///     .collect();
    /// assert_eq!(
    ///     told,
    ///     [
    ///         "ann for 10: Provisional 1 v1=10",
    ///         "ann for 10: Revised 2 c1=10",
    ///         "ann for 10: Revised 3 c1=5 c2=5",
    ///         "ann for 10: Final 4 c1=5 c2=5",
    ///     ]
    /// );
    /// ```
    pub fn attribute<T: Data>(
        &self,
        name: &str,
        rules: AttributionRules,
        value: impl Serde<T> + 'static,
        conversion: impl Fn(&K, &C) -> Conversion + Send + Sync + 'static,
    ) -> Attribution<K, C, T> {
        let conversions = self.partitioned(&format!("{name}-conversions"));
        let (node, open) = {
            let mut plan = self.plan.borrow_mut();
            let open = plan.add_store(&format!("{name}-open"), StoreKind::KeyValue);
            let kind = NodeKind::Operator("attribution");
            let parents = vec![conversions.node];
            let node = plan.add_node(name.to_owned(), kind, parents, vec![open]);
            // Touches lie under other keys where campaigns do not matter.
            let cross_campaign = i64::from(rules.campaigns == Campaigns::Any);
            plan.describe_node(node, &[("cross_campaign", cross_campaign)]);
            if let Some(problem) = rules.problem() {
                plan.problems
                    .push(format!("attribution '{name}': {problem}"));
            }
            (node, open)
        };
        let serdes = match (conversions.key.clone(), conversions.value.clone()) {
            (Some(key), Some(conversion)) => {
                let mut plan = self.plan.borrow_mut();
                plan.describe_store(open, &*key, &*conversion);
                Some((key, conversion))
            }
            _ => {
                self.plan.borrow_mut().problems.push(format!(
                    "attribution '{name}' needs serdes for the key and the value of its conversions, since an operator \
                     changed a type; use `with_serdes(key serde, value serde)` before it"
                ));
                None
            }
        };
        let blueprint = Arc::new(Blueprint {
            name: name.to_owned(),
            node,
            rules,
            describe: Arc::new(conversion),
            serdes,
            touch: Arc::new(value),
            open,
            touches: Mutex::default(),
            results: Outlet::new(),
            late: Outlet::new(),
        });
        if rules.revisions == Revisions::Every {
            blueprint.keep_by_key(&mut self.plan.borrow_mut());
        }
        let stream = Arc::clone(&blueprint);
        conversions.outlet.attach(move |instantiation| {
            let node = stream.instantiate(instantiation)?;
            wake_by_input(instantiation, &node, CONVERSIONS);
            Ok(Box::new(ConversionInput(node)))
        });
        let plan = &self.plan;
        let results = KStream::new(
            Rc::clone(plan),
            node,
            Arc::clone(&blueprint.results),
            Some(Arc::new(utf8()) as SharedSerde<String>),
            None,
        );
        let late = KStream::new(
            Rc::clone(plan),
            node,
            Arc::clone(&blueprint.late),
            conversions.key.clone(),
            None,
        );
        Attribution {
            plan: Rc::clone(plan),
            conversions: conversions.node,
            blueprint,
            results,
            late,
        }
    }
}

impl<K: Data, C: Data, T: Data> Attribution<K, C, T> {
    /// Adds the touches of `stream`, called `name` in results, and gives back those that come too late: more than the grace
    /// below the time of their stream. Without a consumer these are counted as dropped.
    ///
    /// `touch` makes a touch of each record; those with a null key or value are dropped and counted.
    ///
    /// The touches are kept in the store `<attribution>-<name>-touches`. A stream whose key may have changed is sent
    /// through `<application id>-<attribution>-<name>-repartition` first.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use processor_core::dsl::{
    /// #     AttributionRules, Consumed, Conversion, Model, Produced, StreamsBuilder, Touch, TouchWindow,
    /// # };
    /// # use processor_core::serde::{int64, unit, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("shop");
    /// # let purchases = builder.stream("purchases", Consumed::new(utf8(), int64()));
    /// # let clicks = builder.stream("clicks", Consumed::new(utf8(), utf8()));
    /// let rules = AttributionRules::of(Model::Linear).grace(Duration::from_millis(50));
    /// let attribution = purchases.attribute("credit", rules, unit(), |user, value| {
    ///     Conversion::new(format!("{user} for {value}")).value_micros(*value)
    /// });
    /// let window = TouchWindow::of(Duration::from_secs(60));
    /// let late = attribution.touches("clicks", &clicks, window, |_, ad| Touch::new(ad, ()));
    /// late.map_values(|_, late| late.value).to_with("late-clicks", Produced::new(utf8(), utf8()));
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let clicks = driver.input("clicks", utf8(), utf8());
    /// // 49 comes when the time of the clicks is past it by 51.
    /// for (ad, time) in [("a", 100), ("b", 50), ("c", 49)] {
    ///     clicks.pipe(&mut driver, "ann".to_owned(), ad.to_owned(), time);
    /// }
    /// let late = driver.output("late-clicks", utf8(), utf8()).read_key_values(&mut driver);
    /// assert_eq!(late, [("ann".to_owned(), "c".to_owned())]);
    /// ```
    pub fn touches<V: Data, L: Lineage>(
        &self,
        name: &str,
        stream: &KStream<K, V, L>,
        window: TouchWindow,
        touch: impl Fn(&K, V) -> Touch<T> + Send + Sync + 'static,
    ) -> KStream<K, Late<V>, Partitioned> {
        let blueprint = &self.blueprint;
        let operator = format!("{}-{name}", blueprint.name);
        let touches = stream.partitioned(&operator);
        let number = {
            let mut plan = self.plan.borrow_mut();
            let retention_ms = window
                .before_ms
                .saturating_add(blueprint.rules.lateness.grace_ms);
            let store = plan.add_store(
                &format!("{operator}-touches"),
                StoreKind::Join { retention_ms },
            );
            if let Some((key, _)) = &blueprint.serdes {
                plan.describe_store(store, &**key, &*blueprint.touch);
            }
            let node = &mut plan.nodes[blueprint.node.0];
            node.parents.push(touches.node);
            node.stores.push(store);
            let both = vec![self.conversions, touches.node];
            plan.copartitioned.push((blueprint.name.clone(), both));
            blueprint.add(&mut plan, name, window, store)
        };
        let late = Outlet::<K, Late<V>>::new();
        let (shared, below) = (Arc::clone(blueprint), Arc::clone(&late));
        let (as_touch, value): (AsTouch<K, V, T>, _) = (Arc::new(touch), touches.value.clone());
        touches.outlet.attach(move |instantiation| {
            let node = shared.instantiate(instantiation)?;
            wake_by_input(instantiation, &node, touches_of(number));
            Ok(Box::new(TouchInput {
                node,
                stream: number,
                as_touch: Arc::clone(&as_touch),
                value: value.clone(),
                late: LateBranch::new(&operator, below.instantiate(instantiation)?),
            }))
        });
        let (plan, key) = (Rc::clone(&self.plan), touches.key.clone());
        KStream::new(plan, blueprint.node, late, key, None)
    }

    /// What the conversions are credited to, keyed by the ids of the conversions.
    ///
    /// Emits when a conversion is decided, and again where [`Revisions`](super::Revisions) ask for provisional results; each has the timestamp
    /// and headers of its conversion. Keys and values are never null. No store and no topic is made by asking for them.
    /// [`KStream::attribute`] has an example.
    #[must_use]
    pub fn results(&self) -> KStream<String, Attributed<C, T>, Rekeyed> {
        self.results.clone()
    }

    /// Conversions that came too late: more than the grace below the time of their stream. Their window is that of the
    /// touches they would have met. Without a consumer they are counted as dropped.
    ///
    /// They keep their key, timestamp and headers. No store and no topic is made.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use processor_core::dsl::{
    /// #     AttributionRules, Consumed, Conversion, Model, Produced, StreamsBuilder, Touch, TouchWindow,
    /// # };
    /// # use processor_core::serde::{int64, unit, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("shop");
    /// # let purchases = builder.stream("purchases", Consumed::new(utf8(), int64()));
    /// # let clicks = builder.stream("clicks", Consumed::new(utf8(), utf8()));
    /// let rules = AttributionRules::of(Model::Linear).grace(Duration::from_millis(50));
    /// let attribution = purchases.attribute("credit", rules, unit(), |user, value| {
    ///     Conversion::new(format!("{user} for {value}")).value_micros(*value)
    /// });
    /// let window = TouchWindow::of(Duration::from_secs(60));
    /// attribution.touches("clicks", &clicks, window, |_, ad| Touch::new(ad, ()));
    /// attribution.late().map_values(|_, late| late.value).to_with("late-purchases", Produced::new(utf8(), int64()));
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let purchases = driver.input("purchases", utf8(), int64());
    /// // 49 comes when the time of the purchases is past it by 51.
    /// for (value, time) in [(10, 100), (20, 50), (30, 49)] {
    ///     purchases.pipe(&mut driver, "ann".to_owned(), value, time);
    /// }
    /// let late = driver.output("late-purchases", utf8(), int64()).read_key_values(&mut driver);
    /// assert_eq!(late, [("ann".to_owned(), 30)]);
    /// ```
    #[must_use]
    pub fn late(&self) -> KStream<K, Late<C>, Partitioned> {
        self.late.clone()
    }
}

/// What the node of each task is made from.
struct Blueprint<K, C, T> {
    name: String,
    node: NodeId,
    rules: AttributionRules,
    describe: Describe<K, C>,
    /// Of the key and the conversion; without them the topology does not build.
    serdes: Option<(SharedSerde<K>, SharedSerde<C>)>,
    touch: SharedSerde<T>,
    open: StoreId,
    touches: Mutex<Touches>,
    results: Arc<Outlet<String, Attributed<C, T>>>,
    late: Arc<Outlet<K, Late<C>>>,
}

/// What the touch streams added.
#[derive(Default)]
struct Touches {
    streams: Vec<(String, TouchWindow, StoreId)>,
    open_by_key: Option<StoreId>,
}

impl Touches {
    /// Numbers of the streams of each precedence, the highest first.
    fn precedences(&self) -> Vec<(u8, Vec<usize>)> {
        let mut precedences: Vec<(u8, Vec<usize>)> = Vec::new();
        for (number, (_, window, _)) in self.streams.iter().enumerate() {
            match precedences
                .iter_mut()
                .find(|(of, _)| *of == window.precedence)
            {
                Some((_, numbers)) => numbers.push(number),
                None => precedences.push((window.precedence, vec![number])),
            }
        }
        precedences.sort_by_key(|(precedence, _)| std::cmp::Reverse(*precedence));
        precedences
    }
}

impl<K: Data, C: Data, T: Data> Blueprint<K, C, T> {
    /// Adds a stream of touches; its number.
    fn add(&self, plan: &mut Plan, name: &str, window: TouchWindow, store: StoreId) -> usize {
        let (number, precedences) = {
            let mut touches = self.touches.lock().unwrap_or_else(PoisonError::into_inner);
            touches.streams.push((name.to_owned(), window, store));
            (touches.streams.len() - 1, touches.precedences().len())
        };
        if follows_touches(self.rules.revisions, precedences) {
            self.keep_by_key(plan);
        }
        number
    }

    /// Has a touch find the open conversions of its key.
    fn keep_by_key(&self, plan: &mut Plan) {
        let mut touches = self.touches.lock().unwrap_or_else(PoisonError::into_inner);
        if touches.open_by_key.is_none() {
            // Open conversions stay for the grace, or for as long as a touch stream lags.
            let retention_ms = self.rules.lateness.grace_ms;
            let name = format!("{}-open-by-key", self.name);
            let store = plan.add_store(&name, StoreKind::Join { retention_ms });
            plan.nodes[self.node.0].stores.push(store);
            touches.open_by_key = Some(store);
        }
    }

    /// The node of a task, made once for all of its inputs.
    fn instantiate(
        &self,
        instantiation: &mut Instantiation<'_>,
    ) -> Result<Rc<RefCell<AttributionNode<K, C, T>>>> {
        instantiation.shared(self.node, |instantiation| {
            let node = Rc::new(RefCell::new(self.make(instantiation)?));
            instantiation
                .wakes
                .push(Rc::clone(&node) as Rc<RefCell<dyn Wake>>);
            Ok(node)
        })
    }

    fn make(&self, instantiation: &mut Instantiation<'_>) -> Result<AttributionNode<K, C, T>> {
        let (key, conversion) = self.serdes.clone().expect("a topology without is refused");
        let touches = self.touches.lock().unwrap_or_else(PoisonError::into_inner);
        let mut streams = Vec::new();
        for (name, window, store) in &touches.streams {
            streams.push(TouchStream {
                name: name.clone(),
                window: *window,
                store: instantiation.join(*store)?,
            });
        }
        let by_key = touches.open_by_key.map(|id| instantiation.join(id));
        let open = OpenConversions::read(
            &self.name,
            instantiation.key_value(self.open)?,
            by_key.transpose()?,
            streams.iter().map(|stream| stream.window.precedence),
        )?;
        let names = touches.streams.iter().map(|(name, ..)| name.as_str());
        let names = ["conversions"].into_iter().chain(names);
        let lateness = self.rules.lateness;
        let mut node = AttributionNode {
            name: self.name.clone(),
            rules: self.rules,
            describe: Arc::clone(&self.describe),
            key,
            conversion,
            touch: Arc::clone(&self.touch),
            times: InputTimes::restore(instantiation, &self.name, lateness, names),
            streams,
            precedences: touches.precedences(),
            open,
            results: self.results.instantiate(instantiation)?,
            late: LateBranch::new(&self.name, self.late.instantiate(instantiation)?),
            key_buffer: Vec::new(),
            value_buffer: Vec::new(),
        };
        node.expire();
        Ok(node)
    }
}

/// What holds of any bytes.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn check_any(bytes: &[u8]) {
    open::check_any(bytes);
    touch::check_any(bytes);
}
