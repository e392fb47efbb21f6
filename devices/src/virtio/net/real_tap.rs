//! A network device on a real tap interface, each test in a network namespace of its own. These tests want root.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use super::*;
use crate::virtio::Device;
use crate::virtio::testing::{Bench, Part};

const RECEIVE: usize = 0;
const SEND: usize = 1;
const NAME: &str = "gmem0";
/// An Ethernet type for experiments: nobody else's.
const ETHERTYPE: [u8; 2] = [0x88, 0xb5];

/// Runs `test` in a thread whose network is empty, and goes with it.
fn in_own_network(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(|| {
        // SAFETY: the call changes which network this thread sees, nothing else.
        let unshared = unsafe { libc::unshare(libc::CLONE_NEWNET) };
        assert_eq!(
            unshared,
            0,
            "this test wants root: {}",
            io::Error::last_os_error()
        );
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// The other end of the wire: a socket that sees all packets of the interface, which is switched on.
struct Host(OwnedFd);

impl Host {
    fn new() -> Self {
        let protocol = libc::c_int::from((libc::ETH_P_ALL as u16).to_be());
        // SAFETY: no pointers.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW, protocol) };
        assert!(fd >= 0, "{}", io::Error::last_os_error());
        // SAFETY: the descriptor is new, and nobody else's.
        let host = Self(unsafe { OwnedFd::from_raw_fd(fd) });
        let name = CString::new(NAME).unwrap();
        // SAFETY: a string with its end.
        let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
        // SAFETY: zeros are a valid address and a valid request.
        let (mut address, mut request): (libc::sockaddr_ll, libc::ifreq) =
            unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
        for (to, from) in request.ifr_name.iter_mut().zip(NAME.bytes()) {
            *to = from as libc::c_char;
        }
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        // SAFETY: the request is what this ioctl reads.
        let up = unsafe { libc::ioctl(fd, libc::SIOCSIFFLAGS, &request) };
        assert_eq!(up, 0, "{}", io::Error::last_os_error());
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = protocol as u16;
        address.sll_ifindex = index as i32;
        let len = size_of_val(&address) as libc::socklen_t;
        // SAFETY: an address of its length.
        let bound = unsafe { libc::bind(fd, (&raw const address).cast(), len) };
        assert_eq!(bound, 0, "{}", io::Error::last_os_error());
        host
    }

    fn send(&self, frame: &[u8]) {
        // SAFETY: the pointer and the length are the frame's.
        let sent = unsafe { libc::send(self.0.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        assert_eq!(sent, frame.len() as isize, "{}", io::Error::last_os_error());
    }

    /// The next frame that `ours` says is the test's; the kernel sends some too.
    fn receive(&self, ours: impl Fn(&[u8]) -> bool) -> Vec<u8> {
        let mut frame = vec![0; 1 << 17];
        loop {
            let mut poll = libc::pollfd {
                fd: self.0.as_raw_fd(),
                events: libc::POLLIN,
                revents: 0,
            };
            // SAFETY: one entry, which lives through the call.
            let ready = unsafe { libc::poll(&mut poll, 1, 5000) };
            assert_eq!(ready, 1, "no frame came");
            // SAFETY: the pointer and the length are the buffer's.
            let len = unsafe {
                libc::recv(
                    self.0.as_raw_fd(),
                    frame.as_mut_ptr().cast(),
                    frame.len(),
                    0,
                )
            };
            let len = usize::try_from(len).unwrap();
            if ours(&frame[..len]) {
                return frame[..len].into();
            }
        }
    }
}

/// Addresses, the type, and `len` bytes.
fn frame(len: usize) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend([2, 0, 0, 0, 0, 9]);
    frame.extend(ETHERTYPE);
    frame.extend((0..len).map(|at| (at % 251) as u8));
    frame
}

fn is_ours(frame: &[u8]) -> bool {
    frame[12..14] == ETHERTYPE
}

fn with_header(header: [u8; 12], frame: &[u8]) -> Part {
    Part::Out([&header, frame].concat())
}

#[test]
fn frames_go_both_ways() {
    in_own_network(|| {
        let tap = Tap::open(NAME).unwrap();
        let mut bench = Bench::started(Net::new(tap, NetOptions::default()).unwrap());
        let host = Host::new();
        let ours = frame(500);
        bench.send(SEND, &[with_header([0; 12], &ours)]);
        bench.notify(SEND).unwrap();
        assert_eq!(host.receive(is_ours), ours);

        let theirs = frame(900);
        host.send(&theirs);
        let mut received = Vec::new();
        let mut waiting = Vec::new();
        bench
            .serve_until(|bench| {
                for used in bench.used(RECEIVE) {
                    let sent = waiting.remove(0);
                    let part = bench.part(&sent, 0);
                    received = part[12..used.written as usize].to_vec();
                    if is_ours(&received) {
                        return true;
                    }
                }
                if waiting.is_empty() {
                    waiting.push(bench.send(RECEIVE, &[Part::In(66_000)]));
                    bench.notify(RECEIVE).unwrap();
                }
                false
            })
            .unwrap();
        assert_eq!(received, theirs);
    });
}

/// IPv4 and TCP headers that fit `len` bytes of payload, behind an Ethernet header.
fn tcp(len: usize) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 8, 2, 0, 0, 0, 0, 9, 8, 0];
    let total = (40 + len) as u16;
    frame.extend([0x45, 0]);
    frame.extend(total.to_be_bytes());
    frame.extend([0, 1, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 2, 10, 0, 0, 1]);
    frame.extend([
        0x80, 0, 0, 80, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0,
    ]);
    frame.resize(frame.len() + len, 0x61);
    frame
}

#[test]
fn the_kernel_takes_a_packet_that_it_has_to_cut_itself() {
    in_own_network(|| {
        let tap = Tap::open(NAME).unwrap();
        let mut bench = Bench::started(Net::new(tap, NetOptions::default()).unwrap());
        let host = Host::new();
        let segment = tcp(60_000);
        // Checksum needed, TCPv4, 54 bytes of headers, segments of 1448, checksum at 16 from 34.
        let header = [1, 1, 54, 0, 0xa8, 5, 34, 0, 16, 0, 0, 0];
        bench.send(SEND, &[with_header(header, &segment)]);
        bench.notify(SEND).unwrap();
        assert_eq!(bench.device.metrics()["sent_packets"], 1);
        let arrived = host.receive(|frame| frame[12..14] == [8, 0]);
        assert_eq!(arrived.len(), segment.len(), "one packet still");
        // A header that makes no sense is the kernel's to refuse.
        let nonsense = [1, 1, 54, 0, 0xa8, 5, 0xff, 0xff, 16, 0, 0, 0];
        bench.send(SEND, &[with_header(nonsense, &segment)]);
        bench.notify(SEND).unwrap();
        assert_eq!(bench.device.metrics()["send_dropped"], 1);
    });
}

#[test]
fn an_interface_in_use_is_named_as_such() {
    in_own_network(|| {
        let _first = Tap::open(NAME).unwrap();
        assert!(matches!(Tap::open(NAME), Err(TapError::Busy(name)) if name == NAME));
        assert!(matches!(Tap::open("lo"), Err(TapError::OtherKind(_))));
    });
}

#[test]
fn an_interface_that_is_taken_away_leaves_the_device_idle() {
    in_own_network(|| {
        let tap = Tap::open(NAME).unwrap();
        let mut bench = Bench::started(Net::new(tap, NetOptions::default()).unwrap());
        let deleted = std::process::Command::new("ip")
            .args(["link", "del", NAME])
            .status()
            .unwrap();
        assert!(deleted.success());
        bench.serve_sources(Duration::from_secs(1)).unwrap();
        assert!(!bench.device.wants(0));
        bench.send(SEND, &[with_header([0; 12], &frame(100))]);
        bench.notify(SEND).unwrap();
        assert_eq!(bench.device.metrics()["send_dropped"], 1);
    });
}
