//! Hosts with and without swap and a memory cgroup.

use super::*;

#[test]
fn swap_is_for_who_has_it_and_a_group_that_holds_to_the_budget() {
    const MIB: u64 = 1 << 20;
    let folder = Folder::new();
    let mut host = empty();
    optional(&swap::swap(&host));
    assert!(
        missing(&swap::for_budget(&host, 64 * MIB, MIB)[1])
            .1
            .contains("MemoryMax=83886080")
    );
    host.meminfo = folder.file("meminfo", "SwapFree:  524288 kB\n");
    let mounts = format!(
        "30 23 0:26 / {} rw - cgroup2 cgroup2 rw\n",
        folder.0.display()
    );
    host.mountinfo = folder.file("mountinfo", &mounts);
    host.cgroup = folder.file("cgroup", "0::/own\n");
    folder.file("own/memory.current", "0\n");
    let group = |limit: &str, swap: &str| {
        folder.file("own/memory.max", limit);
        folder.file("own/memory.swap.max", swap);
        folder.file("own/memory.reclaim", "");
    };
    group("max\n", "max\n");
    assert_eq!(
        found(&swap::swap(&host)),
        "512M of swap free, memory cgroup v2"
    );
    let for_budget = |bytes| swap::for_budget(&host, 64 * MIB, bytes);
    assert!(
        missing(&for_budget(513 * MIB)[0])
            .0
            .contains("512M of swap free, 513M wanted")
    );
    assert!(missing(&for_budget(MIB)[1]).0.contains("no limit"));
    group("83886081\n", "max\n");
    assert!(
        missing(&for_budget(MIB)[1])
            .0
            .contains("more than the host budget")
    );
    group("83886080\n", "1048576\n");
    assert!(for_budget(MIB).iter().all(Requirement::is_met));
    assert!(
        missing(&for_budget(2 * MIB)[1])
            .0
            .contains("may swap 1M only")
    );
    fs::remove_file(folder.0.join("own/memory.reclaim")).unwrap();
    assert!(missing(&for_budget(MIB)[1]).0.contains("told to reclaim"));
}
