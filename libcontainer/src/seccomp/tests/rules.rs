//! Profiles that are accepted, profiles that are errors, and the texts of these errors.

use super::evaluate::{KILL_THREAD, action, evaluate};
use super::interpret::run;
use super::{Call, compiled, docker, plan, plan_for, profile, rule};
use crate::error::Kind;
use crate::seccomp::arch::Arch;
use crate::seccomp::syscalls::number;
use crate::seccomp::{ACTIONS, ARCHITECTURES, Listener, OPERATORS, known_flags, supported_flags};
use crate::spec::Seccomp;

const ALLOW: u32 = 0x7fff_0000;
const ENOSYS: u32 = 0x0005_0026;

fn error(json: &str) -> String {
    let error = plan(&profile(json)).unwrap_err();
    assert_eq!(error.kind(), Kind::InvalidSpec);
    error.to_string()
}

fn with_rule(rule: &str) -> String {
    format!(r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{{"names":["chmod"],"action":"SCMP_ACT_ERRNO",{rule}}}]}}"#)
}

/// `name` on x86_64 under `spec`.
fn decide(spec: &Seccomp, arch: Arch, name: &str, arguments: [u64; 6]) -> u32 {
    let call = Call { token: arch.token(), number: number(arch, name).unwrap(), arguments };
    let decision = run(&compiled(spec, Arch::X86_64).program, &call, false);
    assert_eq!(decision, evaluate(spec, Arch::X86_64, &call));
    decision
}

#[test]
fn no_default_action_and_no_rules_is_no_filter() {
    assert_eq!(plan(&profile("{}")).unwrap(), None);
    assert_eq!(plan(&profile(r#"{"listenerMetadata":"m"}"#)).unwrap(), None);
    // as in runc: rules without a default action are not silently dropped
    let rules = r#"{"syscalls":[{"names":["chmod"],"action":"SCMP_ACT_ERRNO"}]}"#;
    assert_eq!(error(rules), "string  is not a valid action for seccomp");
}

#[test]
fn unknown_words_are_errors() {
    for (json, text) in [
        (r#"{"defaultAction":"SCMP_ACT_BOGUS"}"#, "string SCMP_ACT_BOGUS is not a valid action for seccomp"),
        (r#"{"defaultAction":"SCMP_ACT_NOTIFY"}"#, "SCMP_ACT_NOTIFY cannot be used as default action"),
        (
            r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_BOGUS"]}"#,
            "string SCMP_ARCH_BOGUS is not a valid arch for seccomp",
        ),
        (
            r#"{"defaultAction":"SCMP_ACT_ALLOW","flags":["SECCOMP_FILTER_FLAG_BOGUS"]}"#,
            "seccomp flag SECCOMP_FILTER_FLAG_BOGUS is not known to masu",
        ),
        (
            r#"{"defaultAction":"SCMP_ACT_ALLOW","flags":["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]}"#,
            "seccomp flag SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV needs a rule with SCMP_ACT_NOTIFY",
        ),
        (
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":[""],"action":"SCMP_ACT_ERRNO"}]}"#,
            "empty string is not a valid syscall",
        ),
        (
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["chmod"],"action":"SCMP_ACT_NOTIFY"}]}"#,
            "seccomp listenerPath is not set",
        ),
        (
            r#"{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"x.sock","syscalls":[{"names":["chmod"],"action":"SCMP_ACT_NOTIFY"}]}"#,
            "seccomp listenerPath x.sock: not an absolute path",
        ),
        (
            r#"{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"/a","syscalls":[{"names":["write"],"action":"SCMP_ACT_NOTIFY"}]}"#,
            "SCMP_ACT_NOTIFY cannot be used for the write syscall",
        ),
        (r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":4096}"#, "seccomp defaultErrnoRet 4096: at most 4095"),
    ] {
        assert_eq!(error(json), text);
    }
    for (rule, text) in [
        (r#""args":[{"index":0,"value":1,"op":"SCMP_CMP_BOGUS"}]"#, "string SCMP_CMP_BOGUS is not a valid operator for seccomp"),
        (
            r#""args":[{"index":7,"value":1,"op":"SCMP_CMP_EQ"}]"#,
            "error creating seccomp syscall condition for syscall chmod: syscalls only have up to 6 arguments (7 given)",
        ),
        (r#""errnoRet":100000"#, "seccomp errnoRet 100000: at most 4095"),
    ] {
        assert_eq!(error(&with_rule(rule)), text);
    }
}

#[test]
fn what_runc_runs_runs() {
    for json in [
        r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["no_such_call"],"action":"SCMP_ACT_ERRNO"}]}"#,
        r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":[],"action":"SCMP_ACT_ERRNO"}]}"#,
        r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"action":"SCMP_ACT_ERRNO"}]}"#,
        r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["chmod"],"action":"SCMP_ACT_KILL","errnoRet":5}]}"#,
        r#"{"defaultAction":"SCMP_ACT_ALLOW","listenerMetadata":"m"}"#,
        r#"{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"x.sock"}"#,
        r#"{"defaultAction":"SCMP_ACT_KILL","syscalls":null,"architectures":null}"#,
    ] {
        let filter = plan(&profile(json)).unwrap().unwrap();
        assert_eq!(filter.listener, None, "{json}");
    }
}

