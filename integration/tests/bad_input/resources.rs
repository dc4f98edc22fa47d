//! BAD-201 to BAD-225: resources. Rows for a missing controller are skipped with a message.

use integration::{cgroups, check};
use serde_json::{Value, json};

use super::{Row, fails, runs, table};

const MEMORY: [Row; 6] = [
    fails(201, "a limit of -5", "memory", |b| _ = b.set("/linux/resources/memory", json!({"limit": -5}))),
    fails(202, "a limit of 1 byte", "memory", |b| _ = b.set("/linux/resources/memory", json!({"limit": 1}))),
    fails(203, "a limit of 2^64", "limit", |b| _ = b.set("/linux/resources/memory/limit", json!(18_446_744_073_709_551_616.0))),
    fails(204, "a limit that is a string", "limit", |b| _ = b.set("/linux/resources/memory/limit", json!("64m"))),
    fails(205, "swap below the limit", "swap", |b| _ = b.set("/linux/resources/memory", json!({"limit": 64 << 20, "swap": 32 << 20}))),
    fails(207, "a swappiness of 500", "swappiness", |b| _ = b.set("/linux/resources/memory", json!({"swappiness": 500}))),
];

#[test]
fn bad_201_to_207_memory() {
    check(|t| {
        if !cgroups::has("memory") {
            return t.skip("no memory controller");
        }
        table(t, &MEMORY)
    });
}

const PIDS: [Row; 3] = [
    runs(208, "a limit of 0", |b| _ = b.set("/linux/resources/pids", json!({"limit": 0}))),
    runs(209, "a limit of -7", |b| _ = b.set("/linux/resources/pids", json!({"limit": -7}))),
    fails(210, "a limit of 2^63", "limit", |b| _ = b.set("/linux/resources/pids", json!({"limit": 1_u64 << 63}))),
];

#[test]
fn bad_208_to_210_pids() {
    check(|t| {
        if !cgroups::has("pids") {
            return t.skip("no pids controller");
        }
        table(t, &PIDS)
    });
}

const CPU: [Row; 5] = [
    fails(211, "CPUs that the machine lacks", "cpus|4000", |b| _ = b.set("/linux/resources/cpu", json!({"cpus": "4000-5000"}))),
    fails(212, "CPUs that are no list", "cpus|abc", |b| _ = b.set("/linux/resources/cpu", json!({"cpus": "abc"}))),
    fails(213, "1 share", "shares", |b| _ = b.set("/linux/resources/cpu", json!({"shares": 1}))),
    fails(214, "a period of 1", "period|quota", |b| _ = b.set("/linux/resources/cpu", json!({"period": 1, "quota": 1}))),
    runs(215, "a quota of -100", |b| _ = b.set("/linux/resources/cpu", json!({"quota": -100}))),
];

#[test]
fn bad_211_to_215_cpu() {
    check(|t| {
        if !cgroups::has("cpu") || !cgroups::has("cpuset") || cgroups::unified() {
            return t.skip("no v1 hierarchy of cpu and cpuset");
        }
        table(t, &CPU)
    });
}

const DEVICES: [Row; 7] = [
    fails(216, "a rule of a type that is none", "devices|z", |b| {
        _ = b.set("/linux/resources/devices", json!([{"allow": true, "type": "z", "access": "r"}]))
    }),
    fails(217, "a rule of an access that is none", "access|devices", |b| {
        b.set("/linux/resources/devices", json!([{"allow": true, "type": "c", "access": "rx"}]));
    })
    .but(&[("runc", "runs")]),
    fails(218, "a rule without access", "access|devices", |b| {
        _ = b.set("/linux/resources/devices", json!([{"allow": true, "type": "c", "access": ""}]))
    }),
    fails(220, "a key of unified with a slash", "unified|../x", |b| _ = b.set("/linux/resources/unified", json!({"../x": "1"}))),
    fails(223, "a page size that is a path", "hugetlb|hugepage|pageSize", |b| {
        b.set("/linux/resources/hugepageLimits", json!([{"pageSize": "../x", "limit": 1}]));
    }),
    fails(225, "hugepageLimits an object", "hugepageLimits", |b| _ = b.set("/linux/resources/hugepageLimits", json!({}))),
    runs(225, "resources null", |b| _ = b.set("/linux/resources", Value::Null)),
];

#[test]
fn bad_216_to_225_devices_and_unified() {
    check(|t| table(t, &DEVICES));
}

/// `unified` is only for v2, and only for existing files.
#[test]
fn bad_219_to_222_unified() {
    const V1: [Row; 1] = [fails(219, "unified on v1", "unified", |b| _ = b.set("/linux/resources/unified", json!({"memory.max": "max"})))];
    const V2: [Row; 2] = [
        fails(221, "a file that is none", "bogus", |b| _ = b.set("/linux/resources/unified", json!({"bogus.file": "1"}))),
        fails(206, "a limit of swap without one of memory", "memory|swap", |b| {
            _ = b.set("/linux/resources/memory", json!({"swap": 1 << 30}))
        }),
    ];
    const WITHOUT_MEMORY: [Row; 1] = [fails(222, "a controller that is not there", "memory", |b| {
        _ = b.set("/linux/resources/unified", json!({"memory.max": "1000000000"}))
    })];
    check(|t| {
        if !cgroups::unified() {
            return table(t, &V1);
        }
        table(t, &V2)?;
        if cgroups::has("memory") { Ok(()) } else { table(t, &WITHOUT_MEMORY) }
    });
}
