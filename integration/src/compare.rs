//! Compares two runtimes with the same bundle: the views of the callers and of the program inside.
//!
//! Used by `tests/bundles.rs` (bundles of real callers) and `tests/alike.rs` (generated bundles).

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, ExitStatus};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, WaitOptions, waitpid};
use serde_json::{Map, Value, json};

use crate::bundle::Bundle;
use crate::runtime::{DEADLINE, Output, Runtime, ended_within, finish, redirect};
use crate::test::Test;
use crate::{cgroups, host, namespaces};

/// Cgroup files that depend on config.json, by controller. Files that this machine lacks are skipped.
const CGROUP_FILES: [(&str, &str); 22] = [
    ("memory", "memory.limit_in_bytes"),
    ("memory", "memory.memsw.limit_in_bytes"),
    ("memory", "memory.soft_limit_in_bytes"),
    ("memory", "memory.swappiness"),
    ("memory", "memory.use_hierarchy"),
    ("memory", "memory.max"),
    ("memory", "memory.low"),
    ("memory", "memory.swap.max"),
    ("cpu", "cpu.shares"),
    ("cpu", "cpu.cfs_quota_us"),
    ("cpu", "cpu.cfs_period_us"),
    ("cpu", "cpu.weight"),
    ("cpu", "cpu.max"),
    ("cpuset", "cpuset.cpus"),
    ("cpuset", "cpuset.mems"),
    ("pids", "pids.max"),
    ("blkio", "blkio.weight"),
    ("hugetlb", "hugetlb.2MB.limit_in_bytes"),
    ("hugetlb", "hugetlb.2MB.max"),
    ("hugetlb", "hugetlb.2MB.rsvd.max"),
    ("freezer", "freezer.state"),
    ("devices", "devices.list"),
];

/// The peers to compare with: the paths in `$PEERS` (separated by colons), else runc and crun in `$PATH`.
///
/// # Errors
/// One of them does not run.
pub fn peers() -> Result<Vec<Runtime>> {
    if let Some(named) = std::env::var_os("PEERS").filter(|named| !named.is_empty()) {
        return std::env::split_paths(&named).map(Runtime::at).collect();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let find = |name: &str| std::env::split_paths(&path).map(|folder| folder.join(name)).find(|path| path.is_file());
    ["runc", "crun"].into_iter().filter_map(find).map(Runtime::at).collect()
}

/// The observations of one container.
#[derive(Debug)]
pub struct Life {
    /// The values to compare, without those that differ from run to run.
    pub seen: Value,
    /// The runtime's standard error, for people.
    pub said: String,
    /// Everything that the runtime left on the host.
    pub left: Vec<String>,
}

/// Runs `bundle` under `runtime` from `create` to `delete`. The program's first line is the payload's `report`; the further
/// output is compared unchanged.
///
/// # Errors
/// A program hangs, or a step of the test itself fails. A refusal by the runtime is no error: it is one of the observations.
pub fn life(t: &Test, runtime: &Runtime, bundle: &Bundle) -> Result<Life> {
    let id = t.new_id();
    let state = t.path().join(format!("state-{id}"));
    fs::create_dir_all(&state)?;
    bundle.write()?;
    let mut one = One { t, runtime, bundle, id: id.clone(), state: state.clone(), seen: Map::new(), said: String::new() };
    let pid = one.create()?;
    if let Some(pid) = pid {
        one.look(pid)?;
        one.start(pid)?;
    }
    one.delete(pid.is_none())?;
    let _ = fs::remove_dir_all(state.join(".cache"));
    let mut left: Vec<String> = host::cgroups_with(&id);
    left.extend(host::mounts_with(&bundle.path().to_string_lossy()));
    left.extend(fs::read_dir(&state)?.flatten().map(|entry| entry.path().to_string_lossy().into_owned()));
    left.extend(host::processes_with(&id));
    if !left.is_empty() {
        // reported once; the next run starts with a clean host
        host::remove_empty_cgroups(&id);
    }
    let _ = fs::remove_dir_all(&state);
    let text = Value::Object(one.seen).to_string();
    // the bundle's path, and its path from the root of its file system, which mountinfo shows as the root of a mount
    let folder = bundle.path().file_name().unwrap_or_default().to_string_lossy();
    let inside = format!("/{}/{folder}", t.token());
    let text = text.replace(&*bundle.path().to_string_lossy(), "BUNDLE").replace(&inside, "BUNDLE").replace(&id, "ID");
    Ok(Life { seen: serde_json::from_str(&text)?, said: one.said, left })
}

struct One<'a> {
    t: &'a Test,
    runtime: &'a Runtime,
    bundle: &'a Bundle,
    id: String,
    state: PathBuf,
    seen: Map<String, Value>,
    said: String,
}

