//! ELF notes: what a kernel says of itself.

use super::bytes::u32_at;

/// Lengths of name and descriptor, and the type.
const HEADER: usize = 12;

/// Whether one of `notes`, the contents of a note segment, is Linux's.
///
/// Every Linux of the last decade has one (`LINUX_ELFNOTE_BUILD_SALT`, `LINUX_ELFNOTE_LTO_INFO`).
pub(super) fn are_linux(mut notes: &[u8]) -> bool {
    while notes.len() >= HEADER {
        let padded = |offset| (u32_at(notes, offset) as usize).next_multiple_of(4);
        let (name, descriptor) = (padded(0), padded(4));
        if notes[HEADER..].starts_with(b"Linux\0") {
            return true;
        }
        notes = notes.get(HEADER + name + descriptor..).unwrap_or_default();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(name: &[u8], descriptor: &[u8]) -> Vec<u8> {
        let mut note = Vec::new();
        for word in [name.len(), descriptor.len(), 0x12] {
            note.extend((word as u32).to_le_bytes());
        }
        for part in [name, descriptor] {
            note.extend(part);
            note.resize(note.len().next_multiple_of(4), 0);
        }
        note
    }

    #[test]
    fn a_linux_note_is_found_behind_others() {
        let others = [note(b"GNU\0", &[7; 20]), note(b"Xen\0", &[1])].concat();
        assert!(!are_linux(&others));
        assert!(are_linux(&[others, note(b"Linux\0", &[0])].concat()));
    }

    #[test]
    fn damaged_notes_are_not_linux_and_end() {
        assert!(!are_linux(&[]));
        assert!(!are_linux(&[0xff; 64]));
        assert!(!are_linux(&[0; 64]));
        assert!(!are_linux(&note(b"Linux\0", &[0])[..HEADER + 4]));
    }
}
