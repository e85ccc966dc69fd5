//! What becomes of a producer whose transaction the broker, the network or another producer ends.

use std::time::Duration;

use e2e::chaos::fleet::Door;
use e2e::chaos::proxy::Proxy;
use e2e::topics::values;
use processor_core::log::kafka::{KafkaLog, KafkaOptions};
use processor_core::log::{
    Committed, ConsumerConfig, ErrorClass, Isolation, Log, LogError, NewTopic, Producer,
    ProducerConfig, ProducerRecord, TopicPartition,
};
use xtask::broker::{Broker, Options};
use xtask::stopwatch::{Stopwatch, wait_for};

const PATIENCE: Duration = Duration::from_secs(120);

fn producer(log: &KafkaLog, id: &str, timeout_ms: u64) -> Box<dyn Producer> {
    let mut producer = log
        .producer(ProducerConfig {
            transactional_id: Some(id.to_owned()),
            transaction_timeout_ms: timeout_ms,
            ..ProducerConfig::default()
        })
        .unwrap();
    producer.init_transactions(PATIENCE).unwrap();
    producer
}

fn send(producer: &mut dyn Producer, topic: &str, value: &str) -> Result<(), LogError> {
    producer.send(ProducerRecord {
        topic,
        partition: 0,
        timestamp: 1,
        key: None,
        value: Some(value.as_bytes()),
        headers: &[],
    })
}

fn commit(producer: &mut dyn Producer) -> Result<Committed, LogError> {
    producer.begin_commit(Vec::new(), None)?;
    loop {
        if let Some(committed) = producer.poll_commit(Duration::from_secs(1))? {
            return Ok(committed);
        }
    }
}

#[test]
fn a_commit_of_one_record_takes_less_than_a_step_of_the_clients_own_flush() {
    let log = KafkaLog::new(KafkaOptions::new(e2e::kafka())).unwrap();
    let topic = "quick-commits";
    log.create_topics(&[NewTopic::new(topic, 1)]).unwrap();
    let mut producer = producer(&log, "quick", 60_000);
    // That flush waits in steps of 100 ms, so none of its commits is quicker. One of ours that is will do: on a busy
    // machine the others may take as long as they like.
    let took = |_| {
        let stopwatch = Stopwatch::start();
        producer.begin_transaction().unwrap();
        send(&mut *producer, topic, "v").unwrap();
        commit(&mut *producer).unwrap();
        stopwatch.elapsed()
    };
    let quickest = (0..20).map(took).min().unwrap();
    assert!(quickest < Duration::from_millis(60), "{quickest:?}");
}

#[test]
fn a_producer_whose_transaction_timed_out_is_told_apart_from_one_with_a_successor() {
    let log = KafkaLog::new(KafkaOptions::new(e2e::kafka())).unwrap();
    let topic = "timed-out-transactions";
    log.create_topics(&[NewTopic::new(topic, 1)]).unwrap();
    let mut slow = producer(&log, "slow", 11_000);
    slow.begin_transaction().unwrap();
    send(&mut *slow, topic, "lost").unwrap();
    slow.flush(PATIENCE).unwrap();
    // The broker looks for such transactions every ten seconds; then readers of committed records come past this one.
    let reader = log.consumer(ConsumerConfig::default()).unwrap();
    let partition = TopicPartition::new(topic, 0);
    let aborted = wait_for(PATIENCE, || {
        let end = reader.end_offset(&partition, Isolation::ReadCommitted, PATIENCE);
        (end.unwrap() > 1).then_some(())
    });
    assert!(aborted.is_some(), "the broker aborts no transaction");
    let error = commit(&mut *slow).unwrap_err();
    assert_eq!(error.class, ErrorClass::Uncertain, "{error}");
    assert!(error.message.contains("transaction.timeout.ms"), "{error}");
    drop(slow);
    let mut again = producer(&log, "slow", 60_000);
    again.begin_transaction().unwrap();
    send(&mut *again, topic, "kept").unwrap();
    commit(&mut *again).unwrap();
    assert_eq!(values(&log, topic), ["kept"]);

    // A transaction that is younger than its timeout can have been ended by a newer producer only.
    again.begin_transaction().unwrap();
    send(&mut *again, topic, "of the elder").unwrap();
    again.flush(PATIENCE).unwrap();
    let _younger = producer(&log, "slow", 60_000);
    let error = commit(&mut *again).unwrap_err();
    assert_eq!(error.class, ErrorClass::Fenced, "{error}");
    assert!(error.message.contains("took over"), "{error}");
    assert_eq!(values(&log, topic), ["kept"]);
}

