//! One request by the rules for each kind of device, and what must come of it.

use super::Machine;
use super::driver::Driver;
use super::kind::Kind;
use super::score::Score;
use crate::math::random::mix;
use crate::memory::PAGE_SIZE;
use crate::virtio::Fault;
use crate::virtio::queue::Buffer;
use crate::virtio::registers::CONFIG;

/// VIRTIO_BLK_F_RO.
const READ_ONLY: u64 = 1 << 5;
/// Nobody on the host need listen there.
const PORT: u32 = 99;
/// Bytes of a vsock packet's header, and of a net packet's.
const VSOCK_HEADER: u32 = 44;
const NET_HEADER: usize = 12;
const RECEIVE: usize = 0;
const SEND: usize = 1;
/// Buffers for incoming packets.
const ROOM: u32 = 2048;
const ROOMS: u16 = 4;

impl<M: Machine> Driver<'_, M> {
    /// Makes the device ready.
    pub(super) fn begin(&mut self) -> Result<(), Fault> {
        let features = match self.kind {
            // Statistics, hints, reports: then queues have the numbers of the book.
            Kind::Balloon => 1 << 1 | 1 << 3 | 1 << 5,
            // VIRTIO_MEM_F_UNPLUGGED_INACCESSIBLE, without which it takes no driver.
            Kind::Mem => 1 << 1,
            Kind::Xpu => gmem_wire::xpu::feature::FAULTS,
            _ => 0,
        };
        self.start(features)?;
        if matches!(self.kind, Kind::Net | Kind::Vsock) {
            for slot in 0..ROOMS {
                self.offer_room(slot);
            }
        }
        Ok(())
    }

    /// One request, and its check.
    pub(super) fn prove(&mut self, score: &mut Score) -> Result<(), Fault> {
        self.nonce = mix(self.nonce.wrapping_add(1));
        match self.kind {
            Kind::Rng => self.entropy(),
            Kind::Blk => self.sector(),
            Kind::Net => self.frame(score),
            Kind::Vsock => self.connection(score),
            Kind::Console => self.line(),
            Kind::Balloon => self.page(),
            Kind::Mem => self.blocks(),
            Kind::Xpu => self.fill_and_add(),
            Kind::Gmem => self.copy_and_free(),
        }
    }

    fn entropy(&mut self) -> Result<(), Fault> {
        let at = self.buffer(0);
        self.arena.clear(at..at + 64);
        let written = self.ask(0, &[(at, 64, true)])?;
        let zero = (0..8).all(|word| self.arena.get64(at + 8 * word) == 0);
        match written == 64 && !zero {
            true => Ok(()),
            false => Err("entropy that is none"),
        }
    }

    /// Writes a sector, reads it back. The attacks write to the disk too: never to this sector at the same time.
    fn sector(&mut self) -> Result<(), Fault> {
        let read_only = self.registers.offered() & READ_ONLY != 0;
        let sector = self.nonce % self.registers.config(0).max(1);
        let (out, back) = (self.buffer(0x200), self.buffer(0x400));
        for word in 0..64 {
            self.arena
                .put64(out + 8 * word, mix(self.nonce.wrapping_add(word)));
        }
        if !read_only {
            self.transfer(1, sector, (out, 512, false))?;
        }
        self.arena.clear(back..back + 512);
        self.transfer(0, sector, (back, 512, true))?;
        let same =
            |word: u64| self.arena.get64(out + 8 * word) == self.arena.get64(back + 8 * word);
        match read_only || (0..64).all(same) {
            true => Ok(()),
            false => Err("a sector reads otherwise than it was written"),
        }
    }

    fn transfer(&mut self, kind: u64, sector: u64, data: Buffer) -> Result<(), Fault> {
        let (header, status) = (self.buffer(0), self.buffer(0x40));
        self.arena.put64(header, kind);
        self.arena.put64(header + 8, sector);
        self.arena.put64(status, 0xff);
        self.ask(0, &[(header, 16, false), data, (status, 1, true)])?;
        match self.arena.get8(status) {
            0 => Ok(()),
            _ => Err("a transfer within the disk failed"),
        }
    }

    fn room(&self, slot: u16) -> u64 {
        self.buffer(0x1000 + u64::from(ROOM) * u64::from(slot))
    }

    fn offer_room(&mut self, slot: u16) {
        let room = self.room(slot);
        self.arena.put64(room, 0);
        self.offer(RECEIVE, slot, &[(room, ROOM, true)]);
    }

    /// Takes what has come in, and gives the room back.
    fn received<T>(&mut self, mut see: impl FnMut(&Self, u64, u32) -> Option<T>) -> Option<T> {
        let (slot, len) = self.answer(RECEIVE)?;
        let slot = slot as u16 % ROOMS;
        let seen = see(self, self.room(slot), len);
        self.offer_room(slot);
        seen
    }

    /// Asks who has 10.0.0.1. If the host does, it answers.
    fn frame(&mut self, score: &mut Score) -> Result<(), Fault> {
        const ARP: [u8; 42] = [
            255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 9, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0,
            0, 0, 9, 10, 0, 0, 9, 0, 0, 0, 0, 0, 0, 10, 0, 0, 1,
        ];
        let at = self.buffer(0);
        let mut packet = [0; NET_HEADER + ARP.len()];
        packet[NET_HEADER..].copy_from_slice(&ARP);
        self.arena.put(at, &packet);
        self.ask(SEND, &[(at, packet.len() as u32, false)])?;
        // A millisecond or so: whoever is there is fast, and nobody need be.
        let patience = 3_000_000;
        let came = self.wait(patience, |driver| driver.received(|_, _, len| Some(len)));
        score.packets += u64::from(came.is_some());
        match came {
            Some(len) if !(26..=ROOM).contains(&len) => Err("a packet of impossible length"),
            _ => Ok(()),
        }
    }

    /// Asks for a connection that nobody wants: the device itself says so.
    fn connection(&mut self, score: &mut Score) -> Result<(), Fault> {
        let (at, port) = (self.buffer(0), self.nonce as u32);
        self.vsock_header(at, port, 1);
        self.ask(SEND, &[(at, VSOCK_HEADER, false)])?;
        let op = self.wait_long(|driver| {
            driver.received(|driver, room, _| {
                let arena = &driver.arena;
                let to = arena.get32(room + 20);
                (to == port).then(|| (arena.get64(room + 24) >> 48) as u16)
            })
        })?;
        score.packets += 1;
        match op {
            // A reset.
            3 => Ok(()),
            // Somebody is there after all: a reset of ours.
            2 => {
                self.vsock_header(at, port, 3);
                self.ask(SEND, &[(at, VSOCK_HEADER, false)]).map(drop)
            }
            _ => Err("a connection was answered by neither yes nor no"),
        }
    }

    fn vsock_header(&self, at: u64, port: u32, op: u64) {
        let cid = u64::from(self.registers.read(CONFIG));
        self.arena.put64(at, cid);
        self.arena.put64(at + 8, 2);
        self.arena
            .put64(at + 16, u64::from(port) | u64::from(PORT) << 32);
        // Length, type (a stream) and operation; flags and room; no more.
        self.arena.put64(at + 24, 1 << 32 | op << 48);
        self.arena.put64(at + 32, 0x1_0000 << 32);
        self.arena.put64(at + 40, 0);
    }

    fn line(&mut self) -> Result<(), Fault> {
        let (text, at) = (b"guest: the console works\n", self.buffer(0));
        self.arena.put(at, text);
        self.ask(SEND, &[(at, text.len() as u32, false)]).map(drop)
    }

    /// Puts a page into the balloon and takes it out: it has lost its bytes, and is memory.
    fn page(&mut self) -> Result<(), Fault> {
        let (list, page) = (self.buffer(0), self.buffer(0x4000));
        let beside = [page - 8, page + PAGE_SIZE];
        for word in (page - 8..=page + PAGE_SIZE).step_by(8) {
            self.arena.put64(word, self.nonce | 1);
        }
        self.arena.put64(list, page / PAGE_SIZE);
        self.ask(0, &[(list, 4, false)])?;
        let zero = (0..PAGE_SIZE / 8).all(|word| self.arena.get64(page + 8 * word) == 0);
        self.ask(1, &[(list, 4, false)])?;
        self.arena.put64(page, self.nonce);
        if !zero || self.arena.get64(page) != self.nonce {
            return Err("a page in the balloon kept its bytes");
        }
        let kept = |at: u64| self.arena.get64(at) == self.nonce | 1;
        match beside.into_iter().all(kept) {
            true => Ok(()),
            false => Err("a page beside the balloon lost its bytes"),
        }
    }

    /// Unplugs all memory; if some is wanted, plugs the first block, uses it and unplugs it.
    fn blocks(&mut self) -> Result<(), Fault> {
        const ACK: u16 = 0;
        const NACK: u16 = 1;
        let (size, address) = (self.registers.config(0), self.registers.config(16));
        self.settled(2, address, 0)?;
        if self.registers.config(40) != 0 {
            return Err("memory is plugged in after all was unplugged");
        }
        if self.registers.config(48) < size {
            let answer = self.mem_request(0, address, 1)?;
            // Somebody may have asked for it just now.
            return match answer == ACK && self.registers.config(48) < size {
                true => Err("memory was plugged in that nobody wanted"),
                false => Ok(()),
            };
        }
        // The tiers need not hold it.
        if self.mem_request(0, address, 1)? == NACK {
            return Ok(());
        }
        if self.registers.config(40) != size {
            return Err("a block was plugged in, and is not counted");
        }
        self.settled(1, address, 1)
    }

    /// A request that must be granted, at the latest when others have let go of the memory.
    fn settled(&mut self, kind: u64, address: u64, count: u64) -> Result<(), Fault> {
        const ACK: u16 = 0;
        const BUSY: u16 = 2;
        for _ in 0..100_000 {
            match self.mem_request(kind, address, count)? {
                ACK => return Ok(()),
                BUSY => {}
                _ => return Err("memory cannot be unplugged"),
            }
        }
        Err("memory stays in use")
    }

    fn mem_request(&mut self, kind: u64, address: u64, count: u64) -> Result<u16, Fault> {
        let (request, response) = (self.buffer(0), self.buffer(0x40));
        self.arena.put64(request, kind);
        self.arena.put64(request + 8, address);
        self.arena.put64(request + 16, count);
        self.arena.put64(response, u64::MAX);
        let written = self.ask(0, &[(request, 24, false), (response, 10, true)])?;
        let answer = self.arena.get16(response);
        match written == 10 && answer <= 3 {
            true => Ok(answer),
            false => Err("a request for memory has no answer"),
        }
    }
}
