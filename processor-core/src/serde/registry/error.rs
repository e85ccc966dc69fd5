//! Why a schema was not registered.

/// Why a schema was not registered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// It cannot read the data of the schema before it.
    #[error(
        "the schema for subject '{subject}' is incompatible with the registered one: {reason}; give new fields a default, \
         and do not change types"
    )]
    Incompatible {
        /// The subject.
        subject: String,
        /// What does not fit.
        reason: String,
    },
    /// The registry does not want it for another reason.
    #[error("the schema for subject '{subject}' is refused: {reason}")]
    Refused {
        /// The subject.
        subject: String,
        /// What the registry said.
        reason: String,
    },
    /// The registry did not answer; the same call may succeed later.
    #[error("the schema registry {registry} does not answer: {reason}")]
    Unavailable {
        /// Its address.
        registry: String,
        /// What was tried, and what came of it.
        reason: String,
    },
    /// The registry cannot be used as it is; a person has to act.
    #[error("the schema registry {registry} cannot be used: {reason}")]
    Unusable {
        /// Its address.
        registry: String,
        /// What is wrong.
        reason: String,
    },
}

impl RegistryError {
    /// Whether the same call may succeed later.
    #[must_use]
    pub fn is_retriable(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }
}
