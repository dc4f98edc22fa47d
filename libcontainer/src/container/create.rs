//! THE STORY of create, on the runtime's side, top to bottom.
//!
//! All that can fail for the config's sake fails in the plan, before anything exists. From the first side effect on, each
//! thing made has a guard that takes it back unless the end is reached, and an intent on disk for `delete --force` in case
//! this process does not live to do it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use masu_host::procfs::Procfs;
use masu_host::sys::close_range::set_cloexec_from;

use super::made::Made;
use super::{Container, Process, check_id};
use crate::cgroup::{Instance, Layout};
use crate::dry_run::Page;
use crate::error::{Doing, Error, Kind, Result};
use crate::findings::Findings;
use crate::hooks;
use crate::launch::channel::{Channel, Message};
use crate::launch::{Answers, Caller, Launch, Until, gate, init, unexpected};
use crate::namespaces::Opened;
use crate::namespaces::user_namespace::check_user;
use crate::plan::{Choices, Plan};
use crate::process::Stdio;
use crate::rootfs::{map_ids, open_source};
use crate::spec::bundle::{Bundle, check_rootfs};
use crate::spec::{Spec, State};

/// What the caller asks for: see the flags of `masu create`. [`CreateOptions::new`] has the defaults, and each field can be set.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct CreateOptions {
    /// The bundle's directory.
    pub bundle: PathBuf,
    /// Another name for the bundle's config.json.
    pub config: Option<PathBuf>,
    /// The standard streams; by default those of the caller.
    pub stdio: Stdio,
    /// A unix socket that gets the terminal's master end.
    pub console_socket: Option<PathBuf>,
    /// A unix socket that gets a pidfd of init.
    pub pidfd_socket: Option<PathBuf>,
    /// Gets init's pid, only on success.
    pub pid_file: Option<PathBuf>,
    /// Whether the rootfs becomes / without pivot_root(2): for a root file system on a ramdisk.
    pub no_pivot: bool,
    /// Whether it has the caller's session keyring.
    pub no_new_keyring: bool,
    /// Descriptors that the program keeps, after stdio and `listen_fds`.
    pub preserve_fds: u32,
    /// Descriptors after stdio that are announced by LISTEN_FDS (sd_listen_fds(3)).
    pub listen_fds: u32,
    /// Whether systemd is to make the cgroup, as a scope; `linux.cgroupsPath` is then `slice:prefix:name`.
    pub systemd_cgroup: bool,
    /// No cgroup of its own: it stays in the caller's, without limits and device rules.
    pub no_cgroup: bool,
    /// Whether the config may lack `process`: the container can be created then, and not started.
    pub process_optional: bool,
    /// Whether the caller goes away: a terminal then needs a console socket.
    pub detach: bool,
    /// Whether the caller keeps the terminal's master end from [`Process::terminal`], for one who is no terminal himself.
    pub keeps_terminal: bool,
    /// The caller's NOTIFY_SOCKET (sd_notify(3)).
    pub notify_socket: Option<PathBuf>,
    /// Who gets notifications of seccomp if the config does not say: the absolute path of a unix socket.
    pub seccomp_receiver: Option<String>,
}

impl CreateOptions {
    /// The bundle alone, with every other option at its default.
    pub fn new(bundle: impl Into<PathBuf>) -> CreateOptions {
        CreateOptions { bundle: bundle.into(), ..CreateOptions::default() }
    }

    fn caller(&self) -> Caller<'_> {
        Caller {
            stdio: &self.stdio,
            console_socket: self.console_socket.as_deref(),
            pidfd_socket: self.pidfd_socket.as_deref(),
            pid_file: self.pid_file.as_deref(),
            detach: self.detach,
            keeps_terminal: self.keeps_terminal,
            preserved_fds: self.listen_fds.saturating_add(self.preserve_fds),
        }
    }
}

