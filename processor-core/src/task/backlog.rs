//! Records that wait in a queue, and what they hold in memory.

use std::collections::VecDeque;

use crate::log::ConsumerRecord;

/// What waits: how many records, and their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Buffered {
    pub records: usize,
    pub bytes: usize,
}

/// A queue of records that knows its size in bytes.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    records: VecDeque<ConsumerRecord>,
    bytes: usize,
}

impl Backlog {
    pub(crate) fn extend(&mut self, records: Vec<ConsumerRecord>) {
        self.bytes += records
            .iter()
            .map(ConsumerRecord::held_bytes)
            .sum::<usize>();
        self.records.extend(records);
    }

    pub(crate) fn pop(&mut self) -> Option<ConsumerRecord> {
        let record = self.records.pop_front()?;
        self.bytes -= record.held_bytes();
        Some(record)
    }

    /// Takes back the record that was popped last, whatever was taken out of it meanwhile.
    pub(crate) fn unpop(&mut self, record: ConsumerRecord) {
        self.bytes += record.held_bytes();
        self.records.push_front(record);
    }

    /// The first `count` records, or all there are.
    pub(crate) fn first(&self, count: usize) -> impl Iterator<Item = &ConsumerRecord> {
        self.records.iter().take(count)
    }

    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Header;

    fn record(offset: i64, size: usize) -> ConsumerRecord {
        ConsumerRecord {
            offset,
            timestamp: 0,
            key: Some(vec![b'k'; 10].into()),
            value: Some(vec![b'v'; size].into()),
            headers: vec![Header::new("name", "value")],
        }
    }

    #[test]
    fn bytes_are_those_of_the_records_that_wait_though_headers_are_taken_out_in_between() {
        let mut backlog = Backlog::default();
        backlog.extend(vec![record(0, 1_000), record(1, 50)]);
        assert!(backlog.bytes() > 1_070);
        let mut first = backlog.pop().unwrap();
        first.headers.clear();
        backlog.unpop(first);
        assert_eq!(backlog.first(9).count(), 2);
        backlog.pop().unwrap();
        assert_eq!(backlog.bytes(), record(1, 50).held_bytes());
        backlog.pop().unwrap();
        assert_eq!((backlog.len(), backlog.bytes()), (0, 0));
        assert!(backlog.pop().is_none());
    }
}
