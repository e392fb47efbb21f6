//! What driver and device of a virtio-xpu, an accelerator, say to each other; docs/virtio-xpu.md specifies it.
//!
//! All integers are little-endian.

/// The device's type. Of those that virtio leaves free, and no registered one.
pub const ID: u32 = 62;

/// Features.
pub mod feature {
    /// The accelerator faults: operands come as it touches them. Without it they are all brought before a command
    /// begins, or it does not begin.
    pub const FAULTS: u64 = 1 << 0;
}

/// Streams, one for each queue, at most.
pub const STREAMS: usize = 8;
/// Descriptors of each queue, at most.
pub const QUEUE_SIZE: u16 = 256;

/// Byte offsets of the fields of the configuration space.
pub mod config {
    /// Micro-architecture, 4 bytes: see [`super::arch`].
    pub const ARCH: u64 = 0;
    /// Number of queues, 4 bytes.
    pub const STREAMS: u64 = 4;
    /// Local memory for pages, bytes, 8 bytes.
    pub const MEMORY: u64 = 8;
    /// Bytes that come and go together, 4 bytes.
    pub const GRANULE: u64 = 16;
    /// The memory node that its local memory is to virtio-gmem, 4 bytes.
    pub const NODE: u64 = 20;
    /// Size of all of it.
    pub const SIZE: usize = 24;
}

/// Micro-architectures.
pub mod arch {
    /// Four levels, pages of 4 KiB and 2 MiB.
    pub const NPU: u32 = 1;
    /// Five levels, pages of 64 KiB and 2 MiB.
    pub const GPU: u32 = 2;
}

/// Operations, with the arguments of each in their order. Addresses are guest-physical, lengths bytes.
pub mod op {
    /// Nothing: done when everything before it in its queue is.
    pub const NOP: u32 = 0;
    /// `to, len, pattern`
    pub const FILL: u32 = 1;
    /// `from, to, len`
    pub const COPY: u32 = 2;
    /// `at, value`; answers the old value.
    pub const ATOMIC_ADD: u32 = 3;
    /// `a` (bits of an f32)`, x, y, len`
    pub const SAXPY: u32 = 4;
    /// `from, len`; answers the sum of the u64.
    pub const SUM: u32 = 5;
    /// `from, len`; answers the bits of the sum of the f32.
    pub const REDUCE: u32 = 6;
    /// `table, rows, row bytes, indices, count, to`
    pub const GATHER: u32 = 7;
    /// `m, n, k, a, b, c`, all f32
    pub const GEMM_F32: u32 = 8;
    /// `m, n, k, a, b, c`, with A and B bf16 and C f32
    pub const GEMM_BF16: u32 = 9;
    /// `query, keys, values, tokens, width` (bytes)`, scale` (bits of an f32)`, out`
    pub const ATTENTION: u32 = 10;
    /// `address, len, advice`: see [`crate::gmem::advice`]; in its turn among the stream's commands.
    pub const ADVISE: u32 = 11;
    /// `at, count, stride, value`
    pub const ATOMIC_ADDS: u32 = 12;
}

/// How a command ended.
pub mod status {
    /// It is done.
    pub const OK: u32 = 0;
    /// The operation or its arguments make no sense. Nothing was done.
    pub const INVALID: u32 = 1;
    /// An operand is not guest memory. What was done before is not undone; the value is its address.
    pub const FAULT: u32 = 2;
    /// Its operands found no room: see the specification. What was done before is not undone.
    pub const NO_MEMORY: u32 = 3;
    /// Its operands are more than the local memory can ever hold, and the accelerator does not fault. Nothing was done.
    pub const TOO_LARGE: u32 = 4;
    /// An index names no row. The rows before it are copied; the value is the index.
    pub const ROW: u32 = 5;
    /// The accelerator failed.
    pub const DEVICE: u32 = 6;
}

/// A command: what the device reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// See [`op`].
    pub op: u32,
    /// Its arguments; those that it does not have are zero.
    pub args: [u64; ARGS],
}

/// Arguments of a command.
pub const ARGS: usize = 7;
/// Bytes of a [`Request`]: operation (4), zero (4), arguments (8 each).
pub const REQUEST_SIZE: usize = 8 + 8 * ARGS;
/// Bytes of a [`Response`]: status (4), zero (4), value (8).
pub const RESPONSE_SIZE: usize = 16;

impl Request {
    /// As it lies in memory.
    pub fn to_bytes(self) -> [u8; REQUEST_SIZE] {
        let mut bytes = [0; REQUEST_SIZE];
        bytes[..4].copy_from_slice(&self.op.to_le_bytes());
        for (to, arg) in bytes[8..].chunks_exact_mut(8).zip(self.args) {
            to.copy_from_slice(&arg.to_le_bytes());
        }
        bytes
    }

    /// What lies in memory; `None` if what must be zero is not.
    pub fn from_bytes(bytes: &[u8; REQUEST_SIZE]) -> Option<Self> {
        let (words, _) = bytes.as_chunks::<8>();
        let head = u64::from_le_bytes(words[0]);
        let mut args = [0; ARGS];
        for (arg, word) in args.iter_mut().zip(&words[1..]) {
            *arg = u64::from_le_bytes(*word);
        }
        let op = head as u32;
        (head >> 32 == 0).then_some(Self { op, args })
    }
}

/// How a command ended: what the device writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Response {
    /// See [`status`].
    pub status: u32,
    /// What the operation answers, or what the status says of.
    pub value: u64,
}

impl Response {
    /// As it lies in memory.
    pub fn to_bytes(self) -> [u8; RESPONSE_SIZE] {
        let mut bytes = [0; RESPONSE_SIZE];
        bytes[..4].copy_from_slice(&self.status.to_le_bytes());
        bytes[8..].copy_from_slice(&self.value.to_le_bytes());
        bytes
    }

    /// What lies in memory.
    pub fn from_bytes(bytes: &[u8; RESPONSE_SIZE]) -> Self {
        let (words, _) = bytes.as_chunks::<8>();
        Self {
            status: u64::from_le_bytes(words[0]) as u32,
            value: u64::from_le_bytes(words[1]),
        }
    }
}
