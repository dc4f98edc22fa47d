//! Pods of the shim (containerd.runtime.sandbox.v1), with this test in containerd's place. containerd's own shim has no such
//! service.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::message::Message;
use integration::shim::{Answer, Refused, SANDBOX, Shim, refused};
use integration::{Bundle, Test, check};

// status codes of gRPC
const INVALID: u64 = 3;
const NOT_FOUND: u64 = 5;
const EXISTS: u64 = 6;
const PRECONDITION: u64 = 9;
const UNIMPLEMENTED: u64 = 12;

// the modes of a pod's namespaces
const POD: u64 = 0;
const CONTAINER: u64 = 1;

fn of(id: &str) -> Message {
    Message::new().text(1, id)
}

fn code(answer: Answer) -> u64 {
    answer.map_or_else(|Refused { code, .. }| code, |_| 0)
}

/// The namespace of a process, as a link target.
fn ns(pid: i32, kind: &str) -> Result<String> {
    let path = format!("/proc/{pid}/ns/{kind}");
    Ok(fs::read_link(&path).with_context(|| path)?.to_string_lossy().into_owned())
}

/// The id of this test's thread, which has its own namespaces.
fn own() -> i32 {
    rustix::thread::gettid().as_raw_nonzero().get()
}

/// Whether `is` becomes true within two seconds.
fn in_time(is: impl Fn() -> bool) -> bool {
    (0..200).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        is()
    })
}

/// A CreateSandbox message: the host's network, its own host name, and the mode `pids` for the pid namespace.
fn create(bundle: &Bundle, id: &str, pids: u64, sysctl: &str) -> Message {
    let modes = Message::new().number(1, POD).number(2, pids).number(3, POD);
    let sysctls = Message::new().text(1, sysctl).text(2, "12345");
    let linux = Message::new().message(2, Message::new().message(1, modes)).message(3, sysctls);
    let dns = Message::new().text(1, "10.9.8.7");
    let config = Message::new().text(2, "pod-host").message(4, dns).message(8, linux);
    let any = Message::new().text(1, "runtime.v1.PodSandboxConfig").bytes(2, &config.0);
    of(id).text(2, &bundle.path().to_string_lossy()).message(4, any)
}

/// A bundle for a container that joins the namespaces of the pod's process.
fn container(t: &Test, pid: i32, shares_pids: bool) -> Result<Bundle> {
    let mut bundle = t.bundle()?;
    bundle.args(["/bin/payload", "sleep"]);
    for namespace in bundle.config["linux"]["namespaces"].as_array_mut().context("no namespaces")? {
        let file = match namespace["type"].as_str() {
            Some("ipc") => "ipc",
            Some("uts") => "uts",
            Some("pid") if shares_pids => "pid",
            _ => continue,
        };
        namespace["path"] = format!("/proc/{pid}/ns/{file}").into();
    }
    // the pod has these already
    bundle.config["hostname"] = serde_json::Value::Null;
    Ok(bundle)
}

fn only_masu(t: &Test) -> bool {
    if t.runtime.is("masu") {
        return true;
    }
    t.differs(t.runtime.kind, "containerd's shim makes no pods");
    false
}

