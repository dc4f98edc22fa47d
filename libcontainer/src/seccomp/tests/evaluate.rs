//! Decides a call by a plain reading of the profile. It is slow, and shares only the numbers with the compiler.

use super::Call;
use crate::seccomp::arch::Arch;
use crate::seccomp::syscalls::{multiplexed, number};
use crate::spec::{Seccomp, SeccompArg, SyscallRule};

pub(super) const KILL_THREAD: u32 = 0;
const ENOSYS: u32 = 0x0005_0026;

pub(super) fn action(name: &str, errno: Option<u32>) -> u32 {
    match name {
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => KILL_THREAD,
        "SCMP_ACT_KILL_PROCESS" => 0x8000_0000,
        "SCMP_ACT_TRAP" => 0x0003_0000,
        "SCMP_ACT_ERRNO" => 0x0005_0000 + errno.unwrap_or(1),
        "SCMP_ACT_NOTIFY" => 0x7fc0_0000,
        "SCMP_ACT_TRACE" => 0x7ff0_0000 + errno.unwrap_or(1),
        "SCMP_ACT_LOG" => 0x7ffc_0000,
        "SCMP_ACT_ALLOW" => 0x7fff_0000,
        _ => panic!("{name}"),
    }
}

fn holds(arg: &SeccompArg, arguments: &[u64; 6], narrow: bool) -> bool {
    let cut = |v: u64| if narrow { v & 0xffff_ffff } else { v };
    let (is, value, two) = (cut(arguments[arg.index as usize]), cut(arg.value), cut(arg.value_two));
    match arg.op.as_str() {
        "SCMP_CMP_NE" => is != value,
        "SCMP_CMP_LT" => is < value,
        "SCMP_CMP_LE" => is <= value,
        "SCMP_CMP_EQ" => is == value,
        "SCMP_CMP_GE" => is >= value,
        "SCMP_CMP_GT" => is > value,
        "SCMP_CMP_MASKED_EQ" => is & value == two & value,
        op => panic!("{op}"),
    }
}

/// The key to sort rules by: the smallest is tried first.
fn order(args: &[SeccompArg], narrow: bool) -> Vec<(i64, i64, u64)> {
    let cut = |v: u64| if narrow { v & 0xffff_ffff } else { v };
    args.iter()
        .map(|arg| {
            let value = cut(arg.value);
            let (class, value) = match arg.op.as_str() {
                "SCMP_CMP_LT" | "SCMP_CMP_LE" => (2, value),
                "SCMP_CMP_GT" | "SCMP_CMP_GE" => (1, !value),
                "SCMP_CMP_MASKED_EQ" => (3, !(cut(arg.value_two) & value)),
                _ => (3, !value),
            };
            (-i64::from(arg.index), -class, value)
        })
        .collect()
}

/// The alternative conditions of a rule for a call of this number.
fn cases(rule: &SyscallRule, arch: Arch, call: u32) -> Vec<Vec<SeccompArg>> {
    let mut cases = Vec::new();
    let mut indices: Vec<u32> = rule.args.iter().map(|arg| arg.index).collect();
    indices.sort_unstable();
    let repeated = indices.windows(2).any(|pair| pair[0] == pair[1]);
    let alternatives = if repeated { rule.args.iter().map(|arg| vec![arg.clone()]).collect() } else { vec![rule.args.clone()] };
    for name in &rule.names {
        if number(arch, name) == Some(call) {
            cases.extend(alternatives.clone());
        }
        if let Some((by, value)) = multiplexed(name).filter(|_| arch.multiplexes())
            && number(arch, by) == Some(call)
        {
            let first = SeccompArg { index: 0, value: value.into(), value_two: 0, op: "SCMP_CMP_EQ".into() };
            for alternative in &alternatives {
                cases.push(std::iter::once(first.clone()).chain(alternative.iter().filter(|arg| arg.index != 0).cloned()).collect());
            }
        }
    }
    for case in &mut cases {
        case.sort_by_key(|arg| arg.index);
        case.retain(|arg| arg.op != "SCMP_CMP_MASKED_EQ" || if arch.narrow() { arg.value as u32 != 0 } else { arg.value != 0 });
    }
    cases
}

/// The action of the profile for a call.
pub(super) fn evaluate(spec: &Seccomp, native: Arch, call: &Call) -> u32 {
    let default = action(&spec.default_action, spec.default_errno_ret);
    let architectures: Vec<Arch> =
        spec.architectures.iter().filter_map(|name| Arch::from_name(name)).filter(|a| a.runs_on(native)).chain([native]).collect();
    let x32 = call.number >= 0x4000_0000;
    let of_token = |a: &&Arch| a.token() == call.token && (call.token != Arch::X32.token() || x32 == (**a == Arch::X32));
    let Some(arch) = architectures.iter().find(of_token).copied() else {
        let skipped = call.number == u32::MAX && call.token == Arch::X32.token();
        return if skipped && architectures.iter().any(|a| a.token() == call.token) { default } else { KILL_THREAD };
    };

    let mut all: Vec<(Vec<SeccompArg>, u32)> = Vec::new();
    for rule in spec.syscalls.iter().filter(|rule| action(&rule.action, rule.errno_ret) != default) {
        all.extend(cases(rule, arch, call.number).into_iter().map(|args| (args, action(&rule.action, rule.errno_ret))));
    }
    if let Some((_, action)) = all.iter().find(|(args, _)| args.is_empty()) {
        return *action;
    }
    all.sort_by_cached_key(|(args, _)| order(args, arch.narrow()));
    if let Some((_, action)) = all.iter().find(|(args, _)| args.iter().all(|arg| holds(arg, &call.arguments, arch.narrow()))) {
        return *action;
    }

    let permissive = ["SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_TRACE"].contains(&spec.default_action.as_str());
    let named = spec.syscalls.iter().flat_map(|rule| &rule.names).filter_map(|name| number(arch, name));
    let newest = named.filter(|n| arch != Arch::Arm || *n < 0xf_0000).max().unwrap_or(0);
    let s390 = matches!(arch, Arch::S390 | Arch::S390x) && call.number == 0;
    if !all.is_empty() || permissive || newest == 0 || (call.number <= newest && !s390) { default } else { ENOSYS }
}
