//! Which port belongs to which device.

use std::io::Write;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
use std::thread;
use std::time::{Duration, Instant};

use gmem_wire::{mark, port};

use super::{Console, ConsoleWires, ResultLine};

const SERIAL_LAST: u16 = port::SERIAL + 7;
/// Data of the keyboard controller (i8042).
const KEYBOARD_DATA: u16 = 0x60;
/// Of the sleep control register: sleep now; the bits below it are the sleep type, from bit 2 on.
const SLEEP_NOW: u8 = 1 << 5;
/// System control port B: bit 5 is the timer's output, on which old calibration loops wait.
const SYSTEM_CONTROL: u16 = 0x61;
const TIMER_OUTPUT: u8 = 1 << 5;
/// Index and data of the real-time clock's memory, which is empty.
const CLOCK: std::ops::RangeInclusive<u16> = 0x70..=0x71;

/// What a guest's nap is counted in.
const NAP: Duration = Duration::from_micros(10);

/// What the monitor has to do after a port was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Let the vCPU go on.
    Continue,
    /// End the microVM: the guest's verdict, see [`gmem_wire::exit`].
    Exit(u32),
    /// End the microVM: the guest reboots or powers off.
    Reset,
}

/// The port I/O space of a microVM. Shared by its vCPUs.
#[derive(Debug)]
pub struct Ports<W: Write> {
    console: Mutex<Console<W>>,
    result: ResultLine,
    workload_began: OnceLock<Instant>,
}

impl<W: Write> Ports<W> {
    /// The devices, with a console that writes to `out` and has these wires.
    pub fn new(out: W, wires: ConsoleWires) -> Self {
        let console = Console::new(out, wires);
        Self {
            result: console.result(),
            console: Mutex::new(console),
            workload_began: OnceLock::new(),
        }
    }

    /// A read of `data.len()` bytes from `port` (for a string instruction: that many in a row). Nobody's
    /// ports read as all ones.
    pub fn read(&self, port: u16, data: &mut [u8]) {
        match port {
            port::SERIAL..=SERIAL_LAST => {
                let mut console = self.console();
                data.fill_with(|| console.read((port - port::SERIAL) as u8));
            }
            // Nothing typed, and ready for a command.
            KEYBOARD_DATA | port::KEYBOARD => data.fill(0),
            port::SLEEP_CONTROL | port::SLEEP_STATUS => data.fill(0),
            SYSTEM_CONTROL => data.fill(TIMER_OUTPUT),
            port if CLOCK.contains(&port) => data.fill(0),
            _ => data.fill(0xff),
        }
    }

    /// A write of `data` to `port`. Writes to nobody's ports are lost, as on a PC.
    pub fn write(&self, port: u16, data: &[u8]) -> Action {
        match port {
            port::SERIAL..=SERIAL_LAST => {
                let mut console = self.console();
                for byte in data {
                    console.write((port - port::SERIAL) as u8, *byte);
                }
            }
            port::NAP => thread::sleep(NAP * u32::from(data.first().copied().unwrap_or_default())),
            port::MARK if data.first() == Some(&mark::WORKLOAD) => {
                // The first mark counts: a guest cannot move its own start.
                let _ = self.workload_began.set(Instant::now());
            }
            port::KEYBOARD if data.first() == Some(&port::KEYBOARD_RESET) => return Action::Reset,
            port::SLEEP_CONTROL if data.first() == Some(&(SLEEP_NOW | port::SLEEP_OFF << 2)) => {
                return Action::Reset;
            }
            port::EXIT => {
                // A narrower write is taken as the low bytes of the verdict.
                let mut verdict = [0; 4];
                let len = data.len().min(4);
                verdict[..len].copy_from_slice(&data[..len]);
                return Action::Exit(u32::from_le_bytes(verdict));
            }
            _ => {}
        }
        Action::Continue
    }

