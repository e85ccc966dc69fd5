//! One stream of the records of several.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use crate::record::Data;
use crate::topology::{NodeId, NodeKind, Plan};

use super::outlet::Outlet;
use super::{KStream, Lineage, MergeWith};

impl<K: Data, V: Data, L: Lineage> KStream<K, V, L> {
    /// The records of both streams, with null keys and values, headers and timestamps as they are. Order is kept within
    /// each, not between them. It stores nothing, and no record is late.
    ///
    /// Streams of two topics become one task, so these need the same number of partitions; a task takes its topics in
    /// the order of their timestamps. Several topics with the same types can be read as one from the start:
    /// [`stream_of`](crate::dsl::StreamsBuilder::stream_of).
    ///
    /// Source of the semantics: Kafka Streams' `KStream.merge`.
    ///
    /// ```
    /// # use processor_core::dsl::{Consumed, StreamsBuilder};
    /// # use processor_core::serde::{int64, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("clicks");
    /// # let web = builder.stream("web", Consumed::new(utf8(), int64()));
    /// # let app = builder.stream("app", Consumed::new(utf8(), int64()));
    /// web.merge(&app).to("clicks");
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let (web, app) = (driver.input("web", utf8(), int64()), driver.input("app", utf8(), int64()));
    /// web.pipe(&mut driver, "ann".to_owned(), 1, 0);
    /// app.pipe(&mut driver, "bob".to_owned(), 2, 1);
    /// let clicks = driver.output("clicks", utf8(), int64()).read_key_values(&mut driver);
    /// assert_eq!(clicks, [("ann".to_owned(), 1), ("bob".to_owned(), 2)]);
    /// ```
    pub fn merge<M: Lineage>(
        &self,
        other: &KStream<K, V, M>,
    ) -> KStream<K, V, <L as MergeWith<M>>::Merged>
    where
        L: MergeWith<M>,
    {
        let parents = [
            (self.node, Arc::clone(&self.outlet)),
            (other.node, Arc::clone(&other.outlet)),
        ];
        let (node, merged) = merge(&self.plan, &parents);
        let plan = Rc::clone(&self.plan);
        KStream::new(plan, node, merged, self.key.clone(), self.value.clone())
    }
}

/// Adds a node that passes on the records of all `parents`.
pub(crate) fn merge<K: Data, V: Data>(
    plan: &Rc<RefCell<Plan>>,
    parents: &[(NodeId, Arc<Outlet<K, V>>)],
) -> (NodeId, Arc<Outlet<K, V>>) {
    let merged = Outlet::<K, V>::new();
    let node = {
        let mut plan = plan.borrow_mut();
        let name = plan.generated_name("KSTREAM-MERGE");
        let nodes = parents.iter().map(|(node, _)| *node).collect();
        plan.add_node(name, NodeKind::Operator("merge"), nodes, vec![])
    };
    for (_, parent) in parents {
        let merged = Arc::clone(&merged);
        parent.attach(move |instantiation| merged.shared_child(node, instantiation));
    }
    (node, merged)
}
