//! What holds of any bytes in the rows and messages of operators.

use bytes::Bytes;

use super::{
    attribution, buffered, changed, count_windows, early, foreign_key_join, grace_join, suppress,
};

/// One format, chosen by a number.
pub(crate) fn rows(format: u8, bytes: &[u8]) {
    let shared = Bytes::copy_from_slice(bytes);
    match format % 8 {
        0 => early::check_any(&shared),
        1 => count_windows::check_any(&shared),
        2 => suppress::check_any(&shared),
        3 => buffered::check_any(&shared),
        4 => changed::check_any(bytes),
        5 => grace_join::check_any(bytes),
        6 => attribution::check_any(bytes),
        _ => foreign_key_join::check_any(bytes),
    }
}
