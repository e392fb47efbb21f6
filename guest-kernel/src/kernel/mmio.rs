//! Windows of virtio devices.
//!
//! One plain `mov` each: KVM decodes the instruction, and offsets need not be multiples of the width.

use core::arch::asm;
use gmem_wire::layout::{VIRTIO_DEVICES, VIRTIO_START, VIRTIO_WINDOW};

/// Address of `width` bytes in a window.
fn address(device: usize, offset: u64, width: u8) -> u64 {
    let inside = offset + u64::from(width) <= VIRTIO_WINDOW;
    assert!(device < VIRTIO_DEVICES && inside, "beyond a window");
    VIRTIO_START + VIRTIO_WINDOW * device as u64 + offset
}

/// Reads 1, 2, 4 or 8 bytes.
pub fn read(device: usize, offset: u64, width: u8) -> u64 {
    let at = address(device, offset, width);
    let value: u64;
    // SAFETY: an address in the hole for devices, where no memory is; the monitor maps it in every guest. What a device
    // does to memory it does as another CPU would, at places that are only used through atomics.
    unsafe {
        match width {
            1 => asm!("movzx eax, byte ptr [{0}]", in(reg) at, out("rax") value, options(nostack)),
            2 => asm!("movzx eax, word ptr [{0}]", in(reg) at, out("rax") value, options(nostack)),
            4 => asm!("mov eax, [{0}]", in(reg) at, out("rax") value, options(nostack)),
            _ => asm!("mov rax, [{0}]", in(reg) at, out("rax") value, options(nostack)),
        }
    }
    value
}

/// Writes the low 1, 2, 4 or 8 bytes of `value`.
pub fn write(device: usize, offset: u64, width: u8, value: u64) {
    let at = address(device, offset, width);
    // SAFETY: as for `read`.
    unsafe {
        match width {
            1 => asm!("mov [{0}], al", in(reg) at, in("rax") value, options(nostack)),
            2 => asm!("mov [{0}], ax", in(reg) at, in("rax") value, options(nostack)),
            4 => asm!("mov [{0}], eax", in(reg) at, in("rax") value, options(nostack)),
            _ => asm!("mov [{0}], rax", in(reg) at, in("rax") value, options(nostack)),
        }
    }
}
