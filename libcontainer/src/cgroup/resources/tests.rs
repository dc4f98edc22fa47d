//! Tables of resources and the settings that they become.

use super::v2::{cpu_weight, swap};
use super::*;
use crate::error::Result;

fn read(json: &str) -> spec::Resources {
    serde_json::from_str(json).unwrap()
}

fn v1(r: &spec::Resources) -> Result<Vec<Setting>> {
    let mut found = Findings::new();
    let settings = super::v1(r, &mut found);
    found.unless_wrong(settings)
}

fn v2(r: &spec::Resources) -> Result<Vec<Setting>> {
    let mut found = Findings::new();
    let settings = super::v2(r, &mut found);
    found.unless_wrong(settings)
}

fn written(settings: Result<Vec<Setting>>) -> Vec<String> {
    settings.unwrap().iter().map(|s| format!("{}={}", s.file, s.value)).collect()
}

fn text(settings: Result<Vec<Setting>>) -> String {
    settings.unwrap_err().to_string()
}

#[test]
fn nothing_asked_for_is_nothing_written() {
    for json in ["{}", r#"{"memory":{"limit":0,"swap":0},"cpu":{"shares":0,"quota":0,"period":0},"blockIO":{"weight":0},"rdma":{"x":{}}}"#]
    {
        assert_eq!(v1(&read(json)).unwrap(), []);
        assert_eq!(v2(&read(json)).unwrap(), []);
    }
}

#[test]
fn cpu_shares_become_the_weight_of_the_new_formula() {
    for (shares, weight) in [(1, 1), (2, 1), (3, 2), (1024, 100), (512, 59), (2048, 174), (262_144, 10_000), (999_999, 10_000)] {
        assert_eq!(cpu_weight(shares), weight, "{shares}");
    }
}

#[test]
fn swap_of_v2_is_without_memory() {
    for (memory, both, is) in [
        (0, 0, None),
        (100, 0, None),
        (-1, 0, Some(-1)),
        (100, -1, Some(-1)),
        (-1, 50, Some(50)),
        (100, 100, Some(0)),
        (100, 150, Some(50)),
    ] {
        assert_eq!(swap(memory, both).unwrap(), is, "{memory} {both}");
    }
    for (memory, both, error) in [
        (0, 10, "unable to set swap limit without memory limit"),
        (100, 50, "memory+swap limit should be >= memory limit"),
        (100, -7, "memory+swap limit should be >= memory limit"),
        (-5, 10, "invalid memory value: -5"),
    ] {
        assert_eq!(swap(memory, both).unwrap_err().to_string(), error);
    }
}

#[test]
fn everything_on_v2() {
    let r = read(
        r#"{"memory":{"limit":1000,"reservation":500,"swap":1500,"swappiness":60,"kernel":9,"disableOOMKiller":true},
        "cpu":{"shares":1024,"quota":5000,"period":10000,"burst":7,"cpus":"0-1","mems":"0","idle":0},"pids":{"limit":5},
        "blockIO":{"weight":1000,"leafWeight":10,"weightDevice":[{"major":8,"minor":0,"weight":10}],
          "throttleReadBpsDevice":[{"major":8,"minor":0,"rate":1}],"throttleWriteIOPSDevice":[{"major":8,"minor":16,"rate":0}]},
        "hugepageLimits":[{"pageSize":"2MB","limit":4}],"network":{"classID":1},"rdma":{"mlx":{"hcaHandles":1,"hcaObjects":2}},
        "unified":{"memory.high":"1\n2"}}"#,
    );
    assert_eq!(
        written(v2(&r)),
        [
            "pids.max=5",
            "memory.swap.max=500",
            "memory.max=1000",
            "memory.low=500",
            "io.bfq.weight=1000",
            "io.bfq.weight=8:0 10",
            "io.max=8:0 rbps=1",
            "io.max=8:16 wiops=max",
            "cpu.idle=0",
            "cpu.weight=100",
            "cpu.max.burst=7",
            "cpu.max=5000 10000",
            "cpuset.cpus=0-1",
            "cpuset.mems=0",
            "hugetlb.2MB.max=4",
            "hugetlb.2MB.rsvd.max=4",
            "rdma.max=mlx hca_handle=1 hca_object=2",
            "memory.high=1",
            "memory.high=2",
        ]
    );
    let weight = v2(&r).unwrap().into_iter().find(|s| s.value == "1000" && s.file == "io.bfq.weight").unwrap();
    assert_eq!(weight.missing, Missing::Instead("io.weight", "10000".into()));
}

