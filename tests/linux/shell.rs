//! The console in both directions, and the ways in which a guest ends.

use crate::guest::Guest;

#[test]
fn a_shell_on_the_serial_console_is_typed_to_and_reboots_the_machine() {
    let mut guest = Guest::boot(&["--memory", "128M"], "");
    guest.wait_for("gmem: a shell");
    guest.type_in("echo 6 times 7 is $((6 * 7))\n");
    guest.wait_for("6 times 7 is 42");
    guest.type_in("reboot -f\n");
    let ended = guest.end();
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    assert_eq!(ended.report["outcome"], "success");
    assert_eq!(
        ended
            .stderr
            .lines()
            .filter(|line| line.contains("panicked"))
            .count(),
        0
    );
}

#[test]
fn a_script_that_fails_is_the_microvms_failure() {
    let guest = Guest::boot(&["--memory", "128M"], "gmem.run=\"exit 7\"");
    let ended = guest.end();
    assert_eq!(ended.code, Some(1), "{ended:#?}");
    assert!(ended.stderr.contains("failure 7"), "{}", ended.stderr);
}