#[test]
fn flags_and_listener() {
    let flags = |flags: &str| compiled(&profile(&format!(r#"{{"defaultAction":"SCMP_ACT_ALLOW"{flags}}}"#)), Arch::X86_64).flags;
    assert_eq!(flags(""), 4);
    assert_eq!(flags(r#","flags":null"#), 4);
    assert_eq!(flags(r#","flags":[]"#), 0);
    assert_eq!(flags(r#","flags":["SECCOMP_FILTER_FLAG_TSYNC"]"#), 0);
    assert_eq!(flags(r#","flags":["SECCOMP_FILTER_FLAG_LOG","SECCOMP_FILTER_FLAG_SPEC_ALLOW","SECCOMP_FILTER_FLAG_TSYNC"]"#), 6);
    let json = r#"{"defaultAction":"SCMP_ACT_ALLOW","flags":["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"],"listenerPath":"/a/s",
        "listenerMetadata":"m","syscalls":[{"names":["chmod"],"action":"SCMP_ACT_NOTIFY"}]}"#;
    let filter = compiled(&profile(json), Arch::X86_64);
    assert_eq!((filter.flags, filter.listener), (0x28, Some(Listener { path: "/a/s".into(), metadata: "m".into() })));
}

#[test]
fn lists_for_features() {
    for list in [ACTIONS, OPERATORS, ARCHITECTURES] {
        assert!(list.is_sorted());
    }
    assert_eq!((ACTIONS.len(), OPERATORS.len(), ARCHITECTURES.len(), known_flags().len()), (9, 7, 23, 4));
    if crate::is_emulated("lists_for_features") {
        return;
    }
    // kernels since 5.19 have them all
    assert_eq!(supported_flags(), known_flags());
}

#[test]
fn actions_and_their_errors() {
    for name in ACTIONS.iter().filter(|name| **name != "SCMP_ACT_NOTIFY") {
        for errno in [None, Some(38)] {
            let mut spec = profile(&format!(r#"{{"defaultAction":"{name}","flags":[]}}"#));
            spec.default_errno_ret = errno;
            assert_eq!(decide(&spec, Arch::X86_64, "chmod", [0; 6]), action(name, errno), "{name}");
        }
    }
}

#[test]
fn an_unconditional_rule_decides_alone() {
    let any = rule(&["chmod"], "SCMP_ACT_LOG", &[]);
    let one = rule(&["chmod"], "SCMP_ACT_TRAP", &[(1, "SCMP_CMP_EQ", 5, 0)]);
    let kill = rule(&["chmod"], "SCMP_ACT_KILL", &[]);
    let default = rule(&["chmod"], "SCMP_ACT_ERRNO", &[]);
    let mut spec = profile(r#"{"defaultAction":"SCMP_ACT_ERRNO"}"#);
    spec.syscalls = vec![default, one, any, kill];
    assert_eq!(decide(&spec, Arch::X86_64, "chmod", [0, 5, 0, 0, 0, 0]), 0x7ffc_0000);
}

#[test]
fn one_argument_twice_is_either() {
    let mut spec = profile(r#"{"defaultAction":"SCMP_ACT_ERRNO"}"#);
    spec.syscalls =
        vec![rule(&["chmod"], "SCMP_ACT_ALLOW", &[(0, "SCMP_CMP_EQ", 5, 0), (1, "SCMP_CMP_EQ", 6, 0), (0, "SCMP_CMP_EQ", 7, 0)])];
    for (arguments, wanted) in [([5, 0], ALLOW), ([7, 0], ALLOW), ([0, 6], ALLOW), ([6, 0], 0x0005_0001)] {
        assert_eq!(decide(&spec, Arch::X86_64, "chmod", [arguments[0], arguments[1], 0, 0, 0, 0]), wanted);
    }
}

#[test]
fn contradictions_are_errors() {
    let short: &[_] = &[(0, "SCMP_CMP_EQ", 5, 0)];
    let long: &[_] = &[(0, "SCMP_CMP_EQ", 5, 0), (1, "SCMP_CMP_EQ", 6, 0)];
    let wide: &[_] = &[(0, "SCMP_CMP_EQ", 5 | 1 << 32, 0)];
    let text = "error adding seccomp rule for syscall chmod: an earlier rule with the same conditions has another action";
    for (first, second, fails) in [(short, short, true), (long, short, true), (short, long, false), (short, wide, false)] {
        let mut spec = profile(r#"{"defaultAction":"SCMP_ACT_ERRNO"}"#);
        spec.syscalls = vec![rule(&["chmod"], "SCMP_ACT_ALLOW", first), rule(&["chmod"], "SCMP_ACT_LOG", second)];
        assert_eq!(plan_for(&spec, Arch::X86_64).err().map(|e| e.to_string()), fails.then(|| text.to_string()), "{first:?} {second:?}");
        // a rule without conditions decides
        spec.syscalls.push(rule(&["chmod"], "SCMP_ACT_TRAP", &[]));
        assert!(plan_for(&spec, Arch::X86_64).is_ok());
    }
}

#[test]
fn socketcall_stands_for_socket() {
    let mut spec = profile(r#"{"defaultAction":"SCMP_ACT_ERRNO","architectures":["SCMP_ARCH_X86"]}"#);
    spec.syscalls = vec![rule(&["socket"], "SCMP_ACT_ALLOW", &[(0, "SCMP_CMP_NE", 40, 0)]), rule(&["shmat"], "SCMP_ACT_LOG", &[])];
    for (name, first, wanted) in [
        ("socket", 40, 0x0005_0001),
        ("socket", 2, ALLOW),
        ("socketcall", 1, ALLOW),
        ("socketcall", 2, 0x0005_0001),
        ("ipc", 21, 0x7ffc_0000),
        ("ipc", 22, 0x0005_0001),
    ] {
        assert_eq!(decide(&spec, Arch::X86, name, [first, 0, 0, 0, 0, 0]), wanted, "{name} {first}");
    }
    assert_eq!(decide(&spec, Arch::X86_64, "shmat", [0; 6]), 0x7ffc_0000);
}

#[test]
fn newer_calls_than_the_profile_are_not_there() {
    let mut spec = profile(r#"{"defaultAction":"SCMP_ACT_ERRNO"}"#);
    spec.syscalls = vec![rule(&["openat2", "read"], "SCMP_ACT_ALLOW", &[])];
    assert_eq!(decide(&spec, Arch::X86_64, "open", [0; 6]), 0x0005_0001);
    assert_eq!(decide(&spec, Arch::X86_64, "faccessat2", [0; 6]), ENOSYS);
    // a call that is named only to be refused counts, too
    spec.syscalls.push(rule(&["cachestat"], "SCMP_ACT_ERRNO", &[]));
    assert_eq!(decide(&spec, Arch::X86_64, "faccessat2", [0; 6]), 0x0005_0001);
    assert_eq!(decide(&spec, Arch::X86_64, "fchmodat2", [0; 6]), ENOSYS);
    spec.default_action = "SCMP_ACT_TRACE".into();
    assert_eq!(decide(&spec, Arch::X86_64, "fchmodat2", [0; 6]), 0x7ff0_0001);
}

#[test]
fn other_architectures_are_killed() {
    let spec = profile(r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_AARCH64"]}"#);
    for (token, number, wanted) in [
        (Arch::X86_64.token(), 1, ALLOW),
        (Arch::X86_64.token(), 0x4000_0001, KILL_THREAD),
        (Arch::X86_64.token(), u32::MAX, ALLOW),
        (Arch::X86.token(), 1, KILL_THREAD),
        (Arch::Aarch64.token(), 1, KILL_THREAD),
    ] {
        let call = Call { token, number, arguments: [0; 6] };
        assert_eq!(run(&compiled(&spec, Arch::X86_64).program, &call, false), wanted, "{call:x?}");
    }
}

#[test]
fn an_architecture_without_a_table_is_named() {
    let spec = profile(r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_MIPS64N32"]}"#);
    assert!(plan_for(&spec, Arch::X86_64).is_ok());
    let error = plan_for(&spec, Arch::Mips64).unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported);
    assert_eq!(error.to_string(), "seccomp architecture SCMP_ARCH_MIPS64N32: no table of system calls in this build");
}

#[test]
fn too_long_is_an_error() {
    let mut spec = profile(r#"{"defaultAction":"SCMP_ACT_ERRNO"}"#);
    let one = |value| rule(&["chmod"], "SCMP_ACT_ALLOW", &[(0, "SCMP_CMP_EQ", value, 0)]);
    spec.syscalls = (0..1100).map(one).collect();
    let text = plan_for(&spec, Arch::X86_64).unwrap_err().to_string();
    assert!(text.starts_with("linux.seccomp.syscalls: the filter needs 4") && text.ends_with("or more, the kernel takes 4096"), "{text}");
    spec.syscalls = (0..5000).map(one).collect();
    assert!(plan_for(&spec, Arch::X86_64).is_err());
    spec.syscalls.truncate(900);
    assert_eq!(decide(&spec, Arch::X86_64, "chmod", [899, 0, 0, 0, 0, 0]), ALLOW);
    assert_eq!(decide(&spec, Arch::X86_64, "chmod", [0, 0, 0, 0, 0, 0]), ALLOW);
    assert_eq!(decide(&spec, Arch::X86_64, "chmod", [900, 0, 0, 0, 0, 0]), 0x0005_0001);
}

#[test]
fn dockers_profile() {
    let spec = docker();
    for arch in [Arch::X86_64, Arch::X86, Arch::X32] {
        for (name, first, wanted) in [
            ("read", 0, ALLOW),
            ("mount", 0, 0x0005_0001),
            ("socket", 2, ALLOW),
            ("socket", 40, 0x0005_0001),
            ("clone", 0x11, ALLOW),
            ("clone", 0x1000_0000, 0x0005_0001),
            ("clone3", 0, ENOSYS),
            ("personality", 0xffff_ffff, ALLOW),
            ("personality", 4, 0x0005_0001),
        ] {
            assert_eq!(decide(&spec, arch, name, [first, 0, 0, 0, 0, 0]), wanted, "{arch:?} {name} {first:#x}");
        }
    }
    // x32 has numbers of its own up to 547, above that of listns, so listns is hidden only on the other two
    assert_eq!(decide(&spec, Arch::X86_64, "listns", [0; 6]), ENOSYS);
    assert_eq!(decide(&spec, Arch::X86, "listns", [0; 6]), ENOSYS);
    let length = compiled(&spec, Arch::X86_64).program.len();
    assert!(length < 550, "{length} instructions");
}