    /// Types `bytes` on the console; returns how many found room. `None`: a vCPU has the console just now, and may
    /// have it for long, stuck in writing to an output that nobody reads.
    pub fn type_in(&self, bytes: &[u8]) -> Option<usize> {
        match self.console.try_lock() {
            Ok(mut console) => Some(console.enqueue(bytes)),
            Err(TryLockError::Poisoned(console)) => Some(console.into_inner().enqueue(bytes)),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    fn console(&self) -> MutexGuard<'_, Console<W>> {
        self.console.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When the guest first said that its workload begins.
    pub fn workload_began(&self) -> Option<Instant> {
        self.workload_began.get().copied()
    }

    /// The guest's last result line, if it has written one. Does not wait for the console.
    pub fn result(&self) -> Option<Vec<u8>> {
        self.result.get()
    }

    /// Passes on an unfinished last line of the console. Where a vCPU still holds the console (it may be
    /// stuck in writing to an output that nobody reads) the line is left, so that ending never hangs.
    pub fn finish(&self) {
        match self.console.try_lock() {
            Ok(mut console) => console.finish(),
            Err(TryLockError::Poisoned(console)) => console.into_inner().finish(),
            Err(TryLockError::WouldBlock) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_port_carries_the_whole_verdict() {
        let ports = Ports::new(std::io::sink(), ConsoleWires::default());
        assert_eq!(
            ports.write(port::EXIT, &0x1234_5678u32.to_le_bytes()),
            Action::Exit(0x1234_5678)
        );
        assert_eq!(ports.write(port::EXIT, &[7]), Action::Exit(7));
        assert_eq!(ports.write(port::EXIT, &[1; 16]), Action::Exit(0x0101_0101));
    }

    #[test]
    fn only_the_first_workload_mark_counts() {
        let ports = Ports::new(std::io::sink(), ConsoleWires::default());
        assert_eq!(ports.write(port::MARK, &[9]), Action::Continue);
        assert_eq!(ports.workload_began(), None);
        ports.write(port::MARK, &[mark::WORKLOAD]);
        let first = ports.workload_began();
        assert!(first.is_some());
        ports.write(port::MARK, &[mark::WORKLOAD]);
        assert_eq!(ports.workload_began(), first);
    }

    #[test]
    fn a_string_write_reaches_the_console_byte_by_byte() {
        let mut out = Vec::new();
        let ports = Ports::new(&mut out, ConsoleWires::default());
        ports.write(port::SERIAL, b"{\"workload\":2}\nrest");
        assert_eq!(ports.result().unwrap(), br#"{"workload":2}"#.to_vec());
        ports.finish();
        drop(ports);
        assert_eq!(out, b"{\"workload\":2}\nrest");
    }

    #[test]
    fn who_types_does_not_wait_for_an_output_that_nobody_reads() {
        struct Stuck(std::sync::mpsc::Receiver<()>);
        impl Write for Stuck {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                let _ = self.0.recv();
                Ok(bytes.len())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let (read, output) = std::sync::mpsc::channel();
        let ports = Ports::new(Stuck(output), ConsoleWires::default());
        assert_eq!(ports.type_in(b"a"), Some(1));
        std::thread::scope(|scope| {
            scope.spawn(|| ports.write(port::SERIAL, b"\n"));
            while ports.type_in(b"").is_some() {
                std::thread::yield_now();
            }
            assert_eq!(ports.type_in(b"b"), None);
            drop(read);
        });
        assert_eq!(ports.type_in(b"b"), Some(1));
    }

    #[test]
    fn unclaimed_ports_read_as_ones_and_swallow_writes() {
        let ports = Ports::new(std::io::sink(), ConsoleWires::default());
        let mut data = [0; 4];
        ports.read(0x3e8, &mut data);
        assert_eq!(data, [0xff; 4]);
        assert_eq!(ports.write(0x80, &[1, 2]), Action::Continue);
    }

    #[test]
    fn the_guest_resets_and_powers_off_and_the_clock_is_empty() {
        let ports = Ports::new(std::io::sink(), ConsoleWires::default());
        let mut status = [0xff];
        ports.read(0x64, &mut status);
        assert_eq!(status, [0], "ready for a command");
        ports.read(0x71, &mut status);
        assert_eq!(status, [0]);
        assert_eq!(ports.write(0x64, &[0xae]), Action::Continue);
        assert_eq!(ports.write(0x64, &[0xfe]), Action::Reset);
        assert_eq!(ports.write(0x600, &[5 << 2]), Action::Continue);
        assert_eq!(ports.write(0x600, &[5 << 2 | 1 << 5]), Action::Reset);
    }
}
