//! A TCP proxy between one instance and the broker, which can be cut.
//!
//! Open, it passes bytes both ways. Cut, it refuses connections and resets those there are. As a black hole it takes
//! connections and keeps those there are, but nothing passes; what was sent meanwhile arrives when it opens again.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use xtask::stopwatch::wait_for;

/// How long the port may be taken after a cut.
const REBIND: Duration = Duration::from_secs(20);
const CONNECT: Duration = Duration::from_secs(1);

/// What a proxy does with what it gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Open,
    BlackHole,
    /// Also while it is being dropped.
    Cut,
}

#[derive(Debug)]
struct State {
    mode: Mode,
    /// Counts cuts: connections made before the last one are over.
    cuts: u64,
    /// Both ends of the connections there are, to reset them.
    sockets: Vec<TcpStream>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    target: SocketAddr,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, mode: Mode) {
        let mut state = self.lock();
        state.mode = mode;
        if mode == Mode::Cut {
            state.cuts += 1;
            for socket in state.sockets.drain(..) {
                reset(&socket);
            }
        }
        self.changed.notify_all();
    }

    /// Waits while nothing passes; false when the connection, made after `cuts` cuts, is over.
    fn may_pass(&self, cuts: u64) -> bool {
        let mut state = self.lock();
        while state.cuts == cuts && state.mode == Mode::BlackHole {
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        state.cuts == cuts && state.mode == Mode::Open
    }
}

/// See the [module](self).
#[derive(Debug)]
pub struct Proxy {
    shared: Arc<Shared>,
    port: u16,
    /// Knocks at the listener to end it.
    listening: bool,
}

impl Proxy {
    /// A proxy on `port` of loopback to the broker's listener on `target`.
    ///
    /// # Errors
    /// When the port cannot be bound.
    pub fn start(port: u16, target: u16) -> Result<Self> {
        let mut proxy = Self {
            shared: Arc::new(Shared {
                state: Mutex::new(State {
                    mode: Mode::Cut,
                    cuts: 0,
                    sockets: Vec::new(),
                }),
                changed: Condvar::new(),
                target: SocketAddr::from((Ipv4Addr::LOCALHOST, target)),
            }),
            port,
            listening: false,
        };
        proxy.open()?;
        Ok(proxy)
    }

    /// Where clients connect.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Passes everything, also what a black hole held back.
    ///
    /// # Errors
    /// When its port cannot be bound again.
    pub fn open(&mut self) -> Result<()> {
        let port = self.port;
        if !self.listening {
            let bind = || TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok();
            let listener = wait_for(REBIND, bind)
                .with_context(|| format!("the proxy's port {port} was taken meanwhile"))?;
            let shared = Arc::clone(&self.shared);
            thread::spawn(move || listen(&listener, &shared));
            self.listening = true;
        }
        self.shared.set(Mode::Open);
        Ok(())
    }

    /// Takes connections and passes nothing.
    pub fn black_hole(&self) {
        self.shared.set(Mode::BlackHole);
    }

    /// Refuses connections and resets those there are.
    pub fn cut(&mut self) {
        self.shared.set(Mode::Cut);
        if std::mem::take(&mut self.listening) {
            // The listener sees that it is over when somebody knocks.
            let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.cut();
    }
}

fn listen(listener: &TcpListener, shared: &Arc<Shared>) {
    for client in listener.incoming() {
        let mut state = shared.lock();
        if state.mode == Mode::Cut {
            return;
        }
        let cuts = state.cuts;
        let Ok(client) = client else { continue };
        if let Ok(handle) = client.try_clone() {
            state.sockets.push(handle);
        }
        drop(state);
        let shared = Arc::clone(shared);
        thread::spawn(move || serve(client, &shared, cuts));
    }
}

/// Connects to the broker once anything may pass, and passes bytes both ways until either side ends.
fn serve(client: TcpStream, shared: &Arc<Shared>, cuts: u64) {
    if !shared.may_pass(cuts) {
        return reset(&client);
    }
    let Ok(server) = TcpStream::connect_timeout(&shared.target, CONNECT) else {
        return reset(&client);
    };
    let (Ok(from_client), Ok(to_server), Ok(kept)) =
        (client.try_clone(), server.try_clone(), server.try_clone())
    else {
        return reset(&client);
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    {
        let mut state = shared.lock();
        // Those that are over are forgotten, or a long run collects them all.
        state.sockets.retain(|socket| socket.peer_addr().is_ok());
        state.sockets.push(kept);
    }
    let there = Arc::clone(shared);
    thread::spawn(move || pass(from_client, to_server, &there, cuts));
    pass(server, client, shared, cuts);
}

fn pass(mut from: TcpStream, mut to: TcpStream, shared: &Shared, cuts: u64) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = from.read(&mut buffer);
        if !shared.may_pass(cuts) {
            break;
        }
        match read {
            Ok(0) | Err(_) => break,
            Ok(length) if to.write_all(&buffer[..length]).is_err() => break,
            Ok(_) => {}
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}

/// Both sides see that the connection is gone: what was not read is lost.
fn reset(socket: &TcpStream) {
    let _ = socket.shutdown(Shutdown::Both);
}

#[cfg(test)]
mod tests {
    use super::*;
    use xtask::port;

    const PATIENCE: Duration = Duration::from_secs(20);

    /// A server that says back what it hears, and a proxy before it.
    fn echo() -> Proxy {
        let (target, port) = (port::free().unwrap(), port::free().unwrap());
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, target)).unwrap();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                thread::spawn(move || {
                    let mut out = client.try_clone().unwrap();
                    let _ = std::io::copy(&mut &client, &mut out);
                });
            }
        });
        Proxy::start(port, target).unwrap()
    }

    fn connect(proxy: &Proxy) -> std::io::Result<TcpStream> {
        let stream = TcpStream::connect(proxy.address())?;
        stream.set_read_timeout(Some(Duration::from_millis(300)))?;
        Ok(stream)
    }

    fn hears(stream: &mut TcpStream, expected: &[u8]) -> bool {
        let mut heard = vec![0; expected.len()];
        stream.read_exact(&mut heard).is_ok() && heard == expected
    }

    #[test]
    fn an_open_proxy_passes_bytes_both_ways() {
        let proxy = echo();
        let mut stream = connect(&proxy).unwrap();
        stream.write_all(b"hello").unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        assert!(hears(&mut stream, b"hello"));
    }

    #[test]
    fn a_cut_ends_connections_and_refuses_new_ones_until_it_is_mended() {
        let mut proxy = echo();
        let mut stream = connect(&proxy).unwrap();
        stream.write_all(b"a").unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        assert!(hears(&mut stream, b"a"));
        proxy.cut();
        assert!(matches!(stream.read(&mut [0]), Ok(0) | Err(_)));
        let refused = wait_for(PATIENCE, || connect(&proxy).is_err().then_some(()));
        assert!(refused.is_some());
        proxy.open().unwrap();
        let mut stream = connect(&proxy).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(b"b").unwrap();
        assert!(hears(&mut stream, b"b"));
    }

    #[test]
    fn what_falls_into_a_black_hole_arrives_late() {
        let mut proxy = echo();
        let mut stream = connect(&proxy).unwrap();
        proxy.black_hole();
        stream.write_all(b"late").unwrap();
        assert!(!hears(&mut stream, b"late"));
        proxy.open().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        assert!(hears(&mut stream, b"late"));
    }
}