/// A broker, and logs that reach it directly and through a proxy.
struct Proxied {
    proxy: Proxy,
    log: KafkaLog,
    direct: KafkaLog,
    _broker: Broker,
    _directory: tempfile::TempDir,
}

impl Proxied {
    fn start(topic: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let door = Door::free().unwrap();
        let options = Options::default().listener("PROXIED", door.listener, door.proxy);
        let broker = Broker::start(directory.path(), &options).unwrap();
        let proxy = Proxy::start(door.proxy, door.listener).unwrap();
        let direct = KafkaLog::new(KafkaOptions::new(broker.bootstrap())).unwrap();
        direct.create_topics(&[NewTopic::new(topic, 1)]).unwrap();
        let mut options = KafkaOptions::new(proxy.address());
        let timeout = ("socket.timeout.ms".to_owned(), "2000".to_owned());
        options.properties.extend([timeout]);
        let log = KafkaLog::new(options).unwrap();
        Self {
            proxy,
            log,
            direct,
            _broker: broker,
            _directory: directory,
        }
    }

    /// A producer through the proxy, and a transaction of it that the broker knows of.
    fn begun(&self, topic: &str, value: &str) -> Box<dyn Producer> {
        let mut producer = producer(&self.log, "sender", 60_000);
        producer.begin_transaction().unwrap();
        send(&mut *producer, topic, value).unwrap();
        producer.flush(PATIENCE).unwrap();
        producer
    }

    /// Closes all connections; new ones can be made.
    fn cut(&mut self) {
        self.proxy.cut();
        self.proxy.open().unwrap();
    }
}

#[test]
fn a_commit_whose_requests_had_to_be_sent_again_takes_a_new_producer() {
    let topic = "sent-again";
    let mut kafka = Proxied::start(topic);
    let mut first = kafka.begun(topic, "undisturbed");
    commit(&mut *first).unwrap();

    first.begin_transaction().unwrap();
    send(&mut *first, topic, "disturbed").unwrap();
    first.flush(PATIENCE).unwrap();
    kafka.proxy.black_hole();
    first.begin_commit(Vec::new(), None).unwrap();
    // Longer than a request may take, so it is sent again, and arrives twice.
    assert!(first.poll_commit(Duration::from_secs(8)).unwrap().is_none());
    kafka.proxy.open().unwrap();
    let outcome = wait_for(PATIENCE, || {
        first.poll_commit(Duration::from_millis(100)).transpose()
    });
    let error = outcome.expect("the commit ends").unwrap_err();
    assert_eq!(error.class, ErrorClass::Uncertain, "{error}");
    drop(first);
    let mut second = kafka.begun(topic, "afterwards");
    commit(&mut *second).unwrap();
    assert_eq!(
        values(&kafka.direct, topic),
        ["undisturbed", "disturbed", "afterwards"]
    );
}

#[test]
fn an_abort_whose_requests_had_to_be_sent_again_takes_a_new_producer() {
    let topic = "aborted-again";
    let mut kafka = Proxied::start(topic);
    let mut undisturbed = kafka.begun(topic, "aborted");
    undisturbed.abort_transaction(PATIENCE).unwrap();
    undisturbed.begin_transaction().unwrap();
    send(&mut *undisturbed, topic, "kept").unwrap();
    commit(&mut *undisturbed).unwrap();
    drop(undisturbed);

    let mut unanswered = kafka.begun(topic, "aborted");
    kafka.proxy.black_hole();
    let error = unanswered.abort_transaction(Duration::from_secs(8));
    assert_eq!(error.unwrap_err().class, ErrorClass::Uncertain);
    kafka.proxy.open().unwrap();
    // The same abort, which the broker has by now, and perhaps a second time still to come.
    let error = unanswered.abort_transaction(PATIENCE).unwrap_err();
    assert_eq!(error.class, ErrorClass::Uncertain, "{error}");
    drop(unanswered);

    // Whether the transaction is aborted or committed then, requests of it were lost before.
    let mut cut = kafka.begun(topic, "aborted");
    kafka.cut();
    let error = cut.abort_transaction(PATIENCE).unwrap_err();
    assert_eq!(error.class, ErrorClass::Uncertain, "{error}");
    drop(cut);
    let mut cut = kafka.begun(topic, "committed after a cut");
    kafka.cut();
    let error = commit(&mut *cut).unwrap_err();
    assert_eq!(error.class, ErrorClass::Uncertain, "{error}");
    drop(cut);

    let mut new = kafka.begun(topic, "afterwards");
    commit(&mut *new).unwrap();
    assert_eq!(
        values(&kafka.direct, topic),
        ["kept", "committed after a cut", "afterwards"]
    );
}
