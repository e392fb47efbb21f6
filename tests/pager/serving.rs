//! Pages go and come back.

use super::gmem::{Finished, TempDir, require_kvm, run};
use super::support::{Certificates, Pager, Redis, wait_for};

/// Runs a guest of 512 MiB, 128 of them here, whose other pages are at `url`; every byte is verified.
fn verify(url: &str, more: &str) -> Finished {
    require_kvm();
    let tier = format!("remote:512M,url={url}{more}");
    let finished = run(&[
        "run",
        "--memory",
        "512M",
        "--tier",
        "host:128M",
        "--tier",
        &tier,
        "--workload",
        "verify epochs=3",
    ]);
    assert_eq!(finished.code(), 0, "{finished:?}");
    assert!(
        finished.stderr.contains(" 0 bytes mismatched"),
        "{finished:?}"
    );
    assert!(finished.stderr.contains("  remote "), "{finished:?}");
    finished
}

#[test]
fn over_a_unix_socket() {
    let dir = TempDir::new();
    let socket = dir.path().join("p.sock");
    let pager = Pager::at(&socket, "600M");
    verify(&pager.addresses[0], "");
    // It has said goodbye: what it had is free for the next.
    verify(&pager.addresses[0], "");
    pager.signal(libc::SIGTERM);
    let (code, said) = pager.ended();
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("SIGTERM") && said.contains("0 clients left, with 0 pages"),
        "{said}"
    );
    assert_eq!(dir.listing(), Vec::<String>::new());
}

#[test]
fn over_tcp_with_tls_where_each_side_knows_the_other() {
    let dir = TempDir::new();
    let ours = Certificates::new(&dir, "ours");
    let [cert, key] = ours.server.each_ref().map(|path| path.to_str().unwrap());
    let args = [
        "--listen",
        "tcp://127.0.0.1:0",
        "--lend",
        "ram:600M",
        "--tls-ca",
        ours.ca.to_str().unwrap(),
        "--tls-cert",
        cert,
        "--tls-key",
        key,
    ];
    let pager = Pager::start(&args, 1);
    let keys = |of: &Certificates| {
        let [cert, key] = of.client.each_ref().map(|path| path.display().to_string());
        format!(",ca={},cert={cert},key={key}", of.ca.display())
    };
    verify(&pager.addresses[0], &keys(&ours));
    // Of another authority: neither believes the other.
    let others = Certificates::new(&dir, "others");
    let tier = format!("remote:512M,url={}{}", pager.addresses[0], keys(&others));
    let refused = run(&[
        "run",
        "--memory",
        "512M",
        "--tier",
        "host:128M",
        "--tier",
        &tier,
    ]);
    refused.expect_failure(3, &["tcp://127.0.0.1", "certificate"]);
}

#[test]
fn in_a_cluster_of_three_redis_servers() {
    let dir = TempDir::new();
    let nodes = Redis::cluster(&dir);
    let places = nodes
        .each_ref()
        .map(|node| format!("127.0.0.1:{}", node.port));
    verify(&format!("redis://{}", places.join("+")), "");
    for node in &nodes {
        wait_for("nothing is left there", || node.keys() == 0);
    }
}

#[test]
fn in_one_redis_server() {
    let dir = TempDir::new();
    let node = Redis::start(&dir, false);
    verify(&format!("redis://127.0.0.1:{}", node.port), "");
    wait_for("nothing is left there", || node.keys() == 0);
}

#[test]
fn from_memory_with_a_link_and_from_a_file() {
    let dir = TempDir::new();
    let listen = format!("unix:{}", dir.path().join("p.sock").display());
    let file = format!("file:400M,path={}", dir.path().display());
    let lend = ["--lend", "hbm:120M,latency_us=5", "--lend", &file];
    let pager = Pager::start(&[&["--listen", &listen][..], &lend].concat(), 1);
    verify(&pager.addresses[0], "");
}

#[test]
fn who_may_not_is_told_why_and_what_to_do() {
    let dir = TempDir::new();
    let socket = dir.path().join("p.sock");
    let listen = format!("unix:{}", socket.display());
    let token = dir.file("token", &[7; 32]);
    let args = [
        "--listen",
        &listen,
        "--lend",
        "ram:64M",
        "--quota",
        "32M",
        "--token",
        token.to_str().unwrap(),
    ];
    let _pager = Pager::start(&args, 1);
    let attempt = |tier: &str, code: i32, needles: &[&str]| {
        let line = [
            "run", "--memory", "64M", "--tier", "host:48M", "--tier", tier,
        ];
        run(&line).expect_failure(code, needles);
    };
    let url = format!("url={listen}");
    attempt(&format!("remote:16M,{url}"), 2, &["not admitted", "token"]);
    let known = format!("{url},token={}", token.display());
    attempt(
        &format!("remote:48M,{known}"),
        2,
        &["room for 0", "--quota"],
    );
    attempt(
        &format!("remote:48M,url=unix:{}/nobody", dir.path().display()),
        3,
        &["cannot connect", "gmem pager serve"],
    );
    attempt(
        "remote:48M,url=tcp://127.0.0.1:1",
        2,
        &["ca=FILE", "tls=off"],
    );
    attempt(
        "remote:48M,url=tcp://127.0.0.1:1,tls=off",
        3,
        &["cannot connect"],
    );
    attempt(
        "remote:48M,url=redis://127.0.0.1:1",
        3,
        &["redis://127.0.0.1:1", "refused"],
    );
    attempt("remote:48M", 2, &["url=unix:PATH"]);
    attempt("remote:48M,url=ftp://x", 2, &["no address", "unix:PATH"]);
    attempt(&format!("remote:48M,{url},{url}"), 2, &["given twice"]);
    attempt(
        &format!("remote:48M,{url},deadline_ms=0"),
        2,
        &["deadline_ms=0"],
    );
    run(&[
        "pager",
        "serve",
        "--listen",
        "tcp://127.0.0.1:0",
        "--lend",
        "ram:4M",
    ])
    .expect_failure(2, &["--tls-ca", "--no-tls"]);
    run(&["pager", "serve", "--listen", &listen, "--lend", "ram:4M"])
        .expect_failure(2, &["another process listens"]);
    run(&[
        "pager",
        "serve",
        "--listen",
        "redis://a:1",
        "--lend",
        "ram:4M",
    ])
    .expect_failure(2, &["cannot listen"]);
    run(&[
        "pager",
        "serve",
        "--listen",
        &format!("{listen}2"),
        "--lend",
        "zip:4M",
    ])
    .expect_failure(2, &["cannot be lent"]);
}
