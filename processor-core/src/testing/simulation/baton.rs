//! One thread runs at a time: the right to run is handed over, so that the order of everything follows from a seed.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Who may run: the conductor, or the player of that number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    Conductor,
    Player(usize),
}

/// The right to run.
#[derive(Debug)]
pub(super) struct Baton {
    turn: Mutex<Turn>,
    conductor: Condvar,
    players: Vec<Condvar>,
}

impl Baton {
    pub(super) fn for_players(players: usize) -> Self {
        Self {
            turn: Mutex::new(Turn::Conductor),
            conductor: Condvar::new(),
            players: (0..players).map(|_| Condvar::new()).collect(),
        }
    }

    /// For the conductor: `player` runs until it hands back.
    pub(super) fn let_play(&self, player: usize) {
        let mut turn = self.lock();
        *turn = Turn::Player(player);
        self.players[player].notify_one();
        while *turn != Turn::Conductor {
            turn = self
                .conductor
                .wait(turn)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// For a player that runs: hands back and waits for its next turn.
    pub(super) fn hand_back(&self, player: usize) {
        self.leave();
        self.wait_for_turn(player);
    }

    /// For a player that runs: hands back for good.
    pub(super) fn leave(&self) {
        *self.lock() = Turn::Conductor;
        self.conductor.notify_one();
    }

    /// For a player that starts.
    pub(super) fn wait_for_turn(&self, player: usize) {
        let mut turn = self.lock();
        while *turn != Turn::Player(player) {
            turn = self.players[player]
                .wait(turn)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Turn> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    #[test]
    fn players_run_when_they_are_let_and_in_no_other_order() {
        let baton = Baton::for_players(2);
        let (said, heard) = mpsc::channel();
        thread::scope(|scope| {
            for player in 0..2 {
                let (baton, said) = (&baton, said.clone());
                scope.spawn(move || {
                    baton.wait_for_turn(player);
                    for word in 0..3 {
                        said.send((player, word)).unwrap();
                        if word < 2 {
                            baton.hand_back(player);
                        }
                    }
                    baton.leave();
                });
            }
            for player in [1, 1, 0, 1, 0, 0] {
                baton.let_play(player);
            }
        });
        let order: Vec<_> = heard.try_iter().collect();
        assert_eq!(order, [(1, 0), (1, 1), (0, 0), (1, 2), (0, 1), (0, 2)]);
    }
}
