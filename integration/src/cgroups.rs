//! The cgroup of a process, its directory and files, and the driver that makes cgroups.
//!
//! Source: cgroups(7), `/proc/PID/cgroup`.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::process::Pid;

/// Whether this machine has the unified hierarchy (v2) at /sys/fs/cgroup.
pub fn unified() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

/// Whether `controller` is usable here: a v1 hierarchy, or enabled for children of the v2 root.
pub fn has(controller: &str) -> bool {
    if unified() {
        let enabled = fs::read_to_string("/sys/fs/cgroup/cgroup.subtree_control").unwrap_or_default();
        return enabled.split_whitespace().any(|name| name == controller);
    }
    Path::new("/sys/fs/cgroup").join(controller).join("cgroup.procs").exists()
}

/// Whether systemd makes the cgroups instead of the runtime (`$CGROUP_DRIVER` is `systemd`).
pub fn by_systemd() -> bool {
    env::var_os("CGROUP_DRIVER").is_some_and(|driver| driver == "systemd")
}

/// A `cgroupsPath` for the container `id`, in the driver's form: two directories, or slice, prefix and name of a scope.
pub fn path_for(id: &str) -> String {
    if by_systemd() { format!("system.slice:it:{id}") } else { format!("/{id}/inner") }
}

/// The path of the cgroup made for a `cgroupsPath` of [`path_for`], relative to the root of a hierarchy.
pub fn shown(path: &str) -> String {
    let mut parts = path.splitn(3, ':');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(slice), Some(prefix), Some(name)) => format!("/{slice}/{prefix}-{name}.scope"),
        _ => path.to_owned(),
    }
}

/// The directory of the cgroup of `pid` for `controller`; on v2 the only cgroup.
///
/// # Errors
/// The process is gone, or this machine lacks the controller.
pub fn of(pid: Pid, controller: &str) -> Result<PathBuf> {
    let file = format!("/proc/{}/cgroup", pid.as_raw_nonzero());
    let text = fs::read_to_string(&file).with_context(|| format!("read {file}"))?;
    let mount = Path::new("/sys/fs/cgroup");
    for line in text.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let inside = path.trim_start_matches('/');
        // /proc may show a v2 root although the machine uses v1 hierarchies
        if unified() {
            if controllers.is_empty() {
                return Ok(mount.join(inside));
            }
        } else if controllers.split(',').any(|name| name == controller) {
            return Ok(mount.join(controller).join(inside));
        }
    }
    anyhow::bail!("no cgroup of {controller} in {text:?}")
}

/// The content of `file` in the cgroup of `pid` for `controller`, without the newline.
///
/// # Errors
/// The file cannot be read.
pub fn read(pid: Pid, controller: &str, file: &str) -> Result<String> {
    let path = of(pid, controller)?.join(file);
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    Ok(text.trim_end().to_owned())
}
