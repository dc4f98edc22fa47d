//! Tests with the systemd that runs this machine.

use super::*;

/// A prefix for `systemctl daemon-reload` and `daemon-reexec`, which allows only one at a time. Two at once crash systemd 262 by
/// an assertion (method_reload: `!m->pending_reload_message_dbus`).
const ALONE: [&str; 2] = ["flock", "/run/systemd"];

/// The output of `systemctl` with `words`. Tries again while systemd re-executes itself for a concurrent test.
fn systemctl(words: &[&str]) -> Result<String> {
    told(&[&["systemctl"], words].concat())
}

/// Lets systemd reload its units (`daemon-reload`) or re-execute itself (`daemon-reexec`).
fn reload(verb: &str) -> Result<()> {
    told(&[&ALONE[..], &["systemctl", verb]].concat()).map(drop)
}

fn told(words: &[&str]) -> Result<String> {
    for _ in 0..50 {
        let (program, args) = words.split_first().context("a program")?;
        let output = Command::new(program).args(args).output().with_context(|| format!("run {program}"))?;
        if output.status.success() {
            return Ok(String::from_utf8(output.stdout)?.trim().to_owned());
        }
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    anyhow::bail!("{words:?} fails")
}

/// One property of a unit, from this machine's systemd.
fn show(unit: &str, property: &str) -> Result<String> {
    systemctl(&["show", unit, "--property", property, "--value"])
}

/// A bundle in a scope, and the scope's name. `None` if the test is skipped.
fn scope(t: &Test) -> Result<Option<(Bundle, String)>> {
    if !std::path::Path::new("/run/systemd/system").is_dir() || !cgroups::unified() {
        t.skip("needs a machine that systemd runs, with cgroup v2")?;
        return Ok(None);
    }
    let mut bundle = t.bundle()?;
    let id = t.new_id();
    bundle.args(["/bin/sleep"]).set("/linux/cgroupsPath", json!(format!(":p:{id}")));
    Ok(Some((bundle, format!("p-{id}.scope"))))
}

fn with_systemd<'t>(t: &'t Test, bundle: &Bundle) -> Result<Container<'t>> {
    bundle.write()?;
    Container::systemd(t, bundle)
}

