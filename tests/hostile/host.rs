//! A microVM with a hostile guest, and everything on the host that its devices may reach.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::gmem::{Finished, Running, TempDir, run};
use crate::support::outside::sample_rss_anon;
use crate::support::verified::number;

const DISK: u64 = 8 << 20;
/// Host RAM for guests of [`MEMORY`]: devices meet pages that are elsewhere.
pub const HOST: u64 = 12 << 20;
const MEMORY: &str = "40M";
/// What the process may have beside.
const BESIDE: u64 = 8 << 20;
/// How long a run may take, on a busy host. It takes a few seconds.
pub const LIMIT: Duration = Duration::from_secs(90);

/// What attacks a guest makes.
pub struct Attack<'a> {
    pub device: &'a str,
    pub seed: u64,
    pub rounds: u64,
    pub cpus: u64,
    /// There is a tap interface.
    pub net: bool,
    /// There is an accelerator, and the door to the memory system.
    pub accelerators: bool,
    /// What the guest's host RAM is at first; later it is [`HOST`].
    pub budget: u64,
}

impl Default for Attack<'_> {
    fn default() -> Self {
        Self {
            device: "all",
            seed: 1,
            rounds: 40,
            cpus: 1,
            net: false,
            accelerators: true,
            budget: HOST,
        }
    }
}

/// Everything on the host that a guest's devices may reach.
pub struct Host {
    dir: TempDir,
}

impl Host {
    pub fn new() -> Self {
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

    pub fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    /// Starts the guest, with all devices.
    pub fn start(&self, attack: &Attack<'_>) -> Running {
        let Attack {
            device,
            seed,
            rounds,
            cpus,
            net,
            accelerators,
            budget,
        } = attack;
        let (host, vsock) = (format!("host:{budget}"), self.path("vsock"));
        let line = format!(
            "run --cpus {cpus} --memory {MEMORY} --tier {host} --tier zip:8M --tier hbm:256M \
             --rng --balloon --hotplug 128M --console virtio --vsock cid=3,uds={vsock} \
             --disk {} --report {} --api-sock {}",
            self.path("disk.img"),
            self.path("report.json"),
            self.path("control"),
        );
        let mut args: Vec<&str> = line.split_ascii_whitespace().collect();
        if *accelerators {
            args.extend(["--accel", "npu,hbm=4M"]);
        }
        if *net {
            args.extend(["--net", "tap=tap0"]);
        }
        let workload = format!("hostile device={device} seed={seed} rounds={rounds}");
        args.extend(["--workload", &workload]);
        Running::start(&args)
    }

    /// Runs attacks to their end, and checks what must hold for all of them; what the guest says of them.
    pub fn withstand(&self, attack: &Attack<'_>) -> Value {
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
        assert!(grown <= attack.budget + BESIDE, "{grown} bytes: {rss:?}");
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
    pub fn check_files(&self) {
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
                4 => ctl(&["plug", "64M"]),
                8 => ctl(&["budget", &HOST.to_string()]),
                12 => ctl(&["pause"]),
                13 => ctl(&["resume"]),
                16 => ctl(&["balloon", "4M"]),
                20 => ctl(&["status"]),
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
