//! The commands that work on Kafka.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use processor_core::{Guarantee, Standby};

use crate::results::Results;
use crate::run::{Cluster, Run};
use crate::summary::summary;
use crate::{Part, duration};

use super::{Memory, Rules, Storage};

#[derive(Args)]
struct ClusterArgs {
    /// Kafka brokers, host:port, several separated by commas
    #[arg(long)]
    bootstrap: String,
    /// A property of the Kafka client (librdkafka), for instance client.id=ads; may be repeated
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = property)]
    properties: Vec<(String, String)>,
}

impl ClusterArgs {
    fn into_cluster(self) -> Cluster {
        Cluster {
            bootstrap: self.bootstrap,
            properties: self.properties.into_iter().collect::<BTreeMap<_, _>>(),
        }
    }
}

pub(super) fn property(text: &str) -> Result<(String, String), String> {
    let (name, value) = text
        .split_once('=')
        .ok_or_else(|| format!("'{text}' is not NAME=VALUE"))?;
    Ok((name.to_owned(), value.to_owned()))
}

#[derive(Args)]
pub(super) struct RunArgs {
    #[command(flatten)]
    cluster: ClusterArgs,
    /// Which part of the platform
    #[arg(long, value_enum, default_value = "all")]
    part: Part,
    /// Landing directory, the same for every instance
    #[arg(long, value_name = "DIR")]
    input: Option<PathBuf>,
    /// Where the stores of this instance are
    #[arg(long, value_name = "DIR", default_value = "advertisex-state")]
    state: PathBuf,
    #[command(flatten)]
    storage: Storage,
    /// Consumer group, and prefix of internal topics [default: advertisex, or advertisex-PART]
    #[arg(long)]
    application_id: Option<String>,
    /// Name of this instance, unique and the same after a restart [default: one kept in --state]
    #[arg(long)]
    instance: Option<String>,
    /// Join the group as a static member: a restart within the session timeout keeps its partitions
    #[arg(long)]
    static_membership: bool,
    /// Keep warm copies of the next one's stores, among so many instances; needs --static-membership, and --instance with
    /// an ordinal at its end
    #[arg(
        long,
        value_name = "INSTANCES",
        requires = "static_membership",
        requires = "instance"
    )]
    standby: Option<u32>,
    /// Keep copies of this store only; may be repeated
    #[arg(long, value_name = "STORE", requires = "standby")]
    standby_store: Vec<String>,
    /// Stream threads
    #[arg(long, default_value_t = 1)]
    threads: usize,
    #[command(flatten)]
    memory: Memory,
    /// A store whose rows may go where a change of the topology makes them useless; may be repeated
    #[arg(long, value_name = "STORE")]
    accept_reset: Vec<String>,
    /// Partitions of topics that do not exist yet
    #[arg(long, default_value_t = 4)]
    partitions: i32,
    /// Copies of topics that do not exist yet
    #[arg(long, default_value_t = 1)]
    replication: i32,
    /// Time between commits
    #[arg(long, value_parser = duration::parse, default_value = "100ms")]
    commit_interval: Duration,
    /// Process each record at least once instead of exactly once
    #[arg(long)]
    at_least_once: bool,
    /// How often the landing directory is looked at for new files
    #[arg(long, value_parser = duration::parse, default_value = "5s")]
    look_interval: Duration,
    #[command(flatten)]
    rules: Rules,
}

impl RunArgs {
    pub(super) fn into_run(self) -> Result<Run> {
        Ok(Run {
            cluster: self.cluster.into_cluster(),
            part: self.part,
            input: self.input,
            application_id: self
                .application_id
                .unwrap_or_else(|| self.part.application_id().to_owned()),
            instance: self.instance,
            state: self.state,
            backend: self.storage.backend,
            static_membership: self.static_membership,
            standby: self.standby.map(|instances| match &self.standby_store[..] {
                [] => Standby::among(instances),
                stores => Standby::among(instances).of(stores),
            }),
            threads: self.threads,
            memory_bytes: self.memory.bytes,
            accept_reset: self.accept_reset,
            partitions: self.partitions,
            replication: self.replication,
            commit_interval: self.commit_interval,
            guarantee: if self.at_least_once {
                Guarantee::AtLeastOnce
            } else {
                Guarantee::ExactlyOnce
            },
            click_window: self.rules.click_window,
            conversions: self.rules.conversions(),
            grace: self.rules.grace,
            id_ttl: self.rules.id_ttl,
            look_interval: self.look_interval,
        })
    }
}

#[derive(Args)]
pub(super) struct ResultsArgs {
    #[command(flatten)]
    cluster: ClusterArgs,
    /// Where the files go
    #[arg(long, value_name = "DIR", default_value = "advertisex-out")]
    out: PathBuf,
}

impl ResultsArgs {
    #[expect(
        clippy::print_stdout,
        reason = "the answer of a command line goes there"
    )]
    pub(super) fn write(self) -> Result<()> {
        let log = self.cluster.into_cluster().connect()?;
        std::fs::create_dir_all(&self.out).with_context(|| {
            format!("cannot create the output directory {}", self.out.display())
        })?;
        let results = Results::read(&log)?;
        results.write(&self.out)?;
        println!("{}", summary(&results, &self.out));
        Ok(())
    }
}
