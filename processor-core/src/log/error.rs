//! Errors of a log, classified by who has to act.

use std::borrow::Cow;

/// Who has to act on a [`LogError`], and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorClass {
    /// A passing fault: make the same call again.
    Retriable,
    /// The transaction cannot commit: abort it, drop its state, read its input again.
    Abortable,
    /// This one record can never be taken; the transaction itself is still good.
    Rejected,
    /// A commit or abort may or may not have happened: make a new producer, settle, read the committed offsets and
    /// restore from there.
    Uncertain,
    /// Another producer or member took this identity over: stop, do not loop.
    Fenced,
    /// Nothing that can be repaired at run time.
    Fatal,
}

/// An error of a log. The message says what was tried, on which topic, partition or setting, and what to do.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct LogError {
    /// Who has to act.
    pub class: ErrorClass,
    /// What happened, in a sentence.
    pub message: Cow<'static, str>,
}

impl LogError {
    /// An error of `class` that reads as `message`.
    pub fn new(class: ErrorClass, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            class,
            message: message.into(),
        }
    }

    /// A fatal error.
    pub fn fatal(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorClass::Fatal, message)
    }

    /// A retriable error.
    pub fn retriable(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorClass::Retriable, message)
    }
}
