//! Tests with real cgroups. They need root and a writable cgroup tree. Each test works below its own directory and removes it. A
//! test of a missing feature (a controller, v1, v2) is skipped and prints the reason.
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

/// The cgroup path of one test, and the host.
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

    /// Whether limits of a controller can be set.
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

/// A shell command in a cgroup. It waits for a line on its standard input before it runs.
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

// after the macro, because these files use it
mod lifecycle;
mod limits;
