//! The shim alone, with this test in containerd's place: order, faults, and calls that containerd never makes.

#[path = "shim/faults.rs"]
mod faults;
#[path = "shim/forks.rs"]
mod forks;
#[path = "shim/freeze.rs"]
mod freeze;
#[path = "shim/rootfs.rs"]
mod rootfs;

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use integration::message::Message;
use integration::shim::{Answer, Shim, refused};
use integration::{Test, cgroups, check};

// status codes of gRPC
const INVALID: u64 = 3;
const NOT_FOUND: u64 = 5;
const EXISTS: u64 = 6;
const EXHAUSTED: u64 = 8;
const PRECONDITION: u64 = 9;
const UNIMPLEMENTED: u64 = 12;

fn of(id: &str) -> Message {
    Message::new().text(1, id)
}

fn refuses(answer: Answer, code: u64, text: &str) -> Result<()> {
    match answer {
        Err(e) if e.code == code && e.text.contains(text) => Ok(()),
        other => anyhow::bail!("{other:?} instead of {code} with {text:?}"),
    }
}

/// The events of one container.
fn events_of<'e>(shim: &'e Shim<'_>, id: &str) -> Vec<&'e str> {
    let name =
        |e: &&String| e.split_once(' ').is_some_and(|(_, name)| name == id || name.strip_prefix(id).is_some_and(|n| n.starts_with('/')));
    shim.events.iter().filter(name).map(|e| e.split_once(' ').map_or("", |(topic, _)| topic)).collect()
}

