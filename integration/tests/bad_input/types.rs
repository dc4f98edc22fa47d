//! BAD-030 to BAD-043: wrong types and ranges. A field of a wrong type is never ignored: it may be a restriction.

use integration::check;
use serde_json::json;

use super::{Row, fails, table};

const ROWS: [Row; 19] = [
    fails(30, "args a string", "args", |b| _ = b.set("/process/args", json!("/bin/true"))),
    fails(31, "an argument a number", "args", |b| _ = b.set("/process/args", json!(["/bin/payload", "exit", 7]))),
    fails(32, "terminal a string", "terminal", |b| _ = b.set("/process/terminal", json!("false"))),
    fails(33, "uid a string", "uid", |b| _ = b.set("/process/user/uid", json!("1000"))),
    fails(34, "uid negative", "uid", |b| _ = b.set("/process/user/uid", json!(-1))),
    fails(35, "uid 2^32", "uid", |b| _ = b.set("/process/user/uid", json!(1_u64 << 32))),
    fails(36, "uid 2^32-1, no change to setresuid", "uid", |b| _ = b.set("/process/user/uid", json!(u32::MAX))),
    fails(37, "uid 1.5", "uid", |b| _ = b.set("/process/user/uid", json!(1.5))),
    fails(38, "uid 100.0", "uid", |b| _ = b.set("/process/user/uid", json!(100.0))),
    fails(39, "root a string", "root", |b| _ = b.set("/root", json!("rootfs"))),
    fails(40, "mounts an object", "mounts", |b| _ = b.set("/mounts", json!({"destination": "/x"}))),
    fails(41, "linux an array", "linux", |b| _ = b.set("/linux", json!([]))),
    fails(42, "an annotation a number", "annotations", |b| _ = b.set("/annotations", json!({"a": 1}))),
    fails(43, "hooks an array", "hooks", |b| _ = b.set("/hooks", json!([]))),
    // fields that weaken the container silently if they are ignored
    fails(43, "noNewPrivileges a string", "noNewPrivileges", |b| _ = b.set("/process/noNewPrivileges", json!("true"))),
    fails(43, "readonly a string", "readonly", |b| _ = b.set("/root/readonly", json!("true"))),
    fails(43, "maskedPaths a string", "maskedPaths", |b| _ = b.set("/linux/maskedPaths", json!("/proc/kcore"))),
    fails(43, "seccomp a string", "seccomp", |b| _ = b.set("/linux/seccomp", json!("x"))),
    fails(43, "namespaces an object", "namespaces", |b| _ = b.set("/linux/namespaces", json!({"type": "pid"}))),
];

#[test]
fn bad_030_to_043_types() {
    check(|t| table(t, &ROWS));
}
