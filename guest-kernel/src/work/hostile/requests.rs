//! Requests as they should be, or nearly, before something is done to them.

use super::Machine;
use super::arena::NUMBERS_SIZE;
use super::attack::Attack;
use super::chain::Chain;
use super::kind::Kind;
use crate::memory::PAGE_SIZE;

impl<M: Machine> Attack<'_, '_, M> {
    /// A length that is not too long for what is obeyed.
    fn length(&mut self) -> u32 {
        match self.random.below(6) {
            0 => self.random.below(16) as u32,
            1 => self.random.below(70_000) as u32,
            2 => 4096,
            _ => 512 * (1 + self.random.below(16) as u32),
        }
    }

    /// A request for `queue` that a device of this kind would serve, or nearly.
    pub(super) fn request(&mut self, queue: usize) -> Chain {
        let mut chain = Chain::default();
        match (self.kind, queue) {
            (Kind::Rng, _) => {
                let len = self.length();
                chain.push(self.target(1), len, true);
            }
            (Kind::Blk, _) => self.disk_request(&mut chain),
            (Kind::Net | Kind::Console, 0) => {
                let len = 1526 + self.length();
                chain.push(self.target(1), len, true);
            }
            (Kind::Net, _) => self.frame(&mut chain),
            (Kind::Console, _) => {
                let len = self.random.below(256) as u32;
                chain.push(self.source(), len, false);
            }
            (Kind::Vsock, 1) => self.packet(&mut chain),
            (Kind::Vsock, _) => chain.push(self.target(4), 44 + 4096, true),
            (Kind::Balloon, queue) => self.balloon_request(queue, &mut chain),
            (Kind::Mem, _) => self.mem_request(&mut chain),
            (Kind::Xpu, _) => self.command(&mut chain),
            (Kind::Gmem, queue) => self.door_request(queue, &mut chain),
        }
        chain
    }

    /// Bytes for a device to read, at most 64, in the target zone.
    fn header(&mut self, bytes: &[u8]) -> u64 {
        let at = self.zone(64).min(self.arena.end() - 64);
        let mut copy = [0; 64];
        let len = bytes.len().min(64);
        copy[..len].copy_from_slice(&bytes[..len]);
        // One bit of it is wrong at times.
        if self.random.below(8) == 0 {
            let bit = self.random.below(len as u64 * 8);
            copy[(bit / 8) as usize] ^= 1 << (bit % 8);
        }
        self.arena.put(at, &copy[..len]);
        at
    }

    fn disk_request(&mut self, chain: &mut Chain) {
        const READ: u32 = 0;
        const WRITE: u32 = 1;
        const OTHERS: [u32; 8] = [4, 4, 4, 4, 8, 10, 11, 13];
        let any = self.random.bits();
        let kind = match any % 10 {
            0..3 => READ,
            3..6 => WRITE,
            9 => any as u32,
            _ => OTHERS[any as usize / 16 % OTHERS.len()],
        };
        let sectors = self.registers.config(0);
        let sector = match any >> 32 & 15 {
            0 => self.random.bits(),
            1 => sectors.wrapping_sub(self.random.below(4)),
            // Room behind it.
            _ => self.random.below(sectors.saturating_sub(256).max(1)),
        };
        let mut header = [0; 16];
        header[..4].copy_from_slice(&kind.to_le_bytes());
        header[8..].copy_from_slice(&sector.to_le_bytes());
        chain.push(self.header(&header), 16, false);
        if matches!(kind, 11 | 13) {
            let count = self.random.below(64) as u32;
            let mut range = [0; 16];
            range[..8].copy_from_slice(&sector.to_le_bytes());
            range[8..12].copy_from_slice(&count.to_le_bytes());
            chain.push(self.header(&range), 16, false);
        } else if kind != 4 {
            // Up to 96 KiB, so that it takes its time.
            for _ in 0..1 + self.random.below(4) {
                let len = match self.random.below(20) {
                    0 => self.length(),
                    _ => 512 << self.random.below(7),
                };
                match kind {
                    WRITE => chain.push(self.source(), len, false),
                    8 => chain.push(self.target(1), 20, true),
                    _ => chain.push(self.target(1), len, true),
                }
            }
        }
        chain.push(self.target(1), 1, true);
    }

