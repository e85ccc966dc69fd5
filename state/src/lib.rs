//! Transactional state stores: key-value, window and session, over memory or sled.
