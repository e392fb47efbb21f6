//! Matrix products and attention: commands that hold a row of an operand in the unit while they work on it.

use super::command::{CommandError, Element};
use super::mmu::{Access, Format};
use super::processor::{Processor, apart, check, size};
use super::work::{Attention, Shape, gemm_bf16, gemm_f32};

/// Columns of a matrix product that are worked on at once.
const COLUMNS: usize = 1024;
/// The widest key that a unit can hold, bytes.
const WIDEST: u64 = 1 << 16;

impl<F: Format> Processor<F> {
    /// `C += A B`, a row of C at a time, in pieces: to each of its elements products are added in ascending order.
    pub(super) fn gemm(
        &mut self,
        Shape { m, n, k }: Shape,
        element: Element,
        [a, b, c]: [u64; 3],
    ) -> Result<(), CommandError> {
        let each = element.bytes();
        let area = |address: u64, rows: usize, columns: usize, each: u64| {
            let elements = size(address, rows as u64, columns as u64)?;
            let len = size(address, elements, each)?;
            check(address, len, each).map(|()| len)
        };
        let (of_a, of_b) = (area(a, m, k, each)?, area(b, k, n, each)?);
        let of_c = area(c, m, n, 4)?;
        apart(a, of_a, c, of_c)?;
        apart(b, of_b, c, of_c)?;
        if of_c == 0 {
            // Whatever the other sizes are: nothing would end a loop over them.
            return Ok(());
        }
        let at = |matrix: u64, row: usize, columns: usize, column: usize, each: u64| {
            matrix + (row as u64 * columns as u64 + column as u64) * each
        };
        let (mut left, mut right, mut sums) = ([0; 4], [0; COLUMNS * 4], [0; COLUMNS * 4]);
        let left = &mut left[..each as usize];
        for row in 0..m {
            for first in (0..n).step_by(COLUMNS) {
                let columns = COLUMNS.min(n - first);
                let right = &mut right[..columns * each as usize];
                let sums = &mut sums[..columns * 4];
                self.load(
                    at(c, row, n, first, 4),
                    sums,
                    of_c - at(0, row, n, first, 4),
                )?;
                for step in 0..k {
                    self.load(
                        at(a, row, k, step, each),
                        left,
                        of_a - at(0, row, k, step, each),
                    )?;
                    // Of a matrix that is wider than what is worked on at once, the next row lies further on.
                    let rest = match columns == n {
                        true => of_b - at(0, step, n, first, each),
                        false => right.len() as u64,
                    };
                    self.load(at(b, step, n, first, each), right, rest)?;
                    let tile = Shape {
                        m: 1,
                        n: columns,
                        k: 1,
                    };
                    // The lengths are the tile's.
                    let _ = match element {
                        Element::F32 => gemm_f32(tile, left, right, sums),
                        Element::Bf16 => gemm_bf16(tile, left, right, sums),
                    };
                }
                self.store(at(c, row, n, first, 4), sums)?;
            }
        }
        Ok(())
    }

    /// One query's attention over `tokens` keys and values of `width` bytes each.
    pub(super) fn attention(
        &mut self,
        [query, keys, values, out]: [u64; 4],
        tokens: u64,
        width: u64,
        scale: f32,
    ) -> Result<(), CommandError> {
        if width > WIDEST {
            return Err(CommandError::TooWide {
                width,
                limit: WIDEST,
            });
        }
        let cache = size(keys, tokens, width)?;
        check(out, width, 4)?;
        for (address, len) in [(query, width), (keys, cache), (values, cache)] {
            check(address, len, 4)?;
            apart(address, len, out, width)?;
        }
        if width == 0 {
            return Ok(());
        }
        let row = || vec![0; width as usize];
        let (mut of_query, mut key, mut value, mut result) = (row(), row(), row(), row());
        self.load(query, &mut of_query, width)?;
        // Equal lengths, whole elements.
        if let Ok(mut attention) = Attention::new(&of_query, scale, &mut result) {
            for token in 0..tokens {
                let rest = cache - token * width;
                self.load(keys + token * width, &mut key, rest)?;
                self.load(values + token * width, &mut value, rest)?;
                let _ = attention.token(&key, &value);
            }
            attention.finish();
        }
        self.store(out, &result)
    }

    /// Reads bytes of an operand that goes on for `whole` bytes from there.
    pub(super) fn load(
        &mut self,
        from: u64,
        into: &mut [u8],
        whole: u64,
    ) -> Result<(), CommandError> {
        let operand = [(from, Access::Read)];
        self.chunks_of(
            operand,
            into.len() as u64,
            whole,
            |memory, [at], done, len| {
                memory.read(at, &mut into[done as usize..][..len]);
            },
        )
    }

    fn store(&mut self, to: u64, bytes: &[u8]) -> Result<(), CommandError> {
        let operand = [(to, Access::Write)];
        self.chunks(operand, bytes.len() as u64, |memory, [at], done, len| {
            memory.write(at, &bytes[done as usize..][..len]);
        })
    }
}
