//! BAD-112 to BAD-141: mounts.

use std::os::unix::fs::symlink;

use integration::check;
use serde_json::{Value, json};

use super::{Row, fails, runs, table};

const ROWS: [Row; 28] = [
    fails(112, "destination missing", "destination", |b| _ = b.push("/mounts", json!({"type": "tmpfs", "source": "tmpfs"}))),
    runs(113, "destination relative", |b| _ = b.mount("relative", "tmpfs", "tmpfs", &[])),
    runs(114, "destination with ..", |b| _ = b.mount("/../../../up", "tmpfs", "tmpfs", &[])),
    fails(115, "destination /", "/", |b| _ = b.mount("/", "tmpfs", "tmpfs", &[])),
    fails(116, "a NUL in the destination", "destination|nul", |b| _ = b.mount("/a\0b", "tmpfs", "tmpfs", &[])),
    fails(117, "a NUL in the source", "source|nul", |b| _ = b.mount("/x", "bind", "/tmp\0x", &["bind"])),
    fails(118, "a file system that is none", "bogusfs", |b| _ = b.mount("/x", "bogusfs", "x", &[])),
    fails(119, "no type", "/x", |b| _ = b.mount("/x", "", "tmpfs", &[])),
    fails(120, "a bind without its source", "no such file or directory", |b| _ = b.mount("/x", "bind", "/no/such/src", &["bind"])),
    fails(121, "type bind without the option", "/x", |b| _ = b.mount("/x", "bind", "/tmp", &[])),
    fails(122, "a folder bound on a file", "not a directory", |b| _ = b.mount("/etc/passwd", "bind", "/tmp", &["bind"])),
    runs(123, "a bind with an option of the file system", |b| _ = b.mount("/x", "bind", "/tmp", &["bind", "size=1m"]))
        .but(&[("runc", "refuses it, though the kernel ignores it")]),
    fails(124, "a tmpfs with an option that is none", "bogusopt|invalid argument", |b| {
        _ = b.mount("/x", "tmpfs", "tmpfs", &["bogusopt=1"])
    }),
    runs(125, "opposite options", |b| _ = b.mount("/x", "tmpfs", "tmpfs", &["ro", "rw"])),
    fails(126, "a bind on /proc", "/proc", |b| _ = b.mount("/proc", "bind", "/tmp", &["bind"])),
    fails(127, "a file system inside /proc", "/proc/sys", |b| _ = b.mount("/proc/sys", "tmpfs", "tmpfs", &[])),
    runs(128, "a file inside /proc that lxcfs stands in for", |b| _ = b.mount("/proc/uptime", "bind", "/etc/hostname", &["bind"])),
    runs(133, "a destination twice", |b| _ = b.mount("/x", "tmpfs", "tmpfs", &[]).mount("/x", "tmpfs", "tmpfs", &[])),
    fails(134, "an id-mapped mount without mappings", "idmap|mapping", |b| _ = b.mount("/x", "bind", "/tmp", &["bind", "idmap"])),
    fails(135, "a mount with uidMappings alone", "mapping", |b| {
        let map = json!([{"containerID": 0, "hostID": 0, "size": 1}]);
        b.push("/mounts", json!({"destination": "/x", "type": "bind", "source": "/tmp", "options": ["bind"], "uidMappings": map}));
    }),
    fails(137, "a destination in a loop of links", "symbolic link", |b| {
        if symlink("loop", b.rootfs("loop")).is_ok() {
            b.mount("/loop/x", "tmpfs", "tmpfs", &[]);
        }
    }),
    runs(138, "a destination behind a link to outside", |b| {
        if symlink("/etc", b.rootfs("esc")).is_ok() {
            b.mount("/esc/x", "tmpfs", "tmpfs", &[]);
        }
    }),
    fails(139, "a destination of 5000 characters", "name too long", |b| _ = b.mount(&"/a".repeat(2500), "tmpfs", "tmpfs", &[])),
    fails(139, "a destination with a name of 300 characters", "name too long", |b| {
        b.mount(&format!("/{}", "a".repeat(300)), "tmpfs", "tmpfs", &[]);
    }),
    fails(141, "options a string", "options", |b| _ = b.push("/mounts", json!({"destination": "/x", "type": "tmpfs", "options": "ro"}))),
    fails(141, "destination a number", "destination", |b| _ = b.push("/mounts", json!({"destination": 1}))),
    runs(141, "options null", |b| {
        _ = b.push("/mounts", json!({"destination": "/x", "type": "tmpfs", "source": "x", "options": Value::Null}))
    }),
    fails(141, "an option with a NUL", "options|nul", |b| _ = b.mount("/x", "tmpfs", "tmpfs", &["size=1m\0x"])),
];

#[test]
fn bad_112_to_141_mounts() {
    check(|t| table(t, &ROWS));
}
