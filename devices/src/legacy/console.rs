//! The console: a 16550 UART.

use std::io::{self, Write};

use vm_superio::serial::{Error, SerialEvents};
use vm_superio::{Serial, Trigger};
use vmm_sys_util::eventfd::EventFd;

use super::line_tap::{LineTap, ResultLine};

/// Where the console's interrupt and its news go. By default nowhere: the bundled guest polls, and nobody types.
#[derive(Debug, Default)]
pub struct ConsoleWires {
    /// The interrupt line.
    pub line: Option<EventFd>,
    /// Written to when the guest has read all input: there is room for more.
    pub drained: Option<EventFd>,
}

#[derive(Debug)]
struct Line(Option<EventFd>);

impl Trigger for Line {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.as_ref().map_or(Ok(()), |line| line.write(1))
    }
}

#[derive(Debug)]
struct Drained(Option<EventFd>);

impl SerialEvents for Drained {
    fn buffer_read(&self) {}
    fn out_byte(&self) {}
    fn tx_lost_byte(&self) {}
    fn in_buffer_empty(&self) {
        if let Some(drained) = &self.0 {
            // One that is full has not been read yet.
            let _ = drained.write(1);
        }
    }
}

/// The guest's console. Output goes through a [`LineTap`], input is put in by [`Console::enqueue`].
///
/// Where there is input, output does not wait for the end of its line: it may be a prompt.
#[derive(Debug)]
pub struct Console<W: Write> {
    uart: Serial<Line, Drained, LineTap<W>>,
}

impl<W: Write> Console<W> {
    /// A console that writes to `out`.
    pub fn new(out: W, wires: ConsoleWires) -> Self {
        let tap = match wires.drained {
            Some(_) => LineTap::at_once(out),
            None => LineTap::new(out),
        };
        let (line, drained) = (Line(wires.line), Drained(wires.drained));
        Self {
            uart: Serial::with_events(line, drained, tap),
        }
    }

    /// Reads register `offset`, 0 to 7.
    pub fn read(&mut self, offset: u8) -> u8 {
        self.uart.read(offset)
    }

    /// Writes register `offset`, 0 to 7.
    pub fn write(&mut self, offset: u8, value: u8) {
        // An interrupt line that is full has been raised, the tap cannot fail, and a full receive buffer
        // (loopback mode) loses the byte, as the hardware does.
        let _ = self.uart.write(offset, value);
    }

    /// Types `bytes`; returns how many found room. For the others wait until the input is drained.
    pub fn enqueue(&mut self, bytes: &[u8]) -> usize {
        match self.uart.enqueue_raw_bytes(bytes) {
            Ok(taken) => taken,
            Err(Error::FullFifo) => 0,
            // The bytes are in; only the interrupt line was full.
            Err(_) => bytes.len(),
        }
    }

    /// Where the guest's result will be found.
    pub fn result(&self) -> ResultLine {
        self.uart.writer().result()
    }

    /// Passes on an unfinished last line.
    pub fn finish(&mut self) {
        self.uart.writer_mut().finish();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmm_sys_util::eventfd::EFD_NONBLOCK;

    /// Line status register: a byte has been received.
    const RECEIVED: u8 = 1;

    #[test]
    fn the_transmitter_is_always_ready_and_bytes_reach_the_output() {
        let mut out = Vec::new();
        let mut console = Console::new(&mut out, ConsoleWires::default());
        assert_ne!(console.read(5) & 0x20, 0, "transmit holding register empty");
        for byte in b"hi\n" {
            console.write(0, *byte);
        }
        drop(console);
        assert_eq!(out, b"hi\n");
    }

    #[test]
    fn loopback_floods_are_harmless() {
        let mut console = Console::new(io::sink(), ConsoleWires::default());
        console.write(4, 0x10);
        for _ in 0..10_000 {
            console.write(0, b'x');
        }
        assert_eq!(console.read(0), b'x');
    }

    #[test]
    fn input_interrupts_is_read_and_says_when_there_is_room_again() {
        let eventfd = || EventFd::new(EFD_NONBLOCK).unwrap();
        let (line, drained) = (eventfd(), eventfd());
        let wires = ConsoleWires {
            line: Some(line.try_clone().unwrap()),
            drained: Some(drained.try_clone().unwrap()),
        };
        let mut console = Console::new(io::sink(), wires);
        // Interrupt on received data, as a driver sets it.
        console.write(1, 1);
        let long = [b'a'; 100];
        let taken = console.enqueue(&long);
        assert_eq!(taken, 64);
        assert_eq!(console.enqueue(&long), 0);
        assert!(line.read().is_ok(), "the guest is interrupted");
        assert!(drained.read().is_err());
        for _ in 0..taken {
            assert_ne!(console.read(5) & RECEIVED, 0);
            assert_eq!(console.read(0), b'a');
        }
        assert_eq!(console.read(5) & RECEIVED, 0);
        assert!(drained.read().is_ok(), "there is room again");
    }
}
