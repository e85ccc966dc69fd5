//! Sending a stream through a topic of the application's own, so that equal keys meet.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use crate::error::Result;
use crate::log::{Headers, Timestamp};
use crate::plan::RowFormat;
use crate::processor::{Context, NO_TIME, OperatorTime, Process, Wake};
use crate::record::{Data, Record};
use crate::serde::SharedSerde;
use crate::task::{TimeHeader, TimeKind};
use crate::topology::{NodeId, NodeKind, Plan, Topic};

use super::builder::add_source;
use super::outlet::Outlet;
use super::sink::Sink;
use super::{Consumed, KStream, Lineage, Partitioned};

/// Sends `stream` through `<application id>-<name>-repartition`. `keyless`: what becomes of records without a key.
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

/// Like [`repartition`], for an operator that has to and does not care how: where the topology is optimised, operators
/// below one stream share the topic of the first of them, if their serdes write the same bytes.
pub(crate) fn repartition_once<K: Data, V: Data, L: Lineage>(
    stream: &KStream<K, V, L>,
    name: &str,
    key: SharedSerde<K>,
    value: SharedSerde<V>,
    keyless: Keyless,
) -> KStream<K, V, Partitioned> {
    let wanted = Shared {
        from: Arc::clone(&stream.outlet),
        keyless,
        key,
        value,
    };
    let plan = &stream.plan;
    if !plan.borrow().optimized {
        return repartition(stream, name, wanted.key, wanted.value, None, keyless);
    }
    let known = plan
        .borrow()
        .shared_hops
        .iter()
        .find_map(|(hop, node, outlet)| {
            let hop = hop.downcast_ref::<Shared<K, V>>()?;
            let outlet = Arc::clone(outlet).downcast::<Outlet<K, V>>().ok()?;
            hop.serves(&wanted).then_some((*node, outlet))
        });
    let Shared { key, value, .. } = &wanted;
    let (key, value) = (Arc::clone(key), Arc::clone(value));
    if let Some((node, outlet)) = known {
        return KStream::new(Rc::clone(plan), node, outlet, Some(key), Some(value));
    }
    let through = repartition(stream, name, key, value, None, keyless);
    let outlet = Arc::clone(&through.outlet);
    plan.borrow_mut()
        .shared_hops
        .push((Arc::new(wanted), through.node, outlet));
    through
}

/// What goes through a repartition topic that several operators may read.
struct Shared<K, V> {
    from: Arc<Outlet<K, V>>,
    keyless: Keyless,
    key: SharedSerde<K>,
    value: SharedSerde<V>,
}

impl<K: Data, V: Data> Shared<K, V> {
    fn serves(&self, wanted: &Self) -> bool {
        self.from.is(&*wanted.from)
            && self.keyless == wanted.keyless
            && same_bytes(&self.key, &wanted.key)
            && same_bytes(&self.value, &wanted.value)
    }
}

/// Whether two serdes of one type write the same bytes, as far as can be told.
fn same_bytes<T>(one: &SharedSerde<T>, other: &SharedSerde<T>) -> bool {
    let format = one.format();
    Arc::ptr_eq(one, other) || (format.is_some() && format == other.format())
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
            let told_idle = instantiation.times.cell(&format!("{topic}~"));
            let told = Told {
                time: time.now(),
                idle: told_idle.get() != NO_TIME,
            };
            let told = vec![told; usize::try_from(partitions).unwrap_or(0)];
            let key = Arc::clone(&sink_key);
            let sink = Sink::new(topic, partitions, Arc::clone(&key), Arc::clone(&sink_value));
            Ok(instantiation.woken(RepartitionSink {
                sink,
                key,
                keyless,
                route,
                time,
                idle: false,
                told_idle,
                told,
            }))
        });
        add_source(plan, topic, Consumed::of(key, value))
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
    /// Whether all inputs of this task that lie above are idle.
    idle: bool,
    /// Whether some partition has been told so: its value is not −1. Survives with the times.
    told_idle: Rc<Cell<Timestamp>>,
    told: Vec<Told>,
}

/// What a partition has been told of this task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Told {
    time: Timestamp,
    idle: bool,
}

impl<K: Data, V: Data> Process<K, V> for RepartitionSink<K, V> {
    fn process(&mut self, context: &mut Context<'_>, mut record: Record<K, V>) -> Result {
        if self.keyless == Keyless::Dropped && self.key.is_null(&record.key) {
            metrics::counter!("dropped-records", "reason" => "null key").increment(1);
            return Ok(());
        }
        self.time.observe(record.timestamp, context);
        self.idle = false;
        let time = self.time.now();
        let mut headers = std::mem::take(&mut record.headers);
        let header = TimeHeader {
            task: context.task.partition,
            time,
            kind: TimeKind::Record,
        };
        header.put(&mut headers);
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
            *told = Told { time, idle: false };
        }
        Ok(())
    }
}

impl<K, V> Wake for RepartitionSink<K, V> {
    fn advance(&mut self, context: &mut Context<'_>, time: Timestamp) -> Result {
        self.time.observe(time, context);
        Ok(())
    }

    fn idle(&mut self, context: &mut Context<'_>, idle: Option<Timestamp>) -> Result {
        self.idle = idle.is_some();
        idle.map_or(Ok(()), |time| self.advance(context, time))
    }

    /// Tells the partitions that got no record how far this task has come, and whether there is no use in waiting for it;
    /// else they would wait for ever.
    fn before_commit(&mut self, context: &mut Context<'_>) -> Result {
        let news = Told {
            time: self.time.now(),
            idle: self.idle,
        };
        for (partition, told) in (0..).zip(&mut self.told) {
            if told.time < news.time || told.idle != news.idle {
                let header = TimeHeader {
                    task: context.task.partition,
                    time: news.time,
                    kind: if news.idle {
                        TimeKind::Idle
                    } else {
                        TimeKind::Marker
                    },
                };
                let (topic, time) = (&self.sink.topic, news.time.max(0));
                let mut headers = Headers::new();
                header.put(&mut headers);
                context
                    .out
                    .send(topic, partition, time, None, None, &headers)?;
                *told = news;
            }
        }
        self.told_idle.set(if self.idle { 0 } else { NO_TIME });
        Ok(())
    }
}
