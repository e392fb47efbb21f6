//! Accelerators and the memory system's door: commands that are right or nearly so, and one by the rules.
//!
//! They obey what they read, addresses and all. So commands lie where a balloon's page numbers do: each is written once, its
//! first word last, over what is no command, and whatever is done to descriptors, a device reads whole ones (see
//! `Kind::unit`). What they write goes to the target zone; what they read may be anywhere.

use super::Machine;
use super::arena::NUMBERS_SIZE;
use super::attack::Attack;
use super::chain::Chain;
use super::driver::Driver;
use crate::memory::PAGE_SIZE;
use crate::virtio::Fault;
use gmem_wire::gmem::{self, advice};
use gmem_wire::xpu::{self, op};

/// Bytes that may be pinned, at the start of the target zone: pins may outlive a reset.
const PINNED: u64 = 64 << 10;
/// Where the buffers of proofs are.
const REQUEST: u64 = 0;
const RESPONSE: u64 = 0x80;
const PAGE: u64 = 0x4000;
const COPY: u64 = 0x6000;

impl<M: Machine> Attack<'_, '_, M> {
    /// A command for an accelerator.
    pub(super) fn command(&mut self, chain: &mut Chain) {
        let op = match self.random.below(16) {
            0 => self.random.bits() as u32,
            _ => self.random.below(13) as u32,
        };
        let mut args = [0; xpu::ARGS];
        let len = self.extent();
        match op {
            op::FILL => args[..3].copy_from_slice(&[self.written(), len, self.random.bits()]),
            op::COPY => args[..3].copy_from_slice(&[self.read(), self.written(), len]),
            op::ATOMIC_ADD => args[..2].copy_from_slice(&[self.written(), self.random.bits()]),
            op::SAXPY => {
                let a = self.random.bits() & 0xffff_ffff;
                args[..4].copy_from_slice(&[a, self.read(), self.written(), len & !3]);
            }
            op::SUM | op::REDUCE => args[..2].copy_from_slice(&[self.read(), len & !7]),
            op::GATHER => {
                let rows = [1 << 12, 16, 0, u64::MAX][self.random.below(4) as usize];
                let row = [64, 256, 1 << 12, self.random.below(600), 1 << 40];
                let row = row[self.random.below(5) as usize];
                let count = self.count();
                args[..3].copy_from_slice(&[self.read(), rows, row]);
                args[3..6].copy_from_slice(&[self.read() & !3, count, self.written()]);
            }
            op::GEMM_F32 | op::GEMM_BF16 => {
                let shape = [self.count(), self.count(), self.count()];
                args[..3].copy_from_slice(&shape);
                args[3..6].copy_from_slice(&[self.read(), self.read(), self.written()]);
            }
            op::ATTENTION => {
                let width = [16, 64, 256, 3, 0, 1 << 20][self.random.below(6) as usize];
                let tokens = self.count();
                args[..3].copy_from_slice(&[self.read(), self.read(), self.read()]);
                let scale = self.random.bits() & 0xffff_ffff;
                args[3..].copy_from_slice(&[tokens, width, scale, self.written()]);
            }
            op::ADVISE => args[..3].copy_from_slice(&self.advice()),
            _ => args = core::array::from_fn(|_| self.read()),
        }
        if op != op::ATTENTION && self.random.below(32) == 0 {
            // What must be zero is not.
            args[xpu::ARGS - 1] = self.random.bits();
        }
        let request = xpu::Request { op, args };
        chain.push(
            self.told(&request.to_bytes()),
            xpu::REQUEST_SIZE as u32,
            false,
        );
        chain.push(self.target(1), xpu::RESPONSE_SIZE as u32, true);
    }

