//! THE STORY of create, on the runtime's side, top to bottom.
//!
//! All that can fail for the config's sake fails in the plan, before anything exists. From the first side effect on, each
//! thing made has a guard that takes it back unless the end is reached, and an intent on disk for `delete --force` in case
//! this process does not live to do it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::io::Errno;

use super::record::{Defaults, Record, StateDir};
use super::write::write_pid_file;
use super::{Container, Process, check_id, lock};
use crate::cgroup::{Cgroup, Instance, Layout};
use crate::dry_run::Page;
use crate::error::{Doing, Error, Kind, Result};
use crate::findings::Findings;
use crate::hooks;
use crate::intel_rdt::Group;
use crate::launch::channel::{Channel, Message};
use crate::launch::gate::{self, Gate};
use crate::launch::init;
use crate::launch::serve::{Sockets, serve};
use crate::launch::spawn::{died, spawn};
use crate::namespaces::user_namespace::check_user;
use crate::plan::{Choices, Plan};
use crate::process::Stdio;
use crate::rootfs::map_ids;
use crate::spec::bundle::{Bundle, check_rootfs};
use crate::spec::{self, Spec};
use masu_host::procfs::Procfs;
use masu_host::sys::close_range::set_cloexec_from;
use masu_host::{fds, time};

/// What the caller asks for besides the bundle; see the flags of `masu create`.
#[derive(Debug, Default)]
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