/// [`Runtime::create`](super::Runtime::create).
pub(super) fn create(root: &Path, id: &str, options: &CreateOptions) -> Result<(Container, Process)> {
    check_id(id)?;
    // prepare: nothing is made
    let caller = options.caller();
    let open_files = caller.check()?;
    set_cloexec_from(3 + caller.preserved_fds).doing(|| "mark descriptors close-on-exec")?;
    let (mut plan, spec) = plan(root, id, options)?;
    if let Some(filter) = &plan.process.filter {
        log::debug!("seccomp filter flags: {}", filter.flags);
    }
    let mut host = Host::open(&plan)?;
    let sockets = caller.connect(&plan.process, plan.extensions.pidfd_receiver.as_deref().map(Path::new))?;
    let bus = plan.cgroup.connect()?;

    // claim: the first side effect is the directory of that id, the second the undo of all others on disk
    let mut made = Made::make(root, id, &mut plan, spec, options, &host.proc, bus)?;

    // spawn
    let (ours, theirs) = Channel::pair()?;
    let inherited = init::Inherited {
        channel: theirs,
        stdio: caller.stdio,
        gate: made.gate()?,
        namespaces: std::mem::take(&mut host.joined),
        proc: if host.init_needs_proc { Some(host.proc.try_clone()?) } else { None },
        id_maps: if plan.user_namespace.is_some() { Vec::new() } else { std::mem::take(&mut host.id_maps) },
        ignored: host.proc.ignored_signals()?,
        open_files,
        joins_cgroups: joins_cgroups(&plan),
        hook_output: &host.hook_output,
    };
    let launch = Launch::of_init(&plan, ours, sockets, &inherited, made.cgroup.clone_target());
    let mut launch = launch.doing(|| "unable to start container process")?;
    log::debug!("init of container {id} is process {}", launch.pid());
    let joined_net = plan.net_devices.namespace_of(&inherited.namespaces);
    // our copies of init's ends: else its death would not be the end of the stream
    drop(inherited);

    // converse, commit
    let mut answers = InitAnswers { plan: &plan, host: &host, hooks_ran: false };
    let mut is_ready = false;
    let done = joined_net
        .and_then(|net| settle(&plan, &caller, &host, &mut made, &launch, net))
        .and_then(|root| {
            launch.converse(&plan.process, Until::Ready, &mut answers)?;
            is_ready = true;
            delegate(&plan, &made, &launch, root)
        })
        .and_then(|()| commit(&caller, &host, &mut made, &launch));
    match done {
        Ok(()) => {
            let (pid, pidfd, terminal) = launch.keep()?;
            let (dir, record) = made.keep()?;
            Ok((Container { dir, record, proc: Arc::new(host.proc) }, Process { pid, pidfd, terminal }))
        }
        Err(error) => {
            let error = launch.explain(error);
            made.undo(&plan, is_ready || answers.hooks_ran, &host.hook_output);
            Err(if is_ready { error } else { error.context("unable to start container process: error during container init") })
        }
    }
}

/// What the host provides for a container, opened before anything is made.
#[derive(Debug)]
struct Host {
    joined: Vec<Opened>,
    hook_output: hooks::Opened,
    proc: Procfs,
    init_needs_proc: bool,
    /// The namespaces that id-mapped mounts take their maps from. In a user namespace only we may use them, else init does.
    id_maps: Vec<OwnedFd>,
}

impl Host {
    fn open(plan: &Plan) -> Result<Host> {
        let joined = plan.namespaces.open()?;
        let hook_output = if plan.hooks.is_empty() { hooks::Opened::default() } else { plan.extensions.hook_output.open()? };
        let writes_proc = !plan.sysctls.is_empty() || !plan.process.labels.is_empty();
        let proc = if writes_proc { Procfs::detached()? } else { Procfs::open()? };
        let init_needs_proc = writes_proc || plan.namespaces.is_fresh(libc::CLONE_NEWTIME);
        let id_maps = plan.rootfs.make_id_maps(&proc)?;
        Ok(Host { joined, hook_output, proc, init_needs_proc, id_maps })
    }
}

