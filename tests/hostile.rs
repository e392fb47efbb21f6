//! Drivers that follow no rule, in a real guest: nothing suffers but the device that they drive.
//!
//! The bundled guest's workload `hostile` attacks the devices, proves after each round that the device works when it has been
//! reset, that another one worked all the time, and that no memory has changed that no device was told of. Here the host is
//! looked at as well: what the monitor uses, and what it leaves.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::UdpSocket;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use support::gmem::{Finished, Running, TempDir, require_kvm, run};
use support::outside::sample_rss_anon;
use support::verified::number;

#[path = "support/mod.rs"]
mod support;

const DISK: u64 = 8 << 20;
/// Host RAM for guests of [`MEMORY`]: devices meet pages that are elsewhere.
const HOST: u64 = 12 << 20;
const MEMORY: &str = "40M";
/// What the process may have beside: with the buffers of all connections of a vsock.
const BESIDE: u64 = 16 << 20;
/// How long a run may take, on a busy host. It takes a few seconds.
const LIMIT: Duration = Duration::from_secs(90);

/// What attacks a guest makes.
struct Attack<'a> {
    device: &'a str,
    seed: u64,
    rounds: u64,
    cpus: u64,
    /// There is a tap interface.
    net: bool,
}

/// Everything on the host that a guest's devices may reach.
struct Host {
    dir: TempDir,
}

