//! The consumer: librdkafka's, with rebalances as events.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::{
    BaseConsumer, CommitMode, Consumer as _, ConsumerGroupMetadata, RebalanceProtocol,
};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{ClientConfig, Offset as KafkaOffset};

use crate::clock::Deadline;
use crate::log::{
    CommittedOffset, Consumer, ConsumerConfig, ErrorClass, GroupMetadata, Isolation, LogError,
    Offset, OffsetReset, Polled, TopicPartition,
};

use super::error::{Call, class, classified, code, is_unreadable};
use super::lists::{offsets_list, partitions_list, to_list};
use super::packed::{Names, PackedBatches};
use super::rebalances::{Rebalance, Rebalances};
use super::{KafkaOptions, Queries};

const DEFAULT_MAX_POLL_RECORDS: usize = 4_000;
const DEFAULT_FETCH_BYTES: usize = 64 << 20;
/// Most bytes of one poll.
const MAX_POLL_BYTES: usize = 8 << 20;
/// The client keeps a record ahead in memory with about so many bytes beside its own.
const RECORD_OVERHEAD: usize = 512;
const TIMEOUT: Duration = Duration::from_secs(30);
/// Settings that a client of the newer group protocol may not have.
const SET_BY_THE_BROKER: [&str; 2] = ["session.timeout.ms", "heartbeat.interval.ms"];
/// A static member that is fenced twice within this time has a successor.
const FENCED_AGAIN: Duration = Duration::from_secs(5 * 60);
/// Between two nudges of a client that joins its group.
const JOIN_STEP: Duration = Duration::from_millis(10);

/// See the [module](self).
pub(super) struct KafkaConsumer {
    settings: ClientConfig,
    client: BaseConsumer<Rebalances>,
    rebalances: Rebalances,
    subscribed: Vec<String>,
    /// What the group gave, as far as the caller was told.
    given: BTreeSet<TopicPartition>,
    /// Until when being fenced once more is believed.
    fenced: Option<Deadline>,
    queries: Arc<Queries>,
    group: Option<String>,
    instance_id: Option<String>,
    /// From the subscription to the first assignment.
    joining: bool,
    reset: OffsetReset,
    max_poll_records: usize,
    max_poll_bytes: usize,
    /// What is assigned, and the offset after what poll returned of it.
    ///
    /// The client's own position counts where it is ahead: it steps over transaction markers. It may be taken at its word at
    /// any time, since librdkafka forgets it with a seek and with the end of an assignment (`rktp_app_pos` in
    /// `rdkafka_partition.c`), before it answers the call, or the one that assigns the partition again.
    positions: BTreeMap<TopicPartition, Offset>,
    names: Names,
}

/// What a transaction with offsets of a group needs of it.
pub(super) struct Group {
    pub(super) name: String,
    pub(super) metadata: ConsumerGroupMetadata,
}

