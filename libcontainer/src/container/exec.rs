//! THE STORY of exec, on the runtime's side: a process is added to a container.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::io::Errno;
use rustix::process::DumpableBehavior;

use super::create::check_preserved;
use super::record::Defaults;
use super::write::write_pid_file;
use super::{Container, Process, Status};
use crate::cgroup::{Cgroup, Layout};
use crate::error::{Doing, Error, Kind, Result};
use crate::findings::Findings;
use crate::launch::channel::{Channel, Message};
use crate::launch::exec_init;
use crate::launch::gate;
use crate::launch::serve::send_listener;
use crate::launch::spawn::{Child, died, own_pid_namespace};
use crate::namespaces::IdMaps;
use crate::namespaces::user_namespace::check_user;
use crate::plan;
use crate::process::cpu_affinity::Bound;
use crate::process::memory_policy;
use crate::process::terminal;
use crate::process::user::UserSpec;
use crate::process::{ProcessPlan, Stdio};
use crate::seccomp::{self, Filter};
use crate::spec;
use masu_host::fds;
use masu_host::procfs::Procfs;
use masu_host::sys::clone::{Side, clone3};
use masu_host::sys::close_range::set_cloexec_from;
use masu_host::sys::namespace::setns;

/// What to run, and how; see the flags of `masu exec`.
#[derive(Debug, Default)]
pub struct ExecOptions {
    /// A whole process document; it stands in for the container's own and for most of what follows.
    pub process: Option<spec::Process>,
    /// The program and its arguments.
    pub args: Vec<String>,
    /// Its working directory, absolute; by default the container's.
    pub cwd: Option<String>,
    /// Added to the container's environment.
    pub env: Vec<String>,
    /// Whether it gets a terminal.
    pub tty: bool,
    /// As whom it runs; by default as the container's process does.
    pub user: Option<UserSpec>,
    /// Supplementary groups besides the container's.
    pub additional_gids: Vec<u32>,
    /// Capabilities on top of the container's; never inheritable ones (CVE-2022-29162).
    pub caps: Vec<String>,
    /// Whether execve may not give it more rights; by default as the container has it.
    pub no_new_privileges: Option<bool>,
    /// Its AppArmor profile.
    pub apparmor: Option<String>,
    /// Its SELinux label.
    pub process_label: Option<String>,
    /// `[controller[,controller]:]path`, below the container's cgroup.
    pub cgroups: Vec<String>,
    /// Whether a paused container is no error: the process then runs once it is resumed.
    pub ignore_paused: bool,
    /// How many descriptors from 3 on the program keeps.
    pub preserve_fds: u32,
    /// The standard streams; by default those of the caller.
    pub stdio: Stdio,
    /// A unix socket that gets the terminal's master end.
    pub console_socket: Option<PathBuf>,
    /// Rows and columns of the terminal, where the process document does not say.
    pub console_size: Option<(u16, u16)>,
    /// A unix socket that gets a pidfd of the process.
    pub pidfd_socket: Option<PathBuf>,
    /// Gets the pid, only on success.
    pub pid_file: Option<PathBuf>,
    /// Whether the caller goes away: a terminal then needs a console socket.
    pub detach: bool,
    /// As in [`CreateOptions`](super::CreateOptions).
    pub keeps_terminal: bool,
}

