//! Finds what a plan needs and this host lacks. It only reads, and skips what it cannot read.

use std::path::Path;

use rustix::fs::{Access, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::tree::Tree;
use crate::error::{Doing, Error, Result};
use crate::findings::{Findings, Item};
use crate::namespaces::{self, KINDS};
use crate::plan::Plan;
use crate::process::capabilities;
use crate::rootfs::options::Options;
use crate::seccomp;
use crate::spec::bundle::check_rootfs;
use crate::spec::{self, Spec};
use masu_host::procfs::Procfs;

/// The oldest supported kernel (ARCHITECTURE.md, "Kernel and compiler").
const OLDEST: (u32, u32) = (5, 14);

/// Checks the kernel, the files and the features that `plan` needs.
pub(super) fn look(plan: &Plan, spec: &Spec, found: &mut Findings) {
    kernel(found);
    let Some(proc) = found.at("", Procfs::open()) else { return };
    let linux = spec.linux.clone().unwrap_or_default();
    let rootfs = (!plan.rootfs.path.is_empty()).then(|| found.at("root.path", check_rootfs(&plan.rootfs.path))).flatten();
    for (i, namespace) in linux.namespaces.iter().enumerate() {
        found.at(Item("linux.namespaces", i), look_at_namespace(namespace, &proc));
    }
    for (i, mount) in spec.mounts.iter().enumerate() {
        look_at_mount(mount, &plan.bundle, Item("mounts", i), &proc, found);
    }
    look_at_sizes(&linux, found);
    for (path, _) in plan.sysctls.list() {
        if matches!(proc.open_file(path, OFlags::PATH), Err(Errno::NOENT)) {
            let name = path.trim_start_matches("sys/").replace('/', ".");
            found.warn("linux.sysctl", format!("{name}: this kernel, or the host's network namespace, has no such file"));
        }
    }
    look_at_seccomp(&linux, &proc, found);
    look_at_process(plan, &proc, found);
    if rootfs.is_some() {
        let tree = Tree::new(&plan.rootfs);
        if let Some(Err(error)) = executable(plan, &tree) {
            found.wrong("process.args[0]", error);
        }
        if let Some(Ok(stat)) = tree.stat(&plan.process.cwd)
            && !FileType::from_raw_mode(stat.st_mode).is_dir()
        {
            found.wrong("process.cwd", Error::from(Errno::NOTDIR).context(format!("chdir to cwd ({:?})", plan.process.cwd)));
        }
        for (i, hook) in spec.hooks.start_container.iter().enumerate() {
            if let Some(stat) = tree.stat(&hook.path) {
                found.at(Item("hooks.startContainer", i), may_execute(&hook.path, stat.map(|stat| stat.st_mode)));
            }
        }
    }
    let hooks = &spec.hooks;
    for (path, list) in [
        ("hooks.prestart", &hooks.prestart),
        ("hooks.createRuntime", &hooks.create_runtime),
        ("hooks.createContainer", &hooks.create_container),
        ("hooks.poststart", &hooks.poststart),
        ("hooks.poststop", &hooks.poststop),
    ] {
        for (i, hook) in list.iter().enumerate() {
            found.at(Item(path, i), may_execute(&hook.path, rustix::fs::stat(hook.path.as_str()).map(|stat| stat.st_mode)));
        }
    }
}

fn kernel(found: &mut Findings) {
    let name = rustix::system::uname();
    let release = name.release().to_string_lossy();
    let mut numbers = release.split(['.', '-']).map_while(|n| n.parse::<u32>().ok());
    if let (Some(major), Some(minor)) = (numbers.next(), numbers.next())
        && (major, minor) < OLDEST
    {
        let text = format!("the kernel is {release}, and {}.{} is needed", OLDEST.0, OLDEST.1);
        found.wrong("", Error::unsupported(text));
    }
}

fn look_at_namespace(namespace: &spec::Namespace, proc: &Procfs) -> Result<()> {
    let Some(kind) = KINDS.iter().find(|kind| kind.name == namespace.kind) else { return Ok(()) };
    if !namespace.path.is_empty() {
        return namespaces::open(kind.flag, &namespace.path).map(drop);
    }
    // the entry is a magic link, which the handle of /proc does not follow
    match proc.open_file(&format!("{}/ns/{}", rustix::process::getpid().as_raw_nonzero(), kind.file), OFlags::PATH | OFlags::NOFOLLOW) {
        Err(Errno::NOENT) => Err(Error::unsupported(format!("this kernel has no {} namespaces", kind.name))),
        _ => Ok(()),
    }
}

fn look_at_mount(mount: &spec::Mount, bundle: &str, at: Item<'_>, proc: &Procfs, found: &mut Findings) {
    let is_bind = mount.fs_type == "bind" || Options::plan(&mount.options, &mount.destination).is_ok_and(|options| options.bind);
    if is_bind {
        let source = if mount.source.starts_with('/') { mount.source.clone() } else { format!("{bundle}/{}", mount.source) };
        let there = rustix::fs::stat(source.as_str()).doing(|| format!("the source of {}: open {source}", mount.destination));
        found.at(format_args!("{at}.source"), there);
        return;
    }
    let known = proc.read("filesystems").unwrap_or_default();
    let known = String::from_utf8_lossy(&known);
    let name = mount.fs_type.as_str();
    if !known.is_empty() && !name.is_empty() && name != "cgroup" && !known.split_whitespace().any(|word| word == name) {
        found.warn(format_args!("{at}.type"), format!("this kernel has no file system {name:?}, unless a module brings it"));
    }
}

fn look_at_sizes(linux: &spec::Linux, found: &mut Findings) {
    let Some(resources) = &linux.resources else { return };
    for (i, limit) in resources.hugepage_limits.iter().enumerate() {
        let size = limit.page_size.as_str();
        let digits = size.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit = match size.get(digits.len()..) {
            Some("KB") => 1,
            Some("MB") => 1 << 10,
            _ => 1 << 20,
        };
        let Some(kilobytes) = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(unit)) else { continue };
        if !exists(&format!("/sys/kernel/mm/hugepages/hugepages-{kilobytes}kB")) {
            let text = format!("this host has no huge pages of {size}");
            found.wrong(Item("linux.resources.hugepageLimits", i), Error::unsupported(text));
        }
    }
    let io = &resources.block_io;
    for (name, devices) in [
        ("throttleReadBpsDevice", &io.throttle_read_bps_device),
        ("throttleWriteBpsDevice", &io.throttle_write_bps_device),
        ("throttleReadIOPSDevice", &io.throttle_read_iops_device),
        ("throttleWriteIOPSDevice", &io.throttle_write_iops_device),
    ] {
        for (i, device) in devices.iter().enumerate() {
            if !exists(&format!("/sys/dev/block/{}:{}", device.major, device.minor)) {
                let text = format!("this host has no block device {}:{}", device.major, device.minor);
                found.wrong(format_args!("linux.resources.blockIO.{name}[{i}]"), Error::unsupported(text));
            }
        }
    }
}

