//! What may go wrong in a simulation.

use std::fmt;

use crate::config::Guarantee;

use super::draw::Draw;

/// A call of a client that a fault may strike at. It is also where a crash may happen: before the call or after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Call {
    /// `Log`: topics are asked for or made.
    Topics,
    /// `Consumer::subscribe`.
    Subscribe,
    /// `Consumer::poll`.
    Poll,
    /// `Consumer::poll` of a reader outside any group: a changelog is restored.
    Restore,
    /// `Consumer::assign`, `seek`, `pause`, `resume`.
    Assign,
    /// `Consumer::release`.
    Release,
    /// `Consumer::committed`.
    Committed,
    /// `Consumer::beginning_offset`, `end_offset`.
    Ends,
    /// `Consumer::commit`, outside a transaction.
    CommitOffsets,
    /// `Consumer::group_metadata`.
    GroupMetadata,
    /// `Producer::init_transactions`.
    Init,
    /// `Producer::begin_transaction`.
    Begin,
    /// `Producer::send`.
    Send,
    /// `Producer::flush`.
    Flush,
    /// `Producer::begin_commit`.
    BeginCommit,
    /// `Producer::poll_commit` while the commit is in flight.
    AwaitCommit,
    /// `Producer::poll_commit` when the commit is answered.
    PollCommit,
    /// `Producer::abort_transaction`.
    Abort,
    /// `Tree::apply` and its like: a chunk of settled changes goes to the store.
    StoreWrite,
    /// `Tree::apply` of the marker.
    MarkerWrite,
    /// `Database::sync`.
    StoreSync,
}

impl Call {
    /// All calls.
    pub const ALL: [Self; 21] = [
        Self::Topics,
        Self::Subscribe,
        Self::Poll,
        Self::Restore,
        Self::Assign,
        Self::Release,
        Self::Committed,
        Self::Ends,
        Self::CommitOffsets,
        Self::GroupMetadata,
        Self::Init,
        Self::Begin,
        Self::Send,
        Self::Flush,
        Self::BeginCommit,
        Self::AwaitCommit,
        Self::PollCommit,
        Self::Abort,
        Self::StoreWrite,
        Self::MarkerWrite,
        Self::StoreSync,
    ];

    /// Whether an application of this guarantee ever makes it.
    fn is_made_with(self, guarantee: Guarantee) -> bool {
        match self {
            Self::Init | Self::Begin | Self::Abort => guarantee == Guarantee::ExactlyOnce,
            Self::Flush | Self::CommitOffsets => guarantee == Guarantee::AtLeastOnce,
            _ => true,
        }
    }

    /// The steps of a commit, a restore and a change of owner: where a crash is most telling.
    const TELLING: [Self; 17] = [
        Self::Restore,
        Self::Assign,
        Self::Release,
        Self::Committed,
        Self::Ends,
        Self::GroupMetadata,
        Self::Init,
        Self::Begin,
        Self::BeginCommit,
        Self::AwaitCommit,
        Self::PollCommit,
        Self::Abort,
        Self::StoreWrite,
        Self::MarkerWrite,
        Self::StoreSync,
        Self::Flush,
        Self::CommitOffsets,
    ];
}

/// On which side of a call something happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// The call has had no effect.
    Before,
    /// It has had its effect, and nobody knows.
    After,
}

/// What becomes of a commit or abort whose answer does not come in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fate {
    /// The request is lost.
    Lost,
    /// It was carried out; the answer is lost.
    Done,
    /// It is carried out later, whatever transaction of that producer is open then.
    Late,
    /// It was carried out, and is carried out again later.
    Twice,
}

