//! The task service (containerd.task.v2.Task, and v3, which is the same): one function for each method. What is known is
//! answered at once; what may block is given to a worker, and lifecycle.rs goes on when that is done.

use std::path::Path;
use std::time::Instant;

use rustix::process::Pid;
use rustix::termios::Winsize;

use crate::bundle;
use crate::daemon::{Answered, Daemon, Reply};
use crate::deletion::{self, PATIENCE};
use crate::io::stdio::{self, Streams};
use crate::jobs::Then;
use crate::pod;
use crate::rootfs::plan;
use crate::rpc::frame::{code, decode, status};
use crate::rpc::messages::{
    CloseIoRequest, ConnectResponse, CreateRequest, EMPTY, ExecRequest, KillRequest, Options, ProcessRequest, Request, ResizePtyRequest,
    StateResponse, Status, TaskExecAdded, UpdateRequest, WaitResponse,
};
use crate::rpc::wire::Message;
use crate::runtime::{MOUNT_FAILED, Runtime, failed};
use crate::state::{Caller, Container, Deletion, Phase, Process};

pub(crate) const SERVICES: [&str; 2] = ["containerd.task.v2.Task", "containerd.task.v3.Task"];

fn not_created() -> Status {
    status(code::NOT_FOUND, "container not created: not found")
}

/// `late`: whether it must not be put off any more.
pub(crate) fn call(daemon: &mut Daemon, caller: Caller, request: &Request, late: bool) -> Answered {
    log::debug!("{}", request.method);
    match request.method.as_str() {
        "Create" => create(daemon, caller, decode(request)?, late),
        "Start" => start(daemon, caller, &decode(request)?, late),
        "Delete" => delete(daemon, caller, &decode(request)?),
        "Exec" => exec(daemon, decode(request)?),
        "State" => state(daemon, &decode(request)?),
        "Wait" => wait(daemon, caller, &decode(request)?),
        "Kill" => kill(daemon, caller, &decode(request)?),
        "Pids" => pids(daemon, caller, &decode(request)?),
        "Pause" => pause(daemon, caller, &decode(request)?),
        "Resume" => resume(daemon, caller, &decode(request)?),
        "CloseIO" => close_io(daemon, &decode(request)?),
        "ResizePty" => resize(daemon, &decode(request)?),
        "Update" => update(daemon, caller, decode(request)?),
        "Stats" => stats(daemon, caller, &decode(request)?),
        "Connect" => connect(daemon, &decode(request)?),
        "Shutdown" => shutdown(daemon),
        "Checkpoint" => Err(status(code::UNIMPLEMENTED, "checkpoint is not supported")),
        method => Err(status(code::UNIMPLEMENTED, format!("method {method}"))),
    }
}

/// A container whose Create was answered.
fn container_of<'d>(daemon: &'d mut Daemon, id: &str) -> Result<&'d mut Container, Status> {
    daemon.state.containers.get_mut(id).filter(|c| c.init.phase != Phase::Creating).ok_or_else(not_created)
}

fn process_of<'d>(daemon: &'d mut Daemon, id: &str, exec_id: &str) -> Result<&'d mut Process, Status> {
    let missing = || status(code::NOT_FOUND, format!("process does not exist {exec_id}: not found"));
    container_of(daemon, id)?.process_mut(exec_id).ok_or_else(missing)
}

fn create(daemon: &mut Daemon, caller: Caller, request: CreateRequest, late: bool) -> Answered {
    if !request.checkpoint.is_empty() {
        return Err(status(code::UNIMPLEMENTED, "restore from a checkpoint is not supported"));
    }
    if daemon.state.containers.contains_key(&request.id) {
        return Err(status(code::ALREADY_EXISTS, format!("container {}: already exists", request.id)));
    }
    let plans = plan::plan(&request.rootfs).map_err(|e| failed(MOUNT_FAILED, &e))?;
    let invalid = |e: &dyn std::fmt::Display| status(code::INVALID_ARGUMENT, e.to_string());
    let options = match request.options.as_ref().filter(|any| !any.type_url.is_empty()) {
        None => daemon.state.options.clone(),
        Some(any) => Options::of(any).ok_or_else(|| invalid(&format!("options of the unknown type {}", any.type_url)))?,
    };
    let streams = Streams {
        stdin: request.stdin.clone(),
        stdout: request.stdout.clone(),
        stderr: request.stderr.clone(),
        terminal: request.terminal,
    };
    if !stdio::are_read(&streams, &mut daemon.writers) && !late {
        return Ok(Reply::Again);
    }
    bundle::write_options(Path::new(&request.bundle), &options).map_err(|e| invalid(&e))?;
    let runtime = Runtime::new(&options, &daemon.state.namespace);
    let mut opened = stdio::open(&streams, runtime.owner, &mut daemon.writers).map_err(|e| invalid(&e))?;
    let inner = opened.take_inner();
    let pod = daemon.state.sandbox.as_ref().map(|s| s.bundle.clone());
    let (job_runtime, namespace) = (runtime.clone(), daemon.state.namespace.clone());
    let job_request = request.clone();
    let container = Container {
        bundle: request.bundle.clone(),
        runtime,
        init: Process::new(streams, Phase::Creating),
        execs: Default::default(),
        oom: None,
        is_paused: false,
        shares_pids: false,
    };
    daemon.state.containers.insert(request.id.clone(), container);
    let id = request.id.clone();
    let then = Then::Created { caller, request, opened };
    let begun = daemon.work_with(inner, then, move |inner| {
        let bundle = Path::new(&job_request.bundle);
        // what is wrong there, the pod as well as the container, is wrong with the config
        pod.map_or(Ok(()), |pod| pod::add_mounts(bundle, &pod)).map_err(|e| status(code::INVALID_ARGUMENT, e.to_string()))?;
        job_runtime.create(&job_request, &plans, inner, &namespace)
    });
    if begun.is_err() {
        daemon.state.containers.remove(&id);
    }
    begun.map(|()| Reply::Later)
}

