//! Cgroups for real: needs root and a cgroup tree that may be written. Each test works below a directory of its own and
//! leaves nothing. What the host does not have (a controller, v1, v2) is skipped, with the reason printed.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "all of this is a test")]

use std::fs;
use std::io::Read;
use std::os::unix::fs::FileTypeExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use libcontainer::cgroup::{Cgroup, CgroupPlan, Layout, OomNotice, Paths, Stats, merge};
use libcontainer::error::Kind;
use libcontainer::spec::Resources;
use rustix::process::Signal;

const SOON: Duration = Duration::from_secs(5);

/// A cgroup path of a test's own, and a host to test on.
struct Host {
    layout: Layout,
    base: String,
}

impl Host {
    fn find(test: &str) -> Option<Host> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        if !rustix::process::geteuid().is_root() {
            println!("skip {test}: not root");
            return None;
        }
        let layout = match Layout::detect() {
            Ok(layout) => layout,
            Err(e) => {
                println!("skip {test}: {e}");
                return None;
            }
        };
        let base = format!("/masu-test-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let host = Host { layout, base };
        match Cgroup::create(&host.plan("probe", "{}")) {
            Err(e) => {
                println!("skip {test}: no writable cgroup: {e}");
                None
            }
            Ok(_) => Some(host),
        }
    }

    fn plan(&self, name: &str, resources: &str) -> CgroupPlan {
        self.try_plan(name, resources).unwrap()
    }

    fn try_plan(&self, name: &str, resources: &str) -> libcontainer::error::Result<CgroupPlan> {
        let resources: Resources = serde_json::from_str(resources).unwrap();
        CgroupPlan::new(&self.layout, "id", &format!("{}/{name}", self.base), Some(&resources))
    }

    fn is_v2(&self) -> bool {
        self.layout.is_v2()
    }

    /// Whether a controller can be limited.
    fn has(&self, controller: &str) -> bool {
        let probe = self.plan("has", "{}");
        match &probe.paths().v2 {
            Some(dir) if self.is_v2() => {
                let cgroup = Cgroup::create(&probe).unwrap();
                let list = fs::read_to_string(format!("{dir}/cgroup.controllers")).unwrap();
                drop(cgroup);
                list.split_whitespace().any(|c| c == controller)
            }
            _ => probe.paths().v1.iter().any(|(c, _)| c.split(',').any(|c| c == controller)),
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let plan = self.plan("x", "{}");
        for dir in dirs(plan.paths()) {
            let base = dir.strip_suffix("/x").unwrap();
            assert!(!fs::exists(base).unwrap(), "{base} was left behind");
        }
    }
}

fn dirs(paths: &Paths) -> Vec<String> {
    paths.v1.iter().map(|(_, d)| d.clone()).chain(paths.v2.clone()).collect()
}

/// The directory of a controller, or of v2.
fn dir(paths: &Paths, controller: &str) -> String {
    paths.v1.iter().find(|(c, _)| c.split(',').any(|c| c == controller)).map(|(_, d)| d.clone()).or(paths.v2.clone()).unwrap()
}

fn read(dir: &str, file: &str) -> String {
    fs::read_to_string(format!("{dir}/{file}")).unwrap().trim().to_owned()
}

/// A shell command that is put into a cgroup before it runs: it waits for a line on its standard input.
fn inside(cgroup: &Cgroup, script: &str) -> Child {
    let mut child = Command::new("sh")
        .args(["-c", &format!("read go; {script}")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    cgroup.join(child.id() as i32, false).unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"\n").unwrap();
    child
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < SOON, "{what}: not in time");
        std::thread::sleep(Duration::from_millis(5));
    }
}

macro_rules! host {
    ($test:literal) => {
        match Host::find($test) {
            Some(host) => host,
            None => return,
        }
    };
}

