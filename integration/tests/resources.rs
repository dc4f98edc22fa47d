//! Each property of `linux.resources`: its file on cgroup v1 and v2, the error when the kernel refuses, and the effect of the
//! limits. docs/resources.md has the same table for people.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use integration::{Bundle, Container, Output, Test, cgroups, check};
use serde_json::{Map, Value, json};

/// A property: `resources` as JSON, and for v1 and v2 the files of its controllers, each with a line in it. `DEV` is the device
/// number of a disk.
struct Row {
    resources: &'static str,
    v1: &'static [(&'static str, &'static str)],
    v2: &'static [(&'static str, &'static str)],
}

const ROWS: [Row; 26] = [
    Row { resources: r#"{"memory":{"limit":67108864}}"#, v1: &[("memory.limit_in_bytes", "67108864")], v2: &[("memory.max", "67108864")] },
    Row {
        resources: r#"{"memory":{"limit":67108864,"swap":100663296}}"#,
        v1: &[("memory.memsw.limit_in_bytes", "100663296")],
        v2: &[("memory.swap.max", "33554432")],
    },
    Row {
        resources: r#"{"memory":{"reservation":33554432}}"#,
        v1: &[("memory.soft_limit_in_bytes", "33554432")],
        v2: &[("memory.low", "33554432")],
    },
    Row { resources: r#"{"memory":{"swappiness":30}}"#, v1: &[("memory.swappiness", "30")], v2: &[] },
    Row { resources: r#"{"memory":{"disableOOMKiller":true}}"#, v1: &[("memory.oom_control", "oom_kill_disable 1")], v2: &[] },
    Row { resources: r#"{"cpu":{"shares":512}}"#, v1: &[("cpu.shares", "512")], v2: &[("cpu.weight", "59")] },
    Row {
        resources: r#"{"cpu":{"quota":50000,"period":200000}}"#,
        v1: &[("cpu.cfs_quota_us", "50000"), ("cpu.cfs_period_us", "200000")],
        v2: &[("cpu.max", "50000 200000")],
    },
    Row { resources: r#"{"cpu":{"burst":10000}}"#, v1: &[("cpu.cfs_burst_us", "10000")], v2: &[("cpu.max.burst", "10000")] },
    Row { resources: r#"{"cpu":{"cpus":"0"}}"#, v1: &[("cpuset.cpus", "0")], v2: &[("cpuset.cpus", "0")] },
    Row { resources: r#"{"cpu":{"mems":"0"}}"#, v1: &[("cpuset.mems", "0")], v2: &[("cpuset.mems", "0")] },
    Row { resources: r#"{"pids":{"limit":50}}"#, v1: &[("pids.max", "50")], v2: &[("pids.max", "50")] },
    Row { resources: r#"{"blockIO":{"weight":505}}"#, v1: &[("blkio.bfq.weight", "505")], v2: &[("io.bfq.weight", "default 505")] },
    Row {
        resources: r#"{"blockIO":{"throttleReadBpsDevice":[{"major":"MAJ","minor":"MIN","rate":1048576}]}}"#,
        v1: &[("blkio.throttle.read_bps_device", "DEV 1048576")],
        v2: &[("io.max", "DEV rbps=1048576 wbps=2097152 riops=30 wiops=40")],
    },
    Row {
        resources: r#"{"blockIO":{"throttleWriteBpsDevice":[{"major":"MAJ","minor":"MIN","rate":2097152}]}}"#,
        v1: &[("blkio.throttle.write_bps_device", "DEV 2097152")],
        v2: &[("io.max", "DEV rbps=1048576 wbps=2097152 riops=30 wiops=40")],
    },
    Row {
        resources: r#"{"blockIO":{"throttleReadIOPSDevice":[{"major":"MAJ","minor":"MIN","rate":30}]}}"#,
        v1: &[("blkio.throttle.read_iops_device", "DEV 30")],
        v2: &[("io.max", "DEV rbps=1048576 wbps=2097152 riops=30 wiops=40")],
    },
    Row {
        resources: r#"{"blockIO":{"throttleWriteIOPSDevice":[{"major":"MAJ","minor":"MIN","rate":40}]}}"#,
        v1: &[("blkio.throttle.write_iops_device", "DEV 40")],
        v2: &[("io.max", "DEV rbps=1048576 wbps=2097152 riops=30 wiops=40")],
    },
    Row {
        resources: r#"{"hugepageLimits":[{"pageSize":"2MB","limit":4194304}]}"#,
        v1: &[("hugetlb.2MB.limit_in_bytes", "4194304"), ("hugetlb.2MB.rsvd.limit_in_bytes", "4194304")],
        v2: &[("hugetlb.2MB.max", "4194304"), ("hugetlb.2MB.rsvd.max", "4194304")],
    },
    Row { resources: r#"{"network":{"classID":1048577}}"#, v1: &[("net_cls.classid", "1048577")], v2: &[] },
    Row { resources: r#"{"network":{"priorities":[{"name":"lo","priority":3}]}}"#, v1: &[("net_prio.ifpriomap", "lo 3")], v2: &[] },
    Row { resources: r#"{"unified":{"memory.high":"50331648"}}"#, v1: &[], v2: &[("memory.high", "50331648")] },
    Row { resources: r#"{"unified":{"memory.min":"4194304"}}"#, v1: &[], v2: &[("memory.min", "4194304")] },
    Row { resources: r#"{"unified":{"memory.zswap.max":"8388608"}}"#, v1: &[], v2: &[("memory.zswap.max", "8388608")] },
    Row { resources: r#"{"unified":{"memory.oom.group":"1"}}"#, v1: &[], v2: &[("memory.oom.group", "1")] },
    Row { resources: r#"{"unified":{"io.latency":"DEV target=5000"}}"#, v1: &[], v2: &[("io.latency", "DEV target=5000")] },
    Row { resources: r#"{"unified":{"cgroup.max.descendants":"20"}}"#, v1: &[], v2: &[("cgroup.max.descendants", "20")] },
    Row { resources: r#"{"unified":{"hugetlb.1GB.max":"1073741824"}}"#, v1: &[], v2: &[("hugetlb.1GB.max", "1073741824")] },
];

/// The device number of a disk for which limits can be set.
fn disk() -> Option<(u32, u32)> {
    let mut names: Vec<_> = fs::read_dir("/sys/block").ok()?.flatten().map(|entry| entry.path()).collect();
    names.sort();
    let of_disk = |path: &Path| {
        let text = fs::read_to_string(path.join("dev")).ok()?;
        let (major, minor) = text.trim().split_once(':')?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    };
    names.iter().filter(|path| path.join("device").exists()).find_map(|path| of_disk(path))
}

/// Replaces `DEV` and `MAJ` by the device number of a disk. `None` if there is no disk.
fn with_disk(text: &str) -> Option<String> {
    if !["MAJ", "DEV"].iter().any(|word| text.contains(word)) {
        return Some(text.to_owned());
    }
    let (major, minor) = disk()?;
    let numbers = text.replace("\"MAJ\"", &major.to_string()).replace("\"MIN\"", &minor.to_string());
    Some(numbers.replace("DEV", &format!("{major}:{minor}")))
}

fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from.clone(),
    }
}

/// The controller of a file.
fn controller(file: &str) -> &str {
    file.split('.').next().unwrap_or_default()
}

fn line_of(container: &Container, file: &str) -> Result<String> {
    // for cgroup.* any hierarchy of v1 would do, but no row has such a file for v1
    cgroups::read(container.pid, controller(file), file)
}

fn files(row: &Row) -> &'static [(&'static str, &'static str)] {
    if cgroups::unified() { row.v2 } else { row.v1 }
}

/// The rows that this host supports: a container without limits has their files.
fn possible(t: &Test) -> Result<Vec<&'static Row>> {
    let mut bundle = t.bundle()?;
    let plain = Container::create(t, bundle.args(["/bin/true"]))?;
    let mut lacking = BTreeSet::new();
    let mut rows = Vec::new();
    for row in &ROWS {
        let missing = files(row).iter().find(|(file, _)| line_of(&plain, file).is_err());
        match missing {
            Some((file, _)) => drop(lacking.insert(*file)),
            None if with_disk(row.resources).is_some() && !files(row).is_empty() => rows.push(row),
            None => {}
        }
    }
    if !lacking.is_empty() {
        t.skip(&format!("this host has no {}", lacking.into_iter().collect::<Vec<_>>().join(", ")))?;
    }
    Ok(rows)
}

#[test]
fn each_property_becomes_its_file() {
    check(|t| {
        let rows = possible(t)?;
        let mut all = Value::Object(Map::new());
        for row in &rows {
            merge(&mut all, &serde_json::from_str(&with_disk(row.resources).context("a disk")?)?);
        }
        let mut bundle = t.bundle()?;
        bundle.args(["/bin/sleep"]).set("/linux/resources", all);
        let container = Container::start_of(t, &bundle)?;
        for row in rows {
            for (file, line) in files(row) {
                let (text, line) = (line_of(&container, file)?, with_disk(line).context("a disk")?);
                ensure!(text.lines().any(|l| l.trim_end() == line), "{}: {file} is {text:?}, not {line:?}", row.resources);
            }
        }
        Ok(())
    });
}

/// Values that limit each other: an idle group has no weight, and the order of the writes matters.
#[test]
fn values_that_bound_each_other_are_taken_in_the_right_order() {
    check(|t| {
        if !cgroups::has("cpu") || !cgroups::has("memory") {
            return t.skip("no controllers of cpu and memory");
        }
        let v2 = cgroups::unified();
        let mut bundle = t.bundle()?;
        bundle.args(["/bin/sleep"]).set("/linux/resources/cpu", json!({"shares": 512, "quota": 20_000, "period": 100_000}));
        bundle.set("/linux/resources/memory", json!({"limit": 64 << 20}));
        let container = Container::start_of(t, &bundle)?;
        let read = |v1: &str, v2_file: &str| line_of(&container, if v2 { v2_file } else { v1 });
        let update = |resources: Value| -> Result<Output> {
            let file = t.path().join("update.json");
            fs::write(&file, resources.to_string())?;
            t.runtime(["update", "--resources", &file.to_string_lossy(), &container.id])?.ok()
        };
        // up and down again, both values at once
        for quota in [[300_000, 50_000], [900_000, 1_000_000], [5_000, 10_000]] {
            update(json!({"cpu": {"quota": quota[0], "period": quota[1]}}))?;
            let expected = if v2 { format!("{} {}", quota[0], quota[1]) } else { quota[0].to_string() };
            assert_eq!(read("cpu.cfs_quota_us", "cpu.max")?, expected);
        }
        for limit in [256_u64 << 20, 32 << 20] {
            update(json!({"memory": {"limit": limit}}))?;
            assert_eq!(read("memory.limit_in_bytes", "memory.max")?, limit.to_string());
        }
        update(json!({"memory": {"limit": -1}}))?;
        let unlimited = read("memory.limit_in_bytes", "memory.max")?;
        ensure!(unlimited == "max" || unlimited.parse::<u64>().is_ok_and(|n| n > 1 << 60), "{unlimited}");
        let idle = line_of(&container, "cpu.idle");
        if idle.is_err() || t.differs("crun", "writes the weight of an idle group") {
            return Ok(());
        }
        update(json!({"cpu": {"idle": 1}}))?;
        assert_eq!(line_of(&container, "cpu.idle")?, "1");
        if t.runtime.is("masu") && v2 {
            // the weight is not written, and a warning says so
            for both in [json!({"cpu": {"idle": 1, "shares": 512}}), json!({"unified": {"cpu.idle": "1", "cpu.weight": "8"}})] {
                let output = update(both)?;
                ensure!(output.stderr.contains("unable to apply both cpu.weight and cpu.idle"), "{}", output.stderr);
            }
        }
        update(json!({"cpu": {"idle": 0, "shares": 1024}}))?;
        assert_eq!(line_of(&container, "cpu.idle")?, "0");
        assert_eq!(read("cpu.shares", "cpu.weight")?, if v2 { "100" } else { "1024" });
        drop(container);
        if t.differs("runc", "writes the weight after cpu.idle, which the kernel refuses") {
            return Ok(());
        }
        bundle.set("/linux/resources/cpu", json!({"shares": 512, "idle": 1}));
        let container = Container::start_of(t, &bundle)?;
        assert_eq!(line_of(&container, "cpu.idle")?, "1");
        Ok(())
    });
}

#[test]
fn a_limit_below_what_is_used_is_refused_where_it_is_to_be_checked() {
    check(|t| {
        if !cgroups::has("memory") {
            return t.skip("no memory controller");
        }
        let mut bundle = t.bundle()?;
        bundle.args(["/bin/sleep"]).set("/linux/resources/memory", json!({"limit": 64 << 20}));
        let container = Container::start_of(t, &bundle)?;
        let file = t.path().join("update.json");
        fs::write(&file, json!({"memory": {"limit": 4096, "checkBeforeUpdate": true}}).to_string())?;
        let output = t.runtime(["update", "--resources", &file.to_string_lossy(), &container.id])?.exits(1)?;
        if !t.differs("crun", "has words of its own") {
            let words = if cgroups::unified() { "rejecting memory limit 4096 <= usage" } else { "unable to set memory limit to 4096" };
            ensure!(output.stderr.contains(words), "{}", output.stderr);
        }
        let limit = line_of(&container, if cgroups::unified() { "memory.max" } else { "memory.limit_in_bytes" })?;
        assert_eq!(limit, (64 << 20).to_string());
        assert_eq!(container.status()?, "running");
        Ok(())
    });
}

#[test]
fn a_quota_and_cpus_hold() {
    check(|t| {
        if !cgroups::has("cpu") || !cgroups::has("cpuset") {
            return t.skip("no controllers of cpu and cpuset");
        }
        let mut bundle = t.bundle()?;
        bundle.args(["/bin/payload", "spin", "60"]);
        bundle.set("/linux/resources/cpu", json!({"quota": 10_000, "period": 100_000, "cpus": "0"}));
        let container = Container::start_of(t, &bundle)?;
        let status = fs::read_to_string(format!("/proc/{}/status", container.pid.as_raw_nonzero()))?;
        let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        assert_eq!(allowed.map(str::trim), Some("0"));
        let throttled = || -> Result<u64> {
            let text = line_of(&container, "cpu.stat")?;
            let value = text.lines().find_map(|line| line.strip_prefix("nr_throttled "));
            Ok(value.context("nr_throttled")?.parse()?)
        };
        let start = std::time::Instant::now();
        while throttled()? < 3 {
            ensure!(start.elapsed().as_secs() < 20, "it is not kept from running");
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        Ok(())
    });
}

/// A value that the kernel refuses: the controller, the versions (v1, v2 or both), and the texts in the error.
struct Refused {
    controller: &'static str,
    v1: &'static [&'static str],
    v2: &'static [&'static str],
    resources: &'static str,
}

const REFUSED: [Refused; 17] = [
    Refused {
        controller: "memory",
        v1: &["linux.resources.memory.limit: ", "write -5 to memory.limit_in_bytes of /", "invalid argument"],
        v2: &["linux.resources.memory.limit: ", "write -5 to memory.max of /", "invalid argument"],
        resources: r#"{"memory":{"limit":-5}}"#,
    },
    Refused {
        controller: "memory",
        v1: &["linux.resources.memory.swap: memory+swap limit should be >= memory limit"],
        v2: &["linux.resources.memory.swap: memory+swap limit should be >= memory limit"],
        resources: r#"{"memory":{"limit":67108864,"swap":33554432}}"#,
    },
    Refused {
        controller: "memory",
        v1: &[],
        v2: &["linux.resources.memory.swap: unable to set swap limit without memory limit"],
        resources: r#"{"memory":{"swap":33554432}}"#,
    },
    Refused {
        controller: "cpuset",
        v1: &["linux.resources.cpu.cpus: ", "write abc to cpuset.cpus of /", "invalid argument"],
        v2: &["linux.resources.cpu.cpus: ", "write abc to cpuset.cpus of /", "invalid argument"],
        resources: r#"{"cpu":{"cpus":"abc"}}"#,
    },
    Refused {
        controller: "cpuset",
        v1: &["linux.resources.cpu.mems: ", "write 900 to cpuset.mems of /"],
        v2: &["linux.resources.cpu.mems: ", "write 900 to cpuset.mems of /"],
        resources: r#"{"cpu":{"mems":"900"}}"#,
    },
    Refused {
        controller: "cpu",
        v1: &["linux.resources.cpu.period: ", "write 5 to cpu.cfs_period_us of /", "invalid argument"],
        v2: &["linux.resources.cpu.quota: ", "write 5 5 to cpu.max of /", "invalid argument"],
        resources: r#"{"cpu":{"period":5,"quota":5}}"#,
    },
    Refused {
        controller: "cpu",
        v1: &["linux.resources.cpu.burst: a burst of 900000 is more than the quota of 10000"],
        v2: &["linux.resources.cpu.burst: a burst of 900000 is more than the quota of 10000"],
        resources: r#"{"cpu":{"quota":10000,"period":100000,"burst":900000}}"#,
    },
    Refused {
        controller: "cpu",
        v1: &["linux.resources.cpu.shares: the minimum allowed cpu-shares is 2"],
        v2: &[],
        resources: r#"{"cpu":{"shares":1}}"#,
    },
    Refused {
        controller: "cpu",
        v1: &["linux.resources.cpu.idle: ", "write 7 to cpu.idle of /"],
        v2: &["linux.resources.cpu.idle: ", "write 7 to cpu.idle of /"],
        resources: r#"{"cpu":{"idle":7}}"#,
    },
    Refused {
        controller: "hugetlb",
        v1: &["linux.resources.hugepageLimits[0]: ", "hugetlb.3MB.limit_in_bytes", "this kernel has no such file"],
        v2: &["linux.resources.hugepageLimits[0]: ", "hugetlb.3MB.max", "this kernel has no such file"],
        resources: r#"{"hugepageLimits":[{"pageSize":"3MB","limit":1}]}"#,
    },
    Refused {
        controller: "blkio",
        v1: &[
            "linux.resources.blockIO.throttleReadBpsDevice[0]: ",
            "write 250:77 5 to blkio.throttle.read_bps_device of /",
            "no such device",
        ],
        v2: &[],
        resources: r#"{"blockIO":{"throttleReadBpsDevice":[{"major":250,"minor":77,"rate":5}]}}"#,
    },
    Refused {
        controller: "io",
        v1: &[],
        v2: &["linux.resources.blockIO.throttleReadBpsDevice[0]: ", "write 250:77 rbps=5 to io.max of /", "no such device"],
        resources: r#"{"blockIO":{"throttleReadBpsDevice":[{"major":250,"minor":77,"rate":5}]}}"#,
    },
    Refused {
        controller: "memory",
        v1: &["linux.resources.unified: ", "cannot use unified on cgroup v1"],
        v2: &["linux.resources.unified[\"memory.high\"]: ", "write \"lots\" in /", "invalid argument"],
        resources: r#"{"unified":{"memory.high":"lots"}}"#,
    },
    Refused {
        controller: "cgroup",
        v1: &[],
        v2: &["linux.resources.unified[\"cgroup.events\"]: ", "permission denied"],
        resources: r#"{"unified":{"cgroup.events":"1"}}"#,
    },
    Refused {
        controller: "cgroup",
        v1: &[],
        v2: &["linux.resources.unified[\"cgroup.freeze\"]: ", "no limit"],
        resources: r#"{"unified":{"cgroup.freeze":"1"}}"#,
    },
    Refused {
        controller: "cgroup",
        v1: &[],
        v2: &["linux.resources.unified[\"nosuch.max\"]: unified resource \"nosuch.max\" can't be set: controller \"nosuch\" not available"],
        resources: r#"{"unified":{"nosuch.max":"1"}}"#,
    },
    Refused {
        controller: "pids",
        v1: &["linux.resources.devices[1]: invalid cgroup device access \"x\""],
        v2: &["linux.resources.devices[1]: invalid cgroup device access \"x\""],
        resources: r#"{"devices":[{"allow":false,"access":"rwm"},{"allow":true,"type":"c","access":"x"}]}"#,
    },
];

#[test]
fn a_refusal_is_one_line_with_its_place_the_file_and_the_kernels_answer() {
    check(|t| {
        let others = "names neither the property nor, always, the file";
        if t.differs("runc", others) || t.differs("crun", others) {
            return Ok(());
        }
        let (v2, mut wrong) = (cgroups::unified(), Vec::new());
        for Refused { controller, v1: in_v1, v2: in_v2, resources } in REFUSED {
            let parts = if v2 { in_v2 } else { in_v1 };
            if parts.is_empty() || !(controller == "cgroup" || cgroups::has(controller)) {
                continue;
            }
            let mut bundle: Bundle = t.bundle()?;
            bundle.args(["/bin/true"]).set("/linux/resources", serde_json::from_str(resources)?);
            let output = t.run(&bundle)?.exits(1)?;
            let line = output.stderr.trim().to_lowercase();
            if line.lines().count() != 1 || !parts.iter().all(|part| line.contains(&part.to_lowercase())) {
                wrong.push(format!("{resources}: {line} does not name all of {parts:?}"));
            }
        }
        ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
        Ok(())
    });
}