impl KafkaConsumer {
    pub(super) fn new(
        options: &KafkaOptions,
        config: ConsumerConfig,
        queries: Arc<Queries>,
    ) -> Result<Self, LogError> {
        let mut settings = options.client_config();
        // librdkafka wants a group even of a reader outside any; nothing is ever committed under this one.
        settings
            .set(
                "group.id",
                config
                    .group
                    .as_deref()
                    .unwrap_or("readers-outside-any-group"),
            )
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("enable.partition.eof", "false")
            // A flipped bit of a batch without compression would be processed as data.
            .set("check.crcs", "true")
            .set(
                "auto.offset.reset",
                match config.reset {
                    OffsetReset::Earliest => "earliest",
                    OffsetReset::Latest => "latest",
                },
            )
            .set(
                "isolation.level",
                match config.isolation {
                    Isolation::ReadCommitted => "read_committed",
                    Isolation::ReadUncommitted => "read_uncommitted",
                },
            );
        if let Some(instance_id) = &config.instance_id {
            settings.set("group.instance.id", instance_id);
        }
        let fetch_bytes = match config.fetch_bytes {
            0 => DEFAULT_FETCH_BYTES,
            bytes => bytes,
        };
        let ahead = FetchAhead::within(fetch_bytes);
        // Both put equal partition numbers together. In the newer protocol sessions are the broker's to time.
        match options.consumer_protocol() {
            true => settings.set("group.remote.assignor", "range"),
            false => settings.set("partition.assignment.strategy", "range"),
        };
        for (name, value) in [
            ("queued.max.messages.kbytes", &*ahead.kbytes.to_string()),
            ("queued.min.messages", &*ahead.messages.to_string()),
            ("fetch.queue.backoff.ms", "20"),
            ("fetch.wait.max.ms", "100"),
            ("session.timeout.ms", "15000"),
            ("heartbeat.interval.ms", "3000"),
            ("max.poll.interval.ms", "300000"),
        ] {
            let of_broker = options.consumer_protocol() && SET_BY_THE_BROKER.contains(&name);
            if !of_broker && !options.properties.contains_key(name) {
                settings.set(name, value);
            }
        }
        let (client, rebalances) = client(&settings)?;
        let max_poll_records = match config.max_poll_records {
            0 => DEFAULT_MAX_POLL_RECORDS,
            records => records,
        };
        Ok(Self {
            settings,
            client,
            rebalances,
            subscribed: Vec::new(),
            given: BTreeSet::new(),
            fenced: None,
            queries,
            group: config.group,
            instance_id: config.instance_id,
            joining: false,
            reset: config.reset,
            max_poll_records,
            max_poll_bytes: MAX_POLL_BYTES.min(fetch_bytes / 4),
            positions: BTreeMap::new(),
            names: Names::default(),
        })
    }

    /// Whether it is a member of a group in which a rebalance takes everything from everybody first.
    fn is_eager(&self) -> bool {
        self.group.is_some()
            && !matches!(
                self.client.rebalance_protocol(),
                RebalanceProtocol::Cooperative
            )
    }

    /// Goes on as a new client, after the group has told this one that its place is taken.
    ///
    /// That need not be so: a member whose session ended joins anew under its name, and a request to join that the broker
    /// took twice, or late, leaves its place with an id that this client never heard of (librdkafka #3437). One that really
    /// has a successor takes its place back, is fenced by it again, and then believes it.
    fn join_again(&mut self, error: &KafkaError) -> Result<Polled, LogError> {
        if self.fenced.is_some_and(|until| !until.passed()) {
            return Err(fenced(&self.instance_id, error));
        }
        self.fenced = Some(Deadline::after(FENCED_AGAIN));
        tracing::warn!(
            %error,
            "the static member is fenced, by another process of this name or by a request of its own that came late; it \
             joins again"
        );
        self.rebalances.close(&self.client);
        (self.client, self.rebalances) = client(&self.settings)?;
        // The new client has nothing yet that could be given up.
        self.positions.clear();
        self.join()?;
        let partitions: Vec<_> = std::mem::take(&mut self.given).into_iter().collect();
        Ok(match partitions.is_empty() {
            true => Polled::Nothing,
            false => Polled::Revoked {
                partitions,
                lost: true,
            },
        })
    }

    fn join(&mut self) -> Result<(), LogError> {
        let topics: Vec<&str> = self.subscribed.iter().map(String::as_str).collect();
        self.client.subscribe(&topics).map_err(|error| {
            let what = format_args!("subscribing to {}", topics.join(", "));
            classified(Call::Ask, what, &error)
        })?;
        self.joining = true;
        Ok(())
    }

