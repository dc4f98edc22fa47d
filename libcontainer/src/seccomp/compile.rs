//! Compiles rules to BPF: a search tree over the numbers of system calls (in the plan, in the parent).
//!
//! For each architecture the numbers are cut into ranges with one verdict each. Neighbours with equal verdicts are merged,
//! and each node of the tree halves the list of ranges. The kernel runs the filter for every number when it loads the filter,
//! so short paths make loading fast.
//!
//! # Which rule decides
//!
//! The aim is to decide as libseccomp does:
//!
//! 1. A rule whose action is the default action does nothing.
//! 2. The first rule without conditions decides alone, wherever it stands among the rules of the call.
//! 3. A rule covers another if its conditions are the first conditions of the other. Two rules with the same conditions and
//!    different actions contradict each other, which is an error. So is a covering rule with another action that stands after
//!    the covered rule.
//! 4. Otherwise the order in the profile has no meaning. Rules are tried by their first condition, then by the second, and so
//!    on, as in libseccomp's tree. A higher argument comes first. Then EQ, NE and MASKED_EQ come before LT and LE, and these
//!    before GT and GE. Then larger values come first, but for LT and LE smaller ones. Then come shorter rules, then the
//!    order in the profile.
//! 5. Numbers above the newest call that the profile names get ENOSYS if the default is not permissive (as in runc's stub),
//!    else the default action. Unlike runc's stub, this never hides a call that the profile names.
//!
//! # Several architectures
//!
//! The native architecture is always in the filter, and is tested first. Calls of an architecture that is not listed kill the
//! thread (libseccomp's `SCMP_FLTATR_ACT_BADARCH`). This includes x32 calls, except for number -1, by which a tracer skips a
//! call (seccomp(2)). Architectures that the kernel cannot run get no code. On architectures with 32-bit arguments,
//! conditions compare the low 32 bits of the value.
//!
//! Where socketcall(2) and ipc(2) exist, a rule for `socket` is also one for socketcall with 1 as its first argument, and so
//! on. A condition on the first argument is dropped there: the arguments of the inner call are in memory, which a filter
//! cannot read. If such rules contradict each other, it is no error: the shorter one wins, then the first.

use super::arch::{Arch, X32_BIT};
use super::assemble::{ARCH, Assembler, EQUAL, GREATER_EQUAL, Layout, NUMBER, Target};
use super::profile::{Condition, Op, Profile, hides_new_calls, ret};
use super::syscalls;
use crate::error::{Error, Result};
use masu_host::sys::seccomp::Instruction;

/// The kernel's limit (linux/bpf_common.h, `BPF_MAXINSNS`).
pub(super) const MAX_INSTRUCTIONS: usize = 4096;

/// The first of the numbers that ARM reserves for itself. They do not show how new a profile is.
const ARM_PRIVATE: u32 = 0xf_0000;

/// A rule for one number. Entries are sorted by number and rule.
#[derive(Debug, Clone, Copy)]
struct Entry {
    number: u32,
    rule: u32,
    /// The first argument of socketcall or ipc, or 0 for other calls.
    multiplexed: u32,
}

/// An action, and the conditions for it, which must all hold.
#[derive(Debug)]
struct Case {
    conditions: Vec<Condition>,
    action: u32,
    multiplexed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Plain(u32),
    /// An index into the list of cases.
    Cases(usize),
}

/// The numbers from `start` up to the next range.
#[derive(Debug, Clone, Copy)]
struct Range {
    start: u32,
    verdict: Verdict,
}

/// Compiles the whole program.
pub(super) fn compile(profile: &Profile<'_>) -> Result<Vec<Instruction>> {
    let mut assembler = Assembler::with_capacity(768);
    let mut tokens: Vec<(u32, Target)> = Vec::new();
    // last first, so that the code of the native architecture is closest to the start
    for arch in profile.architectures.iter().rev() {
        let shares = |other: &&Arch| other.token() == arch.token();
        if tokens.iter().any(|(token, _)| *token == arch.token()) {
            continue;
        }
        let group: Vec<Arch> = profile.architectures.iter().filter(shares).copied().collect();
        let body = body(profile, &group, &mut assembler)?;
        tokens.push((arch.token(), body));
    }
    let mut entry = Target::Return(ret::KILL_THREAD);
    for (token, body) in tokens {
        entry = assembler.jump(EQUAL, token, body, entry);
    }
    let entry = assembler.load(ARCH, entry);
    let program = assembler.finish(entry);
    if program.len() > MAX_INSTRUCTIONS {
        return Err(too_long(program.len()));
    }
    Ok(program)
}

fn too_long(instructions: usize) -> Error {
    Error::invalid(format!(
        "linux.seccomp.syscalls: the filter needs {instructions} instructions or more, the kernel takes {MAX_INSTRUCTIONS}"
    ))
}

