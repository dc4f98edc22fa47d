//! BAD-142 to BAD-162: namespaces and mappings.

use integration::{Bundle, check};
use serde_json::{Value, json};

use super::{Row, fails, runs, table};

fn user(b: &mut Bundle, uids: Value, gids: Value) {
    b.namespace("user", None).set("/linux/uidMappings", uids).set("/linux/gidMappings", gids);
}

fn map(size: u64) -> Value {
    json!([{"containerID": 0, "hostID": 100_000, "size": size}])
}

const ROWS: [Row; 22] = [
    fails(142, "a kind that is none", "bogus", |b| _ = b.namespace("bogus", None)),
    fails(143, "a kind twice", "pid", |b| _ = b.push("/linux/namespaces", json!({"type": "pid"}))),
    fails(144, "no mount namespace", "mount", |b| _ = b.drop_namespace("mount")),
    fails(145, "a user namespace without mappings", "mapping|user namespace", |b| _ = b.namespace("user", None)),
    runs(146, "mappings without a user namespace", |b| _ = b.set("/linux/uidMappings", map(10)).set("/linux/gidMappings", map(10))),
    fails(147, "uid mappings alone", "mapping|user namespace", |b| user(b, map(65_536), Value::Null)),
    fails(148, "a mapping of nothing", "mapping|user namespace", |b| user(b, map(0), map(0))),
    fails(149, "mappings that overlap", "mapping|uid_map|user namespace", |b| {
        let twice = json!([{"containerID": 0, "hostID": 0, "size": 10}, {"containerID": 5, "hostID": 100, "size": 10}]);
        user(b, twice.clone(), twice);
    }),
    fails(150, "341 mappings", "mapping|uid_map|user namespace", |b| {
        let many: Vec<_> = (0..341).map(|id| json!({"containerID": id, "hostID": 100_000 + 2 * id, "size": 1})).collect();
        user(b, json!(many), json!(many));
    }),
    fails(151, "root is not mapped", "mapp|user namespace", |b| {
        let high = json!([{"containerID": 10, "hostID": 100_000, "size": 10}]);
        user(b, high.clone(), high);
    }),
    fails(152, "the user is not mapped", "mapp|user namespace", |b| {
        user(b, map(100), map(100));
        b.set("/process/user", json!({"uid": 5000, "gid": 5000}));
    }),
    fails(153, "offsets without a time namespace", "time", |b| _ = b.set("/linux/timeOffsets", json!({"monotonic": {"secs": 1}}))),
    fails(154, "an offset of a clock that is none", "bogus|time", |b| {
        b.namespace("time", None).set("/linux/timeOffsets", json!({"bogus": {"secs": 1}}));
    }),
    fails(155, "a path that is not there", "no such file or directory", |b| _ = b.namespace("network", Some("/no/such/ns"))),
    fails(156, "a path of another kind", "/proc/self/ns/uts", |b| _ = b.namespace("network", Some("/proc/self/ns/uts"))),
    fails(157, "a path of a plain file", "/etc/passwd", |b| _ = b.namespace("network", Some("/etc/passwd"))),
    fails(158, "a path that is relative", "ns/net", |b| _ = b.namespace("network", Some("ns/net"))),
    fails(159, "no namespaces", "namespace|mount", |b| _ = b.unset("/linux/namespaces")),
    fails(160, "no type", "type|namespace", |b| _ = b.push("/linux/namespaces", json!({"path": "/proc/self/ns/net"}))),
    fails(161, "our own user namespace by path, with mappings", "user", |b| {
        user(b, map(65_536), map(65_536));
        b.namespace("user", Some("/proc/self/ns/user"));
    }),
    fails(162, "a time namespace by path with offsets", "time", |b| {
        b.namespace("time", Some("/proc/self/ns/time")).set("/linux/timeOffsets", json!({"monotonic": {"secs": 1}}));
    }),
    fails(162, "a path that is a number", "path", |b| _ = b.push("/linux/namespaces", json!({"type": "cgroup", "path": 1}))),
];

#[test]
fn bad_142_to_162_namespaces() {
    check(|t| table(t, &ROWS));
}
