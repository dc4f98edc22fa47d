//! Compares the decisions with those of libseccomp, if its headers and a C compiler are installed. The profiles are those of
//! engines, and random ones whose rules do not contradict each other. runc's ENOSYS stub runs before libseccomp's filter.

use std::io::Write as _;
use std::process::{Command, Stdio};

use super::evaluate::action;
use super::interpret::run;
use super::{Call, VALUES, compiled, docker, kubernetes, podman, random};
use crate::seccomp::Instruction;
use crate::seccomp::arch::Arch;
use crate::seccomp::syscalls::number;
use crate::spec::{Seccomp, SyscallRule};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;

/// The C program that asks libseccomp.
struct Oracle {
    folder: tempfile::TempDir,
}

struct Answer {
    program: Vec<Instruction>,
    unknown: Vec<String>,
    refused: bool,
}

impl Oracle {
    /// `None`, with the reason on stderr, if it cannot be built.
    fn build() -> Option<Oracle> {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("oracle.c");
        std::fs::write(&source, include_str!("libseccomp.c")).unwrap();
        let built = Command::new("cc").arg("-o").arg(folder.path().join("oracle")).arg(&source).arg("-lseccomp").output();
        match built {
            Ok(output) if output.status.success() => Some(Oracle { folder }),
            Ok(output) => {
                eprintln!("skipped, libseccomp is not installed for C: {}", String::from_utf8_lossy(&output.stderr));
                None
            }
            Err(error) => {
                eprintln!("skipped, there is no C compiler: {error}");
                None
            }
        }
    }

    /// Gives libseccomp the rules that runc would give it.
    fn ask(&self, spec: &Seccomp) -> Answer {
        let default = action(&spec.default_action, spec.default_errno_ret);
        let mut lines: Vec<String> =
            spec.architectures.iter().map(|name| format!("arch {}", name.strip_prefix("SCMP_ARCH_").unwrap().to_lowercase())).collect();
        for name in spec.syscalls.iter().flat_map(|rule| &rule.names) {
            let number = |arch| number(arch, name).map_or(-1, i64::from);
            lines.push(format!("name {name} {} {} {}", number(Arch::X86_64), number(Arch::X86), number(Arch::X32)));
        }
        for rule in &spec.syscalls {
            let action = action(&rule.action, rule.errno_ret);
            if action == default {
                continue;
            }
            for name in &rule.names {
                lines.extend(conditions(rule).iter().map(|args| format!("rule {action} {name} {args}")));
            }
        }
        let mut oracle = Command::new(self.folder.path().join("oracle"))
            .arg(default.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        oracle.stdin.take().unwrap().write_all(format!("{}\n", lines.join("\n")).as_bytes()).unwrap();
        let output = oracle.wait_with_output().unwrap();
        assert!(output.status.success(), "{:?} {default}\n{}", output.status, lines.join("\n"));
        let program = output.stdout.as_chunks::<8>().0.iter().map(|b| Instruction {
            code: u16::from_ne_bytes([b[0], b[1]]),
            jt: b[2],
            jf: b[3],
            k: u32::from_ne_bytes([b[4], b[5], b[6], b[7]]),
        });
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!said.contains("differs"), "{said}");
        Answer {
            program: program.collect(),
            unknown: said.lines().filter_map(|line| line.strip_prefix("unknown ")).map(String::from).collect(),
            refused: said.contains("refused"),
        }
    }
}

/// One list of conditions, or several if an argument comes twice.
fn conditions(rule: &SyscallRule) -> Vec<String> {
    let operators = ["", "SCMP_CMP_NE", "SCMP_CMP_LT", "SCMP_CMP_LE", "SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_MASKED_EQ"];
    let args: Vec<String> = rule
        .args
        .iter()
        .map(|arg| format!("{} {} {} {}", arg.index, operators.iter().position(|op| *op == arg.op).unwrap(), arg.value, arg.value_two))
        .collect();
    let twice = rule.args.iter().any(|a| rule.args.iter().filter(|b| a.index == b.index).count() > 1);
    if twice { args } else { vec![args.join(" ")] }
}

/// runc's stub: calls above the newest named one get ENOSYS before libseccomp's filter is asked.
fn stub(spec: &Seccomp, call: &Call) -> Option<u32> {
    if ["SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_TRACE"].contains(&spec.default_action.as_str()) {
        return None;
    }
    let listed = spec.architectures.iter().filter_map(|name| Arch::from_name(name)).chain([Arch::X86_64]);
    let x32 = call.number & 0x4000_0000 != 0;
    let arch = listed.into_iter().find(|a| a.token() == call.token && (call.token != Arch::X32.token() || x32 == (*a == Arch::X32)))?;
    let newest = spec.syscalls.iter().flat_map(|rule| &rule.names).filter_map(|name| number(arch, name)).max()?;
    (newest != 0 && call.number > newest).then_some(0x0005_0026)
}

