//! An aggregation as its inputs see it: one node, whatever its windows are and however many groups it takes.
//!
//! A group has one type of value, and its adder says what a value does to an aggregate. Several groups of different types
//! give one aggregation ([`cogroup`](super::KGroupedStream::cogroup)); `count`, `reduce` and `aggregate` have one.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use crate::error::Result;
use crate::log::Timestamp;
use crate::processor::{Context, Instantiation, Process, Wake};
use crate::record::{Data, Record};
use crate::serde::SharedSerde;
use crate::topology::{NodeId, NodeKind, Plan, StoreId, StoreKind};

use super::count_windows::CountAggregate;
use super::finals::Emit;
use super::grouped::{Keyed, PlainAggregate, is_null};
use super::outlet::Outlet;
use super::panes::PaneAggregate;
use super::session::SessionAggregate;
use super::sliding::SlidingAggregate;
use super::window_aggregate::WindowAggregate;
use super::{KGroupedStream, KStream, Lineage};

/// An aggregation in a task. `L` is what late records are shown as.
pub(crate) enum Aggregation<K, A, L> {
    Plain(PlainAggregate<K, A>),
    Windows(WindowAggregate<K, A, L>),
    Panes(PaneAggregate<K, A, L>),
    Sliding(SlidingAggregate<K, A, L>),
    Sessions(SessionAggregate<K, A, L>),
    Counted(CountAggregate<K, A>),
}

impl<K: Data, A: Data, L: Data> Aggregation<K, A, L> {
    fn take<V: Data>(
        &mut self,
        context: &mut Context<'_>,
        record: Record<K, V>,
        adder: &Adder<K, V, A, L>,
    ) -> Result {
        match self {
            Self::Plain(all) => all.take(context, record, adder),
            Self::Windows(windows) => windows.take(context, record, adder),
            Self::Panes(windows) => windows.take(context, record, adder),
            Self::Sliding(windows) => windows.take(context, record, adder),
            Self::Sessions(sessions) => sessions.take(context, record, adder),
            Self::Counted(windows) => windows.take(context, record, adder),
        }
    }
}

impl<K: Data, A: Data, L: Data> Wake for Aggregation<K, A, L> {
    fn advance(&mut self, context: &mut Context<'_>, time: Timestamp) -> Result {
        match self {
            Self::Plain(_) | Self::Counted(_) => Ok(()),
            Self::Windows(windows) => windows.advance(context, time),
            Self::Panes(windows) => windows.advance(context, time),
            Self::Sliding(windows) => windows.advance(context, time),
            Self::Sessions(sessions) => sessions.advance(context, time),
        }
    }
}

type Add<K, V, A> = Arc<dyn Fn(&K, V, Option<A>) -> A + Send + Sync>;
type Show<K, V, L> = Arc<dyn Fn(&K, V) -> L + Send + Sync>;

/// What the values of a group do to an aggregate.
pub(crate) struct Adder<K, V, A, L> {
    /// The aggregate with the value in it; there is none before the first.
    pub add: Add<K, V, A>,
    /// A late value, as the late branch shows it.
    pub show: Show<K, V, L>,
    /// Which of the inputs this is, from 0.
    pub input: usize,
}

impl<K, V, A, L> Clone for Adder<K, V, A, L> {
    fn clone(&self) -> Self {
        Self {
            add: Arc::clone(&self.add),
            show: Arc::clone(&self.show),
            input: self.input,
        }
    }
}

impl<K, V, A> Adder<K, V, A, V> {
    /// Late values are shown as they are.
    pub(crate) fn new(add: impl Fn(&K, V, Option<A>) -> A + Send + Sync + 'static) -> Self {
        Self {
            add: Arc::new(add),
            show: Arc::new(|_, value| value),
            input: 0,
        }
    }
}

