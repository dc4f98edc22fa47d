//! The sandbox service (containerd.runtime.sandbox.v1): a pod that the shim makes, without a pause container.
//!
//! The shim enters the pod's namespaces itself, and tells its own pid: so they last as long as it does, containers find them
//! below `/proc/PID/ns` as they find a pause container's, and nothing is left to be taken off should it be killed. Workers go
//! back to the host's namespaces. Only a pid namespace for the whole pod needs a process in it, which is then the one told.

use std::time::SystemTime;

use libcontainer::error::Error;
use masu_host::sys::clone::first_of_pid_namespace;
use rustix::process::{Pid, Signal};

use crate::daemon::{Answered, Daemon, Reply};
use crate::jobs::Then;
use crate::pod::{self, Plan};
use crate::rpc::frame::{code, decode, status};
use crate::rpc::messages::{
    Any, CreateSandboxRequest, EMPTY, Metric, Platform, PlatformResponse, Request, SandboxMetricsResponse, SandboxRequest,
    SandboxStatusResponse, StartSandboxResponse, Status, WaitResponse,
};
use crate::rpc::wire::Message;
use crate::runtime::{failed, stats};
use crate::state::{Caller, Exit, Sandbox};

pub(crate) const SERVICE: &str = "containerd.runtime.sandbox.v1.Sandbox";

pub(crate) fn call(daemon: &mut Daemon, caller: Caller, request: &Request) -> Answered {
    log::debug!("{}", request.method);
    if request.method == "CreateSandbox" {
        return create(daemon, &decode(request)?);
    }
    let SandboxRequest { sandbox_id } = decode(request)?;
    let missing = || status(code::NOT_FOUND, format!("sandbox {sandbox_id}: not found"));
    let sandbox = daemon.state.sandbox.as_mut().filter(|s| s.id == sandbox_id).ok_or_else(missing)?;
    match request.method.as_str() {
        "StartSandbox" => start(daemon),
        "Platform" => {
            let platform = Platform { os: "linux".into(), architecture: architecture().into() };
            Ok(Reply::Now(PlatformResponse { platform: Some(platform) }.encode()))
        }
        "StopSandbox" => {
            stop(daemon, 0);
            Ok(Reply::Now(EMPTY))
        }
        "WaitSandbox" => match sandbox.exit {
            Some(exit) => Ok(Reply::Now(ended(exit))),
            None => {
                sandbox.waiters.push(caller);
                Ok(Reply::Later)
            }
        },
        "SandboxStatus" => {
            let response = SandboxStatusResponse {
                sandbox_id,
                pid: sandbox.pid as u32,
                state: if sandbox.is_ready() { "SANDBOX_READY" } else { "SANDBOX_NOTREADY" }.into(),
                created_at: Some(sandbox.created_at.into()),
                exited_at: sandbox.exit.map(|e| e.at.into()),
            };
            Ok(Reply::Now(response.encode()))
        }
        "PingSandbox" => Ok(Reply::Now(EMPTY)),
        "ShutdownSandbox" => {
            stop(daemon, 0);
            let bundle = daemon.state.sandbox.take().map(|s| s.bundle).unwrap_or_default();
            pod::remove_files(&bundle).map_err(|e| failed("failed to unmount the pod's memory", &e))?;
            daemon.end();
            Ok(Reply::Now(EMPTY))
        }
        "SandboxMetrics" => metrics(sandbox).map(Reply::Now),
        method => Err(status(code::UNIMPLEMENTED, format!("method {method}"))),
    }
}

