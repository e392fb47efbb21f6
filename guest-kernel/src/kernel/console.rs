//! The console: a serial port that is always ready.

use super::cpu;
use core::fmt::{self, Write};
use gmem_wire::port::SERIAL;

/// The serial port. Each byte costs an exit to the monitor, tens of microseconds.
pub struct Console;

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            cpu::out8(SERIAL, byte);
        }
        Ok(())
    }
}

/// Prints formatted text on the console.
macro_rules! print {
    ($($arguments:tt)*) => {{
        // The console has no errors.
        let _ = core::fmt::Write::write_fmt(
            &mut $crate::kernel::console::Console,
            format_args!($($arguments)*),
        );
    }};
}
pub(crate) use print;
