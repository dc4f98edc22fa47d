//! Cgroups: the container's place, its limits, freezing, updates, and the removal.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use integration::{Bundle, Container, Test, cgroups, check};
use serde_json::{Value, json};

fn sleeper(t: &Test) -> Result<Bundle> {
    let mut bundle = t.bundle()?;
    bundle.args(["/bin/sleep"]).set("/linux/cgroupsPath", json!(cgroups::path_for(&t.new_id())));
    Ok(bundle)
}

/// Removes the parent of a cgroup path of two parts. The runtime makes the parent, but its removal is the caller's task.
fn remove_parent(bundle: &Bundle) {
    let path = bundle.config["linux"]["cgroupsPath"].as_str().unwrap_or_default().trim_start_matches('/').to_owned();
    let Some((parent, _)) = path.split_once('/') else { return };
    let _ = fs::remove_dir(format!("/sys/fs/cgroup/{parent}"));
    for hierarchy in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
        let _ = fs::remove_dir(hierarchy.path().join(parent));
    }
}

#[test]
fn init_is_where_the_config_says() {
    check(|t| {
        let bundle = sleeper(t)?;
        let path = cgroups::shown(bundle.config["linux"]["cgroupsPath"].as_str().context("a path")?);
        let container = Container::create(t, &bundle)?;
        let of_init = fs::read_to_string(format!("/proc/{}/cgroup", container.pid.as_raw_nonzero()))?;
        let found = of_init.lines().filter(|line| line.ends_with(&path)).count();
        let hierarchies = of_init.lines().filter(|line| !line.starts_with("0::")).count();
        ensure!(if cgroups::unified() { found == 1 } else { found >= hierarchies }, "{of_init}");
        drop(container);
        remove_parent(&bundle);
        Ok(())
    });
}

#[test]
fn limits_arrive() {
    check(|t| {
        let mut bundle = sleeper(t)?;
        let mut expected: Vec<(&str, &str, &str)> = Vec::new();
        let v2 = cgroups::unified();
        if cgroups::has("memory") {
            bundle.set("/linux/resources/memory", json!({"limit": 64 << 20, "reservation": 32 << 20}));
            expected.push(("memory", if v2 { "memory.max" } else { "memory.limit_in_bytes" }, "67108864"));
            expected.push(("memory", if v2 { "memory.low" } else { "memory.soft_limit_in_bytes" }, "33554432"));
        }
        if cgroups::has("pids") {
            bundle.set("/linux/resources/pids", json!({"limit": 50}));
            expected.push(("pids", "pids.max", "50"));
        }
        if cgroups::has("cpu") {
            bundle.set("/linux/resources/cpu", json!({"shares": 512, "quota": 50_000, "period": 100_000}));
            if v2 {
                expected.push(("cpu", "cpu.max", "50000 100000"));
            } else {
                expected.extend([
                    ("cpu", "cpu.shares", "512"),
                    ("cpu", "cpu.cfs_quota_us", "50000"),
                    ("cpu", "cpu.cfs_period_us", "100000"),
                ]);
            }
        }
        if cgroups::has("cpuset") {
            bundle.set("/linux/resources/cpu/cpus", json!("0"));
            expected.push(("cpuset", "cpuset.cpus", "0"));
        }
        if expected.is_empty() {
            return t.skip("no controller that limits anything here");
        }
        let container = Container::start_of(t, &bundle)?;
        for (controller, file, value) in expected {
            assert_eq!(cgroups::read(container.pid, controller, file)?, value, "{file}");
        }
        drop(container);
        remove_parent(&bundle);
        Ok(())
    });
}

#[test]
fn too_many_processes_are_refused() {
    check(|t| {
        if !cgroups::has("pids") {
            return t.skip("no pids controller");
        }
        let mut bundle = t.bundle()?;
        bundle.set("/linux/resources/pids", json!({"limit": 4})).args(["/bin/payload", "children", "10"]);
        t.run(&bundle)?.exits(99)?.fails_with("temporarily unavailable")?;
        Ok(())
    });
}