/// The code for the architectures of one token: x86_64 and x32 have the same.
fn body(profile: &Profile<'_>, group: &[Arch], assembler: &mut Assembler) -> Result<Target> {
    let mut entries = Vec::with_capacity(512);
    let newest: Vec<(Arch, Option<u32>)> = group.iter().map(|arch| (*arch, gather(profile, *arch, &mut entries))).collect();
    entries.sort_unstable_by_key(|e| (e.number, e.rule));

    let narrow = |number: u32| group.iter().any(|a| a.narrow() && (*a != Arch::X32 || number & X32_BIT != 0));
    let mut ranges = Ranges(Vec::with_capacity(256));
    let mut cases = Vec::new();
    let mut calls = entries.chunk_by(|a, b| a.number == b.number).peekable();
    let background = background(profile.default, &newest);
    for (i, piece) in background.iter().enumerate() {
        let end = background.get(i + 1).map(|next| next.start);
        let inside = |number: u32| end.is_none_or(|end| number < end);
        ranges.add(piece.start, piece.verdict);
        while let Some(call) = calls.next_if(|call| call.first().is_some_and(|e| inside(e.number))) {
            let Some(number) = call.first().map(|e| e.number) else { continue };
            ranges.add(number, verdict(profile, call, narrow(number), &mut cases)?);
            if let Some(after) = number.checked_add(1).filter(|after| inside(*after)) {
                ranges.add(after, piece.verdict);
            }
        }
    }
    let big_endian = group.iter().any(|a| a.big_endian());
    let mut tree = Tree { default: profile.default, cases: &cases, assembler, big_endian, narrow: &narrow };
    let root = tree.node(&ranges.0);
    if assembler.len() > MAX_INSTRUCTIONS {
        return Err(too_long(assembler.len()));
    }
    Ok(assembler.load(NUMBER, root))
}

/// Adds the entries of the rules for `arch`. Returns the newest call that the rules name, whatever their action is.
fn gather(profile: &Profile<'_>, arch: Arch, entries: &mut Vec<Entry>) -> Option<u32> {
    let mut newest = 0;
    for (rule, i) in profile.rules.iter().zip(0..) {
        let acts = rule.action != profile.default;
        for name in rule.names {
            if let Some(number) = syscalls::number(arch, name) {
                if arch != Arch::Arm || number < ARM_PRIVATE {
                    newest = newest.max(number);
                }
                if acts {
                    entries.push(Entry { number, rule: i, multiplexed: 0 });
                }
            }
            if acts
                && arch.multiplexes()
                && let Some((call, multiplexed)) = syscalls::multiplexed(name)
                && let Some(number) = syscalls::number(arch, call)
            {
                entries.push(Entry { number, rule: i, multiplexed });
            }
        }
    }
    Some(newest).filter(|number| *number != 0)
}

/// The verdicts on numbers that no rule names.
fn background(default: u32, newest: &[(Arch, Option<u32>)]) -> Vec<Range> {
    let find = |wanted: Arch| newest.iter().find(|(arch, _)| *arch == wanted).map(|(_, newest)| *newest);
    let hidden = |newest: Option<u32>| newest.filter(|_| hides_new_calls(default)).map(|n| (n.saturating_add(1), ret::ENOSYS));
    let shared = newest.iter().any(|(arch, _)| matches!(arch, Arch::X86_64 | Arch::X32));
    let mut list = Vec::new();
    if shared {
        match find(Arch::X86_64) {
            Some(newest) => list.extend(std::iter::once((0, default)).chain(hidden(newest))),
            None => list.push((0, ret::KILL_THREAD)),
        }
        match find(Arch::X32) {
            Some(newest) => list.extend(std::iter::once((X32_BIT, default)).chain(hidden(newest))),
            None => list.extend([(X32_BIT, ret::KILL_THREAD), (u32::MAX, default)]),
        }
    } else {
        let newest = newest.iter().find_map(|(arch, newest)| hidden(*newest).map(|hidden| (*arch, hidden)));
        match newest {
            // s390 gives a filter 0 for a number that the kernel does not know (arch/s390/kernel/syscall.c)
            Some((Arch::S390 | Arch::S390x, hidden)) => list.extend([(0, ret::ENOSYS), (1, default), hidden]),
            Some((_, hidden)) => list.extend([(0, default), hidden]),
            None => list.push((0, default)),
        }
    }
    list.into_iter().map(|(start, action)| Range { start, verdict: Verdict::Plain(action) }).collect()
}

/// Ranges in the order of their start; neighbours have different verdicts.
struct Ranges(Vec<Range>);

impl Ranges {
    /// Sets `verdict` from `start` on. `start` is not below an earlier start.
    fn add(&mut self, start: u32, verdict: Verdict) {
        self.0.pop_if(|last| last.start == start);
        if self.0.last().is_none_or(|last| last.verdict != verdict) {
            self.0.push(Range { start, verdict });
        }
    }
}

