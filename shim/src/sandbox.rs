//! The sandbox service (containerd.runtime.sandbox.v1): a pod that the shim makes, without a pause container.
//!
//! The shim enters the pod's namespaces itself, and tells its own pid: so they last as long as it does, containers find them
//! below `/proc/PID/ns` as they find a pause container's, and nothing is left to be taken off should it be killed. Workers go
//! back to the host's namespaces. Only a pid namespace for the whole pod needs a process in it, which is then the one told.

use std::path::PathBuf;

use libcontainer::error::Error;
use masu_host::sys::clone::first_of_pid_namespace;
use rustix::process::{Pid, Signal};

use crate::daemon::Daemon;
use crate::lifecycle::Then;
use crate::pod::{self, Namespaces, Plan};
use crate::rpc::frame::{code, status};
use crate::rpc::messages::{
    Any, CreateSandboxRequest, EMPTY, Metric, Platform, PlatformResponse, Request, SandboxMetricsResponse, SandboxRequest,
    SandboxStatusResponse, StartSandboxResponse, Status, WaitResponse,
};
use crate::rpc::wire::Message;
use crate::runtime::failed;
use crate::runtime::stats;
use crate::state::{Caller, Exit, Moment, timestamp};
use crate::task::{Answered, decode};

pub(crate) const SERVICE: &str = "containerd.runtime.sandbox.v1.Sandbox";

/// The pod of this shim.
#[derive(Debug)]
pub(crate) struct Sandbox {
    id: String,
    pub(crate) bundle: PathBuf,
    plan: Plan,
    created_at: Moment,
    /// Told as the pod's process; 0 before it is started.
    pid: i32,
    /// The first process of the pod's pid namespace.
    pub(crate) first: Option<i32>,
    /// The host's namespaces, while the shim is in the pod's.
    pub(crate) host: Option<Namespaces>,
    exit: Option<Exit>,
    pub(crate) waiters: Vec<Caller>,
}

impl Sandbox {
    fn is_ready(&self) -> bool {
        self.pid != 0 && self.exit.is_none()
    }
}

impl Daemon {
    /// Whether there is no pod and no container.
    pub(crate) fn is_unused(&self) -> bool {
        self.containers.is_empty() && self.sandbox.is_none()
    }

    pub(crate) fn call_sandbox(&mut self, caller: Caller, request: &Request) -> Answered {
        log::debug!("{}", request.method);
        if request.method == "CreateSandbox" {
            return self.create_sandbox(&decode(request)?);
        }
        let SandboxRequest { sandbox_id } = decode(request)?;
        let missing = || status(code::NOT_FOUND, format!("sandbox {sandbox_id}: not found"));
        let sandbox = self.sandbox.as_mut().filter(|s| s.id == sandbox_id).ok_or_else(missing)?;
        match request.method.as_str() {
            "StartSandbox" => self.start_sandbox(),
            "Platform" => {
                let platform = Platform { os: "linux".into(), architecture: architecture().into() };
                Ok(Some(PlatformResponse { platform: Some(platform) }.encode()))
            }
            "StopSandbox" => {
                self.stop_sandbox(0);
                Ok(Some(EMPTY))
            }
            "WaitSandbox" => match sandbox.exit {
                Some(exit) => Ok(Some(ended(exit))),
                None => {
                    sandbox.waiters.push(caller);
                    Ok(None)
                }
            },
            "SandboxStatus" => {
                let response = SandboxStatusResponse {
                    sandbox_id,
                    pid: sandbox.pid as u32,
                    state: if sandbox.is_ready() { "SANDBOX_READY" } else { "SANDBOX_NOTREADY" }.into(),
                    created_at: Some(timestamp(sandbox.created_at)),
                    exited_at: sandbox.exit.map(|e| timestamp(e.at)),
                };
                Ok(Some(response.encode()))
            }
            "PingSandbox" => Ok(Some(EMPTY)),
            "ShutdownSandbox" => {
                self.stop_sandbox(0);
                let bundle = self.sandbox.take().map(|s| s.bundle).unwrap_or_default();
                pod::remove_files(&bundle).map_err(|e| failed("failed to unmount the pod's memory", &e))?;
                self.end();
                Ok(Some(EMPTY))
            }
            "SandboxMetrics" => sandbox_metrics(sandbox).map(Some),
            method => Err(status(code::UNIMPLEMENTED, format!("method {method}"))),
        }
    }

    fn create_sandbox(&mut self, request: &CreateSandboxRequest) -> Answered {
        if self.sandbox.is_some() {
            return Err(status(code::ALREADY_EXISTS, format!("sandbox {}: this shim has one: already exists", request.sandbox_id)));
        }
        let plan = Plan::new(request.options.as_ref(), &request.netns_path).map_err(|e| failed("failed to create the sandbox", &e))?;
        self.sandbox = Some(Sandbox {
            id: request.sandbox_id.clone(),
            bundle: request.bundle_path.clone().into(),
            plan,
            created_at: Moment::now(),
            pid: 0,
            first: None,
            host: None,
            exit: None,
            waiters: Vec::new(),
        });
        Ok(Some(EMPTY))
    }

    fn start_sandbox(&mut self) -> Answered {
        let Some(sandbox) = self.sandbox.as_mut().filter(|s| s.pid == 0 && s.exit.is_none()) else {
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
        let response = StartSandboxResponse { pid: pid as u32, created_at: Some(timestamp(sandbox.created_at)) };
        Ok(Some(response.encode()))
    }

    /// Ends what runs in the pod, and leaves its namespaces. Once more does nothing.
    pub(crate) fn stop_sandbox(&mut self, exit_status: u32) {
        let Some(sandbox) = self.sandbox.as_mut().filter(|s| s.exit.is_none()) else { return };
        let exit = Exit { status: exit_status, at: Moment::now() };
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
        let running: Vec<_> = self.containers.iter().filter(|(_, c)| c.init.pid != 0 && c.init.reaped.is_none()).collect();
        let running: Vec<_> = running.into_iter().map(|(id, c)| (id.clone(), c.bundle.clone(), c.runtime.clone())).collect();
        for (id, bundle, runtime) in running {
            let kill = Signal::KILL.as_raw() as u32;
            if let Err(e) = self.work(Then::Nothing, move || runtime.kill(&id, &bundle, kill, true)) {
                log::error!("end a container of the pod: {}", e.message);
            }
        }
        for caller in waiters {
            self.answer(caller, Ok(ended(exit)));
        }
    }
}

fn ended(exit: Exit) -> Vec<u8> {
    WaitResponse { exit_status: exit.status, exited_at: Some(timestamp(exit.at)) }.encode()
}

/// Those of the pod's cgroup.
fn sandbox_metrics(sandbox: &Sandbox) -> Result<Vec<u8>, Status> {
    let data = stats::of_cgroup(&sandbox.plan.cgroup).map_err(|e| failed("metrics of the pod", &e))?;
    let data = Any::decode(&data).unwrap_or_default();
    let metric = Metric { timestamp: Some(timestamp(Moment::now())), id: sandbox.id.clone(), data: Some(data) };
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