/// Whether init waits until it is in its cgroups: a v1 hierarchy can only be joined, and systemd makes a scope around a process.
fn joins_cgroups(plan: &Plan) -> bool {
    !plan.cgroup.paths().v1.is_empty() || plan.cgroup.unit().is_some()
}

/// What only the host may do for init, while init makes its mounts: ids, network devices, cgroups. The id that the container's
/// root has on the host, in a user namespace. `joined_net` is the network namespace if it is joined.
fn settle(
    plan: &Plan,
    caller: &Caller<'_>,
    host: &Host,
    made: &mut Made,
    launch: &Launch,
    joined_net: Option<OwnedFd>,
) -> Result<Option<u32>> {
    let (proc, pid) = (&host.proc, launch.pid());
    if let Some(score) = plan.process.oom_score_adj {
        proc.write(&format!("{pid}/oom_score_adj"), score.to_string().as_bytes())
            .doing(|| format!("failed to update /proc/self/oom_score_adj to {score}"))?;
    }
    let mut owner = Owners::default();
    if plan.user_namespace.is_some() {
        owner = settle_user_namespace(plan, caller.stdio, proc, pid, made.dir.get()?.fd())?;
        launch.send(&Message::Mapped)?;
    }
    if !plan.net_devices.is_empty() {
        // it waits for us before hooks or the program look
        let namespace = joined_net.map_or_else(|| net_namespace(plan, launch, proc), Ok)?;
        let own = proc.namespace(rustix::process::getpid().as_raw_nonzero().get(), "net")?;
        made.devices = Some(plan.net_devices.move_into(&namespace, own)?);
    }
    let born_inside = made.cgroup.clone_target().is_some();
    if joins_cgroups(plan) {
        // the kernel lets each of these wait for a grace period
        let entered = made.cgroup.start(&plan.cgroup, pid).and_then(|()| made.cgroup.join(pid, born_inside));
        entered.doing(|| "unable to apply cgroup configuration")?;
    }
    if let Some(uid) = owner.user.filter(|_| plan.delegates_cgroup) {
        made.cgroup.give(uid)?;
    }
    if joins_cgroups(plan) {
        launch.send(&Message::Released)?;
    }
    if let Some(group) = &made.record.intel_rdt {
        group.join(pid).doing(|| "unable to apply Intel RDT configuration")?;
    }
    Ok(owner.root)
}

/// Hands a cgroup below the container's own over to its root, once init has seen its own.
fn delegate(plan: &Plan, made: &Made, launch: &Launch, root: Option<u32>) -> Result<()> {
    match &plan.extensions.delegate_cgroup {
        Some(inner) => made.cgroup.give_below(inner, launch.pid(), root),
        None => Ok(()),
    }
}

/// Makes the container known: the record, the caller's pid file and sockets. Then init goes on to its gate.
fn commit(caller: &Caller<'_>, host: &Host, made: &mut Made, launch: &Launch) -> Result<()> {
    made.record.start_time = host.proc.process(launch.pid())?.ok_or_else(Launch::died)?.start_time;
    made.record.pid = launch.pid();
    made.dir.get()?.complete(&made.record)?;
    launch.announce(caller.pid_file)?;
    launch.send(&Message::Recorded).doing(|| "unable to start container process: release init")
}

/// What init asks for.
struct InitAnswers<'a> {
    plan: &'a Plan,
    host: &'a Host,
    hooks_ran: bool,
}

