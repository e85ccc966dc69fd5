//! Stores: whether the rows of the old program are rows of the new one, in the partition where it looks for them.

use std::collections::BTreeSet;

use super::super::{NodePlan, Role, StorePlan, TopologyPlan};
use super::{Change, Subject, Verdict, topics_above};

/// What happens to each store.
pub(super) fn changes(old: &TopologyPlan, new: &TopologyPlan) -> Vec<Change> {
    let names: BTreeSet<&str> = [old, new]
        .iter()
        .flat_map(|plan| &plan.stores)
        .map(|store| store.name.as_str())
        .collect();
    let changed = names
        .into_iter()
        .filter_map(|name| match (old.store(name), new.store(name)) {
            (Some(before), Some(now)) => Both {
                old,
                new,
                before,
                now,
            }
            .change(),
            (Some(before), None) => Some(gone(before)),
            (None, Some(now)) if new.is_read_back(now) => Some(come_back(now)),
            (None, _) => Some(come(name)),
        });
    changed.collect()
}

/// The operator that a store belongs to; others may read it.
pub(super) fn owner<'a>(plan: &'a TopologyPlan, store: &str) -> Option<&'a NodePlan> {
    let mut users = plan
        .nodes()
        .filter(|node| node.stores.iter().any(|name| name == store));
    users.next()
}

fn subject(name: &str) -> Subject {
    Subject::Store(name.to_owned())
}

fn come(name: &str) -> Change {
    let reason = "it starts empty and sees what is read from now on; its input goes on at the committed offsets";
    Change::new(subject(name), "is new", reason)
}

/// A table that is rebuilt from its topic is complete from the start.
fn come_back(store: &StorePlan) -> Change {
    let reason = format!(
        "it has the rows of topic '{}' up to the committed offset of its input",
        store.changelog.topic
    );
    Change::new(subject(&store.name), "is new", reason)
}

fn gone(store: &StorePlan) -> Change {
    let change = Change::new(
        subject(&store.name),
        "is gone",
        "its rows are not read any more",
    );
    change.advice(format!(
        "its changelog '{}' stays; a store that comes back under this name has missed what was read since, and a start \
         refuses it until its reset is accepted",
        store.changelog.topic
    ))
}

/// A store that both plans have.
struct Both<'a> {
    old: &'a TopologyPlan,
    new: &'a TopologyPlan,
    before: &'a StorePlan,
    now: &'a StorePlan,
}

