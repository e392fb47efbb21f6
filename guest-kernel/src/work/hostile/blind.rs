//! Registers in any order, and notifications out of nowhere.

use super::Machine;
use super::arena::ATTACKERS;
use super::attack::Attack;
use super::score::Score;
use crate::virtio::registers::*;
use core::hint::spin_loop;
use core::sync::atomic::{AtomicBool, Ordering};
use gmem_wire::layout::{MMIO_START, VIRTIO_DEVICES};

/// Registers that take addresses.
const ADDRESSES: [u64; 3] = [QUEUE_DESC, QUEUE_DRIVER, QUEUE_DEVICE];

const _: () = assert!(ATTACKERS <= 8);

impl<M: Machine> Attack<'_, '_, M> {
    /// Runs `action` while no other CPU sets up this device.
    ///
    /// After a reset the registers say that rings are at address 0. Were one CPU to reset the device while another one
    /// sets up its queues, the device would find rings half there and half here, and write over the guest.
    pub(super) fn exclusive(&mut self, action: impl FnOnce(&mut Self)) {
        static TAKEN: [AtomicBool; VIRTIO_DEVICES] =
            [const { AtomicBool::new(false) }; VIRTIO_DEVICES];
        let taken = &TAKEN[self.registers.number % VIRTIO_DEVICES];
        while taken.swap(true, Ordering::Acquire) {
            spin_loop();
        }
        action(self);
        taken.store(false, Ordering::Release);
    }

    /// Register accesses in any order, with values that make some sense and such that make none.
    pub(super) fn blind(&mut self, score: &mut Score) {
        for _ in 0..10 + self.random.below(50) {
            score.attacks += 1;
            self.touch();
        }
        self.pause(300);
    }

    /// Something beside the queues, while requests are under way.
    pub(super) fn disturb(&mut self) {
        let any = self.random.bits();
        match self.random.below(5) {
            0 => self.registers.write(INTERRUPT_ACK, any as u32),
            1 => self.registers.notify(any as u32 % 8),
            2 => {
                // A queue is taken back.
                let number = any as u32 % self.kind.queues() as u32;
                self.exclusive(|attack| {
                    attack.registers.write(QUEUE_SEL, number);
                    attack.registers.write(QUEUE_READY, 0);
                });
            }
            _ => self.touch_configuration(),
        }
    }

    fn touch(&mut self) {
        let any = self.random.bits();
        let registers = self.registers;
        match self.random.below(16) {
            0 => self.exclusive(|attack| {
                registers.reset();
                attack.forget();
            }),
            1 | 2 => {
                let status = match any & 3 {
                    0 => any as u32 >> 8 | 1,
                    _ => registers.status() | 1 << (any >> 8 & 7),
                };
                self.exclusive(|_| registers.write(STATUS, status));
            }
            3 => {
                let queue = [any as u32 % 6, any as u32][any as usize >> 8 & 1];
                self.exclusive(|_| registers.write(QUEUE_SEL, queue));
            }
            4 => registers.write(
                QUEUE_NUM,
                [1 << (any & 15), any as u32][any as usize >> 8 & 1],
            ),
            5 => {
                registers.write(DRIVER_FEATURES_SEL, (any as u32 >> 8) % 3);
                registers.write(DRIVER_FEATURES, any as u32);
            }
            6 => {
                let features = registers.offered();
                registers.accept(features | any & (any >> 13) & (any >> 29) & 0xff);
            }
            7 | 8 => self.exclusive(Self::ready_queue),
            9 => self.exclusive(Self::half_address),
            10 => registers.notify([any as u32 % 6, any as u32][any as usize >> 8 & 1]),
            11 => registers.write(INTERRUPT_ACK, any as u32),
            12 => self.touch_configuration(),
            13 => {
                // Registers that are for reading, or are none.
                let offsets = [0, 4, 8, 0xc, 0x10, 0x34, 0x48, 0x60, 0x74, 0xac, 0xb0, 0xfc];
                registers.write(offsets[(any >> 32) as usize % offsets.len()], any as u32);
            }
            14 => {
                // Not the width that registers have: ignored, addresses and all.
                let (width, offset) = ([1, 2, 8][any as usize % 3], any >> 8 & 0xff);
                if offset & !7 != STATUS & !7 {
                    registers.write_any(offset, width, any >> 16);
                }
            }
            _ => {
                let width = 1 << (any & 3);
                registers.read_any(any >> 8 & 0xfff, width);
            }
        }
    }

    fn touch_configuration(&mut self) {
        let any = self.random.bits();
        let width = 1 << (any & 3);
        let offset = match any >> 2 & 3 {
            0 => any >> 8 & 0xeff,
            _ => any >> 8 & 0x3f,
        };
        match any >> 4 & 1 {
            0 => _ = self.registers.read_any(CONFIG + offset, width),
            _ => self
                .registers
                .write_any(CONFIG + offset, width, self.random.bits()),
        }
    }

    /// Makes a queue ready. First it is told places that do; then it may be told others.
    fn ready_queue(&mut self) {
        let number = self.random.below(self.kind.queues() as u64) as usize;
        let places = self.arena.queue(self.cpu, number);
        let registers = self.registers;
        registers.write(QUEUE_SEL, number as u32);
        registers.place(places.table, places.avail, places.used);
        if self.chance(30) {
            self.half_address();
        }
        let ready = [1, 1, 1, 0, 2, u32::MAX][self.random.below(6) as usize];
        registers.write(QUEUE_READY, ready);
    }

    /// One half of one address of whichever queue is selected: places of this CPU's tables, or where no RAM is.
    fn half_address(&mut self) {
        let any = self.random.bits();
        let which = any as usize % 3;
        let register = ADDRESSES[which];
        if any & 8 != 0 {
            let high =
                [0x200, 0x8000, u32::MAX, (any >> 32) as u32 | 1 << 16][any as usize >> 4 & 3];
            return self.registers.write(register + 4, high);
        }
        let places = self.arena.queue(self.cpu, any as usize >> 8 & 3);
        let right = [places.table, places.avail, places.used][which];
        let low = match any >> 16 & 3 {
            0 => MMIO_START + (any >> 32) % 0x3fff_0000,
            _ => right,
        };
        self.registers.write(register, low as u32);
    }
}