#[test]
fn who_takes_too_much_memory_is_killed() {
    check(|t| {
        if !cgroups::has("memory") {
            return t.skip("no memory controller");
        }
        let mut bundle = t.bundle()?;
        bundle.set("/linux/resources/memory", json!({"limit": 32 << 20, "swap": 32 << 20})).args(["/bin/payload", "alloc", "200"]);
        let output = t.run(&bundle);
        let output = match output {
            Err(error) if error.to_string().contains("memory.memsw") => return t.skip("no accounting of swap here"),
            output => output?,
        };
        if output.stderr.contains("memsw") || output.stderr.contains("swap") {
            bundle.set("/linux/resources/memory", json!({"limit": 32 << 20}));
            t.run(&bundle)?.exits(137)?;
            return Ok(());
        }
        output.exits(137)?;
        Ok(())
    });
}

#[test]
fn pause_and_resume() {
    check(|t| {
        if !cgroups::has("freezer") && !cgroups::unified() {
            return t.skip("no freezer");
        }
        let mut bundle = t.bundle()?;
        bundle.args(["/bin/payload", "trap", "TERM", "5"]);
        let mut container = Container::start_of(t, &bundle)?;
        assert_eq!(container.line()?, "ready");
        container.command("pause")?.ok()?;
        assert_eq!(container.status()?, "paused");
        let crun = t.differs("crun", "pausing twice and resuming a running one are no errors");
        if !crun {
            container.command("pause")?.exits(1)?.fails_with("not running")?;
        }
        // the signal is kept until the container thaws
        container.kill("TERM")?.ok()?;
        assert_eq!(container.status()?, "paused");
        container.command("resume")?.ok()?;
        assert_eq!(container.wait()?, 5);
        if !crun {
            container.command("resume")?.exits(1)?.fails_with("not paused")?;
        }
        Ok(())
    });
}

#[test]
fn rel_frz_1_a_paused_container_dies_by_kill_and_by_delete() {
    check(|t| {
        if !cgroups::has("freezer") && !cgroups::unified() {
            return t.skip("no freezer");
        }
        for by_delete in [false, true] {
            let mut bundle = t.bundle()?;
            bundle.args(["/bin/payload", "children", "3", "then", "sleep"]);
            let mut container = Container::start_of(t, &bundle)?;
            assert_eq!(container.line()?, "ready");
            container.command("pause")?.ok()?;
            if by_delete {
                container.delete_by_force()?.ok()?;
            } else if t.differs("crun", "leaves it frozen on v1") {
                continue;
            } else {
                container.kill("KILL")?.ok()?;
            }
            assert_eq!(container.wait()?, 137);
        }
        Ok(())
    });
}

#[test]
fn update_by_flags_and_by_file() {
    check(|t| {
        if !cgroups::has("pids") || !cgroups::has("memory") {
            return t.skip("no pids or memory controller");
        }
        let v2 = cgroups::unified();
        let mut bundle = t.bundle()?;
        bundle
            .args(["/bin/sleep"])
            .set("/linux/resources/memory", json!({"limit": 64 << 20}))
            .set("/linux/resources/pids", json!({"limit": 50}));
        let container = Container::start_of(t, &bundle)?;
        let memory = || cgroups::read(container.pid, "memory", if v2 { "memory.max" } else { "memory.limit_in_bytes" });
        let pids = || cgroups::read(container.pid, "pids", "pids.max");
        let devices = || cgroups::read(container.pid, "devices", "devices.list").ok();
        let before = devices();
        t.runtime(["update", "--pids-limit", "20", &container.id])?.ok()?;
        assert_eq!((pids()?.as_str(), memory()?.as_str()), ("20", "67108864"));
        if t.differs("crun", "does not know 128m") {
            return Ok(());
        }
        t.runtime(["update", "--memory", "128m", &container.id])?.ok()?;
        assert_eq!((pids()?.as_str(), memory()?.as_str()), ("20", "134217728"));
        let file = t.path().join("resources.json");
        fs::write(&file, json!({"memory": {"limit": 96 << 20}, "pids": {"limit": 30}}).to_string())?;
        t.runtime(["update", "--resources", &file.to_string_lossy(), &container.id])?.ok()?;
        assert_eq!((pids()?.as_str(), memory()?.as_str()), ("30", "100663296"));
        let mut command = t.command(["update", "--resources", "-", &container.id])?;
        fs::write(&file, json!({"pids": {"limit": 31}}).to_string())?;
        command.stdin(fs::File::open(&file)?);
        t.finish(command)?.ok()?;
        assert_eq!((pids()?.as_str(), memory()?.as_str()), ("31", "100663296"));
        assert_eq!(devices(), before, "an update changed the devices");
        assert_eq!(container.status()?, "running");
        Ok(())
    });
}

