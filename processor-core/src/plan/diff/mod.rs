//! What changes between two plans of an application, and whether state and records under way survive it.
//!
//! The state of an application is where its names say: committed offsets by topic, rows by store and partition, records
//! under way in repartition topics. So a change is judged by what the new program finds under the names that it uses.
//!
//! | verdict | what it means |
//! |---|---|
//! | [`Safe`](Verdict::Safe) | the new program goes on where the old one stopped |
//! | [`Drain`](Verdict::Drain) | records that the old program wrote to this internal topic would be lost or misread: let it process them first |
//! | [`Reset`](Verdict::Reset) | the rows of this store cannot be used: it must be emptied, and that said |
//! | [`Forbidden`](Verdict::Forbidden) | it cannot run under this application id as things are |
//!
//! A plan knows nothing of user code: that a joiner or an aggregator means something else now is for its author to know.
//!
//! **Rolling out.** While instances of two versions run, a task that reads other topics cannot be shared between them, and
//! a store that only one of them knows misses what the other takes. Where that is so, a change asks to
//! [stop](Rollout::StopAll) all instances first; [`PlanDiff::rollout`] says it for the whole. In Kafka Streams the rule is
//! the same for every change of the topology.

mod stores;
mod topics;

use std::collections::BTreeSet;
use std::fmt;

use super::{NodePlan, Role, TopologyPlan};

/// Whether a change may be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// State, offsets and records under way fit.
    Safe,
    /// The topic must be read to its end before.
    Drain,
    /// The store must be emptied.
    Reset,
    /// Not under this application id.
    Forbidden,
}

/// How a change is brought to the instances of an application.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rollout {
    /// One instance after the other.
    Rolling,
    /// All instances stop before the first new one starts.
    StopAll,
}

/// What a change is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// A store.
    Store(String),
    /// A topic.
    Topic(String),
    /// A global table.
    GlobalTable(String),
    /// An operator with a name.
    Operator(String),
    /// How work is divided into tasks.
    Tasks,
    /// The optimiser.
    Optimizer,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store(name) => write!(f, "store '{name}'"),
            Self::Topic(name) => write!(f, "topic '{name}'"),
            Self::GlobalTable(name) => write!(f, "global table '{name}'"),
            Self::Operator(name) => write!(f, "operator '{name}'"),
            Self::Tasks => f.write_str("tasks"),
            Self::Optimizer => f.write_str("optimiser"),
        }
    }
}

/// One thing that changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// What it is about.
    pub subject: Subject,
    /// Whether it may be made.
    pub verdict: Verdict,
    /// How it is rolled out.
    pub rollout: Rollout,
    /// What changes.
    pub what: String,
    /// Why the verdict is what it is.
    pub reason: String,
    /// What to do, if anything.
    pub advice: Option<String>,
}

impl Change {
    fn new(subject: Subject, what: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            subject,
            verdict: Verdict::Safe,
            rollout: Rollout::StopAll,
            what: what.into(),
            reason: reason.into(),
            advice: None,
        }
    }

    fn verdict(self, verdict: Verdict) -> Self {
        Self { verdict, ..self }
    }

    fn rolling(self) -> Self {
        Self {
            rollout: Rollout::Rolling,
            ..self
        }
    }

    fn advice(self, advice: impl Into<String>) -> Self {
        Self {
            advice: Some(advice.into()),
            ..self
        }
    }
}

impl fmt::Display for Change {
    /// One sentence: what changes, why that matters, what to do.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.subject, self.what, self.reason)?;
        match &self.advice {
            Some(advice) => write!(f, "; {advice}"),
            None => Ok(()),
        }
    }
}

/// All that changes between two plans, the gravest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanDiff {
    /// Hash of the old plan.
    pub from: String,
    /// Hash of the new one.
    pub to: String,
    /// What changes.
    pub changes: Vec<Change>,
}

impl PlanDiff {
    /// Whether the new program can start where the old one stopped.
    #[must_use]
    pub fn is_safe(&self) -> bool {
        self.verdict() == Verdict::Safe
    }

