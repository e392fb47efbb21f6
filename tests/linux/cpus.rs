//! Several CPUs.

use crate::guest::Guest;

#[test]
fn two_cpus_of_linux_find_every_byte_of_oversubscribed_memory_at_once() {
    let guest = Guest::boot(
        &[
            "--cpus", "2", "--memory", "256M", "--tier", "host:96M", "--tier", "hbm:256M",
        ],
        "gmem.test=cpus gmem.cpus=2 gmem.mb=64",
    );
    let ended = guest.end_well(&["cpus"]);
    assert!(ended.console.contains("cpus: 2 of 2 work"), "{ended:#?}");
    let tiers = &ended.report["memory"]["tiers"];
    assert!(tiers[0]["peak_bytes"].as_u64() <= Some(96 << 20), "{tiers}");
    assert!(tiers[1]["peak_bytes"].as_u64() >= Some(16 << 20), "{tiers}");
}
