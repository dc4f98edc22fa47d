//! Random profiles and calls: the compiled filter must decide as a plain reading of the profile does.

use super::evaluate::evaluate;
use super::interpret::run;
use super::{Call, VALUES, compiled, plan_for};
use crate::seccomp::arch::Arch;
use crate::seccomp::syscalls::{known, number};
use crate::seccomp::{ACTIONS, Filter, OPERATORS};
use crate::spec::{Seccomp, SeccompArg, SyscallRule};
use proptest::prelude::*;
use proptest::sample::select;

/// Calls with near and distant numbers, new and old, multiplexed, with x32 entries of their own, missing on some or on all
/// architectures.
const NAMES: &[&str] = &[
    "read",
    "write",
    "open",
    "close",
    "stat",
    "fstat",
    "poll",
    "lseek",
    "mmap",
    "ioctl",
    "execve",
    "socket",
    "connect",
    "accept4",
    "send",
    "sendmsg",
    "socketcall",
    "ipc",
    "semop",
    "shmat",
    "msgget",
    "clone",
    "clone3",
    "ptrace",
    "chown32",
    "mmap2",
    "newfstatat",
    "clock_gettime64",
    "personality",
    "openat2",
    "close_range",
    "file_setattr",
    "listns",
    "set_tls",
    "break",
    "no_such_call",
];

pub(super) fn value() -> impl Strategy<Value = u64> {
    prop_oneof![4 => select(&VALUES[..]), 1 => any::<u64>(), 1 => 0_u64..8]
}

fn arg() -> impl Strategy<Value = SeccompArg> {
    (0_u32..6, value(), value(), select(OPERATORS)).prop_map(|(index, value, value_two, op)| SeccompArg {
        index,
        value,
        value_two,
        op: op.into(),
    })
}

fn a_rule() -> impl Strategy<Value = SyscallRule> {
    let args = prop_oneof![2 => Just(vec![]), 3 => prop::collection::vec(arg(), 1..4)];
    (prop::collection::vec(select(NAMES), 1..6), select(ACTIONS), prop::option::of(0_u32..200), args).prop_map(
        |(names, action, errno_ret, args)| {
            let names = names.into_iter().filter(|name| action != "SCMP_ACT_NOTIFY" || *name != "write").map(String::from).collect();
            SyscallRule { names, action: action.into(), errno_ret, args }
        },
    )
}

pub(super) fn a_profile() -> impl Strategy<Value = (Arch, Seccomp)> {
    let native = select(Arch::ALL).prop_filter("no table", |a| known(*a) && *a != Arch::X32);
    let default = select(ACTIONS).prop_filter("not a default", |a| *a != "SCMP_ACT_NOTIFY");
    let architectures = prop::collection::vec(select(crate::seccomp::ARCHITECTURES), 0..6);
    let parts = (native, default, prop::option::of(0_u32..200), architectures, prop::collection::vec(a_rule(), 0..14));
    parts.prop_map(|(native, default_action, default_errno_ret, architectures, syscalls)| {
        let architectures = architectures.into_iter().filter(|a| !a.ends_with("N32")).map(String::from).collect();
        let default_action = default_action.into();
        (native, Seccomp { default_action, default_errno_ret, architectures, syscalls, listener_path: "/a".into(), ..Default::default() })
    })
}

fn a_call() -> impl Strategy<Value = (prop::sample::Index, prop::sample::Index, i32, [u64; 6], Option<u32>)> {
    let nudge = prop_oneof![6 => Just(0), 1 => Just(1), 1 => Just(-1)];
    (
        any::<prop::sample::Index>(),
        any::<prop::sample::Index>(),
        nudge,
        prop::array::uniform6(value()),
        prop::option::weighted(0.1, any::<u32>()),
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..Default::default() })]

    #[test]
    fn filters_decide_as_profiles_read((native, spec) in a_profile(), calls in prop::collection::vec(a_call(), 40)) {
        let filter = match plan_for(&spec, native) {
            Ok(filter) => filter.unwrap(),
            Err(error) => {
                prop_assert!(error.text().starts_with("error adding seccomp rule"), "{}", error);
                return Ok(());
            }
        };
        prop_assert_eq!(&Filter::from_bytes(&filter.to_bytes()).unwrap(), &filter);
        for (arch, name, nudge, arguments, any) in calls {
            let family: Vec<Arch> = Arch::ALL.iter().filter(|a| a.runs_on(native)).copied().collect();
            let arch = *arch.get(&family);
            let number = any.or_else(|| number(arch, name.get::<&str>(NAMES))).unwrap_or(u32::MAX).wrapping_add_signed(nudge);
            let call = Call { token: arch.token(), number, arguments };
            let (is, wanted) = (run(&filter.program, &call, native.big_endian()), evaluate(&spec, native, &call));
            prop_assert_eq!(is, wanted, "{:x?} is {:#x}, {:#x} wanted", call, is, wanted);
        }
    }
}

/// So many conditions that each kind of jump is too far for eight bits.
#[test]
fn far_jumps_arrive() {
    let names: Vec<&str> = NAMES.iter().copied().filter(|name| number(Arch::X86_64, name).is_some()).collect();
    let syscalls = names.iter().zip(0..).flat_map(|(name, i)| {
        (0..20).map(move |k| {
            let args = [(0, "SCMP_CMP_GT", 1000 * k + i, 0), (1, "SCMP_CMP_NE", k, 0), (5, "SCMP_CMP_LE", u64::MAX - k, 0)];
            super::rule(&[name], if k % 2 == 0 { "SCMP_ACT_ALLOW" } else { "SCMP_ACT_LOG" }, &args)
        })
    });
    let mut spec = Seccomp { default_action: "SCMP_ACT_ERRNO".into(), architectures: vec!["SCMP_ARCH_X86".into()], ..Default::default() };
    spec.syscalls = syscalls.take(130).collect();
    let filter = compiled(&spec, Arch::X86_64);
    assert!(filter.program.len() > 2000, "{}", filter.program.len());
    for name in names {
        for k in (0..20_500).step_by(97) {
            for arch in [Arch::X86_64, Arch::X86] {
                let Some(number) = number(arch, name) else { continue };
                let call = Call { token: arch.token(), number, arguments: [k, k % 20, 0, 0, 0, u64::MAX - k % 23] };
                assert_eq!(run(&filter.program, &call, false), evaluate(&spec, Arch::X86_64, &call), "{name} {call:?}");
            }
        }
    }
}