    /// The gravest verdict.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let verdicts = self.changes.iter().map(|change| change.verdict);
        verdicts.max().unwrap_or(Verdict::Safe)
    }

    /// How the whole is rolled out.
    #[must_use]
    pub fn rollout(&self) -> Rollout {
        let rollouts = self.changes.iter().map(|change| change.rollout);
        rollouts.max().unwrap_or(Rollout::Rolling)
    }
}

impl fmt::Display for PlanDiff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.changes.is_empty() {
            let (from, to) = (&self.from, &self.to);
            return writeln!(
                f,
                "Plan {from} to {to}: nothing changes for state and topics."
            );
        }
        let grave = self
            .changes
            .iter()
            .filter(|change| change.verdict > Verdict::Safe);
        let (count, grave) = (self.changes.len(), grave.count());
        let changes = if count == 1 { "change" } else { "changes" };
        writeln!(
            f,
            "Plan {} to {}: {count} {changes}, {grave} unsafe",
            self.from, self.to
        )?;
        for change in &self.changes {
            let verdict = match change.verdict {
                Verdict::Safe => "safe",
                Verdict::Drain => "DRAIN",
                Verdict::Reset => "RESET",
                Verdict::Forbidden => "FORBIDDEN",
            };
            writeln!(f, "  {verdict:<9}  {} {}", change.subject, change.what)?;
            writeln!(f, "             {}", change.reason)?;
            if let Some(advice) = &change.advice {
                writeln!(f, "             -> {advice}")?;
            }
        }
        match (self.is_safe(), self.rollout()) {
            (false, _) => writeln!(
                f,
                "Roll-out: not before what is unsafe is settled; then stop all instances first."
            ),
            (true, Rollout::StopAll) => {
                writeln!(f, "Roll-out: stop all instances, then start the new ones.")
            }
            (true, Rollout::Rolling) => writeln!(f, "Roll-out: instance by instance."),
        }
    }
}

/// What changes from `old` to `new`. Where both plans know how many partitions topics have, the verdicts use it.
///
/// ```
/// use processor_core::dsl::{Consumed, StreamsBuilder};
/// use processor_core::plan::diff::{Subject, Verdict, compare};
/// use processor_core::serde::{int64, utf8};
///
/// let counting = |store: &str| {
///     let builder = StreamsBuilder::new("words");
///     builder.stream("words", Consumed::new(utf8(), int64())).group_by_key().count(store);
///     builder.build().unwrap().plan()
/// };
/// let renamed = compare(&counting("counts"), &counting("totals"));
/// assert!(renamed.is_safe());
/// let subjects: Vec<&Subject> = renamed.changes.iter().map(|change| &change.subject).collect();
/// let store = |name: &str| Subject::Store(name.to_owned());
/// assert_eq!(subjects, [&store("counts"), &store("totals")]);
/// assert!(renamed.changes[1].reason.contains("starts empty"));
/// ```
#[must_use]
pub fn compare(old: &TopologyPlan, new: &TopologyPlan) -> PlanDiff {
    let mut changes = stores::changes(old, new);
    changes.extend(topics::changes(old, new));
    changes.extend(tasks(old, new));
    changes.extend(global_tables(old, new));
    changes.extend(operators(old, new));
    if old.optimized != new.optimized {
        let what = if new.optimized { "is on" } else { "is off" };
        let reason = "topics and stores change with it, as listed";
        changes.push(Change::new(Subject::Optimizer, what, reason));
    }
    changes.sort_by(|a, b| {
        let order = |change: &Change| (std::cmp::Reverse(change.verdict), change.subject.clone());
        order(a).cmp(&order(b))
    });
    PlanDiff {
        from: old.hash.clone(),
        to: new.hash.clone(),
        changes,
    }
}

