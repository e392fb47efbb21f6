//! From a request's bytes to a command, and from how it ended to an answer.

use gmem_core::accel::Advice;
use gmem_core::engine::DeviceError;
use gmem_wire::gmem::advice;
use gmem_wire::xpu::{ARGS, REQUEST_SIZE, RESPONSE_SIZE, Response, op, status};
use vm_memory::GuestMemoryMmap;

use crate::accel::work::{self, Rows, Shape};
use crate::accel::{Command, CommandError, Element};
use crate::virtio::{Broken, Buffers, Chain, Span};

/// A command that waits for its answer.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Request {
    pub(super) head: u16,
    /// Where the answer goes.
    room: Span,
    /// `None`: it makes no sense.
    pub(super) command: Option<Command>,
}

impl Request {
    /// The request in `chain`.
    pub(super) fn parse(chain: Chain<'_>, memory: &GuestMemoryMmap) -> Result<Self, Broken> {
        let (bytes, buffers) = Buffers::exchange(chain, memory, RESPONSE_SIZE)?;
        Ok(Self {
            head: buffers.head,
            room: buffers.writable,
            command: command(&bytes),
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

/// The command that these bytes are, if they are one.
pub(super) fn command(bytes: &[u8; REQUEST_SIZE]) -> Option<Command> {
    let request = gmem_wire::xpu::Request::from_bytes(bytes)?;
    let args = request.args;
    let (command, used) = of(request.op, args)?;
    // What an operation does not have is zero, so that it may have it one day.
    args[used..].iter().all(|arg| *arg == 0).then_some(command)
}

/// The command, and how many arguments it has.
fn of(operation: u32, args: [u64; ARGS]) -> Option<(Command, usize)> {
    let float = |bits: u64| Some(f32::from_bits(u32::try_from(bits).ok()?));
    let length = |value: u64| usize::try_from(value).ok();
    let gemm = |element| {
        let [m, n, k, a, b, c, _] = args;
        let shape = Shape {
            m: length(m)?,
            n: length(n)?,
            k: length(k)?,
        };
        Some(Command::Gemm {
            shape,
            element,
            a,
            b,
            c,
        })
    };
    let [first, second, third, fourth, fifth, sixth, seventh] = args;
    Some(match operation {
        op::NOP => (Command::Nop, 0),
        op::FILL => {
            let (to, len, pattern) = (first, second, third);
            (Command::Fill { to, len, pattern }, 3)
        }
        op::COPY => {
            let (from, to, len) = (first, second, third);
            (Command::Copy { from, to, len }, 3)
        }
        op::ATOMIC_ADD => {
            let (at, value) = (first, second);
            (Command::AtomicAdd { at, value }, 2)
        }
        op::ATOMIC_ADDS => {
            let adds = Command::AtomicAdds {
                at: first,
                count: second,
                stride: third,
                value: fourth,
            };
            (adds, 4)
        }
        op::SAXPY => {
            let (a, x, y, len) = (float(first)?, second, third, fourth);
            (Command::Saxpy { a, x, y, len }, 4)
        }
        op::SUM => {
            let (from, len) = (first, second);
            (Command::Sum { from, len }, 2)
        }
        op::REDUCE => {
            let (from, len) = (first, second);
            (Command::Reduce { from, len }, 2)
        }
        op::GATHER => {
            let rows = Rows {
                count: second,
                bytes: third,
            };
            let gather = Command::Gather {
                table: first,
                rows,
                indices: fourth,
                count: fifth,
                to: sixth,
            };
            (gather, 6)
        }
        op::GEMM_F32 => (gemm(Element::F32)?, 6),
        op::GEMM_BF16 => (gemm(Element::Bf16)?, 6),
        op::ATTENTION => {
            let attention = Command::Attention {
                query: first,
                keys: second,
                values: third,
                tokens: fourth,
                width: fifth,
                scale: float(sixth)?,
                out: seventh,
            };
            (attention, 7)
        }
        op::ADVISE => {
            let advice = advised(third)?;
            let (address, len) = (first, second);
            let advise = Command::Advise {
                address,
                len,
                advice,
            };
            (advise, 3)
        }
        _ => return None,
    })
}

/// What a number says of memory.
pub(in crate::virtio) fn advised(number: u64) -> Option<Advice> {
    Some(match number {
        advice::PREFETCH => Advice::Prefetch,
        advice::FREE => Advice::DontNeed,
        advice::PIN => Advice::Pinned,
        advice::UNPIN => Advice::Unpinned,
        advice::WILL_NEED => Advice::WillNeed,
        _ => return None,
    })
}

/// What is answered; `None` to a command that a reset has ended.
pub(super) fn response(result: Result<u64, CommandError>) -> Option<Response> {
    let (status, value) = match result {
        Ok(value) => (status::OK, value),
        Err(CommandError::Stopped) => return None,
        Err(CommandError::Fault(error)) => of_fault(&error),
        Err(CommandError::Thrashing(address)) => (status::NO_MEMORY, address),
        Err(CommandError::TooLarge { .. }) => (status::TOO_LARGE, 0),
        Err(CommandError::Row(work::Error::Row { index, .. })) => (status::ROW, index.into()),
        Err(
            CommandError::Misaligned { .. }
            | CommandError::Wraps { .. }
            | CommandError::Overlap { .. }
            | CommandError::TooWide { .. }
            | CommandError::Row(_),
        ) => (status::INVALID, 0),
    };
    Some(Response { status, value })
}

fn of_fault(error: &DeviceError) -> (u32, u64) {
    match error {
        DeviceError::NotRam { page } => (status::FAULT, page.address()),
        DeviceError::Pinned { page } | DeviceError::Busy { page } => {
            (status::NO_MEMORY, page.address())
        }
        DeviceError::Full { .. } => (status::NO_MEMORY, 0),
        DeviceError::Free(gmem_core::engine::FreeError::NotRam { start, .. }) => {
            (status::FAULT, start.address())
        }
        _ => (status::DEVICE, 0),
    }
}
