//! The task service (containerd.task.v2.Task, and v3, which is the same): one function a method. What is known is answered at
//! once; what may block is given to a worker, and lifecycle.rs goes on when that is done.

use std::path::Path;
use std::time::Instant;

use rustix::process::Pid;
use rustix::termios::Winsize;

use crate::bootstrap::options_of;
use crate::cleanup;
use crate::daemon::Daemon;
use crate::io::stdio::{self, Streams};
use crate::lifecycle::{PATIENCE, Then};
use crate::pod;
use crate::rootfs::plan;
use crate::rpc::frame::{code, status};
use crate::rpc::messages::{
    CloseIoRequest, ConnectResponse, CreateRequest, EMPTY, ExecRequest, KillRequest, ProcessRequest, Request, ResizePtyRequest,
    StateResponse, Status, TaskExecAdded, UpdateRequest, WaitResponse,
};
use crate::rpc::wire::Message;
use crate::runtime::{MOUNT_FAILED, Runtime, failed};
use crate::sandbox;
use crate::state::{Caller, Container, Deletion, Phase, Process};

const SERVICES: [&str; 2] = ["containerd.task.v2.Task", "containerd.task.v3.Task"];

/// The answer, or `None` if it comes later.
pub(crate) type Answered = Result<Option<Vec<u8>>, Status>;

pub(crate) fn decode<M: Message>(request: &Request) -> Result<M, Status> {
    M::decode(&request.payload).map_err(|_| status(code::INVALID_ARGUMENT, format!("the message of {} is malformed", request.method)))
}

fn not_created() -> Status {
    status(code::NOT_FOUND, "container not created: not found")
}

impl Daemon {
    /// `late`: whether it must not be put off any more.
    pub(crate) fn call(&mut self, caller: Caller, request: &Request, late: bool) -> Answered {
        if request.service == sandbox::SERVICE {
            return self.call_sandbox(caller, request);
        }
        if !SERVICES.contains(&&*request.service) {
            return Err(status(code::UNIMPLEMENTED, format!("service {}", request.service)));
        }
        log::debug!("{}", request.method);
        match request.method.as_str() {
            "Create" => self.create(caller, decode(request)?, late),
            "Start" => self.start(caller, &decode(request)?, late),
            "Delete" => self.delete(caller, &decode(request)?),
            "Exec" => self.exec(decode(request)?),
            "State" => self.state(&decode(request)?),
            "Wait" => self.wait(caller, &decode(request)?),
            "Kill" => self.kill(caller, &decode(request)?),
            "Pids" => self.pids(caller, &decode(request)?),
            "Pause" => self.pause(caller, &decode(request)?),
            "Resume" => self.resume(caller, &decode(request)?),
            "CloseIO" => self.close_io(&decode(request)?),
            "ResizePty" => self.resize(&decode(request)?),
            "Update" => self.update(caller, decode(request)?),
            "Stats" => self.stats(caller, &decode(request)?),
            "Connect" => self.connect(&decode(request)?),
            "Shutdown" => self.shutdown(),
            "Checkpoint" => Err(status(code::UNIMPLEMENTED, "checkpoint is not supported")),
            method => Err(status(code::UNIMPLEMENTED, format!("method {method}"))),
        }
    }

    /// A container whose Create was answered.
    fn container(&mut self, id: &str) -> Result<&mut Container, Status> {
        self.containers.get_mut(id).filter(|c| c.init.phase != Phase::Creating).ok_or_else(not_created)
    }

    fn process(&mut self, id: &str, exec_id: &str) -> Result<&mut Process, Status> {
        let missing = || status(code::NOT_FOUND, format!("process does not exist {exec_id}: not found"));
        self.container(id)?.process_mut(exec_id).ok_or_else(missing)
    }

