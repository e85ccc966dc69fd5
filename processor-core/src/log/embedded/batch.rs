//! A batch: the unit of appending, of checking and of reading, the same bytes in memory and in a segment file.
//!
//! ```text
//!  0  u32  length of everything after this field          (integers are little endian)
//!  4  u32  CRC32 of bytes 8..64
//!  8  u32  CRC32 of bytes 64.. (0 in memory: nothing can tear there)
//! 12  u8   format, 1
//! 13  u8   kind: 0 records, 1 commit marker, 2 abort marker
//! 14  u16  0
//! 16  i64  base offset
//! 24  u32  last offset − base offset
//! 28  u32  number of records
//! 32  u64  transaction, 0 for none
//! 40  i64  base timestamp
//! 48  i64  greatest timestamp
//! 56  i64  clock time after which tombstones in it may go, 0 for "not cleaned yet"
//! 64       records, see `record.rs`
//! ```
//!
//! The two checksums let a producer hash its records outside the log's lock, and let recovery walk headers without
//! reading what lies between them.

use bytes::Bytes;

use super::record::{self, HeaderNames};
use crate::log::{ConsumerRecord, Header, Offset, Timestamp};

/// Bytes before the records.
pub(super) const HEADER: usize = 64;

/// Number of a transaction, unique in the life of a log; 0 is "no transaction".
pub(crate) type TransactionNumber = u64;

/// A greater number was never given: it says that a file is damaged.
pub(super) const LAST_TRANSACTION: TransactionNumber = TransactionNumber::MAX / 2;

const FORMAT: u8 = 1;

/// What a batch holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Records.
    Records,
    /// The end of a committed transaction.
    Commit,
    /// The end of an aborted transaction.
    Abort,
}

/// The fixed part of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BatchHeader {
    pub(super) len: usize,
    pub(super) body_crc: u32,
    pub(super) kind: Kind,
    pub(super) base: Offset,
    pub(super) last: Offset,
    pub(super) count: u32,
    pub(super) transaction: TransactionNumber,
    pub(super) base_timestamp: Timestamp,
    pub(super) max_timestamp: Timestamp,
    pub(super) horizon_ms: i64,
}

impl BatchHeader {
    /// Reads and checks a header; `Err` says what is wrong with it.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, &'static str> {
        let Some(bytes) = bytes.first_chunk::<HEADER>() else {
            return Err("shorter than a batch header");
        };
        if u32_at(bytes, 4) != crc32fast::hash(&bytes[8..]) {
            return Err("header checksum mismatch");
        }
        if bytes[12] != FORMAT {
            return Err("unknown batch format; the directory was written by another version");
        }
        let kind = match bytes[13] {
            0 => Kind::Records,
            1 => Kind::Commit,
            2 => Kind::Abort,
            _ => return Err("unknown kind of batch"),
        };
        let base = i64_at(bytes, 16);
        let len = u32_at(bytes, 0) as usize + 4;
        // The offset after the batch is one, too.
        let last = base
            .checked_add(i64::from(u32_at(bytes, 24)))
            .filter(|last| base >= 0 && *last < Offset::MAX);
        let Some(last) = last.filter(|_| len >= HEADER) else {
            return Err("impossible length or offset");
        };
        let transaction = u64::from_le_bytes(array_at(bytes, 32));
        if transaction > LAST_TRANSACTION {
            return Err("impossible transaction");
        }
        Ok(Self {
            len,
            body_crc: u32_at(bytes, 8),
            kind,
            base,
            last,
            count: u32_at(bytes, 28),
            transaction,
            base_timestamp: i64_at(bytes, 40),
            max_timestamp: i64_at(bytes, 48),
            horizon_ms: i64_at(bytes, 56),
        })
    }

    /// The offset after the batch.
    pub(super) fn next(&self) -> Offset {
        self.last + 1
    }
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N]
        .try_into()
        .expect("the range has N bytes by construction")
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, at))
}

