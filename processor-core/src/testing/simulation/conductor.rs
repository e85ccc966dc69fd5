//! Who decides what happens next: which process plays, what goes wrong, how time passes, and when all is done.

use std::any::Any;
use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::{Scope, ScopedJoinHandle};
use std::time::Duration;

use crate::clock::{Clock as _, millis};
use crate::config::{Guarantee, StreamsConfig};
use crate::log::{ConsumerConfig, Isolation, Log as _, LogError, TopicPartition};
use crate::runtime::{END_OFFSET_FRESH_MS, StreamsError};
use crate::topology::Topology;

use super::disk::Disk;
use super::draw::{Draw, Purpose};
use super::fault::{Fault, Planned};
use super::pressure::Pressure;
use super::process;
use super::run::{Patience, START_MS, feed};
use super::stores::Left;
use super::world::{Life, Place, Report, World};
use super::{InputRecord, Setup};

/// How far a wall clock is set, in ms.
const JUMPS_MS: [i64; 4] = [1_000, 3_000, 10_000, 3_600_000];
/// Steps within which it is looked at whether transactions are there as a whole.
const AUDIT_STEPS: u64 = 200;
/// A run that takes more steps does not come to an end. Where restores are slow, some take 120,000.
const MOST_STEPS: u64 = 300_000;

/// A process, or the place for one: of each instance, and behind these of its twin.
#[derive(Default)]
struct Slot<'scope> {
    disk: Disk,
    running: Option<ScopedJoinHandle<'scope, Result<(), StreamsError>>>,
    /// When somebody starts it again.
    starts_at_ms: Option<i64>,
    /// Rounds in which it had nothing to do, one after the other.
    idle_rounds: u64,
    /// How many tasks it runs, as of its last round.
    tasks: usize,
}

/// See the [module](self).
pub(super) struct Conductor<'scope, 'env> {
    setup: &'env Setup,
    topology: Topology,
    world: Arc<World>,
    scope: &'scope Scope<'scope, 'env>,
    draw: Draw,
    slots: Vec<Slot<'scope>>,
    /// Turns so far.
    pub step: u64,
    pressure: Pressure,
    patience: Patience,
    pub config: StreamsConfig,
    /// Disks as they were each time that all had left.
    pub left: Vec<Left>,
    /// Step at which held markers are let go.
    markers_until: Option<u64>,
    /// When transactions are looked at: drawn apart, since to look changes nothing.
    audits: Draw,
    next_audit: u64,
}

/// Why a run is a violation.
pub(super) type Violated = String;

impl<'scope, 'env> Conductor<'scope, 'env> {
    pub(super) fn new(
        setup: &'env Setup,
        topology: Topology,
        world: Arc<World>,
        scope: &'scope Scope<'scope, 'env>,
        seed: u64,
        patience: Patience,
    ) -> Self {
        let mut draw = Draw::of_seed_for(seed, Purpose::Course);
        let slots = (0..2 * setup.instances).map(|_| Slot::default()).collect();
        let mut config = setup.config.clone();
        config.transaction_timeout = patience.transaction;
        let pressure = Pressure::of_run(&mut draw);
        pressure.set(&mut config, setup.instances);
        Self {
            setup,
            topology,
            world,
            scope,
            slots,
            step: 0,
            patience,
            pressure,
            config,
            left: Vec::new(),
            markers_until: None,
            audits: Draw::of_seed_for(seed, Purpose::Audits),
            next_audit: 0,
            draw,
        }
    }

    fn now_ms(&self) -> i64 {
        self.world.clock.now_ms()
    }

    /// Runs `inputs` in two parts while `faults` come to pass.
    ///
    /// # Errors
    /// When it does not come to an end, or an instance stops without need.
    pub(super) fn conduct(
        &mut self,
        inputs: &[InputRecord],
        faults: &[Planned],
    ) -> Result<(), Violated> {
        let (first, second) = inputs.split_at(inputs.len() / 2);
        let middle = faults.len() / 2;
        for instance in 0..self.setup.instances {
            self.start_later(instance);
        }
        self.run_until_settled(first, &faults[..middle])?;
        self.change_over()?;
        self.run_until_settled(second, &faults[middle..])
    }

    fn feed(&self, inputs: &[InputRecord]) -> Result<(), Violated> {
        feed(&self.world.log, inputs)
            .map_err(|error| format!("the input cannot be written: {error}"))
    }

