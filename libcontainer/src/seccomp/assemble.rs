//! Writes classic BPF from the last instruction to the first (in the plan, in the parent).
//!
//! Jumps go forward only, and a conditional jump reaches 255 instructions. If the program is written backwards, each target
//! is known when its jump is written. A target that is too far gets another instruction right behind the jump: the same
//! return again, or an unconditional jump, whose distance has 32 bits.

use super::profile::{Condition, Op};
use masu_host::sys::seccomp::Instruction;

/// Codes of linux/bpf_common.h.
const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA
const RETURN: u16 = 0x06; // BPF_RET | BPF_K
pub(super) const EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
/// The value that an instruction returns to the kernel, if it returns one.
pub(super) fn answer(instruction: &Instruction) -> Option<u32> {
    (instruction.code == RETURN).then_some(instruction.k)
}

const GREATER: u16 = 0x25;
pub(super) const GREATER_EQUAL: u16 = 0x35;

/// Offsets in `struct seccomp_data` (linux/seccomp.h).
pub(super) const NUMBER: u32 = 0;
pub(super) const ARCH: u32 = 4;
const ARGUMENTS: u32 = 16;

/// How far a conditional jump reaches.
const REACH: usize = u8::MAX as usize;

/// The instruction to continue at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    /// Return this value to the kernel.
    Return(u32),
    /// The instruction with this index, counted from the end of the program.
    At(usize),
}

/// The layout of the arguments of an architecture in memory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    pub(super) narrow: bool,
    pub(super) big_endian: bool,
}

/// A program that is being written, last instruction first.
#[derive(Debug, Default)]
pub(super) struct Assembler {
    reversed: Vec<Instruction>,
    /// The latest index of each return.
    returns: Vec<(u32, usize)>,
}

impl Assembler {
    pub(super) fn with_capacity(instructions: usize) -> Assembler {
        Assembler { reversed: Vec::with_capacity(instructions), returns: Vec::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.reversed.len()
    }

    /// The program in the order of execution, starting at `entry`.
    pub(super) fn finish(mut self, entry: Target) -> Vec<Instruction> {
        self.place(entry, 0);
        self.reversed.reverse();
        self.reversed
    }

    fn push(&mut self, code: u16, jt: u8, jf: u8, k: u32) -> usize {
        self.reversed.push(Instruction { code, jt, jf, k });
        self.reversed.len() - 1
    }

    /// Makes `target` reachable by a jump over at most `most` instructions, and returns its index.
    fn place(&mut self, target: Target, most: usize) -> usize {
        let near = |at: usize, len: usize| len - at - 1 <= most;
        let len = self.reversed.len();
        match target {
            Target::At(at) if near(at, len) => at,
            Target::At(at) => self.push(JUMP, 0, 0, (len - at - 1) as u32),
            Target::Return(value) => {
                let known = self.returns.iter().position(|(v, _)| *v == value);
                if let Some((_, at)) = known.and_then(|i| self.returns.get(i)).copied()
                    && near(at, len)
                {
                    return at;
                }
                let at = self.push(RETURN, 0, 0, value);
                match known.and_then(|i| self.returns.get_mut(i)) {
                    Some(slot) => slot.1 = at,
                    None => self.returns.push((value, at)),
                }
                at
            }
        }
    }

    /// Compares the accumulator with `k`.
    pub(super) fn jump(&mut self, code: u16, k: u32, yes: Target, no: Target) -> Target {
        if yes == no {
            return yes;
        }
        // one less than the reach, because placing `no` may add an instruction between
        let yes = self.place(yes, REACH - 1);
        let no = self.place(no, REACH);
        let here = self.reversed.len();
        Target::At(self.push(code, (here - yes - 1) as u8, (here - no - 1) as u8, k))
    }

    /// Loads a word of the call's data and continues at `next`.
    pub(super) fn load(&mut self, offset: u32, next: Target) -> Target {
        self.place(next, 0);
        Target::At(self.push(LOAD, 0, 0, offset))
    }

    /// Compares the bits under `mask` of one 32-bit half of an argument with `k`.
    fn compare(&mut self, code: u16, offset: u32, mask: u32, k: u32, yes: Target, no: Target) -> Target {
        let mut next = self.jump(code, k, yes, no);
        if mask != u32::MAX {
            self.place(next, 0);
            next = Target::At(self.push(AND, 0, 0, mask));
        }
        self.load(offset, next)
    }

    /// Tests a condition on one argument. The accumulator has no meaning before or after.
    pub(super) fn condition(&mut self, layout: Layout, condition: &Condition, yes: Target, no: Target) -> Target {
        let argument = ARGUMENTS + 8 * u32::from(condition.argument);
        let (low_at, high_at) = if layout.big_endian { (argument + 4, argument) } else { (argument, argument + 4) };
        let (low, high) = (condition.value as u32, (condition.value >> 32) as u32);
        let (low_mask, high_mask) = (condition.mask as u32, (condition.mask >> 32) as u32);
        let (code, yes, no) = match condition.op {
            Op::Eq | Op::Masked => (EQUAL, yes, no),
            Op::Ne => (EQUAL, no, yes),
            Op::Gt => (GREATER, yes, no),
            Op::Le => (GREATER, no, yes),
            Op::Ge => (GREATER_EQUAL, yes, no),
            Op::Lt => (GREATER_EQUAL, no, yes),
        };
        let lower = if low_mask == 0 { yes } else { self.compare(code, low_at, low_mask, low, yes, no) };
        if layout.narrow || high_mask == 0 {
            return lower;
        }
        if code == EQUAL {
            return self.compare(EQUAL, high_at, high_mask, high, lower, no);
        }
        let equal = self.jump(EQUAL, high, lower, no);
        let above = self.jump(GREATER, high, yes, equal);
        self.load(high_at, above)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seccomp::tests::{Call, run};

    #[test]
    fn jumps_arrive_at_every_distance() {
        for gap in 0..600 {
            for (yes, no) in [
                (Target::At(0), Target::At(1)),
                (Target::At(1), Target::At(0)),
                (Target::Return(11), Target::At(1)),
                (Target::At(0), Target::Return(12)),
                (Target::Return(11), Target::Return(12)),
            ] {
                let mut assembler = Assembler::default();
                assembler.place(Target::Return(11), 0);
                assembler.place(Target::Return(12), 0);
                (0..gap).for_each(|i| _ = assembler.push(RETURN, 0, 0, 1000 + i));
                let jump = assembler.jump(EQUAL, 7, yes, no);
                let entry = assembler.load(NUMBER, jump);
                let program = assembler.finish(entry);
                let decide = |number| run(&program, &Call { token: 0, number, arguments: [0; 6] }, false);
                let wanted = if yes == Target::At(1) { (12, 11) } else { (11, 12) };
                assert_eq!((decide(7), decide(8)), wanted, "{yes:?} {no:?} over {gap}");
            }
        }
    }
}
