//! Where holders are, as people write it: `unix:/run/pager.sock`, `tcp://10.0.0.7:7070`.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::channel::tls::Credentials;
use super::channel::{Channel, tcp, tls, unix};
use super::client::{AttachError, Client, Dialer, Options};
use super::holder::Holder;
use super::redis_store::RedisStore;
use super::wire::body::Features;

/// How long a connection may take to be made.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where a holder is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// A pager's server on this host.
    Unix(PathBuf),
    /// A pager's server, `host:port`.
    Tcp(String),
    /// Redis or Valkey: servers of one cluster, or one server, each `host:port`.
    Redis(Vec<String>),
}

/// How a client is let in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Admission {
    /// What the server wants to hear; zeros if nothing.
    pub token: [u8; 32],
    /// With them, TCP is secured by TLS.
    pub credentials: Option<Credentials>,
}

/// What is no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' is no address of a holder of pages; give unix:PATH, tcp://HOST:PORT or redis://HOST:PORT[+HOST:PORT...]"
)]
pub struct BadAddress(pub String);

impl Address {
    /// Reads an address.
    pub fn parse(text: &str) -> Result<Self, BadAddress> {
        let bad = || BadAddress(text.into());
        if let Some(path) = text.strip_prefix("unix:") {
            return match path.is_empty() {
                true => Err(bad()),
                false => Ok(Self::Unix(path.into())),
            };
        }
        let is_place = |at: &str| {
            let split = at.rsplit_once(':');
            split.is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
        };
        if let Some(places) = text.strip_prefix("redis://") {
            let places: Vec<String> = places.split('+').map(String::from).collect();
            return match places.iter().all(|place| is_place(place)) {
                true => Ok(Self::Redis(places)),
                false => Err(bad()),
            };
        }
        match text.strip_prefix("tcp://") {
            Some(at) if is_place(at) => Ok(Self::Tcp(at.into())),
            _ => Err(bad()),
        }
    }

    /// Whether others may read, or change, what goes there.
    pub fn is_exposed(&self) -> bool {
        !matches!(self, Self::Unix(_))
    }

    /// Attaches to the holder, with room for `pages`.
    pub fn holder(
        &self,
        pages: u64,
        admission: &Admission,
    ) -> Result<Arc<dyn Holder>, AttachError> {
        let options = Options {
            pages,
            features: Features::RING,
            token: admission.token,
            origin: [0; 16],
        };
        let credentials = admission.credentials.as_ref();
        let secure = credentials.map(Credentials::client).transpose()?;
        let dialer: Dialer = match (self.clone(), secure) {
            (Self::Unix(path), _) => {
                Box::new(move || Ok(Arc::new(unix::connect(&path)?) as Arc<dyn Channel>))
            }
            (Self::Redis(places), _) => {
                return Ok(Arc::new(RedisStore::new(self.to_string(), &places)?));
            }
            (Self::Tcp(at), None) => {
                Box::new(move || Ok(Arc::new(tcp::connect(&at, PATIENCE)?) as Arc<dyn Channel>))
            }
            (Self::Tcp(at), Some(secure)) => Box::new(move || {
                Ok(Arc::new(tls::connect(&at, PATIENCE, &secure)?) as Arc<dyn Channel>)
            }),
        };
        Ok(Arc::new(Client::attach(self.to_string(), dialer, options)?))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(at) => write!(f, "tcp://{at}"),
            Self::Redis(places) => write!(f, "redis://{}", places.join("+")),
        }
    }
}
