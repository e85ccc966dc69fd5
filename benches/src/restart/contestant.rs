//! Who is killed.

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::process::Command;

use anyhow::{Context, Result};
use clap::ValueEnum;

use super::arguments::Job;
use super::input::IMPRESSIONS;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Contestant {
    /// Static membership.
    Ours,
    /// As it comes: dynamic membership.
    KafkaStreams,
    /// With `group.instance.id`.
    KafkaStreamsStatic,
    /// The same, with transactional stores (KIP-892), where the version has them.
    KafkaStreamsTransactional,
}

impl Contestant {
    pub const ALL: [Self; 4] = [
        Self::Ours,
        Self::KafkaStreams,
        Self::KafkaStreamsStatic,
        Self::KafkaStreamsTransactional,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::KafkaStreams => "kafka-streams",
            Self::KafkaStreamsStatic => "kafka-streams-static",
            Self::KafkaStreamsTransactional => "kafka-streams-transactional",
        }
    }

    /// The command that runs the application until SIGTERM.
    pub fn command(self, job: &Job) -> Result<Command> {
        let membership = match self {
            Self::Ours => return own_command(job),
            Self::KafkaStreams => "dynamic",
            Self::KafkaStreamsStatic => "static",
            Self::KafkaStreamsTransactional => "static-transactional",
        };
        let mut java = xtask::peers::command("Restart")?;
        java.args([membership, &job.bootstrap, &job.application_id])
            .arg(&job.state_dir)
            .args([IMPRESSIONS, &job.output, job.kind.name()]);
        Ok(java)
    }
}

fn own_command(job: &Job) -> Result<Command> {
    let mut command = Command::new(env::current_exe().context("cannot find this program")?);
    let arguments: [OsString; 7] = [
        "ours".into(),
        (&job.bootstrap).into(),
        (&job.application_id).into(),
        (&job.state_dir).into(),
        (&job.output).into(),
        job.backend.name().into(),
        job.kind.name().into(),
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
    use processor_core::Backend;

    use super::super::arguments::{Arguments, Role};
    use super::super::kind::Kind;
    use super::*;

    #[test]
    fn ours_is_told_its_job() {
        let job = Job {
            bootstrap: "127.0.0.1:1".to_owned(),
            application_id: "a".to_owned(),
            state_dir: PathBuf::from("s"),
            output: "o".to_owned(),
            backend: Backend::Redb,
            kind: Kind::Join,
        };
        let command = Contestant::Ours.command(&job).unwrap();
        let line = [command.get_program()]
            .into_iter()
            .chain(command.get_args());
        match Arguments::try_parse_from(line).unwrap().role {
            Some(Role::Ours(told)) => assert_eq!(format!("{told:?}"), format!("{job:?}")),
            role => panic!("{role:?}"),
        }
    }

    #[test]
    fn the_command_line_takes_the_names_that_are_printed() {
        for contestant in Contestant::ALL {
            let name = contestant.to_string();
            assert_eq!(Contestant::from_str(&name, false), Ok(contestant));
        }
    }
}
