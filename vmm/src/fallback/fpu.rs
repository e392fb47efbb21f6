//! A vCPU's extended state as KVM exchanges it: an XSAVE area in its standard format.
//!
//! Intel SDM volume 1, 13.4 (the area) and 10.5 (its first 512 bytes). 4 KiB hold every state that a guest
//! can have here: larger ones (AMX) exist only where this process asks for them by
//! `arch_prctl(ARCH_REQ_XCOMP_GUEST_PERM)`, which it does not.

use std::arch::x86_64::_fxsave64;
use std::sync::OnceLock;

use kvm_bindings::kvm_xsave;

/// Bytes of KVM's area.
pub(super) const AREA: usize = 4096;
/// State component of x87, as a bit of XCR0 and of XSTATE_BV.
pub(super) const X87: u64 = 1 << 0;
/// State component of XMM registers and MXCSR.
pub(super) const SSE: u64 = 1 << 1;
/// State component of the upper halves of YMM registers.
pub(super) const AVX: u64 = 1 << 2;

/// Where things are in the area, bytes.
pub(super) mod at {
    use std::ops::Range;

    /// x87 control word.
    pub const CONTROL: usize = 0;
    /// x87 status word.
    pub const STATUS: usize = 2;
    /// Which x87 registers are in use, a bit each.
    pub const TAGS: usize = 4;
    /// Where the last x87 instruction was.
    pub const INSTRUCTION_POINTER: usize = 8;
    /// Where its memory operand was.
    pub const DATA_POINTER: usize = 16;
    /// Control and status of SSE.
    pub const MXCSR: usize = 24;
    /// Bits that MXCSR has.
    pub const MXCSR_MASK: usize = 28;
    /// What x87 has before its registers.
    pub const X87_HEAD: Range<usize> = 0..24;
    /// ST(0) to ST(7), 16 bytes each.
    pub const X87_REGISTERS: Range<usize> = 32..160;
    /// XMM0 to XMM15.
    pub const XMM: Range<usize> = 160..416;
    /// Components that are not in their initial state.
    pub const XSTATE_BV: usize = 512;
    /// The header.
    pub const HEADER: Range<usize> = 512..576;
    /// The other components.
    pub const EXTENDED: usize = 576;
}

/// Control word after FNINIT.
pub(super) const INITIAL_CONTROL: u16 = 0x037f;
/// MXCSR after a reset.
pub(super) const INITIAL_MXCSR: u32 = 0x1f80;
/// Bits of MXCSR on a processor that does not say (SDM volume 1, 11.6.6).
const DEFAULT_MXCSR_MASK: u32 = 0xffbf;

/// The state. It knows whether it was changed.
pub(super) struct Fpu {
    area: Box<kvm_xsave>,
    changed: bool,
}

impl Fpu {
    /// All components in their initial state.
    pub(super) fn initial() -> Self {
        let mut fpu = Self {
            area: Box::default(),
            changed: false,
        };
        fpu.initialise(X87 | SSE);
        fpu.put(at::MXCSR_MASK, &mxcsr_mask().to_le_bytes());
        fpu
    }

    /// What KVM gave.
    pub(super) fn from_kvm(area: kvm_xsave) -> Self {
        let mut fpu = Self {
            area: Box::new(area),
            changed: false,
        };
        // KVM leaves what it likes where a component is in its initial state, MXCSR = 0 for one.
        let initial = !fpu.components();
        fpu.initialise(initial & (X87 | SSE));
        fpu
    }

    /// What KVM takes.
    pub(super) fn as_kvm(&self) -> &kvm_xsave {
        &self.area
    }

    /// Whether it differs from what was loaded.
    pub(super) fn is_changed(&self) -> bool {
        self.changed
    }