    /// A request for the memory system's door, or room for an event.
    pub(super) fn door_request(&mut self, queue: usize, chain: &mut Chain) {
        if queue == gmem::queue::EVENTS {
            return chain.push(self.target(1), gmem::EVENT_SIZE as u32, true);
        }
        let op = match self.random.below(16) {
            0 => self.random.bits() as u32,
            _ => self.random.below(7) as u32,
        };
        let node = match self.random.below(8) {
            0 => self.random.bits() as u32,
            _ => self.random.below(8) as u32,
        };
        let args = match op {
            gmem::op::ADVISE => self.advice(),
            gmem::op::COPY => [self.written(), self.read(), self.extent()],
            gmem::op::NODE => [0; 3],
            // Less would last, and be felt by those who follow the rules.
            gmem::op::CAP => [u64::MAX, 0, 0],
            _ => [self.read(), self.extent(), 0],
        };
        let request = gmem::Request { op, node, args };
        chain.push(
            self.told(&request.to_bytes()),
            gmem::REQUEST_SIZE as u32,
            false,
        );
        chain.push(self.target(1), gmem::RESPONSE_SIZE as u32, true);
    }

    /// Where a device may write, whatever the length is, or where no memory is.
    fn written(&mut self) -> u64 {
        match self.random.below(8) {
            0 => self.nowhere(),
            1 => self.target(1),
            _ => self.target(64),
        }
    }

    /// Where a device may read.
    fn read(&mut self) -> u64 {
        match self.random.below(8) {
            0 => self.nowhere(),
            1 | 2 => self.random.below(self.arena.end()) & !7,
            3 => self.target(1),
            _ => self.target(64),
        }
    }

    /// A number of bytes.
    fn extent(&mut self) -> u64 {
        match self.random.below(8) {
            0 => self.random.bits() >> self.random.below(64),
            1 => 0,
            2 => PAGE_SIZE,
            3 => self.random.below(1 << 20),
            _ => 8 * self.random.below(2048),
        }
    }

    /// A number of rows, of columns, of tokens.
    fn count(&mut self) -> u64 {
        match self.random.below(16) {
            0 => self.random.bits() >> self.random.below(64),
            1 => 0,
            2 => 1 << 32,
            _ => 1 + self.random.below(48),
        }
    }

    /// What is said of a range, with the range.
    fn advice(&mut self) -> [u64; 3] {
        let advice = match self.random.below(8) {
            0 => self.random.bits(),
            _ => self.random.below(6),
        };
        match advice {
            advice::FREE => [self.written(), self.extent(), advice],
            advice::PIN => {
                let offset = self.random.below(PINNED);
                [self.arena.target().start + offset, PINNED - offset, advice]
            }
            _ => [self.read(), self.extent(), advice],
        }
    }

    /// Where a device reads a command, which is obeyed. Without room for more it is the first one since the reset again.
    fn told(&mut self, bytes: &[u8]) -> u64 {
        let numbers = self.arena.numbers(self.cpu);
        let len = bytes.len() as u64;
        if self.numbers_used + len > NUMBERS_SIZE {
            return numbers;
        }
        let at = numbers + self.numbers_used;
        self.numbers_used += len;
        let (words, _) = bytes.as_chunks();
        for (at, word) in (at..).step_by(8).zip(words).skip(1) {
            self.arena.put64(at, u64::from_le_bytes(*word));
        }
        // Until now it was no operation.
        if let Some(first) = words.first() {
            self.arena.put64(at, u64::from_le_bytes(*first));
        }
        at
    }
}

