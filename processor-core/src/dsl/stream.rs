//! A stream of records, and the operators that need no state.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::rc::Rc;
use std::sync::Arc;

use crate::error::Result;
use crate::processor::{Context, Fanout, Process, Processor, ProcessorNode, SharedNode, StoreSet};
use crate::record::{Data, Record};
use crate::serde::{Serde, SharedSerde};
use crate::topology::{NodeId, NodeKind, Plan, Topic};

use super::grouped::KGroupedStream;
use super::lineage::{Lineage, MergeWith, Partitioned, Rekeyed};
use super::outlet::Outlet;
use super::repartition::{Keyless, repartition};
use super::sink::Sink;
use super::split::Split;
use super::{Grouped, Produced};

/// An unbounded stream of records.
///
/// Streams are handles: an operator adds a node below this one and leaves it usable, so one stream can feed many.
/// Records reach the operators in the order in which those were added. `L` says whether the key still fits the
/// partition: see [`Lineage`].
///
/// Null keys and values appear only where the serde of the source is [`nullable`](crate::serde::nullable); stateless
/// operators pass them to the user's function like any other value.
pub struct KStream<K, V, L = Partitioned> {
    pub(crate) plan: Rc<RefCell<Plan>>,
    pub(crate) node: NodeId,
    pub(crate) outlet: Arc<Outlet<K, V>>,
    pub(crate) key: Option<SharedSerde<K>>,
    pub(crate) value: Option<SharedSerde<V>>,
    lineage: PhantomData<fn() -> L>,
}

impl<K, V, L> Clone for KStream<K, V, L> {
    fn clone(&self) -> Self {
        Self {
            plan: Rc::clone(&self.plan),
            node: self.node,
            outlet: Arc::clone(&self.outlet),
            key: self.key.clone(),
            value: self.value.clone(),
            lineage: PhantomData,
        }
    }
}

impl<K: Data, V: Data, L: Lineage> KStream<K, V, L> {
    pub(crate) fn new(
        plan: Rc<RefCell<Plan>>,
        node: NodeId,
        outlet: Arc<Outlet<K, V>>,
        key: Option<SharedSerde<K>>,
        value: Option<SharedSerde<V>>,
    ) -> Self {
        Self {
            plan,
            node,
            outlet,
            key,
            value,
            lineage: PhantomData,
        }
    }

    /// The same stream with these serdes: what operators below need once an operator changed a type.
    ///
    /// ```
    /// # use processor_core::dsl::{Consumed, StreamsBuilder};
    /// # use processor_core::serde::{int64, utf8};
    /// # let builder = StreamsBuilder::new("lengths");
    /// # let words = builder.stream("words", Consumed::new(utf8(), utf8()));
    /// let lengths = words.map_values(|_, word| word.len() as i64);
    /// lengths.with_serdes(utf8(), int64()).to("lengths");
    /// # builder.build().unwrap();
    /// ```
    #[must_use]
    pub fn with_serdes(
        &self,
        key: impl Serde<K> + 'static,
        value: impl Serde<V> + 'static,
    ) -> Self {
        Self {
            key: Some(Arc::new(key)),
            value: Some(Arc::new(value)),
            ..self.clone()
        }
    }

    /// Keeps the records for which `keep` holds.
    pub fn filter(&self, keep: impl Fn(&K, &V) -> bool + Send + Sync + 'static) -> Self {
        self.each(
            "KSTREAM-FILTER",
            self.key.clone(),
            self.value.clone(),
            move |record, next| {
                if keep(&record.key, &record.value) {
                    next.forward(record)
                } else {
                    Ok(())
                }
            },
        )
    }

    /// Keeps the records for which `drop` does not hold.
    pub fn filter_not(&self, drop: impl Fn(&K, &V) -> bool + Send + Sync + 'static) -> Self {
        self.filter(move |key, value| !drop(key, value))
    }