#[test]
fn a_guard_removes_what_it_made_and_only_that() {
    let host = host!("a_guard_removes_what_it_made_and_only_that");
    let plan = host.plan("a/b/c", "{}");
    let cgroup = Cgroup::create(&plan).unwrap();
    assert!(dirs(plan.paths()).iter().all(|d| fs::exists(d).unwrap()));
    let sibling = host.plan("a/other", "{}");
    Cgroup::create(&sibling).unwrap().keep();
    drop(cgroup);
    for d in dirs(plan.paths()) {
        assert!(!fs::exists(&d).unwrap(), "{d}");
        assert!(!fs::exists(d.strip_suffix("/c").unwrap()).unwrap());
        assert!(fs::exists(d.strip_suffix("/b/c").unwrap()).unwrap(), "another lives there");
    }
    // once more, adopting an empty directory: that was there before and stays
    drop(Cgroup::create(&sibling).unwrap());
    assert!(dirs(sibling.paths()).iter().all(|d| fs::exists(d).unwrap()));
    let opened = Cgroup::open(sibling.paths()).unwrap();
    opened.remove(SOON).unwrap();
    opened.remove(SOON).unwrap();
    Cgroup::open(sibling.paths()).unwrap().remove(SOON).unwrap();
    for d in dirs(sibling.paths()) {
        fs::remove_dir(d.strip_suffix("/other").unwrap()).unwrap();
        fs::remove_dir(&d[..d.find(&host.base).unwrap() + host.base.len()]).unwrap();
    }
}

#[test]
fn join_puts_a_process_into_every_hierarchy() {
    let host = host!("join_puts_a_process_into_every_hierarchy");
    let plan = host.plan("c", "{}");
    let cgroup = Cgroup::create(&plan).unwrap();
    let mut child = inside(&cgroup, "exec sleep 100");
    let text = fs::read_to_string(format!("/proc/{}/cgroup", child.id())).unwrap();
    let joined = text.lines().filter(|l| l.ends_with(&format!("{}/c", host.base))).count();
    assert_eq!(joined, dirs(plan.paths()).len(), "{text}");
    assert_eq!(cgroup.processes().unwrap(), [child.id() as i32]);
    let e = Cgroup::create(&plan).unwrap_err();
    assert_eq!(e.kind(), Kind::Exists);
    assert!(e.to_string().starts_with("container's cgroup is not empty: 1 process(es) found"), "{e}");
    assert!(fs::exists(dir(plan.paths(), "devices")).unwrap(), "and it is still there");
    cgroup.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(cgroup.processes().unwrap(), [0_i32; 0]);
    assert_eq!(cgroup.clone_target().is_some(), plan.paths().v2.is_some());
}

#[test]
fn our_own_cgroup_is_neither_taken_nor_killed() {
    let host = host!("our_own_cgroup_is_neither_taken_nor_killed");
    let plan = host.plan("own", "{}");
    let cgroup = Cgroup::create(&plan).unwrap();
    // a shell in it runs this test program with the cgroup's paths: see below
    let paths = serde_json::to_string(plan.paths()).unwrap();
    let exe = std::env::current_exe().unwrap();
    let script = format!("KILL_OWN='{paths}' {} --exact --ignored --nocapture kill_our_own 2>&1", exe.display());
    let child = inside(&cgroup, &script);
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed") && text.contains("nothing there is killed"), "{text}");
    let root: Vec<String> = dirs(plan.paths()).iter().map(|d| d[..d.find(&host.base).unwrap()].to_owned()).collect();
    for d in root {
        let v2 = plan.paths().v2.as_ref().is_some_and(|p| p.starts_with(&d) && plan.paths().v1.is_empty());
        let paths = if v2 { Paths { v2: Some(d), v1: vec![] } } else { Paths { v2: None, v1: vec![("devices".into(), d)] } };
        let e = Cgroup::open(&paths).unwrap_err().to_string();
        assert!(e.contains("is the root of a cgroup hierarchy") || e.contains("is not a cgroup v1"), "{e}");
    }
}

#[test]
#[ignore = "run by our_own_cgroup_is_neither_taken_nor_killed, inside a cgroup"]
fn kill_our_own() {
    let paths: Paths = serde_json::from_str(&std::env::var("KILL_OWN").unwrap()).unwrap();
    let cgroup = Cgroup::open(&paths).unwrap();
    println!("{}", cgroup.kill().unwrap_err());
    println!("{}", cgroup.remove(Duration::ZERO).unwrap_err());
    assert!(!cgroup.is_frozen().unwrap());
}

