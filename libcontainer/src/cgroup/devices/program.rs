//! Device rules as an eBPF program of type BPF_PROG_TYPE_CGROUP_DEVICE. It is kept short, because the kernel verifies it at
//! each load, which takes about 2.5 us an instruction.
//!
//! Pure; runs in the runtime. linux/bpf.h, `struct bpf_cgroup_dev_ctx`. The comparisons are of 32 bits (Linux 5.1).

use super::{ALL, Devices, Exception, Kind};
use crate::error::{Error, Result};
use masu_host::sys::bpf::Instruction;

pub(super) const LOAD_WORD: u8 = 0x61;
pub(super) const MOVE: u8 = 0xb7;
pub(super) const JUMP: u8 = 0x05;
pub(super) const JUMP_EQUAL: u8 = 0x16;
pub(super) const JUMP_NOT_EQUAL: u8 = 0x56;
pub(super) const JUMP_ANY_BIT: u8 = 0x46;
pub(super) const EXIT: u8 = 0x95;

const RESULT: u8 = 0;
const CONTEXT: u8 = 1;
/// The access in the upper 16 bits, the kind in the lower.
const ACCESS_KIND: u8 = 2;
const MAJOR: u8 = 3;
const MINOR: u8 = 4;

/// The target of a jump; [`Program::place`] sets its position.
#[derive(Clone, Copy)]
struct Label(usize);

struct Program {
    code: Vec<(Instruction, Option<Label>)>,
    labels: Vec<usize>,
}

/// Compiles the program. It returns 1 to allow an access and 0 to refuse it.
///
/// A list of allowed devices allows an access if one exception covers all of it. A list of denied devices refuses an access
/// if one exception has any part of it (security/device_cgroup.c). So the order of the exceptions does not matter: they are
/// grouped by access, then by kind and major number, and each is tested once.
pub(super) fn compile(devices: &Devices) -> Result<Vec<Instruction>> {
    let mut list = devices.exceptions.clone();
    list.sort_by_key(|e| (e.major, e.minor, e.kind));
    let mut p = Program { code: Vec::with_capacity(8 + 2 * list.len()), labels: Vec::new() };
    p.emit(Instruction::new(LOAD_WORD, ACCESS_KIND, CONTEXT, 0, 0));
    if list.iter().any(|e| e.major.is_some()) {
        p.emit(Instruction::new(LOAD_WORD, MAJOR, CONTEXT, 4, 0));
    }
    if list.iter().any(|e| e.minor.is_some()) {
        p.emit(Instruction::new(LOAD_WORD, MINOR, CONTEXT, 8, 0));
    }
    p.emit(Instruction::new(MOVE, RESULT, 0, 0, i32::from(!devices.allow)));
    let matched = p.label();
    for access in 1..=ALL {
        let of = |kind| -> Vec<Exception> { list.iter().filter(|e| e.access == access && e.kind == kind).copied().collect() };
        let (block, char) = (of(Kind::Block), of(Kind::Char));
        if block.is_empty() && char.is_empty() {
            continue;
        }
        let next = p.label();
        if devices.allow {
            p.jump_if(JUMP_ANY_BIT, ACCESS_KIND, i32::from(access) << 16, None);
            p.jump(next);
        } else if access != ALL {
            p.jump_if(JUMP_ANY_BIT, ACCESS_KIND, i32::from(ALL & !access) << 16, Some(next));
        }
        if numbers(&block).eq(numbers(&char)) {
            p.devices(&block, matched);
        } else {
            // BPF_DEVCG_DEV_BLOCK is 1, BPF_DEVCG_DEV_CHAR is 2, and the kernel always sets one of them
            for (list, other) in [(&char, 1), (&block, 2)] {
                if !list.is_empty() {
                    let skip = p.label();
                    p.jump_if(JUMP_ANY_BIT, ACCESS_KIND, other, Some(skip));
                    p.devices(list, matched);
                    p.place(skip);
                }
            }
        }
        p.place(next);
    }
    p.emit(Instruction::new(MOVE, RESULT, 0, 0, i32::from(devices.allow)));
    p.place(matched);
    p.emit(Instruction::new(EXIT, 0, 0, 0, 0));
    p.link().ok_or_else(|| Error::unsupported(format!("{} device rules are too many for one program", list.len())))
}

fn numbers(list: &[Exception]) -> impl Iterator<Item = (Option<u32>, Option<u32>)> + '_ {
    list.iter().map(|e| (e.major, e.minor))
}

impl Program {
    /// Jumps to `matched` if the device is in the list, which is sorted by major number.
    fn devices(&mut self, list: &[Exception], matched: Label) {
        if list.iter().any(|e| e.major.is_none() && e.minor.is_none()) {
            return self.jump(matched);
        }
        for group in list.chunk_by(|a, b| a.major == b.major) {
            let major = group.first().and_then(|e| e.major);
            let whole = group.iter().any(|e| e.minor.is_none());
            let skip = match major {
                Some(major) if whole => {
                    self.jump_if(JUMP_EQUAL, MAJOR, major.cast_signed(), Some(matched));
                    continue;
                }
                Some(major) => {
                    let skip = self.label();
                    self.jump_if(JUMP_NOT_EQUAL, MAJOR, major.cast_signed(), Some(skip));
                    Some(skip)
                }
                None => None,
            };
            for minor in group.iter().filter_map(|e| e.minor) {
                self.jump_if(JUMP_EQUAL, MINOR, minor.cast_signed(), Some(matched));
            }
            if let Some(skip) = skip {
                self.place(skip);
            }
        }
    }

    fn emit(&mut self, instruction: Instruction) {
        self.code.push((instruction, None));
    }

    fn jump(&mut self, to: Label) {
        self.code.push((Instruction::new(JUMP, 0, 0, 0, 0), Some(to)));
    }

    /// A conditional jump to `to`, or without it over the next instruction.
    fn jump_if(&mut self, code: u8, register: u8, value: i32, to: Option<Label>) {
        self.code.push((Instruction::new(code, register, 0, 1, value), to));
    }

    fn label(&mut self) -> Label {
        self.labels.push(usize::MAX);
        Label(self.labels.len() - 1)
    }

    fn place(&mut self, label: Label) {
        let here = self.code.len();
        if let Some(l) = self.labels.get_mut(label.0) {
            *l = here;
        }
    }

    /// Fills in the distances of the jumps; `None` if one is too far.
    fn link(self) -> Option<Vec<Instruction>> {
        let Program { code, labels } = self;
        let link = |(at, (mut instruction, to)): (usize, (Instruction, Option<Label>))| {
            if let Some(Label(label)) = to {
                instruction.offset = i16::try_from(labels.get(label)?.checked_sub(at + 1)?).ok()?;
            }
            Some(instruction)
        };
        code.into_iter().enumerate().map(link).collect()
    }
}
