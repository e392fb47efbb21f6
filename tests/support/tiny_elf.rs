//! Kernels of a few bytes, with a hand-made ELF header, and the machine code to put in them.
//!
//! Each field that a loader looks at can be set, so that the same builder makes good and bad kernels.

/// Where kernels are loaded and entered unless said otherwise.
pub const BASE: u64 = 0x20_0000;

const HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;

/// A kernel with one loaded segment.
#[derive(Clone, Debug)]
pub struct TinyElf {
    /// Contents of the segment; its first byte is the entry point.
    pub code: Vec<u8>,
    /// Guest-physical address of the segment.
    pub base: u64,
    /// Bytes of the segment in memory; at least those of the code.
    pub memory_size: u64,
    /// Whether there is a PVH note that names the entry point.
    pub pvh: bool,
    /// ELF class: 2 for 64 bits.
    pub class: u8,
    /// ELF machine: 62 for x86-64.
    pub machine: u16,
    /// Added to the segment's offset in the file, to point beyond its end.
    pub offset_error: u64,
}

impl TinyElf {
    /// A 64-bit kernel with `code` at [`BASE`].
    pub fn new(code: &[u8]) -> Self {
        Self {
            code: code.to_vec(),
            base: BASE,
            memory_size: 0,
            pvh: false,
            class: 2,
            machine: 62,
            offset_error: 0,
        }
    }

    /// With the PVH note: entered in 32-bit protected mode.
    pub fn pvh(mut self) -> Self {
        self.pvh = true;
        self
    }

    /// The file.
    pub fn build(&self) -> Vec<u8> {
        let headers = 1 + usize::from(self.pvh);
        let mut note = Vec::new();
        if self.pvh {
            // Name and descriptor length, XEN_ELFNOTE_PHYS32_ENTRY, name, entry point.
            for word in [4u32, 4, 18] {
                note.extend(word.to_le_bytes());
            }
            note.extend(b"Xen\0");
            note.extend((self.base as u32).to_le_bytes());
        }
        let note_at = HEADER + headers * PROGRAM_HEADER;
        let code_at = note_at + note.len();

        let mut file = Vec::new();
        file.extend([0x7f, b'E', b'L', b'F', self.class, 1, 1, 0]);
        file.extend([0; 8]);
        file.extend(2u16.to_le_bytes());
        file.extend(self.machine.to_le_bytes());
        file.extend(1u32.to_le_bytes());
        file.extend(self.base.to_le_bytes());
        file.extend((HEADER as u64).to_le_bytes());
        file.extend(0u64.to_le_bytes());
        file.extend(0u32.to_le_bytes());
        for half in [HEADER, PROGRAM_HEADER, headers, 0, 0, 0] {
            file.extend((half as u16).to_le_bytes());
        }
        let memory_size = self.memory_size.max(self.code.len() as u64);
        let offset = code_at as u64 + self.offset_error;
        program_header(
            &mut file,
            1,
            offset,
            self.base,
            self.code.len() as u64,
            memory_size,
        );
        if self.pvh {
            let size = note.len() as u64;
            program_header(&mut file, 4, note_at as u64, 0, size, size);
        }
        file.extend(note);
        file.extend(&self.code);
        file
    }
}

fn program_header(file: &mut Vec<u8>, kind: u32, offset: u64, at: u64, size: u64, memory: u64) {
    file.extend(kind.to_le_bytes());
    file.extend(7u32.to_le_bytes());
    for word in [offset, at, at, size, memory, 0x1000] {
        file.extend(word.to_le_bytes());
    }
}

/// Machine code, the same in 32-bit and 64-bit mode unless said otherwise.
pub mod code {
    /// Ends the microVM with `verdict`.
    pub fn exit(verdict: u32) -> Vec<u8> {
        // mov $verdict, %eax; out %eax, $0xf4
        [&[0xb8][..], &verdict.to_le_bytes(), &[0xe7, 0xf4]].concat()
    }

    /// Says that the workload begins.
    pub fn mark() -> Vec<u8> {
        // mov $1, %al; out %al, $0xf1
        vec![0xb0, 1, 0xe6, 0xf1]
    }

    /// Writes `text` to the console.
    pub fn print(text: &str) -> Vec<u8> {
        // mov $0x3f8, %edx; then for each byte: mov $byte, %al; out %al, %dx
        let mut code = vec![0xba, 0xf8, 0x03, 0, 0];
        for byte in text.bytes() {
            code.extend([0xb0, byte, 0xee]);
        }
        code
    }

    /// Goes nowhere.
    pub fn spin() -> Vec<u8> {
        vec![0xeb, 0xfe]
    }

    /// Halts, with interrupts off: forever.
    pub fn halt() -> Vec<u8> {
        vec![0xf4, 0xeb, 0xfd]
    }

    /// An exception for which there is no handler.
    pub fn triple_fault() -> Vec<u8> {
        vec![0x0f, 0x0b]
    }

    /// Writes four bytes to `address`.
    pub fn store(address: u32) -> Vec<u8> {
        // mov $address, %eax; movl $1, (%rax)
        [
            &[0xb8][..],
            &address.to_le_bytes(),
            &[0xc7, 0x00, 1, 0, 0, 0],
        ]
        .concat()
    }

    /// Reads four bytes from `address`.
    pub fn load(address: u32) -> Vec<u8> {
        // mov $address, %eax; mov (%rax), %ecx
        [&[0xb8][..], &address.to_le_bytes(), &[0x8b, 0x08]].concat()
    }

    /// Jumps to `address`.
    pub fn jump(address: u32) -> Vec<u8> {
        // mov $address, %eax; jmp *%rax
        [&[0xb8][..], &address.to_le_bytes(), &[0xff, 0xe0]].concat()
    }

    /// Ends with verdict 33 unless RBX points to an `hvm_start_info`.
    pub fn expect_start_info() -> Vec<u8> {
        // cmpl $0x336ec578, (%rbx)
        unless_equal(vec![0x81, 0x3b, 0x78, 0xc5, 0x6e, 0x33])
    }

    /// Ends with verdict 33 unless RSI points to Linux `boot_params`.
    pub fn expect_boot_params() -> Vec<u8> {
        // cmpl $"HdrS", 0x202(%rsi)
        unless_equal(vec![0x81, 0xbe, 0x02, 0x02, 0, 0, 0x48, 0x64, 0x72, 0x53])
    }

    /// Ends with verdict 33 unless ECX has all bits set.
    pub fn expect_ones() -> Vec<u8> {
        // cmp $-1, %ecx
        unless_equal(vec![0x83, 0xf9, 0xff])
    }

    /// An SSE instruction: pxor %xmm0, %xmm0.
    pub fn pxor() -> Vec<u8> {
        vec![0x66, 0x0f, 0xef, 0xc0]
    }

    fn unless_equal(mut code: Vec<u8>) -> Vec<u8> {
        let fail = exit(33);
        code.extend([0x74, fail.len() as u8]);
        code.extend(fail);
        code
    }
}
