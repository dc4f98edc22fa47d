//! `stats`, and `events` about OOM kills and pressure.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::runtime::readable_within;
use integration::{Container, Test, cgroups, check};
use serde_json::{Value, json};

/// Only masu has `stats`, and `events` beyond runc's.
fn is_masu(t: &Test) -> Result<bool> {
    if t.runtime.kind != "masu" {
        t.skip("a command of masu's")?;
        return Ok(false);
    }
    Ok(true)
}

#[test]
fn stats_as_a_table() {
    check(|t| {
        if !is_masu(t)? {
            return Ok(());
        }
        let nobody = t.runtime(["stats", "--interval", "1ms"])?.ok()?.stdout;
        assert_eq!(nobody.lines().count(), 1, "{nobody}");
        let mut bundle = t.bundle()?;
        bundle.args(["/bin/payload", "spin", "60"]);
        if cgroups::has("pids") {
            bundle.set("/linux/resources/pids", json!({"limit": 9}));
        }
        let busy = Container::start_of(t, &bundle)?;
        bundle.args(["/bin/sleep"]);
        let idle = Container::start_of(t, &bundle)?;
        let created = Container::create(t, &bundle)?;
        let line_in = |table: &str, id: &str| table.lines().find(|line| line.split_whitespace().next() == Some(id)).map(str::to_owned);
        let cpu = |table: &str, id: &str| -> Result<f64> {
            let line = line_in(table, id).with_context(|| table.to_owned())?;
            Ok(line.split_whitespace().nth(1).and_then(|cell| cell.strip_suffix('%')).context("percent")?.parse()?)
        };
        let mut table = String::new();
        // a busy machine may give the container no time for a moment
        for _ in 0..20 {
            table = t.runtime(["stats", "--interval", "300ms"])?.ok()?.stdout;
            ensure!(table.lines().count() == 4 && line_in(&table, &created.id).is_some(), "{table}");
            if cpu(&table, &busy.id)? > 1.0 {
                break;
            }
        }
        let line = |id: &str| line_in(&table, id);
        if cgroups::has("cpuacct") || cgroups::unified() {
            ensure!(cpu(&table, &busy.id)? > 1.0 && cpu(&table, &idle.id)? < 1.0, "{table}");
        }
        if cgroups::has("pids") {
            ensure!(line(&idle.id).is_some_and(|line| line.contains(" 1/9 ")), "{table}");
        }
        let one = t.runtime(["stats", "--no-stream", "--interval", "1ms", &idle.id])?.ok()?.stdout;
        ensure!(one.lines().count() == 2 && one.contains(&idle.id), "{one}");
        t.runtime(["stats", "--interval", "1ms", "nobody"])?.exits(1)?.fails_with("does not exist")?;
        t.runtime(["stats", "--format", "xml"])?.exits(1)?.fails_with("invalid format option")?;
        t.runtime(["stats", "--interval", "0s"])?.exits(1)?.fails_with("must be greater than 0")?;
        Ok(())
    });
}

#[test]
fn stats_as_json_and_as_openmetrics() {
    check(|t| {
        if !is_masu(t)? {
            return Ok(());
        }
        let mut bundle = t.bundle()?;
        bundle.args(["/bin/sleep"]);
        let both = [Container::start_of(t, &bundle)?, Container::start_of(t, &bundle)?];
        let lines = t.runtime(["stats", "--format", "json"])?.ok()?.stdout;
        let values = lines.lines().map(serde_json::from_str::<Value>).collect::<Result<Vec<_>, _>>()?;
        assert_eq!(values.len(), 2, "{lines}");
        for container in &both {
            let value = values.iter().find(|value| value["id"] == container.id.as_str()).context("both of them")?;
            assert_eq!(value["type"], "stats");
            let events = t.runtime(["events", "--stats", &container.id])?.ok()?.json()?;
            let keys = |value: &Value| value["data"].as_object().map(|map| map.keys().cloned().collect::<Vec<_>>());
            assert_eq!(keys(value), keys(&events));
        }
        let text = t.runtime(["stats", "--format", "openmetrics"])?.ok()?.stdout;
        ensure!(text.ends_with("# EOF\n"), "{text}");
        let mut families = Vec::new();
        for line in text.lines().filter(|line| *line != "# EOF") {
            if let Some(family) = line.strip_prefix("# TYPE ") {
                let (name, kind) = family.split_once(' ').context("a kind")?;
                ensure!(!families.contains(&name), "{name} twice");
                ensure!(matches!(kind, "counter" | "gauge"), "{line}");
                families.push(name);
            } else if !line.starts_with('#') {
                let (name, rest) = line.split_once('{').with_context(|| line.to_owned())?;
                let (labels, value) = rest.rsplit_once("} ").with_context(|| line.to_owned())?;
                let family = families.last().copied().unwrap_or_default();
                ensure!(name == family || name.strip_suffix("_total") == Some(family), "{line} below {family}");
                ensure!(both.iter().any(|c| labels.starts_with(&format!("id=\"{}\"", c.id))), "{line}");
                value.parse::<f64>().with_context(|| line.to_owned())?;
            }
        }
        ensure!(families.contains(&"masu_container_cpu_seconds") && families.contains(&"masu_container_pids"), "{text}");
        Ok(())
    });
}

