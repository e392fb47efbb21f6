//! The bundled guest.

/// Its ELF image: see the package `guest-kernel`, and `gmem_wire` for how it is entered.
pub const IMAGE: &[u8] = include_bytes!(env!("GMEM_GUEST_IMAGE"));

#[cfg(test)]
mod tests {
    use super::IMAGE;

    #[test]
    fn the_image_is_a_64_bit_elf_with_a_pvh_note() {
        assert_eq!(IMAGE[..5], *b"\x7fELF\x02");
        // XEN_ELFNOTE_PHYS32_ENTRY: sizes of name and value, type, name.
        let note = *b"\x04\0\0\0\x04\0\0\0\x12\0\0\0Xen\0";
        assert!(IMAGE.windows(note.len()).any(|bytes| bytes == note));
    }
}