#[test]
fn freeze_stops_and_thaw_lets_go_on() {
    let host = host!("freeze_stops_and_thaw_lets_go_on");
    let plan = host.plan("f", "{}");
    let cgroup = Cgroup::create(&plan).unwrap();
    let mut child = inside(&cgroup, "while :; do echo x; sleep 0.001; done");
    let mut out = child.stdout.take().unwrap();
    out.read_exact(&mut [0; 2]).unwrap();
    cgroup.freeze().unwrap();
    assert!(cgroup.is_frozen().unwrap());
    rustix::io::ioctl_fionbio(&out, true).unwrap();
    let mut drained = Vec::new();
    let _ = out.read_to_end(&mut drained);
    std::thread::sleep(Duration::from_millis(50));
    assert!(out.read(&mut [0; 2]).is_err(), "it went on while frozen");
    cgroup.thaw().unwrap();
    assert!(!cgroup.is_frozen().unwrap());
    wait_until("output after thaw", || out.read(&mut [0; 2]).is_ok());
    cgroup.freeze().unwrap();
    let e = Cgroup::open(plan.paths()).unwrap();
    assert!(e.is_frozen().unwrap());
    // frozen things die
    cgroup.kill().unwrap();
    child.wait().unwrap();
    if !host.is_v2() {
        return;
    }
    let e = Cgroup::create(&plan).unwrap_err();
    assert_eq!((e.kind(), e.to_string()), (Kind::WrongStatus, "container's cgroup unexpectedly frozen".into()));
}

#[test]
fn what_a_container_froze_below_dies_too() {
    let host = host!("what_a_container_froze_below_dies_too");
    let plan = host.plan("sub", "{}");
    let cgroup = Cgroup::create(&plan).unwrap();
    let mut children = Vec::new();
    let freezer = dir(plan.paths(), "freezer");
    let below = format!("{freezer}/deep/er");
    fs::create_dir_all(&below).unwrap();
    for _ in 0..3 {
        let child = inside(&cgroup, "exec sleep 100");
        fs::write(format!("{below}/cgroup.procs"), child.id().to_string()).unwrap();
        children.push(child);
    }
    let v1 = fs::exists(format!("{below}/freezer.state")).unwrap();
    fs::write(format!("{below}/{}", if v1 { "freezer.state" } else { "cgroup.freeze" }), if v1 { "FROZEN" } else { "1" }).unwrap();
    let start = Instant::now();
    cgroup.kill().unwrap();
    for child in &mut children {
        child.wait().unwrap();
    }
    cgroup.remove(SOON).unwrap();
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    assert!(!fs::exists(freezer).unwrap());
}

#[test]
fn signal_all_reaches_all_and_keeps_a_pause() {
    let host = host!("signal_all_reaches_all_and_keeps_a_pause");
    let plan = host.plan("s", "{}");
    let cgroup = Cgroup::create(&plan).unwrap();
    // ready once the sleeper has been executed: until then it is a shell that would take the signal for its own trap
    let script =
        "trap 'echo got' USR1; sleep 100 & until read n </proc/$!/comm && [ $n = sleep ]; do :; done; echo ready; wait; echo done; wait";
    let mut child = inside(&cgroup, script);
    let mut out = child.stdout.take().unwrap();
    out.read_exact(&mut [0; 6]).unwrap();
    cgroup.freeze().unwrap();
    cgroup.signal_all(Signal::USR1).unwrap();
    assert!(cgroup.is_frozen().unwrap(), "a paused container stays paused");
    cgroup.thaw().unwrap();
    let mut text = [0; 9];
    out.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"got\ndone\n");
    child.wait().unwrap();
    wait_until("the sleeper too", || cgroup.processes().unwrap().is_empty());
    assert!(!cgroup.is_frozen().unwrap());
}

