//! Where a server listens.

use std::io;
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use gmem_core::pager::address::Address;
use gmem_core::pager::channel::tls::ServerTls;
use gmem_core::pager::channel::{Channel, tcp, tls, unix};

use crate::socket::{Socket, SocketError};

/// A place where clients connect.
pub enum Listener {
    /// A file; whether those who connect there get memory that both sides see.
    Unix(Socket, bool),
    /// A port, secured or not.
    Tcp(TcpListener, Option<ServerTls>),
}

/// A connection whose client has not said anything yet: making a channel of it may wait for that.
pub type Connecting = Box<dyn FnOnce() -> io::Result<Arc<dyn Channel>> + Send>;

/// Why a server cannot listen somewhere.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// At a file.
    #[error(transparent)]
    Unix(#[from] SocketError),
    /// At something else's address.
    #[error("a pager cannot listen at {0}; give unix:PATH or tcp://ADDRESS:PORT")]
    NotHere(String),
    /// At a port.
    #[error(
        "cannot listen at tcp://{address}: {source}; give an address of this host and a port that is free"
    )]
    Tcp {
        /// What was asked for.
        address: String,
        /// What the host says.
        source: io::Error,
    },
}

impl Listener {
    /// Listens at `address`; at a port with `secure`, if that is given.
    pub fn bind(address: &Address, secure: Option<&ServerTls>) -> Result<Self, ListenError> {
        match address {
            Address::Unix(path) => Ok(Self::Unix(Socket::bind(path)?, true)),
            Address::Redis(_) => Err(ListenError::NotHere(address.to_string())),
            Address::Tcp(at) => {
                let failed = |source| ListenError::Tcp {
                    address: at.clone(),
                    source,
                };
                let listener = TcpListener::bind(at).map_err(failed)?;
                listener.set_nonblocking(true).map_err(failed)?;
                Ok(Self::Tcp(listener, secure.cloned()))
            }
        }
    }

    /// The same, but who connects to a file gets no memory that both sides see.
    pub fn without_memory(self) -> Self {
        match self {
            Self::Unix(socket, _) => Self::Unix(socket, false),
            other => other,
        }
    }

    /// Where it listens, with the port that it was given if none was asked for.
    pub fn address(&self) -> String {
        match self {
            Self::Unix(socket, _) => format!("unix:{}", socket.path().display()),
            Self::Tcp(listener, _) => match listener.local_addr() {
                Ok(address) => format!("tcp://{address}"),
                Err(error) => format!("tcp:// ({error})"),
            },
        }
    }

    /// Who has connected; `None` if nobody has.
    pub fn accept(&self) -> io::Result<Option<Connecting>> {
        let nobody = |error: io::Error| match error.kind() {
            io::ErrorKind::WouldBlock
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::Interrupted => Ok(None),
            _ => Err(error),
        };
        let connecting: Connecting = match self {
            Self::Unix(socket, shares) => match (socket.listener().accept(), *shares) {
                (Ok((stream, _)), true) => Box::new(move || {
                    stream.set_nonblocking(false)?;
                    Ok(Arc::new(unix::accept(stream)?))
                }),
                (Ok((stream, _)), false) => Box::new(move || {
                    stream.set_nonblocking(false)?;
                    Ok(Arc::new(unix::accept_plain(stream)?))
                }),
                (Err(error), _) => return nobody(error),
            },
            Self::Tcp(listener, secure) => match (listener.accept(), secure.clone()) {
                (Ok((stream, _)), None) => Box::new(move || {
                    stream.set_nonblocking(false)?;
                    Ok(Arc::new(tcp::channel(stream)?))
                }),
                (Ok((stream, _)), Some(secure)) => Box::new(move || {
                    stream.set_nonblocking(false)?;
                    Ok(Arc::new(tls::accept(stream, &secure)?))
                }),
                (Err(error), _) => return nobody(error),
            },
        };
        Ok(Some(connecting))
    }
}

impl AsRawFd for Listener {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        match self {
            Self::Unix(socket, _) => socket.listener().as_raw_fd(),
            Self::Tcp(listener, _) => listener.as_raw_fd(),
        }
    }
}