fn create(daemon: &mut Daemon, request: &CreateSandboxRequest) -> Answered {
    if daemon.state.sandbox.is_some() {
        return Err(status(code::ALREADY_EXISTS, format!("sandbox {}: this shim has one: already exists", request.sandbox_id)));
    }
    let plan = Plan::new(request.options.as_ref(), &request.netns_path).map_err(|e| failed("failed to create the sandbox", &e))?;
    daemon.state.sandbox = Some(Sandbox {
        id: request.sandbox_id.clone(),
        bundle: request.bundle_path.clone().into(),
        plan,
        created_at: SystemTime::now(),
        pid: 0,
        first: None,
        host: None,
        exit: None,
        waiters: Vec::new(),
    });
    Ok(Reply::Now(EMPTY))
}

fn start(daemon: &mut Daemon) -> Answered {
    let Some(sandbox) = daemon.state.sandbox.as_mut().filter(|s| s.pid == 0 && s.exit.is_none()) else {
        return Err(status(code::FAILED_PRECONDITION, "cannot start a sandbox that is not created"));
    };
    let bundle = sandbox.bundle.clone();
    let refused = |e| {
        // what may be mounted by now; an error is there to report already
        let _ = pod::remove_files(&bundle);
        failed("failed to start the sandbox", &e)
    };
    sandbox.plan.make_files(&bundle).map_err(refused)?;
    let host = sandbox.plan.enter().map_err(refused)?;
    let mut pid = rustix::process::getpid().as_raw_nonzero().get();
    if sandbox.plan.shares_pids {
        match first_of_pid_namespace(c"pod") {
            Ok(first) => {
                sandbox.first = Some(first);
                pid = first;
            }
            Err(e) => {
                host.join().map_err(refused)?;
                return Err(refused(Error::from(e).context("make a pid namespace of the pod")));
            }
        }
    }
    sandbox.host = Some(host);
    sandbox.pid = pid;
    let response = StartSandboxResponse { pid: pid as u32, created_at: Some(sandbox.created_at.into()) };
    Ok(Reply::Now(response.encode()))
}

/// Ends what runs in the pod, and leaves its namespaces. Once more does nothing.
pub(crate) fn stop(daemon: &mut Daemon, exit_status: u32) {
    let Some(sandbox) = daemon.state.sandbox.as_mut().filter(|s| s.exit.is_none()) else { return };
    let exit = Exit { status: exit_status, at: SystemTime::now() };
    sandbox.exit = Some(exit);
    let waiters = std::mem::take(&mut sandbox.waiters);
    if let Some(first) = sandbox.first.take().and_then(Pid::from_raw) {
        // not reaped, so its number is its own
        let _ = rustix::process::kill_process(first, Signal::KILL);
    }
    if let Some(host) = sandbox.host.take()
        && let Err(e) = host.join()
    {
        log::error!("{e}");
    }
    let running: Vec<_> = daemon.state.containers.iter().filter(|(_, c)| c.init.pid != 0 && c.init.reaped.is_none()).collect();
    let running: Vec<_> = running.into_iter().map(|(id, c)| (id.clone(), c.bundle.clone(), c.runtime.clone())).collect();
    for (id, bundle, runtime) in running {
        let kill = Signal::KILL.as_raw() as u32;
        if let Err(e) = daemon.work(Then::Nothing, move || runtime.kill(&id, &bundle, kill, true)) {
            log::error!("end a container of the pod: {}", e.message);
        }
    }
    for caller in waiters {
        daemon.answer(caller, Ok(ended(exit)));
    }
}

fn ended(exit: Exit) -> Vec<u8> {
    WaitResponse { exit_status: exit.status, exited_at: Some(exit.at.into()) }.encode()
}

/// Those of the pod's cgroup.
fn metrics(sandbox: &Sandbox) -> Result<Vec<u8>, Status> {
    let data = stats::of_cgroup(&sandbox.plan.cgroup).map_err(|e| failed("metrics of the pod", &e))?;
    let data = Any::decode(&data).unwrap_or_default();
    let metric = Metric { timestamp: Some(SystemTime::now().into()), id: sandbox.id.clone(), data: Some(data) };
    Ok(SandboxMetricsResponse { metrics: Some(metric) }.encode())
}

/// As Go calls it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