/// What may go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// The instance's process dies at the next call of that kind; what it gave to its stores is there.
    Crash(Call, Side),
    /// The machine dies: what was not synced may be lost from some point on, in the middle of a commit's changes too.
    PowerLoss,
    /// The machine dies in the middle of a write to a store: of its rows some are there, of what came later nothing is.
    WriteTorn,
    /// The process dies and its state directory is gone.
    StateLost,
    /// The process dies and a bit of a marker is wrong.
    MarkerTorn,
    /// The instance stands still for longer than its session lasts, with whatever it was doing.
    Zombie,
    /// The instance stands still for longer than a transaction may, and for less than its session lasts.
    TransactionTimeout,
    /// The instance leaves in good order and comes back: two rebalances.
    Leave,
    /// A second process is started under the name of a living one, and fences it.
    Twin,
    /// The next call of that kind fails and may be made again.
    Retriable(Call),
    /// The transaction is broken at the next call of that kind.
    Abortable(Call),
    /// The client is broken for good at the next call of that kind.
    Fatal(Call),
    /// A commit is answered after so many polls.
    SlowCommit(u8),
    /// The answer to a commit does not come in time.
    CommitUncertain(Fate),
    /// The answer to an abort does not come in time.
    AbortUncertain(Fate),
    /// Markers of decided transactions do not reach some partitions for a while.
    MarkersLate,
    /// The wall clock jumps forward, for everybody.
    ClockForward,
    /// The wall clock jumps back.
    ClockBack,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl Fault {
    /// The kind of this fault, for counting.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Crash(..) => "crash",
            Self::PowerLoss => "power loss",
            Self::WriteTorn => "store write torn",
            Self::StateLost => "state directory lost",
            Self::MarkerTorn => "marker torn",
            Self::Zombie => "zombie",
            Self::TransactionTimeout => "transaction timeout",
            Self::Leave => "rebalance",
            Self::Twin => "fencing",
            Self::Retriable(_) => "retriable error",
            Self::Abortable(_) => "abortable error",
            Self::Fatal(_) => "fatal error",
            Self::SlowCommit(_) => "slow commit",
            Self::CommitUncertain(_) => "uncertain commit",
            Self::AbortUncertain(_) => "uncertain abort",
            Self::MarkersLate => "late markers",
            Self::ClockForward | Self::ClockBack => "clock jump",
        }
    }

    /// Whether it strikes at a call of its instance, instead of at its step.
    pub(super) fn waits_for_call(&self) -> bool {
        matches!(
            self,
            Self::Crash(..)
                | Self::Retriable(_)
                | Self::Abortable(_)
                | Self::Fatal(_)
                | Self::SlowCommit(_)
                | Self::CommitUncertain(_)
                | Self::AbortUncertain(_)
        )
    }

    /// Whether it can befall an application of this guarantee.
    fn can_befall(&self, guarantee: Guarantee) -> bool {
        match self {
            Self::Crash(call, _)
            | Self::Retriable(call)
            | Self::Abortable(call)
            | Self::Fatal(call) => call.is_made_with(guarantee),
            Self::TransactionTimeout | Self::AbortUncertain(_) | Self::MarkersLate => {
                guarantee == Guarantee::ExactlyOnce
            }
            _ => true,
        }
    }
}

/// Which faults a simulation draws from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faults {
    choices: Vec<fn(&mut Draw) -> Fault>,
    most: u64,
}

impl Faults {
    /// None.
    #[must_use]
    pub fn none() -> Self {
        Self {
            choices: Vec::new(),
            most: 0,
        }
    }

    /// All kinds, up to eight in a run.
    #[must_use]
    pub fn all() -> Self {
        Self {
            choices: vec![
                crash,
                crash,
                crash,
                |_| Fault::PowerLoss,
                |_| Fault::PowerLoss,
                |_| Fault::WriteTorn,
                |_| Fault::StateLost,
                |_| Fault::MarkerTorn,
                |_| Fault::Zombie,
                |_| Fault::Zombie,
                |_| Fault::TransactionTimeout,
                |_| Fault::Leave,
                |_| Fault::Leave,
                |_| Fault::Twin,
                |draw| Fault::Retriable(*draw.of_these(&RETRIABLE)),
                |draw| Fault::Abortable(*draw.of_these(&ABORTABLE)),
                |draw| Fault::Abortable(*draw.of_these(&ABORTABLE)),
                |draw| Fault::Fatal(*draw.of_these(&Call::TELLING[..12])),
                |draw| Fault::SlowCommit(u8::try_from(1 + draw.below(40)).unwrap_or(1)),
                |draw| Fault::CommitUncertain(*draw.of_these(&FATES)),
                |draw| Fault::CommitUncertain(*draw.of_these(&FATES)),
                |draw| Fault::AbortUncertain(*draw.of_these(&FATES)),
                |_| Fault::MarkersLate,
                |_| Fault::MarkersLate,
                |_| Fault::ClockForward,
                |_| Fault::ClockBack,
            ],
            most: 8,
        }
    }

    /// Crashes only, at any step.
    #[must_use]
    pub fn crashes() -> Self {
        Self {
            choices: vec![crash, |_| Fault::PowerLoss, |_| Fault::WriteTorn],
            most: 8,
        }
    }

    /// The same kinds, at most so many in a run.
    #[must_use]
    pub fn at_most(mut self, faults: u64) -> Self {
        self.most = faults;
        self
    }

