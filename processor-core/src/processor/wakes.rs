//! The nodes that a task calls besides records, and which of its inputs lie above each.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use crate::log::Timestamp;
use crate::topology::NodeId;

use super::Wake;

/// A node that is called besides records.
pub(crate) struct Woken {
    pub node: Rc<RefCell<dyn Wake>>,
    /// The inputs of the task that lie above it, by number.
    pub inputs: Vec<usize>,
    /// What it was told last: that all of them are idle, and how far time has come with that.
    pub idle: Option<Timestamp>,
}

/// Collects them while a task is made, input by input.
#[derive(Default)]
pub(crate) struct Wakes {
    all: Vec<Woken>,
    /// The input whose nodes are being made.
    input: usize,
    /// Nodes below the one that is being made.
    below: Vec<usize>,
    below_shared: HashMap<NodeId, Vec<usize>>,
}

impl Wakes {
    /// The nodes of `input` follow.
    pub(crate) fn begin_input(&mut self, input: usize) {
        self.input = input;
        self.below.clear();
    }

    /// Adds a node; those below it were added before.
    pub(crate) fn push(&mut self, node: Rc<RefCell<dyn Wake>>) {
        self.below.push(self.all.len());
        self.all.push(Woken {
            node,
            inputs: vec![self.input],
            idle: None,
        });
    }

    /// A node with several parents is about to be made; goes with [`end_shared`](Self::end_shared).
    pub(crate) fn begin_shared(&mut self) -> Vec<usize> {
        std::mem::take(&mut self.below)
    }

    /// It was made.
    pub(crate) fn end_shared(&mut self, id: NodeId, before: Vec<usize>) {
        let made = std::mem::replace(&mut self.below, before);
        self.below.extend(&made);
        self.below_shared.insert(id, made);
    }

    /// A node that was made before is reached from another parent, and perhaps from another input.
    pub(crate) fn reach_shared(&mut self, id: NodeId) {
        let below = self.below_shared.get(&id).map_or(&[][..], Vec::as_slice);
        for &woken in below {
            let inputs = &mut self.all[woken].inputs;
            if !inputs.contains(&self.input) {
                inputs.push(self.input);
            }
        }
        self.below.extend(below);
    }

    /// All of them, parents first: in the order in which records pass them.
    pub(crate) fn parents_first(mut self) -> Vec<Woken> {
        self.all.reverse();
        self.all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Node;
    impl Wake for Node {}

    fn node() -> Rc<RefCell<dyn Wake>> {
        Rc::new(RefCell::new(Node))
    }

    #[test]
    fn a_node_below_a_shared_one_is_below_every_input_that_reaches_it() {
        let (outer, inner) = (NodeId(1), NodeId(2));
        let mut wakes = Wakes::default();
        wakes.begin_input(0);
        let before = wakes.begin_shared();
        let nested = wakes.begin_shared();
        wakes.push(node());
        wakes.end_shared(inner, nested);
        wakes.push(node());
        wakes.end_shared(outer, before);
        wakes.push(node());
        wakes.begin_input(1);
        wakes.reach_shared(inner);
        wakes.push(node());
        wakes.begin_input(2);
        wakes.reach_shared(outer);
        let inputs: Vec<Vec<usize>> = wakes
            .parents_first()
            .into_iter()
            .map(|woken| woken.inputs)
            .collect();
        assert_eq!(inputs, [vec![1], vec![0], vec![0, 2], vec![0, 1, 2]]);
    }
}
