//! Namespaces: new ones, the caller's, and joined ones.

use std::fs;
use std::path::Path;

use anyhow::{Context, ensure};
use integration::namespaces::own;
use integration::runtime::{DEADLINE, ended_within};
use integration::{Container, check};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use serde_json::{Value, json};

#[test]
fn those_in_the_config_are_new_and_others_the_callers() {
    check(|t| {
        let mut bundle = t.bundle()?;
        bundle.namespace("cgroup", None).drop_namespace("ipc").unmount("/dev/mqueue");
        let report = t.report(&mut bundle)?;
        for kind in ["pid", "net", "uts", "mnt", "cgroup"] {
            ensure!(report["namespaces"][kind].is_string() && report["namespaces"][kind] != own(kind)?, "{kind} is not new");
        }
        for kind in ["ipc", "user"] {
            assert_eq!(report["namespaces"][kind], own(kind)?, "{kind}");
        }
        Ok(())
    });
}

#[test]
fn a_new_network_namespace_has_its_loopback_up() {
    check(|t| {
        let mut bundle = t.bundle()?;
        bundle.args(["/bin/payload", "report", "then", "read", "/sys/class/net/lo/flags"]);
        let output = t.run(&bundle)?.ok()?.stdout;
        let (report, flags) = output.trim_end().rsplit_once('\n').context("two lines")?;
        let report: Value = serde_json::from_str(report)?;
        assert_eq!(report["links"], json!(["lo"]));
        let flags = u32::from_str_radix(flags.trim_start_matches("0x"), 16)?;
        assert_eq!(flags & 1, 1, "IFF_UP");
        Ok(())
    });
}

