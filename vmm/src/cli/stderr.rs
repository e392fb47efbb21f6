//! Words for the user, who may not be reading them.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::time::Duration;

use crate::report::takes_more;

/// What a pipe takes whole when it takes anything.
const PIECE: usize = 4096;

/// Writes `text` to stderr; with a `patience`, what finds no room for so long is dropped.
///
/// Not by `eprint`, which panics where stderr is closed. In one write, if it is short, so that lines of several
/// processes on one terminal do not mix.
pub(super) fn write(text: &str, patience: Option<Duration>) {
    let mut stderr = io::stderr();
    for piece in text.as_bytes().chunks(PIECE) {
        let room = patience.is_none_or(|limit| takes_more(stderr.as_fd(), limit));
        if !room || stderr.write_all(piece).is_err() {
            return;
        }
    }
}
