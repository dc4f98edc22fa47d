//! BAD-226 to BAD-243: filters.

use integration::check;
use serde_json::{Value, json};

use super::{Row, fails, runs, table};

#[expect(clippy::needless_pass_by_value, reason = "json! at the call makes a value for this alone")]
fn with(rule: Value) -> Value {
    json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]})
}

fn args(index: u32, op: &str) -> Value {
    with(json!({"names": ["chmod"], "action": "SCMP_ACT_ERRNO", "args": [{"index": index, "value": 1, "op": op}]}))
}

const ROWS: [Row; 18] = [
    runs(226, "no default action", |b| _ = b.set("/linux/seccomp", json!({"architectures": []}))),
    fails(227, "a default action that is none", "SCMP_ACT_BOGUS", |b| {
        _ = b.set("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_BOGUS"}))
    }),
    fails(228, "an architecture that is none", "SCMP_ARCH_BOGUS", |b| {
        b.set("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_BOGUS"], "syscalls": []}));
        b.push("/linux/seccomp/syscalls", json!({"names": ["chmod"], "action": "SCMP_ACT_ERRNO"}));
    }),
    runs(229, "a system call that is none", |b| {
        _ = b.set("/linux/seccomp", with(json!({"names": ["no_such_call"], "action": "SCMP_ACT_ERRNO"})))
    }),
    fails(230, "an operator that is none", "SCMP_CMP_BOGUS", |b| _ = b.set("/linux/seccomp", args(0, "SCMP_CMP_BOGUS"))),
    fails(231, "argument 7", "index|argument|7", |b| _ = b.set("/linux/seccomp", args(7, "SCMP_CMP_EQ"))),
    runs(232, "no names", |b| _ = b.set("/linux/seccomp", with(json!({"names": [], "action": "SCMP_ACT_ERRNO"})))),
    runs(233, "names missing", |b| _ = b.set("/linux/seccomp", with(json!({"action": "SCMP_ACT_ERRNO"})))),
    fails(234, "a flag that is none", "SECCOMP_FILTER_FLAG_BOGUS", |b| {
        b.set("/linux/seccomp", with(json!({"names": ["chmod"], "action": "SCMP_ACT_ERRNO"})))
            .set("/linux/seccomp/flags", json!(["SECCOMP_FILTER_FLAG_BOGUS"]));
    }),
    runs(235, "an errno of an action that has none", |b| {
        b.set("/linux/seccomp", with(json!({"names": ["chmod"], "action": "SCMP_ACT_KILL", "errnoRet": 1})));
    }),
    fails(236, "an errno of 100000", "errno", |b| {
        _ = b.set("/linux/seccomp", with(json!({"names": ["chmod"], "action": "SCMP_ACT_ERRNO", "errnoRet": 100_000})))
    }),
    fails(237, "a listener without a path", "listenerPath", |b| {
        _ = b.set("/linux/seccomp", with(json!({"names": ["chmod"], "action": "SCMP_ACT_NOTIFY"})))
    }),
    fails(238, "a listener at a relative path", "x.sock", |b| {
        b.set("/linux/seccomp", with(json!({"names": ["chmod"], "action": "SCMP_ACT_NOTIFY"})))
            .set("/linux/seccomp/listenerPath", json!("x.sock"));
    }),
    fails(239, "to notify of everything", "SCMP_ACT_NOTIFY", |b| {
        b.set("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_NOTIFY", "listenerPath": "/x.sock"}));
    }),
    fails(240, "to notify of write", "write", |b| {
        b.set("/linux/seccomp", with(json!({"names": ["write"], "action": "SCMP_ACT_NOTIFY"})))
            .set("/linux/seccomp/listenerPath", json!("/x.sock"));
    }),
    fails(241, "a filter that refuses execve", "seccomp", |b| {
        b.set(
            "/linux/seccomp",
            json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["execve", "execveat"], "action": "SCMP_ACT_ERRNO"}]}),
        );
    }),
    runs(242, "null", |b| _ = b.set("/linux/seccomp", Value::Null)),
    fails(243, "syscalls an object", "syscalls", |b| {
        _ = b.set("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": {}}))
    }),
];

#[test]
fn bad_226_to_243_seccomp() {
    check(|t| table(t, &ROWS));
}
