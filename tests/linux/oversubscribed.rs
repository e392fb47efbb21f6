//! Programs of others, with more memory than the host gives.

use crate::guest::Guest;
use crate::support::outside::sample_rss_anon;

const MIB: u64 = 1 << 20;

#[test]
fn memtester_and_sqlite_find_every_byte_in_one_and_a_half_times_the_budget() {
    let guest = Guest::boot(
        &[
            "--memory",
            "512M",
            "--tier",
            "host:128M",
            "--tier",
            "hbm:512M",
        ],
        "gmem.test=memory,database gmem.mb=192 gmem.rows=20000",
    );
    let sampler = sample_rss_anon(guest.pid());
    let ended = guest.end_well(&["memory", "database"]);
    let private = sampler.join().unwrap();
    assert!(
        private.peak - private.before <= (128 + 8) * MIB,
        "{private:?}"
    );
    let tiers = &ended.report["memory"]["tiers"];
    assert!(
        tiers[0]["peak_bytes"].as_u64() <= Some(128 * MIB),
        "{tiers}"
    );
    assert!(tiers[1]["peak_bytes"].as_u64() >= Some(32 * MIB), "{tiers}");
    let moved = |from: &str, to: &str| {
        let flows = ended.report["migrations"].as_array().unwrap().iter();
        flows
            .filter(|flow| flow["from"] == from && flow["to"] == to)
            .map(|flow| flow["bytes"].as_u64().unwrap())
            .sum::<u64>()
    };
    assert!(moved("host", "hbm") > 64 * MIB && moved("hbm", "host") > 64 * MIB);
}
