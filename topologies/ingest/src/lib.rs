//! Landing files to topics, exactly once.
//!
//! Ingest is a topology. A work topic, [`OBJECTS`], says which objects there are; it is keyed by feed, so one task owns a
//! feed and reads its objects in the order in which they were announced, record by record. How far it has come (object and
//! record) is state, committed in one transaction with the records that came of it, so a file spans many commits, and
//! whoever takes the task over goes on at the record.
//!
//! Every record of a file ends in exactly one bucket, decided in this order:
//!
//! 1. **quarantined**: it breaks the contract, or its creative is unknown and it names no campaign;
//! 2. **duplicate**: its id was seen before in its feed, not longer ago than [`Config::id_ttl`]; the first wins.
//!    Quarantined records count as not seen;
//! 3. **late**: it lies more than the grace below the largest timestamp before it in its feed;
//! 4. **valid**: it goes to the topic of its feed, keyed by user.

#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod objects;
mod output;
mod reader;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use events::{BID_REQUEST_SCHEMA, BidRequest, Click, Conversion, Creative, Feed, Impression};
use processor_core::clock::millis;
use processor_core::dsl::{Consumed, KStream, Produced, StreamsBuilder};
use processor_core::processor::{StoreHandle, Ttl};
use processor_core::serde::registry::SchemaRegistry;
use processor_core::serde::{RegisteredAvro, bytes, json, registered_avro, utf8};
use processor_core::{Topology, TopologyError};

pub use objects::{AnnounceError, Announced, LandingObject, announce};
pub use output::{FileReport, Quarantined};

use output::Ingested;
use reader::{FeedReader, Seen, Stores};

/// Topic of objects to read, keyed by feed, JSON [`LandingObject`]s.
pub const OBJECTS: &str = "landing-objects";
/// Topic of the creative dimension, keyed by creative id, JSON [`Creative`]s. Compacted.
pub const CREATIVES: &str = "creatives";
/// Topic of valid impressions, keyed by user id.
pub const IMPRESSIONS: &str = "impressions";
/// Topic of valid clicks, keyed by user id.
pub const CLICKS: &str = "clicks";
/// Topic of valid conversions, keyed by user id.
pub const CONVERSIONS: &str = "conversions";
/// Topic of valid bid requests, keyed by user id, or by request id where there is no user; Avro in the wire format of schema
/// registries, see [`bid_requests`].
pub const BID_REQUESTS: &str = "bid-requests";
/// Topic of records that broke the contract, keyed by path, JSON [`Quarantined`]s.
pub const QUARANTINE: &str = "quarantine";
/// Topic of what became of each file, keyed by path, JSON [`FileReport`]s; the last one of a
/// path counts.
pub const FILES: &str = "landing-files";

/// Topics that ingest reads and writes, the compacted ones marked.
pub const TOPICS: [(&str, bool); 8] = [
    (OBJECTS, false),
    (CREATIVES, true),
    (IMPRESSIONS, false),
    (CLICKS, false),
    (CONVERSIONS, false),
    (BID_REQUESTS, false),
    (QUARANTINE, false),
    (FILES, true),
];

/// How landing files are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The landing directory. Every instance must see the same files.
    pub landing: PathBuf,
    /// How far below the largest timestamp before it in its feed a record may be.
    pub grace: Duration,
    /// How long the id of a record is remembered after it was read, in the event time of its feed: at least as long as a
    /// delivery may be repeated, and longer than the grace whatever is set here. So a repeat that comes when its id is
    /// forgotten is late, and no record is valid twice.
    pub id_ttl: Duration,
}

/// What [`Config::id_ttl`] should be where nothing else is known: two days, within which deliveries are repeated.
pub const ID_TTL: Duration = Duration::from_secs(48 * 60 * 60);

impl Config {
    fn grace_ms(&self) -> i64 {
        millis(self.grace)
    }
}

/// The ingest topology on its own.
///
/// # Errors
/// Never with this configuration; the builder checks names and serdes.
pub fn topology(
    config: &Config,
    bid_requests: RegisteredAvro<BidRequest>,
) -> Result<Topology, TopologyError> {
    let builder = StreamsBuilder::new("ingest");
    ingest(&builder, config, bid_requests);
    builder.build()
}