/// Runs `body` with the shim for the runtime under test. Without a shim the test is skipped.
fn with_shim(t: &Test, args: &[&str], body: impl FnOnce(&mut Shim<'_>, &integration::Bundle, &str) -> Result<()>) -> Result<()> {
    let mut bundle = t.bundle()?;
    let id = t.new_id();
    bundle.args(args.iter().copied()).write()?;
    let mut shim = match Shim::start(t, &bundle, &id) {
        Err(e) if !t.runtime.is("masu") => return t.skip(&format!("no shim for it: {e:#}")),
        result => result?,
    };
    let result = body(&mut shim, &bundle, &id);
    if result.is_err() {
        // cleans up after a test that failed early
        let _ = shim.kill();
        let _ = shim.delete_action(&bundle, &id);
        return result;
    }
    shim.shut_down()
}

#[test]
fn calls_in_the_wrong_order_are_errors_and_events_are_in_order() {
    check(|t| {
        with_shim(t, &["/bin/payload", "sleep"], |shim, bundle, id| {
            refuses(shim.call("State", of(id))?, NOT_FOUND, "not found")?;
            refuses(shim.call("Delete", of(id))?, NOT_FOUND, "not found")?;
            let create = shim.create_message(bundle, id, "");
            let pid = shim.call("Create", create.clone())?.map_err(refused)?.number(1);
            if t.runtime.is("masu") {
                // containerd's shim makes a second container in place of the first
                refuses(shim.call("Create", create)?, EXISTS, "exists")?;
            }
            ensure!(shim.call("State", of(id))?.map_err(refused)?.number(4) == 1, "not created");
            refuses(shim.call("Start", of(id).text(2, "none"))?, NOT_FOUND, "not found")?;
            ensure!(shim.call("Start", of(id))?.map_err(refused)?.number(1) == pid, "another pid");
            ensure!(shim.call("Start", of(id))?.is_err(), "started twice");
            ensure!(shim.call("Delete", of(id))?.is_err(), "deleted while it runs");
            shim.exec(id, "e", &["/bin/true"])?;
            ensure!(shim.exec(id, "e", &["/bin/true"]).is_err(), "two execs of one id");
            refuses(shim.call("Kill", of(id).text(2, "e").number(3, 9))?, PRECONDITION, "not created")?;
            let wait = shim.begin("Wait", of(id).text(2, "e"))?;
            shim.call("Start", of(id).text(2, "e"))?.map_err(refused)?;
            ensure!(shim.finish(wait)?.map_err(refused)?.number(1) == 0, "true failed");
            refuses(shim.call("Kill", of(id).text(2, "e").number(3, 9))?, NOT_FOUND, "already finished")?;
            shim.call("Delete", of(id).text(2, "e"))?.map_err(refused)?;
            let waits: Vec<_> = (0..3).map(|_| shim.begin("Wait", of(id))).collect::<Result<_>>()?;
            shim.call("Kill", of(id).number(3, 9))?.map_err(refused)?;
            for wait in waits {
                ensure!(shim.finish(wait)?.map_err(refused)?.number(1) == 137, "not killed");
            }
            refuses(shim.call("Kill", of(id).number(3, 9))?, NOT_FOUND, "already finished")?;
            ensure!(shim.exec(id, "late", &["/bin/true"]).is_err(), "exec in what has ended");
            let state = shim.call("State", of(id))?.map_err(refused)?;
            ensure!((state.number(3), state.number(4), state.number(9)) == (pid, 3, 137), "{state:?}");
            // a shim with a container does not shut down
            shim.call("Shutdown", of(id))?.map_err(refused)?;
            ensure!(shim.call("Delete", of(id))?.map_err(refused)?.number(2) == 137, "another status");
            shim.until(|events| events.iter().any(|e| e.starts_with("delete")))?;
            let expected = ["create", "start", "exec-added", "exec-started", "exit", "exit", "delete"];
            ensure!(events_of(shim, id) == expected, "{:?}", shim.events);
            Ok(())
        })
    });
}

#[test]
fn damaged_requests_hurt_nobody_but_their_caller() {
    check(|t| {
        with_shim(t, &["/bin/payload", "sleep"], |shim, bundle, id| {
            shim.run(bundle, id)?;
            let stream = shim.begin("NoSuchMethod", of(id))?;
            refuses(shim.finish(stream)?, UNIMPLEMENTED, "")?;
            let stream = shim.begin_at("no.such.Service", "State", of(id))?;
            refuses(shim.finish(stream)?, UNIMPLEMENTED, "")?;
            let damaged = shim.call("State", Message(vec![0x0a, 0x7f, 0x61]))?;
            if t.runtime.is("masu") {
                refuses(damaged, INVALID, "malformed")?;
                // containerd's shim does not answer these
                shim.send(1001, b"\x0a\xff")?;
                refuses(shim.finish(1001)?, INVALID, "malformed")?;
                shim.send(1003, &vec![0; (4 << 20) + 1])?;
                refuses(shim.finish(1003)?, EXHAUSTED, "maximum size")?;
            }
            // a false header, and half a frame, over other connections
            shim.connect()?.write_all(&[0xff; 64])?;
            shim.connect()?.write_all(&[0, 0, 0, 200, 0, 0, 0, 1, 1, 0, 10])?;
            let idle = shim.connect()?;
            ensure!(shim.call("State", of(id))?.map_err(refused)?.number(4) == 2, "not running");
            drop(idle);
            shim.end(id)
        })
    });
}

#[test]
fn events_wait_until_containerd_is_back() {
    check(|t| {
        with_shim(t, &["/bin/payload", "sleep"], |shim, bundle, id| {
            shim.run(bundle, id)?;
            shim.until(|events| events.len() == 2)?;
            shim.stop_events()?;
            for n in 0..5 {
                let exec = format!("e{n}");
                shim.exec(id, &exec, &["/bin/true"])?;
                let wait = shim.begin("Wait", of(id).text(2, &exec))?;
                shim.call("Start", of(id).text(2, &exec))?.map_err(refused)?;
                shim.finish(wait)?.map_err(refused)?;
            }
            std::thread::sleep(Duration::from_secs(1));
            ensure!(shim.events.len() == 2, "{:?}", shim.events);
            shim.take_events()?;
            if !t.runtime.is("masu") {
                t.differs(t.runtime.kind, "containerd's shim gives up events after five tries");
                return shim.end(id);
            }
            shim.until(|events| events.len() >= 17)?;
            let expected: Vec<String> =
                (0..5).flat_map(|n| ["exec-added", "exec-started", "exit"].map(|topic| format!("{topic} {id}/e{n}"))).collect();
            ensure!(shim.events[2..] == expected, "{:?}", shim.events);
            shim.end(id)
        })
    });
}

#[test]
fn no_exit_of_many_execs_is_lost_and_that_of_init_is_the_last() {
    check(|t| {
        with_shim(t, &["/bin/payload", "sleep"], |shim, bundle, id| {
            if !t.runtime.is("masu") {
                t.differs(t.runtime.kind, "containerd's shim answers forty calls at once on one connection late, or not at all");
                return Ok(());
            }
            const N: u64 = 40;
            shim.run(bundle, id)?;
            for n in 0..N {
                shim.exec(id, &format!("e{n}"), &["/bin/payload", "exit", &n.to_string()])?;
            }
            let calls: Vec<_> = (0..N)
                .map(|n| {
                    let exec = of(id).text(2, &format!("e{n}"));
                    Ok((shim.begin("Wait", exec.clone())?, shim.begin("Start", exec)?))
                })
                .collect::<Result<_>>()?;
            for (n, (wait, start)) in (0..).zip(calls) {
                shim.finish(start)?.map_err(refused)?;
                let status = shim.finish(wait)?.map_err(refused)?.number(1);
                ensure!(status == n, "exec {n} ended with {status}");
            }
            // further processes, which end together with init
            for n in 0..5 {
                let exec = format!("long{n}");
                shim.exec(id, &exec, &["/bin/sleep"])?;
                shim.call("Start", of(id).text(2, &exec))?.map_err(refused)?;
            }
            let wait = shim.begin("Wait", of(id))?;
            shim.call("Kill", of(id).number(3, 9))?.map_err(refused)?;
            ensure!(shim.finish(wait)?.map_err(refused)?.number(1) == 137, "not killed");
            shim.call("Delete", of(id))?.map_err(refused)?;
            shim.until(|events| events.iter().any(|e| e.starts_with("delete")))?;
            let exits: Vec<_> = shim.events.iter().filter(|e| e.starts_with("exit")).collect();
            ensure!(exits.len() as u64 == N + 6, "{} exits", exits.len());
            ensure!(exits.last().is_some_and(|e| **e == format!("exit {id}")), "init's is not the last: {exits:?}");
            // each exit comes after its start
            for n in 0..N {
                let at = |topic: &str| shim.events.iter().position(|e| *e == format!("{topic} {id}/e{n}"));
                ensure!(at("exec-started") < at("exit") && at("exec-started").is_some(), "exec {n}: {:?}", shim.events);
            }
            Ok(())
        })
    });
}

#[test]
fn a_killed_shim_is_cleared_by_delete_and_that_can_be_repeated() {
    check(|t| {
        for paused in [false, true] {
            let mut bundle = t.bundle()?;
            let id = t.new_id();
            bundle.args(["/bin/payload", "sleep"]).write()?;
            let mut shim = match Shim::start(t, &bundle, &id) {
                Err(e) if !t.runtime.is("masu") => return t.skip(&format!("no shim for it: {e:#}")),
                result => result?,
            };
            shim.run(&bundle, &id)?;
            if !t.runtime.is("masu") {
                t.differs(t.runtime.kind, "delete of containerd's own shim fails outside of containerd");
                shim.end(&id)?;
                shim.shut_down()?;
                continue;
            }
            let pid = shim.call("State", of(&id))?.map_err(refused)?.number(3);
            if paused {
                shim.call("Pause", of(&id))?.map_err(refused)?;
            }
            shim.kill()?;
            ensure!(shim.delete_action(&bundle, &id)? == (pid, 137), "delete says otherwise");
            ensure!(shim.delete_action(&bundle, &id)? == (pid, 137), "the second delete says otherwise");
        }
        Ok(())
    });
}

/// As in a restart: the old shim still has events to send when the next one is there.
#[test]
fn a_shim_that_ends_leaves_the_socket_of_the_next_alone() {
    check(|t| {
        let (id, mut bundle, mut again) = (t.new_id(), t.bundle()?, t.bundle()?);
        for bundle in [&mut bundle, &mut again] {
            bundle.args(["/bin/payload", "sleep"]).write()?;
        }
        let mut first = match Shim::start(t, &bundle, &id) {
            Err(e) if !t.runtime.is("masu") => return t.skip(&format!("no shim for it: {e:#}")),
            result => result?,
        };
        first.run(&bundle, &id)?;
        first.until(|events| events.len() == 2)?;
        first.stop_events()?;
        first.end(&id)?;
        let shutdown = first.begin("Shutdown", Message::new())?;
        let socket = first.address().trim_start_matches("unix://").to_owned();
        let deadline = Instant::now() + Duration::from_secs(20);
        while Path::new(&socket).exists() {
            ensure!(Instant::now() < deadline, "the socket stays");
            std::thread::sleep(Duration::from_millis(5));
        }
        let mut next = Shim::start(t, &again, &id)?;
        assert_eq!(next.address(), first.address());
        first.until_ended(shutdown)?;
        next.connect().context("the next shim")?;
        next.run(&again, &id)?;
        next.end(&id)?;
        next.shut_down()
    });
}

#[test]
fn a_group_has_one_shim() {
    check(|t| {
        let mut bundle = t.bundle()?;
        let (pod, id, other) = (t.new_id(), t.new_id(), t.new_id());
        bundle.args(["/bin/payload", "sleep"]).config["annotations"] = serde_json::json!({"io.kubernetes.cri.sandbox-id": pod});
        bundle.write()?;
        let mut second = t.bundle()?;
        second.args(["/bin/payload", "sleep"]).config["annotations"] = serde_json::json!({"io.kubernetes.cri.sandbox-id": pod});
        second.write()?;
        let mut shim = match Shim::start(t, &bundle, &id) {
            Err(e) if !t.runtime.is("masu") => return t.skip(&format!("no shim for it: {e:#}")),
            result => result?,
        };
        shim.run(&bundle, &id)?;
        ensure!(shim.address_for(&second, &other)? == shim.address(), "two shims for one group");
        shim.run(&second, &other)?;
        let at = |i: &str| Message::new().text(1, i);
        shim.end(&id)?;
        ensure!(shim.call("State", at(&other))?.map_err(refused)?.number(4) == 2, "the other one does not run");
        shim.end(&other)?;
        shim.shut_down()
    });
}

#[test]
fn delete_of_a_pod_whose_shim_is_gone_ends_its_other_containers_too() {
    check(|t| {
        let (pod, other) = (t.new_id(), t.new_id());
        let bundle_of = |pod: &str| -> Result<integration::Bundle> {
            let mut bundle = t.bundle()?;
            bundle.args(["/bin/payload", "sleep"]).config["annotations"] = serde_json::json!({"io.kubernetes.cri.sandbox-id": pod});
            bundle.write()?;
            Ok(bundle)
        };
        let (first, second) = (bundle_of(&pod)?, bundle_of(&pod)?);
        if !t.runtime.is("masu") {
            t.differs(t.runtime.kind, "containerd's own shim leaves them running");
            return Ok(());
        }
        let mut shim = Shim::start(t, &first, &pod)?;
        shim.run(&first, &pod)?;
        shim.run(&second, &other)?;
        let pid = shim.call("State", of(&other))?.map_err(refused)?.number(3);
        // the pod's first container is removed, but the shim still serves the other
        shim.delete_action(&first, &pod)?;
        ensure!(shim.call("State", of(&other))?.map_err(refused)?.number(4) == 2, "the other one does not run");
        shim.kill()?;
        shim.delete_action(&first, &pod)?;
        let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        ensure!(state.is_empty() || state.contains(") Z "), "the other one goes on: {state}");
        shim.delete_action(&first, &pod)?;
        ensure!(shim.delete_action(&second, &other)?.1 == 137, "another status");
        Ok(())
    });
}

#[test]
fn a_container_whose_record_was_removed_can_be_ended() {
    check(|t| {
        with_shim(t, &["/bin/payload", "sleep"], |shim, bundle, id| {
            shim.run(bundle, id)?;
            if !t.runtime.is("masu") {
                t.differs(t.runtime.kind, "such a container runs on");
                return shim.end(id);
            }
            let record = t.root().join("it").join(id);
            let kept = t.path().join("kept");
            std::fs::rename(&record, &kept)?;
            let wait = shim.begin("Wait", of(id))?;
            shim.call("Kill", of(id).number(3, 9))?.map_err(refused)?;
            ensure!(shim.finish(wait)?.map_err(refused)?.number(1) == 137, "not killed");
            // the record is the only source of its cgroup
            std::fs::rename(&kept, &record)?;
            shim.call("Delete", of(id))?.map_err(refused)?;
            Ok(())
        })
    });
}

#[test]
fn a_fifo_that_nobody_opens_holds_up_its_own_container_alone() {
    check(|t| {
        with_shim(t, &["/bin/payload", "sleep"], |shim, bundle, id| {
            if !t.runtime.is("masu") {
                t.differs(t.runtime.kind, "containerd's shim holds up every other call for as long");
                return Ok(());
            }
            let fifo = t.path().join("unread");
            rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0)?;
            let create = shim.begin("Create", shim.create_message(bundle, id, &fifo.to_string_lossy()))?;
            let (mut second, other) = (t.bundle()?, t.new_id());
            second.args(["/bin/payload", "sleep"]).write()?;
            shim.run(&second, &other)?;
            shim.end(&other)?;
            // the shim waits for some time, but not without end
            shim.finish(create)?.map_err(refused)?;
            shim.call("Start", of(id))?.map_err(refused)?;
            shim.end(id)
        })
    });
}

