//! The eBPF program that decides about devices on v2: an assembler for the ten instructions it needs.
//!
//! Source: the kernel's bpf/standardization/instruction-set and `struct bpf_cgroup_dev_ctx` of linux/bpf.h.

use crate::device::{Class, Rule};

/// Where a jump goes; the distance is known when the program is whole.
#[derive(Clone, Copy, PartialEq, Eq)]
enum To {
    Allow,
    Deny,
    /// The first instruction of the next rule.
    Next,
}

const LOAD_WORD: u8 = 0x61;
const MOVE: u8 = 0xb7;
const MOVE_REGISTER: u8 = 0xbf;
const AND: u8 = 0x57;
const SHIFT_RIGHT: u8 = 0x77;
const JUMP: u8 = 0x05;
const JUMP_IF_EQUAL: u8 = 0x15;
const JUMP_IF_NOT_EQUAL: u8 = 0x55;
const JUMP_IF_ANY_BIT: u8 = 0x45;
const EXIT: u8 = 0x95;

/// The registers: the verdict, the kernel's argument, and what the rules are about.
const VERDICT: u8 = 0;
const ARGUMENT: u8 = 1;
const CLASS: u8 = 2;
const UNDECIDED: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

/// One instruction as the kernel of a little-endian machine reads it: code, registers, offset, constant.
const fn instruction(code: u8, to: u8, from: u8, offset: i16, constant: u32) -> u64 {
    code as u64 | (to as u64) << 8 | (from as u64) << 12 | (offset as u16 as u64) << 16 | (constant as u64) << 32
}

#[derive(Default)]
struct Program {
    text: Vec<u64>,
    jumps: Vec<(usize, To)>,
}

impl Program {
    fn put(&mut self, code: u8, register: u8, constant: u32) {
        self.text.push(instruction(code, register, 0, 0, constant));
    }

    fn jump(&mut self, code: u8, register: u8, constant: u32, to: To) {
        self.jumps.push((self.text.len(), to));
        self.put(code, register, constant);
    }

    /// Lets the jumps to `to` land on the next instruction; says whether there were any.
    fn land(&mut self, to: To) -> bool {
        let here = self.text.len();
        let before = self.jumps.len();
        for &(at, _) in self.jumps.iter().filter(|(_, wanted)| *wanted == to) {
            self.text[at] |= instruction(0, 0, 0, (here - at - 1) as i16, 0);
        }
        self.jumps.retain(|(_, wanted)| *wanted != to);
        self.jumps.len() < before
    }

    /// Loads the class, the access that is wanted, and the numbers of the device.
    fn begin(&mut self) {
        self.text.push(instruction(LOAD_WORD, CLASS, ARGUMENT, 0, 0));
        self.text.push(instruction(MOVE_REGISTER, UNDECIDED, CLASS, 0, 0));
        self.put(AND, CLASS, 0xffff);
        self.put(SHIFT_RIGHT, UNDECIDED, 16);
        self.text.push(instruction(LOAD_WORD, MAJOR, ARGUMENT, 4, 0));
        self.text.push(instruction(LOAD_WORD, MINOR, ARGUMENT, 8, 0));
    }

    /// One rule; `true` where it decides about everything, so that nothing after it is reached.
    fn rule(&mut self, rule: &Rule) -> bool {
        let start = self.jumps.len();
        if let Some(class) = rule.class {
            let number = if class == Class::Block { 1 } else { 2 };
            self.jump(JUMP_IF_NOT_EQUAL, CLASS, number, To::Next);
        }
        for (register, wanted) in [(MAJOR, rule.major), (MINOR, rule.minor)] {
            if let Some(wanted) = wanted {
                self.jump(JUMP_IF_NOT_EQUAL, register, wanted, To::Next);
            }
        }
        let always = self.jumps.len() == start && rule.access.is_all();
        let bits = rule.access.bits();
        match (rule.allow, rule.access.is_all()) {
            (true, true) => self.jump(JUMP, 0, 0, To::Allow),
            (false, true) => self.jump(JUMP, 0, 0, To::Deny),
            (false, false) => self.jump(JUMP_IF_ANY_BIT, UNDECIDED, bits, To::Deny),
            (true, false) => {
                self.put(AND, UNDECIDED, !bits);
                self.jump(JUMP_IF_EQUAL, UNDECIDED, 0, To::Allow);
            }
        }
        self.land(To::Next);
        always
    }
}

