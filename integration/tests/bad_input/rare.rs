//! Rows that were not measured under the peers: names that need escaping, and huge numbers of something.

use std::fs;

use integration::{Bundle, check};
use serde_json::{Value, json};

use super::{Row, fails, runs, table};

/// Bind-mounts a directory named `name` on a directory of the same name.
fn bound(bundle: &mut Bundle, name: &str) {
    let source = bundle.path().join(name);
    // if this fails, the row fails
    let _ = fs::create_dir(&source);
    let mount = json!({"destination": format!("/mnt/{name}"), "type": "bind", "source": source, "options": ["bind", "ro"]});
    bundle.push("/mounts", mount);
}

const ROWS: [Row; 9] = [
    runs(279, "a user's name beside ids, of Windows", |b| {
        _ = b.set("/process/user", json!({"uid": 0, "gid": 0, "username": "Administrator"}))
    }),
    runs(280, "a newline in names of a bind", |b| bound(b, "a\nb")),
    runs(280, "a backslash, colon, comma and space in names of a bind", |b| bound(b, "a\\b:c,d e=f")),
    runs(280, "a name of 255 bytes", |b| bound(b, &"x".repeat(255))),
    fails(281, "a name of 256 bytes", "too long", |b| {
        b.push("/mounts", json!({"destination": format!("/mnt/{}", "x".repeat(256)), "type": "tmpfs", "source": "tmpfs"}));
    }),
    fails(281, "a destination longer than a path may be", "too long", |b| {
        b.push("/mounts", json!({"destination": format!("/{}", "d/".repeat(3000)), "type": "tmpfs", "source": "tmpfs"}));
    }),
    runs(282, "ten thousand devices", |b| {
        let device = |n: u32| json!({"path": format!("/dev/many/{n}"), "type": "c", "major": 1, "minor": 3, "fileMode": 0o666});
        _ = b.set("/linux/devices", Value::Array((0..10_000).map(device).collect()));
    }),
    fails(283, "a filter longer than the kernel takes", "instructions|too large|too long|seccomp", |b| {
        let rule = |n: u64| {
            let arg = json!({"index": 0, "value": n * 0x1_0000_0001, "op": "SCMP_CMP_EQ"});
            json!({"names": ["personality"], "action": "SCMP_ACT_ERRNO", "args": [arg]})
        };
        let rules: Vec<Value> = (0..2000).map(rule).collect();
        _ = b.set("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules}));
    }),
    fails(284, "a rootfs whose path is longer than a path may be", "too long|rootfs", |b| {
        _ = b.set("/root", json!({"path": "r/".repeat(3000)}))
    }),
];

#[test]
fn bad_279_to_284_rare() {
    check(|t| table(t, &ROWS));
}

#[test]
fn a_bundle_whose_path_is_longer_than_a_path_may_be() {
    check(|t| {
        let path = format!("/{}", "b/".repeat(3000));
        for verb in ["create", "run"] {
            t.runtime([verb, "--bundle", &path, &t.new_id()])?.exits(1)?.fails_with("name too long")?;
        }
        Ok(())
    });
}