    /// Replaces each value; the key and its partition stay.
    pub fn map_values<V2: Data>(
        &self,
        map: impl Fn(&K, V) -> V2 + Send + Sync + 'static,
    ) -> KStream<K, V2, L> {
        self.each(
            "KSTREAM-MAPVALUES",
            self.key.clone(),
            None,
            move |record, next| {
                let Record {
                    key,
                    value,
                    timestamp,
                    headers,
                } = record;
                let value = map(&key, value);
                next.forward(Record {
                    key,
                    value,
                    timestamp,
                    headers,
                })
            },
        )
    }

    /// Replaces each value by any number of values; the key and its partition stay.
    pub fn flat_map_values<V2: Data, I: IntoIterator<Item = V2>>(
        &self,
        map: impl Fn(&K, V) -> I + Send + Sync + 'static,
    ) -> KStream<K, V2, L> {
        self.each(
            "KSTREAM-FLATMAPVALUES",
            self.key.clone(),
            None,
            move |record, next| {
                let Record {
                    key,
                    value,
                    timestamp,
                    headers,
                } = record;
                for value in map(&key, value) {
                    let (key, headers) = (key.clone(), headers.clone());
                    next.forward(Record {
                        key,
                        value,
                        timestamp,
                        headers,
                    })?;
                }
                Ok(())
            },
        )
    }

    /// Replaces key and value. The stream has to be repartitioned before its next stateful operator, which then does
    /// so by itself.
    pub fn map<K2: Data, V2: Data>(
        &self,
        map: impl Fn(K, V) -> (K2, V2) + Send + Sync + 'static,
    ) -> KStream<K2, V2, Rekeyed> {
        self.each("KSTREAM-MAP", None, None, move |record, next| {
            let Record {
                key,
                value,
                timestamp,
                headers,
            } = record;
            let (key, value) = map(key, value);
            next.forward(Record {
                key,
                value,
                timestamp,
                headers,
            })
        })
    }

    /// Replaces each record by any number of records with other keys.
    pub fn flat_map<K2: Data, V2: Data, I: IntoIterator<Item = (K2, V2)>>(
        &self,
        map: impl Fn(K, V) -> I + Send + Sync + 'static,
    ) -> KStream<K2, V2, Rekeyed> {
        self.each("KSTREAM-FLATMAP", None, None, move |record, next| {
            let Record {
                key,
                value,
                timestamp,
                headers,
            } = record;
            for (key, value) in map(key, value) {
                next.forward(Record {
                    key,
                    value,
                    timestamp,
                    headers: headers.clone(),
                })?;
            }
            Ok(())
        })
    }

    /// Replaces each key.
    pub fn select_key<K2: Data>(
        &self,
        select: impl Fn(&K, &V) -> K2 + Send + Sync + 'static,
    ) -> KStream<K2, V, Rekeyed> {
        self.each(
            "KSTREAM-KEY-SELECT",
            None,
            self.value.clone(),
            move |record, next| {
                let key = select(&record.key, &record.value);
                next.forward(record.with_key(key))
            },
        )
    }

    /// Shows each record to `look` on its way.
    pub fn peek(&self, look: impl Fn(&K, &V) + Send + Sync + 'static) -> Self {
        self.each(
            "KSTREAM-PEEK",
            self.key.clone(),
            self.value.clone(),
            move |record, next| {
                look(&record.key, &record.value);
                next.forward(record)
            },
        )
    }

    /// Records of both streams. Order is kept within each, not between them.
    pub fn merge<M: Lineage>(
        &self,
        other: &KStream<K, V, M>,
    ) -> KStream<K, V, <L as MergeWith<M>>::Merged>
    where
        L: MergeWith<M>,
    {
        let outlet = Outlet::<K, V>::new();
        let node = {
            let mut plan = self.plan.borrow_mut();
            let name = plan.generated_name("KSTREAM-MERGE");
            let parents = vec![self.node, other.node];
            plan.add_node(name, NodeKind::Operator("merge"), parents, vec![])
        };
        for parent in [&self.outlet, &other.outlet] {
            let outlet = Arc::clone(&outlet);
            parent.attach(move |instantiation| outlet.shared_child(node, instantiation));
        }
        let plan = Rc::clone(&self.plan);
        KStream::new(plan, node, outlet, self.key.clone(), self.value.clone())
    }

