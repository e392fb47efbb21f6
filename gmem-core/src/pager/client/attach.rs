//! A client attaches, and attaches again.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pager_wire::body::{self, Attach, Attached};
use pager_wire::{Flags, Header, Kind, Status, VERSION};
use zerocopy::IntoBytes;

use super::super::channel::tls::BadCredentials;
use super::super::channel::{Channel, ChannelError};
use super::link::State;
use super::{Client, LAST_RETRY};
use crate::bytes::Bytes;
use crate::page::PAGE_SIZE;

/// Makes connections.
pub type Dialer = Box<dyn Fn() -> io::Result<Arc<dyn Channel>> + Send + Sync>;

/// How long a server may take to answer who attaches.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a client wants.
#[derive(Clone, Debug)]
pub struct Options {
    /// Room for so many pages.
    pub pages: u64,
    /// [`Features`](body::Features) that it would like.
    pub features: u32,
    /// What it has to know; zeros if nothing.
    pub token: [u8; 32],
    /// See [`Attach::origin`].
    pub origin: [u8; 16],
}

/// Why a client could not attach.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// No connection.
    #[error("cannot connect: {0}; is `gmem pager serve` running there?")]
    Dial(#[from] io::Error),
    /// It broke.
    #[error("the connection broke: {0}; is it a pager that listens there?")]
    Channel(#[from] ChannelError),
    /// It says nothing.
    #[error("no answer within {PATIENCE:?}; is it a pager that listens there?")]
    Silent,
    /// It has not as much room.
    #[error("it has room for {found} for this client, expected {}; ask for less, or raise its --quota or its sizes", Bytes(*wanted))]
    Room {
        /// What was asked for.
        wanted: u64,
        /// What there is.
        found: Bytes,
    },
    /// It refuses.
    #[error("refused: {0}{advice}", advice = advice(*.1))]
    Refused(&'static str, Status),
    /// Not with these certificates.
    #[error(transparent)]
    Credentials(#[from] BadCredentials),
    /// It speaks nonsense.
    #[error("it answered what is no answer to an attach")]
    Nonsense,
}

impl AttachError {
    /// Whether the configuration is wrong, as opposed to the host or the server.
    pub fn is_usage(&self) -> bool {
        matches!(
            self,
            Self::Room { .. } | Self::Refused(..) | Self::Credentials(_)
        )
    }
}

fn advice(status: Status) -> &'static str {
    match status {
        Status::Denied => "; give the server's token, or end the client that has this name",
        Status::Busy => "; raise its --clients",
        Status::Cycle => "; lend what is not borrowed from there",
        Status::Draining => "; wait for the next one",
        _ => "",
    }
}

impl Client {
    /// Attaches to the server that `dialer` reaches, called `name` in messages.
    pub fn attach(name: String, dialer: Dialer, options: Options) -> Result<Self, AttachError> {
        let mut id = [0; 16];
        getrandom::fill(&mut id).map_err(|error| io::Error::other(error.to_string()))?;
        let client = Self {
            name,
            dialer,
            options,
            id,
            state: Mutex::new(State::new()),
            bell: Default::default(),
        };
        client.connect()?;
        Ok(client)
    }

    /// How many requests may be under way, and what else the server said.
    fn connect(&self) -> Result<(), AttachError> {
        let channel = (self.dialer)()?;
        let attach = Attach {
            oldest: VERSION.into(),
            newest: VERSION.into(),
            features: self.options.features.into(),
            client: self.id,
            ticket: self.lock().ticket,
            pages: self.options.pages.into(),
            origin: self.options.origin,
            token: self.options.token,
        };
        let request = Header::request(Kind::Attach, 0);
        let answered = channel
            .send(request, attach.as_bytes(), &[])
            .map_err(AttachError::from)
            .and_then(|()| answer(&*channel));
        let (attached, status) = match answered {
            Ok(answered) => answered,
            Err(error) => {
                channel.close();
                return Err(error);
            }
        };
        if status == Status::Quota {
            let _ = channel.send(Header::request(Kind::Detach, 0), &[], &[]);
            channel.close();
            return Err(AttachError::Room {
                wanted: self.options.pages * PAGE_SIZE as u64,
                found: Bytes(attached.pages.get() * PAGE_SIZE as u64),
            });
        }
        let slots = match channel.memory() {
            Some(_) => attached
                .credits
                .get()
                .min(attached.slots.get().min(64) as u16),
            None => attached.credits.get(),
        };
        let mut state = self.lock();
        // Another run of the server, or one that has forgotten this client, has nothing of its pages.
        let known = (state.incarnation, state.ticket) == (attached.incarnation, attached.ticket);
        if !known {
            (state.incarnation, state.ticket) = (attached.incarnation, attached.ticket);
            state.life += 1;
        }
        state.connected(channel, attached.features.get(), slots.max(1));
        self.ring(&state);
        Ok(())
    }

    /// Connects again, if the connection has broken and it is time to.
    pub(super) fn revive(&self) {
        {
            let mut state = self.lock();
            let now = Instant::now();
            if state.link.is_some() || now < state.retry.0 {
                return;
            }
            let wait = state.retry.1;
            state.retry = (now + wait, (wait * 2).min(LAST_RETRY));
        }
        if let Err(error) = self.connect() {
            self.lock().broken = error.to_string();
        }
    }
}

fn answer(channel: &dyn Channel) -> Result<(Attached, Status), AttachError> {
    let mut head = Vec::new();
    let until = Instant::now() + PATIENCE;
    loop {
        let received = channel
            .receive(Some(until), &mut head)?
            .ok_or(AttachError::Silent)?;
        if received.header.has(Flags::EVENT) {
            continue;
        }
        return match received.status {
            Status::Ok | Status::Quota
                if received.kind == Kind::Attach && received.header.has(Flags::REPLY) =>
            {
                let attached = body::read(&head).map_err(|_| AttachError::Nonsense)?;
                Ok((attached, received.status))
            }
            Status::Ok | Status::Quota => Err(AttachError::Nonsense),
            refused => Err(AttachError::Refused(refused.text(), refused)),
        };
    }
}
