//! Topics: what is committed, and what is under way.

use std::collections::BTreeSet;

use super::super::{Role, TopicPlan, TopologyPlan};
use super::{Change, Subject, Verdict};

/// What happens to each topic that tasks read or write.
pub(super) fn changes(old: &TopologyPlan, new: &TopologyPlan) -> Vec<Change> {
    let names: BTreeSet<&str> = [old, new]
        .iter()
        .flat_map(|plan| &plan.topics)
        .map(|topic| topic.name.as_str())
        .collect();
    let changed = names
        .into_iter()
        .filter_map(|name| match (old.topic(name), new.topic(name)) {
            (Some(before), Some(now)) if now.internal => internal(before, now),
            (Some(before), Some(now)) => users(before, now),
            (Some(before), None) if before.internal => Some(internal_gone(old, new, name)),
            (None, Some(now)) if now.internal => Some(Change::new(
                subject(name),
                "is new",
                "it is made at the start; older instances do not read it",
            )),
            (before, now) => users(
                &before.cloned().unwrap_or_else(unused),
                &now.cloned().unwrap_or_else(unused),
            ),
        });
    changed.collect()
}

fn subject(name: &str) -> Subject {
    Subject::Topic(name.to_owned())
}

/// What stands for a topic that a plan does not have.
fn unused() -> TopicPlan {
    TopicPlan {
        name: String::new(),
        internal: false,
        read: false,
        written: false,
        partitioned_by: String::new(),
        pinned_partitions: None,
        partitions: None,
        format: Default::default(),
    }
}

/// An internal topic of both plans.
fn internal(before: &TopicPlan, now: &TopicPlan) -> Option<Change> {
    let had = before.partitions.or(before.pinned_partitions);
    let has = now.partitions.or(now.pinned_partitions);
    let rename = "give the operator that makes it another name, which makes a new topic; its stores then start empty";
    if let (Some(had), Some(has)) = (had, has)
        && had != has
    {
        let what = format!("is to have {has} partitions and has {had}");
        let reason = "its records and the rows below it lie by the old number";
        return Some(
            Change::new(subject(&now.name), what, reason)
                .verdict(Verdict::Forbidden)
                .advice(format!("leave the number at {had}; or {rename}")),
        );
    }
    if let (None, Some(pinned)) = (had, now.pinned_partitions) {
        let what = format!("is to have {pinned} partitions, and took what its writers had");
        let reason =
            "if that was another number, its records and the rows below it lie by that one";
        return Some(
            Change::new(subject(&now.name), what, reason)
                .verdict(Verdict::Forbidden)
                .advice(format!(
                    "ask for the number that it has, which a start on the log looks up; or {rename}"
                )),
        );
    }
    let parts = [
        ("keys", &before.format.key, &now.format.key),
        ("values", &before.format.value, &now.format.value),
    ];
    parts.into_iter().find_map(|(part, before, after)| {
        let (before, after) = (before.as_ref()?, after.as_ref()?);
        (before != after).then(|| {
            let what = format!("carries {part} in the format {after} and did in {before}");
            let reason = "the records under way in it cannot be decoded";
            drain(&now.name, what, reason)
        })
    })
}

fn drain(name: &str, what: String, reason: &str) -> Change {
    Change::new(subject(name), what, reason)
        .verdict(Verdict::Drain)
        .advice(
            "let the old version run without input until it has read this topic to its end, then stop it; a start on the \
             log looks whether that is so",
        )
}

/// An internal topic that the new plan does not have.
fn internal_gone(old: &TopologyPlan, new: &TopologyPlan, name: &str) -> Change {
    match below(old, name).find(|wanted| new.store(wanted).is_some() || is_written(new, wanted)) {
        Some(wanted) => {
            let what = format!("is gone, and '{wanted}' behind it is not");
            drain(
                name,
                what,
                "the records under way in it would never arrive there",
            )
        }
        None => Change::new(
            subject(name),
            "is gone",
            "so is all that is made of its records; what is under way in it is dropped",
        )
        .advice("delete it when there is no way back"),
    }
}

fn is_written(plan: &TopologyPlan, topic: &str) -> bool {
    plan.topic(topic).is_some_and(|topic| topic.written)
}

/// Stores and topics that are written behind `topic` by plain calls.
fn below<'a>(plan: &'a TopologyPlan, topic: &str) -> impl Iterator<Item = &'a str> + use<'a> {
    let reads = |role: &Role| matches!(role, Role::Source(read) if read == topic);
    let mut reached: BTreeSet<&str> = plan
        .nodes()
        .filter(|node| reads(&node.role))
        .map(|node| node.name.as_str())
        .collect();
    let mut found = Vec::new();
    // Nodes come after their parents.
    for node in plan.nodes() {
        if node
            .parents
            .iter()
            .any(|parent| reached.contains(parent.as_str()))
        {
            reached.insert(&node.name);
            if let Role::Sink(written) = &node.role {
                found.push(written.as_str());
            }
            let owns = |store: &&String| {
                super::stores::owner(plan, store).is_some_and(|owner| owner.name == node.name)
            };
            found.extend(node.stores.iter().filter(owns).map(String::as_str));
        }
    }
    found.into_iter()
}

/// A topic of the user.
fn users(before: &TopicPlan, now: &TopicPlan) -> Option<Change> {
    let name = if now.name.is_empty() {
        &before.name
    } else {
        &now.name
    };
    let change = |what: &str, reason: &str| Change::new(subject(name), what, reason);
    Some(match (before.read, now.read) {
        (false, true) => change(
            "is a new input",
            "it is read from where its reset policy says, unless the group has offsets of it",
        ),
        (true, false) => change(
            "is no input any more",
            "what is unread of it stays unread; its committed offsets expire in time",
        ),
        (true, true) => {
            let (had, has) = (before.partitions?, now.partitions?);
            if has < had {
                change(
                    &format!("has {has} partitions and had {had}"),
                    "topics do not shrink, so it was made anew, and committed offsets mean nothing in it",
                )
                .verdict(Verdict::Forbidden)
                .advice("use a new application id, or delete the group's offsets of it")
            } else if has > had {
                change(
                    &format!("has {has} partitions and had {had}"),
                    "new partitions are read from where its reset policy says",
                )
                .rolling()
            } else {
                return None;
            }
        }
        (false, false) => match (before.written, now.written) {
            (false, true) => change("is a new output", "nothing is kept for it").rolling(),
            (true, false) => change("is no output any more", "nothing is kept for it").rolling(),
            _ => return None,
        },
    })
}