/// The verdict of the rules for one number.
fn verdict(profile: &Profile<'_>, call: &[Entry], narrow: bool, all: &mut Vec<Vec<Case>>) -> Result<Verdict> {
    let mut cases: Vec<Case> = Vec::new();
    let mut name = "";
    for entry in call {
        let Some(rule) = profile.rules.get(entry.rule as usize) else { continue };
        name = rule.names.first().map_or("", String::as_str);
        let always = [Vec::new()];
        let alternatives = if rule.alternatives.is_empty() { &always[..] } else { &rule.alternatives };
        for alternative in alternatives {
            let conditions = adapt(alternative, narrow, entry.multiplexed);
            if conditions.is_empty() {
                return Ok(Verdict::Plain(rule.action));
            }
            cases.push(Case { conditions, action: rule.action, multiplexed: entry.multiplexed != 0 });
        }
    }
    if cases.len() > MAX_INSTRUCTIONS {
        return Err(too_long(cases.len()));
    }
    all.push(in_order(cases, name)?);
    Ok(Verdict::Cases(all.len() - 1))
}

/// The conditions in the form for an architecture, without those that always hold.
fn adapt(conditions: &[Condition], narrow: bool, multiplexed: u32) -> Vec<Condition> {
    let call = Condition { argument: 0, op: Op::Eq, mask: u64::MAX, value: multiplexed.into() };
    let call = Some(call).filter(|_| multiplexed != 0);
    let rest = conditions.iter().copied().filter(|c| call.is_none() || c.argument != 0);
    call.into_iter()
        .chain(rest)
        .map(|mut c| {
            if narrow {
                c.value &= u64::from(u32::MAX);
                c.mask &= u64::from(u32::MAX);
            }
            c
        })
        .filter(|c| c.mask != 0)
        .collect()
}

/// Drops covered cases and sorts the others: points 3 and 4 of the module's page.
fn in_order(cases: Vec<Case>, name: &str) -> Result<Vec<Case>> {
    let mut kept: Vec<Case> = Vec::with_capacity(cases.len());
    for case in cases {
        let contradiction = |other: &Case| other.action != case.action && !case.multiplexed && !other.multiplexed;
        let same = kept.iter().find(|k| k.conditions == case.conditions);
        if same.is_some_and(contradiction) || kept.iter().any(|k| k.conditions.starts_with(&case.conditions) && contradiction(k)) {
            return Err(Error::invalid(format!(
                "error adding seccomp rule for syscall {name}: an earlier rule with the same conditions has another action"
            )));
        }
        if kept.iter().any(|k| case.conditions.starts_with(&k.conditions)) {
            continue;
        }
        kept.retain(|k| !k.conditions.starts_with(&case.conditions));
        kept.push(case);
    }
    kept.sort_by(|a, b| {
        let pairs = a.conditions.iter().zip(&b.conditions);
        pairs.map(|(a, b)| priority(b).cmp(&priority(a))).find(|o| o.is_ne()).unwrap_or(a.conditions.len().cmp(&b.conditions.len()))
    });
    Ok(kept)
}

/// The rank of a condition: the largest is tried first.
fn priority(condition: &Condition) -> (u8, u8, u64) {
    let (class, value) = match condition.op {
        Op::Eq | Op::Ne | Op::Masked => (3, condition.value),
        Op::Le | Op::Lt => (2, !condition.value),
        Op::Ge | Op::Gt => (1, condition.value),
    };
    (condition.argument, class, value)
}

/// Writes the search tree of one token.
struct Tree<'a> {
    default: u32,
    cases: &'a [Vec<Case>],
    assembler: &'a mut Assembler,
    big_endian: bool,
    narrow: &'a dyn Fn(u32) -> bool,
}

impl Tree<'_> {
    /// Writes the tree of `ranges`. The accumulator holds the number, which is in one of them.
    fn node(&mut self, ranges: &[Range]) -> Target {
        match ranges {
            [] => Target::Return(self.default),
            [only] => self.leaf(only),
            // one number between others with the same verdict
            [before, call, after] if before.verdict == after.verdict && after.start - call.start == 1 => {
                let others = self.leaf(after);
                let call_at = self.leaf(call);
                self.assembler.jump(EQUAL, call.start, call_at, others)
            }
            _ => {
                let (low, high) = ranges.split_at(ranges.len() / 2);
                let start = high.first().map_or(0, |r| r.start);
                let high = self.node(high);
                let low = self.node(low);
                self.assembler.jump(GREATER_EQUAL, start, high, low)
            }
        }
    }

    fn leaf(&mut self, range: &Range) -> Target {
        let index = match range.verdict {
            Verdict::Plain(action) => return Target::Return(action),
            Verdict::Cases(index) => index,
        };
        let layout = Layout { narrow: (self.narrow)(range.start), big_endian: self.big_endian };
        let mut next = Target::Return(self.default);
        for case in self.cases.get(index).into_iter().flatten().rev() {
            let mut yes = Target::Return(case.action);
            for condition in case.conditions.iter().rev() {
                yes = self.assembler.condition(layout, condition, yes, next);
            }
            next = yes;
        }
        next
    }
}