fn look_at_seccomp(linux: &spec::Linux, proc: &Procfs, found: &mut Findings) {
    let Some(profile) = &linux.seccomp else { return };
    let supported = seccomp::supported_flags();
    for (i, flag) in profile.flags.iter().flatten().enumerate() {
        if seccomp::known_flags().contains(&flag.as_str()) && !supported.contains(&flag.as_str()) {
            found.wrong(Item("linux.seccomp.flags", i), Error::unsupported(format!("this kernel does not know {flag}")));
        }
    }
    let actions = proc.read("sys/kernel/seccomp/actions_avail").unwrap_or_default();
    let actions = String::from_utf8_lossy(&actions);
    let mut told = Vec::new();
    let mut look = |at: &dyn std::fmt::Display, action: &str| {
        let name = match action {
            "SCMP_ACT_KILL" => "kill_thread",
            "SCMP_ACT_NOTIFY" => "user_notif",
            other => &other.trim_start_matches("SCMP_ACT_").to_ascii_lowercase(),
        };
        let known = seccomp::ACTIONS.contains(&action) && !actions.is_empty();
        if known && !actions.split_whitespace().any(|have| have == name) && !told.contains(&action.to_owned()) {
            found.wrong(at, Error::unsupported(format!("this kernel does not know {action}")));
            told.push(action.to_owned());
        }
    };
    look(&"linux.seccomp.defaultAction", &profile.default_action);
    for (i, rule) in profile.syscalls.iter().enumerate() {
        look(&format_args!("linux.seccomp.syscalls[{i}].action"), &rule.action);
    }
    if profile.listener_path.starts_with('/') {
        let is_socket = match rustix::fs::stat(profile.listener_path.as_str()) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Socket => Ok(()),
            Ok(_) => Err(Error::invalid(format!("{} is not a socket", profile.listener_path))),
            Err(e) => Err(e).doing(|| format!("open {}", profile.listener_path)),
        };
        found.at("linux.seccomp.listenerPath", is_socket);
    }
}

