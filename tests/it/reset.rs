//! A start with another topology, on a broker: refused, and with the reset accepted begun anew.

use std::sync::Arc;

use e2e::topics::{create, produce, values};
use processor_core::dsl::{Consumed, StreamsBuilder};
use processor_core::log::kafka::{KafkaLog, KafkaOptions};
use processor_core::serde::{int64, utf8};
use processor_core::{Streams, StreamsConfig, StreamsError, Topology};

const IN: &str = "reset-in";
const OUT: &str = "reset-out";

fn counting() -> Topology {
    let builder = StreamsBuilder::new("reset");
    builder
        .stream(IN, Consumed::new(utf8(), int64()))
        .group_by_key()
        .count("rows")
        .to_stream()
        .to(OUT);
    builder.build().unwrap()
}

fn latest() -> Topology {
    let builder = StreamsBuilder::new("reset");
    builder
        .table(IN, "rows", Consumed::new(utf8(), int64()))
        .to_stream()
        .to(OUT);
    builder.build().unwrap()
}

fn write(log: &KafkaLog, value: i64) {
    produce(log, IN, [(value.to_be_bytes(), 1)]);
}

fn written(log: &KafkaLog) -> Vec<i64> {
    let values = values(log, OUT);
    let number = |value: &bytes::Bytes| i64::from_be_bytes(value[..].try_into().unwrap());
    values.iter().map(number).collect()
}

fn run(log: &KafkaLog, topology: Topology, config: StreamsConfig) -> Result<u64, StreamsError> {
    let mut streams = Streams::new(topology, config, Arc::new(log.clone()))?;
    streams.run_to_end()?;
    let restored = streams.records_restored();
    streams.close()?;
    Ok(restored)
}

#[test]
fn a_store_that_is_reset_gets_a_new_changelog_on_a_broker() {
    let log = KafkaLog::new(KafkaOptions::new(e2e::kafka())).unwrap();
    create(&log, &[IN, OUT]);
    let config = || StreamsConfig::new("reset");
    write(&log, 7);
    write(&log, 7);
    run(&log, counting(), config()).unwrap();
    write(&log, 40);
    let refused = run(&log, latest(), config()).unwrap_err();
    assert!(
        refused.to_string().contains("accept_reset(\"rows\")"),
        "{refused}"
    );
    let accepting = || config().accept_reset("rows");
    assert_eq!(run(&log, latest(), accepting()).unwrap(), 0);
    assert_eq!(written(&log), [1, 2, 40]);
    // The new changelog holds the new row alone.
    assert_eq!(run(&log, latest(), accepting()).unwrap(), 1);
}
