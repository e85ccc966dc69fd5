//! Reading and writing the headers of a stream's records. Key, partition and timestamp stay, so no operator below has to
//! repartition.
//!
//! Kafka Streams has headers in its processor API only (`Record.headers`).

use crate::log::{Header, Headers};
use crate::record::Data;

use super::{KStream, Lineage};

impl<K: Data, V: Data, L: Lineage> KStream<K, V, L> {
    /// Changes the headers of each record in place, by its key and value.
    ///
    /// Headers travel through stateless operators and into output and repartition topics. Stores do not keep them: an
    /// update of an aggregation has those of the record that it comes with, a final result has none.
    ///
    /// Nulls are shown like any others; timestamps stay, nothing is late, and no store or topic is made.
    ///
    /// ```
    /// # use processor_core::dsl::{Consumed, StreamsBuilder};
    /// # use processor_core::log::Header;
    /// # use processor_core::serde::{int64, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("bids");
    /// # let bids = builder.stream("bids", Consumed::new(utf8(), int64()));
    /// bids.map_headers(|_, price, headers| {
    ///     headers.retain(|header| &*header.name != "debug");
    ///     headers.push(Header::new("currency", if *price > 0 { "EUR" } else { "none" }));
    /// })
    /// .to("all-bids");
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let bids = driver.input("bids", utf8(), int64());
    /// bids.pipe(&mut driver, "vase".to_owned(), 70, 0);
    /// let out = driver.output("all-bids", utf8(), int64()).read(&mut driver);
    /// assert_eq!(out[0].headers, [Header::new("currency", "EUR")]);
    /// ```
    pub fn map_headers(
        &self,
        change: impl Fn(&K, &V, &mut Headers) + Send + Sync + 'static,
    ) -> Self {
        let (key, value) = (self.key.clone(), self.value.clone());
        self.each("KSTREAM-MAPHEADERS", key, value, move |mut record, next| {
            change(&record.key, &record.value, &mut record.headers);
            next.forward(record)
        })
    }

    /// Replaces each value, like [`map_values`](Self::map_values), by its headers as well.
    ///
    /// Nulls are given to `map` like any others; no store or topic is made.
    ///
    /// ```
    /// # use processor_core::Record;
    /// # use processor_core::dsl::{Consumed, Produced, StreamsBuilder};
    /// # use processor_core::log::Header;
    /// # use processor_core::serde::{int64, utf8};
    /// # use processor_core::testing::TopologyTestDriver;
    /// # let builder = StreamsBuilder::new("bids");
    /// # let bids = builder.stream("bids", Consumed::new(utf8(), int64()));
    /// let sources = bids.map_values_with_headers(|_, price, headers| {
    ///     let source = Header::last(headers, "source").and_then(|header| header.value.as_deref());
    ///     format!("{price} by {}", String::from_utf8_lossy(source.unwrap_or(b"nobody")))
    /// });
    /// sources.to_with("sources", Produced::new(utf8(), utf8()));
    /// # let mut driver = TopologyTestDriver::new(builder.build().unwrap()).unwrap();
    /// # let bids = driver.input("bids", utf8(), int64());
    /// let headers = vec![Header::new("source", "exchange")];
    /// bids.pipe_record(&mut driver, &Record { headers, ..Record::new("vase".to_owned(), 70, 0) });
    /// let out = driver.output("sources", utf8(), utf8()).read(&mut driver);
    /// assert_eq!(out[0].value, "70 by exchange");
    /// ```
    pub fn map_values_with_headers<V2: Data>(
        &self,
        map: impl Fn(&K, V, &[Header]) -> V2 + Send + Sync + 'static,
    ) -> KStream<K, V2, L> {
        let key = self.key.clone();
        self.each("KSTREAM-MAPVALUES", key, None, move |record, next| {
            let (rest, value) = record.take_value();
            let value = map(&rest.key, value, &rest.headers);
            next.forward(rest.with_value(value))
        })
    }
}
