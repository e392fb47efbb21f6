//! Rules about accesses that wait: explicit wakes, and never letting go of a userfaultfd under them.

use std::sync::atomic::{AtomicI32, Ordering};

use gmem_core::mmu::Obstacle;
use gmem_core::page::PAGE_SIZE;
use gmem_vmm::memory::reserve::{Backing, Reservation};
use gmem_vmm::memory::userfault::{
    EVENTS_PER_READ, Event, Features, Mode, Reading, Userfault, Waking,
};

use crate::support::{
    Access, FORKING, Rig, get, next_event, open, put, reading, reserve, stopped, until, whole,
};

#[test]
fn an_event_whose_page_is_already_present_needs_an_explicit_wake() {
    let rig = Rig::new(1, Backing::Small);
    let access = reading(rig.page(0));
    rig.event();
    put(rig.slot(0), 5);
    let moved = rig
        .uffd
        .move_pages(rig.page(0), rig.slot(0), PAGE_SIZE, Waking::Later);
    assert_eq!(moved, whole(1));
    access.assert_waits();
    // A second frame for the same page: the refusal wakes nobody.
    put(rig.slot(1), 6);
    assert_eq!(rig.bring(1, 0, 1), stopped(0, Obstacle::Present));
    access.assert_waits();
    rig.uffd.wake(rig.page(0), PAGE_SIZE).expect("wake");
    assert_eq!(access.result(), 5);
}

#[test]
fn a_wake_without_the_page_raises_the_event_again() {
    let rig = Rig::new(1, Backing::Small);
    let access = reading(rig.page(2));
    let first = rig.event();
    rig.uffd.wake(rig.page(2), PAGE_SIZE).expect("wake");
    assert_eq!(rig.event(), first);
    put(rig.slot(0), 8);
    assert_eq!(rig.bring(0, 2, 1), whole(1));
    assert_eq!(access.result(), 8);
}

#[test]
fn one_read_returns_many_events_and_one_move_wakes_all_who_wait() {
    let rig = Rig::new(1, Backing::Small);
    let threads: &'static [AtomicI32; 8] = Box::leak(Box::default());
    let accesses: Vec<_> = (0..8)
        .map(|n| {
            let page = rig.page(n);
            Access::start(move || {
                publish(&threads[n]);
                get(page)
            })
        })
        .collect();
    until("all eight threads sleep in their access", || {
        threads.iter().all(|id| sleeps(id.load(Ordering::Acquire)))
    });
    let mut events = [Event::default(); EVENTS_PER_READ];
    assert_eq!(rig.uffd.read_events(&mut events).expect("events"), 8);
    assert!(!rig.has_event());
    let mut pages: Vec<_> = events[..8].iter().map(|event| event.address).collect();
    pages.sort_unstable();
    let expected: Vec<_> = (0..8).map(|n| rig.page(n)).collect();
    assert_eq!(pages, expected);

    for n in 0..8 {
        put(rig.slot(n), 100 + n as u64);
    }
    assert_eq!(rig.bring(0, 0, 8), whole(8));
    for (n, access) in accesses.into_iter().enumerate() {
        assert_eq!(access.result(), 100 + n as u64);
    }
}

/// Tells the calling thread's number.
fn publish(thread: &AtomicI32) {
    // SAFETY: `gettid` has no preconditions.
    thread.store(unsafe { libc::gettid() }, Ordering::Release);
}

/// Whether a thread that has told its number sleeps in the kernel.
fn sleeps(thread: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/self/task/{thread}/stat"));
    // The state follows the name, which is in parentheses.
    stat.is_ok_and(|stat| {
        let state = stat
            .rsplit(')')
            .next()
            .and_then(|rest| rest.trim().chars().next());
        matches!(state, Some('S' | 'D'))
    })
}

#[test]
fn a_polled_userfaultfd_says_when_there_is_no_event_and_a_blocking_one_waits() {
    let rig = Rig::new(1, Backing::Small);
    let error = rig
        .uffd
        .read_events(&mut [Event::default()])
        .expect_err("no event");
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);

    let uffd: &'static Userfault =
        Box::leak(Box::new(open(Reading::Blocking, Features::default())));
    let guest: &'static _ = Box::leak(Box::new(reserve(1, Backing::Small)));
    uffd.register(guest.start(), guest.len(), Mode::MissingAndWriteProtect)
        .expect("register");
    let reader = Access::start(move || {
        let mut event = [Event::default()];
        uffd.read_events(&mut event)
            .map(|count| (count, event[0].address))
    });
    reader.assert_waits();
    let access = reading(guest.start());
    assert_eq!(reader.result().expect("an event"), (1, guest.start()));
    uffd.unregister(guest.start(), guest.len())
        .expect("unregister");
    access.result();
}

