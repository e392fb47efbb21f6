//! A device thread that touches a page which its tier cannot give back.

use std::fs::{self, OpenOptions};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use gmem_core::page::Unit;
use gmem_core::policy::Prefetching;
use gmem_vmm::memory::managed::ManagedMemory;
use gmem_vmm::memory::plan::{Lower, Plan};
use gmem_vmm::memory::ram::GuestRam;

use crate::support::*;

/// The file of a tier in directory `dir`, as a path to it: it has lost its name.
fn tier_file(dir: &str) -> PathBuf {
    let fds = fs::read_dir("/proc/self/fd").unwrap();
    let ours = |path: &PathBuf| {
        let target = fs::read_link(path).unwrap_or_default();
        target.starts_with(dir) && target.to_string_lossy().ends_with("(deleted)")
    };
    let mut found = fds.map(|fd| fd.unwrap().path()).filter(ours);
    found.next().expect("the file tier's file is open")
}

#[test]
fn a_device_thread_that_touches_a_lost_page_waits_for_the_end_of_the_microvm() {
    let _alone = alone();
    let dir = std::env::temp_dir().join(format!("gmem-lost-{}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    let plan = Plan {
        budget: 8 * MIB,
        unit: Unit::Page,
        lower: vec![Lower::File {
            bytes: 64 * MIB,
            path: dir.clone(),
        }],
        overcommit: false,
        huge: false,
        prefetch: Prefetching::All,
    };
    let ram = Arc::new(GuestRam::new(32 * MIB).unwrap());
    let memory = Arc::new(ManagedMemory::new(ram, Some(plan)));
    memory.prepare().unwrap();
    memory.arm_if_needed(&cpus()).unwrap();
    write(&memory, 0, 32 * MIB);
    // With room for all nothing more is written to the file, which would let it grow again.
    let engine = memory.engine().unwrap();
    engine.set_budget(64 * MIB / PAGE).unwrap();
    thread::sleep(Duration::from_millis(200));
    let file = tier_file(dir.to_str().unwrap());
    fs::remove_dir_all(&dir).unwrap();
    let file = OpenOptions::new().write(true).open(file).unwrap();
    file.set_len(0).unwrap();
    let (sender, found) = channel();
    let theirs = Arc::clone(&memory);
    // Not joined: it waits for ever.
    thread::spawn(move || {
        for page in 0..32 * MIB / PAGE {
            sender.send((page, read(&theirs, page))).unwrap();
        }
    });
    let deadline = Instant::now() + Duration::from_secs(20);
    while memory.failure().is_none() {
        assert!(Instant::now() < deadline, "no page is lost");
        thread::sleep(Duration::from_millis(5));
    }
    thread::sleep(Duration::from_millis(200));
    // This process is still here, and what the thread was given are the bytes of the pages, and not all.
    let mut pages = 0;
    let end = loop {
        match found.recv_timeout(Duration::from_millis(100)) {
            Ok((page, bytes)) => assert_eq!(bytes, word(page)),
            Err(end) => break end,
        }
        pages += 1;
    };
    assert_eq!(end, RecvTimeoutError::Timeout, "the thread is still there");
    assert!(pages < 32 * MIB / PAGE);
    let failure = memory.failure().unwrap();
    assert!(failure.contains("is lost"), "{failure}");
}
