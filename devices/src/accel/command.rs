//! What an accelerator can be asked to do.

use gmem_core::accel::Advice;
use gmem_core::engine::DeviceError;

use super::work::{self, Rows, Shape};

/// Something to do. Addresses are guest-physical, lengths bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Command {
    /// Nothing.
    Nop,
    /// Takes advice, in its turn among the commands of a stream.
    Advise {
        /// First byte.
        address: u64,
        /// How much.
        len: u64,
        /// What.
        advice: Advice,
    },
    /// Fills with a pattern of 8 bytes, by the byte's distance from `to`.
    Fill {
        /// Where.
        to: u64,
        /// How much.
        len: u64,
        /// With what.
        pattern: u64,
    },
    /// Copies; the ranges must not overlap.
    Copy {
        /// Whence.
        from: u64,
        /// Where to.
        to: u64,
        /// How much.
        len: u64,
    },
    /// Adds to a word of 8 bytes, aligned, at once.
    AtomicAdd {
        /// Where.
        at: u64,
        /// What.
        value: u64,
    },
    /// Adds to words of 8 bytes, aligned, each at once, one after the other.
    AtomicAdds {
        /// The first.
        at: u64,
        /// How many.
        count: u64,
        /// Bytes from one to the next, a multiple of 8.
        stride: u64,
        /// What.
        value: u64,
    },
    /// `y[i] = a * x[i] + y[i]`, f32; all aligned to 4 bytes.
    Saxpy {
        /// The factor.
        a: f32,
        /// The one vector.
        x: u64,
        /// The other, and the result.
        y: u64,
        /// How much.
        len: u64,
    },
    /// The sum of the u64 in a range, modulo 2^64; aligned to 8 bytes.
    Sum {
        /// Where.
        from: u64,
        /// How much.
        len: u64,
    },
    /// The sum of the f32 in a range, in the order of [`work::Sum`]; aligned to 4 bytes.
    Reduce {
        /// Where.
        from: u64,
        /// How much.
        len: u64,
    },
    /// Copies rows of a table, one after the other: embedding lookup. The result must not overlap what is read.
    Gather {
        /// The table.
        table: u64,
        /// Its shape.
        rows: Rows,
        /// Which rows: u32, aligned to 4 bytes.
        indices: u64,
        /// How many of them.
        count: u64,
        /// Where the rows go.
        to: u64,
    },
    /// `C += A B`, row by row; C is f32, and overlaps neither.
    Gemm {
        /// Rows and columns.
        shape: Shape,
        /// What A and B are made of.
        element: Element,
        /// A, `m` by `k`.
        a: u64,
        /// B, `k` by `n`.
        b: u64,
        /// C, `m` by `n`.
        c: u64,
    },
    /// Attention of one query over a cache of keys and values, f32, as [`work::Attention`] says.
    Attention {
        /// The query, `width` bytes.
        query: u64,
        /// The keys, one after the other.
        keys: u64,
        /// The values, likewise.
        values: u64,
        /// How many of each.
        tokens: u64,
        /// Bytes of a query, a key, a value.
        width: u64,
        /// Factor of scores.
        scale: f32,
        /// The result, `width` bytes.
        out: u64,
    },
}

/// What a matrix is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// IEEE single precision.
    F32,
    /// Its upper half.
    Bf16,
}

impl Element {
    /// Its size.
    pub const fn bytes(self) -> u64 {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
        }
    }
}

/// Why a command was not carried out, or not to its end: what was done of it is not undone.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// An operand is not aligned to its elements.
    #[error("operand {address:#x} of {len} bytes: address and length must be multiples of {align}")]
    Misaligned {
        /// Its address.
        address: u64,
        /// Its length.
        len: u64,
        /// What they must be multiples of.
        align: u64,
    },
    /// An operand wraps around the end of addresses.
    #[error("operand {address:#x} of {len} bytes goes beyond the last address")]
    Wraps {
        /// Its address.
        address: u64,
        /// Its length.
        len: u64,
    },
    /// What is written overlaps what is read.
    #[error("{len} bytes at {to:#x} would be written over {read} bytes at {from:#x} that are read")]
    Overlap {
        /// Whence.
        from: u64,
        /// How much is read there.
        read: u64,
        /// Where to.
        to: u64,
        /// How much is written there.
        len: u64,
    },
    /// A page does not come.
    #[error(transparent)]
    Fault(#[from] DeviceError),
    /// The operands are more than an accelerator that does not fault can hold. Nothing was done.
    #[error(
        "{name} does not fault, and operands of {bytes} bytes are more than its {memory} bytes of memory"
    )]
    TooLarge {
        /// The accelerator's make.
        name: &'static str,
        /// Bytes of the operands, by granules.
        bytes: u64,
        /// Bytes of its memory.
        memory: u64,
    },
    /// The stream was ended.
    #[error("the stream that it was given to has ended")]
    Stopped,
    /// Operands do not stay together for as long as a chunk takes.
    #[error("operands at {0:#x} do not stay in the accelerator's memory together; give it more")]
    Thrashing(u64),
    /// A key is wider than what a unit holds.
    #[error("keys of {width} bytes: this accelerator's units hold {limit}")]
    TooWide {
        /// Bytes of a key.
        width: u64,
        /// The most.
        limit: u64,
    },
    /// An index names no row. The rows before it are copied.
    #[error("{0}")]
    Row(work::Error),
}
