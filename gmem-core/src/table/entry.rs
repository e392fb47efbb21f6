//! The word of one logical page or block: its state, where its bytes are, and its flags.

use std::fmt;

/// What a word says of its page or block. Exactly one holds at any time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Never written, or freed: holds no frame anywhere and reads as zeros.
    Untouched,
    /// Its frame lies beneath the guest; vCPUs reach it without asking.
    Mapped,
    /// Its bytes are held in a frame of an hnode and no accessor reaches them.
    Held(Place),
    /// Of a block: its pages are described one by one in the block's leaf.
    Split,
    /// Of a page: the word of its block describes it.
    InBlock,
}

/// A frame of an hnode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// Index of the hnode: [`Place::RAM`] is the arena, 1 and up are the tiers in their order.
    pub hnode: u8,
    /// The hnode's own name for the frame. For a block, that of its first page.
    pub frame: Frame,
}

impl Place {
    /// Index of the `ram` hnode.
    pub const RAM: u8 = 0;
    /// The largest index of an hnode.
    pub const MAX_HNODE: u8 = 15;
}

/// An hnode's name for one of its frames: 36 bits, of pages 256 TiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frame(pub u64);

impl Frame {
    /// The largest name of a frame.
    pub const MAX: u64 = (1 << 36) - 1;
}

/// Modifiers of an entry, and what is known of the page's uses.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Flags(u32);

/// Bits of a history, and how far up they stand in the flags.
const HISTORY: (u32, u32) = (16, 4);

impl Flags {
    /// No flag.
    pub const NONE: Self = Self(0);
    /// Stays where it is: eviction passes it by.
    pub const PINNED: Self = Self(1);
    /// Differs from any copy that was kept. Always set while mapped, because a moved page is writable.
    pub const DIRTY: Self = Self(2);
    /// Seen to be used since the clock's hand passed.
    pub const ACCESSED: Self = Self(4);
    /// The guest said that it will need it.
    pub const WILL_NEED: Self = Self(8);

    /// The eviction policy's notes of the page's uses: 16 bits, zero of a page that it has not seen.
    pub const fn history(self) -> u16 {
        (self.0 >> HISTORY.1) as u16
    }

    /// The same flags with other notes.
    pub const fn with_history(self, history: u16) -> Self {
        Self(self.0 & !(0xffff << HISTORY.1) | (history as u32) << HISTORY.1)
    }

    /// Both sets of flags; notes in one of them at most.
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// These flags less `other`.
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether all of `other` are set.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

impl fmt::Debug for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [
            (Self::PINNED, "pinned"),
            (Self::DIRTY, "dirty"),
            (Self::ACCESSED, "accessed"),
            (Self::WILL_NEED, "will-need"),
        ];
        f.debug_set()
            .entries(
                names
                    .iter()
                    .filter(|(flag, _)| self.has(*flag))
                    .map(|(_, name)| name),
            )
            .finish()
    }
}

/// An entry's word, without its lock:
///
/// | bits | field |
/// |---|---|
/// | 0 | lock, owned by [`Word`](super::lock::Word) |
/// | 1 to 3 | state |
/// | 4 to 7 | hnode |
/// | 8 to 11 | modifiers |
/// | 12 to 27 | history |
/// | 28 to 63 | frame |
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Entry(u64);

/// The flags' bits, and where the frame begins.
const FLAGS: u32 = (1 << (HISTORY.0 + HISTORY.1)) - 1;
const FRAME: u32 = 8 + HISTORY.0 + HISTORY.1;

const UNTOUCHED: u64 = 0;
const MAPPED: u64 = 1;
const HELD: u64 = 2;
const SPLIT: u64 = 3;
const IN_BLOCK: u64 = 4;

impl Entry {
    /// An entry in `state` with `flags`.
    pub const fn new(state: State, flags: Flags) -> Self {
        let (code, place) = match state {
            State::Untouched => (UNTOUCHED, 0),
            State::Mapped => (MAPPED, 0),
            State::Held(place) => {
                debug_assert!(place.hnode <= Place::MAX_HNODE && place.frame.0 <= Frame::MAX);
                (HELD, (place.hnode as u64) << 4 | place.frame.0 << FRAME)
            }
            State::Split => (SPLIT, 0),
            State::InBlock => (IN_BLOCK, 0),
        };
        Self(code << 1 | (flags.0 as u64) << 8 | place)
    }

    /// An entry held at frame `frame` of hnode `hnode`.
    pub const fn held(hnode: u8, frame: Frame, flags: Flags) -> Self {
        Self::new(State::Held(Place { hnode, frame }), flags)
    }

    /// The entry in the bits of a word; the lock bit is ignored.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits & !1)
    }

    /// The word's bits, lock bit clear.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// The state.
    pub const fn state(self) -> State {
        match self.0 >> 1 & 7 {
            UNTOUCHED => State::Untouched,
            MAPPED => State::Mapped,
            HELD => State::Held(Place {
                hnode: (self.0 >> 4 & 0xf) as u8,
                frame: Frame(self.0 >> FRAME),
            }),
            SPLIT => State::Split,
            _ => State::InBlock,
        }
    }

    /// The flags.
    pub const fn flags(self) -> Flags {
        Flags((self.0 >> 8) as u32 & FLAGS)
    }

    /// The same entry with other flags.
    pub const fn with_flags(self, flags: Flags) -> Self {
        Self(self.0 & !((FLAGS as u64) << 8) | (flags.0 as u64) << 8)
    }

    /// What the entry of page `index` of a block says when this entry is the whole block's.
    pub const fn of_page_in_block(self, index: usize) -> Self {
        match self.state() {
            State::Held(place) => Self::held(
                place.hnode,
                Frame(place.frame.0 + index as u64),
                self.flags(),
            ),
            _ => self,
        }
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?}", self.state(), self.flags())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_entry_gives_back_what_was_put_in(hnode in 0u8..16, frame in 0u64..=Frame::MAX, flags in 0u32..16, history: u16) {
            let place = Place { hnode, frame: Frame(frame) };
            let flags = Flags(flags).with_history(history);
            let entry = Entry::new(State::Held(place), flags);
            prop_assert_eq!(entry.state(), State::Held(place));
            prop_assert_eq!(entry.flags(), flags);
            prop_assert_eq!(entry.flags().history(), history);
            prop_assert_eq!(Entry::from_bits(entry.bits() | 1), entry);
            prop_assert_eq!(entry.bits() & 1, 0);
        }
    }

    #[test]
    fn all_zero_bits_are_an_untouched_page() {
        assert_eq!(
            Entry::from_bits(0),
            Entry::new(State::Untouched, Flags::NONE)
        );
    }

    #[test]
    fn a_page_of_a_held_block_is_held_in_the_frame_as_far_in() {
        let block = Entry::held(3, Frame(1024), Flags::DIRTY);
        assert_eq!(
            block.of_page_in_block(7),
            Entry::held(3, Frame(1031), Flags::DIRTY)
        );
    }
}