#[test]
fn without_descriptors_an_exec_fails_and_the_rest_goes_on() {
    check(|t| {
        with_shim(t, &["/bin/payload", "sleep"], |shim, bundle, id| {
            if !t.runtime.is("masu") {
                return shim.run(bundle, id).and_then(|()| shim.end(id));
            }
            shim.run(bundle, id)?;
            shim.exec(id, "e", &["/bin/true"])?;
            let pid = rustix::process::Pid::from_raw(shim.pid);
            let files = rustix::process::Resource::Nofile;
            // the shim has the same limits as this test
            let before = rustix::process::getrlimit(files);
            rustix::process::prlimit(pid, files, rustix::process::Rlimit { current: Some(9), ..before })?;
            ensure!(shim.call("Start", of(id).text(2, "e"))?.is_err(), "started without descriptors");
            ensure!(shim.call("State", of(id))?.map_err(refused)?.number(4) == 2, "not running");
            rustix::process::prlimit(pid, files, before)?;
            shim.call("Delete", of(id).text(2, "e"))?.map_err(refused)?;
            shim.exec(id, "e", &["/bin/true"])?;
            let wait = shim.begin("Wait", of(id).text(2, "e"))?;
            shim.call("Start", of(id).text(2, "e"))?.map_err(refused)?;
            ensure!(shim.finish(wait)?.map_err(refused)?.number(1) == 0, "true failed");
            shim.end(id)
        })
    });
}