    fn create(&mut self, caller: Caller, request: CreateRequest, late: bool) -> Answered {
        if !request.checkpoint.is_empty() {
            return Err(status(code::UNIMPLEMENTED, "restore from a checkpoint is not supported"));
        }
        if self.containers.contains_key(&request.id) {
            return Err(status(code::ALREADY_EXISTS, format!("container {}: already exists", request.id)));
        }
        let plans = plan::plan(&request.rootfs).map_err(|e| failed(MOUNT_FAILED, &e))?;
        let invalid = |e: &dyn std::fmt::Display| status(code::INVALID_ARGUMENT, e.to_string());
        let options = match request.options.as_ref().filter(|any| !any.type_url.is_empty()) {
            None => self.options.clone(),
            Some(any) => options_of(any).ok_or_else(|| invalid(&format!("options of the unknown type {}", any.type_url)))?,
        };
        let streams = Streams {
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
            terminal: request.terminal,
        };
        if !stdio::are_read(&streams, &mut self.writers) && !late {
            self.puts_off = true;
            return Ok(None);
        }
        cleanup::write_options(Path::new(&request.bundle), &options).map_err(|e| invalid(&e))?;
        let runtime = Runtime::new(&options, &self.namespace);
        let mut opened = stdio::open(&streams, runtime.owner, &mut self.writers).map_err(|e| invalid(&e))?;
        let inner = opened.take_inner();
        let pod = self.sandbox.as_ref().map(|s| s.bundle.clone());
        let (job_runtime, namespace) = (runtime.clone(), self.namespace.clone());
        let job_request = request.clone();
        let container = Container {
            bundle: request.bundle.clone(),
            runtime,
            init: Process::new(streams, Phase::Creating),
            execs: Default::default(),
            oom: None,
            shares_pids: false,
        };
        self.containers.insert(request.id.clone(), container);
        let id = request.id.clone();
        let then = Then::Created { caller, request, opened };
        let begun = self.work(then, move || {
            let bundle = Path::new(&job_request.bundle);
            // what is wrong there, the pod as well as the container, is wrong with the config
            pod.map_or(Ok(()), |pod| pod::add_mounts(bundle, &pod)).map_err(|e| status(code::INVALID_ARGUMENT, e.to_string()))?;
            job_runtime.create(&job_request, &plans, inner, &namespace)
        });
        if begun.is_err() {
            self.containers.remove(&id);
        }
        begun.map(|()| None)
    }

    fn start(&mut self, caller: Caller, request: &ProcessRequest, late: bool) -> Answered {
        let (id, exec_id) = (&request.id, &request.exec_id);
        let namespace = self.namespace.clone();
        let container = self.container(id)?;
        let (runtime, bundle) = (container.runtime.clone(), container.bundle.clone());
        if exec_id.is_empty() {
            if container.init.phase != Phase::Created {
                return Err(status(code::FAILED_PRECONDITION, "cannot start a process that is not created"));
            }
            container.init.phase = Phase::Starting;
            let then = Then::Started { caller, id: id.clone(), exec_id: String::new(), opened: None };
            let job_id = id.clone();
            let begun = self.work(then, move || runtime.start(&job_id, &bundle));
            if begun.is_err() {
                self.container(id)?.init.phase = Phase::Created;
            }
            return begun.map(|()| None);
        }
        if container.init.reaped.is_some() || !container.init.lives() && container.init.phase != Phase::Created {
            return Err(status(code::FAILED_PRECONDITION, format!("container {id} init process is not running")));
        }
        if container.init.phase == Phase::Paused {
            return Err(status(code::FAILED_PRECONDITION, "cannot start an exec in a paused container"));
        }
        let process = self.process(id, exec_id)?;
        if process.phase != Phase::Created {
            return Err(status(code::FAILED_PRECONDITION, "cannot start a process that is not created"));
        }
        let streams = process.streams.clone();
        if !stdio::are_read(&streams, &mut self.writers) && !late {
            self.puts_off = true;
            return Ok(None);
        }
        let mut opened =
            stdio::open(&streams, runtime.owner, &mut self.writers).map_err(|e| status(code::INVALID_ARGUMENT, e.to_string()))?;
        let inner = opened.take_inner();
        let process = self.process(id, exec_id)?;
        process.phase = Phase::Starting;
        let (document, terminal) = (process.spec.clone(), process.streams.terminal);
        let (job_id, job_exec) = (id.clone(), exec_id.clone());
        let then = Then::Started { caller, id: id.clone(), exec_id: exec_id.clone(), opened: Some(opened) };
        let begun = self.work(then, move || runtime.exec((&job_id, &job_exec), &bundle, &document, terminal, inner, &namespace));
        if begun.is_err() {
            self.process(id, exec_id)?.phase = Phase::Created;
        }
        begun.map(|()| None)
    }

