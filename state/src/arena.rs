//! Many small byte strings, few allocations.
//!
//! A string is copied once into a chunk; handing it out again is a reference count. A chunk lives as
//! long as any string in it, which is why the overlay counts what was written, not what is live.

use bytes::{Bytes, BytesMut};

const CHUNK: usize = 16 << 10;
/// Longer strings get an allocation of their own.
const SMALL: usize = CHUNK / 8;

#[derive(Debug, Default)]
pub(crate) struct Arena {
    chunk: BytesMut,
}

impl Arena {
    pub(crate) fn copy(&mut self, bytes: &[u8]) -> Bytes {
        if bytes.len() > SMALL {
            return Bytes::copy_from_slice(bytes);
        }
        if self.chunk.capacity() < bytes.len() {
            self.chunk = BytesMut::with_capacity(CHUNK);
        }
        self.chunk.extend_from_slice(bytes);
        self.chunk.split().freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_keep_their_content_across_chunks() {
        let mut arena = Arena::default();
        let strings: Vec<Vec<u8>> = (0..3_000u32)
            .map(|i| vec![i as u8; (i % 40) as usize])
            .collect();
        let copies: Vec<Bytes> = strings.iter().map(|s| arena.copy(s)).collect();
        assert!(strings.iter().zip(&copies).all(|(s, c)| s == c));
    }
}
