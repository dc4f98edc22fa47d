//! THE STORY of create, in the container's first process: from the clone to execve of its program.
//!
//! It walks the [`Plan`], which it has by fork, in the kernel's order; it parses nothing and chooses nothing. Its errors go to
//! the runtime over the channel, whose text the user sees.

use std::convert::Infallible;
use std::os::fd::{AsRawFd, OwnedFd};

use super::channel::{Channel, Message};
use super::finish::{Program, fail_after_ready, pairs, reopen_null};
use super::gate::Gate;
use crate::error::{Doing, Error, Kind, Result};
use crate::hooks;
use crate::namespaces::Opened;
use crate::namespaces::user_namespace;
use crate::plan::Plan;
use crate::process::Stdio;
use crate::process::keyring;
use crate::process::terminal;
use crate::rootfs::{Host, Rootfs, Sources};
use masu_host::procfs::Procfs;
use masu_host::sys::close_range::{allow_leaving, close_all_but};
use masu_host::sys::exec::exit;
use masu_host::sys::namespace::unshare;
use masu_host::sys::{interface, signal};

/// What the runtime opened for init.
#[derive(Debug)]
pub(crate) struct Inherited<'a> {
    pub(crate) stdio: &'a Stdio,
    pub(crate) channel: Channel,
    pub(crate) gate: Gate,
    pub(crate) namespaces: Vec<Opened>,
    /// For sysctls, labels and a fresh time namespace, when there are any.
    pub(crate) proc: Option<Procfs>,
    /// The user namespaces that id-mapped mounts take their maps from.
    pub(crate) id_maps: Vec<OwnedFd>,
    /// The signals that the caller ignores.
    pub(crate) ignored: u64,
    /// How many files it may have open.
    pub(crate) open_files: u64,
    /// Whether init must wait until the runtime has put it into its cgroups.
    pub(crate) joins_cgroups: bool,
    pub(crate) hook_output: &'a hooks::Opened,
}

/// Runs in the child of the clone; never returns.
pub(crate) fn run(plan: &Plan, inherited: &Inherited<'_>) -> ! {
    match steps(plan, inherited) {
        Ok(never) => match never {},
        Err(error) => {
            let _ = inherited.channel.send(&Message::Failed(error));
            exit(1)
        }
    }
}

fn steps(plan: &Plan, inherited: &Inherited<'_>) -> Result<Infallible> {
    let channel = &inherited.channel;
    leave_the_runtime(plan, inherited)?;
    enter_namespaces(plan, inherited)?;
    let (mut rootfs, pid) = build(plan, inherited)?;
    enter_rootfs(plan, inherited, &mut rootfs)?;
    rootfs.leave();
    plan.process.ask_for_labels(inherited.proc.as_ref()).map_err(|e| e.in_step("process"))?;
    // all that was left open on the way: nothing of a created container's init leads to a folder of the host
    close_all_but(&kept(plan, inherited, false)).doing(|| "close descriptors")?;

    rustix::process::umask(rustix::fs::Mode::from_raw_mode(plan.process.umask.unwrap_or(0o022)));
    let waiting = inherited.gate.prepare()?;
    let program = plan.process.become_user(channel).map_err(|e| e.in_step("process"))?;

    // the pipe is the gate: start waits for its end, which execve brings about
    channel.stage(|| "init: closing the pipe to signal completion is left to execve; waiting for start".into());
    channel.send(&Message::Ready)?;
    // until the record is on disk nobody could find us: a runtime that dies now must take us along
    match channel.expect("recorded", |m| if let Message::Recorded = m { Some(()) } else { None }) {
        // the filter forbids to listen, so nothing that is said here is heard either
        Err(error) if error.errno().is_some() => fail_after_ready(&error),
        result => result?,
    }

    // from here on no process waits for our word; the hooks are the image's programs, so the filter holds for them too
    if let Err(error) = waiting.wait() {
        fail_after_ready(&error);
    }
    fail_after_ready(&plan.process.execute(&program, channel, || start_hooks(plan, inherited, pid, &program)))
}

/// Gives up what is the runtime's: descriptors, ignored signals, the session.
fn leave_the_runtime(plan: &Plan, inherited: &Inherited<'_>) -> Result<()> {
    inherited.stdio.take()?;
    // nothing of the runtime's may be seen in the container, least of all a folder of the host (CVE-2024-21626)
    close_all_but(&kept(plan, inherited, true)).doing(|| "close descriptors")?;
    allow_leaving(inherited.open_files);
    // ignored signals would stay ignored in the program
    signal::reset(inherited.ignored).doing(|| "reset signals")?;
    rustix::process::setsid().doing(|| "start a session")?;
    // modes of nodes and folders are exact until the program's own mask is set
    rustix::process::umask(rustix::fs::Mode::empty());
    Ok(())
}

