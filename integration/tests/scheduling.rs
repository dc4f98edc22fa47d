//! Scheduler, I/O priority, CPU affinity and memory policy, for init and for exec.

use anyhow::{Result, ensure};
use integration::{Container, Test, cgroups, check, host};
use serde_json::{Value, json};

/// Executes the payload's report by a process document that also has the members of `more`.
fn exec(t: &Test, container: &Container<'_>, more: &Value) -> Result<Value> {
    let mut process = json!({
        "user": {"uid": 0, "gid": 0}, "args": ["/bin/payload", "report"], "env": ["PATH=/bin"], "cwd": "/", "noNewPrivileges": true,
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        process[key] = value.clone();
    }
    let file = t.path().join("process.json");
    std::fs::write(&file, process.to_string())?;
    container.exec(&["--process", &file.to_string_lossy()], [""; 0])?.ok()?.json()
}

/// Whether the runtime is too old for the feature.
fn lacks(t: &Test, what: &str, runc: &str, crun: &str) -> bool {
    [runc, crun].iter().any(|older| t.differs(older, &format!("has no {what}")))
}

fn exec_takes_its_own_alone(t: &Test) -> bool {
    t.differs("crun", "takes nothing of the config for an exec")
}

#[test]
fn scheduler_of_init_and_of_exec() {
    check(|t| {
        if lacks(t, "scheduler", "runc<1.2", "crun<1.9") {
            return Ok(());
        }
        let mut bundle = t.bundle()?;
        bundle.set("/process/scheduler", json!({"policy": "SCHED_BATCH", "priority": 0, "nice": 19}));
        let batch = json!({"policy": 3, "nice": 19, "priority": 0});
        assert_eq!(t.report(&mut bundle)?["scheduler"], batch);
        bundle.args(["/bin/sleep"]);
        let container = Container::start_of(t, &bundle)?;
        if !exec_takes_its_own_alone(t) {
            assert_eq!(container.exec_report(&[])?["scheduler"], batch);
        }
        let idle = exec(t, &container, &json!({"scheduler": {"policy": "SCHED_IDLE"}}))?;
        assert_eq!(idle["scheduler"]["policy"], 5);
        let deadline = json!({
            "policy": "SCHED_DEADLINE", "flags": ["SCHED_FLAG_RESET_ON_FORK"], "runtime": 42_000, "deadline": 100_000, "period": 1_000_000,
        });
        assert_eq!(exec(t, &container, &json!({"scheduler": deadline}))?["scheduler"]["policy"], 6);
        Ok(())
    });
}

#[test]
fn io_priority_of_init_and_of_exec() {
    check(|t| {
        if lacks(t, "ioPriority", "runc<1.2", "crun<1.14") {
            return Ok(());
        }
        let mut bundle = t.bundle()?;
        bundle.set("/process/ioPriority", json!({"class": "IOPRIO_CLASS_BE", "priority": 6}));
        assert_eq!(t.report(&mut bundle)?["io_priority"], json!([2, 6]));
        bundle.args(["/bin/sleep"]);
        let container = Container::start_of(t, &bundle)?;
        if !exec_takes_its_own_alone(t) {
            assert_eq!(container.exec_report(&[])?["io_priority"], json!([2, 6]));
        }
        let idle = exec(t, &container, &json!({"ioPriority": {"class": "IOPRIO_CLASS_IDLE"}}))?;
        assert_eq!(idle["io_priority"], json!([3, 0]));
        Ok(())
    });
}

#[test]
fn memory_policy_of_init_and_of_exec() {
    check(|t| {
        if lacks(t, "memoryPolicy", "runc<1.4", "crun<1.25") {
            return Ok(());
        }
        let mut bundle = t.bundle()?;
        if t.report(&mut bundle)?["memory_policy"].is_null() {
            return t.skip("a kernel without NUMA");
        }
        for (policy, seen) in [
            (json!({"mode": "MPOL_INTERLEAVE", "nodes": "0"}), "interleave:0"),
            (json!({"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]}), "bind=static:0"),
            (json!({"mode": "MPOL_DEFAULT"}), "default"),
        ] {
            bundle.set("/linux/memoryPolicy", policy.clone());
            assert_eq!(t.report(&mut bundle)?["memory_policy"], seen, "{policy}");
        }
        bundle.set("/linux/memoryPolicy", json!({"mode": "MPOL_PREFERRED", "nodes": "0", "flags": ["MPOL_F_RELATIVE_NODES"]}));
        bundle.args(["/bin/sleep"]);
        let container = Container::start_of(t, &bundle)?;
        if !exec_takes_its_own_alone(t) {
            assert_eq!(container.exec_report(&[])?["memory_policy"], "prefer=relative:0");
        }
        Ok(())
    });
}

#[test]
fn cpus_of_an_exec() {
    check(|t| {
        if lacks(t, "execCPUAffinity", "runc<1.3", "crun<1.20") {
            return Ok(());
        }
        let mut bundle = t.bundle()?;
        let all = t.report(&mut bundle)?["cpus"].clone();
        if all.as_str().is_none_or(|cpus| !cpus.starts_with("0-")) {
            return t.skip("needs the CPUs 0 and 1");
        }
        // execCPUAffinity of the config applies only to exec
        bundle.set("/process/execCPUAffinity", json!({"initial": "0", "final": "1"}));
        assert_eq!(t.report(&mut bundle)?["cpus"], all);
        bundle.args(["/bin/sleep"]);
        let container = Container::start_of(t, &bundle)?;
        let default = if exec_takes_its_own_alone(t) { all.clone() } else { json!("1") };
        assert_eq!(container.exec_report(&[])?["cpus"], default);
        for (affinity, seen) in [
            (json!({"initial": "1", "final": "0"}), json!("0")),
            (json!({"final": "1"}), json!("1")),
            // without `final` the affinity stays, but an older kernel resets it to the cpuset's CPUs
            (json!({"initial": "0"}), if host::kernel() < (6, 2) && cgroups::has("cpuset") { all.clone() } else { json!("0") }),
            (json!({"initial": "", "final": ""}), default.clone()),
        ] {
            let report = exec(t, &container, &json!({"execCPUAffinity": affinity}))?;
            assert_eq!(report["cpus"], seen, "{affinity}");
            let cgroup = report["cgroup"].to_string();
            ensure!(cgroup.contains(&container.id), "{affinity}: not in the container's cgroup: {cgroup}");
        }
        Ok(())
    });
}