impl Answers for InitAnswers<'_> {
    fn state(&self, pid: i32) -> Result<State> {
        Ok(self.plan.state(pid, "creating"))
    }

    fn answer(&mut self, message: Message, channel: &Channel, pid: i32) -> Result<()> {
        let InitAnswers { plan, host, .. } = self;
        match message {
            Message::HooksDue => {
                self.hooks_ran = true;
                // prestart is from the days when it ran in start, of a container that was created (as with crun)
                for (kind, list, status) in
                    [("prestart", &plan.hooks.prestart, "created"), ("createRuntime", &plan.hooks.create_runtime, "creating")]
                {
                    let state = plan.state_json(pid, status)?;
                    hooks::run(kind, list, &state, Some(&plan.bundle), None, &host.hook_output).map_err(|e| e.in_step("hooks"))?;
                }
                channel.send(&Message::HooksDone { pid })
            }
            Message::SourceDue { path, nofollow, root } => channel.send(&Message::Source(open_source(root.as_fd(), &path, nofollow)?)),
            Message::IdMapDue { id_map, mount } => {
                map_ids(id_map, mount.as_fd(), &host.id_maps, &host.proc, pid)?;
                channel.send(&Message::IdsMapped)
            }
            _ => Err(unexpected()),
        }
    }
}

/// [`Runtime::dry_run`](super::Runtime::dry_run).
pub(super) fn dry_run(root: &Path, id: &str, options: &CreateOptions) -> Result<Page> {
    check_id(id)?;
    options.caller().check()?;
    plan(root, id, options).map(|(plan, _)| Page::of(&plan))
}

/// Everything that the config can get wrong.
fn plan(root: &Path, id: &str, options: &CreateOptions) -> Result<(Plan, Spec)> {
    let mut bundle = Bundle::open(&options.bundle, options.config.as_deref())?;
    let layout = if options.no_cgroup { Layout::none() } else { Layout::detect()?.with_controllers() };
    let mut found = Findings::new();
    let notify_dir = options.notify_socket.as_ref().map(|_| root.join(id).join("notify").to_string_lossy().into_owned());
    let choices = Choices {
        systemd: options.systemd_cgroup.then(Instance::detect).transpose()?,
        no_pivot: options.no_pivot,
        no_new_keyring: options.no_new_keyring,
        process_optional: options.process_optional,
        listen_fds: options.listen_fds,
        preserve_fds: options.preserve_fds,
        notify_dir,
        seccomp_receiver: options.seccomp_receiver.clone(),
    };
    let plan = Plan::for_create(id, &bundle.dir, &mut bundle.spec, &layout, &choices, &mut found);
    let mut plan = found.unless_wrong(plan)?;
    options.caller().settle_terminal(&mut plan.process)?;
    check_rootfs(&plan.rootfs.path)?;
    Ok((plan, bundle.spec))
}

/// The users of the container on the host, in a user namespace.
#[derive(Debug, Default)]
struct Owners {
    root: Option<u32>,
    /// The user of its first process.
    user: Option<u32>,
}

/// The maps of init's user namespace, and what the container's root or its user shall own on the host, but for the cgroup.
fn settle_user_namespace(plan: &Plan, stdio: &Stdio, proc: &Procfs, pid: i32, dir: BorrowedFd<'_>) -> Result<Owners> {
    let Some(namespace) = &plan.user_namespace else { return Ok(Owners::default()) };
    let maps = namespace.settle(proc, pid)?;
    check_user(&maps, plan.process.uid, plan.process.gid, &plan.process.groups)?;
    if let (Some(uid), Some(gid)) = (maps.uids.outside(0), maps.gids.outside(0)) {
        gate::give(dir, uid, gid)?;
    }
    let user = maps.uids.outside(plan.process.uid);
    if let Some(uid) = user {
        stdio.give_pipes(uid)?;
    }
    Ok(Owners { root: maps.uids.outside(0), user })
}

/// The network namespace that is made with init, or in a user namespace by init.
fn net_namespace(plan: &Plan, launch: &Launch, proc: &Procfs) -> Result<OwnedFd> {
    if plan.namespaces.late_flags() & libc::CLONE_NEWNET != 0 {
        match launch.receive()? {
            Message::Unshared => {}
            Message::Failed(error) => return Err(error),
            _ => return Err(Error::new(Kind::Internal, "init did not say that it has its network")),
        }
    }
    proc.namespace(launch.pid(), "net")
}
