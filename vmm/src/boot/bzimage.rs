//! A compressed Linux kernel: the ELF file inside it.
//!
//! A bzImage is a boot loader's header (`Documentation/arch/x86/boot.rst`), a decompressor that runs in the guest,
//! and the kernel, compressed. The decompressor is left out: the monitor unpacks the kernel itself, which is
//! faster, on a host that emulates privileged code by minutes.

use std::io::{self, Read};

use super::bytes::{u16_at, u32_at};

/// "HdrS", at its place in the header.
const MAGIC: &[u8] = b"HdrS";
const MAGIC_AT: usize = 0x202;
/// The first version of the protocol that says where the compressed kernel is: 2.08.
const VERSION: u16 = 0x208;
/// Sectors of the header's code, at this place; 0 means 4.
const SECTORS_AT: usize = 0x1f1;
const SECTOR: usize = 512;
/// The most a kernel may unpack to, bytes.
const LIMIT: u64 = 1 << 30;

/// Whether a file that begins so is a compressed Linux kernel.
pub(super) fn is(start: &[u8]) -> bool {
    start
        .get(MAGIC_AT..)
        .is_some_and(|at| at.starts_with(MAGIC))
}

/// The ELF file inside `image`. An error is what is wrong with it.
pub(super) fn unpack(image: &[u8]) -> Result<Vec<u8>, String> {
    let version = u16_at(image, 0x206);
    if version < VERSION {
        return Err(format!(
            "its boot protocol is {}.{:02}, older than 2.08",
            version >> 8,
            version & 0xff
        ));
    }
    let sectors = match image.get(SECTORS_AT) {
        Some(0) | None => 4,
        Some(sectors) => usize::from(*sectors),
    };
    let start = (sectors + 1) * SECTOR + u32_at(image, 0x248) as usize;
    let payload = image
        .get(start..)
        .and_then(|rest| rest.get(..u32_at(image, 0x24c) as usize))
        .ok_or("its compressed kernel lies beyond its end")?;
    let mut kernel = Vec::new();
    let read = reader(payload)?.take(LIMIT + 1).read_to_end(&mut kernel);
    // Behind the kernel stands its size: whoever reads to the end of the payload stumbles over it.
    let size = payload
        .last_chunk()
        .map_or(0, |bytes| u32::from_le_bytes(*bytes) as usize);
    match read {
        Err(error) if kernel.len() != size => {
            Err(format!("its kernel cannot be unpacked: {error}"))
        }
        _ if kernel.len() as u64 > LIMIT => Err(format!("its kernel has more than {LIMIT} bytes")),
        _ => Ok(kernel),
    }
}

/// What unpacks `payload`, by the bytes that it begins with.
fn reader(payload: &[u8]) -> Result<Box<dyn Read + '_>, String> {
    let failed = |error: io::Error| format!("its kernel cannot be unpacked: {error}");
    match payload {
        [0x1f, 0x8b, ..] => Ok(Box::new(flate2::read::GzDecoder::new(payload))),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => {
            Ok(Box::new(liblzma::read::XzDecoder::new(payload)))
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            let decoder = ruzstd::decoding::StreamingDecoder::new(payload);
            Ok(Box::new(
                decoder.map_err(|error| failed(io::Error::other(error)))?,
            ))
        }
        [0x02, 0x21, 0x4c, 0x18, ..] => Ok(Box::new(lz4_flex::frame::FrameDecoder::new(payload))),
        // Not compressed at all.
        [0x7f, b'E', b'L', b'F', ..] => Ok(Box::new(payload)),
        _ => Err(format!(
            "its kernel is compressed in a way that gmem does not know (it begins with {:02x?}; gzip, xz, zstd and \
             lz4 are known)",
            &payload[..payload.len().min(4)]
        )),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::io::Write;

    /// A compressed kernel with this payload, as the kernel's build makes it.
    pub(crate) fn image_of(payload: &[u8], size: usize) -> Vec<u8> {
        let mut image = vec![0; 2 * SECTOR + 0x40];
        image[SECTORS_AT] = 1;
        image[MAGIC_AT..MAGIC_AT + 4].copy_from_slice(MAGIC);
        image[0x206..0x208].copy_from_slice(&0x20f_u16.to_le_bytes());
        image[0x248..0x24c].copy_from_slice(&0x40_u32.to_le_bytes());
        image[0x24c..0x250].copy_from_slice(&(payload.len() as u32 + 4).to_le_bytes());
        image.extend_from_slice(payload);
        image.extend_from_slice(&(size as u32).to_le_bytes());
        image
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn each_kind_of_compression_gives_the_kernel_back() {
        let kernel: Vec<u8> = (0..100_000u32)
            .flat_map(|n| (n / 7).to_le_bytes())
            .collect();
        let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
        xz.write_all(&kernel).unwrap();
        // The old format, which the kernel's build uses: a magic number, then sizes and blocks.
        let block = lz4_flex::block::compress(&kernel);
        let mut lz4 = vec![0x02, 0x21, 0x4c, 0x18];
        lz4.extend_from_slice(&(block.len() as u32).to_le_bytes());
        lz4.extend_from_slice(&block);
        let zstd = ruzstd::encoding::compress_to_vec(
            &kernel[..],
            ruzstd::encoding::CompressionLevel::Fastest,
        );
        let mut plain = b"\x7fELF".to_vec();
        plain.extend_from_slice(&kernel);
        for payload in [gzip(&kernel), xz.finish().unwrap(), lz4, zstd] {
            let image = image_of(&payload, kernel.len());
            assert!(is(&image));
            let magic = &payload[..4];
            assert!(unpack(&image).unwrap() == kernel, "{magic:02x?}");
        }
        assert!(
            unpack(&image_of(&plain, plain.len()))
                .unwrap()
                .starts_with(&plain)
        );
    }

    #[test]
    fn damaged_images_are_refused_with_a_reason() {
        let good = image_of(&gzip(&[7; 10_000]), 10_000);
        let says = |image: &[u8], what: &str| {
            let error = unpack(image).unwrap_err();
            assert!(error.contains(what), "{error}");
        };
        says(&good[..good.len() - 1], "beyond its end");
        says(&good[..0x206], "older than 2.08");
        says(&image_of(b"BZh9....", 9), "does not know");
        let mut torn = good.clone();
        let middle = torn.len() - 30;
        torn[middle..middle + 8].fill(0xff);
        says(&torn, "cannot be unpacked");
        let mut far = good;
        far[0x248..0x24c].fill(0xff);
        says(&far, "beyond its end");
    }
}