/// Makes the aggregation of a task, once for all its inputs.
type Make<K, A, L> =
    Arc<dyn Fn(&mut Instantiation<'_>) -> Result<Rc<RefCell<Aggregation<K, A, L>>>> + Send + Sync>;

/// A group that goes into an aggregation, whatever its type of values.
pub(crate) trait Input<K, A, L> {
    /// The group partitioned by its key, through a repartition topic called `name` if it must be, as input number `input`;
    /// nothing after a problem that `build` reports.
    fn connect(&self, name: &str, input: usize) -> Option<Connection<K, A, L>>;

    /// Where the group stands in the plan.
    fn origin(&self) -> Origin;
}

/// A place in a plan.
#[derive(Clone)]
pub(crate) struct Origin {
    pub plan: Rc<RefCell<Plan>>,
    pub node: NodeId,
}

impl Origin {
    /// A stream without records: what stands in after a problem that `build` reports.
    pub(crate) fn silent<K: Data, V: Data, L: Lineage>(&self) -> KStream<K, V, L> {
        KStream::new(Rc::clone(&self.plan), self.node, Outlet::new(), None, None)
    }

    pub(crate) fn problem(&self, name: &str, problem: &str) {
        let problem = format!("'{name}': {problem}");
        self.plan.borrow_mut().problems.push(problem);
    }

    /// Whether `name` cannot emit like that; then it is a problem of the plan.
    pub(crate) fn refuses(&self, name: &str, emit: Emit) -> bool {
        let Emit::Early(fire) = emit else {
            return false;
        };
        let problem = fire.problem();
        problem
            .inspect(|problem| self.problem(name, problem))
            .is_some()
    }
}

/// An input that waits to be attached to its aggregation.
pub(crate) struct Connection<K, A, L> {
    node: NodeId,
    key: SharedSerde<K>,
    attach: Box<dyn FnOnce(Make<K, A, L>)>,
}

/// A group with its adder.
pub(crate) struct GroupInput<K, V, A, L> {
    pub group: KGroupedStream<K, V>,
    pub adder: Adder<K, V, A, L>,
}

impl<K: Data, V: Data, A: Data, L: Data> Input<K, A, L> for GroupInput<K, V, A, L> {
    fn connect(&self, name: &str, input: usize) -> Option<Connection<K, A, L>> {
        let Keyed { stream, key, value } = self.group.keyed(name)?;
        let mut adder = self.adder.clone();
        adder.input = input;
        let (key_serde, node) = (Arc::clone(&key), stream.node);
        let attach = Box::new(move |make: Make<K, A, L>| {
            stream.outlet.attach(move |instantiation| {
                Ok(Box::new(InputNode {
                    key: Arc::clone(&key_serde),
                    value: value.clone(),
                    adder: adder.clone(),
                    aggregation: make(instantiation)?,
                }))
            });
        });
        Some(Connection { node, key, attach })
    }

    fn origin(&self) -> Origin {
        let upstream = self.group.upstream();
        Origin {
            plan: Rc::clone(&upstream.plan),
            node: upstream.node,
        }
    }
}

/// The groups that go into an aggregation: at least one.
pub(crate) struct Inputs<K, A, L> {
    pub first: Box<dyn Input<K, A, L>>,
    pub others: Vec<Box<dyn Input<K, A, L>>>,
}

impl<K, A, L> Inputs<K, A, L> {
    pub(crate) fn origin(&self) -> Origin {
        self.first.origin()
    }

    /// All of them connected, through repartition topics named after `name`.
    fn connect(&self, name: &str) -> Option<Vec<Connection<K, A, L>>> {
        if self.others.is_empty() {
            return Some(vec![self.first.connect(name, 0)?]);
        }
        let inputs = std::iter::once(&self.first).chain(&self.others);
        inputs
            .enumerate()
            .map(|(i, input)| input.connect(&format!("{name}-{}", i + 1), i))
            .collect()
    }
}

/// An aggregation in the plan, whose inputs are not attached yet.
pub(crate) struct Wired<K, A, L> {
    pub plan: Rc<RefCell<Plan>>,
    pub node: NodeId,
    pub store: StoreId,
    pub key: SharedSerde<K>,
    inputs: Vec<Connection<K, A, L>>,
}

impl<K: Data, A: Data, L: Data> Wired<K, A, L> {
    /// Writes down an aggregation called `name`, and its store of that name.
    pub(crate) fn new(
        inputs: &Inputs<K, A, L>,
        name: &str,
        kind: &'static str,
        store: StoreKind,
    ) -> Option<Self> {
        Self::with_store(inputs, name, kind, (name.to_owned(), store))
    }

    /// Writes down an aggregation called `name`, and its store.
    pub(crate) fn with_store(
        inputs: &Inputs<K, A, L>,
        name: &str,
        kind: &'static str,
        (store_name, store): (String, StoreKind),
    ) -> Option<Self> {
        let plan = inputs.origin().plan;
        let inputs = inputs.connect(name)?;
        let nodes: Vec<NodeId> = inputs.iter().map(|input| input.node).collect();
        let key = Arc::clone(&inputs.first()?.key);
        let (node, store) = {
            let mut plan = plan.borrow_mut();
            let store = plan.add_store(&store_name, store);
            let kind = NodeKind::Operator(kind);
            let node = plan.add_node(name.to_owned(), kind, nodes.clone(), vec![store]);
            if nodes.len() > 1 {
                plan.copartitioned.push((name.to_owned(), nodes));
            }
            (node, store)
        };
        Some(Self {
            plan,
            node,
            store,
            key,
            inputs,
        })
    }

    /// How many inputs there are.
    pub(crate) fn input_count(&self) -> usize {
        self.inputs.len()
    }

    /// A store beside the other, for early results of the aggregation, which is called `name`.
    pub(crate) fn add_early_store(&self, name: &str) -> StoreId {
        let mut plan = self.plan.borrow_mut();
        let kind = plan.stores[self.store.0].kind;
        let store = plan.add_store(&format!("{name}-early"), kind);
        plan.nodes[self.node.0].stores.push(store);
        store
    }

    /// Notes for plans what the store holds, and the numbers that shape its rows.
    pub(crate) fn describe(&self, value: &SharedSerde<A>, parameters: &[(&'static str, i64)]) {
        let mut plan = self.plan.borrow_mut();
        plan.describe_store(self.store, &*self.key, &**value);
        plan.describe_node(self.node, parameters);
    }

    /// Attaches the inputs to what `make` makes of the aggregation in each task.
    pub(crate) fn attach(
        self,
        make: impl Fn(&mut Instantiation<'_>) -> Result<Aggregation<K, A, L>> + Send + Sync + 'static,
    ) {
        let node = self.node;
        let make: Make<K, A, L> = Arc::new(move |instantiation| {
            instantiation.shared(node, |instantiation| {
                let aggregation = Rc::new(RefCell::new(make(instantiation)?));
                instantiation.wakes.push(Rc::clone(&aggregation) as _);
                Ok(aggregation)
            })
        });
        for input in self.inputs {
            (input.attach)(Arc::clone(&make));
        }
    }
}

/// An input of an aggregation in a task. Records with a null key or value go no further.
struct InputNode<K, V, A, L> {
    key: SharedSerde<K>,
    /// Tells a null value; without a serde the type has none.
    value: Option<SharedSerde<V>>,
    adder: Adder<K, V, A, L>,
    aggregation: Rc<RefCell<Aggregation<K, A, L>>>,
}

impl<K: Data, V: Data, A: Data, L: Data> Process<K, V> for InputNode<K, V, A, L> {
    fn process(&mut self, context: &mut Context<'_>, record: Record<K, V>) -> Result {
        if self.key.is_null(&record.key) || is_null(self.value.as_ref(), &record.value) {
            metrics::counter!("dropped-records", "reason" => "null key or value").increment(1);
            return Ok(());
        }
        let mut aggregation = self.aggregation.borrow_mut();
        aggregation.take(context, record, &self.adder)
    }
}
