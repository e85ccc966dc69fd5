//! Printing a stream, for a look at what it carries.

use std::fmt::Debug;
use std::io::Write;
use std::sync::{Mutex, PoisonError};

use crate::error::Fault;
use crate::record::Data;

use super::{KStream, Lineage};

impl<K: Data + Debug, V: Data + Debug, L: Lineage> KStream<K, V, L> {
    /// Ends the stream with a line on the standard output for each record: see [`print_to`](Self::print_to).
    ///
    /// ```
    /// # use processor_core::dsl::{Consumed, StreamsBuilder};
    /// # use processor_core::serde::{int64, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("bids");
    /// # let bids = builder.stream("bids", Consumed::new(utf8(), int64()));
    /// bids.print("bids");
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let bids = driver.input("bids", utf8(), int64());
    /// // [bids]: "vase", 70
    /// bids.pipe(&mut driver, "vase".to_owned(), 70, 0);
    /// ```
    pub fn print(&self, label: &str) {
        self.print_to(label, std::io::stdout());
    }

    /// Ends the stream with a line in `writer` for each record: `[label]: key, value`, as Kafka Streams' `print` has it,
    /// with key and value as `Debug` shows them.
    ///
    /// All tasks share the writer, behind a lock: it is for debugging, not for results. What is printed is not part of
    /// the transaction, so after a failure lines may come twice. A writer that fails fails the record.
    ///
    /// Nulls are shown as `Debug` shows them. Nothing is late, and no store or topic is made. Source of the semantics:
    /// Kafka Streams' `KStream#print`.
    ///
    /// ```
    /// # use std::io::{BufRead, BufReader};
    /// # use processor_core::dsl::{Consumed, StreamsBuilder};
    /// # use processor_core::serde::{int64, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("bids");
    /// # let bids = builder.stream("bids", Consumed::new(utf8(), int64()));
    /// # let (read, written) = std::io::pipe().unwrap();
    /// bids.filter(|_, price| *price > 0).print_to("valid", written);
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let bids = driver.input("bids", utf8(), int64());
    /// bids.pipe(&mut driver, "vase".to_owned(), 70, 0);
    /// # let mut line = String::new();
    /// # BufReader::new(read).read_line(&mut line).unwrap();
    /// assert_eq!(line, "[valid]: \"vase\", 70\n");
    /// ```
    pub fn print_to(&self, label: &str, writer: impl Write + Send + 'static) {
        let (label, writer) = (label.to_owned(), Mutex::new(writer));
        self.end("KSTREAM-PRINTER", move |record| {
            // One call for one line, so that lines of tasks do not mix.
            let line = format!("[{label}]: {:?}, {:?}\n", record.key, record.value);
            let mut writer = writer.lock().unwrap_or_else(PoisonError::into_inner);
            writer
                .write_all(line.as_bytes())
                .and_then(|()| writer.flush())
                .map_err(|error| Fault::user(format!("print of '{label}'"), error))
        });
    }
}