#[test]
fn everything_on_v1() {
    let r = read(
        r#"{"memory":{"limit":1000,"reservation":500,"swap":1500,"swappiness":0,"disableOOMKiller":true},
        "cpu":{"shares":2,"quota":-100,"period":10000,"burst":0,"realtimeRuntime":3,"realtimePeriod":4,"cpus":"0","idle":1},"pids":{"limit":-7},
        "blockIO":{"weight":10,"weightDevice":[{"major":8,"minor":0,"weight":20,"leafWeight":30}],
          "throttleReadBpsDevice":[{"major":8,"minor":0,"rate":0}]},
        "hugepageLimits":[{"pageSize":"1GB","limit":4}],"network":{"classID":1048577,"priorities":[{"name":"eth0","priority":3}]}}"#,
    );
    assert_eq!(
        written(v1(&r)),
        [
            "cpuset.cpus=0",
            "memory.limit_in_bytes=1000",
            "memory.memsw.limit_in_bytes=1500",
            "memory.soft_limit_in_bytes=500",
            "memory.oom_control=1",
            "memory.swappiness=0",
            "cpu.shares=2",
            "cpu.cfs_period_us=10000",
            "cpu.cfs_burst_us=0",
            "cpu.cfs_quota_us=-100",
            "cpu.idle=1",
            "cpu.rt_period_us=4",
            "cpu.rt_runtime_us=3",
            "pids.max=max",
            "blkio.weight=10",
            "blkio.weight_device=8:0 20",
            "blkio.leaf_weight_device=8:0 30",
            "blkio.throttle.read_bps_device=8:0 0",
            "hugetlb.1GB.limit_in_bytes=4",
            "hugetlb.1GB.rsvd.limit_in_bytes=4",
            "net_cls.classid=1048577",
            "net_prio.ifpriomap=eth0 3",
        ]
    );
}