    /// The error of a poll that failed. The client does not say of which topic it speaks, so they are all named; of a batch
    /// that cannot be read it says the offset, which is compared with how far each partition has been read.
    fn failed_poll(&self, error: &KafkaError) -> LogError {
        let what = self.polling(error);
        if !code(error).is_some_and(is_unreadable) {
            return classified(Call::Poll, what, error);
        }
        let read = self.positions.keys().map(|partition| {
            let next = self.position(partition).ok().flatten().unwrap_or(0);
            format!("{partition} up to offset {next}")
        });
        let read = Vec::from_iter(read).join(", ");
        let said = self.rebalances.said();
        classified(
            Call::Poll,
            format_args!("{what}: {said}, where it has read {read}"),
            error,
        )
    }

    /// What failed with `error`.
    fn polling(&self, error: &KafkaError) -> String {
        if let Some(group) = &self.group
            && is_about_a_group(error)
        {
            return format!("being a member of the group '{group}'");
        }
        let read = self.positions.keys().map(|at| &*at.topic);
        let topics: BTreeSet<&str> = read
            .chain(self.subscribed.iter().map(String::as_str))
            .collect();
        let topics: Vec<String> = topics.iter().map(|topic| format!("'{topic}'")).collect();
        format!("reading {}", topics.join(", "))
    }

    /// The next rebalance that the caller has not been told of.
    fn next_rebalance(&mut self) -> Option<Polled> {
        let event = self.rebalances.next()?;
        self.joining = false;
        match &event {
            Rebalance::Assigned(partitions) => self.given.extend(partitions.iter().cloned()),
            Rebalance::Revoked { partitions, .. } => {
                partitions.iter().for_each(|partition| {
                    self.given.remove(partition);
                });
            }
        }
        Some(event.into())
    }

    fn check_assigned(&self, partition: &TopicPartition) -> Result<(), LogError> {
        if self.positions.contains_key(partition) {
            return Ok(());
        }
        Err(LogError::fatal(format!(
            "{partition} is not assigned to this consumer"
        )))
    }

    /// Where to start: the committed offset, else the reset policy.
    fn start_of(&self, partition: &TopicPartition) -> Result<Offset, LogError> {
        if self.group.is_some()
            && let Some(Some(committed)) = self
                .committed(std::slice::from_ref(partition), TIMEOUT)?
                .first()
        {
            return Ok(committed.offset);
        }
        match self.reset {
            OffsetReset::Earliest => self.beginning_offset(partition, TIMEOUT),
            OffsetReset::Latest => self.end_offset(partition, Isolation::ReadCommitted, TIMEOUT),
        }
    }
}

/// How far the client reads ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FetchAhead {
    /// Of all partitions together. One answer of a broker may be as large, and comes on top.
    kbytes: usize,
    /// Of each partition.
    messages: usize,
}

impl FetchAhead {
    fn within(bytes: usize) -> Self {
        Self {
            kbytes: (bytes / 2 / 1024).clamp(64, 2_000_000),
            messages: (bytes / 2 / RECORD_OVERHEAD).clamp(100, 20_000),
        }
    }
}

impl Consumer for KafkaConsumer {
    fn subscribe(&mut self, topics: &[&str]) -> Result<(), LogError> {
        if self.group.is_none() {
            return Err(LogError::fatal("a consumer needs a group to subscribe"));
        }
        self.subscribed = topics.iter().map(|&topic| topic.to_owned()).collect();
        self.join()
    }

