//! THE STORY of exec, on the runtime's side: a process is added to a container.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use masu_host::procfs::Procfs;
use masu_host::sys::close_range::set_cloexec_from;
use masu_host::sys::namespace::setns;
use rustix::io::Errno;

use super::record::Defaults;
use super::{Container, Process, Status};
use crate::cgroup::{Cgroup, Layout};
use crate::error::{Doing, Error, Result};
use crate::findings::Findings;
use crate::launch::channel::{Channel, Message};
use crate::launch::{Answers, Caller, Launch, Until, exec_init, unexpected};
use crate::namespaces::IdMaps;
use crate::namespaces::user_namespace::check_user;
use crate::plan;
use crate::process::cpu_affinity::Bound;
use crate::process::user::UserSpec;
use crate::process::{ProcessPlan, Stdio, memory_policy};
use crate::seccomp::Filter;
use crate::spec::{self, State};

/// What to run, and how: see the flags of `masu exec`. [`ExecOptions::new`] has the defaults, and each field can be set.
#[derive(Debug, Default)]
#[non_exhaustive]
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

impl ExecOptions {
    /// A program and its arguments, with every other option at its default.
    pub fn new(args: impl IntoIterator<Item = impl Into<String>>) -> ExecOptions {
        ExecOptions { args: args.into_iter().map(Into::into).collect(), ..ExecOptions::default() }
    }

    fn caller(&self) -> Caller<'_> {
        Caller {
            stdio: &self.stdio,
            console_socket: self.console_socket.as_deref(),
            pidfd_socket: self.pidfd_socket.as_deref(),
            pid_file: self.pid_file.as_deref(),
            detach: self.detach,
            keeps_terminal: self.keeps_terminal,
            preserved_fds: self.preserve_fds,
        }
    }
}

impl Container {
    /// Runs a process in a created or running container. Returns once its execve has succeeded. The calling process must
    /// have one thread.
    pub fn exec(&self, options: &ExecOptions) -> Result<Process> {
        // prepare: nothing is made
        let caller = options.caller();
        caller.check()?;
        set_cloexec_from(3 + caller.preserved_fds).doing(|| "mark descriptors close-on-exec")?;
        let Some(init) = self.init()? else { return Err(Error::wrong_status(format!("cannot exec in a {} container", self.status()?))) };
        // opened once: for the question whether it is frozen, and for the process to go into
        let own = self.cgroup()?;
        if !options.ignore_paused && own.is_frozen()? {
            return Err(Error::wrong_status("cannot exec in a paused container (use --ignore-paused to override)"));
        }
        let plan = self.plan_exec(options, &caller, &init)?;
        let sockets = caller.connect(&plan, None)?;
        let proc = if plan.labels.is_empty() { None } else { Some(Procfs::detached()?) };
        let cgroup = self.target(own, options)?;
        if plan.in_user_namespace {
            let maps = IdMaps::of(&self.proc, self.record.pid)?;
            check_user(&maps, plan.uid, plan.gid, &plan.groups)?;
            if let Some(uid) = maps.uids.outside(plan.uid) {
                caller.stdio.give_pipes(uid)?;
            }
        }

        // spawn
        let (ours, theirs) = Channel::pair()?;
        // with an initial affinity it is moved into the cgroup, not born in it: so that it is on those CPUs until then
        let into = if plan.cpu_affinity.initial.is_none() { cgroup.clone_target() } else { None };
        let joins_cgroups = !self.record.cgroup.v1.is_empty() || into.is_none();
        let inherited = exec_init::Inherited {
            stdio: caller.stdio,
            channel: theirs,
            init,
            namespaces: self.record.namespaces & !libc::CLONE_NEWPID,
            keyring: if self.record.keyring { Some(plan::keyring(&self.record.id)?) } else { None },
            proc,
            ignored: self.proc.ignored_signals()?,
            waits: joins_cgroups || plan.oom_score_adj.is_some() || self.record.intel_rdt.is_some(),
        };
        let waits = inherited.waits;
        let pids = (self.record.namespaces & libc::CLONE_NEWPID != 0)
            .then_some(|| setns(inherited.init.as_fd(), libc::CLONE_NEWPID).doing(|| "join the container's pid namespace"));
        let bound = plan.cpu_affinity.initial.as_ref().map(Bound::to).transpose()?;
        let launch = Launch::of_exec(&plan, ours, sockets, &inherited, pids, into, || match options.cgroups.is_empty() {
            true => self.cgroup_of_init(),
            // another cgroup than the one that the caller names would be wrong, so the error is returned, as in runc
            false => Ok(None),
        });
        drop(bound);
        let mut launch = launch.map_err(|e| self.explain_busy(e, options)).doing(|| "unable to start container process")?;
        // our copies of its ends: else its death would not be the end of the stream
        drop(inherited);

        // converse, commit
        let entered = joins_cgroups.then_some((&cgroup, into.is_some()));
        let done = self.settle(&plan, &launch, entered, waits, options);
        let done = done.and_then(|()| launch.converse(&plan, Until::Executed, &mut ExecAnswers(self)));
        done.map_err(|e| launch.explain(e)).doing(|| "unable to start container process")?;
        launch.announce(caller.pid_file)?;
        let (pid, pidfd, terminal) = launch.keep()?;
        Ok(Process { pid, pidfd, terminal })
    }