fn i64_at(bytes: &[u8], at: usize) -> i64 {
    i64::from_le_bytes(array_at(bytes, at))
}

/// A finished batch; clones share the bytes.
#[derive(Debug, Clone)]
pub(super) struct Batch {
    pub(super) header: BatchHeader,
    pub(super) bytes: Bytes,
}

impl Batch {
    /// The batch that starts `bytes`, with both checksums verified.
    pub(super) fn verified(bytes: &Bytes) -> Result<Self, &'static str> {
        let header = BatchHeader::parse(bytes)?;
        if bytes.len() < header.len {
            return Err("cut off");
        }
        let bytes = bytes.slice(..header.len);
        if crc32fast::hash(&bytes[HEADER..]) != header.body_crc {
            return Err("checksum mismatch");
        }
        Ok(Self { header, bytes })
    }

    /// Whether `bytes`, with nothing behind them, are the beginning of a batch that was not written to its end. No
    /// checksum covers the length: a wrong one makes a batch look torn whose records are all there.
    pub(super) fn is_torn(bytes: &Bytes) -> bool {
        if bytes.len() < HEADER {
            return true;
        }
        let Ok(header) = BatchHeader::parse(bytes) else {
            return false;
        };
        if header.len <= bytes.len() {
            return false;
        }
        let (mut end, mut names) = (HEADER, HeaderNames::default());
        for _ in 0..header.count {
            match record::decode(bytes, end, &mut names) {
                Ok((_, next)) => end = next,
                Err(_) => return true,
            }
        }
        crc32fast::hash(&bytes[HEADER..end]) != header.body_crc
    }

    /// A reader over its records.
    pub(super) fn records(self) -> Records {
        Records {
            left: self.header.count,
            least: self.header.base,
            batch: self,
            at: HEADER,
        }
    }
}

/// Decodes the records of a batch one by one; keys and values are slices of the batch.
#[derive(Debug)]
pub(super) struct Records {
    batch: Batch,
    at: usize,
    left: u32,
    /// The offset of the next record, or less.
    least: Offset,
}

impl Records {
    /// The next record; `Err` when the bytes make no sense although their checksum holds.
    pub(super) fn next(
        &mut self,
        names: &mut HeaderNames,
    ) -> Result<Option<ConsumerRecord>, &'static str> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        let header = &self.batch.header;
        let (mut record, at) = record::decode(&self.batch.bytes, self.at, names)?;
        record.offset = record
            .offset
            .checked_add(header.base)
            .filter(|offset| (self.least..=header.last).contains(offset))
            .ok_or("a record lies outside its batch, or before the one before it")?;
        self.least = record.offset + 1;
        record.timestamp = record.timestamp.wrapping_add(header.base_timestamp);
        self.at = at;
        Ok(Some(record))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.left == 0
    }

    pub(super) fn header(&self) -> &BatchHeader {
        &self.batch.header
    }
}

/// A batch in the making. It is reused after [`take`](Self::take).
#[derive(Debug)]
pub(super) struct BatchBuilder {
    bytes: Vec<u8>,
    count: u32,
    last_delta: u32,
    base_timestamp: Timestamp,
    max_timestamp: Timestamp,
    horizon_ms: i64,
}