#[test]
fn an_update_takes_annotations_and_heeds_the_limits() {
    check(|t| {
        if !cgroups::has("pids") {
            return t.skip("no pids controller");
        }
        with_shim(t, &["/bin/payload", "sleep"], |shim, bundle, id| {
            shim.run(bundle, id)?;
            let pid = shim.call("State", of(id))?.map_err(refused)?.number(3) as i32;
            let pid = rustix::process::Pid::from_raw(pid).context("a pid")?;
            let limits =
                |text: &str| Message::new().text(1, "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources").text(2, text);
            // annotations are for runtimes with their own limits; these have a group, and a property of systemd
            let annotations = |message: Message| {
                [("io.kubernetes.cri.sandbox-id", "other"), ("org.systemd.property.TasksMax", "1"), ("", "")]
                    .iter()
                    .fold(message, |message, (key, value)| message.message(3, Message::new().text(1, key).text(2, value)))
            };
            let update = annotations(of(id).message(2, limits(r#"{"pids":{"limit":321}}"#)));
            shim.call("Update", update)?.map_err(refused)?;
            ensure!(cgroups::read(pid, "pids", "pids.max")?.trim() == "321", "the limit is not that of the update");
            if t.runtime.is("masu") {
                shim.call("Update", annotations(of(id)))?.map_err(refused)?;
                // an Update without content is a mistake
                refuses(shim.call("Update", of(id))?, INVALID, "neither resources nor annotations")?;
                refuses(shim.call("Update", of(id).message(2, limits("{")))?, INVALID, "update failed")?;
            } else {
                t.differs(t.runtime.kind, "an update without limits ends containerd's shim");
            }
            ensure!(cgroups::read(pid, "pids", "pids.max")?.trim() == "321", "the limit changed");
            shim.end(id)
        })
    });
}

/// The core scheduling cookie of a process (prctl(2), PR_SCHED_CORE). 0 means none.
fn cookie(pid: i32) -> Result<u64, rustix::io::Errno> {
    let pid = rustix::process::Pid::from_raw(pid).unwrap_or(rustix::process::getpid());
    rustix::thread::core_scheduling_cookie(pid, rustix::thread::CoreSchedulingScope::Thread)
}

#[test]
fn a_pod_is_scheduled_on_cores_of_its_own_if_containerd_says_so() {
    check(|t| {
        let mut bundle = t.bundle()?;
        let id = t.new_id();
        bundle.args(["/bin/payload", "sleep"]).write()?;
        let started = Shim::start_with(t, &bundle, &id, &[("SCHED_CORE", "1")]);
        if let Err(lacking) = cookie(0) {
            let said = format!("{:#}", started.err().context("it started, and this kernel cannot do what it was told")?);
            ensure!(!t.runtime.is("masu") || said.contains("SCHED_CORE"), "{said}");
            return t.skip(&format!("no core scheduling in this kernel, or no threads in its cores: {lacking}"));
        }
        let mut shim = match started {
            Err(e) if !t.runtime.is("masu") => return t.skip(&format!("no shim for it: {e:#}")),
            result => result?,
        };
        shim.run(&bundle, &id)?;
        let init = shim.call("State", of(&id))?.map_err(refused)?.number(3) as i32;
        let (own, of_shim, of_init) = (cookie(0)?, cookie(shim.pid)?, cookie(init)?);
        ensure!(of_shim != own && of_shim != 0 && of_shim == of_init, "cookies: {own:x} ours, {of_shim:x} the shim's, {of_init:x} init's");
        shim.end(&id)?;
        shim.shut_down()
    });
}
