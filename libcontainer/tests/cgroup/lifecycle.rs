//! Cgroups are made, joined, frozen, killed and removed.

use super::*;

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
    // a second time: it adopts an empty directory, which existed before and stays
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
    // a shell in the cgroup runs this test program with the cgroup's paths; see below
    let paths = serde_json::to_string(plan.paths()).unwrap();
    let exe = std::env::current_exe().unwrap();
    let script = format!("KILL_OWN='{paths}' {} --exact --ignored --nocapture lifecycle::kill_our_own 2>&1", exe.display());
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
    // frozen processes die, too
    cgroup.kill().unwrap();
    child.wait().unwrap();
    if !host.is_v2() {
        return;
    }
    wait_until("all of them to be gone", || cgroup.processes().unwrap().is_empty());
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
    // wait until the sleeper is executed: before that the shell would handle the signal in its own trap
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
fn exec_goes_below_and_never_out() {
    let host = host!("exec_goes_below_and_never_out");
    let plan = host.plan("e", "{}");
    let cgroup = Cgroup::create(&plan).unwrap();
    for d in dirs(plan.paths()) {
        fs::create_dir(format!("{d}/sub")).unwrap();
        // no process can enter a new cpuset of v1 before its files are filled
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
