//! The embedded log: real partitions, groups and transactions in this process, over files or memory.
