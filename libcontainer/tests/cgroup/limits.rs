//! The files of a cgroup: devices, limits, statistics, notices.

use super::*;

#[test]
fn device_rules_are_exactly_those_asked_for() {
    let host = host!("device_rules_are_exactly_those_asked_for");
    // /dev/kmsg (1:11) is not a default device; /dev/null and /dev/zero are
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
        // made again over the existing cgroup: the new program must replace the old one
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
    // all at once, because the order of the writes matters
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
            (r#"{"unified":{"cgroup.nosuch":"1"}}"#, r#"["cgroup.nosuch"]: unable to set unified resource "cgroup.nosuch": write "1" in "#),
            (r#"{"unified":{"cgroup.max.depth":"3","cgroup.events":"1"}}"#, r#"unable to set unified resource "cgroup.events""#),
        ] {
            let line = Cgroup::create(&host.plan("r", resources)).unwrap_err().to_string();
            assert!(line.starts_with("linux.resources.unified[") && line.contains(text), "{line}");
        }
        Cgroup::create(&host.plan("r", r#"{"unified":{"cgroup.max.depth":"3"}}"#)).unwrap();
    }
}

const HUGE: &str = r#"{"hugepageLimits":[{"pageSize":"2MB","limit":2097152}]}"#;

/// A directory of the test between the root cgroup and the container's cgroup.
fn parent(host: &Host) -> String {
    let dir = host.plan("x", "{}").paths().v2.clone().unwrap();
    let parent = dir.strip_suffix("/x").unwrap().to_owned();
    fs::create_dir(&parent).unwrap();
    parent
}

#[test]
fn a_parent_that_hands_no_controller_down_is_named() {
    let host = host!("a_parent_that_hands_no_controller_down_is_named");
    if !host.is_v2() || !host.has("hugetlb") {
        println!("skip a_parent_that_hands_no_controller_down_is_named: needs hugetlb of cgroup v2");
        return;
    }
    let parent = parent(&host);
    let mut inside = Command::new("sleep").arg("100").spawn().unwrap();
    fs::write(format!("{parent}/cgroup.procs"), inside.id().to_string()).unwrap();
    let e = Cgroup::create(&host.plan("sub", HUGE)).unwrap_err();
    inside.kill().unwrap();
    inside.wait().unwrap();
    let text = e.to_string();
    let part =
        format!("controller \"hugetlb\" not available: {parent} does not hand it down: device or resource busy (processes are in it");
    assert!(text.starts_with("linux.resources.hugepageLimits[0]: ") && text.to_lowercase().contains(&part), "{text}");
    assert_eq!(e.kind(), Kind::Unsupported);
    wait_until("the parent to be empty", || fs::remove_dir(&parent).is_ok());
}

#[test]
fn in_a_threaded_tree_it_is_threaded_unless_a_limit_forbids_that() {
    let host = host!("in_a_threaded_tree_it_is_threaded_unless_a_limit_forbids_that");
    if !host.is_v2() {
        println!("skip in_a_threaded_tree_it_is_threaded_unless_a_limit_forbids_that: needs cgroup v2");
        return;
    }
    let parent = parent(&host);
    let other = format!("{parent}/other");
    fs::create_dir(&other).unwrap();
    fs::write(format!("{other}/cgroup.type"), "threaded").unwrap();
    assert_eq!(read(&parent, "cgroup.type"), "domain threaded");
    let cgroup = Cgroup::create(&host.plan("sub", r#"{"unified":{"cgroup.max.depth":"3"}}"#)).unwrap();
    assert_eq!(read(&format!("{parent}/sub"), "cgroup.type"), "threaded");
    drop(cgroup);
    let e = Cgroup::create(&host.plan("sub", HUGE)).unwrap_err().to_string();
    assert!(e.contains("with domain controllers -- it is in an invalid state"), "{e}");
    fs::remove_dir(other).unwrap();
    fs::remove_dir(parent).unwrap();
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
