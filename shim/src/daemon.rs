//! The shim itself: one thread, one loop, for all containers of a group.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use libcontainer::error::{Doing, Result};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::io::Errno;
use rustix::net::SocketFlags;

use crate::events::Events;
use crate::exits::Early;
use crate::io::stdio::Writers;
use crate::lifecycle::{PATIENCE, Then};
use crate::pod::Namespaces;
use crate::poll::{Poll, Token};
use crate::rpc::connection::Connection;
use crate::rpc::frame::{self, REQUEST, code, status};
use crate::rpc::messages::{Options, Request, Status};
use crate::rpc::wire::Message;
use crate::sandbox::Sandbox;
use crate::state::{Caller, Container};
use crate::streams::Streaming;
use crate::worker::{Done, Worker};

/// How long events may take to leave when all else is done.
const FLUSH: Duration = Duration::from_secs(3);
/// Without a free descriptor it is tried again to accept a connection after that long.
const ACCEPT_AGAIN: Duration = Duration::from_millis(200);
/// A fifo that nobody reads yet is looked at again after that long.
const LOOK_FOR_READERS: Duration = Duration::from_millis(2);
/// A shim without containers that nobody is connected to ends after that long.
const IDLE: Duration = Duration::from_secs(120);

/// What the daemon begins with.
#[derive(Debug)]
pub(crate) struct Setup {
    pub(crate) listener: OwnedFd,
    /// The listener's path.
    pub(crate) socket: PathBuf,
    pub(crate) namespace: String,
    /// Where containerd takes events.
    pub(crate) events: String,
    pub(crate) options: Options,
    pub(crate) debug: bool,
}

#[derive(Debug)]
pub(crate) struct Daemon {
    pub(crate) poll: Poll,
    listener: OwnedFd,
    signals: SignalFd,
    socket: PathBuf,
    pub(crate) namespace: String,
    /// For containers that come without options of their own.
    pub(crate) options: Options,
    last_id: u64,
    connections: BTreeMap<u64, Connection>,
    workers: BTreeMap<u64, (Worker, Then)>,
    pub(crate) containers: BTreeMap<String, Container>,
    pub(crate) streaming: Streaming,
    pub(crate) events: Events,
    pub(crate) early: Early,
    /// When to end, whatever events are left.
    ends: Option<Instant>,
    idle_since: Option<Instant>,
    accept_again: Option<Instant>,
    /// Ends of fifos for calls that were put off.
    pub(crate) writers: Writers,
    /// Whether the call that is being made is to be put off until somebody reads its output.
    pub(crate) puts_off: bool,
    put_off: Vec<PutOff>,
    pub(crate) sandbox: Option<Sandbox>,
}

/// A call that waits for who reads its output.
#[derive(Debug)]
struct PutOff {
    caller: Caller,
    request: Request,
    until: Instant,
}

/// Serves until there is nothing left to serve; the exit code.
pub(crate) fn run(setup: Setup) -> i32 {
    crate::log::open(Path::new("log"), setup.debug);
    let socket = setup.socket.clone();
    match Daemon::new(setup).and_then(|mut daemon| daemon.serve()) {
        // it took its socket away when it began to end; by now the name may be that of a successor's
        Ok(()) => 0,
        Err(e) => {
            // nobody may find it dead
            let _ = std::fs::remove_file(socket);
            log::error!("{e}");
            1
        }
    }
}