    /// Cuts input into pieces, with the steps at which they come. Records of one time stay together, since whoever reads
    /// them could not know that there are more.
    fn pieces<'a>(&mut self, inputs: &'a [InputRecord]) -> VecDeque<(u64, &'a [InputRecord])> {
        let mut pieces = VecDeque::new();
        let (mut rest, mut step) = (inputs, 0);
        while !rest.is_empty() {
            let least = 1 + self.draw.index(rest.len());
            let last = rest[least - 1].timestamp;
            let more = rest[least..]
                .iter()
                .take_while(|record| record.timestamp == last);
            let (piece, later) = rest.split_at(least + more.count());
            pieces.push_back((step, piece));
            step += self.draw.below(300);
            rest = later;
        }
        pieces
    }

    /// Stops all, takes some disks away, and has all start again.
    fn change_over(&mut self) -> Result<(), Violated> {
        self.dismiss()?;
        for instance in 0..self.setup.instances {
            if self.draw.one_in(2) {
                self.slots[instance].disk.wipe();
            }
            self.start_later(instance);
        }
        Ok(())
    }

    /// Ends whoever runs, in good order.
    ///
    /// # Errors
    /// The first violation, when all have ended.
    pub(super) fn dismiss(&mut self) -> Result<(), Violated> {
        let mut ended = Ok(());
        for slot in 0..self.slots.len() {
            self.world.state().lives[slot].leaving = true;
        }
        let limit = self.step + MOST_STEPS;
        while let Some(slot) = self.first_running() {
            self.world.state().lives[slot].wakes_at_ms = i64::MIN;
            self.world.clock.jump(1);
            let one = match self.step > limit {
                true => self
                    .kill(slot)
                    .and(Err("an instance that is to leave does not end".to_owned())),
                false => self.play(slot),
            };
            ended = ended.and(one);
        }
        self.keep_disks();
        ended
    }

    /// Notes what is on the disks, to be compared with what changelogs say in the end: they have to be good for whoever
    /// comes then as for whoever comes now.
    fn keep_disks(&mut self) {
        for (slot, of_slot) in self.slots.iter().enumerate() {
            let contents = of_slot.disk.contents();
            if !contents.is_empty() {
                self.left.push(Left {
                    instance: slot % self.setup.instances,
                    step: self.step,
                    contents,
                });
            }
        }
    }

    fn run_until_settled(
        &mut self,
        inputs: &[InputRecord],
        faults: &[Planned],
    ) -> Result<(), Violated> {
        let begin = self.step;
        let mut pieces = self.pieces(inputs);
        let mut faults = faults.iter().peekable();
        loop {
            if self.step - begin > MOST_STEPS {
                return Err(format!("nothing is settled after {MOST_STEPS} steps"));
            }
            while let Some(planned) = faults.next_if(|planned| planned.step <= self.step - begin) {
                self.befall(planned)?;
            }
            while let Some((_, piece)) = pieces.pop_front_if(|(step, _)| *step <= self.step - begin)
            {
                // What was read of one input before this is processed without waiting for it.
                self.world.clock.jump(END_OFFSET_FRESH_MS);
                self.feed(piece)?;
                self.something_happens();
            }
            self.let_arrive();
            if self.step >= self.next_audit {
                self.next_audit = self.step + 1 + self.audits.below(AUDIT_STEPS);
                self.audit()?;
            }
            self.start_due();
            let calm = faults.peek().is_none() && pieces.is_empty();
            self.pass_time();
            if calm && self.settled()? {
                return Ok(());
            }
            let awake: Vec<usize> = self.awake().collect();
            if awake.is_empty() {
                self.step += 1;
                self.world.clock.jump(10);
                continue;
            }
            let slot = *self.draw.of_these(&awake);
            self.play(slot)?;
        }
    }

    /// Time goes on by itself: slowly where there is work, or no transaction would end in time, and fast where there is
    /// nothing but time to wait for.
    fn pass_time(&mut self) {
        let idle = self.awake().all(|slot| self.slots[slot].idle_rounds > 0);
        let by_ms = match (idle, self.draw.below(200)) {
            (true, _) => 250,
            (false, 0) => self.draw.below(500),
            (false, 1..=30) => self.draw.below(5),
            _ => 0,
        };
        self.world.clock.jump(i64::try_from(by_ms).unwrap_or(0));
    }

    /// Whether transactions are there as a whole or not at all.
    pub(super) fn audit(&self) -> Result<(), Violated> {
        let audit = self.world.log.audit(&self.config.application_id);
        match (self.config.guarantee, audit) {
            (Guarantee::ExactlyOnce, Some(audit)) => self.world.state().ledger.check(&audit),
            _ => Ok(()),
        }
    }

    fn running(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.slots.len()).filter(|&slot| self.slots[slot].running.is_some())
    }

    fn first_running(&self) -> Option<usize> {
        self.running().next()
    }

    /// Who runs and does not sleep.
    fn awake(&self) -> impl Iterator<Item = usize> + '_ {
        let now = self.now_ms();
        self.running()
            .filter(move |&slot| self.world.state().lives[slot].wakes_at_ms <= now)
    }

    /// Has one process go on until its next pause.
    fn play(&mut self, slot: usize) -> Result<(), Violated> {
        self.step += 1;
        self.world.baton.let_play(slot);
        let report = self.world.state().lives[slot].report.take();
        if let Some(Report { quiescent, tasks }) = report {
            self.slots[slot].tasks = tasks;
            match quiescent {
                true => self.slots[slot].idle_rounds += 1,
                false => self.something_happens(),
            }
        }
        if self.world.state().lives[slot].ended {
            self.bury(slot)?;
        }
        Ok(())
    }

    /// A process has ended: was it right to?
    fn bury(&mut self, slot: usize) -> Result<(), Violated> {
        let Some(thread) = self.slots[slot].running.take() else {
            return Ok(());
        };
        self.something_happens();
        let (dead, works, leaving) = {
            let life = &self.world.state().lives[slot];
            (life.dead, life.works, life.leaving)
        };
        let result = thread.join();
        let how = match &result {
            Ok(Ok(())) => "left".to_owned(),
            Ok(Err(_)) if dead => "died".to_owned(),
            Ok(Err(error)) => format!("stopped: {error}"),
            Err(_) => "panicked".to_owned(),
        };
        self.tell(format!("instance {slot} {how}"));
        if self.slots[self.twin_of(slot)].running.is_none() {
            self.start_later(self.instance_of(slot));
        }
        match result {
            Err(panic) => Err(format!("an instance panicked: {}", message(&*panic))),
            Ok(Err(error)) if !dead && !process::may_stop(&error, works, leaving) => {
                Err(format!("an instance stopped without need: {error}"))
            }
            _ => Ok(()),
        }
    }

    fn instance_of(&self, slot: usize) -> usize {
        slot % self.setup.instances
    }

    /// The other slot of the same instance.
    fn twin_of(&self, slot: usize) -> usize {
        (slot + self.setup.instances) % self.slots.len()
    }

    /// What it had nothing to do with before says nothing of what it finds when it wakes.
    fn put_to_sleep(&mut self, slot: usize, wakes_at_ms: i64) {
        self.slots[slot].idle_rounds = 0;
        self.world.state().lives[slot].wakes_at_ms = wakes_at_ms;
    }

    /// Whoever had nothing to do may have something to do again.
    fn something_happens(&mut self) {
        self.slots.iter_mut().for_each(|slot| slot.idle_rounds = 0);
    }

    fn tell(&self, what: String) {
        let at = self.now_ms() - START_MS;
        self.world
            .state()
            .tell(format!("{at:>9} ms, step {:>5}: {what}", self.step));
    }

    fn start_later(&mut self, instance: usize) {
        let after_ms = i64::try_from(self.draw.below(2_000)).unwrap_or(0);
        let at = self.now_ms() + after_ms;
        self.slots[instance].starts_at_ms.get_or_insert(at);
    }

    fn start_due(&mut self) {
        let now = self.now_ms();
        for slot in 0..self.slots.len() {
            if self.slots[slot].starts_at_ms.is_some_and(|at| at <= now) {
                self.slots[slot].starts_at_ms = None;
                if self.slots[slot].running.is_none() {
                    self.start(slot);
                }
            }
        }
    }

    fn start(&mut self, slot: usize) {
        self.tell(format!("instance {slot} starts"));
        let mut life = Life::new(self.draw.fork(), self.pressure);
        // What did not strike in the last life may do so in this one: some calls are made at the start only.
        life.armed = std::mem::take(&mut self.world.state().lives[slot].armed);
        self.world.state().lives[slot] = life;
        let place = Place {
            world: Arc::clone(&self.world),
            player: slot,
        };
        let mut config = self.config.clone();
        config.instance = Some(format!("instance-{}", self.instance_of(slot)));
        let (topology, disk) = (self.topology.clone(), self.slots[slot].disk.clone());
        self.something_happens();
        let live = move || process::run(&place, topology, config, disk);
        self.slots[slot].running = Some(self.scope.spawn(live));
    }

    /// The process dies where it stands.
    fn kill(&mut self, slot: usize) -> Result<(), Violated> {
        self.world.state().lives[slot].dead = true;
        while self.slots[slot].running.is_some() {
            self.play(slot)?;
        }
        Ok(())
    }

    /// The slot of a process of `instance`, or of the next one that has any.
    fn victim(&self, instance: usize) -> Option<usize> {
        let count = self.slots.len();
        (instance..instance + count)
            .map(|slot| slot % count)
            .find(|&slot| self.slots[slot].running.is_some())
    }

    /// A fault comes to pass, now or at the call that it waits for.
    fn befall(&mut self, planned: &Planned) -> Result<(), Violated> {
        let fault = planned.fault;
        if fault.waits_for_call() {
            // Counted when it strikes, be it in the next life of who is dead.
            self.world.state().lives[planned.instance].armed.push(fault);
            return Ok(());
        }
        let Some(slot) = self.victim(planned.instance) else {
            return Ok(());
        };
        let now = self.now_ms();
        let until = |time: Duration| now + millis(time);
        match fault {
            Fault::PowerLoss => {
                self.kill(slot)?;
                self.slots[slot].disk.lose_power(&mut self.draw);
            }
            Fault::WriteTorn => {
                self.kill(slot)?;
                if !self.slots[slot].disk.tear_write(&mut self.draw) {
                    return Ok(());
                }
            }
            Fault::StateLost => {
                self.kill(slot)?;
                self.slots[slot].disk.wipe();
            }
            Fault::MarkerTorn => {
                self.kill(slot)?;
                if !self.slots[slot].disk.tear_marker(&mut self.draw) {
                    return Ok(());
                }
            }
            Fault::Zombie => {
                let wakes = until(
                    self.patience.session + Duration::from_millis(500 + self.draw.below(4_000)),
                );
                self.put_to_sleep(slot, wakes);
            }
            Fault::TransactionTimeout => {
                let wakes = until(
                    self.patience.transaction + Duration::from_millis(100 + self.draw.below(1_000)),
                );
                self.put_to_sleep(slot, wakes);
            }
            Fault::Leave => self.world.state().lives[slot].leaving = true,
            Fault::Twin => {
                let twin = self.twin_of(slot);
                if self.slots[twin].running.is_some() {
                    return Ok(());
                }
                // Two processes do not share a directory, so it comes from another machine.
                self.slots[twin].disk.wipe();
                self.start(twin);
            }
            Fault::MarkersLate => {
                let draw = &mut self.draw;
                let offsets = draw.one_in(2);
                self.world
                    .log
                    .hold_markers(offsets, &mut |_| draw.one_in(2));
                self.markers_until = Some(self.step + 20 + self.draw.below(1_000));
            }
            Fault::ClockForward | Fault::ClockBack => {
                let by_ms = *self.draw.of_these(&JUMPS_MS);
                let forward = fault == Fault::ClockForward;
                self.jump(if forward { by_ms } else { -by_ms });
            }
            _ => debug_assert!(fault.waits_for_call()),
        }
        self.tell(format!("instance {slot}: {fault}"));
        self.world.state().count(fault);
        Ok(())
    }

    /// The wall clock is set; whoever sleeps does so as long as before.
    fn jump(&mut self, by_ms: i64) {
        self.world.clock.jump(by_ms);
        for slot in &mut self.slots {
            slot.starts_at_ms = slot.starts_at_ms.map(|at| at + by_ms);
        }
        for life in &mut self.world.state().lives {
            life.wakes_at_ms = life.wakes_at_ms.saturating_add(by_ms);
        }
    }

    /// What is on its way arrives some time.
    fn let_arrive(&mut self) {
        if self.markers_until.is_some_and(|until| until <= self.step) {
            self.markers_until = None;
            self.world.log.hold_markers(false, &mut |_| false);
        }
        let on_their_way = self.world.state().on_their_way.len();
        if on_their_way > 0 && self.draw.one_in(self.pressure.arrives_one_in) {
            let at = self.draw.index(on_their_way);
            let request = self.world.state().on_their_way.remove(at);
            self.tell(format!("arrives late: {request}"));
            self.world.log.deliver(&request);
        }
    }

    /// Nothing is under way, all run and have nothing to do, and all input is committed.
    fn settled(&mut self) -> Result<bool, Violated> {
        let all_idle = self.running().all(|slot| self.slots[slot].idle_rounds >= 2);
        let someone_missing = self.first_running().is_none()
            || self.slots.iter().any(|slot| slot.starts_at_ms.is_some());
        if !all_idle
            || someone_missing
            || self.markers_until.is_some()
            || !self.world.state().on_their_way.is_empty()
        {
            return Ok(false);
        }
        // What is larger than a record goes on when its offsets are committed, once somebody runs its task.
        let running: usize = self.running().map(|slot| self.slots[slot].tasks).sum();
        if running < self.task_count()? {
            return Ok(false);
        }
        self.all_input_committed()
            .map_err(|error| format!("the log does not say what is committed: {error}"))
    }

    fn task_count(&self) -> Result<usize, Violated> {
        let mut count = 0;
        for subtopology in &self.topology.subtopologies {
            let mut most = 0;
            for &source in &subtopology.sources {
                let topic = &self.topology.plan.sources[source].topic;
                let topic = topic.resolve(&self.config.application_id);
                let partitions = self.world.log.partitions(&topic);
                most = most.max(partitions.map_err(|error| error.to_string())?.unwrap_or(0));
            }
            count += usize::try_from(most).unwrap_or(0);
        }
        Ok(count)
    }

    fn all_input_committed(&self) -> Result<bool, LogError> {
        let log = &self.world.log;
        let application = &self.config.application_id;
        let consumer = log.consumer(ConsumerConfig {
            group: Some(application.clone()),
            ..ConsumerConfig::default()
        })?;
        for source in &self.topology.plan.sources {
            let topic = source.topic.resolve(application);
            for partition in 0..log.partitions(&topic)?.unwrap_or(0) {
                let partition = TopicPartition::new(topic.as_str(), partition);
                let end =
                    consumer.end_offset(&partition, Isolation::ReadCommitted, Duration::ZERO)?;
                let physical =
                    consumer.end_offset(&partition, Isolation::ReadUncommitted, Duration::ZERO)?;
                let committed = consumer.committed(&[partition], Duration::ZERO);
                let Ok(committed) = committed else {
                    return Ok(false);
                };
                let offset = committed
                    .into_iter()
                    .flatten()
                    .next()
                    .map_or(0, |c| c.offset);
                if offset < end || end < physical {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::super::Simulation;
    use super::super::process::Ends;
    use super::super::run::{PATIENCE, log};
    use super::super::world::WallClock;
    use super::*;
    use crate::dsl::{Consumed, StreamsBuilder};
    use crate::serde::{int64, utf8};

    /// Otherwise the others wait for a turn for ever, and so does whoever runs the simulation.
    #[test]
    fn all_are_sent_home_though_each_fails_on_its_way() {
        let simulation = Simulation::of(|| {
            let builder = StreamsBuilder::new("through");
            let words = builder.stream("words", Consumed::new(utf8(), int64()));
            words.to("out");
            builder.build().expect("it is a topology")
        });
        let setup = &simulation.setup;
        let clock = WallClock::at(START_MS);
        let world = World::new(2 * setup.instances, log(&clock, PATIENCE[0]), clock, None);
        let world = Arc::new(world);
        thread::scope(|scope| {
            let topology = (setup.topology)();
            let of_world = Arc::clone(&world);
            let mut conductor = Conductor::new(setup, topology, of_world, scope, 1, PATIENCE[0]);
            for player in 0..setup.instances {
                let place = Place {
                    world: Arc::clone(&world),
                    player,
                };
                let fails = move || {
                    place.world.baton.wait_for_turn(player);
                    let _ends = Ends(place);
                    let error = LogError::fatal(format!("{player} cannot leave"));
                    Err(StreamsError::from(error))
                };
                conductor.slots[player].running = Some(scope.spawn(fails));
            }
            let violated = conductor.dismiss().expect_err("all fail");
            let left = conductor.running().count();
            while conductor.first_running().is_some() {
                let _ = conductor.dismiss();
            }
            assert_eq!(left, 0, "after '{violated}'");
            assert!(violated.contains("0 cannot leave"), "{violated}");
        });
    }
}
