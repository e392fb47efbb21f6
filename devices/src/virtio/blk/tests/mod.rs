//! The disk before drivers good and bad, with each engine.

use std::fs;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use virtio_bindings::virtio_blk::*;
use vmm_sys_util::tempfile::TempFile;

use super::blocking::Blocking;
use super::engine::Engine;
use super::uring::Uring;
use super::*;
use crate::virtio::Device;
use crate::virtio::testing::{Bench, Part, Sent};

mod flow;
mod opening;
mod properties;
mod requests;

const SECTOR: usize = 512;
const SECTORS: usize = 64;
const ENGINES: [&str; 2] = ["io_uring", "blocking"];

/// An image whose every byte tells its sector.
struct Image(TempFile);

impl Image {
    fn new() -> Self {
        let image = Self(TempFile::new().unwrap());
        fs::write(image.0.as_path(), content()).unwrap();
        image
    }

    /// Makes the kernel read it from the disk again.
    fn forget(&self) {
        let file = self.0.as_file();
        file.sync_all().unwrap();
        // SAFETY: no memory is involved.
        unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    }

    fn bytes(&self) -> Vec<u8> {
        fs::read(self.0.as_path()).unwrap()
    }

    fn options(&self) -> BlkOptions {
        BlkOptions {
            path: self.0.as_path().into(),
            ..BlkOptions::default()
        }
    }

    fn open(&self, engine: &str) -> Bench<Blk> {
        Bench::started(open(self.options(), engine).unwrap())
    }

    fn open_read_only(&self, engine: &str) -> Bench<Blk> {
        let read_only = true;
        let options = BlkOptions {
            read_only,
            ..self.options()
        };
        Bench::started(open(options, engine).unwrap())
    }
}

fn content() -> Vec<u8> {
    (0..SECTORS * SECTOR)
        .map(|at| (at / SECTOR + 1) as u8)
        .collect()
}

fn open(options: BlkOptions, engine: &str) -> Result<Blk, OpenError> {
    let blk = Blk::with_engine(options, |file, depth| -> Box<dyn Engine> {
        match engine {
            "io_uring" => Box::new(Uring::new(Arc::clone(file), depth).unwrap()),
            _ => Box::new(Blocking::new(Arc::clone(file))),
        }
    })?;
    assert_eq!(blk.metrics()["engine"], engine);
    Ok(blk)
}

fn header(kind: u32, sector: u64) -> Part {
    let words = [u64::from(kind), sector];
    Part::Out(words.iter().flat_map(|word| word.to_le_bytes()).collect())
}

fn range(sector: u64, sectors: u32, flags: u32) -> Part {
    let mut bytes = sector.to_le_bytes().to_vec();
    bytes.extend(sectors.to_le_bytes());
    bytes.extend(flags.to_le_bytes());
    Part::Out(bytes)
}

/// Does one request; its status, and how many bytes were written, by what the device says.
fn ask(bench: &mut Bench<Blk>, parts: &[Part]) -> (u8, u32, Sent) {
    let sent = bench.send(0, parts);
    bench.notify(0).unwrap();
    let mut used = Vec::new();
    bench
        .serve_until(|bench| {
            used.extend(bench.used(0));
            !used.is_empty()
        })
        .unwrap();
    assert_eq!(used[0].head, sent.head);
    let status = bench.part(&sent, parts.len() - 1);
    (*status.last().unwrap(), used[0].written, sent)
}

const OK: u8 = VIRTIO_BLK_S_OK as u8;
const IOERR: u8 = VIRTIO_BLK_S_IOERR as u8;
const UNSUPP: u8 = VIRTIO_BLK_S_UNSUPP as u8;