    fn frame(&mut self, chain: &mut Chain) {
        let mut header = [0; 12];
        // Flags, kind of segmentation, and its sizes: right ones and any.
        for byte in &mut header[..2] {
            *byte = [0, 0, 1, 2, 3, 4, 5, 0x80, 0xff][self.random.below(9) as usize];
        }
        let sizes = self.random.bits().to_le_bytes();
        header[2..10].copy_from_slice(&sizes);
        if self.random.below(2) == 0 {
            header[..10].fill(0);
        }
        chain.push(self.header(&header), 12, false);
        for _ in 0..1 + self.random.below(3) {
            let len = self.random.below(1600) as u32;
            chain.push(self.source(), len, false);
        }
    }

    fn packet(&mut self, chain: &mut Chain) {
        let bits = self.random.bits();
        let len = self.length();
        let mut header = [0; 44];
        // Most of it is right, so that connections come about and are used.
        let cid = match bits & 15 {
            0 => self.random.bits(),
            _ => self.registers.config(0),
        };
        let to = match bits >> 4 & 15 {
            0 => self.random.bits() % 4,
            _ => 2,
        };
        let named = match bits >> 8 & 31 {
            0 => 0,
            1 => u32::MAX,
            2 => 1 << 16,
            3 => len + 1,
            _ => len,
        };
        // Few ports, so that packets meet connections.
        let ports = [
            (bits >> 16) as u32 % 2,
            [1024, 1024, 1024, 1024, 1024, 1025, 99, u32::MAX][(bits >> 24) as usize % 8],
        ];
        let op = [1u16, 1, 1, 1, 5, 5, 5, 5, 5, 0, 2, 3, 4, 6, 7, 9][(bits >> 40) as usize % 16];
        header[..8].copy_from_slice(&cid.to_le_bytes());
        header[8..16].copy_from_slice(&to.to_le_bytes());
        header[16..20].copy_from_slice(&ports[0].to_le_bytes());
        header[20..24].copy_from_slice(&ports[1].to_le_bytes());
        header[24..28].copy_from_slice(&named.to_le_bytes());
        header[28] = u8::from(bits >> 52 & 15 != 0);
        header[30..32].copy_from_slice(&op.to_le_bytes());
        header[32] = (bits >> 56) as u8 % 4;
        let credit = self.random.bits().to_le_bytes();
        header[36..44].copy_from_slice(&credit);
        chain.push(self.header(&header), 44, false);
        if len > 0 {
            chain.push(self.source(), len, false);
        }
    }

    fn balloon_request(&mut self, queue: usize, chain: &mut Chain) {
        if queue >= 3 && self.random.below(8) > 0 {
            for _ in 0..1 + self.random.below(3) {
                let len = self.length();
                chain.push(self.target(1), len, true);
            }
            return;
        }
        let count = 1 + self.random.below(256);
        let beyond = self.arena.end() / PAGE_SIZE;
        let mut numbers = self.arena.numbers(self.cpu);
        // Without room for more, it is the first ones again.
        if self.numbers_used + 4 * count <= NUMBERS_SIZE {
            numbers += self.numbers_used;
            self.numbers_used += (4 * count).next_multiple_of(8);
            for index in 0..count {
                let number = match self.random.below(4) {
                    0 => beyond + self.random.below(1 << 30),
                    1 => u64::from(u32::MAX) - self.random.below(1 << 20),
                    // Runs.
                    _ => self.target(PAGE_SIZE) / PAGE_SIZE + index % 4,
                };
                // Its highest byte last: until then it is the number of no page.
                self.arena
                    .put(numbers + 4 * index, &(number as u32).to_le_bytes());
            }
        }
        let len = match self.random.below(4) {
            0 => self.random.below(4 * count) as u32,
            _ => 4 * count as u32,
        };
        chain.push(numbers, len, false);
    }

    fn mem_request(&mut self, chain: &mut Chain) {
        let bits = self.random.bits();
        let (size, start) = (self.registers.config(0), self.registers.config(16));
        let kind = [0u16, 0, 1, 1, 2, 3, 4, bits as u16][(bits >> 16) as usize % 8];
        let address = match bits >> 24 & 3 {
            0 => self.elsewhere(),
            1 => start + self.random.below(1 << 30),
            _ => start + size.wrapping_mul(self.random.below(64)),
        };
        let count = [0u16, 1, 2, 8, 16, u16::MAX, 1, 3][(bits >> 32) as usize % 8];
        let mut request = [0; 24];
        request[..2].copy_from_slice(&kind.to_le_bytes());
        request[8..16].copy_from_slice(&address.to_le_bytes());
        request[16..18].copy_from_slice(&count.to_le_bytes());
        chain.push(self.header(&request), 24, false);
        chain.push(self.target(1), 10, true);
    }
}
