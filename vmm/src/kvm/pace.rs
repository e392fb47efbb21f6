//! How often a guest's timer may interrupt it where its kernel is emulated.
//!
//! A tick of Linux takes 2,000 to 3,000 instructions. At 1 MIPS, a kernel that ticks every 4 ms, as distributions' do, spends
//! more than half of its time on that, and once the processor is shared too it comes to nothing else. So the guest's
//! deadlines (IA32_TSC_DEADLINE, which kernels of our day use) pass through this process, which puts off those that come too
//! soon after one another: a few may, for guests that mostly sleep; in the long run there is one in [`PERIOD_MS`].
//! Kernels reckon with late timers, and read the time that has passed from a clock.
//!
//! With VMX or SVM, and for guests that use the timer in other ways, nothing here applies.

use kvm_bindings::{
    KVM_CAP_X86_USER_SPACE_MSR, KVM_MSR_EXIT_REASON_FILTER, Msrs, kvm_enable_cap, kvm_msr_entry,
};
use kvm_ioctls::{MsrFilterDefaultAction, MsrFilterRange, MsrFilterRangeFlags, VcpuFd, VmFd};

/// The time between two timer interrupts in the long run.
const PERIOD_MS: u64 = 20;
/// How many may come early, once there have been none for a while.
const BURST: u64 = 4;

const IA32_TSC: u32 = 0x10;
const IA32_TSC_DEADLINE: u32 = 0x6e0;

/// Lets writes of the deadline exit to this process. Where KVM cannot, guests are slower, and nothing worse.
pub(super) fn enable(vm: &VmFd) {
    let exits = kvm_enable_cap {
        cap: KVM_CAP_X86_USER_SPACE_MSR,
        args: [KVM_MSR_EXIT_REASON_FILTER.into(), 0, 0, 0],
        ..Default::default()
    };
    let deadline = MsrFilterRange {
        flags: MsrFilterRangeFlags::WRITE,
        base: IA32_TSC_DEADLINE,
        msr_count: 1,
        bitmap: &[0],
    };
    // In this order: a write that is filtered without an exit would be a fault in the guest.
    if vm.enable_cap(&exits).is_ok() {
        let _ = vm.set_msr_filter(MsrFilterDefaultAction::ALLOW, &[deadline]);
    }
}

/// The timer of one vCPU. Times are values of the guest's time stamp counter.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// When the timer would interrupt next if all interrupts had come evenly.
    even: u64,
    /// The deadline that KVM has, and [`Self::even`] without it.
    set: Option<(u64, u64)>,
}

impl Pace {
    /// Does the guest's write of `value` to the register `index`; false: that is not ours to do.
    pub(super) fn write(&mut self, vcpu: &VcpuFd, index: u32, value: u64) -> bool {
        if index != IA32_TSC_DEADLINE {
            return false;
        }
        let mut paced = || {
            let mut now = Msrs::from_entries(&[entry(IA32_TSC, 0)]).ok()?;
            (vcpu.get_msrs(&mut now).ok()? == 1).then_some(())?;
            let period = u64::from(vcpu.get_tsc_khz().ok()?) * PERIOD_MS;
            Some(self.deadline(value, now.as_slice()[0].data, period))
        };
        let deadline = paced().unwrap_or(value);
        Msrs::from_entries(&[entry(IA32_TSC_DEADLINE, deadline)])
            .is_ok_and(|deadline| vcpu.set_msrs(&deadline).is_ok_and(|count| count == 1))
    }

    /// When the timer interrupts that the guest wants to interrupt at `wanted` (0: not at all).
    fn deadline(&mut self, wanted: u64, now: u64, period: u64) -> u64 {
        if let Some((deadline, even)) = self.set.take()
            && deadline > now
        {
            // It has not come, and does not count.
            self.even = even;
        }
        if wanted == 0 {
            return 0;
        }
        // The counter is the guest's: it may have been set back. No interrupt is more than a period late.
        self.even = self.even.min(now + (BURST + 1) * period);
        let deadline = wanted.max(self.even.saturating_sub(BURST * period));
        self.set = Some((deadline, self.even));
        self.even = self.even.max(deadline) + period;
        deadline
    }
}

