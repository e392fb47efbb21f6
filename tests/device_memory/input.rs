//! Bytes that the kernel puts into guest memory on a device's behalf, while that memory comes and goes.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use gmem_core::engine::Destination;
use gmem_core::page::{PageNo, PageRange, Unit};
use gmem_core::stats::Site;
use gmem_devices::virtio::DeviceMemory;
use gmem_vmm::kvm::affinity;
use gmem_vmm::memory::managed::ManagedMemory;
use io_uring::{IoUring, opcode, squeue, types};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use crate::support::*;

/// Bytes of the file: every word says where it is.
const FILE: u64 = 8 * MIB;
/// The most that one request reads.
const MOST: u64 = MIB / 4;

/// The file, opened to be read with these flags. It has no name any more.
pub fn file(flags: i32) -> File {
    let path = std::env::temp_dir().join(format!(
        "gmem-input-{}-{flags}-{:?}",
        std::process::id(),
        thread::current().id()
    ));
    let bytes: Vec<u8> = (0..FILE / 8)
        .flat_map(|at| (at * 8).to_ne_bytes())
        .collect();
    let mut written = File::create(&path).unwrap();
    written.write_all(&bytes).unwrap();
    written.sync_all().unwrap();
    let mut options = OpenOptions::new();
    let file = options.read(true).custom_flags(flags).open(&path).unwrap();
    std::fs::remove_file(path).unwrap();
    file
}

/// How a device has the kernel read.
#[derive(Clone, Copy, Debug)]
enum How {
    Preadv,
    Direct,
    Ring,
    /// By a worker thread of the kernel.
    RingAsync,
}

const WAYS: [How; 4] = [How::Preadv, How::Direct, How::Ring, How::RingAsync];

struct Reader<'m> {
    memory: &'m ManagedMemory,
    buffered: File,
    direct: File,
    ring: IoUring,
}

impl<'m> Reader<'m> {
    fn new(memory: &'m ManagedMemory) -> Self {
        Self {
            memory,
            buffered: file(0),
            direct: file(libc::O_DIRECT),
            ring: IoUring::new(4).unwrap(),
        }
    }

    /// Reads `len` bytes at `offset` of the file to `gpa`, in two buffers; how many the kernel says it read.
    fn read(&mut self, how: How, gpa: u64, offset: u64, len: u64) -> io::Result<u64> {
        let view = self.memory.view();
        let host = |gpa| view.get_host_address(GuestAddress(gpa)).unwrap();
        let _input = self.memory.incoming().begin();
        let first = len / 2 / 512 * 512;
        let buffers = [(gpa, first), (gpa + first, len - first)].map(|(gpa, len)| libc::iovec {
            iov_base: host(gpa).cast(),
            iov_len: len as usize,
        });
        let flags = match how {
            How::Preadv | How::Direct => {
                let file = match how {
                    How::Direct => &self.direct,
                    _ => &self.buffered,
                };
                // SAFETY: the buffers lie in guest memory, which outlives the call and is reached by raw
                // pointers only.
                let read =
                    unsafe { libc::preadv(file.as_raw_fd(), buffers.as_ptr(), 2, offset as i64) };
                return u64::try_from(read).map_err(|_| io::Error::last_os_error());
            }
            How::Ring => squeue::Flags::empty(),
            How::RingAsync => squeue::Flags::ASYNC,
        };
        let fd = types::Fd(self.buffered.as_raw_fd());
        let request = opcode::Readv::new(fd, buffers.as_ptr(), 2)
            .offset(offset)
            .build()
            .flags(flags);
        // SAFETY: as above; the array of buffers lives until the completion is here.
        unsafe { self.ring.submission().push(&request).unwrap() };
        self.ring.submit_and_wait(1)?;
        let result = self.ring.completion().next().unwrap().result();
        u64::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result))
    }

    /// Reads something, and finds it in memory.
    fn check(&mut self, how: How, gpa: u64, offset: u64, len: u64) {
        let what = format!("{how:?} of {len} bytes at {offset} to {gpa:#x}");
        let read = self.read(how, gpa, offset, len);
        assert_eq!(read.expect(&what), len, "{what}");
        let mut bytes = vec![0; len as usize];
        let view = self.memory.view();
        view.read_slice(&mut bytes, GuestAddress(gpa)).unwrap();
        for (at, word) in bytes.chunks_exact(8).enumerate() {
            let word = u64::from_ne_bytes(word.try_into().unwrap());
            assert_eq!(word, offset + at as u64 * 8, "{what}: word {at}");
        }
    }
}

/// Numbers that look random.
pub struct Numbers(pub u64);

impl Numbers {
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (self.0 >> 33) % limit
    }
}

/// Reads from the file in every way to random places of a part of memory, until `end`; how often.
fn read_over_and_over(memory: &ManagedMemory, from: u64, size: u64, end: Instant) -> u64 {
    let mut reader = Reader::new(memory);
    let mut numbers = Numbers(from + 1);
    let mut rounds = 0;
    while Instant::now() < end {
        for how in WAYS {
            let len = 512 * (1 + numbers.below(MOST / 512));
            let offset = 512 * numbers.below((FILE - MOST) / 512);
            let gpa = from + 512 * numbers.below((size - MOST) / 512);
            reader.check(how, gpa, offset, len);
            rounds += 1;
        }
    }
    rounds
}

#[test]
fn the_kernel_reads_into_memory_that_is_evicted_at_the_same_time() {
    let _alone = alone();
    for unit in [Unit::Page, Unit::Block] {
        let memory = memory(128 * MIB, 24 * MIB, 128 * MIB, unit);
        let engine = memory.engine().unwrap();
        let end = Instant::now() + Duration::from_secs(3);
        thread::scope(|scope| {
            let memory = &memory;
            let readers = [0, 64 * MIB]
                .map(|from| scope.spawn(move || read_over_and_over(memory, from, 64 * MIB, end)));
            let mut numbers = Numbers(5);
            while Instant::now() < end {
                let range = PageRange::new(PageNo(512 * numbers.below(64)), 512);
                let to = [Destination::Staged, Destination::Tier(1)];
                let _ = engine.migrate(range, to[numbers.below(2) as usize]);
            }
            let rounds = readers.map(|reader| reader.join().unwrap());
            let out = engine.stats().flow(Site::Host, Site::Staged);
            println!("{unit:?}: {rounds:?} reads while {out} pages left");
            assert!(rounds.iter().all(|rounds| *rounds > 20) && out > 10_000);
        });
        audit(&memory);
    }
}

#[test]
fn a_device_is_served_while_others_are_busy_on_the_cpus_of_the_handlers() {
    let _alone = alone();
    let memory = memory(64 * MIB, 16 * MIB, 64 * MIB, Unit::Page);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for cpu in cpus() {
            let stop = &stop;
            scope.spawn(move || {
                affinity::pin(cpu).unwrap();
                while !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        let start = Instant::now();
        write(&memory, 0, 64 * MIB);
        for page in 0..64 * MIB / PAGE {
            assert_eq!(read(&memory, page), word(page));
        }
        let copied = start.elapsed();
        let mut reader = Reader::new(&memory);
        for (n, how) in WAYS.into_iter().cycle().take(64).enumerate() {
            reader.check(how, n as u64 * MIB, n as u64 * PAGE, MOST);
        }
        println!("copies {copied:?}, reads {:?}", start.elapsed() - copied);
        stop.store(true, Ordering::Relaxed);
        assert!(start.elapsed() < Duration::from_secs(60));
    });
    audit(&memory);
}
