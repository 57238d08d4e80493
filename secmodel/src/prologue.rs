//! What stands before libseccomp's program: rules for calls that libseccomp cannot name, and ENOSYS for calls newer than
//! the profile.
//!
//! Whoever wrote a profile that refuses by default could not think of calls that came later. If those got its EPERM, a
//! libc that tries a new call first would take that for the answer; with ENOSYS it tries the old one. So, as runc does,
//! a number above the highest one that the profile names gets ENOSYS. Source: seccomp(2), and runc's `patchbpf`.

/// Where the architecture and the number are in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;

// BPF_LD|BPF_W|BPF_ABS, BPF_JMP|BPF_J..|BPF_K, BPF_RET|BPF_K of linux/bpf_common.h.
const LOAD: u16 = 0x20;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const JUMP_AT_LEAST: u16 = 0x35;
const RETURN: u16 = 0x06;

/// Bit 30 of a number marks a call of x32, which shares the architecture of x86_64. Source: asm/unistd.h.
pub(crate) const X32_BIT: u32 = 0x4000_0000;

/// SECCOMP_RET_ERRNO with ENOSYS. Source: linux/seccomp.h.
const ENOSYS: u32 = 0x0005_0000 | nix::errno::Errno::ENOSYS as u32;

/// One architecture's part of the prologue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    /// AUDIT_ARCH_* of linux/audit.h.
    pub(crate) architecture: u32,
    /// [`X32_BIT`] for x32, or 0.
    pub(crate) base: u32,
    /// Number without base, and SECCOMP_RET_*. The first that fits counts.
    pub(crate) rules: Vec<(u32, u32)>,
    /// Numbers above this (without base) get ENOSYS; none if absent.
    pub(crate) highest: Option<u32>,
}

impl Block {
    /// The instructions. Whatever this block says nothing of goes on behind its last one, with no state kept.
    fn program(&self) -> Vec<u8> {
        let mut tests = Vec::new();
        for (number, action) in &self.rules {
            tests.push((JUMP_EQUAL, 0, 1, number | self.base));
            tests.push((RETURN, 0, 0, *action));
        }
        if let Some(highest) = self.highest {
            tests.push((JUMP_GREATER, 0, 1, highest | self.base));
            tests.push((RETURN, 0, 0, ENOSYS));
        }
        // Only numbers of this base: x32 is from bit 30 to bit 31, everything else is below bit 30.
        let range = if self.base == 0 { 1 } else { 2 };
        // Jumps over all of `tests` and `ahead` more. One reaches 255; the table of new calls is far shorter.
        let past = |ahead: u8| u8::try_from(tests.len()).unwrap_or(u8::MAX).saturating_add(ahead);
        let mut code =
            vec![(LOAD, 0, 0, ARCHITECTURE), (JUMP_EQUAL, 0, past(1 + range), self.architecture), (LOAD, 0, 0, NUMBER)];
        if self.base != 0 {
            code.push((JUMP_AT_LEAST, 0, past(1), self.base));
        }
        code.push((JUMP_AT_LEAST, past(0), 0, if self.base == 0 { X32_BIT } else { X32_BIT << 1 }));
        code.into_iter().chain(tests).flat_map(|(code, yes, no, k)| instruction(code, yes, no, k)).collect()
    }
}

/// One `struct sock_filter`, as linux/filter.h lays it out.
fn instruction(code: u16, yes: u8, no: u8, k: u32) -> [u8; 8] {
    let (code, k) = (code.to_ne_bytes(), k.to_ne_bytes());
    [code[0], code[1], yes, no, k[0], k[1], k[2], k[3]]
}

/// The program to put before libseccomp's. Blocks that say nothing are left out.
pub(crate) fn program(blocks: &[Block]) -> Vec<u8> {
    blocks.iter().filter(|block| !block.rules.is_empty() || block.highest.is_some()).flat_map(Block::program).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel;

    fn run(program: &[u8], architecture: u32, number: u32) -> Option<u32> {
        kernel::run(program, &kernel::Call { number, architecture, args: [0; 6] })
    }

    #[test]
    fn a_block_answers_for_its_own_numbers_and_leaves_all_others() {
        let (allow, a, b) = (0x7fff_0000, 0xc000_003e, 0x4000_0003);
        let rules = vec![(457, allow), (462, 7)];
        let blocks = [
            Block { architecture: a, base: 0, rules: rules.clone(), highest: Some(462) },
            Block { architecture: a, base: X32_BIT, rules, highest: None },
            Block { architecture: b, base: 0, rules: vec![], highest: Some(460) },
        ];
        let program = program(&blocks);
        for number in (0..1024).chain([X32_BIT - 1]) {
            let gate = |highest| (number > highest).then_some(ENOSYS);
            let rule = match number {
                457 => Some(allow),
                462 => Some(7),
                _ => None,
            };
            assert_eq!(run(&program, a, number), rule.or(gate(462)), "{number}");
            assert_eq!(run(&program, a, number | X32_BIT), if number < 1024 { rule } else { None }, "x32 {number}");
            assert_eq!(run(&program, b, number), gate(460), "i386 {number}");
            assert_eq!(run(&program, 0xc000_00b7, number), None);
        }
        assert_eq!(run(&program, a, u32::MAX), None);
    }
}