impl Container {
    /// Runs a process in a created or running container. Returns once its execve has succeeded. The calling process must
    /// have one thread.
    pub fn exec(&self, options: &ExecOptions) -> Result<Process> {
        check_preserved(options.preserve_fds)?;
        set_cloexec_from(3 + options.preserve_fds).doing(|| "mark descriptors close-on-exec")?;
        let Some(init) = self.init()? else { return Err(Error::wrong_status(format!("cannot exec in a {} container", self.status()?))) };
        // opened once: for the question whether it is frozen, and for the process to go into
        let own = self.cgroup()?;
        if !options.ignore_paused && !gate::is_closed(self.dir.fd()) && own.is_frozen()? {
            return Err(Error::wrong_status("cannot exec in a paused container (use --ignore-paused to override)"));
        }

        // plan
        let defaults = self.dir.defaults()?;
        let mut process = process_of(options, &defaults)?;
        if let Some(user) = options.user.as_ref().filter(|_| options.process.is_none()) {
            let found = user.find(self.root(&init)?.as_fd())?;
            process.user.uid = found.uid;
            process.user.gid = found.gid.unwrap_or(process.user.gid);
            process.user.additional_gids.extend(found.groups);
        }
        let filter = self.dir.filter()?.map(|bytes| Filter::from_bytes(&bytes)).transpose()?;
        let mut found = Findings::new();
        let plan = ProcessPlan::plan(&process, filter, 0, options.preserve_fds, &mut found);
        let mut plan = found.unless_wrong(plan)?;
        plan.personality = defaults.personality;
        plan.memory_policy = defaults.memory_policy.as_ref().map(memory_policy::plan).transpose()?;
        plan.keep_groups = defaults.keep_groups;
        plan.note_cpuset(Some(&defaults.resources));
        plan.in_user_namespace = self.record.namespaces & libc::CLONE_NEWUSER != 0;
        check_terminal(&plan, options)?;
        if let Some(terminal) = &mut plan.terminal {
            terminal.relayed = options.console_socket.is_none() && !options.keeps_terminal;
            terminal.size = terminal.size.or(options.console_size);
        }
        let console = options.console_socket.as_deref().map(fds::connect).transpose()?;
        let pidfd_socket = options.pidfd_socket.as_deref().map(fds::connect).transpose()?;
        let listener = plan.filter.as_ref().and_then(|f| f.listener.as_ref()).map(|l| seccomp::listener::connect(&l.path)).transpose()?;
        let proc = if plan.labels.is_empty() { None } else { Some(Procfs::detached()?) };
        let cgroup = self.target(own, options)?;

        if plan.in_user_namespace {
            let maps = IdMaps::of(&self.proc, self.record.pid)?;
            check_user(&maps, plan.uid, plan.gid, &plan.groups)?;
            if let Some(uid) = maps.uids.outside(plan.uid) {
                options.stdio.give_pipes(uid)?;
            }
        }

        // the process itself
        let (ours, theirs) = Channel::pair()?;
        // with an initial affinity it is moved into the cgroup, not born in it: so that it is on those CPUs until then
        let into = if plan.cpu_affinity.initial.is_none() { cgroup.clone_target() } else { None };
        let joins_cgroups = !self.record.cgroup.v1.is_empty() || into.is_none();
        let inherited = exec_init::Inherited {
            stdio: &options.stdio,
            channel: theirs,
            init,
            namespaces: self.record.namespaces & !libc::CLONE_NEWPID,
            keyring: if self.record.keyring { Some(plan::keyring(&self.record.id)?) } else { None },
            proc,
            ignored: self.proc.ignored_signals()?,
            waits: joins_cgroups || plan.oom_score_adj.is_some() || self.record.intel_rdt.is_some(),
        };
        let waits = inherited.waits;
        let child = self.spawn(&plan, &inherited, into, options).doing(|| "unable to start container process")?;
        drop(inherited);
        let started = (|| -> Result<Option<OwnedFd>> {
            if let Some(score) = plan.oom_score_adj {
                self.proc
                    .write(&format!("{}/oom_score_adj", child.pid), score.to_string().as_bytes())
                    .doing(|| format!("failed to update /proc/self/oom_score_adj to {score}"))?;
            }
            if joins_cgroups {
                self.join(&cgroup, child.pid, into.is_some(), options)?;
            }
            if let Some(group) = &self.record.intel_rdt {
                group.join(child.pid)?;
            }
            if waits {
                ours.send(&Message::Released)?;
            }
            self.serve(&plan, &ours, child.pid, console.as_ref(), listener.as_ref())
        })();
        let terminal = match started {
            Ok(terminal) => terminal,
            Err(error) => {
                let is_dead = error.errno() == Some(Errno::PIPE) || error.errno() == Some(Errno::SRCH);
                let error = ours.failure(is_dead).unwrap_or(error);
                return Err(child.explain(error)).doing(|| "unable to start container process");
            }
        };
        if let Some(socket) = &pidfd_socket {
            fds::send_fd(socket, "pidfd", child.pidfd()?).doing(|| "send the pidfd over the pidfd socket")?;
        }
        if let Some(path) = &options.pid_file {
            write_pid_file(path, child.pid)?;
        }
        let (pid, pidfd) = child.keep()?;
        Ok(Process { pid, pidfd, terminal })
    }

