//! Sending a stream through a topic of the application's own, so that equal keys meet.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use crate::error::Result;
use crate::log::Timestamp;
use crate::plan::RowFormat;
use crate::processor::{Context, OperatorTime, Process, SharedNode, Wake};
use crate::record::{Data, Record};
use crate::serde::SharedSerde;
use crate::task::TimeHeader;
use crate::topology::{NodeId, NodeKind, Plan, Topic};

use super::builder::add_source;
use super::outlet::Outlet;
use super::sink::Sink;
use super::{Consumed, KStream, Lineage, Partitioned};

/// Sends `stream` through `<application id>-<name>-repartition`.
pub(crate) fn repartition<K: Data, V: Data, L: Lineage>(
    stream: &KStream<K, V, L>,
    name: &str,
    key: SharedSerde<K>,
    value: SharedSerde<V>,
    partitions: Option<i32>,
    keyless: Keyless,
) -> KStream<K, V, Partitioned> {
    let topic = Topic::Repartition(name.to_owned());
    if let Some(partitions) = partitions {
        let mut plan = stream.plan.borrow_mut();
        plan.enforced_partitions.push((topic.clone(), partitions));
    }
    let hop = Hop {
        topic,
        key,
        value,
        keyless,
        route: None,
    };
    let sink_name = format!("{name}-repartition-sink");
    hop.through(&stream.plan, sink_name, stream.node, &stream.outlet)
}

/// A way through a topic of the application's own.
pub(crate) struct Hop<K, V> {
    pub topic: Topic,
    pub key: SharedSerde<K>,
    pub value: SharedSerde<V>,
    pub keyless: Keyless,
    /// The partition that a value goes to; none where the key decides.
    pub route: Option<fn(&V) -> i32>,
}

impl<K: Data, V: Data> Hop<K, V> {
    /// Writes what comes out of `outlet`, the outlet of node `from`, and reads it again.
    pub(crate) fn through(
        self,
        plan: &Rc<RefCell<Plan>>,
        sink_name: String,
        from: NodeId,
        outlet: &Outlet<K, V>,
    ) -> KStream<K, V, Partitioned> {
        let Self {
            topic,
            key,
            value,
            keyless,
            route,
        } = self;
        {
            let mut plan = plan.borrow_mut();
            let format = RowFormat::of(&*key, &*value);
            plan.topic_formats.insert(topic.clone(), format);
            let kind = NodeKind::Sink(topic.clone());
            plan.add_node(sink_name, kind, vec![from], vec![]);
        }
        let (sink_key, sink_value) = (Arc::clone(&key), Arc::clone(&value));
        let sink_topic = topic.clone();
        outlet.attach(move |instantiation| {
            let topic = sink_topic.resolve(instantiation.application_id);
            let partitions = instantiation.partitions.of(&topic)?;
            let time = OperatorTime::new(instantiation.times, &topic);
            let told = vec![time.now(); usize::try_from(partitions).unwrap_or(0)];
            let key = Arc::clone(&sink_key);
            let sink = Sink::new(topic, partitions, Arc::clone(&key), Arc::clone(&sink_value));
            let node = RepartitionSink {
                sink,
                key,
                keyless,
                route,
                time,
                told,
            };
            let node = Rc::new(RefCell::new(node));
            instantiation
                .wakes
                .push(Rc::clone(&node) as Rc<RefCell<dyn Wake>>);
            Ok(Box::new(SharedNode(node)))
        });
        let consumed = Consumed {
            key,
            value,
            timestamp: None,
            reset: Default::default(),
        };
        add_source(plan, topic, consumed)
    }
}

/// What becomes of records without a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keyless {
    /// The operator below ignores them, so they are not sent at all.
    Dropped,
    /// The operator below wants them.
    Kept,
}

struct RepartitionSink<K, V> {
    sink: Sink<K, V>,
    key: SharedSerde<K>,
    keyless: Keyless,
    route: Option<fn(&V) -> i32>,
    /// Largest timestamp sent so far, to any partition.
    time: OperatorTime,
    /// What each partition has been told of that time.
    told: Vec<Timestamp>,
}

impl<K: Data, V: Data> Process<K, V> for RepartitionSink<K, V> {
    fn process(&mut self, context: &mut Context<'_>, mut record: Record<K, V>) -> Result {
        if self.keyless == Keyless::Dropped && self.key.is_null(&record.key) {
            metrics::counter!("dropped-records", "reason" => "null key").increment(1);
            return Ok(());
        }
        self.time.observe(record.timestamp, context);
        let time = self.time.now();
        let header = TimeHeader {
            task: context.task.partition,
            time,
            marker: false,
        };
        let mut headers = std::mem::take(&mut record.headers);
        headers.push(header.encode());
        let partition = match self.route {
            Some(route) => {
                let partition = route(&record.value);
                self.sink.send_to(partition, context, &record, &headers)?;
                partition
            }
            None => self.sink.send(context, &record, &headers)?,
        };
        if let Some(told) = usize::try_from(partition)
            .ok()
            .and_then(|p| self.told.get_mut(p))
        {
            *told = time;
        }
        Ok(())
    }
}

impl<K, V> Wake for RepartitionSink<K, V> {
    /// Tells the partitions that got no record how far this task has come; else they would wait for it for ever.
    fn before_commit(&mut self, context: &mut Context<'_>) -> Result {
        let time = self.time.now();
        for (partition, told) in (0..).zip(&mut self.told) {
            if *told < time {
                let header = TimeHeader {
                    task: context.task.partition,
                    time,
                    marker: true,
                };
                let headers = [header.encode()];
                context
                    .out
                    .send(&self.sink.topic, partition, time, None, None, &headers)?;
                *told = time;
            }
        }
        Ok(())
    }
}