fn entry(index: u32, data: u64) -> kvm_msr_entry {
    kvm_msr_entry {
        index,
        data,
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::kvm::host::Host;
    use crate::kvm::vcpu::Vcpu;
    use crate::kvm::vm::Vm;
    use crate::memory::ram::GuestRam;

    const PERIOD: u64 = 1000;

    /// Where KVM keeps the local APIC's local vector table entry of its timer, and what makes that wait for deadlines.
    const LVT_TIMER: usize = 0x320;
    const DEADLINE_MODE: [i8; 4] = [0x20, 0, 4, 0];
    const SPURIOUS: usize = 0xf0;
    const APIC_ON: [i8; 2] = [-1, 1];

    #[test]
    fn kvm_is_given_the_deadlines() {
        let host = Host::open().expect("this test needs a working /dev/kvm");
        let ram = Arc::new(GuestRam::new(16 << 20).unwrap());
        let vm = Vm::new(&host, ram).unwrap();
        let mut vcpu = Vcpu::new(&vm, 0, 1, &host.cpuid().unwrap()).unwrap();
        let mut apic = vcpu.fd.get_lapic().unwrap();
        apic.regs[SPURIOUS..SPURIOUS + 2].copy_from_slice(&APIC_ON);
        apic.regs[LVT_TIMER..LVT_TIMER + 4].copy_from_slice(&DEADLINE_MODE);
        vcpu.fd.set_lapic(&apic).unwrap();
        let read = |vcpu: &Vcpu, index| {
            let mut msrs = Msrs::from_entries(&[entry(index, 0)]).unwrap();
            assert_eq!(vcpu.fd.get_msrs(&mut msrs).unwrap(), 1);
            msrs.as_slice()[0].data
        };

        let second = u64::from(vcpu.tsc_khz().unwrap()) * 1000;
        let far = read(&vcpu, IA32_TSC) + 10 * second;
        assert!(vcpu.pace.write(&vcpu.fd, IA32_TSC_DEADLINE, far));
        assert_eq!(read(&vcpu, IA32_TSC_DEADLINE), far);
        // Each of these has come by the time of the next, unless that was put off. On a busy host they may be rare enough.
        let put_off = (0..1000).any(|_| {
            let wanted = read(&vcpu, IA32_TSC) + 1;
            assert!(vcpu.pace.write(&vcpu.fd, IA32_TSC_DEADLINE, wanted));
            let late = read(&vcpu, IA32_TSC_DEADLINE).saturating_sub(wanted);
            assert!(late <= second * PERIOD_MS / 1000, "{late}");
            late > 0
        });
        assert!(put_off);
        assert!(!vcpu.pace.write(&vcpu.fd, IA32_TSC, 0), "not ours");
    }

    #[test]
    fn a_busy_guest_gets_an_interrupt_each_period() {
        let (mut pace, mut now, mut count) = (Pace::default(), 50_000, 0);
        let end = now + 100 * PERIOD;
        while now < end {
            let deadline = pace.deadline(now + PERIOD / 5, now, PERIOD);
            assert!(deadline <= now + PERIOD, "a period late at most");
            now = deadline;
            count += 1;
        }
        assert!((100..=100 + BURST + 1).contains(&count), "{count}");
    }

    #[test]
    fn a_guest_that_sleeps_is_woken_in_time() {
        let (mut pace, mut now) = (Pace::default(), 50_000);
        for _ in 0..100 {
            for wait in [PERIOD / 10, PERIOD / 2, 3 * PERIOD] {
                assert_eq!(pace.deadline(now + wait, now, PERIOD), now + wait);
                now += wait;
            }
        }
    }

    #[test]
    fn what_does_not_come_does_not_count() {
        let (mut pace, now) = (Pace::default(), 50_000);
        for _ in 0..100 {
            assert_eq!(pace.deadline(now + 10, now, PERIOD), now + 10);
            assert_eq!(pace.deadline(0, now, PERIOD), 0);
        }
    }

    #[test]
    fn a_counter_that_is_set_back_stops_no_timer() {
        let mut pace = Pace::default();
        pace.deadline(u64::MAX / 2, u64::MAX / 2 - 1, PERIOD);
        let deadline = pace.deadline(20, 10, PERIOD);
        assert!(deadline <= 10 + PERIOD, "{deadline}");
    }
}