    fn exec(&mut self, request: ExecRequest) -> Answered {
        let container = self.container(&request.id)?;
        match container.init.phase {
            Phase::Stopped => return Err(status(code::FAILED_PRECONDITION, "cannot exec in a stopped state")),
            Phase::Paused => return Err(status(code::FAILED_PRECONDITION, "cannot exec in a paused state")),
            _ => {}
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
        self.events.publish(&self.poll, "exec-added", "TaskExecAdded", &event);
        Ok(Some(EMPTY))
    }

    fn state(&mut self, request: &ProcessRequest) -> Answered {
        let bundle = self.container(&request.id)?.bundle.clone();
        let process = self.process(&request.id, &request.exec_id)?;
        let status = match process.phase {
            Phase::Creating | Phase::Created | Phase::Starting => 1,
            Phase::Running => 2,
            Phase::Stopped => 3,
            Phase::Paused => 4,
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
        Ok(Some(response.encode()))
    }

    fn wait(&mut self, caller: Caller, request: &ProcessRequest) -> Answered {
        let process = self.process(&request.id, &request.exec_id)?;
        if process.exit.is_none() {
            process.waiters.push(caller);
            return Ok(None);
        }
        Ok(Some(WaitResponse { exit_status: process.exit_status(), exited_at: process.exited_at() }.encode()))
    }

    fn kill(&mut self, caller: Caller, request: &KillRequest) -> Answered {
        let container = self.container(&request.id)?;
        let (runtime, bundle) = (container.runtime.clone(), container.bundle.clone());
        let process = self.process(&request.id, &request.exec_id)?;
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
                Ok(()) => Ok(Some(EMPTY)),
                Err(rustix::io::Errno::SRCH) => Err(status(code::NOT_FOUND, "process already finished: not found")),
                Err(e) => Err(status(code::UNKNOWN, format!("unknown error after kill: {e}"))),
            };
        }
        let (id, signal, all) = (request.id.clone(), request.signal, request.all);
        let then = Then::Killed { caller, id: id.clone(), signal };
        self.work(then, move || runtime.kill(&id, &bundle, signal, all)).map(|()| None)
    }

    fn pids(&mut self, caller: Caller, request: &ProcessRequest) -> Answered {
        let container = self.container(&request.id)?;
        let (runtime, bundle, id) = (container.runtime.clone(), container.bundle.clone(), request.id.clone());
        self.work(Then::Pids { caller, id: id.clone() }, move || runtime.pids(&id, &bundle)).map(|()| None)
    }

    fn pause(&mut self, caller: Caller, request: &ProcessRequest) -> Answered {
        let container = self.container(&request.id)?;
        if !matches!(container.init.phase, Phase::Running | Phase::Created) {
            return Err(status(code::FAILED_PRECONDITION, "cannot pause a container that does not run"));
        }
        let (runtime, bundle, id) = (container.runtime.clone(), container.bundle.clone(), request.id.clone());
        self.work(Then::Paused { caller, id: id.clone() }, move || runtime.pause(&id, &bundle)).map(|()| None)
    }

    fn resume(&mut self, caller: Caller, request: &ProcessRequest) -> Answered {
        let container = self.container(&request.id)?;
        if container.init.phase != Phase::Paused {
            return Err(status(code::FAILED_PRECONDITION, "cannot resume a container that is not paused"));
        }
        let (runtime, bundle, id) = (container.runtime.clone(), container.bundle.clone(), request.id.clone());
        self.work(Then::Resumed { caller, id: id.clone() }, move || runtime.resume(&id, &bundle)).map(|()| None)
    }