impl Host {
    fn new() -> Self {
        let dir = TempDir::new();
        let disk = File::create(dir.path().join("disk.img")).unwrap();
        disk.set_len(DISK).unwrap();
        // Ports that the attacks try: one sends back all it gets, one reads nothing, and the others are nobody's.
        let echo = UnixListener::bind(dir.path().join("vsock_1024")).unwrap();
        thread::spawn(move || echo.incoming().flatten().for_each(echo_to));
        let deaf = UnixListener::bind(dir.path().join("vsock_1025")).unwrap();
        thread::spawn(move || deaf.incoming().flatten().collect::<Vec<_>>());
        Self { dir }
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    /// Starts the guest, with all devices.
    fn start(&self, attack: &Attack<'_>) -> Running {
        let Attack {
            device,
            seed,
            rounds,
            cpus,
            net,
        } = attack;
        let (host, vsock) = (format!("host:{HOST}"), self.path("vsock"));
        let line = format!(
            "run --cpus {cpus} --memory {MEMORY} --tier {host} --tier zip:8M --tier hbm:256M \
             --rng --balloon --hotplug 128M --console virtio --vsock cid=3,uds={vsock} \
             --disk {} --report {} --api-sock {}",
            self.path("disk.img"),
            self.path("report.json"),
            self.path("control"),
        );
        let mut args: Vec<&str> = line.split_ascii_whitespace().collect();
        if *net {
            args.extend(["--net", "tap=tap0"]);
        }
        let workload = format!("hostile device={device} seed={seed} rounds={rounds}");
        args.extend(["--workload", &workload]);
        Running::start(&args)
    }

    /// Runs attacks to their end, and checks what must hold for all of them; what the guest says of them.
    fn withstand(&self, attack: &Attack<'_>) -> Value {
        let began = Instant::now();
        let running = self.start(attack);
        let sampler = sample_rss_anon(running.pid());
        let over = AtomicBool::new(false);
        let finished = thread::scope(|scope| {
            scope.spawn(|| self.meddle(&over));
            let finished = running.finish();
            over.store(true, Ordering::Relaxed);
            finished
        });
        assert!(began.elapsed() < LIMIT, "{:?}", began.elapsed());
        let guest = self.verdict(attack, &finished);
        let rss = sampler.join().unwrap();
        let grown = rss.peak - rss.before;
        assert!(grown <= HOST + BESIDE, "{grown} bytes: {rss:?}");
        assert!(grown > HOST / 2, "{rss:?}");
        self.check_files();
        guest
    }

    fn verdict(&self, attack: &Attack<'_>, finished: &Finished) -> Value {
        let report = fs::read(self.path("report.json")).expect("a report is written");
        let report: Value = serde_json::from_slice(&report).unwrap();
        let guest = report["guest"].clone();
        let context = format!(
            "device={} seed={} rounds={} cpus={}: {guest} {}",
            attack.device, attack.seed, attack.rounds, attack.cpus, finished.stderr
        );
        assert_eq!(finished.code(), 0, "{context}");
        assert!(!finished.stderr.contains("panicked"), "{context}");
        assert_eq!(report["outcome"], "success", "{context}");
        assert_eq!(guest["failures"], 0, "{context}");
        assert_eq!(guest["mismatched_bytes"], 0, "{context}");
        let count = |key: &str| number(&guest[key]);
        assert!(count("verified_bytes") > 30 << 20, "{context}");
        assert!(count("attacks") > 5 * count("rounds"), "{context}");
        // The attacks are worth the name, and not all of them end the round.
        let broken = count("broken");
        assert!(broken > 0 && broken < count("rounds"), "{context}");
        assert_eq!(count("beside"), count("rounds"), "{context}");
        guest
    }

    /// The disk is as large as it was, and nothing else is new.
    fn check_files(&self) {
        let disk = fs::metadata(self.path("disk.img")).unwrap();
        assert_eq!(disk.len(), DISK);
        assert!(disk.blocks() * 512 <= DISK + (64 << 10), "{disk:?}");
        assert_eq!(
            self.dir.listing(),
            ["disk.img", "report.json", "vsock_1024", "vsock_1025"]
        );
    }

    /// Gives the devices something to do from the host's side, until the run is over.
    fn meddle(&self, over: &AtomicBool) {
        let (socket, control) = (self.path("vsock"), self.path("control"));
        let ctl = |args: &[&str]| {
            if Path::new(&control).exists() {
                let all = [&["ctl", "--api-sock", control.as_str()], args].concat();
                // The run may be over before it answers.
                run(&all);
            }
        };
        for turn in 0.. {
            if over.load(Ordering::Relaxed) {
                return;
            }
            if let Ok(mut stream) = UnixStream::connect(&socket) {
                let _ = stream.set_read_timeout(Some(Duration::from_millis(5)));
                let _ = stream.write_all(b"CONNECT 1\nhello, guest");
                let _ = stream.read(&mut [0; 64]);
            }
            match turn % 32 {
                8 => ctl(&["plug", "64M"]),
                16 => ctl(&["balloon", "4M"]),
                24 => ctl(&["status"]),
                _ => thread::sleep(Duration::from_millis(2)),
            }
        }
    }
}

/// Sends back what comes. A peer that breaks off finds out by itself.
fn echo_to(mut stream: UnixStream) {
    thread::spawn(move || {
        let mut from = stream.try_clone()?;
        io::copy(&mut from, &mut stream)
    });
}

/// Attacks on one kind of device, by one CPU and by two at once.
fn attack_one(device: &str) {
    require_kvm();
    let host = Host::new();
    for (seed, cpus) in [(1, 1), (2, 2), (3, 1)] {
        let guest = host.withstand(&Attack {
            device,
            seed,
            rounds: 40,
            cpus,
            net: false,
        });
        assert_eq!(guest["devices"], 1, "{guest}");
        // With two CPUs it is the same device that they attack, and it is proven once, in the end.
        let proven = if cpus == 1 { 40 } else { 1 };
        assert_eq!(guest["recoveries"], proven, "{guest}");
    }
}

#[test]
fn a_hostile_driver_of_entropy_harms_nothing_else() {
    attack_one("rng");
}

#[test]
fn a_hostile_driver_of_a_disk_harms_nothing_else() {
    attack_one("blk");
}

#[test]
fn a_hostile_driver_of_sockets_harms_nothing_else() {
    attack_one("vsock");
}

#[test]
fn a_hostile_driver_of_a_console_harms_nothing_else() {
    attack_one("console");
}

#[test]
fn a_hostile_driver_of_a_balloon_harms_nothing_else() {
    attack_one("balloon");
}

#[test]
fn a_hostile_driver_of_plugged_memory_harms_nothing_else() {
    attack_one("mem");
}

fn ip(args: &[&str]) -> String {
    let output = Command::new("ip")
        .args(args)
        .output()
        .expect("this test needs `ip` (iproute2)");
    assert!(output.status.success(), "ip {args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Runs `test` in a network namespace of its own, with a tap interface tap0 at 10.0.0.1, that is gone with it.
fn with_network(test: impl FnOnce() + Send + 'static) {
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
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(test));
            over.store(true, Ordering::Relaxed);
            if let Err(panic) = result {
                std::panic::resume_unwind(panic);
            }
        });
        assert_eq!(interfaces(), before);
    };
    thread::spawn(in_namespace).join().unwrap();
}

#[test]
fn a_hostile_driver_of_a_network_harms_nothing_else() {
    require_kvm();
    with_network(|| {
        let host = Host::new();
        for (seed, cpus) in [(1, 1), (2, 2), (3, 1)] {
            let guest = host.withstand(&Attack {
                device: "net",
                seed,
                rounds: 40,
                cpus,
                net: true,
            });
            assert_eq!(guest["devices"], 1, "{guest}");
            assert!(number(&guest["packets"]) > 0, "{guest}");
        }
    });
}

#[test]
fn hostile_drivers_of_all_devices_on_two_cpus_harm_nothing_else() {
    require_kvm();
    with_network(|| {
        let host = Host::new();
        for seed in 11..14 {
            let guest = host.withstand(&Attack {
                device: "all",
                seed,
                rounds: 20,
                cpus: 2,
                net: true,
            });
            assert_eq!(guest["devices"], 7, "{guest}");
            assert_eq!(guest["recoveries"], 7 * 2 * 20, "{guest}");
        }
    });
}
