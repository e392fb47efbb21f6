//! Which host CPU a vCPU thread runs on.

use std::mem;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{io, process};

/// The CPUs that this process may use, in order.
pub fn allowed_cpus() -> io::Result<Vec<usize>> {
    // SAFETY: all zeroes is a valid, empty CPU set.
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    // SAFETY: the kernel writes at most the given size into the set.
    let rc = unsafe { libc::sched_getaffinity(0, mem::size_of_val(&set), &mut set) };
    if rc != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((0..libc::CPU_SETSIZE as usize)
        // SAFETY: the index is below CPU_SETSIZE.
        .filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) })
        .collect())
}

/// A CPU for each of `vcpus` vCPUs, dealt in turn from those allowed.
///
/// Where the deal begins differs from microVM to microVM, so that several small ones do not all land on the
/// first CPU: it is a hash of the process number, advanced with each microVM of this process.
pub fn assign(vcpus: usize) -> io::Result<Vec<usize>> {
    static DEALT: AtomicUsize = AtomicUsize::new(0);
    let allowed = allowed_cpus()?;
    if allowed.is_empty() {
        return Err(io::ErrorKind::NotFound.into());
    }
    // Process numbers of microVMs started in a row differ by their threads' count, often an even number.
    let spread = (u64::from(process::id()).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33) as usize;
    let start = spread + DEALT.fetch_add(vcpus, Ordering::Relaxed);
    Ok((0..vcpus)
        .map(|index| allowed[(start + index) % allowed.len()])
        .collect())
}

/// Keeps the calling thread on `cpu`.
pub fn pin(cpu: usize) -> io::Result<()> {
    if cpu >= libc::CPU_SETSIZE as usize {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: all zeroes is a valid, empty CPU set.
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    // SAFETY: the index was checked above.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: the kernel reads the given size from the set.
    let rc = unsafe { libc::sched_setaffinity(0, mem::size_of_val(&set), &set) };
    if rc != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vcpus_are_dealt_evenly_and_the_start_moves_on() {
        let allowed = allowed_cpus().unwrap();
        let first = assign(2 * allowed.len()).unwrap();
        for cpu in &allowed {
            assert_eq!(first.iter().filter(|dealt| *dealt == cpu).count(), 2);
        }
        if allowed.len() > 1 {
            assert_ne!(assign(1).unwrap(), assign(1).unwrap());
        }
    }

    #[test]
    fn a_pinned_thread_sees_only_its_cpu() {
        let cpu = *allowed_cpus().unwrap().last().unwrap();
        std::thread::spawn(move || {
            pin(cpu).unwrap();
            assert_eq!(allowed_cpus().unwrap(), [cpu]);
        })
        .join()
        .unwrap();
        assert!(pin(usize::MAX).is_err());
    }
}