impl One<'_> {
    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.runtime.path);
        command.arg("--root").arg(&self.state).args(words);
        command
    }

    fn file(&self, name: &str) -> PathBuf {
        self.t.path().join(format!("{}-{name}", self.id))
    }

    fn run(&mut self, verb: &str, command: &mut Command) -> Result<Output> {
        let stem = self.file(verb);
        redirect(command, &stem)?;
        let output = finish(command, &stem)?;
        self.said += &output.stderr;
        self.seen.insert(verb.to_owned(), json!(if output.status.success() { "done" } else { "refused" }));
        Ok(output)
    }

    /// Creates the container. Returns init's pid, or `None` if the runtime refused.
    fn create(&mut self) -> Result<Option<Pid>> {
        let pid_file = self.file("pid");
        let mut command = self.command(&["create", "--bundle"]);
        command.arg(self.bundle.path()).arg("--pid-file").arg(&pid_file).arg(&self.id);
        if !self.run("create", &mut command)?.status.success() {
            return Ok(None);
        }
        let pid = fs::read_to_string(&pid_file).with_context(|| format!("read {}", pid_file.display()))?;
        fs::remove_file(&pid_file)?;
        Ok(Pid::from_raw(pid.parse()?))
    }

    /// Notes the caller's view of the created container.
    fn look(&mut self, pid: Pid) -> Result<()> {
        let mut command = self.command(&["state", &self.id]);
        let state = self.run("state", &mut command)?.ok()?.json()?;
        let annotations = state["annotations"].as_object().filter(|map| !map.is_empty());
        self.seen.insert(
            "the state".to_owned(),
            json!({
                "id": state["id"], "status": state["status"], "bundle": state["bundle"], "annotations": annotations,
                "pid": state["pid"] == json!(pid.as_raw_nonzero().get())
            }),
        );
        let mut files = Map::new();
        for (controller, file) in CGROUP_FILES {
            let Ok(text) = cgroups::read(pid, controller, file) else { continue };
            let mut lines: Vec<&str> = text.lines().collect();
            lines.sort_unstable();
            files.insert(file.to_owned(), json!(lines));
        }
        self.seen.insert("cgroup".to_owned(), Value::Object(files));
        let path = cgroups::of(pid, "pids").map(|path| path.to_string_lossy().into_owned()).unwrap_or_default();
        self.seen.insert("cgroup path".to_owned(), json!(path));
        Ok(())
    }

    fn start(&mut self, pid: Pid) -> Result<()> {
        let mut command = self.command(&["start", &self.id]);
        self.run("start", &mut command)?;
        ensure!(ended_within(pid, DEADLINE)?, "the program under {} has not ended: a hang", self.runtime.path.display());
        let status = waitpid(Some(pid), WaitOptions::empty())?.context("the status of an ended process")?.1;
        let status = ExitStatus::from_raw(status.as_raw());
        self.seen.insert("exit".to_owned(), json!(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default())));
        let streams = self.file("create");
        let read = |end: &str| fs::read(streams.with_extension(end)).unwrap_or_default();
        let out = String::from_utf8_lossy(&read("out")).into_owned();
        let (report, rest) = out.split_once('\n').unwrap_or((&out, ""));
        if let Ok(Value::Object(mut report)) = serde_json::from_str(report) {
            plain(&mut report);
            self.seen.insert("report".to_owned(), Value::Object(report));
        }
        let lines: Map<String, Value> = rest.lines().enumerate().map(|(n, line)| (format!("{n:02}"), json!(line))).collect();
        self.seen.insert("lines".to_owned(), Value::Object(lines));
        self.said += &String::from_utf8_lossy(&read("err"));
        Ok(())
    }

    fn delete(&mut self, refused: bool) -> Result<()> {
        if !refused {
            let mut command = self.command(&["delete", &self.id]);
            self.run("delete", &mut command)?;
        }
        // in any case, so that no remainder disturbs the next run
        let mut command = self.command(&["delete", "--force", &self.id]);
        let stem = self.file("end");
        redirect(&mut command, &stem)?;
        finish(&mut command, &stem)?;
        // orphans of a refused create are children of this subreaper
        while let Ok(Some(_)) = waitpid(None, WaitOptions::NOHANG) {}
        for verb in ["create", "state", "start", "delete", "end"] {
            for end in ["out", "err"] {
                let _ = fs::remove_file(self.file(verb).with_extension(end));
            }
        }
        Ok(())
    }
}

