//! Serving until somebody ends it.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use gmem_core::pager::server::Server;

use super::listen::{Connecting, Listener};
use crate::poll::poll;
use crate::signals::TerminationSignals;

/// How often clients that have gone are looked at.
const TICK: Duration = Duration::from_millis(200);
/// Connections beyond the clients that may attach: of those who have not said yet who they are.
const STRANGERS: usize = 64;

/// Serves those who connect until a signal, then lets clients take their pages back for `drain`; returns the signal's name.
pub fn run(
    server: &Arc<Server>,
    clients: usize,
    listeners: &[Listener],
    signals: &TerminationSignals,
    drain: Duration,
) -> io::Result<&'static str> {
    let connections = Arc::new(AtomicUsize::new(0));
    let most = clients + STRANGERS;
    let serve_for = |until: Option<Instant>, ended: &dyn Fn() -> bool| loop {
        wait(listeners, signals)?;
        let signal = signals.take();
        if signal.is_some() || ended() || until.is_some_and(|until| Instant::now() >= until) {
            return Ok::<_, io::Error>(signal);
        }
        server.forget_lost();
        for listener in listeners {
            // Who cannot be served now is refused; a host without descriptors may have some later.
            while let Ok(Some(connecting)) = listener.accept() {
                start(server, &connections, most, connecting);
            }
        }
    };
    let signal = loop {
        if let Some(signal) = serve_for(None, &|| false)? {
            break signal;
        }
    };
    server.drain(drain);
    let gone = || server.summary().clients == 0;
    serve_for(Some(Instant::now() + drain), &gone)?;
    server.close();
    let patience = Instant::now() + Duration::from_secs(2);
    while connections.load(Ordering::Acquire) > 0 && Instant::now() < patience {
        thread::sleep(Duration::from_millis(5));
    }
    Ok(signal)
}

fn start(
    server: &Arc<Server>,
    connections: &Arc<AtomicUsize>,
    most: usize,
    connecting: Connecting,
) {
    if connections.fetch_add(1, Ordering::AcqRel) >= most {
        connections.fetch_sub(1, Ordering::AcqRel);
        return;
    }
    let (server, counted) = (Arc::clone(server), Arc::clone(connections));
    let serve = move || {
        // Who does not get as far as a channel has gone, or is none of ours.
        if let Ok(channel) = connecting() {
            server.serve(channel);
        }
        counted.fetch_sub(1, Ordering::AcqRel);
    };
    if thread::Builder::new()
        .name("client".into())
        .spawn(serve)
        .is_err()
    {
        connections.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Waits for somebody to connect, a signal, or a tick.
fn wait(listeners: &[Listener], signals: &TerminationSignals) -> io::Result<()> {
    const MOST: usize = 9;
    let mut fds: [RawFd; MOST] = [-1; MOST];
    fds[0] = signals.as_raw_fd();
    for (fd, listener) in fds[1..].iter_mut().zip(listeners) {
        *fd = listener.as_raw_fd();
    }
    poll(fds, Some(TICK)).map(|_| ())
}