impl BatchBuilder {
    pub(super) fn new() -> Self {
        Self {
            bytes: vec![0; HEADER],
            count: 0,
            last_delta: 0,
            base_timestamp: 0,
            max_timestamp: Timestamp::MIN,
            horizon_ms: 0,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn count(&self) -> u32 {
        self.count
    }

    /// Adds a record right after the last one.
    pub(super) fn push(
        &mut self,
        timestamp: Timestamp,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[Header],
    ) {
        self.push_at(self.count, timestamp, key, value, headers);
    }

    /// Adds a record at `delta` from the base offset; deltas ascend.
    pub(super) fn push_at(
        &mut self,
        delta: u32,
        timestamp: Timestamp,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[Header],
    ) {
        if self.count == 0 {
            self.base_timestamp = timestamp;
        }
        self.max_timestamp = self.max_timestamp.max(timestamp);
        let since_base = timestamp.wrapping_sub(self.base_timestamp);
        record::encode(&mut self.bytes, delta, since_base, key, value, headers);
        self.last_delta = delta;
        self.count += 1;
    }

    /// Sets when tombstones in it may go.
    pub(super) fn horizon(&mut self, horizon_ms: i64) {
        self.horizon_ms = horizon_ms;
    }

    /// Hashes the records; done before the log's lock is taken.
    pub(super) fn checksum(&mut self) {
        let crc = crc32fast::hash(&self.bytes[HEADER..]);
        self.bytes[8..12].copy_from_slice(&crc.to_le_bytes());
    }

    /// Finishes the batch at `base` for `transaction` and empties the builder.
    pub(super) fn take(&mut self, base: Offset, transaction: TransactionNumber) -> Batch {
        let batch = self.stamp(Kind::Records, base, transaction);
        self.clear();
        batch
    }

    /// Finishes the batch but keeps it in the builder, so that a failed write can be tried again.
    pub(super) fn stamp(
        &mut self,
        kind: Kind,
        base: Offset,
        transaction: TransactionNumber,
    ) -> Batch {
        let header = BatchHeader {
            len: self.bytes.len(),
            body_crc: u32_at(&self.bytes, 8),
            kind,
            base,
            last: base + i64::from(self.last_delta),
            count: self.count,
            transaction,
            base_timestamp: self.base_timestamp,
            max_timestamp: self.max_timestamp,
            horizon_ms: self.horizon_ms,
        };
        write_header(&mut self.bytes, &header);
        Batch {
            header,
            bytes: Bytes::copy_from_slice(&self.bytes),
        }
    }

    /// Forgets the records.
    pub(super) fn clear(&mut self) {
        self.bytes.truncate(HEADER);
        self.count = 0;
        self.last_delta = 0;
        self.max_timestamp = Timestamp::MIN;
        self.horizon_ms = 0;
    }
}

/// The control batch that ends `transaction` at offset `base`.
pub(super) fn marker(kind: Kind, base: Offset, transaction: TransactionNumber) -> Batch {
    let mut builder = BatchBuilder::new();
    builder.checksum();
    builder.stamp(kind, base, transaction)
}

fn write_header(bytes: &mut [u8], header: &BatchHeader) {
    let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
    let kind = match header.kind {
        Kind::Records => 0,
        Kind::Commit => 1,
        Kind::Abort => 2,
    };
    let len = u32::try_from(header.len - 4).expect("a batch is far below 4 GiB");
    let delta = u32::try_from(header.last - header.base).expect("deltas are u32");
    put(0, &len.to_le_bytes());
    put(12, &[FORMAT, kind, 0, 0]);
    put(16, &header.base.to_le_bytes());
    put(24, &delta.to_le_bytes());
    put(28, &header.count.to_le_bytes());
    put(32, &header.transaction.to_le_bytes());
    put(40, &header.base_timestamp.to_le_bytes());
    put(48, &header.max_timestamp.to_le_bytes());
    put(56, &header.horizon_ms.to_le_bytes());
    let crc = crc32fast::hash(&bytes[8..HEADER]);
    bytes[4..8].copy_from_slice(&crc.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_gives_back_its_records() {
        let mut builder = BatchBuilder::new();
        let header = Header {
            name: "h".into(),
            value: None,
        };
        builder.push(-5, None, Some(b"v"), &[]);
        builder.push_at(7, i64::MAX, Some(b""), None, std::slice::from_ref(&header));
        builder.checksum();
        let batch = builder.take(100, 3);
        let batch = Batch::verified(&batch.bytes).unwrap();
        assert_eq!((batch.header.base, batch.header.last), (100, 107));
        let mut records = batch.records();
        let mut names = HeaderNames::default();
        let first = records.next(&mut names).unwrap().unwrap();
        assert_eq!((first.offset, first.timestamp), (100, -5));
        assert_eq!((first.key, first.value.as_deref()), (None, Some(&b"v"[..])));
        let second = records.next(&mut names).unwrap().unwrap();
        assert_eq!((second.offset, second.timestamp), (107, i64::MAX));
        assert_eq!(
            (second.key.as_deref(), second.value),
            (Some(&b""[..]), None)
        );
        assert_eq!(second.headers, vec![header]);
        assert!(records.next(&mut names).unwrap().is_none());
    }

    /// A batch whose checksums hold, and whose header says `change` of itself.
    fn forged(change: impl Fn(&mut BatchHeader)) -> Bytes {
        let mut builder = BatchBuilder::new();
        builder.push_at(3, 1, None, Some(b"value"), &[]);
        builder.checksum();
        let batch = builder.take(10, 0);
        let (mut header, mut bytes) = (batch.header, batch.bytes.to_vec());
        change(&mut header);
        write_header(&mut bytes, &header);
        bytes.into()
    }

    #[test]
    fn offsets_that_cannot_be_are_refused_though_the_checksums_hold() {
        assert!(Batch::verified(&forged(|_| {})).is_ok());
        for (base, last) in [
            (Offset::MAX - 3, Offset::MAX),
            (Offset::MAX, Offset::MAX),
            (-1, 2),
        ] {
            let bytes = forged(|header| (header.base, header.last) = (base, last));
            let fault = Batch::verified(&bytes).unwrap_err();
            assert_eq!(fault, "impossible length or offset", "{base}..={last}");
        }
        let bytes = forged(|header| header.transaction = u64::MAX);
        assert_eq!(
            Batch::verified(&bytes).unwrap_err(),
            "impossible transaction"
        );
    }

    #[test]
    fn a_record_outside_its_batch_is_refused() {
        let bytes = forged(|header| header.last = header.base + 2);
        let mut records = Batch::verified(&bytes).unwrap().records();
        let fault = records.next(&mut HeaderNames::default()).unwrap_err();
        assert!(fault.contains("outside its batch"), "{fault}");
    }

    #[test]
    fn records_that_do_not_ascend_are_refused() {
        let mut builder = BatchBuilder::new();
        builder.push_at(2, 1, None, Some(b"a"), &[]);
        builder.push_at(0, 1, None, Some(b"b"), &[]);
        builder.last_delta = 2;
        builder.checksum();
        let mut records = Batch::verified(&builder.take(5, 0).bytes)
            .unwrap()
            .records();
        let mut names = HeaderNames::default();
        assert_eq!(records.next(&mut names).unwrap().unwrap().offset, 7);
        let fault = records.next(&mut names).unwrap_err();
        assert!(fault.contains("before the one before it"), "{fault}");
    }

    #[test]
    fn every_flipped_byte_is_noticed() {
        let mut builder = BatchBuilder::new();
        builder.push(1, Some(b"key"), Some(b"value"), &[]);
        builder.checksum();
        let good = builder.take(0, 0).bytes;
        for at in 4..good.len() {
            let mut bad = good.to_vec();
            bad[at] ^= 0x10;
            assert!(Batch::verified(&bad.into()).is_err(), "byte {at}");
        }
    }

    #[test]
    fn a_batch_is_torn_at_each_of_its_bytes_and_not_by_a_wrong_length() {
        let mut builder = BatchBuilder::new();
        builder.push(1, Some(b"key"), Some(b"value"), &[]);
        builder.push(2, None, Some(&[0; 20]), &[]);
        builder.checksum();
        for good in [builder.take(0, 0), marker(Kind::Commit, 0, 7)] {
            let good = good.bytes;
            for at in 0..good.len() {
                assert!(Batch::is_torn(&good.slice(..at)), "byte {at}");
            }
            assert!(!Batch::is_torn(&good));
            for bit in 0..32 {
                let mut bad = good.to_vec();
                bad[bit / 8] ^= 1 << (bit % 8);
                bad.extend([7; 3]);
                assert!(!Batch::is_torn(&bad.into()), "bit {bit}");
            }
        }
    }
}