fn start(daemon: &mut Daemon, caller: Caller, request: &ProcessRequest, late: bool) -> Answered {
    if request.exec_id.is_empty() { start_init(daemon, caller, &request.id) } else { start_exec(daemon, caller, request, late) }
}

fn start_init(daemon: &mut Daemon, caller: Caller, id: &str) -> Answered {
    let container = container_of(daemon, id)?;
    if container.init.phase != Phase::Created {
        return Err(status(code::FAILED_PRECONDITION, "cannot start a process that is not created"));
    }
    if container.is_paused {
        return Err(status(code::FAILED_PRECONDITION, "cannot start a paused container"));
    }
    container.init.phase = Phase::Starting;
    let (runtime, bundle, job_id) = (container.runtime.clone(), container.bundle.clone(), id.to_owned());
    let then = Then::Started { caller, id: id.to_owned(), exec_id: String::new(), opened: None };
    let begun = daemon.work(then, move || runtime.start(&job_id, &bundle));
    if begun.is_err() {
        container_of(daemon, id)?.init.phase = Phase::Created;
    }
    begun.map(|()| Reply::Later)
}

fn start_exec(daemon: &mut Daemon, caller: Caller, request: &ProcessRequest, late: bool) -> Answered {
    let (id, exec_id) = (&request.id, &request.exec_id);
    let namespace = daemon.state.namespace.clone();
    let container = container_of(daemon, id)?;
    let (runtime, bundle) = (container.runtime.clone(), container.bundle.clone());
    if container.init.reaped.is_some() || !container.init.lives() && container.init.phase != Phase::Created {
        return Err(status(code::FAILED_PRECONDITION, format!("container {id} init process is not running")));
    }
    if container.is_paused {
        return Err(status(code::FAILED_PRECONDITION, "cannot start an exec in a paused container"));
    }
    let process = process_of(daemon, id, exec_id)?;
    if process.phase != Phase::Created {
        return Err(status(code::FAILED_PRECONDITION, "cannot start a process that is not created"));
    }
    let streams = process.streams.clone();
    if !stdio::are_read(&streams, &mut daemon.writers) && !late {
        return Ok(Reply::Again);
    }
    let mut opened =
        stdio::open(&streams, runtime.owner, &mut daemon.writers).map_err(|e| status(code::INVALID_ARGUMENT, e.to_string()))?;
    let inner = opened.take_inner();
    let process = process_of(daemon, id, exec_id)?;
    process.phase = Phase::Starting;
    let (document, terminal) = (process.spec.clone(), process.streams.terminal);
    let (job_id, job_exec) = (id.clone(), exec_id.clone());
    let then = Then::Started { caller, id: id.clone(), exec_id: exec_id.clone(), opened: Some(opened) };
    let begun =
        daemon.work_with(inner, then, move |inner| runtime.exec((&job_id, &job_exec), &bundle, &document, terminal, inner, &namespace));
    if begun.is_err() {
        process_of(daemon, id, exec_id)?.phase = Phase::Created;
    }
    begun.map(|()| Reply::Later)
}