#[test]
fn pids_zero_is_one_and_negative_is_no_limit() {
    for (limit, is) in [(0, "1"), (1, "1"), (i64::MAX, "9223372036854775807"), (-1, "max"), (-7, "max")] {
        let r = read(&format!(r#"{{"pids":{{"limit":{limit}}}}}"#));
        assert_eq!(written(v1(&r)), [format!("pids.max={is}")]);
        assert_eq!(written(v2(&r)), [format!("pids.max={is}")]);
    }
}

#[test]
fn quota_and_period_alone() {
    let max = |json: &str| written(v2(&read(json)));
    assert_eq!(max(r#"{"cpu":{"quota":5000}}"#), ["cpu.max=5000 100000"]);
    assert_eq!(max(r#"{"cpu":{"period":5000}}"#), ["cpu.max=max 5000"]);
    assert_eq!(max(r#"{"cpu":{"quota":-100}}"#), ["cpu.max=max 100000"]);
}

#[test]
fn unlimited_memory_is_unlimited_swap() {
    let r = read(r#"{"memory":{"limit":-1}}"#);
    assert_eq!(written(v1(&r)), ["memory.limit_in_bytes=-1", "memory.memsw.limit_in_bytes=-1"]);
    assert_eq!(written(v2(&r)), ["memory.swap.max=max", "memory.max=max"]);
    assert!(v1(&r).unwrap().iter().any(|s| s.missing == Missing::Skip));
}

#[test]
fn bad_values_have_their_texts() {
    for (json, v1_text, v2_text) in [
        (
            r#"{"memory":{"swappiness":500}}"#,
            Some("linux.resources.memory.swappiness: invalid memory swappiness value: 500 (valid range is 0-100)"),
            Some("linux.resources.memory.swappiness: invalid memory swappiness value: 500 (valid range is 0-100)"),
        ),
        (r#"{"cpu":{"shares":1}}"#, Some("linux.resources.cpu.shares: the minimum allowed cpu-shares is 2"), None),
        (r#"{"cpu":{"shares":262145}}"#, Some("linux.resources.cpu.shares: the maximum allowed cpu-shares is 262144"), None),
        (
            r#"{"unified":{"memory.max":"1"}}"#,
            Some("linux.resources.unified: invalid configuration: cannot use unified on cgroup v1"),
            None,
        ),
        (
            r#"{"unified":{"../x":"1"}}"#,
            Some("linux.resources.unified: invalid configuration: cannot use unified on cgroup v1"),
            Some(r#"linux.resources.unified["../x"]: unified resource "../x" must be a file name (no slashes)"#),
        ),
        (
            r#"{"unified":{"x":"1"}}"#,
            Some("linux.resources.unified: invalid configuration: cannot use unified on cgroup v1"),
            Some(r#"linux.resources.unified["x"]: unified resource "x" must be in the form CONTROLLER.PARAMETER"#),
        ),
        (
            r#"{"blockIO":{"weight":5}}"#,
            Some("linux.resources.blockIO.weight: invalid weight 5 (valid range is 10-1000)"),
            Some("linux.resources.blockIO.weight: invalid weight 5 (valid range is 10-1000)"),
        ),
        (
            r#"{"hugepageLimits":[{"pageSize":"../x","limit":1}]}"#,
            Some(r#"linux.resources.hugepageLimits[0]: invalid page size "../x""#),
            Some(r#"linux.resources.hugepageLimits[0]: invalid page size "../x""#),
        ),
        (
            r#"{"hugepageLimits":[{"pageSize":"02MB","limit":1}]}"#,
            Some(r#"linux.resources.hugepageLimits[0]: invalid page size "02MB""#),
            Some(r#"linux.resources.hugepageLimits[0]: invalid page size "02MB""#),
        ),
        (
            r#"{"rdma":{"a b":{"hcaHandles":1}}}"#,
            Some(r#"linux.resources.rdma["a b"]: invalid device name "a b""#),
            Some(r#"linux.resources.rdma["a b"]: invalid device name "a b""#),
        ),
        (
            r#"{"unified":{"cgroup.kill":"1"}}"#,
            Some("linux.resources.unified: invalid configuration: cannot use unified on cgroup v1"),
            Some(r#"linux.resources.unified["cgroup.kill"]: unified resource "cgroup.kill" is no limit: it is the runtime's to write"#),
        ),
        (
            r#"{"blockIO":{"throttleReadBpsDevice":[{"major":8,"minor":0,"rate":1},{"major":-1,"minor":0,"rate":1}]}}"#,
            Some("linux.resources.blockIO.throttleReadBpsDevice[1]: -1:0 are no numbers of a device"),
            Some("linux.resources.blockIO.throttleReadBpsDevice[1]: -1:0 are no numbers of a device"),
        ),
        (r#"{"memory":{"swap":5}}"#, None, Some("linux.resources.memory.swap: unable to set swap limit without memory limit")),
    ] {
        let r = read(json);
        match v1_text {
            Some(t) => assert_eq!(text(v1(&r)), t),
            None => drop(v1(&r).unwrap()),
        }
        match v2_text {
            Some(t) => assert_eq!(text(v2(&r)), t),
            None => drop(v2(&r).unwrap()),
        }
    }
}

#[test]
fn a_weight_of_one_device_has_its_value_for_either_scheduler() {
    let r = read(r#"{"blockIO":{"weightDevice":[{"major":8,"minor":0,"weight":505}]}}"#);
    let settings = v2(&r).unwrap();
    assert_eq!((settings[0].file.as_str(), settings[0].value.as_str()), ("io.bfq.weight", "8:0 505"));
    assert_eq!(settings[0].missing, Missing::Instead("io.weight", "8:0 5000".into()));
}

#[test]
fn idle_is_written_before_the_weight_when_it_ends_and_after_it_or_in_its_place_when_it_begins() {
    let r = |idle: u8| read(&format!(r#"{{"cpu":{{"idle":{idle},"shares":1024}}}}"#));
    assert_eq!(written(v1(&r(0))), ["cpu.idle=0", "cpu.shares=1024"]);
    assert_eq!(written(v1(&r(1))), ["cpu.shares=1024", "cpu.idle=1"]);
    assert_eq!(written(v2(&r(0))), ["cpu.idle=0", "cpu.weight=100"]);
    assert_eq!(written(v2(&r(1))), ["cpu.idle=1"]);
    let r = read(r#"{"cpu":{"shares":1024},"unified":{"cpu.idle":"1","cpu.weight":"8"}}"#);
    assert_eq!(written(v2(&r)), ["cpu.idle=1"]);
}

#[test]
fn what_has_no_effect_is_warned_of() {
    let warned = |json: &str, plan: fn(&spec::Resources, &mut Findings) -> Vec<Setting>| -> Vec<String> {
        let mut found = Findings::new();
        plan(&read(json), &mut found);
        found.list().iter().inspect(|f| assert_eq!(f.kind, None)).map(|f| f.path.clone()).collect()
    };
    let kernel = r#"{"memory":{"kernel":1,"kernelTCP":2,"swappiness":5,"disableOOMKiller":true,"useHierarchy":true}}"#;
    for plan in [super::v1, super::v2] {
        assert_eq!(warned(kernel, plan), ["linux.resources.memory.kernel", "linux.resources.memory.kernelTCP"]);
        assert_eq!(warned(r#"{"memory":{"kernel":0},"network":{"classID":0,"priorities":[]}}"#, plan), [""; 0]);
    }
    let others = r#"{"network":{"classID":1,"priorities":[{"name":"eth0","priority":1}]},"cpu":{"realtimeRuntime":1,"realtimePeriod":2}}"#;
    assert_eq!(warned(others, super::v1), [""; 0]);
    let at = ["cpu.realtimeRuntime", "cpu.realtimePeriod", "network.classID", "network.priorities"];
    assert_eq!(warned(others, super::v2), at.map(|at| format!("linux.resources.{at}")));
}

#[test]
fn merging_keeps_replaces_and_forgets() {
    let old = read(
        r#"{"memory":{"limit":100,"swap":200},"cpu":{"shares":50,"quota":7,"period":9,"cpus":"0"},"pids":{"limit":3},
        "devices":[{"allow":true,"access":"r"}],"blockIO":{"throttleReadBpsDevice":[{"major":8,"minor":0,"rate":1},{"major":8,"minor":1,"rate":2}]}}"#,
    );
    let check = |new: &str, merged: &str| assert_eq!(merge(&old, &read(new)), read(merged), "{new}");
    let devices = r#""devices":[{"allow":true,"access":"r"}]"#;
    let io = r#""blockIO":{"throttleReadBpsDevice":[{"major":8,"minor":0,"rate":1},{"major":8,"minor":1,"rate":2}]}"#;
    check(
        r#"{"devices":[{"allow":false,"access":"rwm"}]}"#,
        &format!(
            r#"{{"memory":{{"limit":100,"swap":200,"checkBeforeUpdate":false}},"cpu":{{"shares":50,"quota":7,"period":9}},{devices},{io}}}"#
        ),
    );
    check(
        r#"{"memory":{"limit":-1,"checkBeforeUpdate":true},"cpu":{"quota":70},"pids":{"limit":0}}"#,
        &format!(
            r#"{{"memory":{{"limit":-1,"swap":0,"checkBeforeUpdate":true}},"cpu":{{"shares":50,"quota":70,"period":9}},"pids":{{"limit":0}},{devices},{io}}}"#
        ),
    );
    check(
        r#"{"cpu":{"idle":1,"period":10,"cpus":"1"},"blockIO":{"throttleReadBpsDevice":[{"major":8,"minor":1,"rate":5},{"major":9,"minor":0,"rate":6}]},"unified":{"a.b":"1"}}"#,
        &format!(
            r#"{{"memory":{{"limit":100,"swap":200,"checkBeforeUpdate":false}},"cpu":{{"shares":0,"quota":7,"period":10,"idle":1,"cpus":"1"}},{devices},"unified":{{"a.b":"1"}},
            "blockIO":{{"throttleReadBpsDevice":[{{"major":8,"minor":0,"rate":1}},{{"major":8,"minor":1,"rate":5}},{{"major":9,"minor":0,"rate":6}}]}}}}"#
        ),
    );
}
