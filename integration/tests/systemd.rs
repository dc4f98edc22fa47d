//! `--systemd-cgroup`: the requests to systemd, their order, and the behaviour when systemd fails. Most tests use the tests' own
//! systemd (`src/systemd.rs`); `systemd/real.rs` uses this machine's.

#[path = "systemd/bad_bus.rs"]
mod bad_bus;
#[path = "systemd/real.rs"]
mod real;

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use integration::{Bundle, Container, Manner, Output, Systemd, Test, cgroups, check};
use serde_json::{Value, json};

/// A bundle whose program sleeps in a scope, and the scope's name. `None` if the test is skipped.
fn sleeper(t: &Test) -> Result<Option<(Bundle, String)>> {
    if !cgroups::unified() {
        t.skip("needs a host with cgroup v2 alone")?;
        return Ok(None);
    }
    if !t.runtime.is("masu") {
        t.skip("peers find no systemd under the name that tells masu where one is")?;
        return Ok(None);
    }
    let mut bundle = t.bundle()?;
    let id = t.new_id();
    // no slice, because other tests recognize foreign cgroups by the token, and a slice's name would not have it
    bundle.args(["/bin/sleep"]).set("/linux/cgroupsPath", json!(format!("-.slice:p:{id}")));
    Ok(Some((bundle, format!("p-{id}.scope"))))
}

/// `masu --systemd-cgroup` with `words`, connected to `systemd`.
fn command<'a>(t: &Test, systemd: &Systemd, words: impl IntoIterator<Item = &'a str>) -> Result<Command> {
    let mut command = t.command(["--systemd-cgroup"].into_iter().chain(words))?;
    systemd.tell(&mut command);
    Ok(command)
}

fn run<'a>(t: &Test, systemd: &Systemd, words: impl IntoIterator<Item = &'a str>) -> Result<Output> {
    t.finish(command(t, systemd, words)?)
}

/// The same without a systemd that answers.
fn command_without<'a>(t: &Test, words: impl IntoIterator<Item = &'a str>) -> Result<Command> {
    let mut command = t.command(["--systemd-cgroup"].into_iter().chain(words))?;
    command.env("DBUS_SYSTEM_BUS_ADDRESS", format!("unix:path={}/bus", t.path().display()));
    Ok(command)
}

/// Creates the container `id`. If that fails, nothing may be left.
fn create(t: &Test, systemd: &Systemd, bundle: &Bundle, id: &str) -> Result<Output> {
    bundle.write()?;
    run(t, systemd, ["create", "--bundle", &bundle.path().to_string_lossy(), id])
}

fn members(systemd: &Systemd) -> Vec<String> {
    systemd.calls().into_iter().map(|call| call.member).collect()
}

