//! Who holds pages for a tier: a pager's server, or a store that speaks another protocol.

use std::time::Instant;

use pager_wire::Page;

/// What is asked of a holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Keep these pages, whose bytes come along.
    Write,
    /// Give these pages back.
    Read,
    /// The same, before anybody waits for them: the bytes are taken out of the way when they arrive.
    ReadAhead,
    /// Forget these pages.
    Free,
}

/// A request under way.
#[derive(Debug, PartialEq, Eq)]
pub struct Ticket {
    /// Of the connection.
    pub(crate) epoch: u64,
    /// Of the request.
    pub(crate) id: u64,
}

/// Why a holder did not do what was asked. What it holds may be lost where it says so, and is as it was otherwise.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HolderError {
    /// There is no connection, or it broke: worth another try.
    #[error("no connection: {0}")]
    Down(String),
    /// No answer in time: worth another try.
    #[error("no answer in time")]
    Late,
    /// It says no.
    #[error("refused: {0}")]
    Refused(&'static str),
    /// It gives pages back and takes none.
    #[error("about to end, takes no pages any more")]
    Draining,
}

/// How a holder is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Health {
    /// It can be asked.
    pub up: bool,
    /// Which life of it this is: whoever holds nothing of what it held has begun a new one.
    pub life: u64,
    /// It is about to end, and should be relieved of what it holds.
    pub draining: bool,
}

/// Holds pages by their numbers, with a version and a seal each.
///
/// All methods may be called from any thread. Requests of one thread about one page take effect in their order.
pub trait Holder: Send + Sync {
    /// Its name in messages.
    fn name(&self) -> &str;

    /// How it is doing.
    fn health(&self) -> Health;

    /// What is wrong with it, in words, if something is.
    fn trouble(&self) -> Option<String>;

    /// Whether it keeps each version of a page until that is freed; else a page that is written takes the place of older ones.
    fn keeps_versions(&self) -> bool {
        false
    }

    /// Asks for something, of at most [`MAX_PAGES`](pager_wire::MAX_PAGES) pages; waits only while too much is under way. `data` are the bytes of pages to
    /// be written, else empty.
    fn start(
        &self,
        verb: Verb,
        pages: &[Page],
        data: &[u8],
        until: Instant,
    ) -> Result<Ticket, HolderError>;

    /// Waits for the end of a request. Of pages read, `found` says what they are (version 0: it has no such page), and `into`
    /// gets their bytes.
    fn finish(
        &self,
        ticket: Ticket,
        found: &mut Vec<Page>,
        into: &mut [u8],
        until: Instant,
    ) -> Result<(), HolderError>;

    /// How a request to write or free ended, if it has; the ticket is of no use then.
    fn ended(&self, ticket: &Ticket) -> Option<Result<(), HolderError>>;

    /// Takes answers that arrive until a moment, or until there is one.
    fn receive(&self, until: Instant);

    /// Looks after it, without waiting long: takes what has arrived, connects again. To be called ten times a second by one
    /// thread.
    fn tend(&self);

    /// Says goodbye: it need not keep anything any more.
    fn leave(&self);
}