    fn poll(&mut self, timeout: Duration) -> Result<Polled, LogError> {
        let deadline = Deadline::after(timeout);
        let mut batches = PackedBatches::default();
        let (mut count, mut bytes) = (0, 0);
        let mut wait = timeout;
        while count < self.max_poll_records && bytes < self.max_poll_bytes {
            if batches.is_empty()
                && let Some(event) = self.next_rebalance()
            {
                return Ok(event);
            }
            if self.joining {
                // Its group state machine runs when something happens to it, and else once a second: steps of a join
                // that only change a connection's state would take that long each. Any question wakes it.
                let _ = self.client.assignment();
                wait = wait.min(JOIN_STEP);
            }
            match self.client.poll(wait) {
                // A rebalance was served, which the head of the loop finds, or there is time left to wait.
                None if batches.is_empty() && !deadline.passed() => wait = deadline.remaining(),
                None => break,
                Some(Ok(message)) => {
                    count += 1;
                    wait = Duration::ZERO;
                    bytes += message.key_len() + message.payload_len();
                    batches.push(&message, &mut self.names);
                }
                Some(Err(error)) => match class(Call::Poll, &error) {
                    // librdkafka repairs these by itself: brokers that come and go, topics that are being made.
                    ErrorClass::Retriable => {
                        tracing::warn!(%error, said = self.rebalances.said(), "polling");
                    }
                    ErrorClass::Fenced => return self.join_again(&error),
                    _ if self.group.is_none() && is_about_a_group(&error) => {
                        tracing::debug!(%error, "a coordinator that a reader outside any group can do without");
                    }
                    // IMPORTANT: with this poll's records, which the next start reads again. What follows in the client's
                    // queue may lie behind a hole.
                    _ => return Err(self.failed_poll(&error)),
                },
            }
        }
        let mut records = Vec::new();
        for batch in batches.unpack() {
            // Records that were on their way when their partition was given up are not ours any more.
            let Some(position) = self.positions.get_mut(&batch.partition) else {
                continue;
            };
            if let Some(last) = batch.records.last() {
                *position = last.offset + 1;
            }
            records.push(batch);
        }
        if records.is_empty() {
            // What was served may have been a rebalance at the very end of the wait.
            return Ok(self.next_rebalance().unwrap_or(Polled::Nothing));
        }
        Ok(Polled::Records(records))
    }

    fn assign(&mut self, partitions: &[(TopicPartition, Option<Offset>)]) -> Result<(), LogError> {
        let mut starts = Vec::with_capacity(partitions.len());
        for (partition, offset) in partitions {
            let offset = match offset {
                Some(offset) => *offset,
                None => self.start_of(partition)?,
            };
            starts.push((partition.clone(), offset));
        }
        // The client refuses what it has already: given up and taken anew, it goes on from where it is wanted now.
        let held = starts.iter().map(|(partition, _)| partition.clone());
        let again: Vec<_> = held.filter(|it| self.positions.contains_key(it)).collect();
        if !again.is_empty() {
            self.release(&again)?;
        }
        let failed = |error| classified(Call::Ask, "taking partitions", &error);
        // A member of an eager group names its whole assignment; everybody else adds to it. A member names nothing too: the
        // client waits for an answer.
        if self.is_eager() {
            let held: Vec<TopicPartition> = self.positions.keys().cloned().collect();
            let mut all = starts.clone();
            for partition in held {
                // The client goes back to it, so let it be behind the markers that were stepped over.
                let next = self.position(&partition)?.unwrap_or(0);
                all.push((partition.clone(), next));
                self.positions.insert(partition, next);
            }
            self.client.assign(&offsets_list(&all)?).map_err(failed)?;
        } else if self.group.is_some() || !starts.is_empty() {
            self.client
                .incremental_assign(&offsets_list(&starts)?)
                .map_err(failed)?;
        }
        self.positions.extend(starts);
        Ok(())
    }

    fn release(&mut self, partitions: &[TopicPartition]) -> Result<(), LogError> {
        let mut held = Vec::new();
        for partition in partitions {
            if self.positions.remove(partition).is_some() {
                held.push(partition.clone());
            }
        }
        let failed = |error| classified(Call::Ask, "giving partitions up", &error);
        // The client remembers a pause beyond the end of an assignment: nothing would come once they are given back.
        if !held.is_empty()
            && let Err(error) = self.client.resume(&partitions_list(&held))
        {
            tracing::warn!(%error, ?held, "partitions that are given up may stay paused");
        }
        if self.is_eager() {
            if self.positions.is_empty() {
                return self.client.unassign().map_err(failed);
            }
            let rest: Vec<_> = self
                .positions
                .iter()
                .map(|(held, next)| (held.clone(), *next))
                .collect();
            return self.client.assign(&offsets_list(&rest)?).map_err(failed);
        }
        if self.group.is_none() && held.is_empty() {
            return Ok(());
        }
        // What the group gave and was never taken is not the client's to give up; its answer is due all the same.
        self.client
            .incremental_unassign(&partitions_list(&held))
            .map_err(failed)
    }

