//! BAD-098 to BAD-111: the root file system, hostname and domain name.

use std::os::unix::fs::symlink;

use integration::check;
use serde_json::{Value, json};

use super::{Row, fails, runs, table};

const ROWS: [Row; 14] = [
    fails(98, "root missing", "root", |b| _ = b.unset("/root")),
    fails(99, "root.path missing", "root", |b| _ = b.set("/root", json!({}))),
    fails(100, "root.path empty", "root", |b| _ = b.set("/root/path", json!(""))),
    fails(101, "root.path not there", "no such file or directory", |b| _ = b.set("/root/path", json!("nope"))),
    fails(102, "root.path a file", "config.json|not a directory", |b| _ = b.set("/root/path", json!("config.json"))),
    fails(103, "root.path a link", "root|link", |b| {
        if symlink("rootfs", b.path().join("link")).is_ok() {
            b.set("/root/path", json!("link"));
        }
    }),
    runs(104, "root.path with ..", |b| _ = b.set("/root/path", json!("rootfs/../rootfs"))),
    fails(105, "a NUL in root.path", "root|nul", |b| _ = b.set("/root/path", json!("rootfs\0x"))),
    fails(106, "a host name of 300 characters", "hostname", |b| _ = b.set("/hostname", json!("h".repeat(300)))),
    fails(107, "a host name without a uts namespace", "hostname|uts", |b| _ = b.drop_namespace("uts")),
    fails(108, "a domain name without a uts namespace", "domainname|uts", |b| {
        b.drop_namespace("uts").unset("/hostname").set("/domainname", json!("d"));
    }),
    fails(109, "root null", "root", |b| _ = b.set("/root", Value::Null)),
    fails(110, "root.path a loop of links", "root|loop", |b| {
        if symlink("loop", b.path().join("loop")).is_ok() {
            b.set("/root/path", json!("loop"));
        }
    }),
    fails(111, "a domain name of 300 characters", "domainname", |b| _ = b.set("/domainname", json!("d".repeat(300)))),
];

#[test]
fn bad_098_to_111_root() {
    check(|t| table(t, &ROWS));
}
