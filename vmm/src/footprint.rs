//! What the monitor itself takes of the host's memory.
//!
//! Most of it is its own code and constants, and most of those are needed to start only: the command line, checks, the
//! bundled guest's image. The kernel keeps file pages mapped that were used once. Unmapped, those that are needed come back
//! from the page cache for a minor fault each, and the others do not.

use std::fs;

/// A mapping as `/proc/self/smaps` describes it.
#[derive(Debug, Default)]
struct Mapping {
    start: usize,
    len: usize,
    /// It shows a file, and nobody can write to it.
    read_only_file: bool,
}

/// Lets go of all pages of code and constants; those in use come back by themselves. Called once the guest has been started.
///
/// Where it cannot be told what is mapped, nothing happens.
pub(crate) fn shrink() {
    let text = fs::read_to_string("/proc/self/smaps").unwrap_or_default();
    for mapping in unchanged(&text) {
        // SAFETY: the mapping shows a file, cannot be written to, and no page of it differs from the file: whoever reads it next
        // finds the same bytes.
        unsafe {
            libc::madvise(
                mapping.start as *mut libc::c_void,
                mapping.len,
                libc::MADV_DONTNEED,
            )
        };
    }
}

/// Read-only mappings of files of which no page differs from its file: relocated constants do, for example.
fn unchanged(smaps: &str) -> Vec<Mapping> {
    let mut found = Vec::new();
    let mut latest = Mapping::default();
    for line in smaps.lines() {
        let mut words = line.split_ascii_whitespace();
        match (words.next(), words.next()) {
            (Some("Anonymous:"), Some("0")) if latest.read_only_file => {
                found.push(std::mem::take(&mut latest));
            }
            (Some(range), Some(rights)) if range.contains('-') => {
                latest = header(range, rights, words.nth(3)).unwrap_or_default();
            }
            _ => {}
        }
    }
    found
}

fn header(range: &str, rights: &str, path: Option<&str>) -> Option<Mapping> {
    let (start, end) = range.split_once('-')?;
    let start = usize::from_str_radix(start, 16).ok()?;
    let end = usize::from_str_radix(end, 16).ok()?;
    Some(Mapping {
        start,
        len: end.checked_sub(start)?,
        read_only_file: rights.starts_with("r-")
            && rights.ends_with('p')
            && path.is_some_and(|path| path.starts_with('/')),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
560f00000000-560f00003000 r-xp 00001000 fe:00 17 /usr/bin/gmem
Rss:                  12 kB
Anonymous:             0 kB
560f00003000-560f00004000 r--p 00004000 fe:00 17 /usr/bin/gmem
Anonymous:             4 kB
560f00004000-560f00005000 rw-p 00005000 fe:00 17 /usr/bin/gmem
Anonymous:             0 kB
7f0000000000-7f0000001000 r--p 00000000 00:00 0
Anonymous:             0 kB
7f0000001000-7f0000002000 r--s 00000000 00:01 9 /memfd:x (deleted)
Anonymous:             0 kB
7ffc00000000-7ffc00001000 r-xp 00000000 00:00 0 [vdso]
Anonymous:             0 kB
";

    #[test]
    fn only_what_a_file_has_just_so_is_let_go() {
        let found: Vec<_> = unchanged(SMAPS)
            .iter()
            .map(|it| (it.start, it.len))
            .collect();
        assert_eq!(found, [(0x560f_0000_0000, 0x3000)]);
    }

    #[test]
    fn constants_and_code_are_the_same_afterwards() {
        let sum = || {
            crate::boot::bundled::IMAGE
                .iter()
                .map(|it| u64::from(*it))
                .sum::<u64>()
        };
        let before = sum();
        shrink();
        assert_eq!(sum(), before);
    }
}