    /// The plan of the process, by what the config said at create and by the options. Names are looked up in the container's root
    /// directory.
    fn plan_exec(&self, options: &ExecOptions, caller: &Caller<'_>, init: &OwnedFd) -> Result<ProcessPlan> {
        let defaults = self.dir.defaults()?;
        let mut process = process_of(options, &defaults)?;
        if let Some(user) = options.user.as_ref().filter(|_| options.process.is_none()) {
            let found = user.find(self.root(init)?.as_fd())?;
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
        caller.settle_terminal(&mut plan)?;
        if let Some(terminal) = &mut plan.terminal {
            terminal.size = terminal.size.or(options.console_size);
        }
        Ok(plan)
    }

    /// What only the host may do for the process: its OOM score, its cgroup and its class of service. `entered` is the cgroup
    /// that it is to be moved to, and whether it is in the v2 hierarchy of it already.
    fn settle(
        &self,
        plan: &ProcessPlan,
        launch: &Launch,
        entered: Option<(&Cgroup, bool)>,
        waits: bool,
        options: &ExecOptions,
    ) -> Result<()> {
        let pid = launch.pid();
        if let Some(score) = plan.oom_score_adj {
            self.proc
                .write(&format!("{pid}/oom_score_adj"), score.to_string().as_bytes())
                .doing(|| format!("failed to update /proc/self/oom_score_adj to {score}"))?;
        }
        if let Some((cgroup, in_v2)) = entered {
            self.join(cgroup, pid, in_v2, options)?;
        }
        if let Some(group) = &self.record.intel_rdt {
            group.join(pid)?;
        }
        if waits { launch.send(&Message::Released) } else { Ok(()) }
    }

    /// The cgroup for the process, of which `own` is the container's.
    fn target(&self, own: Cgroup, options: &ExecOptions) -> Result<Cgroup> {
        if !options.cgroups.is_empty() {
            own.exec_target(&options.cgroups)
        } else if own.is_gone(&self.record.cgroup) {
            // init moved elsewhere, and another program removed what it left; the caller's own cgroup is no place for the process
            let gone = || format!("the cgroup of container {} is gone, and that of its init cannot be joined", self.record.id);
            self.cgroup_of_init()?.ok_or_else(|| Error::unsupported(gone()))
        } else {
            Ok(own)
        }
    }

    /// runc's words, which callers look for, for a cgroup that takes no process.
    fn explain_busy(&self, error: Error, options: &ExecOptions) -> Error {
        match error.errno() {
            Some(Errno::BUSY) => error
                .context(format!("error adding pid of the new process to cgroups {:?} of container {}", options.cgroups, self.record.id)),
            _ => error,
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
}

/// An exec'd process asks for nothing of its own.
struct ExecAnswers<'a>(&'a Container);

impl Answers for ExecAnswers<'_> {
    fn state(&self, _: i32) -> Result<State> {
        self.0.state_with(Status::Running)
    }

    fn answer(&mut self, _: Message, _: &Channel, _: i32) -> Result<()> {
        Err(unexpected())
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