/// A running `events` and its output.
struct Watcher {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Watcher {
    fn new(t: &Test, flags: &[&str], id: &str) -> Result<Watcher> {
        let words = ["events", "--interval", "100ms"].iter().chain(flags).copied().chain([id]);
        let mut child = t.command(words)?.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let lines = BufReader::new(child.stdout.take().context("its output")?);
        Ok(Watcher { child, lines })
    }

    /// The next line of the given kind.
    fn next(&mut self, kind: &str) -> Result<Value> {
        for _ in 0..300 {
            ensure!(!self.lines.buffer().is_empty() || readable_within(self.lines.get_ref(), Duration::from_secs(20))?, "no line");
            let mut line = String::new();
            ensure!(self.lines.read_line(&mut line)? > 0, "it ended before a line of {kind}");
            let value: Value = serde_json::from_str(&line)?;
            if value["type"] == kind {
                return Ok(value);
            }
        }
        anyhow::bail!("no {kind} among 300 lines")
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn events_tell_who_was_killed_for_want_of_memory() {
    check(|t| {
        if !is_masu(t)? {
            return Ok(());
        }
        if !cgroups::has("memory") {
            return t.skip("no memory controller");
        }
        let mut bundle = t.bundle()?;
        bundle.set("/linux/resources/memory", json!({"limit": 16 << 20})).args(["/bin/sleep"]);
        let container = Container::start_of(t, &bundle)?;
        let mut events = Watcher::new(t, &[], &container.id)?;
        events.next("stats")?;
        container.exec(&[], ["/bin/payload", "alloc", "100"])?.exits(137)?;
        let oom = events.next("oom")?;
        // exactly runc's line, because callers match it
        assert_eq!(oom, json!({"type": "oom", "id": container.id}));
        if std::fs::File::open("/dev/kmsg").is_err() {
            return t.skip("who it was: the kernel's log may not be read");
        }
        let kill = events.next("oom_kill")?;
        assert_eq!((&kill["id"], &kill["victims"][0]["name"]), (&json!(container.id), &json!("payload")), "{kill}");
        ensure!(kill["victims"][0]["pid"].as_i64().is_some_and(|pid| pid > 1), "{kill}");
        Ok(())
    });
}

#[test]
fn events_tell_when_processes_wait() {
    check(|t| {
        if !is_masu(t)? {
            return Ok(());
        }
        let mut bundle = t.bundle()?;
        let spin = ["spin", "60"];
        bundle.args(["/bin/payload", "say", "ready", "then"].into_iter().chain(spin));
        let mut container = Container::start_of(t, &bundle)?;
        container.line()?;
        for (flag, text) in [("memory", "not RESOURCE"), ("cpu:some:3s/2s", "invalid argument|no alarm")] {
            let output = t.runtime(["events", "--pressure", flag, &container.id])?.exits(1)?;
            ensure!(text.split('|').any(|text| output.stderr.to_lowercase().contains(&text.to_lowercase())), "{}", output.stderr);
        }
        if !cgroups::unified() || !std::path::Path::new("/proc/pressure/cpu").exists() {
            return t.skip("pressure is counted by cgroup v2 alone, where the kernel counts it");
        }
        let mut events = Watcher::new(t, &["--pressure", "cpu:some:1ms/2s"], &container.id)?;
        events.next("stats")?;
        // more processes than processors
        let mut more = Vec::new();
        for _ in 0..std::thread::available_parallelism()?.get() + 1 {
            let words = ["exec", &container.id, "/bin/payload", "say", "ready", "then"];
            let mut exec = t.command(words.into_iter().chain(spin))?;
            more.push(exec.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?);
        }
        for exec in &mut more {
            // waits until each exec runs, because an exec that is still starting would disturb delete
            let mut line = String::new();
            BufReader::new(exec.stdout.as_mut().context("its output")?).read_line(&mut line)?;
            assert_eq!(line, "ready\n");
        }
        let pressure = events.next("pressure");
        container.delete_by_force()?.ok()?;
        for mut exec in more {
            exec.wait()?;
        }
        let pressure = pressure?;
        assert_eq!((&pressure["id"], &pressure["resource"]), (&json!(container.id), &json!("cpu")));
        ensure!(pressure["data"]["some"]["total"].as_u64().is_some_and(|total| total > 0), "{pressure}");
        // reads all lines, so that a slow machine does not block on a full pipe
        std::io::copy(&mut events.lines, &mut std::io::sink())?;
        let ended = events.child.wait()?;
        ensure!(ended.success(), "events did not end with the container: {ended}");
        Ok(())
    });
}
