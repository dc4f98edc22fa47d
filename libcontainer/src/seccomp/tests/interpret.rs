//! Runs a classic BPF program as the kernel would, strictly.

use super::Call;
use crate::seccomp::Instruction;

/// Returns the program's result. Panics if the kernel would refuse to load the program.
pub(in crate::seccomp) fn run(program: &[Instruction], call: &Call, big_endian: bool) -> u32 {
    let word = |offset: u32| match offset {
        0 => call.number,
        4 => call.token,
        16..64 => {
            let argument = call.arguments[(offset as usize - 16) / 8];
            match (offset % 8, big_endian) {
                (0, false) | (4, true) => argument as u32,
                (4, false) | (0, true) => (argument >> 32) as u32,
                _ => panic!("a load from {offset}"),
            }
        }
        _ => panic!("a load from {offset}"),
    };
    assert!((1..=4096).contains(&program.len()));
    let (mut at, mut a) = (0, None);
    loop {
        let i = program[at];
        at += 1;
        let compared = |a: Option<u32>| a.expect("a comparison before a load");
        let holds = match i.code {
            0x20 => {
                a = Some(word(i.k));
                continue;
            }
            0x54 => {
                a = Some(compared(a) & i.k);
                continue;
            }
            0x05 => {
                at += i.k as usize;
                continue;
            }
            0x06 => return i.k,
            0x15 => compared(a) == i.k,
            0x25 => compared(a) > i.k,
            0x35 => compared(a) >= i.k,
            0x45 => compared(a) & i.k != 0,
            code => panic!("instruction {code:#x}"),
        };
        at += usize::from(if holds { i.jt } else { i.jf });
    }
}