#[test]
fn one_event_wakes_every_blocked_reader() {
    // Why there is at most one blocked reader for each CPU. A kernel that wakes one only lifts that rule.
    let uffd: &'static Userfault =
        Box::leak(Box::new(open(Reading::Blocking, Features::default())));
    let guest: &'static Reservation = Box::leak(Box::new(reserve(1, Backing::Small)));
    uffd.register(guest.start(), guest.len(), Mode::MissingAndWriteProtect)
        .expect("register");
    let threads: &'static [AtomicI32; 3] = Box::leak(Box::default());
    let readers: Vec<_> = threads
        .iter()
        .map(|thread| {
            Access::start(move || {
                publish(thread);
                uffd.read_events(&mut [Event::default()])
            })
        })
        .collect();
    let number = |n: usize| threads[n].load(Ordering::Acquire);
    until("all readers sleep", || (0..3).all(|n| sleeps(number(n))));
    let before: Vec<_> = (0..3).map(|n| times_slept(number(n))).collect();
    let access = reading(guest.start());
    until("one reader has the event, the others slept anew", || {
        let done = readers.iter().filter(|reader| reader.is_over()).count();
        let anew = (0..3)
            .filter(|&n| !readers[n].is_over() && times_slept(number(n)) > before[n])
            .count();
        (done, anew) == (1, 2)
    });
    // Two more events for the two that are left.
    let others = [1, 2].map(|n| reading(guest.start() + n * PAGE_SIZE));
    for reader in readers {
        assert_eq!(reader.result().expect("an event"), 1);
    }
    uffd.unregister(guest.start(), guest.len())
        .expect("unregister");
    for access in others.into_iter().chain([access]) {
        access.result();
    }
}

/// How often a thread has given up its CPU to wait.
fn times_slept(thread: i32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/self/task/{thread}/status")).ok()?;
    let key = "voluntary_ctxt_switches:";
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    line.trim().parse().ok()
}

#[test]
fn an_access_that_waits_while_its_range_is_unregistered_reads_zeros() {
    let rig = Rig::new(1, Backing::Small);
    put(rig.slot(0), 42); // the page's true bytes
    let access = reading(rig.page(0));
    rig.event();
    rig.uffd
        .unregister(rig.guest.start(), rig.guest.len())
        .expect("unregister");
    assert_eq!(
        access.result(),
        0,
        "why it is forbidden while a vCPU can run"
    );
}

#[test]
fn an_access_that_waits_while_the_userfaultfd_is_closed_reads_zeros() {
    let _no_fork = FORKING.read().expect("no test failed while forking");
    let uffd = open(Reading::Polled, Features::default());
    let guest = reserve(1, Backing::Small);
    uffd.register(guest.start(), guest.len(), Mode::MissingAndWriteProtect)
        .expect("register");
    let access = reading(guest.start());
    next_event(&uffd);
    drop(uffd);
    assert_eq!(access.result(), 0, "why it stays open while a vCPU can run");
}

#[test]
fn a_lost_page_is_poisoned_and_cannot_be_brought_back() {
    let rig = Rig::new(1, Backing::Small);
    rig.uffd.poison(rig.page(0), 2 * PAGE_SIZE).expect("poison");
    let marked = rig.runs(rig.page(0), 4);
    assert_eq!((marked.len(), marked[0].len), (1, 2 * PAGE_SIZE));
    assert!(
        marked[0].swapped,
        "a marker is no page in memory: {marked:?}"
    );
    put(rig.slot(0), 1);
    assert_eq!(rig.bring(0, 0, 1), stopped(0, Obstacle::Present));
    // A system call that reads the page fails instead of finding wrong bytes.
    let found = crate::kernel_mode::write_to_pipe(rig.page(1));
    let error = found.expect_err("a poisoned page has no bytes");
    assert!(matches!(
        error.raw_os_error(),
        Some(libc::EFAULT | libc::EHWPOISON)
    ));
    assert!(!rig.has_event());
    // What is present is not poisoned.
    assert_eq!(rig.bring(0, 5, 1), whole(1));
    let error = rig
        .uffd
        .poison(rig.page(5), PAGE_SIZE)
        .expect_err("present");
    assert_eq!(error.raw_os_error(), Some(libc::EEXIST));
}
