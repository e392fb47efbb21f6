//! The device's side of its page tables.

use std::sync::atomic::Ordering;

use gmem_core::page::PageNo;

use super::format::decode;
use super::{Access, Cause, Decoded, Fault, Format, LocalMemory, Translation};

/// Translates `page` for `access` by the tables whose root is at byte offset `root` of the device's memory, and
/// notes the access in the entry if the format does.
///
/// Reads one entry a level whatever the tables hold. It may run while the tables change: it finds what was there
/// before or after, and never notes an access in an entry that has changed meanwhile.
///
/// # Errors
///
/// A [`Fault`] that says why the access is not possible. Nothing is noted.
pub fn walk<F: Format>(
    memory: &(impl LocalMemory + ?Sized),
    root: u64,
    page: PageNo,
    access: Access,
) -> Result<Translation, Fault> {
    let fault = |cause| Fault {
        page,
        access,
        cause,
    };
    if page.0 >= F::end() {
        return Err(fault(Cause::Beyond));
    }
    let mut table = root;
    for (number, level) in F::LEVELS.iter().enumerate() {
        let at = level.entry(table, page);
        let malformed = |entry| fault(Cause::Malformed { at, entry });
        let word = memory.word(at).map_err(|_| malformed(0))?;
        // Acquire: a table is filled before it is linked.
        let mut entry = word.load(Ordering::Acquire);
        table = loop {
            let leaf = match decode::<F>(number, entry) {
                Decoded::Empty => return Err(fault(Cause::NotMapped)),
                Decoded::Malformed => return Err(malformed(entry)),
                Decoded::Table(next) => break next,
                Decoded::Page(leaf) if leaf.rights < access.needs() => {
                    return Err(fault(Cause::Denied(leaf.rights)));
                }
                Decoded::Page(leaf) => leaf,
            };
            let dirty = if access.writes() { F::DIRTY } else { 0 };
            let noted = entry | F::ACCESSED | dirty;
            if noted != entry
                && let Err(now) =
                    word.compare_exchange(entry, noted, Ordering::AcqRel, Ordering::Acquire)
            {
                entry = now;
                continue;
            }
            return Ok(Translation {
                range: level.covered(page),
                target: leaf.target,
                rights: leaf.rights,
                dirty: noted & F::DIRTY == F::DIRTY,
            });
        };
    }
    // `decode` lets no table stand beneath the last level.
    Err(fault(Cause::NotMapped))
}
