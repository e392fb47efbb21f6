//! One connection to a guest that lends memory: whole messages from the channel to the guest, and its replies back.
//!
//! The guest decides. What is looked at here is what the monitor has to know itself: who has attached, and that nobody gets a
//! message past the limits of the protocol.

use std::sync::Arc;
use std::time::{Duration, Instant};

use gmem_core::pager::channel::{Channel, ChannelError, Received};
use gmem_core::pager::wire::body::{self, Attach};
use gmem_core::pager::wire::{Flags, Header, Kind, Status};
use gmem_devices::virtio::gmem::{Line, Message};

use super::donate::Clients;

/// How long the guest may take for one request.
const PATIENCE: Duration = Duration::from_secs(60);

/// A connection.
pub(super) struct Relay<'a> {
    pub(super) clients: &'a Clients,
    pub(super) channel: &'a Arc<dyn Channel>,
    pub(super) line: Line,
}

/// The connection is to end; what the client is told first, if it can be told anything.
struct End(Option<(Header, Status)>);

impl From<ChannelError> for End {
    fn from(error: ChannelError) -> Self {
        match error {
            ChannelError::Malformed(_) => Self(Some((Header::default(), Status::BadRequest))),
            _ => Self(None),
        }
    }
}

impl Relay<'_> {
    /// Until one side ends it.
    pub(super) fn run(self) {
        let mut client = None;
        let mut head = Vec::new();
        let End(told) = loop {
            match self.next(&mut client, &mut head) {
                Ok(()) => {}
                Err(end) => break end,
            }
        };
        if let Some((request, status)) = told {
            // It may have gone already.
            let _ = self.channel.send(request.reply(status), &[], &[]);
        }
        self.channel.close();
        if let Some(client) = client {
            self.clients.left(client, self.channel, Instant::now());
        }
    }

    fn next(&self, client: &mut Option<[u8; 16]>, head: &mut Vec<u8>) -> Result<(), End> {
        let Some(Received { header, kind, .. }) = self.channel.receive(None, head)? else {
            return Ok(());
        };
        let refused = |status| Err(End(Some((header, status))));
        // There is no shared memory here.
        if header.has(Flags::REPLY | Flags::EVENT | Flags::RING) {
            return refused(Status::BadRequest);
        }
        if self.clients.is_draining() {
            match kind {
                Kind::Attach => return refused(Status::Draining),
                Kind::Write | Kind::Exchange => {
                    return Ok(self
                        .channel
                        .send(header.reply(Status::Draining), &[], &[])?);
                }
                _ => {}
            }
        }
        let name = match kind {
            Kind::Attach => body::read::<Attach>(head).ok().map(|it| it.client),
            _ => None,
        };
        let mut data = vec![0; header.data_len.get() as usize];
        self.channel.receive_data(&mut data)?;
        let head = head.clone();
        let message = Message { header, head, data };
        let reply = match self.line.ask(message, PATIENCE) {
            Ok(reply) => reply,
            // What the guest has of the client's pages nobody knows. The client finds out.
            Err(_) => return Err(End(None)),
        };
        let (_, status) = reply.header.check().map_err(ChannelError::from)?;
        let served = matches!(status, Status::Ok | Status::Quota);
        match (kind, name) {
            (Kind::Attach, Some(name)) if served => {
                *client = Some(name);
                self.clients.came(name, self.channel);
            }
            (Kind::Detach, _) if status == Status::Ok => {
                if let Some(name) = client.take() {
                    self.clients.detached(name);
                }
            }
            _ => {}
        }
        self.channel.send(reply.header, &reply.head, &reply.data)?;
        if kind == Kind::Attach {
            // Whoever attaches while the end begins hears of it like the others, and not before it is attached.
            self.clients.remind(self.channel);
        }
        match status {
            _ if kind == Kind::Detach => Err(End(None)),
            Status::BadRequest
            | Status::Denied
            | Status::Version
            | Status::Cycle
            | Status::Busy => Err(End(None)),
            Status::Draining if kind == Kind::Attach => Err(End(None)),
            _ => Ok(()),
        }
    }
}