    /// Splits the stream: each record goes to the first branch whose predicate holds.
    ///
    /// ```
    /// # use processor_core::dsl::{Consumed, StreamsBuilder};
    /// # use processor_core::serde::{int64, utf8};
    /// # let builder = StreamsBuilder::new("split");
    /// # let numbers = builder.stream("numbers", Consumed::new(utf8(), int64()));
    /// let split = numbers.split();
    /// let small = split.branch(|_, number| *number < 10);
    /// let even = split.branch(|_, number| number % 2 == 0);
    /// let rest = split.default_branch();
    /// # small.to("small"); even.to("even"); rest.to("rest"); builder.build().unwrap();
    /// ```
    pub fn split(&self) -> Split<K, V, L> {
        Split::of(self)
    }

    /// Writes the stream to `topic` with the serdes it carries. The topic must exist when the application starts.
    ///
    /// A stream whose type changed since its source carries no serde: use [`to_with`](Self::to_with).
    pub fn to(&self, topic: &str) {
        match (self.key.clone(), self.value.clone()) {
            (Some(key), Some(value)) => self.to_with(topic, Produced { key, value }),
            (key, _) => {
                let missing = if key.is_none() { "key" } else { "value" };
                self.plan.borrow_mut().problems.push(format!(
                    "the stream written to '{topic}' has no serde for its {missing}, whose type was changed by an \
                     operator; use `to_with(\"{topic}\", Produced::new(…))`"
                ));
            }
        }
    }

    /// Writes the stream to `topic` with these serdes. The topic must exist when the application starts.
    pub fn to_with(&self, topic: &str, produced: Produced<K, V>) {
        {
            let mut plan = self.plan.borrow_mut();
            let name = plan.generated_name("KSTREAM-SINK");
            let written = Topic::External(topic.to_owned());
            plan.add_node(name, NodeKind::Sink(written), vec![self.node], vec![]);
        }
        let topic = topic.to_owned();
        self.outlet.attach(move |instantiation| {
            let partitions = instantiation.partitions.of(&topic)?;
            let (key, value) = (Arc::clone(&produced.key), Arc::clone(&produced.value));
            Ok(Box::new(Sink::new(topic.clone(), partitions, key, value)))
        });
    }

    /// Sends the stream through `<application id>-<name>-repartition`, so that equal keys are in one partition. Records
    /// with a null key are dropped.
    /// `partitions` fixes their number; otherwise the topic takes as many as the streams it is joined with, or as
    /// the tasks that write it.
    pub fn repartition(
        &self,
        name: &str,
        key: impl Serde<K> + 'static,
        value: impl Serde<V> + 'static,
        partitions: Option<i32>,
    ) -> KStream<K, V, Partitioned> {
        repartition(
            self,
            name,
            Arc::new(key),
            Arc::new(value),
            partitions,
            Keyless::Dropped,
        )
    }

    /// Groups by the key the stream has. The name of the aggregation names the repartition topic, if one is needed.
    pub fn group_by_key(&self) -> KGroupedStream<K, V> {
        KGroupedStream::of(self, self.key.clone(), self.value.clone())
    }

    /// Groups by another key, through a repartition topic named after the aggregation.
    pub fn group_by<K2: Data>(
        &self,
        select: impl Fn(&K, &V) -> K2 + Send + Sync + 'static,
        grouped: Grouped<K2, V>,
    ) -> KGroupedStream<K2, V> {
        let rekeyed = self.select_key(select);
        KGroupedStream::of(
            &rekeyed,
            Some(grouped.key),
            grouped.value.or_else(|| self.value.clone()),
        )
    }