#[test]
fn a_deep_and_wide_tree_with_dying_processes_goes() {
    let host = host!("a_deep_and_wide_tree_with_dying_processes_goes");
    let plan = host.plan("tree", "{}");
    let cgroup = Cgroup::create(&plan).unwrap();
    let top = dir(plan.paths(), "freezer");
    for n in 0..300 {
        fs::create_dir(format!("{top}/wide{n}")).unwrap();
    }
    let mut deep = top.clone();
    for _ in 0..200 {
        deep.push_str("/deeper");
        fs::create_dir(&deep).unwrap();
    }
    let mut children: Vec<Child> = (0..20).map(|_| inside(&cgroup, "exec sleep 100")).collect();
    for (n, child) in children.iter().enumerate().skip(1) {
        fs::write(format!("{top}/wide{n}/cgroup.procs"), child.id().to_string()).unwrap();
    }
    fs::write(format!("{deep}/cgroup.procs"), children[0].id().to_string()).unwrap();
    let mut pids: Vec<i32> = children.iter().map(|c| c.id() as i32).collect();
    pids.sort_unstable();
    if host.is_v2() {
        assert_eq!(cgroup.processes().unwrap(), pids);
    }
    let start = Instant::now();
    let e = cgroup.remove(Duration::from_millis(100)).unwrap_err();
    assert!(e.to_string().contains("process(es) left: device or resource busy"), "{e}");
    assert!(start.elapsed() < Duration::from_secs(3));
    cgroup.kill().unwrap();
    cgroup.remove(SOON).unwrap();
    assert!(dirs(plan.paths()).iter().all(|d| !fs::exists(d).unwrap()));
    for child in &mut children {
        child.wait().unwrap();
    }
}