    fn pause(&mut self, partitions: &[TopicPartition]) -> Result<(), LogError> {
        partitions
            .iter()
            .try_for_each(|partition| self.check_assigned(partition))?;
        let list = partitions_list(partitions);
        self.client
            .pause(&list)
            .map_err(|error| classified(Call::Ask, "pausing partitions", &error))
    }

    fn resume(&mut self, partitions: &[TopicPartition]) -> Result<(), LogError> {
        partitions
            .iter()
            .try_for_each(|partition| self.check_assigned(partition))?;
        let list = partitions_list(partitions);
        self.client
            .resume(&list)
            .map_err(|error| classified(Call::Ask, "resuming partitions", &error))
    }

    fn seek(&mut self, partition: &TopicPartition, offset: Offset) -> Result<(), LogError> {
        self.check_assigned(partition)?;
        let failed = |error| {
            classified(
                Call::Ask,
                format_args!("seeking {partition} to {offset}"),
                &error,
            )
        };
        let list = offsets_list(&[(partition.clone(), offset)])?;
        let results = self.client.seek_partitions(list, TIMEOUT).map_err(failed)?;
        for element in results.elements() {
            element.error().map_err(failed)?;
        }
        self.positions.insert(partition.clone(), offset);
        Ok(())
    }

    fn position(&self, partition: &TopicPartition) -> Result<Option<Offset>, LogError> {
        self.check_assigned(partition)?;
        let next = self.positions[partition];
        let of_client = self.client_position(partition);
        Ok(Some(of_client.map_or(next, |ahead| ahead.max(next))))
    }

    fn committed(
        &self,
        partitions: &[TopicPartition],
        timeout: Duration,
    ) -> Result<Vec<Option<CommittedOffset>>, LogError> {
        if partitions.is_empty() {
            return Ok(Vec::new());
        }
        let group = self.group.as_deref().unwrap_or_default();
        let failed = |error| {
            let what = format_args!("asking for the committed offsets of the group '{group}'");
            classified(Call::Ask, what, &error)
        };
        let list = self
            .client
            .committed_offsets(partitions_list(partitions), timeout)
            .map_err(failed)?;
        let mut committed = Vec::with_capacity(partitions.len());
        for partition in partitions {
            let element = list.find_partition(&partition.topic, partition.partition);
            committed.push(match element {
                None => None,
                Some(element) => {
                    element.error().map_err(failed)?;
                    match element.offset() {
                        KafkaOffset::Offset(offset) => Some(CommittedOffset {
                            offset,
                            metadata: element.metadata().to_owned(),
                        }),
                        _ => None,
                    }
                }
            });
        }
        Ok(committed)
    }

    fn commit(&mut self, offsets: &[(TopicPartition, CommittedOffset)]) -> Result<(), LogError> {
        if offsets.is_empty() {
            return Ok(());
        }
        let failed = |error| {
            let group = self.group.as_deref().unwrap_or_default();
            let topics: BTreeSet<&str> = offsets.iter().map(|(at, _)| &*at.topic).collect();
            let topics = Vec::from_iter(topics).join(", ");
            let what = format_args!("committing offsets of {topics} for the group '{group}'");
            classified(Call::CommitOffsets, what, &error)
        };
        self.client
            .commit(&to_list(offsets)?, CommitMode::Sync)
            .map_err(failed)
    }

    fn beginning_offset(
        &self,
        partition: &TopicPartition,
        timeout: Duration,
    ) -> Result<Offset, LogError> {
        Ok(self
            .queries
            .watermarks(partition, Isolation::ReadCommitted, timeout)?
            .0)
    }

