//! Getting a thread out of KVM_RUN without a race.
//!
//! A signal interrupts KVM_RUN, but one that arrives just before the thread enters would be lost. So the
//! signal's handler, which runs on the vCPU's own thread, sets `immediate_exit` in the vCPU's shared page:
//! the kernel looks at it after it has blocked further wake-ups, and returns `EINTR` at once. Whenever the
//! signal lands, the next KVM_RUN returns.

use std::cell::Cell;
use std::io;
use std::marker::PhantomData;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use kvm_ioctls::VcpuFd;
use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler};

thread_local! {
    /// `immediate_exit` of the vCPU that this thread runs, or null. Initialised by a constant and without a
    /// destructor, so that reading it in a signal handler is a plain load.
    static IMMEDIATE_EXIT: Cell<*mut u8> = const { Cell::new(ptr::null_mut()) };
}

/// Guest pages are lost, and poisoned.
static PAGES_LOST: AtomicBool = AtomicBool::new(false);

/// Before a page of guest memory is poisoned, and after it was recorded that the microVM ends.
pub fn pages_are_lost() {
    PAGES_LOST.store(true, Ordering::SeqCst);
}

/// The signal that kicks a vCPU thread.
pub fn kick_signal() -> i32 {
    SIGRTMIN()
}

/// Installs the handler, without SA_RESTART: once for each process, again does no harm.
pub fn install_handler() -> io::Result<()> {
    let failed = |error: vmm_sys_util::errno::Error| io::Error::from_raw_os_error(error.errno());
    register_signal_handler(kick_signal(), on_kick).map_err(failed)?;
    register_signal_handler(libc::SIGBUS, on_bus_error).map_err(failed)
}

/// A guest's access to a page that is lost (poisoned) arrives as SIGBUS on its vCPU's thread: KVM takes it
/// for broken hardware. The vCPU leaves the guest; whoever poisoned the page ends the microVM. A thread of this
/// process that copies from or to such a page, a device's for example, cannot go on, and waits for that end: nothing
/// of the page may be made up.
/// On the main thread, or for any other reason, it is what it always is: the end of the process.
extern "C" fn on_bus_error(
    signal: libc::c_int,
    info: *mut libc::siginfo_t,
    context: *mut libc::c_void,
) {
    // SAFETY: the kernel passes a valid siginfo to a handler that was installed with SA_SIGINFO.
    let code = unsafe { (*info).si_code };
    if code == BUS_MCEERR_AR && !IMMEDIATE_EXIT.get().is_null() {
        on_kick(signal, info, context);
        return;
    }
    // SAFETY: these only ask the kernel.
    let main = unsafe { libc::gettid() == libc::getpid() };
    // By the second code on a kernel that is built without care for broken memory.
    let lost = matches!(code, BUS_MCEERR_AR | libc::BUS_ADRERR);
    if lost && PAGES_LOST.load(Ordering::SeqCst) && !main {
        loop {
            // SAFETY: allowed in a handler. The thread is abandoned, and the process left beneath it.
            unsafe { libc::pause() };
        }
    }
    // SAFETY: restores the default, under which the same access, tried again on return, ends the process.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
}

/// `BUS_MCEERR_AR`: an access needs memory that is broken.
const BUS_MCEERR_AR: libc::c_int = 4;

extern "C" fn on_kick(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let flag = IMMEDIATE_EXIT.get();
    if !flag.is_null() {
        // SAFETY: the pointer is set only while the page that it points to is mapped, see `ImmediateExit`.
        unsafe { AtomicU8::from_ptr(flag) }.store(1, Ordering::SeqCst);
    }
}

/// This thread's vCPU can be kicked while the value lives.
#[derive(Debug)]
pub(super) struct ImmediateExit {
    flag: *mut u8,
    // The handler looks in the variable of the thread that made the value.
    not_send: PhantomData<*const ()>,
}

impl ImmediateExit {
    /// Ties the calling thread to `vcpu`.
    ///
    /// # Safety
    ///
    /// `vcpu` must outlive the value.
    pub(super) unsafe fn new(vcpu: &mut VcpuFd) -> Self {
        let flag = &raw mut vcpu.get_kvm_run().immediate_exit;
        IMMEDIATE_EXIT.set(flag);
        Self {
            flag,
            not_send: PhantomData,
        }
    }

    /// Makes the next KVM_RUN complete the pending I/O and return `EINTR`.
    pub(super) fn set(&self) {
        self.store(1);
    }

    /// Lets KVM_RUN run again.
    pub(super) fn clear(&self) {
        self.store(0);
    }

    fn store(&self, value: u8) {
        // SAFETY: the vCPU, and with it its page, outlives this value by the contract of `new`; the kernel and
        // the signal handler access the byte as a whole.
        unsafe { AtomicU8::from_ptr(self.flag) }.store(value, Ordering::SeqCst);
    }
}

impl Drop for ImmediateExit {
    fn drop(&mut self) {
        IMMEDIATE_EXIT.set(ptr::null_mut());
    }
}
