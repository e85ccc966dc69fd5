//! Landing files to topics, exactly once.