    fn end_offset(
        &self,
        partition: &TopicPartition,
        isolation: Isolation,
        timeout: Duration,
    ) -> Result<Offset, LogError> {
        Ok(self.queries.watermarks(partition, isolation, timeout)?.1)
    }

    fn group_metadata(&self) -> Result<GroupMetadata, LogError> {
        let metadata = self.client.group_metadata();
        let (Some(metadata), Some(name)) = (metadata, self.group.clone()) else {
            return Err(LogError::fatal("this consumer is in no group"));
        };
        Ok(GroupMetadata(Box::new(Group { name, metadata })))
    }

    fn close(self: Box<Self>) {
        // Dropping the client leaves the group and serves what is outstanding.
    }
}

impl KafkaConsumer {
    /// The client's own position, which steps over transaction markers.
    fn client_position(&self, partition: &TopicPartition) -> Option<Offset> {
        let list = self.client.position().ok()?;
        match list
            .find_partition(&partition.topic, partition.partition)?
            .offset()
        {
            KafkaOffset::Offset(offset) => Some(offset),
            _ => None,
        }
    }
}

impl Drop for KafkaConsumer {
    fn drop(&mut self) {
        self.rebalances.close(&self.client);
    }
}

fn client(settings: &ClientConfig) -> Result<(BaseConsumer<Rebalances>, Rebalances), LogError> {
    let rebalances = Rebalances::default();
    let client = settings.create_with_context(rebalances.clone());
    let client = client.map_err(|error| classified(Call::Ask, "creating a consumer", &error))?;
    Ok((client, rebalances))
}

/// What access control denies to a member of a group.
fn is_about_a_group(error: &KafkaError) -> bool {
    error.rdkafka_error_code() == Some(RDKafkaErrorCode::GroupAuthorizationFailed)
}

/// A static member whose place another one has.
fn fenced(instance_id: &Option<String>, error: &KafkaError) -> LogError {
    let id = instance_id.as_deref().unwrap_or_default();
    LogError::new(
        ErrorClass::Fenced,
        format!(
            "polling: {error}; another process took over the static member `{id}` of the group: stop one of the two \
             instances, or give each a name of its own"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A member of a group with the protocol of KIP-848, whose broker nobody needs.
    fn member() -> KafkaConsumer {
        let mut options = KafkaOptions::new("127.0.0.1:1");
        let protocol = ("group.protocol".to_owned(), "consumer".to_owned());
        options.properties.extend([protocol]);
        let config = ConsumerConfig {
            group: Some("group".to_owned()),
            instance_id: Some("one".to_owned()),
            ..ConsumerConfig::default()
        };
        let queries = Queries::new(Arc::new(options.clone()));
        let mut member = KafkaConsumer::new(&options, config, Arc::new(queries)).unwrap();
        member.subscribe(&["clicks"]).unwrap();
        member
    }

    #[test]
    fn what_a_member_had_before_it_joined_again_is_given_up_without_the_client() {
        let mut member = member();
        let held = TopicPartition::new("clicks", 0);
        member.given.insert(held.clone());
        member.assign(&[(held.clone(), Some(7))]).unwrap();
        let fenced = KafkaError::MessageConsumptionFatal(RDKafkaErrorCode::FencedInstanceId);
        let lost = match member.join_again(&fenced).unwrap() {
            Polled::Revoked {
                partitions,
                lost: true,
            } => partitions,
            other => panic!("{other:?}"),
        };
        assert_eq!(lost, [held]);
        member.release(&lost).unwrap();
    }

    #[test]
    fn reading_ahead_keeps_to_its_share() {
        let ahead = FetchAhead::within(48 << 20);
        assert_eq!((ahead.kbytes, ahead.messages), (24 << 10, 20_000));
        let ahead = FetchAhead::within(1 << 20);
        assert_eq!((ahead.kbytes, ahead.messages), (512, 1_024));
    }
}
