//! Who has pages here.

use super::CLIENTS;
use crate::math::random::mix;
use pager_wire::Status;
use pager_wire::body::Attach;

/// Nobody's connection.
pub(super) const AWAY: u64 = 0;

/// A client.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Client {
    /// As it calls itself.
    name: [u8; 16],
    pub(super) ticket: [u8; 16],
    /// Where it is reached, or [`AWAY`].
    pub(super) connection: u64,
    /// Cycles: since when it is away.
    since: u64,
    /// Pages that it has room for.
    pub(super) allocated: u64,
    /// Pages that it has.
    pub(super) stored: u64,
    pub(super) read: u64,
    pub(super) written: u64,
}

/// All of them.
pub(super) struct Clients {
    all: [Option<Client>; CLIENTS],
    secrets: [u64; 2],
    /// How many there have been.
    pub(super) admitted: u64,
}

impl Clients {
    /// None. Tickets are made of `secrets`.
    pub(super) fn new(secrets: [u64; 2]) -> Self {
        Self {
            all: [None; CLIENTS],
            secrets,
            admitted: 0,
        }
    }

    /// Sixteen bytes that nobody guesses who does not know both secrets.
    pub(super) fn random(&mut self, now: u64) -> [u8; 16] {
        let mut bytes = [0; 16];
        for word in bytes.as_chunks_mut().0 {
            let [first, second] = &mut self.secrets;
            *second = mix(second.wrapping_add(now));
            *word = mix(*first ^ mix(*second ^ now)).to_le_bytes();
            *first = mix(first.wrapping_add(*second));
        }
        bytes
    }

    /// The client with a number.
    pub(super) fn at(&mut self, number: usize) -> Option<&mut Client> {
        self.all.get_mut(number)?.as_mut()
    }

    /// Who is reached by this connection.
    pub(super) fn by_connection(&self, connection: u64) -> Option<usize> {
        let is = |it: &Option<Client>| it.is_some_and(|it| it.connection == connection);
        self.all.iter().position(is)
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.all.iter().flatten().count()
    }

    /// Pages that all of them have room for.
    pub(super) fn promised(&self) -> u64 {
        self.all.iter().flatten().map(|it| it.allocated).sum()
    }

    /// The number of who attaches: a known one, if it can prove it, or a new one, if there is room.
    pub(super) fn admit(
        &mut self,
        attach: &Attach,
        connection: u64,
        now: u64,
    ) -> Result<usize, Status> {
        let is = |it: &Option<Client>| it.is_some_and(|it| it.name == attach.client);
        if let Some(number) = self.all.iter().position(is) {
            return match &mut self.all[number] {
                Some(known) if same(&known.ticket, &attach.ticket) => {
                    known.connection = connection;
                    Ok(number)
                }
                _ => Err(Status::Denied),
            };
        }
        let free = self.all.iter().position(Option::is_none);
        let number = free.ok_or(Status::Busy)?;
        let ticket = self.random(now);
        self.all[number] = Some(Client {
            name: attach.client,
            ticket,
            connection,
            ..Client::default()
        });
        self.admitted += 1;
        Ok(number)
    }

    /// A connection has ended.
    pub(super) fn left(&mut self, connection: u64, now: u64) {
        if let Some(number) = self.by_connection(connection)
            && let Some(client) = self.at(number)
        {
            (client.connection, client.since) = (AWAY, now);
        }
    }

    /// Somebody who has been away for `keep` cycles.
    pub(super) fn lost(&self, keep: u64, now: u64) -> Option<usize> {
        let lost = |it: &Option<Client>| {
            it.is_some_and(|it| it.connection == AWAY && now.saturating_sub(it.since) > keep)
        };
        self.all.iter().position(lost)
    }

    /// A client that has no pages any more is gone.
    pub(super) fn remove(&mut self, number: usize) {
        self.all[number] = None;
    }
}

/// Whether secrets are the same, in a time that does not tell where they differ.
pub(super) fn same(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && one.iter().zip(other).fold(0, |sum, (a, b)| sum | (a ^ b)) == 0
}
