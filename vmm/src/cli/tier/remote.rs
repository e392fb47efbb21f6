//! The keys of a remote tier.

use std::path::PathBuf;
use std::time::Duration;

use gmem_core::hnode::remote::{HOLDERS, OnFailure, Options};
use gmem_core::pager::address::{Address, Admission, BadAddress};
use gmem_core::pager::channel::tls::{BadCredentials, Credentials};

use super::super::keys::{KeyError, bad_value, unknown};
use super::super::pager::token;
use crate::memory::plan::RemoteSpec;

/// How long a page may be away before that matters, if nobody says otherwise.
const DEADLINE: Duration = Duration::from_secs(10);

/// What is wrong with a remote tier.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum RemoteError {
    /// Nobody holds its pages.
    #[error(
        "a remote tier needs somebody who holds its pages; give remote:SIZE,url=unix:PATH or url=tcp://HOST:PORT"
    )]
    NoUrl,
    /// Too many do.
    #[error("a remote tier has at most {HOLDERS} urls, {0} were given")]
    ManyUrls(usize),
    /// The same twice: a mirror in one place.
    #[error("{0} is given twice; mirrored pages want holders that do not fail together")]
    Twice(Address),
    /// Not an address.
    #[error(transparent)]
    Address(#[from] BadAddress),
    /// A token that cannot be read.
    #[error("token={}: {message}; give a file of 32 bytes", path.display())]
    Token {
        /// The file.
        path: PathBuf,
        /// What the host says.
        message: String,
    },
    /// Neither secured nor said not to be.
    #[error(
        "tcp:// is secured by TLS with certificates on both sides; give ca=FILE,cert=FILE,key=FILE, or tls=off without them on a \
         network that nobody else is on"
    )]
    Credentials,
    /// Certificates that cannot be used.
    #[error(transparent)]
    BadCredentials(#[from] BadCredentials),
    /// A key or its value.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// Reads `key=value` words; `url` may come several times: each holds all pages.
pub(super) fn parse<'a>(words: impl Iterator<Item = &'a str>) -> Result<RemoteSpec, RemoteError> {
    let mut spec = RemoteSpec {
        holders: Vec::new(),
        admission: Admission::default(),
        options: Options {
            encrypted: false,
            deadline: DEADLINE,
            on_failure: OnFailure::Wait,
        },
    };
    let (mut encrypted, mut plain) = (None, false);
    let [mut ca, mut cert, mut key_file] = [const { None::<PathBuf> }; 3];
    let mut seen: Vec<&str> = Vec::new();
    for word in words {
        let (key, value) = word
            .split_once('=')
            .ok_or_else(|| KeyError::NotKeyValue(word.into()))?;
        if key != "url" && seen.contains(&key) {
            return Err(KeyError::Duplicate(key.into()).into());
        }
        seen.push(key);
        match (key, value) {
            ("url", _) => {
                let address = Address::parse(value)?;
                if spec.holders.contains(&address) {
                    return Err(RemoteError::Twice(address));
                }
                spec.holders.push(address);
            }
            ("token", path) => {
                spec.admission.token =
                    token(path.as_ref()).map_err(|error| RemoteError::Token {
                        path: path.into(),
                        message: error.to_string(),
                    })?;
            }
            ("deadline_ms", _) => {
                let millis = value
                    .parse()
                    .ok()
                    .filter(|millis| (1..=3_600_000).contains(millis));
                let millis = millis
                    .ok_or_else(|| bad_value("deadline_ms", value, "1 to 3600000 milliseconds"))?;
                spec.options.deadline = Duration::from_millis(millis);
            }
            ("on_failure", "wait") => spec.options.on_failure = OnFailure::Wait,
            ("on_failure", "fail") => spec.options.on_failure = OnFailure::Fail,
            ("on_failure", _) => return Err(bad_value("on_failure", value, "wait or fail").into()),
            ("ca", _) => ca = Some(value.into()),
            ("cert", _) => cert = Some(value.into()),
            ("key", _) => key_file = Some(value.into()),
            ("tls", "off") => plain = true,
            ("tls", "on") => plain = false,
            ("tls", _) => return Err(bad_value("tls", value, "on or off").into()),
            ("encrypt", "on") => encrypted = Some(true),
            ("encrypt", "off") => encrypted = Some(false),
            ("encrypt", "auto") => encrypted = None,
            ("encrypt", _) => return Err(bad_value("encrypt", value, "on, off or auto").into()),
            _ => {
                let remedy = "its keys are url, deadline_ms, on_failure, encrypt, token, ca, cert, key and tls";
                return Err(unknown("a remote tier", key, remedy).into());
            }
        }
    }
    match spec.holders.len() {
        0 => return Err(RemoteError::NoUrl),
        1..=HOLDERS => {}
        many => return Err(RemoteError::ManyUrls(many)),
    }
    let tcp = spec
        .holders
        .iter()
        .any(|holder| matches!(holder, Address::Tcp(_)));
    spec.admission.credentials = match (ca, cert, key_file) {
        (Some(ca), Some(cert), Some(key)) if !plain => Some(Credentials { ca, cert, key }),
        (None, None, None) if plain || !tcp => None,
        _ => return Err(RemoteError::Credentials),
    };
    if let Some(credentials) = &spec.admission.credentials {
        credentials.client()?;
    }
    spec.options.encrypted =
        encrypted.unwrap_or_else(|| spec.holders.iter().any(Address::is_exposed));
    Ok(spec)
}
