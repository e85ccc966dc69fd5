//! Deliberate bugs of the commit protocol: the simulator must find each of them.
//!
//! Most are put in between an instance and its log and disk, by the [simulation](crate::testing::simulation). The few that
//! cannot be seen from there are asked for with `is` where the protocol would go wrong; without the feature `mutants` the
//! answer is a constant, and with it they are there in simulated instances only.

/// A bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the descriptions are in `ALL`")]
pub enum Mutant {
    // Between an instance and its log.
    OffsetTooFar,
    OffsetTooShort,
    OffsetsForgotten,
    OffsetsOfOnePartition,
    OffsetsOutsideTransaction,
    TimesForgotten,
    TimesOfLastCommit,
    CommitBeforeFlush,
    CommitTakenForDone,
    AbortForgotten,
    ProducerReused,
    MetadataOfAnotherMember,
    UnstableOffsets,
    EndsKept,
    RestoreUncommitted,
    RestoreToStableEnd,
    RestoreOneShort,
    RestoreSkipsOne,
    TombstonesForgotten,
    ChangesForgotten,
    ChangesTwice,
    SeekForgotten,
    PauseOutlivesRelease,
    // Between an instance and its disk.
    MarkerAhead,
    WritesForgotten,
    DeletesForgotten,
    // Inside.
    MarkerBeforeEntries,
    SettledBeforeCommit,
    RewindKeepsState,
    WaitingKeptOnAbort,
    WaitingForgotten,
    OpenAcrossRebalance,
    RevokedGoesOn,
    FencedGoesOn,
    OffsetsBeforeFlush,
    OffsetsOfTheAnswer,
    OpenSettled,
    UpstreamTimesIgnored,
    ReadBackToTheEnd,
    ProcessedBeforeRestored,
    RestoreOutlivesRevoke,
    RestoreMarkedComplete,
    RestoreMarkedFirst,
    RestoredKeptOnRevoke,
    CopyGoesOn,
}

impl Mutant {
    /// All bugs, and what each does.
    pub const ALL: [(Self, &'static str); 45] = [
        (Self::OffsetTooFar, "commits offsets that are one too far"),
        (
            Self::OffsetTooShort,
            "commits offsets that are one too short",
        ),
        (Self::OffsetsForgotten, "commits results without offsets"),
        (
            Self::OffsetsOfOnePartition,
            "commits the offsets of one partition only",
        ),
        (
            Self::OffsetsOutsideTransaction,
            "commits offsets before the transaction that they belong to",
        ),
        (Self::TimesForgotten, "commits offsets without stream times"),
        (
            Self::TimesOfLastCommit,
            "commits the stream times of the commit before",
        ),
        (
            Self::CommitBeforeFlush,
            "commits before the last record sent is there",
        ),
        (
            Self::CommitTakenForDone,
            "takes a commit that was refused for done",
        ),
        (Self::AbortForgotten, "does not abort after a failure"),
        (
            Self::ProducerReused,
            "goes on with a producer whose last commit or abort had no answer",
        ),
        (
            Self::MetadataOfAnotherMember,
            "commits with the group metadata of whoever is a member now",
        ),
        (
            Self::UnstableOffsets,
            "does not wait for transactions that are pending on its offsets",
        ),
        (
            Self::EndsKept,
            "restores to the ends that changelogs had when it asked first",
        ),
        (
            Self::RestoreUncommitted,
            "restores changes that were aborted",
        ),
        (
            Self::RestoreToStableEnd,
            "restores to the last stable offset (KAFKA-10167)",
        ),
        (Self::RestoreOneShort, "restores to before the last record"),
        (
            Self::RestoreSkipsOne,
            "restores from behind the next record",
        ),
        (
            Self::TombstonesForgotten,
            "leaves deletes out of changelogs",
        ),
        (
            Self::ChangesForgotten,
            "leaves every seventh change out of changelogs",
        ),
        (
            Self::ChangesTwice,
            "writes the change of a key before again, behind the new one",
        ),
        (
            Self::SeekForgotten,
            "goes on where it was after an abort, instead of reading its input again",
        ),
        (
            Self::PauseOutlivesRelease,
            "keeps partitions paused that it gave up and gets back",
        ),
        (
            Self::MarkerAhead,
            "writes markers that are ahead of their stores",
        ),
        (
            Self::WritesForgotten,
            "leaves every seventh row out of its stores",
        ),
        (
            Self::DeletesForgotten,
            "does not delete rows from its stores",
        ),
        (
            Self::MarkerBeforeEntries,
            "writes a marker before the entries that it vouches for",
        ),
        (
            Self::SettledBeforeCommit,
            "settles and applies changes when their commit begins",
        ),
        (
            Self::RewindKeepsState,
            "reads its input again over the state that the abort should have undone",
        ),
        (
            Self::WaitingKeptOnAbort,
            "sends what waited for a commit that was aborted",
        ),
        (
            Self::WaitingForgotten,
            "forgets what was sent while a commit was in flight",
        ),
        (
            Self::OpenAcrossRebalance,
            "gives partitions up with results sent and not committed",
        ),
        (
            Self::RevokedGoesOn,
            "keeps the tasks of partitions that were taken away",
        ),
        (
            Self::FencedGoesOn,
            "makes a new producer where it was fenced",
        ),
        (
            Self::OffsetsBeforeFlush,
            "at least once: commits offsets before results are flushed",
        ),
        (
            Self::OffsetsOfTheAnswer,
            "at least once: commits how far it has read when the flush is answered",
        ),
        (
            Self::OpenSettled,
            "settles changes that came while a commit was in flight along with it",
        ),
        (
            Self::UpstreamTimesIgnored,
            "takes the time of the fastest upstream task behind a repartition topic",
        ),
        (
            Self::ReadBackToTheEnd,
            "rebuilds a table from records of its topic that are still to be processed",
        ),
        (
            Self::ProcessedBeforeRestored,
            "processes records over stores that are not restored",
        ),
        (
            Self::RestoreOutlivesRevoke,
            "goes on restoring a task that was taken away, and runs it",
        ),
        (
            Self::RestoreMarkedComplete,
            "marks a store as restored to the end while it is not",
        ),
        (
            Self::RestoreMarkedFirst,
            "marks what is restored before it is written",
        ),
        (
            Self::RestoredKeptOnRevoke,
            "keeps what is restored of a task that was taken away for when it comes back",
        ),
        (
            Self::CopyGoesOn,
            "goes on writing to a standby copy after the task was given to a stream thread",
        ),
    ];
}

/// Whether this thread is that of an instance that has this bug.
#[cfg(not(feature = "mutants"))]
#[inline(always)]
pub(crate) const fn is(_: Mutant) -> bool {
    false
}

#[cfg(feature = "mutants")]
pub(crate) use chosen::{enter, is};

#[cfg(feature = "mutants")]
mod chosen {
    use std::cell::Cell;

    use super::Mutant;

    thread_local! {
        static CHOSEN: Cell<Option<Mutant>> = const { Cell::new(None) };
    }

    /// The calling thread has this bug from now on.
    pub(crate) fn enter(mutant: Option<Mutant>) {
        CHOSEN.set(mutant);
    }

    /// Whether this thread is that of an instance that has this bug.
    pub(crate) fn is(mutant: Mutant) -> bool {
        CHOSEN.get() == Some(mutant)
    }
}