/// The program for `rules`, where the last rule that matches decides, and no match allows.
///
/// Each wanted access (read, write, mknod) is decided by itself, as the rules say it: a device that one rule opens for
/// reading and another for writing can be opened for both. The rules are looked at last to first.
pub(crate) fn assemble(rules: &[Rule]) -> Vec<u64> {
    let mut program = Program::default();
    program.begin();
    let complete = rules.iter().rev().any(|rule| program.rule(rule));
    // The kernel refuses instructions that nothing reaches, so an end that nobody jumps to is left out.
    if program.land(To::Allow) || !complete {
        program.put(MOVE, VERDICT, 1);
        program.put(EXIT, 0, 0);
    }
    if program.land(To::Deny) {
        program.put(MOVE, VERDICT, 0);
        program.put(EXIT, 0, 0);
    }
    program.text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{Access, rules};

    /// `code registers offset constant` of each instruction, in hexadecimal.
    fn text(program: &[u64]) -> String {
        let line = |i: &u64| format!("{:02x} {:02x} {} {:x}\n", i & 0xff, i >> 8 & 0xff, (i >> 16) as i16, i >> 32);
        program.iter().map(line).collect()
    }

    const BEGIN: &str = "61 12 0 0\nbf 23 0 0\n57 02 0 ffff\n77 03 0 10\n61 14 4 0\n61 15 8 0\n";

    #[test]
    fn one_device_is_denied_and_the_rest_allowed() {
        let access = Access::parse("w").unwrap();
        let rule = Rule { allow: false, class: Some(Class::Character), major: Some(1), minor: Some(3), access };
        let expected = "55 02 3 2\n55 04 2 1\n55 05 1 3\n45 03 2 4\nb7 00 0 1\n95 00 0 0\nb7 00 0 0\n95 00 0 0\n";
        assert_eq!(text(&assemble(&[rule])), BEGIN.to_owned() + expected);
    }

    #[test]
    fn all_is_denied_but_reading_one_class() {
        let all = Rule { allow: false, class: None, major: None, minor: None, access: Access::ALL };
        let access = Access::parse("rm").unwrap();
        let disks = Rule { allow: true, class: Some(Class::Block), major: None, minor: None, access };
        let expected =
            "55 02 2 1\n57 03 0 fffffffc\n15 03 1 0\n05 00 2 0\nb7 00 0 1\n95 00 0 0\nb7 00 0 0\n95 00 0 0\n";
        assert_eq!(text(&assemble(&[all, disks])), BEGIN.to_owned() + expected);
    }

    #[test]
    fn an_end_that_nobody_reaches_is_left_out() {
        let all = |allow| Rule { allow, class: None, major: None, minor: None, access: Access::ALL };
        assert_eq!(text(&assemble(&[all(false)])), BEGIN.to_owned() + "05 00 0 0\nb7 00 0 0\n95 00 0 0\n");
        assert_eq!(text(&assemble(&[all(false), all(true)])), BEGIN.to_owned() + "05 00 0 0\nb7 00 0 1\n95 00 0 0\n");
    }

    #[test]
    fn a_usual_list_has_at_most_sixty_instructions() {
        let deny: Vec<oci_spec::runtime::LinuxDeviceCgroup> = vec![Default::default()];
        let program = assemble(&rules(&deny).unwrap());
        assert!(program.len() <= 60, "{}", program.len());
    }
}
