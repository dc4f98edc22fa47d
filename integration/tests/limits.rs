//! The effect of limits: the kernel's behaviour, not only the content of cgroup files.

use std::fs;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::{Container, cgroups, check};
use rustix::process::Pid;
use serde_json::json;

/// Whether a CPU quota can be set here.
fn has_quota() -> bool {
    cgroups::has("cpu") && (cgroups::unified() || fs::exists("/sys/fs/cgroup/cpu/cpu.cfs_quota_us").unwrap_or_default())
}

/// The CPU time of the cgroup of `pid`, in microseconds.
fn cpu_time(pid: Pid) -> Result<u64> {
    if !cgroups::unified() {
        return Ok(cgroups::read(pid, "cpuacct", "cpuacct.usage")?.parse::<u64>()? / 1000);
    }
    let text = cgroups::read(pid, "cpu", "cpu.stat")?;
    let usage = text.lines().find_map(|line| line.strip_prefix("usage_usec ")).context("usage_usec in cpu.stat")?;
    Ok(usage.parse()?)
}

#[test]
fn a_quota_is_all_of_the_cpu_that_there_is_also_for_an_exec_and_after_an_update() {
    check(|t| {
        if !has_quota() {
            return t.skip("no quota of the cpu controller");
        }
        let mut bundle = t.bundle()?;
        bundle.set("/linux/resources/cpu", json!({"quota": 20_000, "period": 100_000}));
        bundle.args(["/bin/payload", "burn", "2000", "then", "sleep"]);
        let mut container = Container::start_of(t, &bundle)?;
        let used: u64 = container.line()?.parse()?;
        // a fifth would be 400; an emulated machine on a busy host also counts time that it did not get
        ensure!(used < 1000, "{used} ms of 2000 with a quota of a fifth");
        if !t.differs("crun", "has no events command") {
            let stats = t.runtime(["events", "--stats", &container.id])?.ok()?.json()?;
            ensure!(stats["data"]["cpu"]["throttling"]["throttledPeriods"].as_u64() > Some(0), "{}", stats["data"]["cpu"]);
        }
        let burn = || -> Result<u64> { Ok(container.exec(&[], ["/bin/payload", "burn", "2000"])?.ok()?.stdout.trim().parse()?) };
        let used = burn()?;
        ensure!(used < 1000, "an exec had {used} ms of 2000 with a quota of a fifth");
        t.runtime(["update", "--cpu-quota", "5000", &container.id])?.ok()?;
        let used = burn()?;
        ensure!(used < 500, "{used} ms of 2000 with a quota of a twentieth, after an update");
        Ok(())
    });
}

#[test]
fn a_container_sees_and_has_the_cpus_of_its_cpuset() {
    check(|t| {
        if !cgroups::has("cpuset") {
            return t.skip("no cpuset controller");
        }
        let mut bundle = t.bundle()?;
        bundle.set("/linux/resources/cpu", json!({"cpus": "0", "mems": "0"}));
        assert_eq!(t.report(&mut bundle)?["cpus"], "0");
        Ok(())
    });
}

#[test]
fn one_process_is_enough_to_start() {
    check(|t| {
        if !cgroups::has("pids") {
            return t.skip("no pids controller");
        }
        let mut bundle = t.bundle()?;
        bundle.set("/linux/resources/pids", json!({"limit": 1})).args(["/bin/payload", "say", "alone"]);
        if t.differs("runc", "is a program of many threads when it executes the container's") {
            return Ok(());
        }
        assert_eq!(t.run(&bundle)?.ok()?.stdout, "alone\n");
        Ok(())
    });
}

#[test]
fn what_is_paused_has_no_cpu() {
    check(|t| {
        if !(cgroups::unified() || cgroups::has("freezer") && cgroups::has("cpuacct")) {
            return t.skip("no freezer");
        }
        let mut bundle = t.bundle()?;
        bundle.args(["/bin/payload", "say", "ready", "then", "burn", "100000"]);
        let mut container = Container::start_of(t, &bundle)?;
        assert_eq!(container.line()?, "ready");
        container.command("pause")?.ok()?;
        let before = cpu_time(container.pid)?;
        sleep(Duration::from_millis(500));
        assert_eq!(cpu_time(container.pid)?, before, "it ran while it was paused");
        container.command("resume")?.ok()?;
        let mut grown = 0;
        for _ in 0..100 {
            sleep(Duration::from_millis(50));
            grown = cpu_time(container.pid)? - before;
            if grown > 50_000 {
                break;
            }
        }
        ensure!(grown > 50_000, "{grown} microseconds in 5 seconds after it was resumed");
        Ok(())
    });
}

/// The path and the device number of a readable whole disk of at least 4 MiB.
fn disk() -> Option<(String, u64, u64)> {
    let names = fs::read_dir("/sys/block").ok()?.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut names: Vec<_> = names.filter(|name| name.starts_with("vd") || name.starts_with("sd") || name.starts_with("nvme")).collect();
    names.sort();
    names.into_iter().find_map(|name| {
        let read = |file: &str| fs::read_to_string(format!("/sys/block/{name}/{file}")).ok();
        let sectors: u64 = read("size")?.trim().parse().ok()?;
        let (major, minor) = read("dev")?.trim().split_once(':').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)))?;
        let path = format!("/dev/{name}");
        (sectors * 512 >= 4 << 20 && fs::File::open(&path).is_ok()).then_some((path, major, minor))
    })
}

#[test]
fn a_disk_is_as_slow_as_its_limit() {
    check(|t| {
        if !cgroups::has(if cgroups::unified() { "io" } else { "blkio" }) {
            return t.skip("no io controller");
        }
        let Some((path, major, minor)) = disk() else { return t.skip("no disk to read from") };
        if !cgroups::unified() && !fs::exists("/sys/fs/cgroup/blkio/blkio.throttle.read_bps_device").unwrap_or_default() {
            return t.skip("no throttling of the blkio controller");
        }
        let read = |limit: Option<u64>| -> Result<u64> {
            let mut bundle = t.bundle()?;
            bundle.set("/linux/resources/devices", json!([{"allow": true, "type": "b", "major": major, "minor": minor, "access": "r"}]));
            bundle.set("/linux/devices", json!([{"path": path, "type": "b", "major": major, "minor": minor}]));
            if let Some(rate) = limit {
                let rule = json!([{"major": major, "minor": minor, "rate": rate}]);
                bundle.set("/linux/resources/blockIO", json!({"throttleReadBpsDevice": rule}));
            }
            bundle.args(["/bin/payload", "read-device", &path, "3145728"]);
            Ok(t.run(&bundle)?.ok()?.stdout.trim().parse()?)
        };
        let (free, limited) = (read(None)?, read(Some(1 << 20))?);
        ensure!((2000..20_000).contains(&limited), "3 MiB at 1 MiB a second took {limited} ms");
        ensure!(free < limited / 2, "{free} ms without a limit, {limited} with");
        Ok(())
    });
}