#[test]
fn the_scope_is_as_the_config_says_also_after_a_reload() {
    check(|t| {
        let Some((mut bundle, scope)) = scope(t)? else { return Ok(()) };
        let available = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers")?;
        let missing: Vec<_> =
            ["cpu", "cpuset", "memory", "pids"].into_iter().filter(|c| !available.split_whitespace().any(|a| a == *c)).collect();
        if !missing.is_empty() {
            return t.skip(&format!("needs the controllers {missing:?} in cgroup v2"));
        }
        bundle.set(
            "/linux/resources",
            json!({
                "pids": {"limit": 50},
                "memory": {"limit": 64 << 20, "swap": 96 << 20, "reservation": 1 << 20},
                "cpu": {"shares": 512, "quota": 25_000, "period": 50_000, "cpus": "0", "mems": "0"},
                "unified": {"memory.high": "60000000"},
                "devices": [{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"}],
            }),
        );
        let container = with_systemd(t, &bundle)?;
        let files = [
            "pids.max",
            "memory.max",
            "memory.low",
            "memory.high",
            "memory.swap.max",
            "cpu.weight",
            "cpu.max",
            "cpuset.cpus",
            "cpuset.mems",
        ];
        let read = || files.iter().map(|file| cgroups::read(container.pid, "", file)).collect::<Result<Vec<_>>>();
        let before = read()?;
        ensure!(before[..3] == ["50", "67108864", "1048576"] && before[6] == "25000 50000", "{before:?}");
        let mut expected = vec![
            ("Slice", "system.slice"),
            ("Delegate", "yes"),
            ("TasksMax", "50"),
            ("MemoryMax", "67108864"),
            ("MemorySwapMax", "33554432"),
            ("MemoryLow", "1048576"),
            ("MemoryHigh", "60000000"),
            ("CPUQuotaPerSecUSec", "500ms"),
            ("CPUQuotaPeriodUSec", "50ms"),
            ("AllowedCPUs", "0"),
            ("AllowedMemoryNodes", "0"),
            ("DevicePolicy", "strict"),
        ];
        if t.differs("crun", "hands systemd a program instead of a list of devices, counts swap with memory, and is a cgroup deeper") {
            expected.retain(|(name, _)| !matches!(*name, "DevicePolicy" | "MemorySwapMax"));
        }
        for (name, value) in expected {
            ensure!(show(&scope, name)? == value, "{name}: {}", show(&scope, name)?);
        }
        for verb in ["daemon-reload", "daemon-reexec"] {
            reload(verb)?;
            ensure!(read()? == before, "after {verb}: {:?} instead of {before:?}", read()?);
            ensure!(show(&scope, "TasksMax")? == "50", "after {verb}: {}", show(&scope, "TasksMax")?);
        }
        drop(container);
        ensure!(show(&scope, "LoadState")? == "not-found", "{}", show(&scope, "LoadState")?);
        Ok(())
    });
}

#[test]
fn systemd_itself_is_asked_where_there_is_no_bus() {
    check(|t| {
        let Some((mut bundle, scope)) = scope(t)? else { return Ok(()) };
        bundle.args(["/bin/true"]);
        bundle.write()?;
        const WITHOUT_BUS: &str = "mount -t tmpfs none /run/dbus && exec \"$@\"";
        let path = bundle.path().to_string_lossy().into_owned();
        let run = t.under(&["unshare", "--mount", "sh", "-c", WITHOUT_BUS, "sh"], ["--systemd-cgroup", "run", "--bundle", &path, "x"])?;
        t.finish(run)?.ok()?;
        ensure!(show(&scope, "LoadState")? == "not-found", "{scope} is left");
        Ok(())
    });
}

#[test]
fn a_unit_of_somebody_else_stays() {
    check(|t| {
        let Some((bundle, scope)) = scope(t)? else { return Ok(()) };
        let unit = scope.clone();
        let mut other = Command::new("systemd-run").args(["--quiet", "--scope", "--unit", &unit, "/bin/sleep", "1000"]).spawn()?;
        let begin = std::time::Instant::now();
        while show(&scope, "ActiveState")? != "active" {
            ensure!(begin.elapsed().as_secs() < 20, "no scope of systemd-run");
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        bundle.write()?;
        let path = bundle.path().to_string_lossy().into_owned();
        let output = t.runtime(["--systemd-cgroup", "create", "--bundle", &path, "x"])?;
        let state = show(&scope, "ActiveState")?;
        other.kill()?;
        other.wait()?;
        let failed = output.status.code() != Some(0);
        ensure!(failed && state == "active", "{output:?}, then the unit is {state}");
        let begin = std::time::Instant::now();
        while show(&scope, "LoadState")? != "not-found" {
            ensure!(begin.elapsed().as_secs() < 20, "the scope of systemd-run stays");
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        Ok(())
    });
}

/// Scopes are made, started and updated while systemd reloads and re-executes itself all the time.
#[test]
fn nothing_is_lost_while_systemd_reloads() {
    check(|t| {
        let Some((mut bundle, _)) = scope(t)? else { return Ok(()) };
        let name = t.new_id();
        if !cgroups::has("pids") {
            return t.skip("needs the controller pids in cgroup v2");
        }
        let how_many: i64 = std::env::var("CREATES").ok().map_or(Ok(10), |text| text.parse())?;
        bundle.set(
            "/linux/resources/devices",
            json!([{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 60, "minor": 7, "access": "r"}]),
        );
        let alone = ALONE.join(" ");
        let script =
            format!("while :; do {alone} systemctl daemon-reload; sleep 0.3; {alone} systemctl daemon-reexec; sleep 0.3; echo; done");
        let mut reloads = Command::new("sh").args(["-c", &script]).stdout(std::process::Stdio::piped()).spawn()?;
        let made = (0..how_many).map(|n| {
            bundle.set("/linux/cgroupsPath", json!(format!(":p:{name}-{n}")));
            bundle.set("/linux/resources/pids", json!({"limit": 20 + n}));
            let container = with_systemd(t, &bundle).with_context(|| format!("container {n}"))?;
            container.start()?.ok().with_context(|| format!("container {n}"))?;
            if n % 3 == 0 {
                let limit = (1000 + n).to_string();
                t.runtime(["--systemd-cgroup", "update", "--pids-limit", &limit, &container.id])?
                    .ok()
                    .with_context(|| format!("container {n}"))?;
            }
            Ok(container)
        });
        let made = made.collect::<Result<Vec<_>>>();
        reloads.kill()?;
        let rounds = std::io::read_to_string(reloads.stdout.take().context("its output")?)?.len();
        reloads.wait()?;
        let made = made?;
        ensure!(rounds > 0, "systemd did not reload once");
        reload("daemon-reload")?;
        for (n, container) in (0..).zip(&made) {
            let unit = format!("p-{name}-{n}.scope");
            let limit = if n % 3 == 0 { 1000 + n } else { 20 + n }.to_string();
            ensure!(show(&unit, "ActiveState")? == "active", "{unit} is {}", show(&unit, "ActiveState")?);
            ensure!(show(&unit, "TasksMax")? == limit, "{unit}: {} instead of {limit} tasks", show(&unit, "TasksMax")?);
            ensure!(cgroups::read(container.pid, "pids", "pids.max")? == limit, "{unit}: {limit} is not in its file");
            // an experimental device number without a driver: ENXIO shows that the rules allowed the open
            let seen = container.exec(&[], ["/bin/payload", "access", "c", "60", "7", "/dev/node"])?.ok()?.stdout;
            ensure!(seen == "c 60:7 m ok\nc 60:7 r ENXIO\nc 60:7 w EPERM\nc 60:7 rw EPERM\n", "{unit}: {seen}");
            ensure!(container.status()? == "running", "{unit} does not run");
        }
        drop(made);
        for n in 0..how_many {
            let unit = format!("p-{name}-{n}.scope");
            ensure!(show(&unit, "LoadState")? == "not-found", "{unit} is left");
        }
        Ok(())
    });
}