    /// The cgroup for the process, of which `own` is the container's.
    fn target(&self, own: Cgroup, options: &ExecOptions) -> Result<Cgroup> {
        if !options.cgroups.is_empty() {
            own.exec_target(&options.cgroups)
        } else if own.is_gone(&self.record.cgroup) {
            // init moved elsewhere, and somebody removed what it left; the caller's own cgroup is no place for the process
            let gone = || format!("the cgroup of container {} is gone, and that of its init cannot be joined", self.record.id);
            self.cgroup_of_init()?.ok_or_else(|| Error::unsupported(gone()))
        } else {
            Ok(own)
        }
    }

    /// Clones into the container's pid namespace and cgroup.
    fn spawn(
        &self,
        plan: &ProcessPlan,
        inherited: &exec_init::Inherited<'_>,
        into: Option<BorrowedFd<'_>>,
        options: &ExecOptions,
    ) -> Result<Child> {
        let _bound = plan.cpu_affinity.initial.as_ref().map(Bound::to).transpose()?;
        let dumpable = rustix::process::dumpable_behavior()?;
        rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).doing(|| "become non-dumpable")?;
        let back = if self.record.namespaces & libc::CLONE_NEWPID != 0 {
            let own = own_pid_namespace()?;
            setns(inherited.init.as_fd(), libc::CLONE_NEWPID).doing(|| "join the container's pid namespace")?;
            Some(own)
        } else {
            None
        };
        let mut cloned = clone_into(into, plan, inherited);
        // who names a cgroup gets that one or an error, as by runc
        if let Err(Errno::BUSY) = cloned
            && options.cgroups.is_empty()
            && let Some(deeper) = self.cgroup_of_init()?
        {
            cloned = clone_into(deeper.clone_target(), plan, inherited);
        }
        if let Some(own) = back {
            setns(own.as_fd(), libc::CLONE_NEWPID).doing(|| "return to the own pid namespace")?;
        }
        if dumpable == DumpableBehavior::Dumpable {
            rustix::process::set_dumpable_behavior(dumpable).doing(|| "become dumpable again")?;
        }
        let busy = matches!(cloned, Err(Errno::BUSY));
        let doing = || match busy {
            // runc's words, which are looked for
            true => format!("error adding pid of the new process to cgroups {:?} of container {}", options.cgroups, self.record.id),
            false => "clone into the container".to_owned(),
        };
        match cloned.doing(doing)? {
            Side::Parent { pid, pidfd } => Ok(Child::new(pid, pidfd)),
            Side::Child => Err(Error::new(Kind::Internal, "the exec'd process returned")),
        }
    }

    /// Moves process `pid` into `cgroup`.
    fn join(&self, cgroup: &Cgroup, pid: i32, cloned_into_v2: bool, options: &ExecOptions) -> Result<()> {
        match cgroup.join(pid, cloned_into_v2) {
            Err(e) if e.errno() == Some(Errno::BUSY) && options.cgroups.is_empty() => match self.cgroup_of_init()? {
                Some(deeper) => deeper.join(pid, false),
                None => Err(e),
            },
            result => result,
        }
    }

    /// Where init moved to, if it gave controllers to a cgroup below its own: processes may only be in leaves.
    fn cgroup_of_init(&self) -> Result<Option<Cgroup>> {
        let pid = self.record.pid;
        let text = self.proc.read(&format!("{pid}/cgroup")).doing(|| format!("read /proc/{pid}/cgroup"))?;
        Cgroup::exec_fallback(&Layout::detect()?, &text)
    }

    /// Answers the process until its execve closes the channel; the terminal's master end, if it stays with us.
    fn serve(
        &self,
        plan: &ProcessPlan,
        channel: &Channel,
        pid: i32,
        console: Option<&OwnedFd>,
        listener: Option<&OwnedFd>,
    ) -> Result<Option<OwnedFd>> {
        let mut terminal = None;
        let mut ready = false;
        loop {
            match channel.receive()? {
                None if ready => return Ok(terminal),
                None => return Err(died()),
                Some(Message::Ready) => ready = true,
                Some(Message::LimitsDue) => {
                    plan.rlimits.apply_to(pid)?;
                    channel.send(&Message::LimitsSet)?;
                }
                Some(Message::Terminal(ours)) => match console {
                    Some(socket) => terminal::send(socket, &ours)?,
                    None => terminal = Some(ours),
                },
                Some(Message::Listener(fd)) => {
                    if let (Some(socket), Some(to)) = (listener, plan.filter.as_ref().and_then(|f| f.listener.as_ref())) {
                        send_listener(socket, &to.metadata, pid, &self.state_with(Status::Running)?, &fd)?;
                    }
                }
                Some(Message::Warning(text)) => log::warn!("{text}"),
                Some(Message::Failed(error)) => return Err(error),
                Some(_) => return Err(Error::new(Kind::Internal, "the exec'd process sent what only the runtime says")),
            }
        }
    }
}