/// Creates container `id`: everything of it is made, and its first process waits for [`Container::start`]. The process
/// must have one thread.
pub fn create(root: &Path, id: &str, options: &CreateOptions) -> Result<(Container, Process)> {
    check_id(id)?;
    let open_files = check_preserved(options.listen_fds + options.preserve_fds)?;
    // what the caller left open is neither the hooks' nor the container's
    set_cloexec_from(3 + options.listen_fds + options.preserve_fds).doing(|| "mark descriptors close-on-exec")?;
    let (mut plan, bundle) = plan(root, id, options)?;
    if let Some(filter) = &plan.process.filter {
        log::debug!("seccomp filter flags: {}", filter.flags);
    }

    // what is opened on the host: still nothing is made
    let joined = plan.namespaces.open()?;
    let sockets = Sockets::connect(&plan, options.console_socket.as_deref(), options.pidfd_socket.as_deref())?;
    let bus = plan.cgroup.connect()?;
    let hook_output = if plan.hooks.is_empty() { hooks::Opened::default() } else { plan.extensions.hook_output.open()? };
    let writes_proc = !plan.sysctls.is_empty() || !plan.process.labels.is_empty();
    let proc = if writes_proc { Procfs::detached()? } else { Procfs::open()? };
    let init_needs_proc = writes_proc || plan.namespaces.is_fresh(libc::CLONE_NEWTIME);
    let ignored = proc.ignored_signals()?;
    // who has no rights over the host's file systems lets us map their ids
    let id_maps = plan.rootfs.make_id_maps(&proc)?;
    let (our_maps, id_maps) = if plan.user_namespace.is_some() { (id_maps, Vec::new()) } else { (Vec::new(), id_maps) };

    // the first side effect is the claim of the id, the second its undo on disk
    let dir = Claim::new(root, id)?;
    let lock = lock::exclusive(dir.dir()?.fd())?;
    let mut record = intent(&plan, &proc, options)?;
    dir.dir()?.write_intent(&mut record)?;
    keep_defaults(dir.dir()?, &plan, bundle.spec)?;
    if record.annotated {
        dir.dir()?.write_annotations(&plan.annotations)?;
        if !plan.tells_state() {
            // nobody is told: init need not inherit what may be a megabyte
            plan.annotations.clear();
        }
    }
    if options.notify_socket.is_some() {
        crate::launch::notify::make(&root.join(id))?;
    }
    let cgroup = match bus {
        Some(bus) => Cgroup::await_scope(&plan.cgroup, bus),
        None => Cgroup::create(&plan.cgroup),
    };
    let mut cgroup = cgroup.doing(|| "unable to start container process: unable to apply cgroup configuration")?;
    let group = record.intel_rdt.clone();
    let class = match (&plan.intel_rdt, &group) {
        (Some(rdt), Some(group)) => Some(group.make(rdt).doing(|| "unable to apply Intel RDT configuration")?),
        _ => None,
    };

    let (ours, theirs) = Channel::pair()?;
    let gate = Gate::make(dir.dir()?.fd())?;
    let into = cgroup.clone_target();
    // born in its v2 cgroup; a v1 hierarchy can only be joined, and systemd makes a scope around a process
    let born_inside = into.is_some();
    let joins_cgroups = !plan.cgroup.paths().v1.is_empty() || plan.cgroup.unit().is_some();
    let inherited = init::Inherited {
        channel: theirs,
        stdio: &options.stdio,
        gate,
        namespaces: joined,
        proc: if init_needs_proc { Some(proc.try_clone()?) } else { None },
        id_maps,
        ignored,
        open_files,
        joins_cgroups,
        hook_output: &hook_output,
    };
    let mut child = spawn(&plan, &inherited, into).doing(|| "unable to start container process")?;
    log::debug!("init of container {id} is process {}", child.pid);
    let joined_net = plan.net_devices.namespace_of(&inherited.namespaces)?;
    // our copies of init's ends: else its death would not be the end of the stream
    drop(inherited);

    let (mut devices, mut owner) = (None, Owners::default());
    let made = (|| -> Result<Option<OwnedFd>> {
        if let Some(score) = plan.process.oom_score_adj {
            proc.write(&format!("{}/oom_score_adj", child.pid), score.to_string().as_bytes())
                .doing(|| format!("failed to update /proc/self/oom_score_adj to {score}"))?;
        }
        if plan.user_namespace.is_some() {
            owner = settle_user_namespace(&plan, options, &proc, child.pid, dir.dir()?.fd())?;
            ours.send(&Message::Mapped)?;
        }
        if !plan.net_devices.is_empty() {
            // while init makes its mounts; it waits for us before hooks or the program look
            let namespace = joined_net.map_or_else(|| net_namespace(&plan, &ours, &proc, child.pid), Ok)?;
            let own = proc.namespace(rustix::process::getpid().as_raw_nonzero().get(), "net")?;
            devices = Some(plan.net_devices.move_into(&namespace, own)?);
        }
        if joins_cgroups {
            // while init makes its mounts: the kernel lets each of these wait for a grace period
            let entered = cgroup.start(&plan.cgroup, child.pid).and_then(|()| cgroup.join(child.pid, born_inside));
            entered.doing(|| "unable to apply cgroup configuration")?;
        }
        if let Some(uid) = owner.user.filter(|_| plan.delegates_cgroup) {
            cgroup.give(uid)?;
        }
        if joins_cgroups {
            ours.send(&Message::Released)?;
        }
        if let Some(group) = &group {
            group.join(child.pid).doing(|| "unable to apply Intel RDT configuration")?;
        }
        let map_ids = |id_map, mount: &OwnedFd| map_ids(id_map, mount.as_fd(), &our_maps, &proc, child.pid);
        let terminal = serve(&plan, &ours, child.pid, &sockets, &hook_output, map_ids)?;
        if let Some(inner) = &plan.extensions.delegate_cgroup {
            cgroup.give_below(inner, child.pid, owner.root)?;
        }
        record.start_time = proc.process(child.pid)?.ok_or_else(died)?.start_time;
        record.pid = child.pid;
        Ok(terminal)
    })();
    let terminal = match made {
        Ok(terminal) => terminal,
        Err(error) => {
            // a step of ours may fail only because init died: then its own words are the reason
            // (systemd, too, moves nothing that is dead or about to be, and says that all is done)
            let is_dead = error.errno() == Some(Errno::PIPE) || error.errno() == Some(Errno::SRCH) || child.has_ended();
            let error = ours.failure(is_dead).unwrap_or(error);
            let error = child.explain(error);
            child.kill();
            if plan.hooks.meet()
                && !plan.hooks.poststop.is_empty()
                && let Err(e) =
                    hooks::run("poststop", &plan.hooks.poststop, &plan.state_json(0, "stopped")?, Some(&plan.bundle), None, &hook_output)
            {
                log::warn!("{e}");
            }
            return Err(error).doing(|| "unable to start container process: error during container init");
        }
    };

    // init is ready; whoever finds the record can find and end it
    dir.dir()?.write_record(&mut record)?;
    for socket in sockets.pidfd.iter().chain(&sockets.pidfd_receiver) {
        fds::send_fd(socket, "pidfd", child.pidfd()?).doing(|| "send the pidfd over the pidfd socket")?;
    }
    if let Some(path) = &options.pid_file {
        write_pid_file(path, child.pid)?;
    }
    ours.send(&Message::Recorded).doing(|| "unable to start container process: release init")?;

    cgroup.keep();
    if let Some(class) = class {
        class.keep();
    }
    if let Some(devices) = devices {
        devices.keep();
    }
    let (pid, pidfd) = child.keep()?;
    drop(lock);
    let container = Container { root: root.to_owned(), dir: dir.keep()?, record, proc: Arc::new(proc) };
    Ok((container, Process { pid, pidfd, terminal }))
}