impl Daemon {
    fn new(setup: Setup) -> Result<Daemon> {
        // the sealed executable has no name of its own
        rustix::thread::set_name(c"containerd-shim").doing(|| "set the name of the process")?;
        rustix::process::set_child_subreaper(Some(rustix::process::getpid())).doing(|| "become a subreaper")?;
        masu_host::sys::signal::ignore(rustix::process::Signal::PIPE.as_raw()).doing(|| "ignore SIGPIPE")?;
        let mut set = SigSet::empty();
        for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGUSR1] {
            set.add(signal);
        }
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&set), None).map_err(std::io::Error::from).doing(|| "block signals")?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let signals = SignalFd::with_flags(&set, flags).map_err(std::io::Error::from).doing(|| "make a signalfd")?;
        let poll = Poll::new()?;
        poll.reads(&setup.listener, Token::Listener).doing(|| "wait for connections")?;
        poll.reads(&signals, Token::Signals).doing(|| "wait for signals")?;
        // what it holds must not keep the bundle
        rustix::process::chdir("/").doing(|| "chdir /")?;
        Ok(Daemon {
            poll,
            listener: setup.listener,
            signals,
            socket: setup.socket,
            events: Events::new(&setup.events, &setup.namespace),
            namespace: setup.namespace,
            options: setup.options,
            last_id: 0,
            connections: BTreeMap::new(),
            workers: BTreeMap::new(),
            containers: BTreeMap::new(),
            streaming: Streaming::default(),
            early: Early::default(),
            ends: None,
            idle_since: Some(Instant::now()),
            accept_again: None,
            writers: Writers::new(),
            puts_off: false,
            put_off: Vec::new(),
            sandbox: None,
        })
    }

    fn serve(&mut self) -> Result<()> {
        log::debug!("the shim {} serves at {}", crate::VERSION, self.socket.display());
        let mut ready = Vec::new();
        loop {
            self.poll.wait(self.deadline(), &mut ready)?;
            for token in ready.drain(..) {
                self.dispatch(token);
            }
            let now = Instant::now();
            if self.events.deadline.is_some_and(|at| at <= now) {
                self.events.expired(&self.poll);
            }
            if self.accept_again.is_some_and(|at| at <= now) && self.ends.is_none() {
                self.accept_again = None;
                self.poll.reads(&self.listener, Token::Listener).doing(|| "wait for connections")?;
            }
            for call in std::mem::take(&mut self.put_off) {
                self.make_call(call);
            }
            if self.put_off.is_empty() {
                // those of calls that failed
                self.writers.clear();
            }
            self.run_streams(now);
            self.check_deletions(now);
            if self.ends.is_some_and(|at| at <= now || self.events.is_empty()) {
                return Ok(());
            }
            let is_idle = self.is_unused() && self.connections.is_empty() && self.workers.is_empty();
            self.idle_since = if is_idle { self.idle_since.or(Some(now)) } else { None };
            if self.idle_since.is_some_and(|since| now >= since + IDLE) {
                log::info!("nobody needs this shim any more: it ends");
                self.end();
            }
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let idle = self.idle_since.map(|since| since + IDLE);
        // nothing tells when a fifo is opened
        let fifos = (!self.put_off.is_empty()).then(|| Instant::now() + LOOK_FOR_READERS);
        [fifos, self.events.deadline, self.streaming.deadline(), self.deletion_deadline(), self.ends, idle, self.accept_again]
            .into_iter()
            .flatten()
            .min()
    }

    /// A number that was not used before.
    pub(crate) fn new_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    fn dispatch(&mut self, token: Token) {
        match token {
            Token::Listener => self.accept(),
            Token::Signals => self.take_signals(),
            Token::Events => self.events.ready(&self.poll),
            Token::Connection(id) => self.converse(id),
            Token::Worker(id) => self.listen_to(id),
            Token::From(id) | Token::To(id) => self.run_pump(id),
            Token::Oom(id) => self.check_oom(id),
        }
    }

    fn accept(&mut self) {
        loop {
            let socket = match rustix::net::accept_with(&self.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Ok(socket) => socket,
                Err(Errno::INTR | Errno::CONNABORTED) => continue,
                Err(Errno::AGAIN) => return,
                Err(e) => {
                    // out of descriptors: who waits goes on to be announced, and would keep us busy
                    log::error!("accept a connection: {e}");
                    self.poll.forget(&self.listener);
                    self.accept_again = Some(Instant::now() + ACCEPT_AGAIN);
                    return;
                }
            };
            let id = self.new_id();
            let added = Connection::accepted(socket)
                .and_then(|c| self.poll.reads(&c, Token::Connection(id)).doing(|| "wait for a connection").map(|()| c));
            match added {
                Ok(connection) => {
                    self.connections.insert(id, connection);
                }
                Err(e) => log::warn!("{e}"),
            }
        }
    }

    /// Takes what a connection says, and sends what it was too full for.
    fn converse(&mut self, id: u64) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let mut alive = connection.receive() && connection.flush();
        let mut frames = Vec::new();
        while let Some(frame) = connection.next() {
            frames.push(frame);
        }
        for frame in frames.into_iter().filter(|f| f.kind == REQUEST) {
            let caller = Caller { connection: id, stream: frame.stream };
            let request = match frame.message {
                None => Err(status(code::RESOURCE_EXHAUSTED, format!("message exceeds the maximum size of {} bytes", frame::MAX_MESSAGE))),
                Some(bytes) => Request::decode(&bytes).map_err(|_| status(code::INVALID_ARGUMENT, "the request is malformed")),
            };
            match request {
                Ok(request) => self.make_call(PutOff { caller, request, until: Instant::now() + PATIENCE }),
                Err(status) => self.answer(caller, Err(status)),
            }
        }
        if let Some(connection) = self.connections.get_mut(&id) {
            alive = alive && connection.watch(&self.poll, Token::Connection(id)).is_ok();
        }
        if !alive {
            self.hang_up(id);
        }
    }

    fn make_call(&mut self, call: PutOff) {
        let result = self.call(call.caller, &call.request, Instant::now() >= call.until);
        if std::mem::take(&mut self.puts_off) {
            self.put_off.push(call);
            return;
        }
        match result {
            Ok(None) => {}
            Ok(Some(payload)) => self.answer(call.caller, Ok(payload)),
            Err(status) => self.answer(call.caller, Err(status)),
        }
    }

    fn hang_up(&mut self, id: u64) {
        if let Some(connection) = self.connections.remove(&id) {
            self.poll.forget(&connection);
            for container in self.containers.values_mut() {
                container.init.waiters.retain(|caller| caller.connection != id);
                container.execs.values_mut().for_each(|p| p.waiters.retain(|caller| caller.connection != id));
            }
            if let Some(sandbox) = &mut self.sandbox {
                sandbox.waiters.retain(|caller| caller.connection != id);
            }
        }
    }

    /// Answers a call; a caller that is gone gets none.
    pub(crate) fn answer(&mut self, caller: Caller, result: Result<Vec<u8>, Status>) {
        if let Err(status) = &result {
            log::debug!("a call failed: {}", status.message);
        }
        let Some(connection) = self.connections.get_mut(&caller.connection) else { return };
        let alive = connection.send(&frame::answer(caller.stream, result));
        if !alive || connection.watch(&self.poll, Token::Connection(caller.connection)).is_err() {
            self.hang_up(caller.connection);
        }
    }

    /// Has a worker do `job`, and then what `then` says.
    pub(crate) fn work(&mut self, then: Then, job: impl FnOnce() -> Result<Done, Status>) -> Result<(), Status> {
        let failed = |e: &dyn std::fmt::Display| status(code::INTERNAL, e.to_string());
        let id = self.new_id();
        let host = self.sandbox.as_ref().and_then(|s| s.host.as_ref());
        let worker = Worker::spawn(|| {
            // hooks, and what joins no namespace of the pod, are the host's
            host.map_or(Ok(()), Namespaces::join).map_err(|e| failed(&e))?;
            job()
        })
        .map_err(|e| failed(&e))?;
        if let Err(e) = self.poll.reads(&worker, Token::Worker(id)) {
            // its result will not be heard, so it must not have one
            let pid = rustix::process::Pid::from_raw(worker.pid);
            let _ = pid.map(|pid| rustix::process::kill_process(pid, rustix::process::Signal::KILL));
            return Err(failed(&e));
        }
        self.workers.insert(id, (worker, then));
        Ok(())
    }

    fn listen_to(&mut self, id: u64) {
        let Some((worker, _)) = self.workers.get_mut(&id) else { return };
        let Some(result) = worker.receive() else { return };
        if let Some((worker, then)) = self.workers.remove(&id) {
            self.poll.forget(&worker);
            drop(worker);
            self.follow(then, result);
            if !self.workers.values().any(|(_, then)| then.launches()) {
                self.early.clear();
            }
        }
    }

    /// Whether a worker is about to make a process.
    pub(crate) fn is_launching(&self) -> bool {
        self.workers.values().any(|(_, then)| then.launches())
    }

    fn take_signals(&mut self) {
        while let Ok(Some(info)) = self.signals.read_signal() {
            match Signal::try_from(info.ssi_signo as i32) {
                Ok(Signal::SIGUSR1) => log::info!("{}", self.describe()),
                Ok(Signal::SIGTERM | Signal::SIGINT) => self.end(),
                _ => {}
            }
        }
        // signals of one kind are merged: always look
        self.reap();
    }

    /// Ends once the events have left.
    pub(crate) fn end(&mut self) {
        if self.ends.is_none() {
            let _ = std::fs::remove_file(&self.socket);
            self.poll.forget(&self.listener);
            self.accept_again = None;
            self.ends = Some(Instant::now() + FLUSH);
        }
    }

    /// All that it knows, for SIGUSR1.
    fn describe(&self) -> String {
        let mut text = format!(
            "{} connections, {} workers, {} events to send, {} streams",
            self.connections.len(),
            self.workers.len(),
            self.events.len(),
            self.streaming.len()
        );
        for (id, container) in &self.containers {
            for (exec_id, p) in container.processes() {
                let (phase, pid, waiters, outputs) = (p.phase, p.pid, p.waiters.len(), p.io.outputs.len());
                let _ = write!(text, "; {id} {exec_id:?}: {phase:?}, pid {pid}, {waiters} waiters, {outputs} outputs, exit {:?}", p.exit);
            }
        }
        text
    }
}
