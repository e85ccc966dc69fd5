//! The order of sub-topologies from the inputs to the outputs: an end of input passes them in it, and a task waits for
//! what those before it still have to write.
//!
//! A foreign-key join is a circle: the left table's sub-topology writes what the right one's reads, and reads what comes
//! back. Its way back does not count within the circle; what is below a circle comes after all of it.

use super::{NodeKind, Plan, SubTopology, Topic};

/// One sub-topology reads what another writes.
struct Edge {
    writer: usize,
    reader: usize,
    goes_back: bool,
}

/// Gives each sub-topology its distance from the first input, over internal topics and the user's alike.
pub(super) fn assign(plan: &Plan, subtopologies: &mut [SubTopology]) {
    let edges = edges(plan, subtopologies);
    let count = subtopologies.len();
    let reaches = closure(count, edges.iter());
    let goes_on_to = closure(count, edges.iter().filter(|edge| !edge.goes_back));
    let circle = |member: usize| -> Vec<usize> {
        let is_in = |other: &usize| {
            *other == member || (reaches[member][*other] && reaches[*other][member])
        };
        (0..count).filter(is_in).collect()
    };
    let mut ranks = vec![0; count];
    let mut settled = false;
    while !settled {
        settled = true;
        for edge in &edges {
            let Edge { writer, reader, .. } = *edge;
            let before = if !reaches[reader][writer] {
                circle(writer)
            } else if !edge.goes_back && !goes_on_to[reader][writer] {
                vec![writer]
            } else {
                continue;
            };
            let least = before.into_iter().map(|before| ranks[before] + 1).max();
            if least.is_some_and(|least| ranks[reader] < least) {
                ranks[reader] = least.unwrap_or_default();
                settled = false;
            }
        }
    }
    for (subtopology, rank) in subtopologies.iter_mut().zip(ranks) {
        subtopology.rank = rank;
    }
}

fn edges(plan: &Plan, subtopologies: &[SubTopology]) -> Vec<Edge> {
    let mut edges = Vec::new();
    for (writer, subtopology) in subtopologies.iter().enumerate() {
        for node in &subtopology.nodes {
            let NodeKind::Sink(topic) = &plan.nodes[node.0].kind else {
                continue;
            };
            let reads = |reader: &SubTopology| {
                let mut sources = reader.sources.iter();
                sources.any(|&source| plan.sources[source].topic == *topic)
            };
            edges.extend(subtopologies.iter().position(reads).map(|reader| Edge {
                writer,
                reader,
                goes_back: matches!(topic, Topic::Response(_)),
            }));
        }
    }
    edges
}

/// Whether the first leads to the second, by any number of edges.
fn closure<'a>(count: usize, edges: impl Iterator<Item = &'a Edge>) -> Vec<Vec<bool>> {
    let mut reaches = vec![vec![false; count]; count];
    for edge in edges {
        reaches[edge.writer][edge.reader] = true;
    }
    for between in 0..count {
        for from in 0..count {
            if reaches[from][between] {
                let further = reaches[between].clone();
                for (to, reached) in further.into_iter().enumerate() {
                    reaches[from][to] |= reached;
                }
            }
        }
    }
    reaches
}

#[cfg(test)]
mod tests {
    use crate::dsl::{Consumed, Grouped, StreamsBuilder};
    use crate::serde::{int64, utf8};
    use crate::topology::Topology;

    /// The rank of the sub-topology that reads `topic`.
    fn rank(topology: &Topology, topic: &str) -> usize {
        let reads = |source: &usize| {
            let topic_of = &topology.plan.sources[*source].topic;
            topic_of.resolve("app") == topic
        };
        let mut subtopologies = topology.subtopologies.iter();
        let reader = subtopologies.find(|s| s.sources.iter().any(reads));
        reader.expect("somebody reads it").rank
    }

    #[test]
    fn the_right_table_of_a_foreign_key_join_comes_after_the_left_one_and_what_is_below_after_both()
    {
        let builder = StreamsBuilder::new("circle");
        let texts = || Consumed::new(utf8(), utf8());
        let (left, right) = (
            builder.table("left", "left", texts()),
            builder.table("right", "right", texts()),
        );
        let _ = left
            .join_foreign_key(
                "joined",
                &right,
                utf8(),
                |_, v| Some(v.clone()),
                |_, l, _| l,
            )
            .group_by(|_, v| (v.clone(), 1), Grouped::by(utf8()).value(int64()))
            .count("counts")
            .to_stream();
        let topology = builder.build().unwrap();
        assert_eq!(rank(&topology, "left"), 0);
        assert_eq!(rank(&topology, "right"), 1);
        assert_eq!(rank(&topology, "app-counts-repartition"), 2);
    }

    #[test]
    fn tables_that_point_to_each_other_have_one_rank() {
        let builder = StreamsBuilder::new("circle");
        let texts = || Consumed::new(utf8(), utf8());
        let (one, other) = (
            builder.table("one", "one", texts()),
            builder.table("other", "other", texts()),
        );
        one.join_foreign_key("there", &other, utf8(), |_, v| Some(v.clone()), |_, l, _| l);
        other.join_foreign_key("back", &one, utf8(), |_, v| Some(v.clone()), |_, l, _| l);
        let topology = builder.build().unwrap();
        assert_eq!(rank(&topology, "one"), rank(&topology, "other"));
    }
}