#[test]
fn device_rules_are_exactly_those_asked_for() {
    let host = host!("device_rules_are_exactly_those_asked_for");
    // /dev/kmsg (1:11) is no default; /dev/null and /dev/zero are
    let allowed = r#"{"devices":[{"allow":false,"access":"rwm"},{"allow":true,"type":"c","major":1,"minor":11,"access":"r"}]}"#;
    for (resources, kmsg, null) in [
        ("{}", false, true),
        (r#"{"devices":[]}"#, false, true),
        (r#"{"devices":[{"allow":false,"type":"c","major":1,"minor":3,"access":"rwm"}]}"#, false, true),
        (allowed, true, true),
        (r#"{"devices":[{"allow":true,"access":"rwm"}]}"#, true, true),
        (r#"{"devices":[{"allow":true,"access":"rwm"},{"allow":false,"type":"c","major":1,"minor":11,"access":"w"}]}"#, true, true),
        (r#"{"devices":[{"allow":true,"access":"rwm"},{"allow":false,"type":"c","major":1,"minor":11,"access":"r"}]}"#, false, true),
    ] {
        if !fs::metadata("/dev/kmsg").is_ok_and(|m| m.file_type().is_char_device()) {
            println!("skip device_rules_are_exactly_those_asked_for: no /dev/kmsg");
            return;
        }
        let plan = host.plan("d", resources);
        let cgroup = Cgroup::create(&plan).unwrap();
        let child = inside(&cgroup, "(exec 3</dev/kmsg) && echo kmsg; (: >/dev/null) && head -c1 /dev/zero >/dev/null && echo null");
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert_eq!((text.contains("kmsg"), text.contains("null")), (kmsg, null), "{resources}: {text}");
        if !host.is_v2() {
            let list = read(&dir(plan.paths(), "devices"), "devices.list");
            assert_eq!(list == "a *:* rwm", resources.contains(r#""allow":true,"access":"rwm""#), "{list}");
        }
        // again over what is there: the old program must be replaced, not joined
        cgroup.remove(SOON).unwrap();
        for d in dirs(plan.paths()) {
            fs::create_dir_all(&d).unwrap();
        }
        Cgroup::create(&host.plan("d", "{}")).unwrap().keep();
        let again = Cgroup::create(&plan).unwrap();
        let child = inside(&again, "(exec 3</dev/kmsg) && echo kmsg");
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.stdout == b"kmsg\n", kmsg, "{resources}, the second time");
        again.remove(SOON).unwrap();
        for d in dirs(plan.paths()) {
            fs::remove_dir(d.strip_suffix("/d").unwrap()).unwrap();
        }
    }
}

#[test]
fn limits_are_in_the_files_and_hold() {
    let host = host!("limits_are_in_the_files_and_hold");
    let wanted = [
        ("memory", r#"{"memory":{"limit":16777216}}"#, "memory.limit_in_bytes", "memory.max", "16777216", "16777216"),
        ("memory", r#"{"memory":{"reservation":8388608}}"#, "memory.soft_limit_in_bytes", "memory.low", "8388608", "8388608"),
        ("cpu", r#"{"cpu":{"shares":2048}}"#, "cpu.shares", "cpu.weight", "2048", "174"),
        ("cpu", r#"{"cpu":{"quota":50000,"period":200000}}"#, "cpu.cfs_quota_us", "cpu.max", "50000", "50000 200000"),
        ("pids", r#"{"pids":{"limit":7}}"#, "pids.max", "pids.max", "7", "7"),
        ("pids", r#"{"pids":{"limit":0}}"#, "pids.max", "pids.max", "1", "1"),
        ("cpuset", r#"{"cpu":{"cpus":"0"}}"#, "cpuset.cpus", "cpuset.cpus", "0", "0"),
        (
            "hugetlb",
            r#"{"hugepageLimits":[{"pageSize":"2MB","limit":4194304}]}"#,
            "hugetlb.2MB.limit_in_bytes",
            "hugetlb.2MB.max",
            "4194304",
            "4194304",
        ),
    ];
    for (controller, resources, v1_file, v2_file, v1_value, v2_value) in wanted {
        if !host.has(controller) {
            let plan = host.try_plan("l", resources);
            let e = plan.and_then(|p| Cgroup::create(&p)).unwrap_err();
            assert_eq!(e.kind(), Kind::Unsupported, "{e}");
            assert!(e.to_string().contains(controller), "{e}");
            println!("skip {v2_file} here: {e}");
            continue;
        }
        let plan = host.plan("l", resources);
        let cgroup = Cgroup::create(&plan).unwrap();
        let (file, value) = if host.is_v2() { (v2_file, v2_value) } else { (v1_file, v1_value) };
        assert_eq!(read(&dir(plan.paths(), controller), file), value, "{file}");
        drop(cgroup);
    }
    if host.has("pids") {
        let cgroup = Cgroup::create(&host.plan("l", r#"{"pids":{"limit":2}}"#)).unwrap();
        let output = inside(&cgroup, "sleep 0.1 & sleep 0.1 & wait").wait_with_output().unwrap();
        assert!(String::from_utf8_lossy(&output.stderr).to_lowercase().contains("fork"), "{output:?}");
    }
    // all at once: the order matters
    let all =
        r#"{"memory":{"limit":16777216,"swap":33554432},"cpu":{"quota":5000,"period":10000,"burst":1000,"shares":2},"pids":{"limit":9}}"#;
    if ["memory", "cpu", "pids"].iter().all(|c| host.has(c)) {
        let plan = host.plan("l", all);
        match Cgroup::create(&plan) {
            Err(e) if e.to_string().contains("memsw") => println!("skip swap: {e}"),
            cgroup => drop(cgroup.unwrap()),
        }
    }
}

#[test]
fn a_refused_limit_leaves_nothing() {
    let host = host!("a_refused_limit_leaves_nothing");
    for (controller, resources, part) in [
        ("cpuset", r#"{"cpu":{"cpus":"abc"}}"#, "write abc to cpuset.cpus of /"),
        ("cpuset", r#"{"cpu":{"cpus":"4000-5000"}}"#, "write 4000-5000 to cpuset.cpus of /"),
        ("cpu", r#"{"cpu":{"period":1}}"#, "write "),
        ("memory", r#"{"memory":{"limit":-5}}"#, "write -5 to memory."),
        ("hugetlb", r#"{"hugepageLimits":[{"pageSize":"3MB","limit":1}]}"#, "this kernel has no such file"),
    ] {
        if !host.has(controller) {
            println!("skip {resources}: no {controller}");
            continue;
        }
        let plan = host.plan("r", resources);
        let e = Cgroup::create(&plan).unwrap_err().to_string();
        assert!(e.contains(part), "{e}");
        assert!(dirs(plan.paths()).iter().all(|d| !fs::exists(d).unwrap()));
    }
    if host.is_v2() {
        for (resources, text) in [
            (r#"{"unified":{"bogus.file":"1"}}"#, r#"unified resource "bogus.file" can't be set: controller "bogus" not available"#),
            (r#"{"unified":{"cgroup.nosuch":"1"}}"#, r#"unable to set unified resource "cgroup.nosuch": this kernel has no such file"#),
        ] {
            assert_eq!(Cgroup::create(&host.plan("r", resources)).unwrap_err().to_string(), text);
        }
        Cgroup::create(&host.plan("r", r#"{"unified":{"cgroup.max.depth":"3"}}"#)).unwrap();
    }
}

#[test]
fn update_changes_or_changes_nothing() {
    let host = host!("update_changes_or_changes_nothing");
    let json = |text: &str| -> Resources { serde_json::from_str(text).unwrap() };
    // (controllers, before, good update, bad update, file of v1, file of v2, values)
    let (old, good, bad, controllers, file, before, after): (_, _, _, &[&str], _, _, _) =
        if host.has("memory") && host.has("pids") && !host.is_v2() {
            let bad = r#"{"memory":{"limit":41943040},"pids":{"limit":9},"cpu":{"period":1}}"#;
            (
                r#"{"memory":{"limit":33554432},"pids":{"limit":5}}"#,
                r#"{"memory":{"limit":50331648}}"#,
                bad,
                &["memory", "pids"],
                "memory.limit_in_bytes",
                "33554432",
                "50331648",
            )
        } else if host.is_v2() && host.has("hugetlb") {
            let bad = r#"{"hugepageLimits":[{"pageSize":"2MB","limit":8388608}],"unified":{"bogus.x":"1"}}"#;
            let limit = |n: &str| format!(r#"{{"hugepageLimits":[{{"pageSize":"2MB","limit":{n}}}]}}"#);
            (&*limit("2097152").leak(), &*limit("4194304").leak(), bad, &["hugetlb"], "hugetlb.2MB.max", "2097152", "4194304")
        } else {
            println!("skip update_changes_or_changes_nothing: neither v1's memory nor v2's hugetlb");
            return;
        };
    let plan = host.plan("u", old);
    let cgroup = Cgroup::create(&plan).unwrap();
    let value = || read(&dir(plan.paths(), controllers[0]), file);
    assert_eq!(value(), before);
    let merged = merge(&json(old), &json(good));
    cgroup.update(&merged).unwrap();
    assert_eq!(value(), after);
    let e = cgroup.update(&merge(&merged, &json(bad))).unwrap_err();
    println!("refused: {e}");
    assert_eq!(value(), after, "put back");
    if controllers.contains(&"pids") {
        assert_eq!(read(&dir(plan.paths(), "pids"), "pids.max"), "5", "put back");
    }
}

#[test]
fn stats_are_numbers_of_this_cgroup() {
    let host = host!("stats_are_numbers_of_this_cgroup");
    let cgroup = Cgroup::create(&host.plan("st", "{}")).unwrap();
    let mut child =
        inside(&cgroup, "x=$(head -c 1000000 /dev/zero | tr '\\0' a); i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; sleep 100");
    let used = |stats: &Stats| stats.cpu.usage.total > 1_000_000 && (!host.has("memory") || stats.memory.usage.usage > 0);
    wait_until("processor time and memory", || used(&cgroup.stats().unwrap()));
    let stats = cgroup.stats().unwrap();
    assert!(stats.pids.current >= 1, "{stats:?}");
    if host.has("memory") {
        assert!(
            stats.memory.usage.usage > 0 && stats.memory.usage.limit > stats.memory.usage.usage && !stats.memory.raw.is_empty(),
            "{stats:?}"
        );
    }
    if host.has("cpuset") && !host.is_v2() {
        assert!(!stats.cpuset.cpus.is_empty());
    }
    let json = serde_json::to_value(&stats).unwrap();
    for key in ["cpu", "cpuset", "memory", "pids", "blkio", "hugetlb", "intel_rdt", "network_interfaces"] {
        assert!(json.get(key).is_some(), "{key}");
    }
    cgroup.kill().unwrap();
    child.wait().unwrap();
    cgroup.remove(SOON).unwrap();
    cgroup.stats().unwrap();
}

#[test]
fn running_out_of_memory_is_noticed() {
    let host = host!("running_out_of_memory_is_noticed");
    if !host.has("memory") {
        println!("skip running_out_of_memory_is_noticed: no memory controller");
        assert_eq!(Cgroup::create(&host.plan("o", "{}")).unwrap().oom_events().unwrap_err().kind(), Kind::Unsupported);
        return;
    }
    let cgroup = Cgroup::create(&host.plan("o", r#"{"memory":{"limit":8388608}}"#)).unwrap();
    let mut events = cgroup.oom_events().unwrap();
    assert_eq!(events.read().unwrap(), OomNotice::Nothing);
    let mut child = inside(&cgroup, "x=aaaaaaaaaaaaaaaa; while :; do x=$x$x; done");
    let mut fds = [rustix::event::PollFd::new(&events, rustix::event::PollFlags::IN)];
    rustix::event::poll(&mut fds, Some(&rustix::event::Timespec { tv_sec: 10, tv_nsec: 0 })).unwrap();
    assert_eq!(events.read().unwrap(), OomNotice::Oom);
    child.wait().unwrap();
    assert!(cgroup.oom_kills() > 0);
    cgroup.remove(SOON).unwrap();
    let mut fds = [rustix::event::PollFd::new(&events, rustix::event::PollFlags::IN)];
    rustix::event::poll(&mut fds, Some(&rustix::event::Timespec { tv_sec: 10, tv_nsec: 0 })).unwrap();
    assert_eq!(events.read().unwrap(), OomNotice::Ended);
}

#[test]
fn exec_goes_below_and_never_out() {
    let host = host!("exec_goes_below_and_never_out");
    let plan = host.plan("e", "{}");
    let cgroup = Cgroup::create(&plan).unwrap();
    for d in dirs(plan.paths()) {
        fs::create_dir(format!("{d}/sub")).unwrap();
        // nobody can enter a new cpuset of v1 before it is filled
        for file in ["cpuset.cpus", "cpuset.mems"].into_iter().filter(|_| !host.is_v2()) {
            if let Ok(text) = fs::read(format!("{d}/{file}")) {
                fs::write(format!("{d}/sub/{file}"), text).unwrap();
            }
        }
    }
    for path in ["..", "../..", "sub/../.."] {
        let e = cgroup.exec_target(&[path.into()]).unwrap_err().to_string();
        assert_eq!(e, format!("bad sub cgroup path: {path}"));
    }
    let e = cgroup.exec_target(&["nosuch".into()]).unwrap_err().to_string();
    assert!(e.contains("open cgroup /") && e.ends_with("no such file or directory"), "{e}");
    for (sub, end) in [("/", "/e"), ("sub", "/e/sub"), ("/sub", "/e/sub"), ("./sub/../sub", "/e/sub")] {
        let target = cgroup.exec_target(&[sub.into()]).unwrap();
        let mut child = inside(&target, "exec sleep 100");
        let proc_cgroup = fs::read(format!("/proc/{}/cgroup", child.id())).unwrap();
        let text = String::from_utf8_lossy(&proc_cgroup);
        assert_eq!(text.lines().filter(|l| l.ends_with(&format!("{}{end}", host.base))).count(), dirs(plan.paths()).len(), "{text}");
        let fallback = Cgroup::exec_fallback(&host.layout, &proc_cgroup).unwrap();
        assert_eq!(fallback.is_some(), host.is_v2());
        if let Some(fallback) = fallback {
            assert_eq!(fallback.processes().unwrap(), [child.id() as i32]);
        }
        cgroup.kill().unwrap();
        child.wait().unwrap();
    }
    if !host.is_v2() {
        let e = cgroup.exec_target(&["whaaat:/".into()]).unwrap_err().to_string();
        assert!(e.contains("unknown controller whaaat"), "{e}");
        let target = cgroup.exec_target(&["devices:sub".into()]).unwrap();
        let mut child = inside(&target, "exec sleep 100");
        let text = fs::read_to_string(format!("/proc/{}/cgroup", child.id())).unwrap();
        assert_eq!(text.lines().filter(|l| l.ends_with("/e/sub")).count(), 1, "{text}");
        cgroup.kill().unwrap();
        child.wait().unwrap();
    }
    cgroup.remove(SOON).unwrap();
}