impl<M: Machine> Driver<'_, M> {
    /// Fills a page, and adds to a word of it.
    pub(super) fn fill_and_add(&mut self) -> Result<(), Fault> {
        let page = self.buffer(PAGE);
        let beside = [page - 8, page + PAGE_SIZE];
        for at in beside {
            self.arena.put64(at, !self.nonce);
        }
        self.order(op::FILL, [page, PAGE_SIZE, self.nonce])?;
        let mut words = (page..page + PAGE_SIZE).step_by(8);
        if !words.all(|at| self.arena.get64(at) == self.nonce) {
            return Err("an accelerator filled a page with something else");
        }
        if !beside.iter().all(|at| self.arena.get64(*at) == !self.nonce) {
            return Err("an accelerator wrote beside a page");
        }
        let old = self.order(op::ATOMIC_ADD, [page + 8, 5, 0])?;
        match old == self.nonce && self.arena.get64(page + 8) == old.wrapping_add(5) {
            true => Ok(()),
            false => Err("an accelerator's addition is none"),
        }
    }

    fn order(&mut self, op: u32, [a, b, c]: [u64; 3]) -> Result<u64, Fault> {
        let args = [a, b, c, 0, 0, 0, 0];
        let (answer, written) = self.exchange(&xpu::Request { op, args }.to_bytes())?;
        let answer = xpu::Response::from_bytes(&answer);
        match (answer.status, written as usize == xpu::RESPONSE_SIZE) {
            (xpu::status::OK, true) => Ok(answer.value),
            _ => Err("an accelerator did not carry out a command by the rules"),
        }
    }

    /// Sends a request with room for an answer of `N` bytes; the answer, and how many bytes were written.
    fn exchange<const N: usize>(&mut self, bytes: &[u8]) -> Result<([u8; N], u32), Fault> {
        let (request, response) = (self.buffer(REQUEST), self.buffer(RESPONSE));
        self.arena.put_words(request, bytes);
        let mut answer = [0xff; N];
        self.arena.put_words(response, &answer);
        let buffers = [
            (request, bytes.len() as u32, false),
            (response, N as u32, true),
        ];
        let written = self.ask(0, &buffers)?;
        self.arena.get_words(response, &mut answer);
        Ok((answer, written))
    }

    /// Asks about host RAM, copies a page, frees the copy.
    pub(super) fn copy_and_free(&mut self) -> Result<(), Fault> {
        let (page, copy) = (self.buffer(PAGE), self.buffer(COPY));
        for at in (0..PAGE_SIZE).step_by(8) {
            self.arena.put64(page + at, self.nonce.wrapping_add(at));
            self.arena.put64(copy + at, 0);
        }
        if self.demand(gmem::op::NODE, [0; 3])? != Some(gmem::kind::RAM) {
            return Err("the first node is not host RAM");
        }
        if self
            .demand(gmem::op::COPY, [copy, page, PAGE_SIZE])?
            .is_some()
        {
            let same = |at| self.arena.get64(page + at) == self.arena.get64(copy + at);
            if !(0..PAGE_SIZE).step_by(8).all(same) {
                return Err("a copy is another");
            }
        }
        let freed = self.demand(gmem::op::ADVISE, [copy, PAGE_SIZE, advice::FREE])?;
        let mut words = (copy..copy + PAGE_SIZE).step_by(8);
        if freed.is_some() && !words.all(|at| self.arena.get64(at) == 0) {
            return Err("a page that was freed kept its bytes");
        }
        let kept = |at: u64| self.arena.get64(page + at) == self.nonce.wrapping_add(at);
        match (0..PAGE_SIZE).step_by(8).all(kept) {
            true => Ok(()),
            false => Err("a page that was copied lost its bytes"),
        }
    }

    /// The first value of the answer about node 0; none if it cannot be done now.
    fn demand(&mut self, op: u32, args: [u64; 3]) -> Result<Option<u64>, Fault> {
        let (answer, written) = self.exchange(&gmem::Request { op, node: 0, args }.to_bytes())?;
        let answer = gmem::Response::from_bytes(&answer);
        if written as usize != gmem::RESPONSE_SIZE {
            return Err("an answer about memory is not 40 bytes long");
        }
        match answer.status {
            gmem::status::OK => Ok(Some(answer.values[0])),
            gmem::status::NO_MEMORY | gmem::status::PINNED | gmem::status::UNSUPPORTED => Ok(None),
            _ => Err("a request about memory by the rules was refused"),
        }
    }
}