#[test]
fn the_cgroup_namespace_is_rooted_at_the_container() {
    check(|t| {
        let mut bundle = t.bundle()?;
        bundle.namespace("cgroup", None);
        let report = t.report(&mut bundle)?;
        let lines: Vec<_> = report["cgroup"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        ensure!(!lines.is_empty(), "no cgroups");
        for line in lines {
            let (_, path) = line.rsplit_once(':').context("a path")?;
            // hierarchies that the runtime does not manage, such as the v2 tree of a hybrid machine, keep their path
            let (controllers, _) = line.split_once(':').map(|(_, rest)| rest.rsplit_once(':').unwrap_or_default()).unwrap_or_default();
            ensure!(path == "/" || controllers.is_empty(), "{line}");
        }
        Ok(())
    });
}

#[test]
fn joined_by_path() {
    check(|t| {
        let mut sandbox = t.bundle()?;
        sandbox.args(["/bin/sleep"]).set("/hostname", json!("sandbox"));
        let sandbox = Container::start_of(t, &sandbox)?;
        let pid = sandbox.pid.as_raw_nonzero();
        let kinds = [("network", "net"), ("ipc", "ipc"), ("uts", "uts"), ("pid", "pid")];
        for count in 1..=kinds.len() {
            let mut bundle = t.bundle()?;
            for (kind, file) in kinds.iter().take(count) {
                bundle.namespace(kind, Some(&format!("/proc/{pid}/ns/{file}")));
            }
            if count >= 3 {
                bundle.unset("/hostname");
            }
            let report = t.report(&mut bundle)?;
            for (_, file) in kinds.iter().take(count) {
                let theirs = fs::read_link(format!("/proc/{pid}/ns/{file}"))?;
                assert_eq!(report["namespaces"][*file], theirs.to_string_lossy().as_ref(), "{file}");
            }
            for (_, file) in kinds.iter().skip(count) {
                let theirs = fs::read_link(format!("/proc/{pid}/ns/{file}"))?;
                assert_ne!(report["namespaces"][*file], theirs.to_string_lossy().as_ref(), "{file}");
            }
            if count >= 3 {
                assert_eq!(report["hostname"], "sandbox");
            }
            if count == 4 {
                ensure!(report["pid"] != 1 && report["processes"].as_array().is_some_and(|all| all.len() == 2), "{report}");
            }
        }
        Ok(())
    });
}

#[test]
fn a_joined_pid_namespace_survives_the_kill_of_who_joined_it() {
    check(|t| {
        let mut sandbox = t.bundle()?;
        sandbox.args(["/bin/sleep"]);
        let sandbox = Container::start_of(t, &sandbox)?;
        let mut bundle = t.bundle()?;
        bundle.namespace("pid", Some(&format!("/proc/{}/ns/pid", sandbox.pid.as_raw_nonzero())));
        bundle.args(["/bin/payload", "children", "2", "then", "sleep"]);
        let mut container = Container::start_of(t, &bundle)?;
        assert_eq!(container.line()?, "ready");
        container.kill("KILL")?.ok()?;
        assert_eq!(container.wait()?, 137);
        // the children too, although their pid namespace belongs to another container
        container.delete_by_force()?.ok()?;
        assert_eq!(sandbox.status()?, "running");
        Ok(())
    });
}

#[test]
fn what_init_left_in_the_callers_pid_namespace_is_killed() {
    check(|t| {
        let mut bundle = t.bundle()?;
        bundle.drop_namespace("pid").args(["/bin/payload", "children", "2", "then", "sleep"]);
        let mut container = Container::start_of(t, &bundle)?;
        assert_eq!(container.line()?, "ready");
        let listed = t.runtime(["ps", "--format", "json", &container.id])?.ok()?.json()?;
        let pids = listed.as_array().into_iter().flatten().filter_map(|pid| Pid::from_raw(i32::try_from(pid.as_i64()?).ok()?));
        let children: Vec<Pid> = pids.filter(|pid| *pid != container.pid).collect();
        assert_eq!(children.len(), 2);
        kill_process(container.pid, Signal::KILL)?;
        container.wait()?;
        assert_eq!(container.status()?, "stopped");
        if t.differs("runc<1.2", "does not kill what a gone init left behind")
            || t.differs("crun", "does not kill what a gone init left behind")
        {
            return Ok(());
        }
        container.kill("KILL")?.ok()?;
        for child in children {
            ensure!(ended_within(child, DEADLINE)?, "{child:?} is still there");
            waitpid(Some(child), WaitOptions::empty())?;
        }
        if !t.differs("runc", "does not say that nothing was left to kill") {
            container.kill("KILL")?.fails_with("not running")?;
        }
        Ok(())
    });
}

#[test]
fn the_callers_pid_namespace() {
    check(|t| {
        let mut bundle = t.bundle()?;
        bundle.drop_namespace("pid");
        let report = t.report(&mut bundle)?;
        assert_eq!(report["namespaces"]["pid"], own("pid")?);
        assert_ne!(report["pid"], 1);
        bundle.args(["/bin/payload", "children", "3", "then", "sleep"]);
        let mut container = Container::start_of(t, &bundle)?;
        assert_eq!(container.line()?, "ready");
        container.delete_by_force()?.ok()?;
        assert_eq!(container.wait()?, 137);
        Ok(())
    });
}

#[test]
fn a_time_namespace_with_offsets() {
    check(|t| {
        if !Path::new("/proc/self/ns/time").exists() {
            return t.skip("this kernel has no time namespaces");
        }
        let mut bundle = t.bundle()?;
        bundle.namespace("time", None).set("/linux/timeOffsets", json!({"boottime": {"secs": 1_000_000, "nanosecs": 0}}));
        bundle.args(["/bin/payload", "read", "/proc/uptime"]);
        let output = t.run(&bundle)?;
        let refused = output.stderr.contains("not supported") || output.stderr.contains("namespace \"time\" does not exist");
        if !output.status.success() && refused {
            return t.skip("the runtime says that it does not support time namespaces");
        }
        let output = output.ok()?.stdout;
        let uptime: f64 = output.split(' ').next().unwrap_or_default().parse()?;
        ensure!(uptime > 1_000_000.0, "{output}");
        Ok(())
    });
}

#[test]
fn a_user_namespace_with_mappings() {
    check(|t| {
        let mut bundle = t.bundle()?;
        let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}]);
        bundle.namespace("user", None).set("/linux/uidMappings", map.clone()).set("/linux/gidMappings", map);
        for path in ["", "bin", "dev", "etc", "proc", "sys", "tmp"] {
            std::os::unix::fs::chown(bundle.rootfs(path), Some(100_000), Some(100_000))?;
        }
        bundle.args(["/bin/payload", "report"]);
        let output = t.run(&bundle)?;
        if !output.status.success() && output.stderr.contains("not supported") {
            return t.skip("the runtime says that it does not support user namespaces");
        }
        let report = output.ok()?.json()?;
        assert_eq!(report["uid_map"], json!(["0", "100000", "65536"]));
        assert_eq!(report["uids"], "0 0 0 0");
        assert_ne!(report["namespaces"]["user"], own("user")?);
        Ok(())
    });
}
