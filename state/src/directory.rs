//! The directory in which one process of one application keeps its state.
//!
//! ```text
//!  <path>/lock       held for the life of the process; holds its process id
//!  <path>/identity   format version, application id, what the state belongs to, the storage engine, a line each
//!  <path>/stores     the database
//! ```
//! Two processes never work in one directory, one application never on another's state, and no storage engine on the
//! files of another.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::{Backend, Database, DatabaseOptions, StateError, aside};

/// Version of everything below a state directory; raised when older code must not read it.
const FORMAT: u32 = 1;

/// A locked state directory; the lock goes with it.
#[derive(Debug)]
pub struct StateDirectory {
    path: PathBuf,
    identity: Identity,
    lock: File,
}

/// By hand: a child that was forked at this moment, and has not come to its program, holds the file as well.
impl Drop for StateDirectory {
    fn drop(&mut self) {
        if let Err(error) = self.lock.unlock() {
            tracing::warn!(path = %self.path.display(), %error, "the state directory is not unlocked before the process ends");
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    format: String,
    application: String,
    belongs_to: Option<String>,
    /// Who wrote the stores; not there before the first, and in directories from when there was only sled.
    backend: Option<String>,
}

impl StateDirectory {
    /// Creates or opens the directory and locks it.
    ///
    /// # Errors
    /// [`StateError::Locked`] when another process, or another handle of this one, holds it;
    /// [`StateError::Foreign`] when another application or an older format version made it;
    /// [`StateError::Newer`] when a newer program did;
    /// [`StateError::Io`] when it cannot be written.
    pub fn open(path: &Path, application_id: &str) -> Result<Self, StateError> {
        fs::create_dir_all(path).map_err(StateError::io("create", path))?;
        let lock = lock(path)?;
        let wanted = Identity {
            format: FORMAT.to_string(),
            application: one_line(application_id),
            belongs_to: None,
            backend: None,
        };
        let identity = match Identity::read(path)? {
            Some(found) => found,
            None => {
                wanted.write(path)?;
                wanted.clone()
            }
        };
        if let Ok(found) = identity.format.parse::<u32>()
            && found > FORMAT
        {
            return Err(StateError::Newer {
                path: path.to_owned(),
                found,
                known: FORMAT,
            });
        }
        if (&identity.format, &identity.application) != (&wanted.format, &wanted.application) {
            return Err(foreign(path, wanted.to_string(), identity.to_string()));
        }
        Ok(Self {
            path: path.to_owned(),
            identity,
            lock,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the stores are.
    pub fn stores(&self) -> PathBuf {
        Self::stores_of(&self.path)
    }

    /// Where the stores of the state directory in `path` are.
    pub fn stores_of(path: &Path) -> PathBuf {
        path.join("stores")
    }

    /// Opens the database of the stores with `backend`, or creates it, and remembers that engine for as long as the
    /// directory of the [stores](Self::stores) is there. One that is damaged, or [turned out to be](crate::mark_if_damaged)
    /// while it was used, is set aside as `stores.quarantine-N`, with a warning in the log, and replaced by an empty one;
    /// the last three are kept.
    ///
    /// # Errors
    /// [`StateError::OtherBackend`] when another engine wrote the stores, and what [`Backend::open`] reports.
    pub fn open_database(
        &mut self,
        backend: Backend,
        options: &DatabaseOptions,
    ) -> Result<Arc<dyn Database>, StateError> {
        let stores = self.stores();
        let found = match holds_files(&stores).map_err(StateError::io("read", &stores))? {
            // Directories that do not say were written when there was nothing else.
            true => self.identity.backend.as_deref().or(Some("sled")),
            false => None,
        };
        if let Some(found) = found.filter(|found| *found != backend.name()) {
            return Err(StateError::OtherBackend {
                path: stores,
                wanted: backend.name(),
                found: found.to_owned(),
            });
        }
        if !backend.is_built_in() {
            return Err(StateError::NotBuiltIn {
                backend: backend.name(),
            });
        }
        if self.identity.backend.as_deref() != Some(backend.name()) {
            // IMPORTANT: before there is a file of the engine.
            self.replace_identity(Identity {
                backend: Some(backend.name().to_owned()),
                ..self.identity.clone()
            })?;
        }
        let reason = match aside::marked(&stores)? {
            Some(reason) => reason,
            None => match backend.open(&stores, options) {
                Err(StateError::Unreadable { reason, .. }) => reason,
                opened => return opened,
            },
        };
        aside::set_aside(&stores, &reason)?;
        let database = backend.open(&stores, options)?;
        // IMPORTANT: last. Whoever dies before this sets the empty database aside as well, and never opens the damaged one.
        aside::unmark(&stores)?;
        Ok(database)
    }

    fn replace_identity(&mut self, identity: Identity) -> Result<(), StateError> {
        identity.write(&self.path)?;
        self.identity = identity;
        Ok(())
    }

    /// Ties the state to something outside, such as the input it was made from: the first call writes
    /// it down, later ones must say the same.
    ///
    /// # Errors
    /// [`StateError::Foreign`] when the state belongs to something else.
    pub fn belongs_to(&mut self, what: &str) -> Result<(), StateError> {
        let what = one_line(what);
        match &self.identity.belongs_to {
            Some(found) if *found == what => Ok(()),
            Some(found) => Err(foreign(&self.path, what, found.clone())),
            None => self.replace_identity(Identity {
                belongs_to: Some(what),
                ..self.identity.clone()
            }),
        }
    }
}

fn foreign(path: &Path, expected: String, found: String) -> StateError {
    StateError::Foreign {
        path: path.to_owned(),
        expected,
        found,
    }
}

fn holds_files(directory: &Path) -> std::io::Result<bool> {
    match fs::read_dir(directory) {
        Ok(mut entries) => Ok(entries.next().is_some()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

fn lock(directory: &Path) -> Result<File, StateError> {
    let path = directory.join("lock");
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(&path)
        .map_err(StateError::io("open", &path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let known = file.read_to_string(&mut holder).is_ok() && !holder.trim().is_empty();
            let by = match known {
                true => format!("process {}", holder.trim()),
                false => "another process".to_owned(),
            };
            return Err(StateError::Locked {
                path: directory.to_owned(),
                by,
            });
        }
        Err(TryLockError::Error(source)) => {
            return Err(StateError::Io {
                action: "lock",
                path,
                source,
            });
        }
    }
    let pid = std::process::id().to_string();
    let written = file.set_len(0).and_then(|()| file.rewind());
    written
        .and_then(|()| file.write_all(pid.as_bytes()))
        .map_err(StateError::io("write", &path))?;
    Ok(file)
}

impl Identity {
    fn read(directory: &Path) -> Result<Option<Self>, StateError> {
        let path = directory.join("identity");
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StateError::io("read", &path)(error)),
        };
        let identity = Self::parse(&text).ok_or_else(|| {
            StateError::corrupt(
                &path.display().to_string(),
                "the identity file is not one of ours",
            )
        })?;
        Ok(Some(identity))
    }

    /// What the file says; none when it is not one of ours.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(name))
                // A line may end in more of them than one; none is written, so none is read.
                .map(|value| value.trim_end_matches('\r').to_owned())
        };
        Some(Self {
            format: field("format ")?,
            application: field("application ")?,
            belongs_to: field("belongs to "),
            backend: field("backend "),
        })
    }

    /// The content of the file.
    pub(crate) fn text(&self) -> String {
        let mut text = format!("format {}\napplication {}\n", self.format, self.application);
        if let Some(what) = &self.belongs_to {
            text += &format!("belongs to {what}\n");
        }
        if let Some(backend) = &self.backend {
            text += &format!("backend {backend}\n");
        }
        text
    }

    /// Written beside and renamed, so that it is whole or not there.
    fn write(&self, directory: &Path) -> Result<(), StateError> {
        let path = directory.join("identity");
        let beside = directory.join("identity.new");
        let write = || {
            let mut file = File::create(&beside)?;
            file.write_all(self.text().as_bytes())?;
            file.sync_all()?;
            fs::rename(&beside, &path)?;
            // The name lasts when its directory is on the disk.
            File::open(directory)?.sync_all()
        };
        write().map_err(StateError::io("write", &path))
    }
}

impl std::fmt::Display for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "application `{}` (state format {})",
            self.application, self.format
        )
    }
}
