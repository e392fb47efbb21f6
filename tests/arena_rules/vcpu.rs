//! Rules about vCPUs that wait for a page in a fault of KVM itself.
//!
//! The guest is three instructions in real mode. `outsb` has KVM read guest memory in its emulator on every
//! host, with or without hardware virtualization: the fault is one of kernel mode.

use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::time::Duration;

use gmem_core::page::{BLOCK_SIZE, PAGE_SIZE};
use gmem_vmm::memory::reserve::{Backing, Reservation};
use gmem_vmm::memory::userfault::{Features, Mode, Reading, Userfault, Waking};
use kvm_bindings::{kvm_regs, kvm_run, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};

use crate::kernel_mode::open_user_mode_only;
use crate::support::{Access, WATCH, next_event, open, put, readable, reserve, whole};

/// Where the guest's code is, and the byte that it sends to [`PORT`].
const CODE: usize = 0x1000;
const DATA: usize = 0x8000;
const PORT: u16 = 0x10;
const TRUE_BYTE: u8 = 0x5a;

/// mov si, DATA; mov dx, PORT; outsb; hlt
const PROGRAM: [u8; 8] = [0xbe, 0x00, 0x80, 0xba, 0x10, 0x00, 0x6e, 0xf4];

/// How a vCPU came back.
#[derive(Debug, PartialEq, Eq)]
enum Exit {
    /// It sent a byte to a port.
    Out(u16, u8),
    /// It read memory that KVM thinks is a device.
    MmioRead(u64),
    /// `KVM_RUN` failed.
    Error(i32),
    Other(String),
}

struct Machine {
    uffd: Userfault,
    guest: Reservation,
    arena: Reservation,
    thread: AtomicI32,
    /// Address of the running vCPU's `kvm_run`.
    run: AtomicUsize,
    /// Keeps the memory slot.
    _vm: VmFd,
}

impl Machine {
    /// A vCPU that is about to run the program; only the page with the code is there. Never freed: a
    /// failing test leaves the vCPU waiting.
    fn new(uffd: Userfault) -> (&'static Self, VcpuFd) {
        let guest = reserve(1, Backing::Small);
        let arena = reserve(1, Backing::Small);
        uffd.register(guest.start(), guest.len(), Mode::MissingAndWriteProtect)
            .expect("register");
        uffd.register(arena.start(), arena.len(), Mode::WriteProtect)
            .expect("register");
        put(arena.start(), u64::from_le_bytes(PROGRAM));
        let code = guest.start() + CODE;
        let moved = uffd.move_pages(code, arena.start(), PAGE_SIZE, Waking::Now);
        assert_eq!(moved, whole(1));

        let kvm = Kvm::new().unwrap_or_else(|error| {
            panic!("these tests need /dev/kvm, readable and writable: {error}")
        });
        let vm = kvm.create_vm().expect("KVM_CREATE_VM");
        vm.set_tss_address(0xfffb_d000).expect("KVM_SET_TSS_ADDR");
        let slot = kvm_userspace_memory_region {
            memory_size: BLOCK_SIZE as u64,
            userspace_addr: guest.start() as u64,
            ..Default::default()
        };
        // SAFETY: the range is a live reservation, and the machine is never freed.
        unsafe { vm.set_user_memory_region(slot) }.expect("KVM_SET_USER_MEMORY_REGION");
        let vcpu = vm.create_vcpu(0).expect("KVM_CREATE_VCPU");
        let mut sregs = vcpu.get_sregs().expect("KVM_GET_SREGS");
        sregs.cs.base = 0;
        sregs.cs.selector = 0;
        vcpu.set_sregs(&sregs).expect("KVM_SET_SREGS");
        let regs = kvm_regs {
            rip: CODE as u64,
            rflags: 2,
            ..Default::default()
        };
        vcpu.set_regs(&regs).expect("KVM_SET_REGS");
        let machine = Box::leak(Box::new(Self {
            uffd,
            guest,
            arena,
            thread: AtomicI32::new(0),
            run: AtomicUsize::new(0),
            _vm: vm,
        }));
        (machine, vcpu)
    }

    /// A vCPU that waits for the page of its data, with that event read.
    fn waiting() -> (&'static Self, Access<(Exit, VcpuFd)>) {
        let (machine, vcpu) = Self::new(open(Reading::Polled, Features::default()));
        let running = machine.start(vcpu);
        let event = next_event(&machine.uffd);
        assert_eq!(event.address, machine.data());
        assert!(!event.write);
        assert_eq!(
            event.thread as i32,
            machine.thread.load(Ordering::Acquire),
            "the thread of the vCPU itself waits"
        );
        (machine, running)
    }

    fn start(&'static self, mut vcpu: VcpuFd) -> Access<(Exit, VcpuFd)> {
        Access::start(move || {
            let run: *mut kvm_run = vcpu.get_kvm_run();
            self.run.store(run as usize, Ordering::Release);
            // SAFETY: `gettid` has no preconditions.
            self.thread
                .store(unsafe { libc::gettid() }, Ordering::Release);
            (run_once(&mut vcpu), vcpu)
        })
    }