fn exec(daemon: &mut Daemon, request: ExecRequest) -> Answered {
    let container = container_of(daemon, &request.id)?;
    if container.init.phase == Phase::Stopped {
        return Err(status(code::FAILED_PRECONDITION, "cannot exec in a stopped state"));
    }
    if container.is_paused {
        return Err(status(code::FAILED_PRECONDITION, "cannot exec in a paused state"));
    }
    if request.exec_id.is_empty() || request.exec_id.contains(['/', '\0']) {
        return Err(status(code::INVALID_ARGUMENT, format!("{:?} cannot be the id of an exec", request.exec_id)));
    }
    if container.execs.contains_key(&request.exec_id) {
        return Err(status(code::ALREADY_EXISTS, format!("id {}: already exists", request.exec_id)));
    }
    let streams = Streams { stdin: request.stdin, stdout: request.stdout, stderr: request.stderr, terminal: request.terminal };
    let mut process = Process::new(streams, Phase::Created);
    process.spec = request.spec.map(|any| any.value).unwrap_or_default();
    container.execs.insert(request.exec_id.clone(), process);
    let event = TaskExecAdded { container_id: request.id, exec_id: request.exec_id };
    daemon.publish("exec-added", "TaskExecAdded", &event);
    Ok(Reply::Now(EMPTY))
}

fn state(daemon: &mut Daemon, request: &ProcessRequest) -> Answered {
    let container = container_of(daemon, &request.id)?;
    let (bundle, is_paused) = (container.bundle.clone(), container.is_paused && request.exec_id.is_empty());
    let process = process_of(daemon, &request.id, &request.exec_id)?;
    let status = match process.phase {
        Phase::Created | Phase::Running if is_paused => 4,
        Phase::Creating | Phase::Created | Phase::Starting => 1,
        Phase::Running => 2,
        Phase::Stopped => 3,
    };
    let response = StateResponse {
        id: request.id.clone(),
        bundle,
        pid: process.pid as u32,
        status,
        stdin: process.streams.stdin.clone(),
        stdout: process.streams.stdout.clone(),
        stderr: process.streams.stderr.clone(),
        terminal: process.streams.terminal,
        exit_status: process.exit_status(),
        exited_at: process.exited_at(),
        exec_id: request.exec_id.clone(),
    };
    Ok(Reply::Now(response.encode()))
}

fn wait(daemon: &mut Daemon, caller: Caller, request: &ProcessRequest) -> Answered {
    let process = process_of(daemon, &request.id, &request.exec_id)?;
    if process.exit.is_none() {
        process.waiters.push(caller);
        return Ok(Reply::Later);
    }
    Ok(Reply::Now(WaitResponse { exit_status: process.exit_status(), exited_at: process.exited_at() }.encode()))
}

fn kill(daemon: &mut Daemon, caller: Caller, request: &KillRequest) -> Answered {
    let container = container_of(daemon, &request.id)?;
    let (runtime, bundle) = (container.runtime.clone(), container.bundle.clone());
    let process = process_of(daemon, &request.id, &request.exec_id)?;
    if process.exit.is_some() || process.reaped.is_some() && !request.all {
        return Err(status(code::NOT_FOUND, "process already finished: not found"));
    }
    if process.pid == 0 {
        return Err(status(code::FAILED_PRECONDITION, "process not created"));
    }
    let is_kill = request.signal == rustix::process::Signal::KILL.as_raw() as u32;
    // what is not reaped is still the process of that number; the rest is more than one system call
    if !request.exec_id.is_empty() || (!is_kill && !request.all) {
        let signal = masu_host::sys::signal::from_number(request.signal as i32);
        let signal = signal.ok_or_else(|| status(code::INVALID_ARGUMENT, format!("there is no signal {}", request.signal)))?;
        let pid = Pid::from_raw(process.pid).ok_or_else(not_created)?;
        return match rustix::process::kill_process(pid, signal) {
            Ok(()) => Ok(Reply::Now(EMPTY)),
            Err(rustix::io::Errno::SRCH) => Err(status(code::NOT_FOUND, "process already finished: not found")),
            Err(e) => Err(status(code::UNKNOWN, format!("unknown error after kill: {e}"))),
        };
    }
    let (id, signal, all) = (request.id.clone(), request.signal, request.all);
    let then = Then::Killed { caller, id: id.clone(), signal };
    daemon.work(then, move || runtime.kill(&id, &bundle, signal, all)).map(|()| Reply::Later)
}

fn pids(daemon: &mut Daemon, caller: Caller, request: &ProcessRequest) -> Answered {
    let container = container_of(daemon, &request.id)?;
    let (runtime, bundle, id) = (container.runtime.clone(), container.bundle.clone(), request.id.clone());
    daemon.work(Then::Pids { caller, id: id.clone() }, move || runtime.pids(&id, &bundle)).map(|()| Reply::Later)
}

fn pause(daemon: &mut Daemon, caller: Caller, request: &ProcessRequest) -> Answered {
    let container = container_of(daemon, &request.id)?;
    if container.is_paused || !matches!(container.init.phase, Phase::Running | Phase::Created) {
        return Err(status(code::FAILED_PRECONDITION, "cannot pause a container that does not run"));
    }
    let (runtime, bundle, id) = (container.runtime.clone(), container.bundle.clone(), request.id.clone());
    daemon.work(Then::Paused { caller, id: id.clone() }, move || runtime.pause(&id, &bundle)).map(|()| Reply::Later)
}