    /// Draws the faults of a run of about `steps` steps, in order of their step.
    pub(super) fn draw(
        &self,
        draw: &mut Draw,
        guarantee: Guarantee,
        instances: usize,
        steps: u64,
    ) -> Vec<Planned> {
        if self.choices.is_empty() {
            return Vec::new();
        }
        let count = draw.below(self.most + 1);
        let mut planned = Vec::new();
        for _ in 0..count {
            let first = Planned {
                step: draw.below(steps.max(1)),
                instance: draw.index(instances),
                fault: self.draw_one(draw, guarantee),
            };
            // What is waiting for something is worth a second blow.
            if let Some(fault) = second_blow(first.fault, draw, guarantee) {
                let after = 1 + draw.below(150);
                planned.push(Planned {
                    step: first.step + after,
                    instance: first.instance,
                    fault,
                });
            }
            planned.push(first);
        }
        planned.sort_by_key(|planned| planned.step);
        planned
    }

    /// What could not befall the application would be a fault less.
    fn draw_one(&self, draw: &mut Draw, guarantee: Guarantee) -> Fault {
        loop {
            let fault = draw.of_these(&self.choices)(draw);
            if fault.can_befall(guarantee) {
                return fault;
            }
        }
    }
}

const FATES: [Fate; 4] = [Fate::Lost, Fate::Done, Fate::Late, Fate::Twice];

const RETRIABLE: [Call; 5] = [
    Call::Poll,
    Call::Restore,
    Call::Committed,
    Call::Ends,
    Call::Init,
];

const ABORTABLE: [Call; 4] = [
    Call::Send,
    Call::BeginCommit,
    Call::PollCommit,
    Call::PollCommit,
];

/// A fault of the same instance while an earlier one is not over, most of the time.
fn second_blow(fault: Fault, draw: &mut Draw, guarantee: Guarantee) -> Option<Fault> {
    let choices: &[Fault] = match fault {
        Fault::SlowCommit(_) => &[
            Fault::Abortable(Call::PollCommit),
            Fault::CommitUncertain(Fate::Lost),
            Fault::CommitUncertain(Fate::Done),
            Fault::Crash(Call::CommitOffsets, Side::After),
            Fault::Zombie,
            Fault::PowerLoss,
        ],
        Fault::CommitUncertain(Fate::Late | Fate::Twice) => &[
            Fault::Abortable(Call::BeginCommit),
            Fault::Abortable(Call::PollCommit),
            Fault::Crash(Call::BeginCommit, Side::Before),
            Fault::Crash(Call::PollCommit, Side::Before),
        ],
        Fault::MarkersLate => &[
            Fault::StateLost,
            Fault::Leave,
            Fault::Leave,
            Fault::Abortable(Call::Send),
            Fault::Crash(Call::PollCommit, Side::After),
        ],
        // Whoever comes back has much to restore.
        Fault::StateLost => &[
            Fault::Leave,
            Fault::Zombie,
            Fault::Crash(Call::Restore, Side::Before),
            Fault::Crash(Call::Restore, Side::After),
            Fault::Crash(Call::StoreWrite, Side::Before),
            Fault::Crash(Call::MarkerWrite, Side::After),
        ],
        Fault::Abortable(_) => &[
            Fault::AbortUncertain(Fate::Lost),
            Fault::AbortUncertain(Fate::Late),
            // Without transactions what was sent is awaited where a commit has failed.
            Fault::Crash(Call::Flush, Side::Before),
            Fault::Crash(Call::Flush, Side::After),
        ],
        _ => return None,
    };
    let may: Vec<Fault> = choices
        .iter()
        .copied()
        .filter(|fault| fault.can_befall(guarantee))
        .collect();
    (!may.is_empty() && !draw.one_in(4)).then(|| *draw.of_these(&may))
}

fn crash(draw: &mut Draw) -> Fault {
    let call = match draw.one_in(3) {
        true => *draw.of_these(&Call::ALL),
        false => *draw.of_these(&Call::TELLING),
    };
    Fault::Crash(call, *draw.of_these(&[Side::Before, Side::After]))
}

/// A fault with its time and place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// The step of the run at which it is due.
    pub step: u64,
    /// The instance it befalls.
    pub instance: usize,
    /// What it is.
    pub fault: Fault,
}

impl fmt::Display for Planned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            step,
            instance,
            fault,
        } = self;
        write!(f, "step {step}, instance {instance}: {fault}")
    }
}
