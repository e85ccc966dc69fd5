//! The stores of windows, as far as emission, expiry and look-ups go.

use std::cell::{Cell, RefCell};
use std::ops::ControlFlow;
use std::rc::Rc;

use state::{SessionStore, Stamped, StateError, WindowStore};

use crate::error::Result;
use crate::log::Timestamp;
use crate::processor::Instantiation;
use crate::record::Windowed;
use crate::topology::StoreId;

use super::encoding::Encoding;
use super::view::Look;

/// Where a window lies in the order of its store, by which it expires and is emitted: a time window's start and 0, or a
/// session's end and start.
pub(crate) type Place = (Timestamp, Timestamp);

/// A store of windows, as far as emission and expiry go.
pub(crate) trait WindowRows: 'static {
    /// The store in a task.
    fn of(instantiation: &Instantiation<'_>, store: StoreId) -> Result<Rc<RefCell<Self>>>;

    /// The place of a window.
    fn place(start: Timestamp, end: Timestamp) -> Place;

    fn row(&self, key: &[u8], place: Place) -> Result<Option<Stamped>, StateError>;

    fn put(&mut self, key: &[u8], place: Place, value: &[u8]) -> Result<(), StateError>;

    fn remove(&mut self, key: &[u8], place: Place) -> Result<(), StateError>;

    /// Visits the place and key of every row.
    fn each(&self, visit: &mut dyn FnMut(Place, &[u8])) -> Result<(), StateError>;

    fn restore_horizon(&mut self, from: Timestamp);

    fn expire_before(&mut self, from: Timestamp);
}

impl WindowRows for WindowStore {
    fn of(instantiation: &Instantiation<'_>, store: StoreId) -> Result<Rc<RefCell<Self>>> {
        instantiation.window(store)
    }

    fn place(start: Timestamp, _end: Timestamp) -> Place {
        (start, 0)
    }

    fn row(&self, key: &[u8], place: Place) -> Result<Option<Stamped>, StateError> {
        self.get(key, place.0)
    }

    fn put(&mut self, key: &[u8], (start, _): Place, value: &[u8]) -> Result<(), StateError> {
        WindowStore::put(self, key, start, value, start)
    }

    fn remove(&mut self, key: &[u8], (start, _): Place) -> Result<(), StateError> {
        self.delete(key, start, start)
    }

    fn each(&self, visit: &mut dyn FnMut(Place, &[u8])) -> Result<(), StateError> {
        self.fetch_all(Timestamp::MIN, Timestamp::MAX, &mut |key, start, _| {
            visit((start, 0), key);
            ControlFlow::Continue(())
        })
    }

    fn restore_horizon(&mut self, from: Timestamp) {
        WindowStore::restore_horizon(self, from);
    }

    fn expire_before(&mut self, from: Timestamp) {
        WindowStore::expire_before(self, from);
    }
}

impl WindowRows for SessionStore {
    fn of(instantiation: &Instantiation<'_>, store: StoreId) -> Result<Rc<RefCell<Self>>> {
        instantiation.session(store)
    }

    fn place(start: Timestamp, end: Timestamp) -> Place {
        (end, start)
    }

    fn row(&self, key: &[u8], place: Place) -> Result<Option<Stamped>, StateError> {
        self.get(key, place.1, place.0)
    }

    fn put(&mut self, key: &[u8], (end, start): Place, value: &[u8]) -> Result<(), StateError> {
        SessionStore::put(self, key, start, end, value, end)
    }

    fn remove(&mut self, key: &[u8], (end, start): Place) -> Result<(), StateError> {
        SessionStore::remove(self, key, start, end, end)
    }

    fn each(&self, visit: &mut dyn FnMut(Place, &[u8])) -> Result<(), StateError> {
        self.find_all(Timestamp::MIN, Timestamp::MAX, &mut |key, start, end, _| {
            visit((end, start), key);
            ControlFlow::Continue(())
        })
    }

    fn restore_horizon(&mut self, from: Timestamp) {
        SessionStore::restore_horizon(self, from);
    }

    fn expire_before(&mut self, from: Timestamp) {
        SessionStore::expire_before(self, from);
    }
}

/// The windows of an aggregation, as a join with its table looks them up.
pub(crate) struct Rows<K, A, S> {
    /// Below this, windows are closed although the store has them.
    pub closed: Option<Rc<Cell<Timestamp>>>,
    pub store: Rc<RefCell<S>>,
    pub encoding: Encoding<K, A>,
}

impl<K, A, S: WindowRows> Look<Windowed<K>, A> for Rows<K, A, S> {
    fn get(&mut self, key: &Windowed<K>) -> Result<Option<(A, Timestamp)>> {
        let place = S::place(key.start, key.end);
        let closed = self.closed.as_ref().map_or(Timestamp::MIN, |c| c.get());
        if place.0 < closed {
            return Ok(None);
        }
        self.encoding.encode_key(&key.key)?;
        let row = self.store.borrow().row(&self.encoding.key_buffer, place)?;
        let Some(row) = row else {
            return Ok(None);
        };
        Ok(Some((self.encoding.decode(&row)?, row.timestamp)))
    }
}
