//! The storage engines that keep stores on disk, as a setting.

use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use crate::{Database, DatabaseOptions, StateError};

/// A storage engine. All of them keep one contract, so the choice is one of speed, memory and space; the crate's
/// `README.md` has measurements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Backend {
    /// sled 0.34: a B-tree over a log, in pure Rust. Always there.
    #[default]
    Sled,
    /// fjall 3: a log-structured merge tree. With the cargo feature `fjall`.
    Fjall,
    /// redb 4: a copy-on-write B-tree in one file. With the cargo feature `redb`.
    Redb,
}

impl Backend {
    /// Every engine, whether this program was built with it or not.
    pub const ALL: [Self; 3] = [Self::Sled, Self::Fjall, Self::Redb];

    /// Its name in settings and in state directories.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Sled => "sled",
            Self::Fjall => "fjall",
            Self::Redb => "redb",
        }
    }

    /// Whether this program was built with it.
    #[must_use]
    pub fn is_built_in(self) -> bool {
        match self {
            Self::Sled => true,
            Self::Fjall => cfg!(feature = "fjall"),
            Self::Redb => cfg!(feature = "redb"),
        }
    }

    /// Opens or creates a database in the directory `path`. One handle at a time; keep it for the life of the process.
    ///
    /// # Errors
    /// [`StateError::NotBuiltIn`] when this program lacks the engine; [`StateError::Locked`] when another handle holds
    /// the database; [`StateError::Unreadable`] when its files are damaged, or the engine panics over them (sled's are
    /// set aside instead, see [`SledDatabase`](crate::SledDatabase)); [`StateError::Io`] when the directory cannot be used.
    pub fn open(
        self,
        path: &Path,
        options: &DatabaseOptions,
    ) -> Result<Arc<dyn Database>, StateError> {
        match self {
            Self::Sled => Ok(Arc::new(super::SledDatabase::open(path, options)?)),
            #[cfg(feature = "fjall")]
            Self::Fjall => Ok(Arc::new(super::FjallDatabase::open(path, options)?)),
            #[cfg(feature = "redb")]
            Self::Redb => Ok(Arc::new(super::RedbDatabase::open(path, options)?)),
            #[cfg(not(all(feature = "fjall", feature = "redb")))]
            backend => Err(StateError::NotBuiltIn {
                backend: backend.name(),
            }),
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The name is not one of an engine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no storage engine; there are sled, fjall and redb")]
pub struct UnknownBackend(String);

impl FromStr for Backend {
    type Err = UnknownBackend;

    fn from_str(name: &str) -> Result<Self, UnknownBackend> {
        let named = Self::ALL.into_iter().find(|backend| backend.name() == name);
        named.ok_or_else(|| UnknownBackend(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_leads_back_to_its_engine() {
        for backend in Backend::ALL {
            assert_eq!(backend.name().parse(), Ok(backend));
        }
        let unknown = "rocksdb".parse::<Backend>().expect_err("not there");
        assert!(unknown.to_string().contains("`rocksdb`"), "{unknown}");
    }

    #[test]
    fn an_engine_that_is_not_built_in_is_refused_with_the_feature_to_build() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        for backend in Backend::ALL {
            let opened = backend.open(directory.path(), &DatabaseOptions::default());
            match opened {
                Ok(_) => assert!(backend.is_built_in(), "{backend}"),
                Err(error) => {
                    assert!(!backend.is_built_in(), "{error}");
                    assert!(error.to_string().contains(&format!("feature `{backend}`")));
                }
            }
        }
    }
}