/// The plan of what [`create`] would make, printed: with the same checks, but nothing is opened that others would notice, and
/// nothing is made.
pub fn dry_run(root: &Path, id: &str, options: &CreateOptions) -> Result<Page> {
    check_id(id)?;
    check_preserved(options.listen_fds + options.preserve_fds)?;
    plan(root, id, options).map(|(plan, _)| Page::of(&plan))
}

/// Everything that the config can get wrong.
fn plan(root: &Path, id: &str, options: &CreateOptions) -> Result<(Plan, Bundle)> {
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
    check_terminal(&plan, options)?;
    if let Some(terminal) = &mut plan.process.terminal {
        terminal.relayed = options.console_socket.is_none() && !options.keeps_terminal;
    }
    check_rootfs(&plan.rootfs.path)?;
    Ok((plan, bundle))
}

/// Each preserved descriptor must be there: the program counts on their numbers. Returns how many files may be open.
pub(super) fn check_preserved(n: u32) -> Result<u64> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    if u64::from(n) > limit {
        return Err(Error::invalid(format!("{n} descriptors cannot be preserved: the limit of open files is {limit}")));
    }
    for fd in 3..3 + n {
        rustix::fs::access(format!("/proc/self/fd/{fd}"), rustix::fs::Access::EXISTS)
            .doing(|| format!("unable to stat preserved-fd {} (of {n}): descriptor {fd}", fd - 3))?;
    }
    Ok(limit)
}

/// A terminal that nobody holds would hang up at once, and one that nobody asked for is a mistake of the caller's.
fn check_terminal(plan: &Plan, options: &CreateOptions) -> Result<()> {
    let terminal = plan.process.terminal.is_some();
    match &options.console_socket {
        None if terminal && options.detach && !options.keeps_terminal => {
            Err(Error::invalid("cannot allocate tty if runc will detach without setting console socket"))
        }
        Some(_) if !terminal || !options.detach => Err(Error::invalid("cannot use console socket if runc will not detach or allocate tty")),
        _ => Ok(()),
    }
}

