//! 4,000 seeds: the same ones every time; `cargo xtask simulate` tries others.

use processor_core::mutant::Mutant;
use processor_core::testing::simulation::{Call, Side, Summary};
use simulation::catalogue;
use simulation::mutants::hunt;

fn run(seeds: std::ops::Range<u64>) -> Summary {
    let mut summary = Summary::default();
    for seed in seeds {
        let entry = catalogue::of_seed(seed);
        let of_seed = entry
            .simulation()
            .run_seed(seed)
            .unwrap_or_else(|violation| {
                panic!(
                    "{}: {violation}\nagain: cargo xtask simulate --from {seed} --seeds 1",
                    entry.name
                )
            });
        summary.add(of_seed);
    }
    summary
}

#[test]
fn four_thousand_seeds_give_what_an_undisturbed_run_gives_and_instances_die_at_every_step() {
    let (mut summary, second) = std::thread::scope(|scope| {
        let first = scope.spawn(|| run(0..2_000));
        let second = scope.spawn(|| run(2_000..4_000));
        let joined = |half: std::thread::ScopedJoinHandle<'_, Summary>| {
            half.join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        (joined(first), joined(second))
    });
    summary.add(second);
    assert_eq!(summary.seeds, 4_000);
    for call in Call::ALL {
        for side in [Side::Before, Side::After] {
            let died = summary.crashes.get(&(call, side)).copied().unwrap_or(0);
            assert!(died > 0, "no instance died {side:?} {call:?}");
        }
    }
    assert!(
        summary.restores_broken_off > 100,
        "partitions are hardly taken away while their stores are restored: {}",
        summary.restores_broken_off
    );
    assert_eq!(
        summary.faults.len(),
        17,
        "each kind of fault: {:?}",
        summary.faults
    );
}

#[test]
#[ignore = "takes minutes; `cargo xtask test --full` runs it, and `cargo xtask simulate --mutants` prints the table"]
fn each_deliberate_bug_is_found_within_five_hundred_seeds() {
    let missed: Vec<Mutant> = Mutant::ALL
        .into_iter()
        .filter(|(mutant, what)| hunt(*mutant, what, 1, 500).caught.is_none())
        .map(|(mutant, _)| mutant)
        .collect();
    assert_eq!(missed, []);
}

#[test]
fn a_seed_gives_the_same_run_every_time() {
    for seed in 0..20 {
        let entry = catalogue::of_seed(seed);
        let run = || entry.simulation().run_seed(seed).unwrap();
        assert_eq!(run(), run(), "seed {seed}, {}", entry.name);
    }
}