/// Joins namespaces, makes those that the clone could not, and names the container.
fn enter_namespaces(plan: &Plan, inherited: &Inherited<'_>) -> Result<()> {
    let channel = &inherited.channel;
    channel.stage(|| "nsexec container setup: namespaces".into());
    if !plan.namespaces.staged() {
        // the mount namespace last: the others were opened, but theirs decides what names mean
        for namespace in &inherited.namespaces {
            namespace.join()?;
        }
    }
    if let Some(proc) = inherited.proc.as_ref().filter(|_| plan.namespaces.is_fresh(libc::CLONE_NEWTIME)) {
        // in a user namespace too we are still owner of our files in /proc
        plan.time_offsets.enter(proc)?;
    }
    if plan.user_namespace.is_some() {
        channel.expect("mapped", |m| if let Message::Mapped = m { Some(()) } else { None })?;
        user_namespace::become_root(plan.process.keep_groups)?;
        unshare(plan.namespaces.late_flags()).doing(|| "unshare namespaces in the user namespace")?;
        if !plan.net_devices.is_empty() && plan.namespaces.late_flags() & libc::CLONE_NEWNET != 0 {
            channel.send(&Message::Unshared)?;
        }
    }
    if !plan.hostname.is_empty() {
        rustix::system::sethostname(plan.hostname.as_bytes()).doing(|| format!("sethostname {:?}", plan.hostname))?;
    }
    if !plan.domainname.is_empty() {
        rustix::system::setdomainname(plan.domainname.as_bytes()).doing(|| format!("setdomainname {:?}", plan.domainname))?;
    }
    if plan.namespaces.is_fresh(libc::CLONE_NEWNET) {
        interface::loopback_up().doing(|| "set the loopback interface up")?;
    }
    plan.keyring.as_ref().map_or(Ok(()), |name| keyring::join(name))
}

/// Builds the root file system where it is on the host, and runs the hooks that see both. The pid of this process on the host,
/// if a hook will be told it.
fn build(plan: &Plan, inherited: &Inherited<'_>) -> Result<(Rootfs, i32)> {
    let channel = &inherited.channel;
    channel.stage(|| "child process in init(): mounts and devices".into());
    let sources = Sources::new(plan.user_namespace.as_ref().map(|_| channel as &dyn Host), &inherited.id_maps);
    let built = plan.rootfs.build(sources, || enter_cgroup(plan, inherited));
    let rootfs = built.map_err(|e| e.in_step("mounts"))?;

    let pid = if plan.hooks.meet() {
        channel.send(&Message::HooksDue)?;
        channel.expect("hooks done", |m| if let Message::HooksDone { pid } = m { Some(pid) } else { None })?
    } else {
        0
    };
    if !plan.hooks.create_container.is_empty() {
        // the hook's path is the host's, its mounts are the container's
        let state = plan.state_json(pid, "creating")?;
        hooks::run("createContainer", &plan.hooks.create_container, &state, Some(&plan.rootfs.path), None, inherited.hook_output)
            .map_err(|e| e.in_step("hooks"))?;
    }
    Ok((rootfs, pid))
}

/// Pivots, takes the terminal, sets sysctls, and locks the root down.
fn enter_rootfs(plan: &Plan, inherited: &Inherited<'_>, rootfs: &mut Rootfs) -> Result<()> {
    let channel = &inherited.channel;
    channel.stage(|| "init: entering the root file system".into());
    plan.rootfs.enter(rootfs).map_err(|e| e.in_step("pivot"))?;
    if plan.rootfs.devices.is_some() {
        reopen_null()?;
    }
    if plan.process.cwd != "/" {
        masu_host::beneath::mkdir_all(rootfs.root(), &plan.process.cwd).doing(|| format!("mkdir {}", plan.process.cwd))?;
    }
    if let Some(terminal) = plan.process.terminal {
        let (ours, theirs) = terminal::make(terminal, plan.process.uid)?;
        terminal::bind_console(rootfs.root(), &theirs)?;
        terminal::take(&theirs)?;
        channel.send(&Message::Terminal(ours))?;
    }
    if let Some(proc) = &inherited.proc {
        // before /proc/sys becomes read-only, though this handle would not notice
        plan.sysctls.apply(proc)?;
    }
    // what hooks, the terminal and the working directory still wrote to
    plan.rootfs.lock_down(rootfs).map_err(|e| e.in_step("masks"))
}

/// Descriptors that init needs, sorted: until its root is built, or from then on.
fn kept(plan: &Plan, inherited: &Inherited<'_>, building: bool) -> Vec<u32> {
    let mut keep: Vec<u32> = (3..3 + plan.process.preserved_fds).collect();
    keep.extend([inherited.channel.number(), inherited.gate.number()]);
    if building {
        keep.extend(inherited.namespaces.iter().map(|n| n.fd.as_raw_fd() as u32));
        keep.extend(inherited.id_maps.iter().map(|fd| fd.as_raw_fd() as u32));
        keep.extend(inherited.proc.iter().map(|p| p.as_fd().as_raw_fd() as u32));
    }
    keep.extend(inherited.hook_output.numbers());
    keep.sort_unstable();
    keep.dedup();
    keep
}

/// The cgroup namespace's root is the cgroup that we are in when it is made, so we must be in it for good.
fn enter_cgroup(plan: &Plan, inherited: &Inherited<'_>) -> Result<()> {
    if inherited.joins_cgroups {
        inherited.channel.expect_released()?;
    }
    if plan.namespaces.is_fresh(libc::CLONE_NEWCGROUP) {
        unshare(libc::CLONE_NEWCGROUP).doing(|| "unshare the cgroup namespace")?;
    }
    Ok(())
}

fn start_hooks(plan: &Plan, inherited: &Inherited<'_>, pid: i32, program: &Program) -> Result<(), Error> {
    if plan.hooks.start_container.is_empty() {
        return Ok(());
    }
    let state = plan.state_json(pid, "created")?;
    let env = pairs(plan.process.environment(program));
    hooks::run("startContainer", &plan.hooks.start_container, &state, None, Some(&env), inherited.hook_output).map_err(|e| match e.kind() {
        Kind::Os => e,
        _ => e.in_step("hooks"),
    })
}
