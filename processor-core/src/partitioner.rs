//! The partition of a key, as the Java client chooses it.
//!
//! `(murmur2(key) & 0x7fffffff) % partitions`. librdkafka's own default is CRC32, with which joins against topics
//! written by Java producers silently miss.

/// Kafka's murmur2 of `data` (seed `0x9747b28c`).
#[must_use]
pub fn murmur2(data: &[u8]) -> i32 {
    const SEED: u32 = 0x9747_b28c;
    const M: u32 = 0x5bd1_e995;
    const R: u32 = 24;

    let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
    let mut h = SEED ^ length;
    let mut chunks = data.chunks_exact(4);
    for chunk in &mut chunks {
        let mut k = u32::from_le_bytes(chunk.try_into().expect("chunks of four"));
        k = k.wrapping_mul(M);
        k ^= k >> R;
        k = k.wrapping_mul(M);
        h = h.wrapping_mul(M);
        h ^= k;
    }
    let rest = chunks.remainder();
    if !rest.is_empty() {
        for (i, byte) in rest.iter().enumerate() {
            h ^= u32::from(*byte) << (8 * i);
        }
        h = h.wrapping_mul(M);
    }
    h ^= h >> 13;
    h = h.wrapping_mul(M);
    h ^= h >> 15;
    h.cast_signed()
}

/// The partition of `key` among `partitions`.
///
/// ```
/// assert_eq!(processor_core::partitioner::partition_for(b"foobar", 12), 6);
/// ```
#[must_use]
pub fn partition_for(key: &[u8], partitions: i32) -> i32 {
    (murmur2(key) & 0x7fff_ffff) % partitions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_the_java_client() {
        let cases: [(&[u8], i32, i32); 7] = [
            (b"21", -973_932_308, 0),
            (b"foobar", -790_332_482, 6),
            (b"a-little-bit-long-string", -985_981_536, 8),
            (b"a-little-bit-longer-string", -1_486_304_829, 11),
            (
                b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8",
                -58_897_971,
                5,
            ),
            (b"abc", 479_470_107, 3),
            (b"", 275_646_681, 9),
        ];
        for (key, hash, partition) in cases {
            assert_eq!(murmur2(key), hash, "{key:?}");
            assert_eq!(partition_for(key, 12), partition, "{key:?}");
        }
    }
}
