//! Commands, done at once on memory that everybody reaches.

use crate::extent::Extent;
use crate::memory::PAGE_SIZE;
use gmem_wire::gmem::advice;
use gmem_wire::xpu::{Request, Response, op, status};
use gmem_work as work;
use std::vec;
use std::vec::Vec;

/// What is done with a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Obey,
    /// One bit of what it writes is wrong.
    Garble,
    /// It is answered, and not done.
    Skip,
    /// Neither is it answered, nor any later one.
    Silence,
    /// It ends with this status.
    Fail(u32),
}

/// The answer, if there is one.
pub(super) fn execute(ram: &Extent<'_>, request: &Request, verdict: Verdict) -> Option<Response> {
    let (status, value) = match verdict {
        Verdict::Silence => return None,
        Verdict::Fail(status) => (status, 0),
        Verdict::Skip => (status::OK, 0),
        Verdict::Obey | Verdict::Garble => match carry_out(ram, request) {
            Some((value, written)) => {
                if verdict == Verdict::Garble {
                    ram.word(written)
                        .fetch_xor(1 << 20, core::sync::atomic::Ordering::AcqRel);
                }
                (status::OK, value)
            }
            None => (status::INVALID, 0),
        },
    };
    Some(Response { status, value })
}

/// What it answers, and a word that it has written.
fn carry_out(ram: &Extent<'_>, request: &Request) -> Option<(u64, u64)> {
    let args = request.args;
    match request.op {
        op::NOP => Some((0, 0)),
        op::ATOMIC_ADD => {
            let [at, value, ..] = args;
            Some((work::atomic_add(ram.word(at), value), at))
        }
        op::ATOMIC_ADDS => {
            let [at, count, stride, value, ..] = args;
            for at in (0..count).map(|number| at + number * stride) {
                work::atomic_add(ram.word(at), value);
            }
            Some((0, at))
        }
        op::GATHER => {
            let [table, rows, row, indices, count, to, _] = args;
            let names = read(ram, indices, 4 * count)?;
            let rows = work::Rows {
                count: rows,
                bytes: row,
            };
            for (at, index) in (to..).step_by(row as usize).zip(names.as_chunks().0) {
                let range = rows.row(u32::from_le_bytes(*index)).ok()?;
                let bytes = read(ram, table + range.start, row)?;
                ram.put_words(at, &bytes);
            }
            Some((0, to))
        }
        op::GEMM_BF16 => {
            let [m, n, k, a, b, c, _] = args;
            let (left, right) = (read(ram, a, 2 * m * k)?, read(ram, b, 2 * k * n)?);
            let mut sums = read(ram, c, 4 * m * n)?;
            let shape = work::Shape {
                m: m as usize,
                n: n as usize,
                k: k as usize,
            };
            work::gemm_bf16(shape, &left, &right, &mut sums).ok()?;
            ram.put_words(c, &sums);
            Some((0, c))
        }
        op::ATTENTION => {
            let [query, keys, values, tokens, width, scale, out] = args;
            let of_query = read(ram, query, width)?;
            let mut result = vec![0; width as usize];
            let scale = f32::from_bits(scale as u32);
            let mut attention = work::Attention::new(&of_query, scale, &mut result).ok()?;
            for at in (0..tokens).map(|token| token * width) {
                let (key, value) = (read(ram, keys + at, width)?, read(ram, values + at, width)?);
                attention.token(&key, &value).ok()?;
            }
            attention.finish();
            ram.put_words(out, &result);
            Some((0, out))
        }
        op::ADVISE => {
            let [at, len, advice, ..] = args;
            if at < ram.start() || at + len > ram.end() || len == 0 {
                return None;
            }
            if advice == advice::FREE {
                let end = (at + len) / PAGE_SIZE * PAGE_SIZE;
                let start = at.next_multiple_of(PAGE_SIZE);
                ram.clear(start..end.max(start));
            }
            Some((0, at))
        }
        _ => None,
    }
}

/// Bytes of memory, whole words; none if they are not memory.
fn read(ram: &Extent<'_>, at: u64, len: u64) -> Option<Vec<u8>> {
    let inside = at >= ram.start() && at.checked_add(len)? <= ram.end() && at.is_multiple_of(8);
    let mut bytes = vec![0; len.next_multiple_of(8) as usize];
    inside.then(|| ram.get_words(at, &mut bytes))?;
    bytes.truncate(len as usize);
    Some(bytes)
}