fn resume(daemon: &mut Daemon, caller: Caller, request: &ProcessRequest) -> Answered {
    let container = container_of(daemon, &request.id)?;
    if !container.is_paused {
        return Err(status(code::FAILED_PRECONDITION, "cannot resume a container that is not paused"));
    }
    let (runtime, bundle, id) = (container.runtime.clone(), container.bundle.clone(), request.id.clone());
    daemon.work(Then::Resumed { caller, id: id.clone() }, move || runtime.resume(&id, &bundle)).map(|()| Reply::Later)
}

fn close_io(daemon: &mut Daemon, request: &CloseIoRequest) -> Answered {
    let process = process_of(daemon, &request.id, &request.exec_id)?;
    if request.stdin {
        // what is still in the fifo goes in, and then the end
        process.input_closed = true;
        process.io.holder = None;
        let input = process.io.input;
        daemon.run_streams(input.as_slice());
    }
    Ok(Reply::Now(EMPTY))
}

fn resize(daemon: &mut Daemon, request: &ResizePtyRequest) -> Answered {
    let process = process_of(daemon, &request.id, &request.exec_id)?;
    if let Some(terminal) = &process.io.terminal {
        let side = |n: u32| u16::try_from(n).unwrap_or(u16::MAX);
        let size = Winsize { ws_row: side(request.height), ws_col: side(request.width), ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(terminal, size).map_err(|e| status(code::UNKNOWN, format!("set the size of the terminal: {e}")))?;
    }
    Ok(Reply::Now(EMPTY))
}

fn update(daemon: &mut Daemon, caller: Caller, request: UpdateRequest) -> Answered {
    let container = container_of(daemon, &request.id)?;
    let (runtime, bundle, id) = (container.runtime.clone(), container.bundle.clone(), request.id);
    // annotations are for runtimes that have limits of their own; here and in containerd's shim nothing reads them
    let document = match request.resources {
        Some(resources) => resources.value,
        None if !request.annotations.is_empty() => return Ok(Reply::Now(EMPTY)),
        None => return Err(status(code::INVALID_ARGUMENT, "an update with neither resources nor annotations")),
    };
    daemon.work(Then::Plain { caller }, move || runtime.update(&id, &bundle, &document)).map(|()| Reply::Later)
}

fn stats(daemon: &mut Daemon, caller: Caller, request: &ProcessRequest) -> Answered {
    let container = container_of(daemon, &request.id)?;
    if container.init.reaped.is_some() || container.init.exit.is_some() {
        return Err(status(code::NOT_FOUND, "cgroup does not exist: not found"));
    }
    let (runtime, bundle, id, pid) = (container.runtime.clone(), container.bundle.clone(), request.id.clone(), container.init.pid);
    daemon.work(Then::Stats { caller }, move || runtime.stats(&id, &bundle, pid)).map(|()| Reply::Later)
}

fn connect(daemon: &mut Daemon, request: &ProcessRequest) -> Answered {
    // an unknown id is no error: so containerd finds out whether this shim still serves it
    let task_pid = daemon.state.containers.get(&request.id).map_or(0, |c| c.init.pid) as u32;
    let shim_pid = rustix::process::getpid().as_raw_nonzero().get() as u32;
    Ok(Reply::Now(ConnectResponse { shim_pid, task_pid, version: String::new() }.encode()))
}

fn shutdown(daemon: &mut Daemon) -> Answered {
    if daemon.state.is_unused() {
        daemon.end();
    }
    Ok(Reply::Now(EMPTY))
}

fn delete(daemon: &mut Daemon, caller: Caller, request: &ProcessRequest) -> Answered {
    let (id, exec_id) = (&request.id, &request.exec_id);
    let process = process_of(daemon, id, exec_id)?;
    if process.lives() {
        return Err(status(code::FAILED_PRECONDITION, "cannot delete a running process"));
    }
    if process.deletion.is_some() {
        return Err(status(code::FAILED_PRECONDITION, "the process is being deleted already"));
    }
    let is_exec = !exec_id.is_empty();
    process.deletion = Some(Deletion { caller, removed: is_exec, deadline: Instant::now() + PATIENCE });
    if is_exec {
        deletion::try_finish(daemon, &(id.clone(), exec_id.clone()));
        return Ok(Reply::Later);
    }
    let container = container_of(daemon, id)?;
    let (runtime, bundle, job_id) = (container.runtime.clone(), container.bundle.clone(), id.clone());
    let begun = daemon.work(Then::Deleted { id: id.clone() }, move || runtime.delete(&job_id, &bundle, false));
    if begun.is_err() {
        container_of(daemon, id)?.init.deletion = None;
    }
    begun.map(|()| Reply::Later)
}