fn look_at_process(plan: &Plan, proc: &Procfs, found: &mut Findings) {
    let number = |path: &str| -> Option<u64> { std::str::from_utf8(&proc.read(path).ok()?).ok()?.trim().parse().ok() };
    if let (Some(sets), Some(last)) = (&plan.process.capabilities, number("sys/kernel/cap_last_cap")) {
        for n in (0..64_usize).filter(|n| *n as u64 > last && (sets.bounding | sets.permitted) & 1 << n != 0) {
            found.warn("process.capabilities", format!("this kernel does not know {}", capabilities::name(n)));
        }
    }
    if let Some(profile) = plan.process.labels.apparmor.as_deref().filter(|profile| *profile != "unconfined")
        && let Ok(loaded) = std::fs::read("/sys/kernel/security/apparmor/profiles")
        && !String::from_utf8_lossy(&loaded).lines().any(|line| line.rsplit_once(" (").is_some_and(|(name, _)| name == profile))
    {
        let text = format!("the apparmor profile {profile:?} is not loaded");
        found.wrong("process.apparmorProfile", Error::unsupported(text));
    }
}

/// Whether the program can be found and executed, with the error text of create. `None`: unknown before mounts are made.
fn executable(plan: &Plan, tree: &Tree<'_>) -> Option<Result<()>> {
    let process = &plan.process;
    let name = process.args.first()?.to_str().ok()?;
    let absolute = |path: &str| if path.starts_with('/') { path.to_owned() } else { format!("{}/{path}", process.cwd) };
    if name.contains('/') {
        return Some(may_execute(name, tree.stat(&absolute(name))?.map(|stat| stat.st_mode)));
    }
    let mut denied = None;
    for dir in process.env.search_path.as_deref().unwrap_or_default().split(':').filter(|_| !name.is_empty()) {
        match may_execute(name, tree.stat(&absolute(&format!("{dir}/{name}")))?.map(|stat| stat.st_mode)) {
            Ok(()) => return Some(Ok(())),
            Err(e) if e.errno() == Some(Errno::ACCESS) => denied = Some(e),
            Err(_) => {}
        }
    }
    let missing = || Error::invalid(format!("exec: {name:?}: executable file not found in $PATH"));
    Some(Err(denied.unwrap_or_else(missing)))
}

fn may_execute(name: &str, mode: Result<u32, Errno>) -> Result<()> {
    match mode {
        Err(e) => Err(e).doing(|| format!("exec: {name:?}: stat {name}")),
        Ok(mode) if FileType::from_raw_mode(mode).is_dir() => Err(Errno::ISDIR).doing(|| format!("exec: {name:?}")),
        Ok(mode) if !Mode::from_raw_mode(mode).intersects(Mode::XUSR | Mode::XGRP | Mode::XOTH) => {
            Err(Errno::ACCESS).doing(|| format!("exec: {name:?}"))
        }
        Ok(_) => Ok(()),
    }
}

fn exists(path: &str) -> bool {
    rustix::fs::access(Path::new(path), Access::EXISTS).is_ok()
}
