//! What a process has used so far, from `/proc`.

use std::fs;

use anyhow::{Context, Result};

/// `USER_HZ`: the unit of times in `/proc`, 100 on every Linux we run on, whatever the kernel's own tick is.
const TICKS_PER_SECOND: f64 = 100.0;

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Usage {
    /// In user and kernel mode, by all its threads.
    pub cpu_seconds: f64,
    pub peak_resident_mib: f64,
}

impl Usage {
    pub fn of(pid: u32) -> Result<Self> {
        let read = |file: &str| {
            let path = format!("/proc/{pid}/{file}");
            fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
        };
        Self::parse(&read("stat")?, &read("status")?)
            .with_context(|| format!("cannot make sense of /proc/{pid}"))
    }

    fn parse(stat: &str, status: &str) -> Option<Self> {
        // The second field is the program's name in parentheses and may hold anything, so count from the last one.
        let fields: Vec<&str> = stat[stat.rfind(')')? + 1..]
            .split_ascii_whitespace()
            .collect();
        let ticks = |field: usize| fields.get(field)?.parse::<u32>().ok();
        let peak = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))?;
        let peak_kib: u32 = peak.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(Self {
            cpu_seconds: f64::from(ticks(11)? + ticks(12)?) / TICKS_PER_SECOND,
            peak_resident_mib: f64::from(peak_kib) / 1024.0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_both_modes_are_added_and_memory_is_the_peak() {
        let stat = "42 (a) b) S 1 42 42 0 -1 4194304 9 0 0 0 250 50 7 7 20 0 1 0 4711 0 0";
        let status = "Name:\tx\nVmPeak:\t  9999 kB\nVmHWM:\t    2048 kB\nVmRSS:\t 1024 kB\n";
        let expected = Usage {
            cpu_seconds: 3.0,
            peak_resident_mib: 2.0,
        };
        assert_eq!(Usage::parse(stat, status), Some(expected));
        assert_eq!(Usage::parse("", status), None);
    }

    #[test]
    fn this_process_uses_memory() {
        assert!(Usage::of(std::process::id()).unwrap().peak_resident_mib > 1.0);
    }
}