#[test]
fn a_scope_is_made_changed_and_stopped() {
    check(|t| {
        let Some((mut bundle, scope)) = sleeper(t)? else { return Ok(()) };
        let systemd = Systemd::start(t.path(), &[])?;
        bundle
            .set("/annotations", json!({"org.systemd.property.TimeoutStopSec": "uint64 5", "org.systemd.property.After": "['a.service']"}));
        let devices = json!([{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"}]);
        bundle.set("/linux/resources", json!({"devices": devices}));
        create(t, &systemd, &bundle, "x")?.ok()?;
        let calls = systemd.calls();
        let [start] = calls.as_slice() else { anyhow::bail!("{calls:?}") };
        ensure!((start.member.as_str(), start.text(0), start.text(1)) == ("StartTransientUnit", &*scope, "replace"), "{start:?}");
        let properties = start.properties(2);
        for (name, value) in [
            ("Slice", json!({"s": "-.slice"})),
            ("Description", json!({"s": format!("libcontainer container {}", scope.trim_end_matches(".scope"))})),
            ("Delegate", json!({"b": true})),
            ("MemoryAccounting", json!({"b": true})),
            ("CPUAccounting", json!({"b": true})),
            ("IOAccounting", json!({"b": true})),
            ("TasksAccounting", json!({"b": true})),
            ("DefaultDependencies", json!({"b": false})),
            ("TimeoutStopUSec", json!({"t": 5_000_000})),
            ("After", json!({"as": ["a.service"]})),
            ("DevicePolicy", json!({"s": "strict"})),
        ] {
            ensure!(properties.get(name) == Some(&value), "{name}: {:?}", properties.get(name));
        }
        let allowed = properties["DeviceAllow"]["a(ss)"].as_array().context("a list")?;
        for rule in [json!(["/dev/char/10:229", "rw"]), json!(["char-*", "m"]), json!(["char-136", "rwm"])] {
            ensure!(allowed.contains(&rule), "{rule} in {allowed:?}");
        }
        let state = run(t, &systemd, ["state", "x"])?.ok()?.json()?;
        let pid = state["pid"].as_i64().context("a pid")?;
        ensure!(properties["PIDs"] == json!({"au": [pid]}), "{:?}", properties["PIDs"]);
        let cgroup = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
        ensure!(cgroup.lines().any(|line| line.starts_with("0::") && line.ends_with(&format!("/{scope}"))), "{cgroup}");

        // these commands do not connect to systemd
        let before = systemd.connections();
        for words in [
            &["start", "x"][..],
            &["exec", "x", "/bin/true"],
            &["state", "x"],
            &["ps", "x"],
            &["events", "--stats", "x"],
            &["pause", "x"],
            &["resume", "x"],
            &["kill", "x", "WINCH"],
            &["list"],
        ] {
            run(t, &systemd, words.iter().copied())?.ok().with_context(|| format!("{words:?}"))?;
        }
        ensure!(systemd.connections() == before, "{:?}", systemd.calls());

        fs::write(
            t.path().join("limits"),
            json!({"devices": [{"allow": true, "type": "c", "major": 5, "minor": 1, "access": "r"}]}).to_string(),
        )?;
        run(t, &systemd, ["update", "--resources", &t.path().join("limits").to_string_lossy(), "x"])?.ok()?;
        let calls = systemd.calls();
        let [set] = calls.as_slice() else { anyhow::bail!("{calls:?}") };
        ensure!(set.member == "SetUnitProperties" && set.text(0) == scope && set.arguments[1] == json!(true), "{set:?}");
        let allowed = set.properties(2)["DeviceAllow"]["a(ss)"].clone();
        ensure!(allowed.as_array().is_some_and(|list| list.contains(&json!(["/dev/char/5:1", "r"]))), "{allowed}");
        run(t, &systemd, ["delete", "--force", "x"])?.ok()?;
        ensure!(members(&systemd) == ["ResetFailedUnit", "StopUnit"], "not these calls at its end");
        Ok(())
    });
}

#[test]
fn limits_are_properties_and_files() {
    check(|t| {
        let Some((mut bundle, _)) = sleeper(t)? else { return Ok(()) };
        let available = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers")?;
        let has = |name: &str| available.split_whitespace().any(|c| c == name);
        let systemd = Systemd::start(t.path(), &[])?;
        let mut expected: Vec<(&str, u64)> = Vec::new();
        if has("pids") {
            bundle.set("/linux/resources/pids", json!({"limit": 50}));
            expected.push(("TasksMax", 50));
        }
        if has("memory") {
            bundle.set("/linux/resources/memory", json!({"limit": 64 << 20, "swap": 96 << 20, "reservation": 1 << 20}));
            bundle.set("/linux/resources/unified", json!({"memory.high": "60000000"}));
            expected.extend([("MemoryMax", 64 << 20), ("MemorySwapMax", 32 << 20), ("MemoryLow", 1 << 20), ("MemoryHigh", 60_000_000)]);
        }
        if has("cpu") {
            bundle.set("/linux/resources/cpu", json!({"shares": 1024, "quota": 12_345, "period": 50_000}));
            expected.extend([("CPUWeight", 100), ("CPUQuotaPeriodUSec", 50_000), ("CPUQuotaPerSecUSec", 250_000)]);
        }
        if expected.is_empty() {
            return t.skip("needs a limit that is a property: no controller of cgroup v2 but hugetlb here");
        }
        create(t, &systemd, &bundle, "x")?.ok()?;
        let calls = systemd.calls();
        let properties = calls.first().context("a call")?.properties(2);
        for (name, value) in expected {
            ensure!(properties.get(name) == Some(&json!({"t": value})), "{name}: {:?}", properties.get(name));
        }
        let pid: i32 = run(t, &systemd, ["state", "x"])?.ok()?.json()?["pid"].to_string().parse()?;
        let pid = rustix::process::Pid::from_raw(pid).context("a pid")?;
        if has("cpu") {
            // systemd rounds up to whole per cents, but the file has the exact value
            ensure!(cgroups::read(pid, "cpu", "cpu.max")? == "12500 50000", "{}", cgroups::read(pid, "cpu", "cpu.max")?);
        }
        run(t, &systemd, ["delete", "--force", "x"])?.ok()?;
        Ok(())
    });
}

#[test]
fn the_container_may_be_below_the_scope() {
    check(|t| {
        let Some((mut bundle, scope)) = sleeper(t)? else { return Ok(()) };
        let systemd = Systemd::start(t.path(), &[])?;
        bundle.set("/annotations", json!({"run.oci.systemd.subgroup": "inner/most"}));
        create(t, &systemd, &bundle, "x")?.ok()?;
        let pid = run(t, &systemd, ["state", "x"])?.ok()?.json()?["pid"].to_string();
        let cgroup = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
        ensure!(cgroup.trim().ends_with(&format!("{scope}/inner/most")), "{cgroup}");
        run(t, &systemd, ["start", "x"])?.ok()?;
        run(t, &systemd, ["exec", "x", "/bin/true"])?.ok()?;
        run(t, &systemd, ["delete", "--force", "x"])?.ok()?;
        for name in ["../x", "a//b", "a/./b"] {
            bundle.set("/annotations", json!({"run.oci.systemd.subgroup": name}));
            create(t, &systemd, &bundle, "x")?.fails_with("run.oci.systemd.subgroup")?;
        }
        Ok(())
    });
}

#[test]
fn what_is_wrong_with_a_config_is_told_before_systemd_is() {
    check(|t| {
        let Some((mut bundle, _)) = sleeper(t)? else { return Ok(()) };
        let systemd = Systemd::start(t.path(), &[])?;
        let good = bundle.config["linux"]["cgroupsPath"].clone();
        for (path, text) in [
            (
                "/a/b",
                "linux.cgroupsPath: expected cgroupsPath to be of format \"slice:prefix:name\" for systemd cgroups, got \"/a/b\" instead",
            ),
            ("a-.slice:p:n", "linux.cgroupsPath: invalid slice name: a-.slice"),
            ("a:p:n", "linux.cgroupsPath: invalid slice name: a"),
            ("a.slice:p:n/..", "linux.cgroupsPath: invalid unit name: p-n/...scope"),
            ("a.slice:p:n.slice", "linux.cgroupsPath: n.slice is a slice"),
        ] {
            bundle.set("/linux/cgroupsPath", json!(path));
            create(t, &systemd, &bundle, "x")?.fails_with(text)?;
        }
        bundle.set("/linux/cgroupsPath", good);
        for (name, value, text) in [
            ("Xy", "1", "annotation org.systemd.property.Xy name incorrect: too short"),
            ("A.b", "1", "annotation org.systemd.property.A.b name incorrect: contains non-alphabetic character"),
            ("TimeoutStopSec", "'x'", "value parse error: not a number"),
            ("Abc", "['x'", "annotation org.systemd.property.Abc=['x' value parse error"),
        ] {
            bundle.set("/annotations", json!({ (format!("org.systemd.property.{name}")): value }));
            create(t, &systemd, &bundle, "x")?.fails_with(text)?;
        }
        ensure!(systemd.connections() == 0, "{:?}", systemd.calls());
        Ok(())
    });
}

#[test]
fn a_container_that_does_not_come_to_be_leaves_no_unit() {
    check(|t| {
        let Some((mut bundle, _)) = sleeper(t)? else { return Ok(()) };
        let systemd = Systemd::start(t.path(), &[])?;
        bundle.args(["/no/such/program"]);
        create(t, &systemd, &bundle, "x")?.fails_with("no such file")?;
        ensure!(members(&systemd) == ["StartTransientUnit", "ResetFailedUnit", "StopUnit"], "the unit was not stopped");
        // a limit that the kernel refuses after the unit was made
        bundle.args(["/bin/sleep"]).set("/linux/resources", json!({"unified": {"cgroup.max.depth": "-5"}}));
        create(t, &systemd, &bundle, "x")?.fails_with("cgroup.max.depth")?;
        ensure!(members(&systemd) == ["StartTransientUnit", "ResetFailedUnit", "StopUnit"], "the unit was not stopped");
        Ok(())
    });
}

#[test]
fn an_init_that_fails_before_it_is_in_its_scope_says_why() {
    check(|t| {
        let Some((mut bundle, _)) = sleeper(t)? else { return Ok(()) };
        let systemd = Systemd::start(t.path(), &[Manner::Late])?;
        bundle.mount("/data", "tmpfs", "tmpfs", &["size=nonsense"]);
        create(t, &systemd, &bundle, "x")?.fails_with("nonsense")?;
        ensure!(members(&systemd) == ["StartTransientUnit", "ResetFailedUnit", "StopUnit"], "the unit was not stopped");
        Ok(())
    });
}

#[test]
fn nobody_elses_cgroup_is_taken() {
    check(|t| {
        let Some((bundle, scope)) = sleeper(t)? else { return Ok(()) };
        let systemd = Systemd::start(t.path(), &[])?;
        let folder = format!("/sys/fs/cgroup/{scope}");
        fs::create_dir(&folder)?;
        let mut other = Command::new("/bin/sleep").arg("1000").spawn()?;
        fs::write(format!("{folder}/cgroup.procs"), other.id().to_string())?;
        let result =
            create(t, &systemd, &bundle, "x").and_then(|output| output.fails_with("container's cgroup is not empty: 1 process(es) found"));
        let lives = other.try_wait()?.is_none();
        other.kill()?;
        other.wait()?;
        fs::remove_dir(&folder)?;
        result?;
        ensure!(lives, "the process of somebody else died");
        ensure!(members(&systemd).is_empty(), "systemd was asked for it");
        Ok(())
    });
}

#[test]
fn a_users_systemd_says_where_its_units_are() {
    check(|t| {
        let Some((mut bundle, _)) = sleeper(t)? else { return Ok(()) };
        let systemd = Systemd::start(t.path(), &[])?;
        fs::set_permissions(t.path().join("bus"), std::os::unix::fs::PermissionsExt::from_mode(0o777))?;
        bundle.set("/linux/cgroupsPath", json!(""));
        bundle.write()?;
        let path = bundle.path().to_string_lossy().into_owned();
        let user = ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups"];
        // podman is root in a user namespace, but the bus knows its host uid
        let root_inside = ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", "unshare", "--user", "--map-root-user"];
        for who in [&user[..], &root_inside] {
            let mut command = t.under(who, ["--systemd-cgroup", "create", "--dry-run=json", "--bundle", &path, "x"])?;
            command.env_remove("DBUS_SYSTEM_BUS_ADDRESS").env("DBUS_SESSION_BUS_ADDRESS", format!("unix:path={}/bus", t.path().display()));
            let plan: Value = t.finish(command)?.ok()?.json()?;
            let directory = format!("/sys/fs/cgroup{}/user.slice/masu-x.scope", integration::USERS_CGROUP);
            ensure!(plan["cgroup"]["directories"] == json!([directory]), "{}", plan["cgroup"]);
        }
        ensure!(members(&systemd) == ["Get", "Get"], "not asked for one property each time");
        Ok(())
    });
}

#[test]
fn the_plan_names_the_unit_and_its_properties() {
    check(|t| {
        let Some((bundle, scope)) = sleeper(t)? else { return Ok(()) };
        bundle.write()?;
        let path = bundle.path().to_string_lossy().into_owned();
        let plan: Value = t.runtime(["--systemd-cgroup", "create", "--dry-run=json", "--bundle", &path, "x"])?.ok()?.json()?;
        let systemd = &plan["cgroup"]["systemd"];
        ensure!(systemd["unit"] == json!(scope), "{systemd}");
        ensure!(systemd["properties"].as_array().is_some_and(|list| list.contains(&json!("Delegate = true"))), "{systemd}");
        Ok(())
    });
}
