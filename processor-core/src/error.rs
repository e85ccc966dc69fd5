//! Why processing a record failed.

use std::fmt;

use state::StateError;

use crate::log::LogError;
use crate::record::RecordMetadata;
use crate::serde::SerdeError;

/// The result of processing.
pub type Result<T = (), E = Fault> = std::result::Result<T, E>;

/// Why processing stopped. Small, so that the good path stays cheap.
#[derive(Debug)]
pub struct Fault(Box<FaultKind>);

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum FaultKind {
    /// The log refused; its class says what to do.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A store failed.
    #[error("state: {0}")]
    State(#[from] StateError),
    /// Bytes and types do not fit.
    #[error("{what}: {source}")]
    Serde {
        /// What was being read or written.
        what: String,
        /// Why it failed.
        source: SerdeError,
    },
    /// A user's function returned an error.
    #[error("{operator}: {source}")]
    User {
        /// Name of the operator.
        operator: String,
        /// What it returned.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The record that was being processed when the fault arose.
    #[error("processing {record}: {source}")]
    At {
        /// Where the record was read.
        record: RecordMetadata,
        /// The fault.
        source: Fault,
    },
    /// A record that could not be decoded, or has no valid timestamp, or none that is plausible. It was not processed at all.
    #[error("processing {record}: {source}")]
    Undecodable {
        /// Where the record was read.
        record: RecordMetadata,
        /// Why.
        source: Fault,
    },
}

impl Fault {
    /// A failure to encode or decode `what`.
    pub fn serde(what: impl fmt::Display, source: SerdeError) -> Self {
        FaultKind::Serde {
            what: what.to_string(),
            source,
        }
        .into()
    }

    /// An error of a user's function in `operator`.
    pub fn user(
        operator: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        FaultKind::User {
            operator: operator.into(),
            source: source.into(),
        }
        .into()
    }

    /// The same fault with the record it arose at, unless it has one already.
    #[must_use]
    pub fn at(self, record: RecordMetadata) -> Self {
        // It may be that of a record that was held back and came out while another one was at hand.
        if matches!(self.kind(), FaultKind::At { .. }) {
            return self;
        }
        FaultKind::At {
            record,
            source: self,
        }
        .into()
    }

    /// The same fault as that of a record that could not be decoded.
    #[must_use]
    pub(crate) fn undecodable(self, record: RecordMetadata) -> Self {
        FaultKind::Undecodable {
            record,
            source: self,
        }
        .into()
    }

    /// What went wrong.
    #[must_use]
    pub fn kind(&self) -> &FaultKind {
        &self.0
    }

    /// The log's error at the bottom of this fault, if that is what it is.
    #[must_use]
    pub fn log_error(&self) -> Option<&LogError> {
        match self.kind() {
            FaultKind::Log(error) => Some(error),
            FaultKind::At { source, .. } => source.log_error(),
            _ => None,
        }
    }
}

impl Fault {
    /// The error of a store at the bottom of this fault, if that is what it is.
    pub(crate) fn state_error(&self) -> Option<&StateError> {
        match self.kind() {
            FaultKind::State(error) => Some(error),
            FaultKind::At { source, .. } | FaultKind::Undecodable { source, .. } => {
                source.state_error()
            }
            _ => None,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl std::error::Error for Fault {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}

impl<E: Into<FaultKind>> From<E> for Fault {
    fn from(error: E) -> Self {
        Self(Box::new(error.into()))
    }
}