fn compare(spec: &Seccomp, theirs: &[Instruction], ours: &[Instruction], call: &Call) {
    let wanted = stub(spec, call).unwrap_or_else(|| run(theirs, call, false));
    let is = run(ours, call, false);
    assert_eq!(is, wanted, "{call:x?} is {is:#x}, libseccomp says {wanted:#x}, for {}", serde_json::to_string(spec).unwrap());
}

fn numbers() -> impl Iterator<Item = (u32, u32)> {
    let wide = [Arch::X86_64, Arch::X86].into_iter().flat_map(|arch| (0..600).map(move |number| (arch.token(), number)));
    let x32 = (0x4000_0000..0x4000_0258).map(|number| (Arch::X32.token(), number));
    let odd = [0x3fff_ffff, u32::MAX - 1, u32::MAX].into_iter().flat_map(|n| [(Arch::X86_64.token(), n), (Arch::X86.token(), n)]);
    wide.chain(x32).chain(odd).chain([(Arch::Aarch64.token(), 1)])
}

#[test]
#[cfg_attr(not(target_arch = "x86_64"), ignore = "the oracle builds for the machine it runs on")]
fn the_engines_profiles_decide_as_with_libseccomp() {
    let Some(oracle) = Oracle::build() else { return };
    for mut spec in [docker(), podman(), kubernetes()] {
        let Answer { unknown, .. } = oracle.ask(&spec);
        // an older libseccomp knows fewer names
        assert!(unknown.len() < 40, "{unknown:?}");
        for rule in &mut spec.syscalls {
            rule.names.retain(|name| !unknown.contains(name));
        }
        for architectures in [3, 0] {
            spec.architectures.truncate(architectures);
            let answer = oracle.ask(&spec);
            assert!(!answer.refused);
            let ours = compiled(&spec, Arch::X86_64).program;
            for (token, number) in numbers() {
                for (value, i) in VALUES.into_iter().chain([8, 0x2_0000, 0x2_0008]).zip(0..) {
                    // podman's profile has a rule for NETLINK_AUDIT of AF_NETLINK
                    let call = Call { token, number, arguments: [value, i % 4, 8 + i % 2, value, 4, 5] };
                    compare(&spec, &answer.program, &ours, &call);
                }
            }
        }
    }
}

#[test]
#[cfg_attr(not(target_arch = "x86_64"), ignore = "the oracle builds for the machine it runs on")]
fn random_profiles_decide_as_with_libseccomp() {
    let Some(oracle) = Oracle::build() else { return };
    let mut runner = TestRunner::deterministic();
    let (mut compared, mut refused) = (0, 0);
    while compared < 40 {
        let mut spec = random::a_profile().new_tree(&mut runner).unwrap().current().1;
        spec.architectures.retain(|name| ["SCMP_ARCH_X86", "SCMP_ARCH_X86_64"].contains(&name.as_str()));
        spec.syscalls.retain(|rule| rule.action != "SCMP_ACT_NOTIFY");
        // Without x32 and with one conditional rule for a call, because libseccomp 2.5 is wrong otherwise: `arg0 <= big ||
        // arg0 < 0` never holds there, and code shared by x86_64 and x32 differs from its own pseudo code.
        let mut seen = std::collections::HashSet::new();
        for rule in spec.syscalls.iter_mut().filter(|rule| !rule.args.is_empty()) {
            rule.args.sort_by_key(|arg| arg.index);
            rule.args.dedup_by_key(|arg| arg.index);
            rule.names.retain(|name| seen.insert(name.clone()));
        }
        let Answer { unknown, .. } = oracle.ask(&spec);
        for rule in &mut spec.syscalls {
            rule.names.retain(|name| !unknown.contains(name));
        }
        let answer = oracle.ask(&spec);
        if answer.refused {
            refused += 1;
            continue;
        }
        compared += 1;
        let ours = compiled(&spec, Arch::X86_64).program;
        for (token, number) in numbers() {
            for _ in 0..2 {
                let arguments = prop::array::uniform6(random::value()).new_tree(&mut runner).unwrap().current();
                compare(&spec, &answer.program, &ours, &Call { token, number, arguments });
            }
        }
    }
    eprintln!("{compared} profiles compared, {refused} that libseccomp does not take");
}