    /// Runs user code with stores. `make` is called once per task with the stores opened, in the order they are
    /// given; see [`Processor`].
    pub fn process<S, P>(
        &self,
        name: &str,
        stores: S,
        make: impl Fn(S::Opened) -> P + Send + Sync + 'static,
    ) -> KStream<P::KOut, P::VOut, Rekeyed>
    where
        S: StoreSet,
        P: Processor<K, V>,
    {
        self.processed(name, stores, make)
    }

    /// Like [`process`](Self::process), for a processor that forwards each key it is given and no other: key and
    /// partition stay, so no stateful operator below has to repartition.
    pub fn process_values<S, P>(
        &self,
        name: &str,
        stores: S,
        make: impl Fn(S::Opened) -> P + Send + Sync + 'static,
    ) -> KStream<K, P::VOut, L>
    where
        S: StoreSet,
        P: Processor<K, V, KOut = K>,
    {
        let processed = self.processed(name, stores, make);
        KStream {
            key: self.key.clone(),
            ..processed
        }
    }

    fn processed<S, P, L2: Lineage>(
        &self,
        name: &str,
        stores: S,
        make: impl Fn(S::Opened) -> P + Send + Sync + 'static,
    ) -> KStream<P::KOut, P::VOut, L2>
    where
        S: StoreSet,
        P: Processor<K, V>,
    {
        let outlet = Outlet::<P::KOut, P::VOut>::new();
        let node = self.plan.borrow_mut().add_node(
            name.to_owned(),
            NodeKind::Operator("process"),
            vec![self.node],
            stores.ids(),
        );
        let (below, name) = (Arc::clone(&outlet), name.to_owned());
        self.outlet.attach(move |instantiation| {
            let opened = stores.open(instantiation)?;
            let children = below.instantiate(instantiation)?;
            let node = ProcessorNode::create(&name, make(opened), children, instantiation)?;
            Ok(Box::new(SharedNode(node)))
        });
        KStream::new(Rc::clone(&self.plan), node, outlet, None, None)
    }

    /// Adds a stateless operator.
    fn each<K2: Data, V2: Data, L2: Lineage>(
        &self,
        operator: &'static str,
        key: Option<SharedSerde<K2>>,
        value: Option<SharedSerde<V2>>,
        step: impl Fn(Record<K, V>, &mut Next<'_, '_, K2, V2>) -> Result + Send + Sync + 'static,
    ) -> KStream<K2, V2, L2> {
        let outlet = Outlet::<K2, V2>::new();
        let node = {
            let mut plan = self.plan.borrow_mut();
            let name = plan.generated_name(operator);
            plan.add_node(name, NodeKind::Operator(operator), vec![self.node], vec![])
        };
        let (below, step) = (Arc::clone(&outlet), Arc::new(step));
        self.outlet.attach(move |instantiation| {
            let children = below.instantiate(instantiation)?;
            Ok(Box::new(Each {
                step: Arc::clone(&step),
                children,
            }))
        });
        KStream::new(Rc::clone(&self.plan), node, outlet, key, value)
    }
}

/// A stateless operator in a task.
struct Each<F, K2, V2> {
    step: Arc<F>,
    children: Fanout<K2, V2>,
}

/// Where a stateless operator sends its results.
struct Next<'a, 'c, K, V> {
    context: &'a mut Context<'c>,
    children: &'a mut Fanout<K, V>,
}

impl<K: Data, V: Data> Next<'_, '_, K, V> {
    fn forward(&mut self, record: Record<K, V>) -> Result {
        self.children.forward(self.context, record)
    }
}

impl<K, V, K2, V2, F> Process<K, V> for Each<F, K2, V2>
where
    F: Fn(Record<K, V>, &mut Next<'_, '_, K2, V2>) -> Result,
{
    fn process(&mut self, context: &mut Context<'_>, record: Record<K, V>) -> Result {
        (self.step)(
            record,
            &mut Next {
                context,
                children: &mut self.children,
            },
        )
    }
}
