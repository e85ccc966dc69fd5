//! Who takes part.

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::process::Command;

use anyhow::{Context, Result};

use super::arguments::Job;
use super::workload::Workload;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Contestant {
    Ours,
    KafkaStreams(Cache),
    Raw,
}

/// Kafka Streams' record cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cache {
    /// As it comes: 10 MiB.
    Default,
    Off,
}

impl Contestant {
    /// Everybody who takes part in `workload`, in the order of the first round.
    pub fn of(workload: Workload) -> Vec<Self> {
        let mut all = vec![Self::Ours, Self::KafkaStreams(Cache::Default)];
        if workload.has_state() {
            all.push(Self::KafkaStreams(Cache::Off));
        }
        all.push(Self::Raw);
        all
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::KafkaStreams(Cache::Default) => "kafka-streams",
            Self::KafkaStreams(Cache::Off) => "kafka-streams-no-cache",
            Self::Raw => "raw",
        }
    }

    /// The command that works `job` off until SIGTERM.
    pub fn command(self, job: &Job) -> Result<Command> {
        match self {
            Self::Ours => own_command("ours", job),
            Self::Raw => own_command("raw", job),
            Self::KafkaStreams(cache) => {
                let mut java = xtask::peers::command("Peer")?;
                java.args([job.workload.name(), &job.bootstrap, &job.application_id])
                    .arg(&job.state_dir)
                    .arg(match cache {
                        Cache::Default => "default",
                        Cache::Off => "0",
                    })
                    .args([
                        super::workload::IMPRESSIONS,
                        super::workload::CLICKS,
                        &job.output,
                    ]);
                Ok(java)
            }
        }
    }
}

fn own_command(role: &str, job: &Job) -> Result<Command> {
    let mut command = Command::new(env::current_exe().context("cannot find this program")?);
    let arguments: [OsString; 6] = [
        role.into(),
        job.workload.name().into(),
        (&job.bootstrap).into(),
        (&job.application_id).into(),
        (&job.state_dir).into(),
        (&job.output).into(),
    ];
    command.args(arguments);
    Ok(command)
}

impl fmt::Display for Contestant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use clap::Parser as _;

    use super::super::arguments::{Arguments, Role};
    use super::*;

    #[test]
    fn a_contestant_of_ours_is_told_its_job() {
        let job = Job {
            workload: Workload::JoinCount,
            bootstrap: "127.0.0.1:1".to_owned(),
            application_id: "a".to_owned(),
            state_dir: PathBuf::from("s"),
            output: "o".to_owned(),
        };
        let command = Contestant::Raw.command(&job).unwrap();
        let line = [command.get_program()]
            .into_iter()
            .chain(command.get_args());
        match Arguments::try_parse_from(line).unwrap().role {
            Some(Role::Raw(told)) => assert_eq!(format!("{told:?}"), format!("{job:?}")),
            role => panic!("{role:?}"),
        }
    }

    #[test]
    fn the_cache_is_tried_both_ways_where_there_is_state() {
        assert_eq!(Contestant::of(Workload::Pass).len(), 3);
        assert_eq!(Contestant::of(Workload::Count).len(), 4);
    }
}
