//! Linux's own drivers on disks, network, sockets, entropy and console, in one guest whose memory moves.

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::guest::Guest;
use crate::support::gmem::TempDir;

const MIB: usize = 1 << 20;

/// Gives a peer back what it has sent, when it has sent all.
fn replay(mut stream: impl Read + Write) {
    let mut all = Vec::new();
    // A peer that breaks off finds out by itself.
    let _ = stream
        .read_to_end(&mut all)
        .and_then(|_| stream.write_all(&all));
}

fn ip(args: &[&str]) {
    let status = Command::new("ip")
        .args(args)
        .status()
        .expect("this test needs `ip` (iproute2)");
    assert!(status.success(), "ip {args:?}: {status}");
}

/// Puts this thread, and what it starts, into a network namespace of its own, with a tap interface tap0 at 10.0.0.1. It is gone
/// with them.
fn network() -> TcpListener {
    // SAFETY: changes the calling thread's network namespace, nothing else.
    let rc = unsafe { libc::unshare(libc::CLONE_NEWNET) };
    assert_eq!(
        rc,
        0,
        "a network namespace needs root: {}",
        std::io::Error::last_os_error()
    );
    ip(&["tuntap", "add", "tap0", "mode", "tap"]);
    ip(&["addr", "add", "10.0.0.1/24", "dev", "tap0"]);
    // Where the kernel is emulated, packets cost, not bytes.
    ip(&["link", "set", "tap0", "mtu", "60000", "up"]);
    TcpListener::bind("10.0.0.1:7").unwrap()
}

#[test]
fn linux_drives_disks_network_sockets_entropy_and_console() {
    // A thread of its own: its network is not the other tests'.
    thread::spawn(drive).join().unwrap();
}

fn drive() {
    let listener = network();
    thread::spawn(move || listener.incoming().flatten().for_each(replay));
    let dir = TempDir::new();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    File::create(path("disk.img"))
        .unwrap()
        .set_len(256 * MIB as u64)
        .unwrap();
    let (disk, socket) = (path("disk.img"), path("vsock"));
    let to_host = UnixListener::bind(path("vsock_1024")).unwrap();
    thread::spawn(move || to_host.incoming().flatten().for_each(replay));

    let vsock = format!("cid=3,uds={socket}");
    let mut guest = Guest::boot_in(
        dir,
        &[
            "--memory",
            "256M",
            "--tier",
            "host:96M",
            "--tier",
            "hbm:256M",
            "--console",
            "virtio",
            "--disk",
            &disk,
            "--net",
            "tap=tap0",
            "--vsock",
            &vsock,
            "--rng",
        ],
        "gmem.test=rng,console,block,net,vsock gmem.consoles=hvc0 gmem.mtu=60000",
    );
    guest.wait_for("hvc0 waits for a line");
    guest.type_in("a line for hvc0\n");
    guest.wait_for("hvc0 got 'a line for hvc0'");
    guest.wait_for("port 1025 waits for the host");
    to_guest(&socket);
    let ended = guest.end_well(&["rng", "console", "block", "net", "vsock"]);
    for (device, counter, least) in [
        ("blk0", "written_bytes", 100 * MIB),
        ("net0", "sent_bytes", 100 * MIB),
        ("net0", "received_bytes", 100 * MIB),
        ("vsock0", "bytes_from_guest", 16 * MIB),
        ("rng0", "bytes", 1),
        ("console0", "input_bytes", 16),
    ] {
        let counted = ended.counted(device, counter);
        assert!(counted >= least as u64, "{device} {counter}: {counted}");
    }
    assert!(ended.console.contains("block: read back, the same"));
    assert!(
        ended
            .console
            .contains("net: 100 MiB to 10.0.0.1 and back, the same")
    );
    assert!(
        ended
            .console
            .contains("vsock: 16 MiB to the host and back, the same")
    );
}

/// A connection to the guest's port 1025; `None` if nobody listens there yet.
fn connect(socket: &str) -> Option<UnixStream> {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.write_all(b"CONNECT 1025\n").unwrap();
    let mut answer = Vec::new();
    while answer.last() != Some(&b'\n') {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        answer.push(byte[0]);
    }
    let said = String::from_utf8_lossy(&answer);
    assert!(said.starts_with("OK "), "{said}");
    Some(stream)
}

/// Connects to the guest's port 1025, which gives back what it gets.
fn to_guest(socket: &str) {
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut stream = loop {
        match connect(socket) {
            Some(stream) => break stream,
            None if Instant::now() < deadline => thread::sleep(Duration::from_millis(100)),
            None => panic!("nobody listens on the guest's port 1025"),
        }
    };
    let sent: Vec<u8> = (0..MIB).map(|n| (n * 7 + n / 251) as u8).collect();
    let mut writer = stream.try_clone().unwrap();
    let for_writer = sent.clone();
    let writer = thread::spawn(move || {
        writer.write_all(&for_writer).unwrap();
        writer.shutdown(std::net::Shutdown::Write).unwrap();
    });
    let mut got = Vec::new();
    stream.read_to_end(&mut got).unwrap();
    writer.join().unwrap();
    assert!(
        got == sent,
        "{} of {} bytes came back, or others",
        got.len(),
        sent.len()
    );
}
