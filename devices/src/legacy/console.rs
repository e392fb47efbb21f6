//! The console: a 16550 UART without its interrupt line.

use std::convert::Infallible;
use std::io::Write;

use vm_superio::{Serial, Trigger, serial::NoEvents};

use super::line_tap::{LineTap, ResultLine};

/// An interrupt line that leads nowhere: guests poll the line status register.
#[derive(Debug)]
struct Unconnected;

impl Trigger for Unconnected {
    type E = Infallible;

    fn trigger(&self) -> Result<(), Infallible> {
        Ok(())
    }
}

/// The guest's console. Output goes through a [`LineTap`]; there is no input.
#[derive(Debug)]
pub struct Console<W: Write> {
    uart: Serial<Unconnected, NoEvents, LineTap<W>>,
}

impl<W: Write> Console<W> {
    /// A console that writes to `out`.
    pub fn new(out: W) -> Self {
        Self {
            uart: Serial::new(Unconnected, LineTap::new(out)),
        }
    }

    /// Reads register `offset`, 0 to 7.
    pub fn read(&mut self, offset: u8) -> u8 {
        self.uart.read(offset)
    }

    /// Writes register `offset`, 0 to 7.
    pub fn write(&mut self, offset: u8, value: u8) {
        // Neither the unconnected interrupt nor the tap can fail; a full receive buffer (loopback mode)
        // loses the byte, as the hardware does.
        let _ = self.uart.write(offset, value);
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

    #[test]
    fn the_transmitter_is_always_ready_and_bytes_reach_the_output() {
        let mut out = Vec::new();
        let mut console = Console::new(&mut out);
        assert_ne!(console.read(5) & 0x20, 0, "transmit holding register empty");
        for byte in b"hi\n" {
            console.write(0, *byte);
        }
        drop(console);
        assert_eq!(out, b"hi\n");
    }

    #[test]
    fn loopback_floods_are_harmless() {
        let mut console = Console::new(std::io::sink());
        console.write(4, 0x10);
        for _ in 0..10_000 {
            console.write(0, b'x');
        }
        assert_eq!(console.read(0), b'x');
    }
}
