//! Compares the decisions with those of the crate seccompiler, for profiles that it can express: one architecture, one action
//! and another by default.

use std::collections::BTreeMap;

use super::interpret::run;
use super::{Call, compiled, random};
use crate::seccomp::Instruction;
use crate::seccomp::arch::Arch;
use crate::seccomp::syscalls::number;
use crate::spec::{Seccomp, SeccompArg};
use proptest::prelude::*;
use seccompiler::{SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch};

fn condition(arg: &SeccompArg) -> SeccompCondition {
    let op = match arg.op.as_str() {
        "SCMP_CMP_NE" => SeccompCmpOp::Ne,
        "SCMP_CMP_LT" => SeccompCmpOp::Lt,
        "SCMP_CMP_LE" => SeccompCmpOp::Le,
        "SCMP_CMP_EQ" => SeccompCmpOp::Eq,
        "SCMP_CMP_GE" => SeccompCmpOp::Ge,
        "SCMP_CMP_GT" => SeccompCmpOp::Gt,
        _ => {
            return SeccompCondition::new(arg.index as u8, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(arg.value), arg.value_two)
                .unwrap();
        }
    };
    SeccompCondition::new(arg.index as u8, SeccompCmpArgLen::Qword, op, arg.value).unwrap()
}

fn theirs(spec: &Seccomp, arch: Arch, target: TargetArch) -> Vec<Instruction> {
    let mut calls: BTreeMap<i64, Vec<Vec<SeccompCondition>>> = BTreeMap::new();
    for rule in &spec.syscalls {
        for number in rule.names.iter().filter_map(|name| number(arch, name)) {
            calls.entry(number.into()).or_default().push(rule.args.iter().map(condition).collect());
        }
    }
    let rules = calls.into_iter().map(|(number, rules)| {
        let always = rules.iter().any(Vec::is_empty);
        (number, if always { vec![] } else { rules.into_iter().map(|rule| SeccompRule::new(rule).unwrap()).collect() })
    });
    let filter = SeccompFilter::new(rules.collect(), SeccompAction::Errno(1), SeccompAction::Allow, target).unwrap();
    let program: seccompiler::BpfProgram = filter.try_into().unwrap();
    program.iter().map(|i| Instruction { code: i.code, jt: i.jt, jf: i.jf, k: i.k }).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..Default::default() })]

    #[test]
    fn seccompiler_decides_alike(
        (_, mut spec) in random::a_profile(),
        arguments in prop::collection::vec(prop::array::uniform6(random::value()), 4),
    ) {
        spec.default_action = "SCMP_ACT_ERRNO".into();
        spec.default_errno_ret = None;
        spec.architectures = vec![];
        for rule in &mut spec.syscalls {
            rule.action = "SCMP_ACT_ALLOW".into();
            rule.errno_ret = None;
            // a repeated argument means "or" for runc, but "and" for seccompiler
            rule.args.sort_by_key(|arg| arg.index);
            rule.args.dedup_by_key(|arg| arg.index);
        }
        for (arch, target) in [(Arch::X86_64, TargetArch::x86_64), (Arch::Aarch64, TargetArch::aarch64), (Arch::Riscv64, TargetArch::riscv64)] {
            let (ours, theirs) = (compiled(&spec, arch).program, theirs(&spec, arch, target));
            // newer calls get ENOSYS here and EPERM there
            let newest = spec.syscalls.iter().flat_map(|rule| &rule.names).filter_map(|name| number(arch, name)).max().unwrap_or(0);
            for number in 0..=newest {
                for arguments in &arguments {
                    let call = Call { token: arch.token(), number, arguments: *arguments };
                    prop_assert_eq!(run(&ours, &call, false), run(&theirs, &call, false), "{:?} {:?}", arch, call);
                }
            }
        }
    }
}
