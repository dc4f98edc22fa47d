//! The loop: one thread, for all containers of a group. It waits, and gives what has come to the part that it is for.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use libcontainer::error::{Doing, Result};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::io::Errno;
use rustix::net::SocketFlags;

use crate::daemon::{Answered, Daemon, Reply};
use crate::deletion;
use crate::events::Events;
use crate::exits;
use crate::lifecycle;
use crate::oom;
use crate::poll::{Poll, Token};
use crate::rpc::connection::Connection;
use crate::rpc::frame::{self, REQUEST, code, status};
use crate::rpc::messages::{Options, Request};
use crate::rpc::wire::Message;
use crate::sandbox;
use crate::state::{Caller, State};
use crate::task;

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

/// A call that waits for a reader of its output.
#[derive(Debug)]
struct PutOff {
    caller: Caller,
    request: Request,
    until: Instant,
}

#[derive(Debug)]
struct Loop {
    daemon: Daemon,
    signals: SignalFd,
    put_off: Vec<PutOff>,
    idle_since: Option<Instant>,
    accept_again: Option<Instant>,
}

/// Serves until there is nothing left to serve; the exit code.
pub(crate) fn run(setup: Setup) -> i32 {
    crate::log::open(Path::new("log"), setup.debug);
    let socket = setup.socket.clone();
    match Loop::new(setup).and_then(|mut serving| serving.serve()) {
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

/// Takes the signals that the loop heeds from a descriptor.
fn take_over_signals() -> Result<SignalFd> {
    masu_host::sys::signal::ignore(rustix::process::Signal::PIPE.as_raw()).doing(|| "ignore SIGPIPE")?;
    let mut set = SigSet::empty();
    for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGUSR1] {
        set.add(signal);
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&set), None).map_err(std::io::Error::from).doing(|| "block signals")?;
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    SignalFd::with_flags(&set, flags).map_err(std::io::Error::from).doing(|| "make a signalfd")
}

impl Loop {
    fn new(setup: Setup) -> Result<Loop> {
        // the sealed executable has no name of its own
        rustix::thread::set_name(c"containerd-shim").doing(|| "set the name of the process")?;
        rustix::process::set_child_subreaper(Some(rustix::process::getpid())).doing(|| "become a subreaper")?;
        let signals = take_over_signals()?;
        let poll = Poll::new()?;
        poll.reads(&setup.listener, Token::Listener).doing(|| "wait for connections")?;
        poll.reads(&signals, Token::Signals).doing(|| "wait for signals")?;
        // leave the bundle directory, so that it can be unmounted
        rustix::process::chdir("/").doing(|| "chdir /")?;
        let events = Events::new(&setup.events, &setup.namespace);
        let state = State { namespace: setup.namespace, options: setup.options, ..State::default() };
        let daemon = Daemon::new(poll, setup.listener, setup.socket, events, state);
        Ok(Loop { daemon, signals, put_off: Vec::new(), idle_since: Some(Instant::now()), accept_again: None })
    }

    fn serve(&mut self) -> Result<()> {
        log::debug!("the shim {} serves at {}", crate::VERSION, self.daemon.socket.display());
        let mut ready = Vec::new();
        loop {
            self.daemon.poll.wait(self.deadline(), &mut ready)?;
            for token in ready.drain(..) {
                self.dispatch(token);
            }
            let now = Instant::now();
            self.do_what_is_due(now)?;
            if self.daemon.ends.is_some_and(|at| at <= now || self.daemon.events.is_empty()) {
                return Ok(());
            }
            let is_idle = self.daemon.state.is_unused() && self.daemon.connections.is_empty() && self.daemon.jobs.is_empty();
            self.idle_since = if is_idle { self.idle_since.or(Some(now)) } else { None };
            if self.idle_since.is_some_and(|since| now >= since + IDLE) {
                log::info!("nobody needs this shim any more: it ends");
                self.daemon.end();
            }
        }
    }

    /// What waits for a time and not for a descriptor.
    fn do_what_is_due(&mut self, now: Instant) -> Result<()> {
        if self.daemon.ends.is_some() {
            self.accept_again = None;
        }
        if self.daemon.events.deadline.is_some_and(|at| at <= now) {
            self.daemon.events.expired(&self.daemon.poll);
        }
        if self.accept_again.is_some_and(|at| at <= now) {
            self.accept_again = None;
            self.daemon.poll.reads(&self.daemon.listener, Token::Listener).doing(|| "wait for connections")?;
        }
        for call in std::mem::take(&mut self.put_off) {
            self.make_call(call);
        }
        if self.put_off.is_empty() {
            // those of calls that failed
            self.daemon.writers.clear();
        }
        for owner in self.daemon.streaming.run_due(&mut self.daemon.state, &self.daemon.poll, now) {
            deletion::try_finish(&mut self.daemon, &owner);
        }
        deletion::give_up_waiting(&mut self.daemon, now);
        Ok(())
    }

