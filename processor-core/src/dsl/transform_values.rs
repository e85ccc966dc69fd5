//! A table whose rows are made by code with stores.
//!
//! Each change of the table above is given to the code once, a deletion included, and what it returns becomes the row,
//! with the timestamp and headers of the change. The rows are kept in a store, so nobody asks the code again for a row
//! that it made: not for old values, and not where a join looks the row up. (Kafka Streams does that where the result has
//! no store; [`map_values`](super::KTable::map_values) is for functions that may be called again.) Nothing is late, and
//! tables have no null keys.
//!
//! Source of the semantics: Kafka Streams' `KTableTransformValues`, with a named store.

use std::rc::Rc;
use std::sync::Arc;

use crate::error::Result;
use crate::log::Timestamp;
use crate::processor::{Context, Fanout, Process, StoreSet};
use crate::record::{Change, Data, Record};
use crate::serde::Serde;
use crate::topology::NodeKind;

use super::outlet::Outlet;
use super::table::TableSource;
use super::{KStream, KTable};

impl<K: Data, V: Data> KTable<K, V> {
    /// Makes each row with user code that may keep state. `make` is called once per task with the stores opened, in the
    /// order they are given; what it makes gets the key, the row above (`None` where it was deleted) and the timestamp of
    /// the change in ms, and returns the row of the result, or `None` for none.
    ///
    /// Emits with each change of the table, a deletion included. The rows are kept in the key-value store `name`, with
    /// `serde`, and their changelog is `<application id>-<name>-changelog`; no topic is made. An error of the code stops
    /// the task, or is handled as [`on_processing_error`](crate::StreamsConfig::on_processing_error) says.
    ///
    /// Nothing is late, and tables have no null keys. Source of the semantics: Kafka Streams' `KTableTransformValues`,
    /// with a named store.
    ///
    /// ```
    /// # use processor_core::dsl::{Consumed, StreamsBuilder};
    /// # use processor_core::serde::{int64, nullable, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("prices");
    /// // How often each price was set, beside the price.
    /// let counts = builder.key_value_store("counts", utf8(), int64());
    /// builder
    ///     .table("prices", "prices", Consumed::new(utf8(), int64()))
    ///     .transform_values("counted", counts, utf8(), |mut counts| {
    ///         move |key: &String, price: Option<i64>, time| {
    ///             let count = counts.get(key)?.unwrap_or(0) + 1;
    ///             counts.put(key, &count, time)?;
    ///             Ok(price.map(|price| format!("{price}, set {count} times")))
    ///         }
    ///     })
    ///     .to_stream()
    ///     .to("counted");
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let prices = driver.input("prices", utf8(), int64());
    /// prices.pipe(&mut driver, "pen".to_owned(), 5, 0);
    /// prices.pipe(&mut driver, "pen".to_owned(), 7, 1);
    /// let out = driver.output("counted", utf8(), nullable(utf8())).read(&mut driver);
    /// assert_eq!(out[1].value.as_deref(), Some("7, set 2 times"));
    /// ```
    pub fn transform_values<S, V2, F>(
        &self,
        name: &str,
        stores: S,
        serde: impl Serde<V2> + 'static,
        make: impl Fn(S::Opened) -> F + Send + Sync + 'static,
    ) -> KTable<K, V2>
    where
        S: StoreSet,
        V2: Data,
        F: FnMut(&K, Option<V>, Timestamp) -> Result<Option<V2>> + 'static,
    {
        let Some(key) = self.key.clone() else {
            if self.view.is_some() {
                self.plan.borrow_mut().problems.push(format!(
                    "table '{name}' keeps its rows, but has no serde for their keys, since an operator changed their \
                     type; use `with_serdes(key serde, value serde)` before it"
                ));
            }
            return KTable::detached_at(&self.plan, self.node);
        };
        let outlet = Outlet::<K, Option<V2>>::new();
        let node = {
            let mut plan = self.plan.borrow_mut();
            let kind = NodeKind::Operator("transform values");
            let name = format!("{name}-transform");
            plan.add_node(name, kind, vec![self.node], stores.ids())
        };
        let below = Arc::clone(&outlet);
        self.outlet.attach(move |instantiation| {
            Ok(Box::new(Transform {
                transform: make(stores.open(instantiation)?),
                children: below.instantiate(instantiation)?,
            }))
        });
        let rows = KStream::new(Rc::clone(&self.plan), node, outlet, None, None);
        let table = TableSource {
            store: name,
            key,
            value: Arc::new(serde),
            read_back: None,
        };
        KTable {
            closes_after_ms: self.closes_after_ms,
            ..table.attach(&rows, |row| row)
        }
    }
}

/// The user's code in a task.
struct Transform<F, K, V2> {
    transform: F,
    children: Fanout<K, Option<V2>>,
}

impl<K, V, V2, F> Process<K, Change<V>> for Transform<F, K, V2>
where
    K: Data,
    V: Data,
    V2: Data,
    F: FnMut(&K, Option<V>, Timestamp) -> Result<Option<V2>>,
{
    fn process(&mut self, context: &mut Context<'_>, record: Record<K, Change<V>>) -> Result {
        let Record {
            key,
            value: Change { new, .. },
            timestamp,
            headers,
        } = record;
        let value = (self.transform)(&key, new, timestamp)?;
        self.children.forward(
            context,
            Record {
                key,
                value,
                timestamp,
                headers,
            },
        )
    }
}