impl Both<'_> {
    /// The gravest of what changes.
    fn change(&self) -> Option<Change> {
        self.kind()
            .or_else(|| self.operator())
            .or_else(|| self.format())
            .or_else(|| self.windows())
            .or_else(|| self.rebuilt())
            .or_else(|| self.feed())
            .or_else(|| self.retention())
            .or_else(|| self.owner_name())
    }

    fn safe(&self, what: impl Into<String>, reason: impl Into<String>) -> Change {
        Change::new(subject(&self.now.name), what, reason)
    }

    fn reset(&self, what: impl Into<String>, reason: impl Into<String>) -> Change {
        let name = &self.now.name;
        self.safe(what, reason)
            .verdict(Verdict::Reset)
            .advice(format!(
                "give the operator another name and keep '{name}' for a way back, or accept that its rows go: \
                 `accept_reset(\"{name}\")`"
            ))
    }

    fn kind(&self) -> Option<Change> {
        let (before, now) = (&self.before.kind, &self.now.kind);
        (before != now).then(|| {
            let what = format!("becomes a {now} store and was a {before} store");
            self.reset(what, "rows of one kind are not rows of the other, and their changelogs are kept differently")
        })
    }

    fn operator(&self) -> Option<Change> {
        let kind = |plan, store: &StorePlan| {
            let owner = owner(plan, &store.name)?;
            match &owner.role {
                Role::Operator(kind) => Some(kind.clone()),
                _ => None,
            }
        };
        let (before, now) = (kind(self.old, self.before)?, kind(self.new, self.now)?);
        // One store holds what the left of two held.
        let is_self_join = before == "stream-stream join" && now == "stream self-join";
        (before != now && !is_self_join).then(|| {
            let what = format!("is kept by a {now} and was by a {before}");
            self.reset(what, "each writes values of its own")
        })
    }

    fn format(&self) -> Option<Change> {
        let parts = [
            ("keys", &self.before.format.key, &self.now.format.key),
            ("values", &self.before.format.value, &self.now.format.value),
        ];
        parts.into_iter().find_map(|(part, before, now)| {
            let (before, now) = (before.as_ref()?, now.as_ref()?);
            (before != now).then(|| {
                let what = format!("has {part} in the format {now} and had them in {before}");
                self.reset(what, "the rows that are there cannot be decoded")
            })
        })
    }

    /// Windows that lie elsewhere.
    fn windows(&self) -> Option<Change> {
        let parameters = |plan, store: &StorePlan| {
            let owner = owner(plan, &store.name)?;
            let parameters = owner.parameters.iter();
            let parameters: Vec<String> = parameters.map(|(k, v)| format!("{k} {v}")).collect();
            Some(parameters.join(", "))
        };
        let (before, now) = (
            parameters(self.old, self.before)?,
            parameters(self.new, self.now)?,
        );
        (before != now).then(|| {
            let what = format!("has rows of {now} and had rows of {before}");
            self.reset(
                what,
                "windows that are open would be counted on as if they were the new ones",
            )
        })
    }

    /// Another topic that it is rebuilt from.
    fn rebuilt(&self) -> Option<Change> {
        let (before, now) = (&self.before.changelog.topic, &self.now.changelog.topic);
        if before == now {
            return None;
        }
        let what = format!("is rebuilt from '{now}' and was from '{before}'");
        let was_read_back = self.old.is_read_back(self.before);
        Some(match (was_read_back, self.new.is_read_back(self.now)) {
            (false, true) if feed(self.old, self.before).contains(now.as_str()) => {
                let reason = "that is the topic which it reads, so its rows are read again from there up to the committed offset";
                self.safe(what, reason).advice(format!(
                    "delete '{before}', which is not written any more, once there is no way back"
                ))
            }
            (_, true) => self.reset(
                what,
                "that has rows of its own, which take the place of the old ones",
            ),
            (true, false) => {
                let name = &self.now.name;
                let reason = "that begins without the rows that were read before, and they are not read again";
                self.reset(what, reason).advice(format!(
                    "keep the topology optimised; or accept that its rows go, `accept_reset(\"{name}\")`, and have its topic \
                     read from the start if they are to come back"
                ))
            }
            // The name of the application or of the store, which is the subject.
            (false, false) => return None,
        })
    }

    /// Whether keys are where they were: partition of key in the topics that feed the store.
    fn feed(&self) -> Option<Change> {
        let (before, now) = (feed(self.old, self.before), feed(self.new, self.now));
        if before.is_empty() || now.is_empty() {
            return None;
        }
        let both = || before.intersection(&now);
        if let Some(topic) =
            both().find(|topic| self.has_other_partitions(topic, topic) == Some(true))
        {
            let count = |plan: &TopologyPlan| partitions(plan, topic).unwrap_or(0);
            let what = format!(
                "is fed by '{topic}', which has {} partitions and had {}",
                count(self.new),
                count(self.old)
            );
            return Some(self.reset(
                what,
                "its keys lie in other partitions now, and its changelog has the old number",
            ));
        }
        if before == now {
            return None;
        }
        let list = |topics: &BTreeSet<&str>| {
            let topics: Vec<String> = topics.iter().map(|topic| format!("'{topic}'")).collect();
            topics.join(", ")
        };
        let what = format!("is fed by {} and was by {}", list(&now), list(&before));
        if both().next().is_some() {
            let reason = "topics that feed one store have the same number of partitions, so its keys stay where they are";
            return Some(self.safe(what, reason));
        }
        let is_internal = |plan: &TopologyPlan, topics: &BTreeSet<&str>| {
            let mut topics = topics.iter();
            topics.any(|topic| plan.topic(topic).is_some_and(|topic| topic.internal))
        };
        if is_internal(self.old, &before) != is_internal(self.new, &now) {
            let reason = "its keys are made in another way, so the rows that are there would stay beside the new ones";
            return Some(self.reset(what, reason));
        }
        if self.now.kind == "join" {
            let reason = "it holds records as they came, and those of the old topics would be joined as if the new ones had them";
            return Some(self.reset(what, reason));
        }
        let (first_before, first_now) = (before.first()?, now.first()?);
        Some(match self.has_other_partitions(first_before, first_now) {
            Some(false) => {
                let reason = "both have the same number of partitions, so a key stays where it is";
                self.safe(what, reason)
            }
            Some(true) => self.reset(
                what,
                "they have different numbers of partitions, so its keys lie elsewhere now",
            ),
            None => self.reset(
                what,
                "its rows fit only if both have the same number of partitions, which a start on the log looks up",
            ),
        })
    }

    /// Whether a topic of the old plan and one of the new have different numbers of partitions; nothing if that is not
    /// known.
    fn has_other_partitions(&self, before: &str, now: &str) -> Option<bool> {
        Some(partitions(self.old, before)? != partitions(self.new, now)?)
    }

    fn retention(&self) -> Option<Change> {
        let (before, now) = (self.before.retention_ms?, self.now.retention_ms?);
        if before == now {
            return None;
        }
        let what = format!("keeps rows for {now} ms and kept them for {before} ms");
        if now < before {
            return Some(self.safe(what, "older rows go").rolling());
        }
        let changelog = &self.before.changelog;
        Some(match changelog.retention_ms {
            Some(kept) if kept < now => self
                .reset(
                    what,
                    format!(
                        "its changelog '{}' keeps records for {kept} ms, so a restore would miss rows",
                        changelog.topic
                    ),
                )
                .advice(format!(
                    "accept that its rows go and the changelog is made again: `accept_reset(\"{}\")`",
                    self.now.name
                )),
            _ => {
                let reason = "it is rebuilt from its changelog, which keeps as much; windows that were closed may be open again";
                self.safe(what, reason).rolling()
            }
        })
    }

    fn owner_name(&self) -> Option<Change> {
        let before = owner(self.old, &self.before.name)?;
        let now = owner(self.new, &self.now.name)?;
        (before.name != now.name).then(|| {
            let what = format!("belongs to '{}' and did to '{}'", now.name, before.name);
            let reason = "its rows stay; times that an operator observed are kept by its name and start anew";
            self.safe(what, reason)
        })
    }
}

fn partitions(plan: &TopologyPlan, topic: &str) -> Option<i32> {
    let topic = plan.topic(topic)?;
    topic.partitions.or(topic.pinned_partitions)
}

/// The topics whose records write a store. Of a join of streams, those of the store's own side.
fn feed<'a>(plan: &'a TopologyPlan, store: &StorePlan) -> BTreeSet<&'a str> {
    let Some(owner) = owner(plan, &store.name) else {
        return BTreeSet::new();
    };
    let side = owner.stores.iter().position(|name| *name == store.name);
    if owner.role == Role::Operator("stream-stream join".to_owned())
        && let Some(parent) = side.and_then(|side| owner.parents.get(side))
        && store.kind == "join"
    {
        return topics_above(plan, [parent.as_str()]);
    }
    // Processors share stores that they write; of other users only the first writes, and the rest looks up.
    let writes = |node: &&NodePlan| {
        let is_processor = node.role == Role::Operator("process".to_owned());
        node.name == owner.name || (is_processor && node.stores.contains(&store.name))
    };
    let writers = plan.nodes().filter(writes);
    topics_above(plan, writers.map(|node| node.name.as_str()))
}