/// Reports a line for each leaf that differs.
pub fn compare(at: &str, ours: &Value, theirs: &Value, tell: &mut impl FnMut(String)) {
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

/// The payload's report of `bundle` under `runtime`, run in the foreground, without the values that differ from run to run.
///
/// # Errors
/// The runtime fails.
pub fn report(t: &Test, runtime: &Runtime, bundle: &Bundle) -> Result<Value> {
    let id = t.new_id();
    let state = t.path().join(format!("state-{}", runtime.kind));
    fs::create_dir_all(&state)?;
    let mut command = Command::new(&runtime.path);
    command.arg("--root").arg(&state).args(["run", "--bundle"]).arg(bundle.path()).arg(&id);
    let stem = t.path().join(format!("compare-{id}"));
    redirect(&mut command, &stem)?;
    let report = finish(&mut command, &stem)?.ok()?.json()?;
    let _ = fs::remove_dir_all(state.join(".cache"));
    let report: Value = serde_json::from_str(&report.to_string().replace(&id, "ID"))?;
    let Value::Object(mut report) = report else { bail!("{report} is no object") };
    plain(&mut report);
    Ok(Value::Object(report))
}

/// Removes the values of a report that differ from run to run.
fn plain(report: &mut Map<String, Value>) {
    // of a namespace's number only this is comparable: whether it is the host's number
    let mut own_pids = true;
    if let Some(Value::Object(namespaces)) = report.get_mut("namespaces") {
        for (name, link) in namespaces.iter_mut() {
            let host = namespaces::own(name).ok();
            let hosts = *link == json!(host);
            own_pids &= name != "pid" || !hosts;
            *link = json!(if hosts { "the host's" } else { "another" });
        }
    }
    // in the foreground runc copies the standard streams, other runtimes pass the caller's streams on
    if let Some(Value::Object(fds)) = report.get_mut("fds") {
        fds.iter_mut().filter(|(fd, _)| ["0", "1", "2"].contains(&fd.as_str())).for_each(|(_, target)| *target = json!("the caller's"));
    }
    report.remove("terminal");
    // only whether there is one
    if let Some(keyring) = report.get_mut("session_keyring") {
        *keyring = json!(keyring.is_number());
    }
    if let Some(Value::Array(processes)) = report.get_mut("processes") {
        *processes = if own_pids { vec![json!(processes.len())] } else { Vec::new() };
    }
    if !own_pids {
        report.remove("pid");
    }
    if let Some(Value::Array(env)) = report.get_mut("env") {
        env.sort_by_key(ToString::to_string);
    }
    // by mount point
    if let Some(Value::Array(mounts)) = report.get_mut("mounts") {
        let mut all = Vec::new();
        for mut mount in mounts.drain(..) {
            for list in ["options", "super"] {
                if let Some(words) = mount[list].as_array_mut() {
                    words.sort_by_key(ToString::to_string);
                }
            }
            // of a peer group's number only its existence is comparable
            if let Some(words) = mount["propagation"].as_array_mut() {
                words.iter_mut().for_each(|word| *word = json!(word.as_str().and_then(|word| word.split(':').next())));
            }
            all.push(mount);
        }
        // sorted, because mountinfo lists mounts in the order of creation, and several may have the same mount point
        all.sort_by_key(ToString::to_string);
        let mut by_point = Map::new();
        for mount in all {
            let point = mount["point"].as_str().unwrap_or_default().to_owned();
            let others = by_point.keys().filter(|name: &&String| name.split(" and ").next() == Some(&point)).count();
            by_point.insert(if others == 0 { point } else { format!("{point} and {others}") }, mount);
        }
        report.insert("mounts".to_owned(), Value::Object(by_point));
    }
}
