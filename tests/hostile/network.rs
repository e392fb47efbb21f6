//! A network of the test's own.

use std::io;
use std::net::UdpSocket;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

fn ip(args: &[&str]) -> String {
    let output = Command::new("ip")
        .args(args)
        .output()
        .expect("this test needs `ip` (iproute2)");
    assert!(output.status.success(), "ip {args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Runs `test` in a network namespace of its own, with a tap interface tap0 at 10.0.0.1, that is gone with it.
pub fn with_network(test: impl FnOnce() + Send + 'static) {
    let in_namespace = move || {
        // SAFETY: changes the calling thread's network namespace, nothing else.
        let rc = unsafe { libc::unshare(libc::CLONE_NEWNET) };
        let why = io::Error::last_os_error();
        assert_eq!(rc, 0, "a network namespace needs root: {why}");
        ip(&["tuntap", "add", "tap0", "mode", "tap"]);
        ip(&["addr", "add", "10.0.0.1/24", "dev", "tap0"]);
        ip(&["link", "set", "tap0", "up"]);
        let interfaces = || ip(&["-brief", "link"]).lines().count();
        let before = interfaces();
        // Packets that nobody has asked for.
        let socket = UdpSocket::bind("10.0.0.1:0").unwrap();
        socket.set_broadcast(true).unwrap();
        socket.set_nonblocking(true).unwrap();
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let _ = socket.send_to(&[0x55; 900], "10.0.0.255:9");
                    thread::sleep(Duration::from_millis(1));
                }
            });
            let result = catch_unwind(AssertUnwindSafe(test));
            over.store(true, Ordering::Relaxed);
            if let Err(panic) = result {
                resume_unwind(panic);
            }
        });
        assert_eq!(interfaces(), before);
    };
    thread::spawn(in_namespace).join().unwrap();
}
