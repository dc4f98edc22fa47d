//! BAD-163 to BAD-200: the rest of `linux`.

use std::os::unix::fs::symlink;

use integration::{Bundle, check};
use serde_json::{Value, json};

use super::{Row, fails, runs, table};

/// The test's token, by which the guard knows it: the name of the directory above the bundle.
fn token(b: &Bundle) -> String {
    b.path().parent().and_then(|folder| folder.file_name()).unwrap_or_default().to_string_lossy().into_owned()
}

fn sysctl(b: &mut Bundle, name: &str, value: &str) {
    b.set("/linux/sysctl", Value::Object([(name.to_owned(), json!(value))].into_iter().collect()));
}

const ROWS: [Row; 26] = [
    fails(163, "a propagation that is none", "rootfsPropagation", |b| _ = b.set("/linux/rootfsPropagation", json!("bogus"))),
    runs(164, "cgroupsPath with ..", |b| {
        let token = token(b);
        b.set("/linux/cgroupsPath", json!(format!("../../{token}-up")));
    }),
    runs(166, "a path of systemd's without its driver", |b| {
        let token = token(b);
        b.set("/linux/cgroupsPath", json!(format!("{token}.slice:x:y")));
    }),
    fails(165, "a NUL in cgroupsPath", "cgroupsPath|nul", |b| _ = b.set("/linux/cgroupsPath", json!("/it\0b"))),
    fails(167, "a sysctl of the host", "vm.swappiness", |b| sysctl(b, "vm.swappiness", "10")),
    fails(168, "a sysctl with an escape", "net.ipv4", |b| sysctl(b, "net.ipv4/../../kernel/core_pattern", "x")),
    fails(169, "a sysctl with dots", "net", |b| sysctl(b, "net.....kernel.core_pattern", "x")),
    fails(170, "a sysctl that is none", "net.ipv4.bogus_key|no such file", |b| sysctl(b, "net.ipv4.bogus_key", "1")),
    fails(171, "a value that is none", "net.ipv4.ip_forward", |b| sysctl(b, "net.ipv4.ip_forward", "notanumber")),
    fails(172, "the host name as a sysctl", "kernel.hostname", |b| sysctl(b, "kernel.hostname", "x")),
    fails(173, "a sysctl of ipc without its namespace", "kernel.shmmax", |b| {
        sysctl(b, "kernel.shmmax", "1000000");
        b.drop_namespace("ipc").unmount("/dev/mqueue");
    }),
    fails(174, "a sysctl of the network without its namespace", "net.ipv4.ip_forward", |b| {
        sysctl(b, "net.ipv4.ip_forward", "1");
        b.drop_namespace("network");
    }),
    runs(175, "a masked path that is not there", |b| _ = b.push("/linux/maskedPaths", json!("/no/such"))),
    runs(176, "a masked path that is relative", |b| _ = b.push("/linux/maskedPaths", json!("etc/group"))),
    fails(177, "/ masked", "maskedPaths|/", |b| _ = b.push("/linux/maskedPaths", json!("/")))
        .but(&[("runc", "runs with an empty tmpfs above all")]),
    fails(178, "an empty masked path", "maskedPaths", |b| _ = b.push("/linux/maskedPaths", json!(""))).but(&[("runc", "runs")]),
    runs(179, "a read-only path that is relative", |b| _ = b.push("/linux/readonlyPaths", json!("etc"))),
    runs(180, "a read-only path with ..", |b| _ = b.push("/linux/readonlyPaths", json!("/../../etc"))),
    runs(181, "a masked path behind a link", |b| {
        if symlink("/etc", b.rootfs("link")).is_ok() {
            b.push("/linux/maskedPaths", json!("/link/group"));
        }
    }),
    fails(193, "a personality that is none", "BOGUS", |b| _ = b.set("/linux/personality", json!({"domain": "BOGUS"}))),
    fails(194, "a memory policy that is none", "MPOL_BOGUS|memoryPolicy", |b| {
        _ = b.set("/linux/memoryPolicy", json!({"mode": "MPOL_BOGUS", "nodes": "0"}))
    })
    .but(&[("runc<1.4", "does not know memory policies")]),
    fails(195, "nodes that are none", "memoryPolicy|nodes", |b| {
        _ = b.set("/linux/memoryPolicy", json!({"mode": "MPOL_BIND", "nodes": "x"}))
    })
    .but(&[("runc<1.4", "does not know memory policies")]),
    fails(196, "intelRdt without resctrl", "intelRdt|RDT|resctrl", |b| {
        _ = b.set("/linux/intelRdt", json!({"closID": "it", "schemata": ["L3:0=f"]}))
    })
    .but(&[("runc<1.4", "does not know schemata")]),
    fails(200, "an annotation an object", "annotations", |b| _ = b.set("/annotations", json!({"a": {"b": "c"}}))),
    fails(198, "linux missing", "linux|namespace|hostname", |b| _ = b.unset("/linux")),
    fails(199, "linux null", "linux|namespace|hostname", |b| _ = b.set("/linux", Value::Null)),
];