    fn deadline(&self) -> Option<Instant> {
        let daemon = &self.daemon;
        let idle = self.idle_since.map(|since| since + IDLE);
        // nothing tells when a fifo is opened
        let fifos = (!self.put_off.is_empty()).then(|| Instant::now() + LOOK_FOR_READERS);
        let deletions = daemon.state.deletions().map(|(_, at)| at).min();
        [fifos, daemon.events.deadline, daemon.streaming.deadline(), deletions, daemon.ends, idle, self.accept_again]
            .into_iter()
            .flatten()
            .min()
    }

    fn dispatch(&mut self, token: Token) {
        let daemon = &mut self.daemon;
        match token {
            Token::Listener => self.accept(),
            Token::Signals => self.take_signals(),
            Token::Events => daemon.events.ready(&daemon.poll),
            Token::Connection(id) => self.converse(id),
            Token::Worker(id) => {
                if let Some((then, result)) = daemon.jobs.hear(&daemon.poll, id) {
                    lifecycle::follow(daemon, then, result);
                    if !daemon.jobs.is_launching() {
                        daemon.state.early.clear();
                    }
                }
            }
            Token::From(id) | Token::To(id) => {
                if let Some(owner) = daemon.streaming.run(&mut daemon.state, &daemon.poll, id) {
                    deletion::try_finish(daemon, &owner);
                }
            }
            Token::Oom(id) => oom::check(daemon, id),
        }
    }

    fn accept(&mut self) {
        loop {
            let socket = match rustix::net::accept_with(&self.daemon.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Ok(socket) => socket,
                Err(Errno::INTR | Errno::CONNABORTED) => continue,
                Err(Errno::AGAIN) => return,
                Err(e) => {
                    // out of descriptors: the waiting connection is reported again and again, and would keep the loop busy
                    log::error!("accept a connection: {e}");
                    self.daemon.poll.forget(&self.daemon.listener);
                    self.accept_again = Some(Instant::now() + ACCEPT_AGAIN);
                    return;
                }
            };
            let id = self.daemon.poll.new_id();
            let added = Connection::accepted(socket)
                .and_then(|c| self.daemon.poll.reads(&c, Token::Connection(id)).doing(|| "wait for a connection").map(|()| c));
            match added {
                Ok(connection) => {
                    self.daemon.connections.insert(id, connection);
                }
                Err(e) => log::warn!("{e}"),
            }
        }
    }

    /// Takes what a connection says, and sends what it was too full for.
    fn converse(&mut self, id: u64) {
        let Some(connection) = self.daemon.connections.get_mut(&id) else { return };
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
                Ok(request) => self.make_call(PutOff { caller, request, until: Instant::now() + deletion::PATIENCE }),
                Err(status) => self.daemon.answer(caller, Err(status)),
            }
        }
        if let Some(connection) = self.daemon.connections.get_mut(&id) {
            alive = alive && connection.watch(&self.daemon.poll, Token::Connection(id)).is_ok();
        }
        if !alive {
            self.daemon.hang_up(id);
        }
    }

    fn make_call(&mut self, call: PutOff) {
        let late = Instant::now() >= call.until;
        match self.call(call.caller, &call.request, late) {
            Ok(Reply::Later) => {}
            Ok(Reply::Again) => self.put_off.push(call),
            Ok(Reply::Now(payload)) => self.daemon.answer(call.caller, Ok(payload)),
            Err(status) => self.daemon.answer(call.caller, Err(status)),
        }
    }

    /// `late`: whether it must not be put off any more.
    fn call(&mut self, caller: Caller, request: &Request, late: bool) -> Answered {
        match request.service.as_str() {
            sandbox::SERVICE => sandbox::call(&mut self.daemon, caller, request),
            service if task::SERVICES.contains(&service) => task::call(&mut self.daemon, caller, request, late),
            service => Err(status(code::UNIMPLEMENTED, format!("service {service}"))),
        }
    }

    fn take_signals(&mut self) {
        while let Ok(Some(info)) = self.signals.read_signal() {
            match Signal::try_from(info.ssi_signo as i32) {
                Ok(Signal::SIGUSR1) => log::info!("{}", self.daemon.describe()),
                Ok(Signal::SIGTERM | Signal::SIGINT) => self.daemon.end(),
                _ => {}
            }
        }
        // signals of one kind are merged: always look
        exits::reap(&mut self.daemon);
    }
}
