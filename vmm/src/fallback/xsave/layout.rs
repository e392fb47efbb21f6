//! Where each state component is in a save area.

use std::arch::x86_64::__cpuid_count;
use std::sync::OnceLock;

use crate::fallback::fpu::{AREA, SSE, X87, at};

/// CPUID leaf that describes save areas.
const LEAF: u32 = 0xd;
/// ECX of a component's subleaf: it is a supervisor component.
const SUPERVISOR: u32 = 1 << 0;
/// ECX of a component's subleaf: its offset in the compacted format is a multiple of 64.
const ALIGNED: u32 = 1 << 1;

/// A component beyond x87 and SSE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Component {
    /// Its number, 2 to 62.
    pub number: u32,
    /// Where it is in the standard format, bytes.
    pub offset: usize,
    /// How long it is, bytes.
    pub len: usize,
    /// Whether its offset in the compacted format is a multiple of 64.
    aligned: bool,
}

impl Component {
    /// Its bit in XCR0 and XSTATE_BV.
    pub(super) fn bit(&self) -> u64 {
        1 << self.number
    }
}

/// The processor's layout.
#[derive(Debug)]
pub(crate) struct Layout {
    components: Vec<Component>,
}

impl Layout {
    /// That of the host's processor, which the guest's CPUID repeats: offsets and sizes are wired into the
    /// instructions, and code of the guest that runs natively uses them too.
    pub(crate) fn host() -> &'static Self {
        static HOST: OnceLock<Layout> = OnceLock::new();
        HOST.get_or_init(|| {
            let leaf = |index| {
                let found = __cpuid_count(LEAF, index);
                [found.eax, found.ebx, found.ecx, found.edx]
            };
            Self::from_cpuid(leaf)
        })
    }

    /// What `leaf`, CPUID leaf 0xD by subleaf (EAX, EBX, ECX, EDX), describes and KVM's area has room for.
    fn from_cpuid(leaf: impl Fn(u32) -> [u32; 4]) -> Self {
        let [low, _, _, high] = leaf(0);
        let user = u64::from(high) << 32 | u64::from(low);
        let components = (2..63)
            .filter(|number| user >> number & 1 != 0)
            .filter_map(|number| {
                let [len, offset, flags, _] = leaf(number);
                let component = Component {
                    number,
                    offset: offset as usize,
                    len: len as usize,
                    aligned: flags & ALIGNED != 0,
                };
                let end = component.offset.checked_add(component.len)?;
                let fits = component.offset >= at::EXTENDED && end <= AREA;
                (fits && flags & SUPERVISOR == 0).then_some(component)
            })
            .collect();
        Self { components }
    }

    /// All components, as bits.
    pub(in crate::fallback) fn all(&self) -> u64 {
        let extended = self.components.iter().map(Component::bit);
        extended.fold(X87 | SSE, |all, bit| all | bit)
    }

    /// Components of `set` beyond x87 and SSE, each with its offset in the standard format.
    pub(super) fn standard(&self, set: u64) -> impl Iterator<Item = (Component, usize)> {
        let components = self.components.iter().copied();
        components
            .filter(move |component| set & component.bit() != 0)
            .map(|component| (component, component.offset))
    }

    /// The same, with their offsets in a compacted area that has room for exactly `set`.
    pub(super) fn compacted(&self, set: u64) -> impl Iterator<Item = (Component, usize)> {
        let mut end = at::EXTENDED;
        self.standard(set).map(move |(component, _)| {
            let offset = match component.aligned {
                true => end.next_multiple_of(64),
                false => end,
            };
            end = offset + component.len;
            (component, offset)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// AVX (2), AVX-512 (5 to 7), a supervisor component (11), and tiles (17, 18), which do not fit.
    fn described(index: u32) -> [u32; 4] {
        match index {
            0 => [0x6_00e7, 0, 0, 0],
            2 => [256, 576, 0, 0],
            5 => [64, 832, 0, 0],
            6 => [512, 896, ALIGNED, 0],
            7 => [1024, 1408, ALIGNED, 0],
            11 => [16, 0, SUPERVISOR, 0],
            17 => [64, 2752, ALIGNED, 0],
            18 => [8192, 2816, ALIGNED, 0],
            _ => [0; 4],
        }
    }

    #[test]
    fn offsets_of_both_formats_follow_cpuid() {
        let layout = Layout::from_cpuid(described);
        assert_eq!(layout.all(), 0x2_00e7);
        let offsets = |found: Vec<(Component, usize)>| -> Vec<_> {
            found.iter().map(|(c, at)| (c.number, *at)).collect()
        };
        let standard = layout.standard(0xe0).collect();
        assert_eq!(offsets(standard), [(5, 832), (6, 896), (7, 1408)]);
        let compacted = layout.compacted(0xe0).collect();
        assert_eq!(offsets(compacted), [(5, 576), (6, 640), (7, 1152)]);
        let compacted = layout.compacted(0x84).collect();
        assert_eq!(offsets(compacted), [(2, 576), (7, 832)]);
    }

    #[test]
    fn a_component_with_an_absurd_place_is_left_out() {
        let layout = Layout::from_cpuid(|index| match index {
            0 => [0x27, 0, 0, 0],
            2 => [u32::MAX, u32::MAX, 0, 0],
            _ => [64, 0, 0, 0],
        });
        assert_eq!(layout.all(), X87 | SSE);
    }
}