/// The serde of [`BID_REQUESTS`]: its schema stands in `registry` under the subject `bid-requests-value`, as Confluent's
/// clients name it. Register it before the start: a registry that refuses the schema then stops the start.
///
/// ```
/// use std::sync::Arc;
/// use processor_core::log::embedded::EmbeddedLog;
/// use processor_core::serde::registry::{TopicRegistry, TopicRegistryOptions};
///
/// let log = Arc::new(EmbeddedLog::in_memory());
/// let registry = TopicRegistry::open(log, &TopicRegistryOptions::default()).unwrap();
/// let serde = ingest::bid_requests(Arc::new(registry));
/// assert_eq!(serde.register().unwrap().0, 1);
/// ```
#[must_use]
pub fn bid_requests(registry: Arc<dyn SchemaRegistry>) -> RegisteredAvro<BidRequest> {
    let subject = format!("{BID_REQUESTS}-value");
    registered_avro(registry, subject, BID_REQUEST_SCHEMA).expect("the shipped schema is valid")
}

/// The valid impressions as a stream, keyed by user id.
pub fn impressions(builder: &StreamsBuilder) -> KStream<String, Impression> {
    builder.stream(IMPRESSIONS, Consumed::new(utf8(), json()))
}

/// The valid clicks as a stream, keyed by user id.
pub fn clicks(builder: &StreamsBuilder) -> KStream<String, Click> {
    builder.stream(CLICKS, Consumed::new(utf8(), json()))
}

/// The valid conversions as a stream, keyed by user id.
pub fn conversions(builder: &StreamsBuilder) -> KStream<String, Conversion> {
    builder.stream(CONVERSIONS, Consumed::new(utf8(), json()))
}

/// Adds ingest to a topology.
pub fn ingest(builder: &StreamsBuilder, config: &Config, bid_requests: RegisteredAvro<BidRequest>) {
    let creatives = builder.global_table(
        CREATIVES,
        "creatives",
        Consumed::new(utf8(), json::<Creative>()),
    );
    let objects: KStream<String, LandingObject> =
        builder.stream(OBJECTS, Consumed::new(utf8(), json()));
    let id_ttl = config.id_ttl.max(config.grace + Duration::from_millis(1));
    let stores = (
        builder.key_value_store("ingest-queue", utf8(), json::<LandingObject>()),
        builder.key_value_store("ingest-known", utf8(), json::<LandingObject>()),
        builder.key_value_store("ingest-progress", utf8(), json()),
        (
            seen(builder, Feed::Impressions, id_ttl),
            seen(builder, Feed::Clicks, id_ttl),
            seen(builder, Feed::Conversions, id_ttl),
            seen(builder, Feed::BidRequests, id_ttl),
        ),
        creatives,
    );
    let config = config.clone();
    let ingested = objects.process("ingest", stores, move |opened| {
        let (queue, known, progress, (impressions, clicks, conversions, bid_requests), creatives) =
            opened;
        let seen = Seen {
            impressions,
            clicks,
            conversions,
            bid_requests,
        };
        let stores = Stores {
            queue,
            known,
            progress,
            seen,
            creatives,
        };
        FeedReader::new(config.clone(), stores)
    });

    let split = ingested.split();
    // The most frequent kinds first: a record is offered to the branches in this order.
    split
        .branch(|_, out| matches!(out, Ingested::Impression(_)))
        .flat_map_values(|_, out| out.impression())
        .to_with(IMPRESSIONS, Produced::new(utf8(), json::<Impression>()));
    split
        .branch(|_, out| matches!(out, Ingested::BidRequest(_)))
        .flat_map_values(|_, out| out.bid_request())
        .to_with(BID_REQUESTS, Produced::new(utf8(), bid_requests));
    split
        .branch(|_, out| matches!(out, Ingested::Click(_)))
        .flat_map_values(|_, out| out.click())
        .to_with(CLICKS, Produced::new(utf8(), json::<Click>()));
    split
        .branch(|_, out| matches!(out, Ingested::Conversion(_)))
        .flat_map_values(|_, out| out.conversion())
        .to_with(CONVERSIONS, Produced::new(utf8(), json::<Conversion>()));
    split
        .branch(|_, out| matches!(out, Ingested::Quarantined(_)))
        .flat_map_values(|_, out| out.quarantined())
        .to_with(QUARANTINE, Produced::new(utf8(), json::<Quarantined>()));
    split
        .default_branch()
        .flat_map_values(|_, out| out.file())
        .to_with(FILES, Produced::new(utf8(), json::<FileReport>()));
}

/// Hashes of the ids that a feed has brought. Each feed has a store of its own, since each has its own time.
fn seen(builder: &StreamsBuilder, feed: Feed, ttl: Duration) -> StoreHandle<Vec<u8>, Vec<u8>> {
    let name = format!("ingest-seen-{feed}");
    let ids = builder.key_value_store(&name, bytes(), bytes());
    ids.ttl(Ttl::event_time_of_puts(ttl))
}