#[test]
fn sec_dev_1_devices_are_denied_unless_allowed() {
    check(|t| {
        let defaults = ["null", "zero", "full", "random", "urandom"];
        // the device 1:14, which no driver has, fuse 10:229, loop0 7:0; and the accesses that the rules of the config allow
        let tables: [(Value, &[&str]); 4] = [
            (json!([]), &[]),
            (json!([{"allow": false, "access": "rwm"}]), &[]),
            (
                json!([{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rwm"}]),
                &["/dev/fuse"],
            ),
            (json!([{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 1, "access": "rm"}]), &["/dev/none"]),
        ];
        for (rules, allowed) in tables {
            let mut bundle = t.bundle()?;
            bundle.set("/linux/resources/devices", rules.clone());
            // in /dev, which is writable and mounted without nodev; CAP_MKNOD is in the default capabilities
            bundle.args([
                "/bin/payload",
                "mknod",
                "c",
                "1",
                "14",
                "/dev/none",
                "then",
                "mknod",
                "c",
                "10",
                "229",
                "/dev/fuse",
                "then",
                "mknod",
                "b",
                "7",
                "0",
                "/dev/loop",
                "then",
                "try-open",
                "/dev/null",
                "/dev/zero",
                "/dev/full",
                "/dev/random",
                "/dev/urandom",
            ]);
            let seen = t.run(&bundle)?.ok()?.stdout;
            for name in defaults {
                ensure!(seen.contains(&format!("/dev/{name} ok")), "{name} with {rules}: {seen}");
            }
            let open = rules.as_array().is_some_and(Vec::is_empty) && !seen.contains("/dev/loop EPERM");
            ensure!(
                !open || t.differs("runc", "an empty list denies nothing") || t.differs("crun", "an empty list denies nothing"),
                "{seen}"
            );
            for name in ["/dev/none", "/dev/fuse", "/dev/loop"] {
                let denied = seen.contains(&format!("{name} EPERM"));
                ensure!(open || denied != allowed.contains(&name), "{name} with {rules}: {seen}");
            }
        }
        Ok(())
    });
}

#[test]
fn a_cgroup_that_is_not_empty_is_not_taken_and_not_removed() {
    check(|t| {
        if t.differs("crun", "takes any cgroup and kills who is in it") {
            return Ok(());
        }
        let sandbox = sleeper(t)?;
        let first = Container::start_of(t, &sandbox)?;
        let mut bundle = t.bundle()?;
        bundle.set("/linux/cgroupsPath", sandbox.config["linux"]["cgroupsPath"].clone());
        t.run(&bundle)?.fails_with("cgroup")?;
        assert_eq!(first.status()?, "running");
        drop(first);
        remove_parent(&sandbox);
        Ok(())
    });
}

#[test]
fn groups_made_inside_are_removed_too() {
    check(|t| {
        let mut bundle = sleeper(t)?;
        bundle.namespace("cgroup", None).args(["/bin/payload", "say", "ready", "then", "sleep"]);
        let mut container = Container::start_of(t, &bundle)?;
        assert_eq!(container.line()?, "ready");
        let controller = if cgroups::has("pids") { "pids" } else { "memory" };
        let own = cgroups::of(container.pid, controller)?;
        fs::create_dir_all(own.join("a/b/c"))?;
        fs::create_dir_all(own.join("d"))?;
        container.delete_by_force()?.ok()?;
        ensure!(!own.exists(), "{} is left", own.display());
        container.wait()?;
        remove_parent(&bundle);
        Ok(())
    });
}

#[test]
fn the_cgroup_mount_shows_the_containers_own() {
    check(|t| {
        let mut bundle = t.bundle()?;
        bundle.mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]);
        bundle.args([
            "/bin/payload",
            "ls",
            "/sys/fs/cgroup",
            "then",
            "try-mkdir",
            "/sys/fs/cgroup/pids/x",
            "then",
            "try-mkdir",
            "/sys/fs/cgroup/x",
        ]);
        let seen = t.run(&bundle)?.ok()?.stdout;
        let first = seen.lines().next().unwrap_or_default();
        ensure!(first.contains(if cgroups::unified() { "cgroup.procs" } else { "memory" }), "{seen}");
        ensure!(!seen.contains("/pids/x ok"), "the read-only mount can be written: {seen}");
        let known = t.differs("runc", "leaves the tmpfs of v1 writable") || t.differs("crun", "leaves the tmpfs of v1 writable");
        ensure!(known || !seen.contains(" ok"), "the read-only mount can be written: {seen}");
        Ok(())
    });
}

/// So /proc/self/cgroup names the container's cgroup in that mount, and init may move itself.
#[test]
fn without_a_cgroup_namespace_the_mount_shows_the_whole_tree_of_v2() {
    check(|t| {
        if !cgroups::unified() {
            return t.skip("on v1 the container's own are shown");
        }
        let mut bundle = t.bundle()?;
        bundle.mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "rw"]).args(["/bin/sleep"]);
        let container = Container::start_of(t, &bundle)?;
        let own = cgroups::of(container.pid, "")?;
        let seen = format!("/proc/{}/root{}", container.pid.as_raw_nonzero(), own.display());
        assert_eq!(fs::metadata(&seen).with_context(|| seen.clone())?.ino(), fs::metadata(&own)?.ino());
        bundle.namespace("cgroup", None);
        let container = Container::start_of(t, &bundle)?;
        let own = cgroups::of(container.pid, "")?;
        let seen = format!("/proc/{}/root/sys/fs/cgroup", container.pid.as_raw_nonzero());
        assert_eq!(fs::metadata(&seen)?.ino(), fs::metadata(&own)?.ino());
        ensure!(!Path::new(&format!("{seen}/{}", own.file_name().unwrap_or_default().display())).exists(), "the tree is seen");
        Ok(())
    });
}

