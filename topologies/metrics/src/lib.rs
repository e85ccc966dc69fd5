//! Campaign metrics per minute.