    fn data(&self) -> usize {
        self.guest.start() + DATA
    }

    /// Brings the page of the data, with its true byte.
    fn satisfy(&self) {
        let slot = self.arena.start() + PAGE_SIZE;
        put(slot, u64::from(TRUE_BYTE));
        let moved = self
            .uffd
            .move_pages(self.data(), slot, PAGE_SIZE, Waking::Now);
        assert_eq!(moved, whole(1));
    }

    /// What a VMM does to stop a vCPU, short of satisfying its fault.
    fn kick(&self) {
        let run = self.run.load(Ordering::Acquire) as *mut kvm_run;
        // SAFETY: the mapping of `kvm_run` lives as long as the vCPU, whose thread waits; the field is
        // meant to be set by other threads.
        unsafe { (&raw mut (*run).immediate_exit).write_volatile(1) };
        signal(self.thread.load(Ordering::Acquire));
    }
}

fn run_once(vcpu: &mut VcpuFd) -> Exit {
    match vcpu.run() {
        Ok(VcpuExit::IoOut(port, bytes)) => Exit::Out(port, bytes[0]),
        Ok(VcpuExit::MmioRead(address, _)) => Exit::MmioRead(address),
        Ok(other) => Exit::Other(format!("{other:?}")),
        Err(error) => Exit::Error(error.errno()),
    }
}

/// Sends a thread a signal that does nothing but interrupt.
fn signal(thread: i32) {
    extern "C" fn nothing(_: libc::c_int) {}
    let number = libc::SIGRTMIN() + 1;
    let handler: extern "C" fn(libc::c_int) = nothing;
    // SAFETY: an all-zero `sigaction` is valid, and the handler does nothing.
    let done = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as libc::sighandler_t;
        libc::sigaction(number, &raw const action, std::ptr::null_mut());
        libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, number)
    };
    assert_eq!(done, 0, "tgkill: {}", std::io::Error::last_os_error());
}

#[test]
fn a_vcpu_in_a_kernel_mode_fault_waits_and_gets_the_true_byte() {
    let (machine, running) = Machine::waiting();
    running.assert_waits();
    machine.satisfy();
    assert_eq!(running.result().0, Exit::Out(PORT, TRUE_BYTE));
}

#[test]
fn a_kick_alone_does_not_stop_a_vcpu_in_a_kernel_mode_fault_but_with_its_page_it_does() {
    let (machine, running) = Machine::waiting();
    machine.kick();
    running.assert_waits();
    machine.satisfy();
    let (exit, mut vcpu) = running.result();
    // The instruction that waited is finished, with the true byte; or the kick came first.
    assert!(
        matches!(exit, Exit::Out(PORT, TRUE_BYTE) | Exit::Error(libc::EINTR)),
        "{exit:?}"
    );
    assert_eq!(run_once(&mut vcpu), Exit::Error(libc::EINTR));
    // Nothing is lost: let go, it comes to its `hlt`, or to its byte if that is still to be sent.
    vcpu.set_kvm_immediate_exit(0);
    let next = run_once(&mut vcpu);
    if exit == Exit::Error(libc::EINTR) {
        assert_eq!(next, Exit::Out(PORT, TRUE_BYTE));
    } else {
        assert_eq!(next, Exit::Other("Hlt".to_owned()));
    }
}

#[test]
fn a_vcpu_that_waits_while_its_memory_is_unregistered_reads_zero() {
    let (machine, running) = Machine::waiting();
    machine
        .uffd
        .unregister(machine.guest.start(), machine.guest.len())
        .expect("unregister");
    assert_eq!(
        running.result().0,
        Exit::Out(PORT, 0),
        "why it is forbidden"
    );
}

#[test]
fn a_vcpu_whose_page_is_poisoned_leaves_with_mmio_inside_its_memory_slot() {
    let (machine, running) = Machine::waiting();
    machine
        .uffd
        .poison(machine.data(), PAGE_SIZE)
        .expect("poison");
    // An address in a memory slot is never a device: the microVM must end.
    assert_eq!(running.result().0, Exit::MmioRead(DATA as u64));
}

#[test]
fn a_user_mode_only_userfaultfd_turns_guest_ram_into_mmio() {
    let (machine, vcpu) = Machine::new(open_user_mode_only());
    let running = machine.start(vcpu);
    assert_eq!(running.result().0, Exit::MmioRead(DATA as u64));
    assert!(!readable(&machine.uffd, Duration::ZERO));
}

#[test]
fn a_vcpu_can_be_stopped_again_and_again_while_its_page_is_on_its_way() {
    let (machine, running) = Machine::waiting();
    for _ in 0..3 {
        machine.kick();
        std::thread::sleep(WATCH / 5);
    }
    // Each interrupted try may have raised the event anew; one move answers them all.
    machine.satisfy();
    let (exit, _) = running.result();
    assert!(
        matches!(exit, Exit::Out(PORT, TRUE_BYTE) | Exit::Error(libc::EINTR)),
        "{exit:?}"
    );
    while readable(&machine.uffd, Duration::ZERO) {
        assert_eq!(next_event(&machine.uffd).address, machine.data());
    }
}
