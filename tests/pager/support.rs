//! Servers for the tests: our own, and Redis.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};

use crate::gmem::{TempDir, command};

/// A `gmem pager serve`, killed when the test forgets it.
pub struct Pager {
    child: Child,
    /// Where it listens, as it said.
    pub addresses: Vec<String>,
    stderr: Option<thread::JoinHandle<String>>,
}

impl Pager {
    /// Starts one with these arguments; waits until it listens at `places` places.
    pub fn start(args: &[&str], places: usize) -> Self {
        let mut child = command(&[&["pager", "serve"], args].concat())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut addresses = Vec::new();
        while addresses.len() < places {
            let line = lines.next().expect("it listens").unwrap();
            let (_, address) = line.split_once(" at ").unwrap_or_else(|| panic!("{line}"));
            addresses.push(address.to_owned());
        }
        let rest = move || {
            lines
                .map_while(Result::ok)
                .map(|line| line + "\n")
                .collect()
        };
        Self {
            child,
            addresses,
            stderr: Some(thread::spawn(rest)),
        }
    }

    /// One that lends RAM at a socket.
    pub fn at(socket: &Path, size: &str) -> Self {
        let listen = format!("unix:{}", socket.display());
        Self::start(&["--listen", &listen, "--lend", &format!("ram:{size}")], 1)
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: i32) {
        // SAFETY: the child has not been waited for, so the number is still its own.
        assert_eq!(unsafe { libc::kill(self.child.id() as i32, signal) }, 0);
    }

    /// It dies at once.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for its end; its exit code, and what it said.
    pub fn ended(mut self) -> (Option<i32>, String) {
        let deadline = Instant::now() + Duration::from_secs(60);
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "the server does not end");
            thread::sleep(Duration::from_millis(5));
        };
        (status.code(), self.stderr.take().unwrap().join().unwrap())
    }
}

impl Drop for Pager {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An authority, and certificates of it for a server and a client, in files.
pub struct Certificates {
    pub ca: PathBuf,
    pub server: [PathBuf; 2],
    pub client: [PathBuf; 2],
}

impl Certificates {
    /// New ones in `directory`.
    pub fn new(directory: &TempDir, name: &str) -> Self {
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().unwrap();
        let ca = params.self_signed(&key).unwrap();
        let authority = rcgen::Issuer::new(params, key);
        let made = |who: &str| {
            let key = rcgen::KeyPair::generate().unwrap();
            let names = vec!["localhost".into(), "127.0.0.1".into()];
            let params = rcgen::CertificateParams::new(names).unwrap();
            let certificate = params.signed_by(&key, &authority).unwrap();
            [
                directory.file(&format!("{name}-{who}.pem"), certificate.pem().as_bytes()),
                directory.file(&format!("{name}-{who}.key"), key.serialize_pem().as_bytes()),
            ]
        };
        Self {
            server: made("server"),
            client: made("client"),
            ca: directory.file(&format!("{name}-ca.pem"), ca.pem().as_bytes()),
        }
    }
}

/// A Redis server of the test's own, in a directory of the test's own.
pub struct Redis {
    child: Child,
    pub port: u16,
}

impl Redis {
    /// Starts one, as a node of a cluster or alone.
    pub fn start(directory: &TempDir, cluster: bool) -> Self {
        let port = free_port();
        let home = directory.path().join(format!("redis-{port}"));
        fs::create_dir_all(&home).unwrap();
        let mut command = Command::new("redis-server");
        command.args([
            "--port",
            &port.to_string(),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
        ]);
        if cluster {
            command.args(["--cluster-enabled", "yes", "--cluster-node-timeout", "5000"]);
        }
        let child = command
            .current_dir(&home)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let child = child.unwrap_or_else(|error| {
            panic!("this test needs redis-server (Debian's package of that name): {error}")
        });
        let server = Self { child, port };
        let answers = || cli(port, &["PING"]).contains("PONG");
        wait_for("redis answers", answers);
        server
    }

    /// Three nodes that form a cluster.
    pub fn cluster(directory: &TempDir) -> [Self; 3] {
        let nodes = [(); 3].map(|()| Self::start(directory, true));
        let places = nodes
            .each_ref()
            .map(|node| format!("127.0.0.1:{}", node.port));
        let output = Command::new("redis-cli")
            .args(["--cluster", "create"])
            .args(&places)
            .args(["--cluster-replicas", "0", "--cluster-yes"])
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        for node in &nodes {
            wait_for("the cluster is whole", || {
                cli(node.port, &["CLUSTER", "INFO"]).contains("cluster_state:ok")
            });
        }
        nodes
    }

    /// How many keys it has.
    pub fn keys(&self) -> u64 {
        cli(self.port, &["DBSIZE"]).trim().parse().unwrap()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn cli(port: u16, args: &[&str]) -> String {
    let output = Command::new("redis-cli")
        .args(["-p", &port.to_string()])
        .args(args)
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Redis wants its port, and for a cluster the one that is 10000 further.
fn free_port() -> u16 {
    loop {
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        if let Some(bus) = port.checked_add(10_000)
            && TcpListener::bind(("127.0.0.1", bus)).is_ok()
        {
            return port;
        }
    }
}

/// Waits for something that is to come true.
pub fn wait_for(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < deadline, "never: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}
