//! Splitting a stream: each record goes to one branch.

use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::Result;
use crate::processor::{Context, Fanout, Process};
use crate::record::{Data, Record};
use crate::topology::NodeKind;

use super::KStream;
use super::lineage::Lineage;
use super::outlet::Outlet;

type Predicate<K, V> = Arc<dyn Fn(&K, &V) -> bool + Send + Sync>;
type Branches<K, V> = Vec<(Predicate<K, V>, Arc<Outlet<K, V>>)>;

/// A stream being split: see [`KStream::split`].
pub struct Split<K, V, L> {
    parent: KStream<K, V, L>,
    branches: Arc<Mutex<Branches<K, V>>>,
}

impl<K: Data, V: Data, L: Lineage> Split<K, V, L> {
    pub(crate) fn of(parent: &KStream<K, V, L>) -> Self {
        let branches = Arc::new(Mutex::new(Branches::new()));
        let all = Arc::clone(&branches);
        parent.outlet.attach(move |instantiation| {
            let branches = all.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let branches: Result<Vec<_>> = branches
                .into_iter()
                .map(|(belongs, outlet)| Ok((belongs, outlet.instantiate(instantiation)?)))
                .collect();
            Ok(Box::new(SplitNode {
                branches: branches?,
            }))
        });
        Self {
            parent: parent.clone(),
            branches,
        }
    }

    /// The records that no earlier branch took and for which `belongs` holds: see [`KStream::split`].
    ///
    /// Nulls are shown to `belongs` like any others; no store or topic is made.
    ///
    /// ```
    /// # use processor_core::dsl::{Consumed, StreamsBuilder};
    /// # use processor_core::serde::{int64, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("bids");
    /// # let bids = builder.stream("bids", Consumed::new(utf8(), int64()));
    /// let by_price = bids.split();
    /// by_price.branch(|_, price| *price >= 100).to("high-bids");
    /// by_price.branch(|_, price| *price >= 10).to("low-bids");
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let bids = driver.input("bids", utf8(), int64());
    /// bids.pipe(&mut driver, "vase".to_owned(), 120, 0);
    /// bids.pipe(&mut driver, "vase".to_owned(), 70, 1);
    /// let low = driver.output("low-bids", utf8(), int64()).read_key_values(&mut driver);
    /// assert_eq!(low, [("vase".to_owned(), 70)]);
    /// ```
    pub fn branch(
        &self,
        belongs: impl Fn(&K, &V) -> bool + Send + Sync + 'static,
    ) -> KStream<K, V, L> {
        let parent = &self.parent;
        let outlet = Outlet::<K, V>::new();
        let node = {
            let mut plan = parent.plan.borrow_mut();
            let name = plan.generated_name("KSTREAM-BRANCH");
            plan.add_node(
                name,
                NodeKind::Operator("branch"),
                vec![parent.node],
                vec![],
            )
        };
        let mut branches = self.branches.lock().unwrap_or_else(PoisonError::into_inner);
        branches.push((Arc::new(belongs), Arc::clone(&outlet)));
        let (key, value) = (parent.key.clone(), parent.value.clone());
        KStream::new(Rc::clone(&parent.plan), node, outlet, key, value)
    }

    /// The records that no branch took. Comes last: a later branch would get nothing.
    ///
    /// ```
    /// # use processor_core::dsl::{Consumed, StreamsBuilder};
    /// # use processor_core::serde::{int64, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("bids");
    /// # let bids = builder.stream("bids", Consumed::new(utf8(), int64()));
    /// let by_price = bids.split();
    /// by_price.branch(|_, price| *price >= 100).to("high-bids");
    /// by_price.default_branch().to("other-bids");
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let bids = driver.input("bids", utf8(), int64());
    /// bids.pipe(&mut driver, "vase".to_owned(), 120, 0);
    /// bids.pipe(&mut driver, "vase".to_owned(), 70, 1);
    /// let others = driver.output("other-bids", utf8(), int64()).read_key_values(&mut driver);
    /// assert_eq!(others, [("vase".to_owned(), 70)]);
    /// ```
    pub fn default_branch(&self) -> KStream<K, V, L> {
        self.branch(|_, _| true)
    }
}

/// A split in a task: moves each record to the first branch that takes it.
struct SplitNode<K, V> {
    branches: Vec<(Predicate<K, V>, Fanout<K, V>)>,
}

impl<K: Data, V: Data> Process<K, V> for SplitNode<K, V> {
    fn process(&mut self, context: &mut Context<'_>, record: Record<K, V>) -> Result {
        let taker = self
            .branches
            .iter_mut()
            .find(|(takes, _)| takes(&record.key, &record.value));
        match taker {
            Some((_, children)) => children.forward(context, record),
            None => Ok(()),
        }
    }
}
