//! The bundles that Docker, podman and Kubernetes write: what a program sees in each is the same under masu and under runc.

use std::collections::BTreeSet;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use integration::runtime::{finish, redirect};
use integration::{Bundle, Runtime, Surroundings, Test, check};
use serde_json::{Map, Value, json};

const BUNDLES: [&str; 7] = ["docker-default", "k8s", "k8s-sandbox", "minimal", "podman-rootful", "podman-rootless", "podman-userns"];

/// Where we differ from runc on purpose: part of the line, and why.
const KNOWN: [(&str, &str); 10] = [
    (" mounts /proc/acpi ", "the masks of folders share one tmpfs of one inode, which is also nosuid, nodev and noexec"),
    (" mounts /proc/scsi ", "the masks of folders share one tmpfs of one inode, which is also nosuid, nodev and noexec"),
    (" mounts /sys/firmware ", "the masks of folders share one tmpfs of one inode, which is also nosuid, nodev and noexec"),
    (" mounts /sys super", "read-only is a flag of the mount, and not of the file system too"),
    (" mounts /sys/fs/cgroup options", "of a read-only cgroup v1 mount the folder of the hierarchies is read-only too"),
    (" mounts /sys/fs/cgroup root", "without a cgroup namespace of v2 the container's own cgroup is bound, not the host's whole tree"),
    (" mounts /sys/fs/cgroup source: \"none\"", "the source of a bind is that of the host's mount"),
    ("k8s-sandbox env", "an environment that is absent gets HOME like one that is empty"),
    ("podman-userns dev mqueue", "the root of mqueue belongs to the container's group, too"),
    (" signals ignored", "signals that the C library keeps for itself are reset too"),
];

#[test]
fn what_callers_write_looks_the_same_as_under_a_peer() {
    check(|t| {
        if t.runtime.kind != "masu" {
            return t.skip("compares masu with runc");
        }
        let Some(peer) = peer()? else { return t.skip("runc is not installed to compare with") };
        let surroundings = Surroundings::new(t.path(), &t.payload)?;
        let mut differences = Vec::new();
        for name in BUNDLES {
            let mut bundle = surroundings.bundle(name, &t.path().join(name))?;
            bundle.args(["/bin/payload", "report"]).write()?;
            let ours = seen(t, &t.runtime, &bundle).with_context(|| name.to_owned())?;
            let theirs = seen(t, &peer, &bundle).with_context(|| name.to_owned())?;
            compare(name, &ours, &theirs, &mut |line| match KNOWN.iter().find(|(end, _)| line.contains(end)) {
                Some((_, reason)) => {
                    t.differs(t.runtime.kind, reason);
                }
                None => differences.push(line),
            });
        }
        ensure!(differences.is_empty(), "{} difference(s):\n{}", differences.len(), differences.join("\n"));
        Ok(())
    });
}

fn peer() -> Result<Option<Runtime>> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join("runc")).find(|path| path.is_file());
    found.map(Runtime::at).transpose()
}

/// What the payload reports of `bundle` under `runtime`, without what differs from run to run.
fn seen(t: &Test, runtime: &Runtime, bundle: &Bundle) -> Result<Value> {
    let id = t.new_id();
    let state = t.path().join(format!("state-{}", runtime.kind));
    std::fs::create_dir_all(&state)?;
    let mut command = Command::new(&runtime.path);
    command.arg("--root").arg(&state).args(["run", "--bundle"]).arg(bundle.path()).arg(&id);
    let stem = t.path().join(format!("compare-{id}"));
    redirect(&mut command, &stem)?;
    let report = finish(&mut command, &stem)?.ok()?.json()?;
    let _ = std::fs::remove_dir_all(state.join(".cache"));
    let report: Value = serde_json::from_str(&report.to_string().replace(&id, "ID"))?;
    let Value::Object(mut report) = report else { anyhow::bail!("{report} is no object") };
    plain(&mut report);
    Ok(Value::Object(report))
}

/// Adds a line for each leaf that is not the same in both.
fn compare(at: &str, ours: &Value, theirs: &Value, tell: &mut impl FnMut(String)) {
    match (ours, theirs) {
        (Value::Object(ours), Value::Object(theirs)) => {
            let names: BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
            for name in names {
                let value = |map: &Map<String, Value>| map.get(name).cloned().unwrap_or_default();
                compare(&format!("{at} {name}"), &value(ours), &value(theirs), tell);
            }
        }
        _ if ours != theirs => tell(format!("{at}: {ours}, under the peer {theirs}")),
        _ => {}
    }
}

fn plain(report: &mut Map<String, Value>) {
    // the number of a namespace says only whether it is the host's
    if let Some(Value::Object(namespaces)) = report.get_mut("namespaces") {
        for (name, link) in namespaces.iter_mut() {
            let host = std::fs::read_link(format!("/proc/self/ns/{name}")).ok();
            *link = json!(if *link == json!(host) { "the host's" } else { "another" });
        }
    }
    // in the foreground runc stands between the program and the caller's standard streams, others do not
    if let Some(Value::Object(fds)) = report.get_mut("fds") {
        fds.iter_mut().filter(|(fd, _)| ["0", "1", "2"].contains(&fd.as_str())).for_each(|(_, target)| *target = json!("the caller's"));
    }
    report.remove("terminal");
    // one or none
    if let Some(keyring) = report.get_mut("session_keyring") {
        *keyring = json!(keyring.is_number());
    }
    if let Some(Value::Array(processes)) = report.get_mut("processes") {
        *processes = vec![json!(processes.len())];
    }
    if let Some(Value::Array(env)) = report.get_mut("env") {
        env.sort_by_key(ToString::to_string);
    }
    // by where they are
    if let Some(Value::Array(mounts)) = report.get_mut("mounts") {
        let by_point = mounts.drain(..).map(|mount| (mount["point"].as_str().unwrap_or_default().to_owned(), mount));
        let by_point: Map<String, Value> = by_point.collect();
        report.insert("mounts".to_owned(), Value::Object(by_point));
    }
}
