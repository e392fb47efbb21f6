//! Requests and answers.

use gmem_core::accel::Advice;
use gmem_wire::gmem::{self, REQUEST_SIZE, RESPONSE_SIZE, Response, op, status};
use vm_memory::GuestMemoryMmap;

use super::nodes::NodeError;
use crate::virtio::xpu::advised;
use crate::virtio::{Broken, Buffers, Chain, Span};

/// The most that one request may be about, bytes: the device's lock is held meanwhile.
pub(super) const LARGEST: u64 = 16 << 20;

/// A request that waits for its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) head: u16,
    room: Span,
    /// `None`: it makes no sense.
    pub(super) task: Option<Task>,
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Task {
    Advise {
        node: u32,
        address: u64,
        len: u64,
        advice: Advice,
    },
    Copy {
        node: u32,
        to: u64,
        from: u64,
        len: u64,
    },
    Node(u32),
    Where {
        node: u32,
        address: u64,
        len: u64,
    },
    Cap {
        node: u32,
        bytes: u64,
    },
}

impl Request {
    /// The request in `chain`.
    pub(super) fn parse(chain: Chain<'_>, memory: &GuestMemoryMmap) -> Result<Self, Broken> {
        let (bytes, buffers) = Buffers::exchange(chain, memory, RESPONSE_SIZE)?;
        Ok(Self {
            head: buffers.head,
            room: buffers.writable,
            task: Task::parse(&bytes),
        })
    }

    /// Writes the answer: how many bytes that were.
    pub(super) fn answer(
        &self,
        memory: &GuestMemoryMmap,
        response: Response,
    ) -> Result<u32, Broken> {
        Ok(self.room.write(memory, &response.to_bytes())? as u32)
    }
}

impl Task {
    /// What these bytes ask for, if they make sense.
    pub(super) fn parse(bytes: &[u8; REQUEST_SIZE]) -> Option<Self> {
        let gmem::Request { op, node, args } = gmem::Request::from_bytes(bytes);
        let [first, second, third] = args;
        let small = |len: u64| len <= LARGEST;
        let task = match op {
            op::ADVISE if small(second) => Self::Advise {
                node,
                address: first,
                len: second,
                advice: advised(third)?,
            },
            op::COPY if small(third) && first.abs_diff(second) >= third => Self::Copy {
                node,
                to: first,
                from: second,
                len: third,
            },
            op::NODE if args == [0; 3] => Self::Node(node),
            op::WHERE if third == 0 && small(second) => Self::Where {
                node,
                address: first,
                len: second,
            },
            op::CAP if second == 0 && third == 0 => Self::Cap { node, bytes: first },
            _ => return None,
        };
        Some(task)
    }
}

/// What is answered to what went wrong.
pub(super) fn status(error: &NodeError) -> u32 {
    match error {
        NodeError::Invalid => status::INVALID,
        NodeError::NotRam => status::FAULT,
        NodeError::NoMemory => status::NO_MEMORY,
        NodeError::Pinned => status::PINNED,
        NodeError::Unsupported => status::UNSUPPORTED,
        NodeError::Failed(_) => status::DEVICE,
    }
}
