//! Free TCP ports on loopback.
//!
//! A port that was free a moment ago may be taken when the broker binds it, so whoever uses one must be ready to try
//! again with another. Ports come from below the kernel's ephemeral range (32768 and up): an outgoing connection can
//! take an ephemeral port at any time, and a client that keeps dialling a stopped broker there can even connect to
//! itself and so keep the broker from coming back.

use std::net::{Ipv4Addr, TcpListener};
use std::ops::RangeInclusive;
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Result, bail};

const RANGE: RangeInclusive<u16> = 10_000..=31_999;

/// Whether `port` can be bound on loopback now.
pub fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// A port that can be bound on loopback now and that this process was not given before.
///
/// # Errors
/// When no port between 10000 and 31999 can be bound.
pub fn free() -> Result<u16> {
    static STEP: AtomicU32 = AtomicU32::new(0);
    let size = u32::from(*RANGE.end() - *RANGE.start()) + 1;
    // Processes start far apart (a step of a large prime per pid), so that two runs side by side rarely meet.
    let start = process::id().wrapping_mul(7_919);
    for _ in 0..size {
        let step = STEP.fetch_add(1, Ordering::Relaxed);
        let offset = start.wrapping_add(step) % size;
        let port =
            RANGE.start() + u16::try_from(offset).expect("the range has fewer than 65536 ports");
        if is_free(port) {
            return Ok(port);
        }
    }
    bail!(
        "no free port on 127.0.0.1 between {} and {}",
        RANGE.start(),
        RANGE.end()
    )
}

/// `wanted` if it is free, else the next free port above it.
///
/// # Errors
/// When the hundred ports from `wanted` on are all taken.
pub fn free_from(wanted: u16) -> Result<u16> {
    match (wanted..wanted.saturating_add(100)).find(|port| is_free(*port)) {
        Some(port) => Ok(port),
        None => bail!("no free port on 127.0.0.1 in the hundred from {wanted}"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::stopwatch::wait_for;

    /// A test beside this one may start a process while a port is being tried: until its exec the child holds the socket.
    const FORK: Duration = Duration::from_secs(5);

    #[test]
    fn free_ports_can_be_bound_and_are_never_given_twice() {
        let first = free().unwrap();
        let second = free().unwrap();
        assert_ne!(first, second);
        let both = || (is_free(first) && is_free(second)).then_some(());
        assert!(wait_for(FORK, both).is_some());
    }

    #[test]
    fn a_taken_port_is_passed_over() {
        let taken = free().unwrap();
        let bind = || TcpListener::bind((Ipv4Addr::LOCALHOST, taken)).ok();
        let _listener = wait_for(FORK, bind).unwrap();
        assert!(!is_free(taken));
        assert!(free_from(taken).unwrap() > taken);
    }
}
