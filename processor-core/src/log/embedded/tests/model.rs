//! Random transactional histories against a simple model.
