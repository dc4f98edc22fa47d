//! What init asks of the runtime while it is made (`process/channel.rs` has the protocol), and the sockets that the answers
//! go to.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use crate::error::{Error, Kind, Result};
use crate::hooks;
use crate::launch::channel::{Channel, Message};
use crate::launch::spawn::died;
use crate::plan::Plan;
use crate::process::terminal;
use crate::rootfs::{IdMapped, open_source};
use crate::seccomp;
use crate::spec::{self, State};

/// The caller's and the agent's. Connected before anything is made, so that a wrong path is an early error.
pub(crate) struct Sockets {
    console: Option<OwnedFd>,
    pub(crate) pidfd: Option<OwnedFd>,
    /// The same for who is named by an annotation.
    pub(crate) pidfd_receiver: Option<OwnedFd>,
    listener: Option<OwnedFd>,
}

impl Sockets {
    /// `console` and `pidfd` are the caller's paths; the others are the plan's.
    pub(crate) fn connect(plan: &Plan, console: Option<&Path>, pidfd: Option<&Path>) -> Result<Sockets> {
        let connect = |path: Option<&Path>| path.map(masu_host::fds::connect).transpose();
        let listener = plan.process.filter.as_ref().and_then(|f| f.listener.as_ref());
        Ok(Sockets {
            console: connect(console)?,
            pidfd: connect(pidfd)?,
            pidfd_receiver: connect(plan.extensions.pidfd_receiver.as_deref().map(Path::new))?,
            listener: listener.map(|l| seccomp::listener::connect(&l.path)).transpose()?,
        })
    }
}

/// Answers init until it is ready; the terminal's master end, if it stays with us.
pub(crate) fn serve(
    plan: &Plan,
    channel: &Channel,
    pid: i32,
    sockets: &Sockets,
    hook_output: &hooks::Opened,
    map_ids: impl Fn(IdMapped, &OwnedFd) -> Result<()>,
) -> Result<Option<OwnedFd>> {
    let mut terminal = None;
    loop {
        match channel.receive()?.ok_or_else(died)? {
            Message::HooksDue => {
                // prestart is from the days when it ran in start, of a container that was created (as with crun)
                for (kind, list, status) in
                    [("prestart", &plan.hooks.prestart, "created"), ("createRuntime", &plan.hooks.create_runtime, "creating")]
                {
                    let state = plan.state_json(pid, status)?;
                    hooks::run(kind, list, &state, Some(&plan.bundle), None, hook_output).map_err(|e| e.in_step("hooks"))?;
                }
                channel.send(&Message::HooksDone { pid })?;
            }
            Message::SourceDue { path, nofollow, root } => {
                channel.send(&Message::Source(open_source(root.as_fd(), &path, nofollow)?))?;
            }
            Message::IdMapDue { id_map, mount } => {
                map_ids(id_map, &mount)?;
                channel.send(&Message::IdsMapped)?;
            }
            Message::LimitsDue => {
                plan.process.rlimits.apply_to(pid)?;
                channel.send(&Message::LimitsSet)?;
            }
            Message::Terminal(ours) => match &sockets.console {
                Some(socket) => terminal::send(socket, &ours)?,
                None => terminal = Some(ours),
            },
            Message::Listener(fd) => {
                if let (Some(socket), Some(listener)) = (&sockets.listener, plan.process.filter.as_ref().and_then(|f| f.listener.as_ref()))
                {
                    send_listener(socket, &listener.metadata, pid, &plan.state(pid, "creating"), &fd)?;
                }
            }
            Message::Warning(text) => log::warn!("{text}"),
            Message::Ready => return Ok(terminal),
            Message::Failed(error) => return Err(error),
            Message::Cloned { .. }
            | Message::Mapped
            | Message::Unshared
            | Message::Released
            | Message::Source(_)
            | Message::IdsMapped
            | Message::LimitsSet
            | Message::HooksDone { .. }
            | Message::Recorded => {
                return Err(Error::new(Kind::Internal, "init sent what only the runtime says"));
            }
        }
    }
}

/// Hands the filter's listener to its agent (config-linux.md, "The Container Process State").
pub(crate) fn send_listener(socket: &OwnedFd, metadata: &str, pid: i32, state: &State, fd: &OwnedFd) -> Result<()> {
    let state = seccomp::listener::ProcessState { oci_version: spec::VERSION, fds: seccomp::listener::FDS, pid, metadata, state };
    let text = serde_json::to_vec(&state).map_err(|e| Error::new(Kind::Internal, e.to_string()))?;
    seccomp::listener::send(socket.as_fd(), &text, fd.as_fd())
}