fn clone_into(cgroup: Option<BorrowedFd<'_>>, plan: &ProcessPlan, inherited: &exec_init::Inherited<'_>) -> Result<Side, Errno> {
    let cloned = clone3(0, cgroup);
    if let Ok(Side::Child) = cloned {
        exec_init::run(plan, inherited);
    }
    cloned
}

fn check_terminal(plan: &ProcessPlan, options: &ExecOptions) -> Result<()> {
    match &options.console_socket {
        None if plan.terminal.is_some() && options.detach && !options.keeps_terminal => {
            Err(Error::invalid("cannot allocate tty if runc will detach without setting console socket"))
        }
        Some(_) if plan.terminal.is_none() || !options.detach => {
            Err(Error::invalid("cannot use console socket if runc will not detach or allocate tty"))
        }
        _ => Ok(()),
    }
}

/// The process document to run: the one given, or the container's with the options on top.
fn process_of(options: &ExecOptions, defaults: &Defaults) -> Result<spec::Process> {
    let own = &defaults.process;
    let mut process = match &options.process {
        Some(process) => process.clone(),
        None => {
            let mut process = own.clone();
            process.args = options.args.iter().cloned().map(Some).collect();
            process.terminal = options.tty;
            process.console_size = None;
            process.env.extend(options.env.iter().cloned());
            if let Some(cwd) = &options.cwd {
                process.cwd.clone_from(cwd);
            }
            process.user.additional_gids.extend(&options.additional_gids);
            process.no_new_privileges = options.no_new_privileges.unwrap_or(process.no_new_privileges);
            if let Some(profile) = &options.apparmor {
                process.apparmor_profile.clone_from(profile);
            }
            if let Some(label) = &options.process_label {
                process.selinux_label.clone_from(label);
            }
            process
        }
    };
    if process.capabilities.is_none() {
        process.capabilities.clone_from(&own.capabilities);
    }
    if process.rlimits.is_empty() {
        process.rlimits.clone_from(&own.rlimits);
    }
    if process.apparmor_profile.is_empty() {
        process.apparmor_profile.clone_from(&own.apparmor_profile);
    }
    if process.selinux_label.is_empty() {
        process.selinux_label.clone_from(&own.selinux_label);
    }
    process.oom_score_adj = process.oom_score_adj.or(own.oom_score_adj);
    process.scheduler = process.scheduler.or_else(|| own.scheduler.clone());
    process.io_priority = process.io_priority.or_else(|| own.io_priority.clone());
    // one that says nothing counts as none, as for runc
    let says = |affinity: &spec::CpuAffinity| !(affinity.initial.is_empty() && affinity.finally.is_empty());
    process.exec_cpu_affinity = process.exec_cpu_affinity.filter(says).or_else(|| own.exec_cpu_affinity.clone());
    add_capabilities(&mut process, &options.caps);
    Ok(process)
}

/// `--cap` adds to the three sets that give a right now. Never to the inheritable set, which would hand it on to programs
/// with file capabilities (CVE-2022-29162); the ambient set takes only what is inheritable already.
fn add_capabilities(process: &mut spec::Process, caps: &[String]) {
    if caps.is_empty() {
        return;
    }
    let sets = process.capabilities.get_or_insert_default();
    let ambient: Vec<String> = caps.iter().filter(|c| sets.inheritable.contains(c)).cloned().collect();
    for (set, more) in [(&mut sets.bounding, caps), (&mut sets.effective, caps), (&mut sets.permitted, caps), (&mut sets.ambient, &ambient)]
    {
        for cap in more {
            if !set.contains(cap) {
                set.push(cap.clone());
            }
        }
    }
}