    fn close_io(&mut self, request: &CloseIoRequest) -> Answered {
        let process = self.process(&request.id, &request.exec_id)?;
        if request.stdin {
            // what is still in the fifo goes in, and then the end
            process.input_closed = true;
            process.io.holder = None;
            let input = process.io.input;
            self.run_pumps(input.as_slice());
        }
        Ok(Some(EMPTY))
    }

    fn resize(&mut self, request: &ResizePtyRequest) -> Answered {
        let process = self.process(&request.id, &request.exec_id)?;
        if let Some(terminal) = &process.io.terminal {
            let side = |n: u32| u16::try_from(n).unwrap_or(u16::MAX);
            let size = Winsize { ws_row: side(request.height), ws_col: side(request.width), ws_xpixel: 0, ws_ypixel: 0 };
            rustix::termios::tcsetwinsize(terminal, size)
                .map_err(|e| status(code::UNKNOWN, format!("set the size of the terminal: {e}")))?;
        }
        Ok(Some(EMPTY))
    }

    fn update(&mut self, caller: Caller, request: UpdateRequest) -> Answered {
        let container = self.container(&request.id)?;
        let (runtime, bundle, id) = (container.runtime.clone(), container.bundle.clone(), request.id);
        // annotations are for runtimes that have limits of their own; here and in containerd's shim nothing reads them
        let document = match request.resources {
            Some(resources) => resources.value,
            None if !request.annotations.is_empty() => return Ok(Some(EMPTY)),
            None => return Err(status(code::INVALID_ARGUMENT, "an update with neither resources nor annotations")),
        };
        self.work(Then::Plain { caller }, move || runtime.update(&id, &bundle, &document)).map(|()| None)
    }

    fn stats(&mut self, caller: Caller, request: &ProcessRequest) -> Answered {
        let container = self.container(&request.id)?;
        if container.init.reaped.is_some() || container.init.exit.is_some() {
            return Err(status(code::NOT_FOUND, "cgroup does not exist: not found"));
        }
        let (runtime, bundle, id, pid) = (container.runtime.clone(), container.bundle.clone(), request.id.clone(), container.init.pid);
        self.work(Then::Stats { caller }, move || runtime.stats(&id, &bundle, pid)).map(|()| None)
    }

    fn connect(&mut self, request: &ProcessRequest) -> Answered {
        // an unknown id is no error: so containerd finds out whether this shim still serves it
        let task_pid = self.containers.get(&request.id).map_or(0, |c| c.init.pid) as u32;
        let shim_pid = rustix::process::getpid().as_raw_nonzero().get() as u32;
        Ok(Some(ConnectResponse { shim_pid, task_pid, version: String::new() }.encode()))
    }

    fn shutdown(&mut self) -> Answered {
        if self.is_unused() {
            self.end();
        }
        Ok(Some(EMPTY))
    }

    fn delete(&mut self, caller: Caller, request: &ProcessRequest) -> Answered {
        let (id, exec_id) = (&request.id, &request.exec_id);
        let process = self.process(id, exec_id)?;
        if process.lives() {
            return Err(status(code::FAILED_PRECONDITION, "cannot delete a running process"));
        }
        if process.deletion.is_some() {
            return Err(status(code::FAILED_PRECONDITION, "the process is being deleted already"));
        }
        let is_exec = !exec_id.is_empty();
        process.deletion = Some(Deletion { caller, removed: is_exec, deadline: Instant::now() + PATIENCE });
        if is_exec {
            self.try_finish_deletion(id, exec_id);
            return Ok(None);
        }
        let container = self.container(id)?;
        let (runtime, bundle, job_id) = (container.runtime.clone(), container.bundle.clone(), id.clone());
        let begun = self.work(Then::Deleted { id: id.clone() }, move || runtime.delete(&job_id, &bundle, false));
        if begun.is_err() {
            self.container(id)?.init.deletion = None;
        }
        begun.map(|()| None)
    }
}