/// Topics that feed `nodes` by plain calls.
fn topics_above<'a>(
    plan: &'a TopologyPlan,
    nodes: impl IntoIterator<Item = &'a str>,
) -> BTreeSet<&'a str> {
    let mut open: Vec<&str> = nodes.into_iter().collect();
    let mut seen = BTreeSet::new();
    let mut topics = BTreeSet::new();
    while let Some(name) = open.pop() {
        if !seen.insert(name) {
            continue;
        }
        if let Some(node) = plan.node(name) {
            if let Role::Source(topic) = &node.role {
                topics.insert(topic.as_str());
            }
            open.extend(node.parents.iter().map(String::as_str));
        }
    }
    topics
}

/// The topics that each task reads.
fn inputs_of_tasks(plan: &TopologyPlan) -> BTreeSet<BTreeSet<&str>> {
    plan.sub_topologies
        .iter()
        .map(|part| {
            let topics = part.nodes.iter().filter_map(|node| match &node.role {
                Role::Source(topic) => Some(topic.as_str()),
                _ => None,
            });
            topics.collect()
        })
        .collect()
}

/// Topics that were read apart and are read together now, or the other way round. Rows stay where they are: a store's
/// partition is that of the topics that feed it.
fn tasks(old: &TopologyPlan, new: &TopologyPlan) -> Vec<Change> {
    let (before, now) = (inputs_of_tasks(old), inputs_of_tasks(new));
    let known = |topic: &&str| before.iter().any(|topics| topics.contains(topic));
    now.difference(&before)
        .filter(|topics| topics.iter().all(known))
        .map(|topics| {
            let topics: Vec<&str> = topics.iter().copied().collect();
            let what = format!("of {} are cut differently", topics.join(", "));
            let reason = "rows and offsets stay with their partitions; older instances cannot share these tasks";
            Change::new(Subject::Tasks, what, reason)
        })
        .collect()
}

fn global_tables(old: &TopologyPlan, new: &TopologyPlan) -> Vec<Change> {
    let names: BTreeSet<&str> = [old, new]
        .iter()
        .flat_map(|plan| &plan.global_tables)
        .map(|table| table.name.as_str())
        .collect();
    let topic = |plan: &TopologyPlan, name: &str| {
        let mut tables = plan.global_tables.iter();
        let table = tables.find(|table| table.name == name);
        table.map(|table| table.topic.clone())
    };
    let differing = names.into_iter().filter_map(|name| {
        let what = match (topic(old, name), topic(new, name)) {
            (Some(before), Some(now)) if before == now => return None,
            (Some(_), Some(now)) => format!("is read from '{now}'"),
            (None, _) => "is new".to_owned(),
            (_, None) => "is gone".to_owned(),
        };
        let subject = Subject::GlobalTable(name.to_owned());
        let reason = "it is read in full at each start";
        Some(Change::new(subject, what, reason).rolling())
    });
    differing.collect()
}

/// Operators with a name and without stores of their own: nothing is kept under their names but the time they observed.
fn operators(old: &TopologyPlan, new: &TopologyPlan) -> Vec<Change> {
    let keeps = |plan: &TopologyPlan, node: &NodePlan| {
        let mut stores = node.stores.iter();
        stores.any(|store| stores::owner(plan, store).is_some_and(|owner| owner.name == node.name))
    };
    let named = |plan: &TopologyPlan| -> BTreeSet<String> {
        let nodes = plan.nodes();
        let free = nodes.filter(|node| {
            node.named && matches!(node.role, Role::Operator(_)) && !keeps(plan, node)
        });
        free.map(|node| node.name.clone()).collect()
    };
    let (before, now) = (named(old), named(new));
    let change = |name: &String, what: &str| {
        let subject = Subject::Operator(name.clone());
        Change::new(subject, what, "nothing is kept for it").rolling()
    };
    let gone = before.iter().filter(|name| new.node(name).is_none());
    let come = now.iter().filter(|name| old.node(name).is_none());
    gone.map(|name| change(name, "is gone"))
        .chain(come.map(|name| change(name, "is new")))
        .collect()
}