const DEVICES: [Row; 12] = [
    fails(182, "a type that is none", "z", |b| {
        _ = b.set("/linux/devices", json!([{"path": "/dev/x", "type": "z", "major": 1, "minor": 3}]))
    }),
    fails(183, "no type", "type", |b| _ = b.set("/linux/devices", json!([{"path": "/dev/x", "major": 1, "minor": 3}]))),
    fails(184, "no numbers", "major|minor|/dev/x", |b| _ = b.set("/linux/devices", json!([{"path": "/dev/x", "type": "c"}])))
        .but(&[("runc", "takes them as 0:0")]),
    fails(185, "a negative number", "major|/dev/x", |b| {
        _ = b.set("/linux/devices", json!([{"path": "/dev/x", "type": "c", "major": -5, "minor": 3}]))
    }),
    runs(186, "an empty path", |b| _ = b.set("/linux/devices", json!([{"path": "", "type": "c", "major": 1, "minor": 3}]))),
    runs(187, "a path with .. outside /dev", |b| {
        b.set("/linux/devices", json!([{"path": "/dev/../../../x", "type": "c", "major": 1, "minor": 3}]));
    }),
    fails(188, "another node is there already", "/other", |b| {
        let node = rustix::fs::mkfifoat(rustix::fs::CWD, b.rootfs("other"), rustix::fs::Mode::from_raw_mode(0o600));
        b.set("/linux/devices", json!([{"path": if node.is_ok() { "/other" } else { "/x" }, "type": "c", "major": 1, "minor": 3}]));
    })
    .but(&[("runc<1.4", "takes what is there")]),
    fails(189, "a mode beyond 12 bits", "fileMode", |b| {
        b.set("/linux/devices", json!([{"path": "/dev/x", "type": "c", "major": 1, "minor": 3, "fileMode": 1_u64 << 31}]));
    })
    .but(&[("runc", "runs")]),
    fails(190, "a network device without a namespace", "netDevices|network", |b| {
        b.drop_namespace("network").set("/linux/netDevices", json!({"eth9": {}}));
    })
    .but(&[("runc<1.4", "does not know them")]),
    fails(191, "a network device of a bad name", "a/b|netDevices", |b| _ = b.set("/linux/netDevices", json!({"a/b": {}})))
        .but(&[("runc<1.4", "does not know them")]),
    fails(192, "a network device that is not there", "nosuch0|netDevices", |b| _ = b.set("/linux/netDevices", json!({"nosuch0": {}})))
        .but(&[("runc<1.4", "does not know them")]),
    runs(197, "a mount label without SELinux", |b| _ = b.set("/linux/mountLabel", json!("a:b:c:d"))).but(&[("runc", "the mount fails")]),
];

#[test]
fn bad_163_to_200_linux() {
    check(|t| table(t, &ROWS));
}

#[test]
fn bad_182_to_197_devices() {
    check(|t| table(t, &DEVICES));
}