    /// Writes the initial values of x87, SSE or both, which does not count as a change.
    fn initialise(&mut self, components: u64) {
        if components & X87 != 0 {
            self.put(at::CONTROL, &INITIAL_CONTROL.to_le_bytes());
            self.bytes_mut()[at::STATUS..at::X87_HEAD.end].fill(0);
            self.bytes_mut()[at::X87_REGISTERS].fill(0);
        }
        if components & SSE != 0 {
            self.put(at::MXCSR, &INITIAL_MXCSR.to_le_bytes());
            self.bytes_mut()[at::XMM].fill(0);
        }
    }

    /// Resets these of x87 and SSE (with MXCSR).
    pub(super) fn reset(&mut self, components: u64) {
        self.initialise(components);
        self.set_components(self.components() & !components);
    }

    /// XSTATE_BV: the components that are not in their initial state.
    pub(super) fn components(&self) -> u64 {
        u64::from_le_bytes(self.get(at::XSTATE_BV))
    }

    /// Sets XSTATE_BV.
    pub(super) fn set_components(&mut self, components: u64) {
        self.put(at::XSTATE_BV, &components.to_le_bytes());
        self.changed = true;
    }

    /// x87 control word.
    pub(super) fn control(&self) -> u16 {
        u16::from_le_bytes(self.get(at::CONTROL))
    }

    /// x87 status word.
    pub(super) fn status(&self) -> u16 {
        u16::from_le_bytes(self.get(at::STATUS))
    }

    /// Which x87 registers are in use, a bit each.
    pub(super) fn tags(&self) -> u8 {
        self.get::<1>(at::TAGS)[0]
    }

    /// MXCSR.
    pub(super) fn mxcsr(&self) -> u32 {
        u32::from_le_bytes(self.get(at::MXCSR))
    }

    /// XMM register `number`, 0 to 15.
    pub(super) fn xmm(&self, number: usize) -> u128 {
        u128::from_le_bytes(self.get(at::XMM.start + 16 * (number % 16)))
    }

    /// Writes into x87's part of the area.
    pub(super) fn set_x87(&mut self, at: usize, bytes: &[u8]) {
        self.put(at, bytes);
        self.set_components(self.components() | X87);
    }

    /// Sets MXCSR.
    pub(super) fn set_mxcsr(&mut self, mxcsr: u32) {
        self.put(at::MXCSR, &mxcsr.to_le_bytes());
        self.set_components(self.components() | SSE);
    }

    /// Sets XMM register `number`, 0 to 15.
    pub(super) fn set_xmm(&mut self, number: usize, value: u128) {
        self.put(at::XMM.start + 16 * (number % 16), &value.to_le_bytes());
        self.set_components(self.components() | SSE);
    }

    /// The area.
    pub(super) fn bytes(&self) -> &[u8; AREA] {
        // SAFETY: the region is 4096 bytes of plain integers.
        unsafe { &*(&raw const self.area.region).cast() }
    }

    /// The area, to write without changing XSTATE_BV.
    pub(super) fn bytes_mut(&mut self) -> &mut [u8; AREA] {
        // SAFETY: as above, and every value is valid for them.
        unsafe { &mut *(&raw mut self.area.region).cast() }
    }

    fn get<const N: usize>(&self, at: usize) -> [u8; N] {
        std::array::from_fn(|i| self.bytes()[at + i])
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.bytes_mut()[at..at + bytes.len()].copy_from_slice(bytes);
    }
}

/// Bits that MXCSR has on this processor, which is the guest's as well; others are reserved.
pub(super) fn mxcsr_mask() -> u32 {
    static MASK: OnceLock<u32> = OnceLock::new();
    *MASK.get_or_init(|| {
        let mut area = FxsaveArea([0; 512]);
        // SAFETY: 512 writable bytes at a multiple of 16; every x86-64 processor has FXSAVE.
        unsafe { _fxsave64(area.0.as_mut_ptr()) };
        let mask = area.0[at::MXCSR_MASK..at::MXCSR_MASK + 4].iter();
        match mask
            .rev()
            .fold(0, |mask, &byte| mask << 8 | u32::from(byte))
        {
            0 => DEFAULT_MXCSR_MASK,
            mask => mask,
        }
    })
}

#[repr(align(16))]
struct FxsaveArea([u8; 512]);