#[test]
fn a_pod_lives_in_the_shim_and_goes_with_it() {
    check(|t| {
        if !only_masu(t) {
            return Ok(());
        }
        let (mut sandbox, id, inside) = (t.bundle()?, t.new_id(), t.new_id());
        sandbox.args(["/none"]).write()?;
        // a pod's bundle has no config
        fs::remove_file(sandbox.path().join("config.json"))?;
        let mut shim = Shim::start(t, &sandbox, &id)?;
        ensure!(code(shim.call_sandbox("StartSandbox", of(&id))?) == NOT_FOUND, "started before it is there");
        let refusal = code(shim.call_sandbox("CreateSandbox", create(&sandbox, &id, CONTAINER, "kernel.panic"))?);
        ensure!(refusal == INVALID, "a sysctl of the host: {refusal}");
        shim.call_sandbox("CreateSandbox", create(&sandbox, &id, CONTAINER, "kernel.shmmax"))?.map_err(refused)?;
        ensure!(code(shim.call_sandbox("CreateSandbox", create(&sandbox, &id, CONTAINER, "kernel.shmmax"))?) == EXISTS, "two pods");
        let status = shim.call_sandbox("SandboxStatus", of(&id))?.map_err(refused)?;
        ensure!(status.text(3) == "SANDBOX_NOTREADY", "{status:?}");
        let pid = shim.call_sandbox("StartSandbox", of(&id))?.map_err(refused)?.number(1) as i32;
        ensure!(pid == shim.pid, "a process for the pod");
        ensure!(code(shim.call_sandbox("StartSandbox", of(&id))?) == PRECONDITION, "started twice");
        ensure!(code(shim.call_sandbox("StartSandbox", of("other"))?) == NOT_FOUND, "another pod");
        ensure!(code(shim.call_sandbox("Fly", of(&id))?) == UNIMPLEMENTED, "a method that there is not");
        let status = shim.call_sandbox("SandboxStatus", of(&id))?.map_err(refused)?;
        ensure!(status.text(3) == "SANDBOX_READY" && status.number(2) == pid as u64, "{status:?}");
        shim.call_sandbox("PingSandbox", of(&id))?.map_err(refused)?;
        let platform = shim.call_sandbox("Platform", of(&id))?.map_err(refused)?;
        ensure!(platform.message(1).is_some_and(|p| p.text(1) == "linux"), "{platform:?}");
        ensure!(ns(pid, "uts")? != ns(own(), "uts")? && ns(pid, "ipc")? != ns(own(), "ipc")?, "the host's namespaces");
        ensure!(ns(pid, "net")? == ns(own(), "net")? && ns(pid, "pid")? == ns(own(), "pid")?, "more than it asked for");
        // only the pod still needs the shim
        shim.call("Shutdown", of(&id))?.map_err(refused)?;

        let mut bundle = container(t, pid, false)?;
        let seen = t.path().join("hook");
        let hook = format!("readlink /proc/self/ns/uts >{}", seen.display());
        bundle.config["hooks"] = serde_json::json!({"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", hook]}]});
        bundle.write()?;
        shim.run(&bundle, &inside)?;
        let init = shim.call("State", of(&inside))?.map_err(refused)?.number(3) as i32;
        ensure!(ns(init, "uts")? == ns(pid, "uts")? && ns(init, "ipc")? == ns(pid, "ipc")?, "not the pod's namespaces");
        ensure!(fs::read_to_string(&seen)?.trim() == ns(own(), "uts")?, "the hook ran in the pod");
        let read = |path: &str| fs::read_to_string(format!("/proc/{init}/root{path}")).with_context(|| path.to_owned());
        ensure!(read("/etc/hostname")? == "pod-host\n" && read("/etc/resolv.conf")? == "nameserver 10.9.8.7\n", "other files");
        let mounts = fs::read_to_string(format!("/proc/{init}/mountinfo"))?;
        ensure!(mounts.lines().any(|line| line.contains(" /dev/shm ") && line.contains("65536k")), "{mounts}");

        let wait = shim.begin_at(SANDBOX, "WaitSandbox", of(&id))?;
        let ends = shim.begin("Wait", of(&inside))?;
        shim.call_sandbox("StopSandbox", of(&id))?.map_err(refused)?;
        shim.finish(wait)?.map_err(refused)?;
        ensure!(shim.finish(ends)?.map_err(refused)?.number(1) == 137, "the container went on");
        shim.call_sandbox("StopSandbox", of(&id))?.map_err(refused)?;
        shim.call_sandbox("WaitSandbox", of(&id))?.map_err(refused)?;
        let status = shim.call_sandbox("SandboxStatus", of(&id))?.map_err(refused)?;
        ensure!(status.text(3) == "SANDBOX_NOTREADY", "{status:?}");
        ensure!(ns(pid, "uts")? == ns(own(), "uts")? && ns(pid, "ipc")? == ns(own(), "ipc")?, "still in the pod");
        shim.call("Delete", of(&inside))?.map_err(refused)?;
        let last = shim.begin_at(SANDBOX, "ShutdownSandbox", of(&id))?;
        shim.until_ended(last)
    });
}

#[test]
fn a_pod_with_one_pid_namespace_has_a_process_that_dies_with_the_shim() {
    check(|t| {
        if !only_masu(t) {
            return Ok(());
        }
        let (mut sandbox, id, inside) = (t.bundle()?, t.new_id(), t.new_id());
        sandbox.args(["/none"]).write()?;
        let mut shim = Shim::start(t, &sandbox, &id)?;
        shim.call_sandbox("CreateSandbox", create(&sandbox, &id, POD, "kernel.shmmax"))?.map_err(refused)?;
        let pid = shim.call_sandbox("StartSandbox", of(&id))?.map_err(refused)?.number(1) as i32;
        ensure!(pid != shim.pid && ns(pid, "pid")? != ns(own(), "pid")?, "no pid namespace");
        // the process closes them soon after its start
        ensure!(in_time(|| fs::read_dir(format!("/proc/{pid}/fd")).is_ok_and(|fds| fds.count() == 3)), "it holds descriptors of the shim");
        let bundle = container(t, pid, true)?;
        bundle.write()?;
        shim.run(&bundle, &inside)?;
        let init = shim.call("State", of(&inside))?.map_err(refused)?.number(3) as i32;
        ensure!(ns(init, "pid")? == ns(pid, "pid")?, "not the pod's pid namespace");
        // one container exits, the others stay
        shim.end(&inside)?;
        shim.run(&bundle, &inside)?;
        let init = shim.call("State", of(&inside))?.map_err(refused)?.number(3) as i32;
        shim.kill()?;
        // init is a child of this test now, and its pid namespace ends when it is reaped
        rustix::process::waitpid(rustix::process::Pid::from_raw(init), rustix::process::WaitOptions::empty())?;
        let gone = || fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "));
        ensure!(in_time(gone), "the pod outlives the shim");
        ensure!(shim.delete_action(&bundle, &inside)?.1 == 137, "another status");
        shim.delete_action(&sandbox, &id)?;
        Ok(())
    });
}