/// What will exist on the host, and who makes it.
fn intent(plan: &Plan, proc: &Procfs, options: &CreateOptions) -> Result<Record> {
    let me = rustix::process::getpid().as_raw_nonzero().get();
    Ok(Record {
        id: plan.id.clone(),
        bundle: plan.bundle.clone(),
        rootfs: plan.rootfs.path.clone(),
        created: time::now(),
        owner: rustix::process::geteuid().as_raw(),
        annotated: !plan.annotations.is_empty(),
        boot_id: proc.boot_id()?.to_owned(),
        maker: me,
        maker_start_time: proc.process(me)?.map_or(0, |p| p.start_time),
        cgroup: plan.cgroup.paths().clone(),
        unit: plan.cgroup.unit().cloned(),
        intel_rdt: plan.intel_rdt.as_ref().map(|rdt| Group::intend(rdt, &plan.id, proc)).transpose()?,
        namespaces: plan.namespaces.all(),
        fresh_namespaces: plan.namespaces.fresh,
        keyring: plan.keyring.is_some(),
        poststart: plan.hooks.poststart.clone(),
        poststop: plan.hooks.poststop.clone(),
        hook_output: plan.extensions.hook_output.clone(),
        no_program: plan.process.args.is_empty(),
        notify_socket: options.notify_socket.as_ref().map(|p| p.to_string_lossy().into_owned()),
        ..Record::default()
    })
}

/// What exec and update will want of the config as it is now.
fn keep_defaults(dir: &StateDir, plan: &Plan, spec: Spec) -> Result<()> {
    if let Some(filter) = &plan.process.filter {
        dir.write_filter(&filter.to_bytes())?;
    }
    let process = spec.process.unwrap_or_default();
    let linux = spec.linux.unwrap_or_default();
    dir.write_first_defaults(&Defaults {
        process: spec::Process { args: Vec::new(), ..process },
        resources: linux.resources.unwrap_or_default(),
        devices: None,
        personality: plan.process.personality,
        keep_groups: plan.extensions.keep_groups,
        memory_policy: linux.memory_policy,
    })
}

/// Who the users of the container are on the host, in a user namespace.
#[derive(Debug, Default)]
struct Owners {
    root: Option<u32>,
    /// The user of its first process.
    user: Option<u32>,
}

/// The maps of init's user namespace, and what the container's root or its user shall own on the host, but for the cgroup.
fn settle_user_namespace(plan: &Plan, options: &CreateOptions, proc: &Procfs, pid: i32, dir: BorrowedFd<'_>) -> Result<Owners> {
    let Some(namespace) = &plan.user_namespace else { return Ok(Owners::default()) };
    let maps = namespace.settle(proc, pid)?;
    check_user(&maps, plan.process.uid, plan.process.gid, &plan.process.groups)?;
    if let (Some(uid), Some(gid)) = (maps.uids.outside(0), maps.gids.outside(0)) {
        gate::give(dir, uid, gid)?;
    }
    let user = maps.uids.outside(plan.process.uid);
    if let Some(uid) = user {
        options.stdio.give_pipes(uid)?;
    }
    Ok(Owners { root: maps.uids.outside(0), user })
}

/// The network namespace that is made with init, or in a user namespace by init.
fn net_namespace(plan: &Plan, channel: &Channel, proc: &Procfs, pid: i32) -> Result<OwnedFd> {
    if plan.namespaces.late_flags() & libc::CLONE_NEWNET != 0 {
        match channel.receive()?.ok_or_else(died)? {
            Message::Unshared => {}
            Message::Failed(error) => return Err(error),
            _ => return Err(Error::new(Kind::Internal, "init did not say that it has its network")),
        }
    }
    proc.namespace(pid, "net")
}

/// A state directory that is removed unless it is kept.
struct Claim<'a> {
    root: &'a Path,
    id: &'a str,
    dir: Option<StateDir>,
}

impl<'a> Claim<'a> {
    fn new(root: &'a Path, id: &'a str) -> Result<Claim<'a>> {
        Ok(Claim { root, id, dir: Some(StateDir::claim(root, id)?) })
    }

    fn dir(&self) -> Result<&StateDir> {
        self.dir.as_ref().ok_or_else(taken)
    }

    fn keep(mut self) -> Result<StateDir> {
        self.dir.take().ok_or_else(taken)
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        if let Some(dir) = &self.dir {
            // what cannot be removed now is found again by its intent
            let _ = dir.remove(self.root, self.id, false);
        }
    }
}

fn taken() -> Error {
    Error::new(Kind::Internal, "a guard was used after it was given away")
}
