//! The kernel's side of seccomp(2): runs a classic BPF program over a system call.

/// A system call, as `struct seccomp_data` of linux/seccomp.h has it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Call {
    pub(crate) number: u32,
    pub(crate) architecture: u32,
    pub(crate) args: [u64; 6],
}

impl Call {
    /// The 32-bit word at byte `offset` (little endian).
    fn word(&self, offset: u32) -> u32 {
        match offset {
            0 => self.number,
            4 => self.architecture,
            16.. => (self.args[(offset as usize - 16) / 8] >> (offset % 8 * 8)) as u32,
            _ => panic!("the instruction pointer is not for filters"),
        }
    }
}

/// What the program returns; `None` where it falls off its end.
pub(crate) fn run(program: &[u8], call: &Call) -> Option<u32> {
    let (mut at, mut a, mut memory) = (0, 0, [0; 16]);
    while let Some(raw) = program.get(at * 8..at * 8 + 8) {
        let code = u16::from_ne_bytes([raw[0], raw[1]]);
        let k = u32::from_ne_bytes([raw[4], raw[5], raw[6], raw[7]]);
        let jump = |yes| usize::from(if yes { raw[2] } else { raw[3] });
        at += 1;
        match code {
            0x20 => a = call.word(k),
            0x60 => a = memory[k as usize],
            0x02 => memory[k as usize] = a,
            0x54 => a &= k,
            0x05 => at += k as usize,
            0x15 => at += jump(a == k),
            0x25 => at += jump(a > k),
            0x35 => at += jump(a >= k),
            0x45 => at += jump(a & k != 0),
            0x06 => return Some(k),
            _ => panic!("instruction {code:#x}"),
        }
    }
    assert_eq!(at * 8, program.len(), "a jump leaves the program");
    None
}