#[test]
fn stats_and_processes() {
    check(|t| {
        let mut bundle = t.bundle()?;
        bundle.args(["/bin/payload", "children", "3", "then", "sleep"]);
        let mut container = Container::start_of(t, &bundle)?;
        assert_eq!(container.line()?, "ready");
        let pids = t.runtime(["ps", "--format", "json", &container.id])?.ok()?.json()?;
        let pids: Vec<_> = pids.as_array().into_iter().flatten().filter_map(Value::as_i64).collect();
        ensure!(pids.len() == 4 && pids.contains(&i64::from(container.pid.as_raw_nonzero().get())), "{pids:?}");
        let table = container.command("ps")?.ok()?.stdout;
        assert_eq!(table.lines().count(), 5, "{table}");
        if t.differs("crun", "has no events command") {
            return Ok(());
        }
        let stats = t.runtime(["events", "--stats", &container.id])?.ok()?.json()?;
        assert_eq!(stats["type"], "stats");
        assert_eq!(stats["id"], container.id.as_str());
        if cgroups::has("pids") {
            assert_eq!(stats["data"]["pids"]["current"], 4);
        }
        if cgroups::has("memory") {
            ensure!(stats["data"]["memory"]["usage"]["usage"].as_u64().is_some_and(|usage| usage > 0), "{stats}");
        }
        Ok(())
    });
}
