//! Writes limits into cgroup files, and restores the old values after a failed update.
//!
//! Runs in the runtime: at create while the cgroup is empty, at update while the container runs.

use std::os::fd::BorrowedFd;

use rustix::fs::AtFlags;
use rustix::io::Errno;

use super::resources::{Missing, Setting};
use super::{file, v2};
use crate::error::{Error, Kind, Result};

/// A cgroup directory, with its path for error texts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dir<'a> {
    pub(super) fd: BorrowedFd<'a>,
    pub(super) path: &'a str,
    pub(super) v2: bool,
}

/// The contents of files before they were written, in the order of writing.
#[derive(Debug, Default)]
pub(super) struct Before(Vec<Old>);

#[derive(Debug)]
struct Old {
    controller: String,
    file: String,
    lines: Vec<String>,
}

impl Before {
    /// Writes the old contents back; best effort, because the caller already has an error to report.
    pub(super) fn restore<'a>(&self, find: &dyn Fn(&str) -> Option<Dir<'a>>) {
        // twice, because values that bound each other may need the other order
        for old in self.0.iter().rev().chain(self.0.iter().rev()) {
            let Some(dir) = find(&old.controller) else { continue };
            for line in &old.lines {
                let _ = file::write(dir.fd, &old.file, line);
            }
        }
    }
}

/// Reads the contents of the files of `settings`. `find` gives the directory of a controller.
pub(super) fn before<'a>(settings: &'a [Setting], find: &dyn Fn(&str) -> Option<Dir<'a>>) -> Before {
    let mut before = Before::default();
    for s in settings {
        let Some(dir) = find(&s.controller) else { continue };
        let instead = match &s.missing {
            Missing::Instead(file, value) => Some((*file, value)),
            _ => None,
        };
        for (file, value) in std::iter::once((s.file.as_str(), &s.value)).chain(instead) {
            if let Ok(text) = file::read(dir.fd, file) {
                before.0.push(Old { controller: s.controller.clone(), file: file.to_owned(), lines: old_value(file, value, &text) });
            }
        }
    }
    before
}

/// Writes all settings in order. `find` gives the directory of a controller.
///
/// # Errors
/// The first refused value, with file and directory; a missing controller is named.
pub(super) fn write<'a>(settings: &'a [Setting], find: &dyn Fn(&str) -> Option<Dir<'a>>) -> Result<()> {
    check_names(settings, find)?;
    for group in settings.chunk_by(|a, b| a.controller == b.controller) {
        let Some(dir) = group.first().and_then(|s| find(&s.controller)) else {
            let controller = group.first().map_or("", |s| s.controller.as_str());
            let text = format!("cannot set {controller} limit: container could not join or create cgroup");
            return Err(Error::unsupported(text).context(group.first().map_or("", |s| s.asked.as_str())));
        };
        let mut later = Vec::new();
        for s in group {
            match write_one(dir, s) {
                Err(Errno::INVAL) if s.later => later.push(s),
                // an earlier refused value is the cause, so the error names it
                Err(errno) => return Err(later.first().map_or_else(|| refused(dir, s, errno), |first| refused(dir, first, Errno::INVAL))),
                Ok(()) => {}
            }
        }
        for s in later {
            write_one(dir, s).map_err(|errno| refused(dir, s, errno))?;
        }
    }
    Ok(())
}

fn write_one(dir: Dir<'_>, s: &Setting) -> Result<(), Errno> {
    match (file::write(dir.fd, &s.file, &s.value), &s.missing) {
        (Err(Errno::NOENT), Missing::Skip) => Ok(()),
        (Err(Errno::NOENT), Missing::Instead(file, value)) => file::write(dir.fd, file, value),
        (result, _) => result,
    }
}

/// Checks the files of `unified` before anything is written, because their names come from the user.
fn check_names<'a>(settings: &'a [Setting], find: &dyn Fn(&str) -> Option<Dir<'a>>) -> Result<()> {
    for s in settings.iter().filter(|s| s.unified) {
        let Some(dir) = find(&s.controller) else { continue };
        match rustix::fs::statat(dir.fd, &s.file, AtFlags::SYMLINK_NOFOLLOW) {
            Err(errno) => return Err(refused(dir, s, errno)),
            Ok(status) if status.st_mode & 0o222 == 0 => return Err(refused(dir, s, Errno::ACCESS)),
            Ok(_) => {}
        }
    }
    Ok(())
}

/// The error in one line: the property in config.json, the value, its file, and the kernel's answer.
fn refused(dir: Dir<'_>, s: &Setting, errno: Errno) -> Error {
    let Setting { controller, file, value, .. } = s;
    let missing = errno == Errno::NOENT && !has_controller(dir, controller);
    let why = || v2::why_missing(dir, controller).map_or_else(String::new, |why| format!(": {why}"));
    // not the kernel's text for ENOENT, because callers take that for a missing program
    let no_file = |text: String| Error::reported(Kind::Unsupported, Some(errno.raw_os_error()), text);
    let doing = match s.unified {
        // runc's text
        true => format!("unable to set unified resource {file:?}: write {value:?} in {}", dir.path),
        false => format!("write {value} to {file} of {}", dir.path),
    };
    let error = match errno {
        _ if s.unified && (missing || (matches!(errno, Errno::PERM | Errno::ACCESS) && !has_controller(dir, controller))) => {
            no_file(format!("unified resource {file:?} can't be set: controller {controller:?} not available{}", why()))
        }
        Errno::NOENT if missing => no_file(format!("{doing}: controller {controller:?} not available{}", why())),
        Errno::NOENT => no_file(format!("{doing}: this kernel has no such file")),
        Errno::BUSY if file == "memory.limit_in_bytes" => {
            let number = |file| file::read_short(dir.fd, file).map_or(0, |t| t.trim().parse::<u64>().unwrap_or(0));
            let (usage, peak) = (number("memory.usage_in_bytes"), number("memory.max_usage_in_bytes"));
            let text = format!("unable to set memory limit to {value} (current usage: {usage}, peak usage: {peak})");
            Error::reported(Kind::Os, Some(errno.raw_os_error()), text)
        }
        _ => Error::from(errno).context(doing),
    };
    error.context(&s.asked)
}

fn has_controller(dir: Dir<'_>, controller: &str) -> bool {
    if !dir.v2 || controller == "cgroup" {
        return true;
    }
    file::read_short(dir.fd, "cgroup.controllers").is_ok_and(|list| list.split_whitespace().any(|c| c == controller))
}

/// The lines that restore the content `text` of `file` after `value` was written to it.
fn old_value(file: &str, value: &str, text: &str) -> Vec<String> {
    let key =
        value.split_once(' ').map(|(key, _)| key).filter(|key| key.contains(':') || matches!(file, "rdma.max" | "net_prio.ifpriomap"));
    if let Some(key) = key {
        let line = text.lines().find(|line| line.strip_prefix(key).is_some_and(|rest| rest.starts_with(' ')));
        let unset = match file {
            "io.max" => "rbps=max wbps=max riops=max wiops=max",
            "rdma.max" => "hca_handle=max hca_object=max",
            "io.bfq.weight" | "io.weight" => "default",
            "io.latency" => "target=0",
            _ => "0",
        };
        return vec![line.map_or_else(|| format!("{key} {unset}"), ToOwned::to_owned)];
    }
    match file {
        "memory.oom_control" => text.lines().find_map(|l| l.strip_prefix("oom_kill_disable ")).map(ToOwned::to_owned).into_iter().collect(),
        "io.bfq.weight" | "io.weight" => text.lines().next().map(ToOwned::to_owned).into_iter().collect(),
        _ => text.lines().map(ToOwned::to_owned).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_values_are_what_the_files_take() {
        for (file, value, text, old) in [
            ("pids.max", "5", "max\n", "max"),
            ("cpu.max", "5 10", "max 100000\n", "max 100000"),
            ("io.max", "8:0 rbps=1", "8:16 rbps=2 wbps=max\n", "8:0 rbps=max wbps=max riops=max wiops=max"),
            ("io.max", "8:16 rbps=1", "8:0 rbps=3\n8:16 rbps=2 wbps=max\n", "8:16 rbps=2 wbps=max"),
            ("blkio.throttle.read_bps_device", "8:0 5", "", "8:0 0"),
            ("blkio.throttle.read_bps_device", "8:0 5", "8:0 7\n", "8:0 7"),
            ("io.weight", "10", "default 100\n8:0 50\n", "default 100"),
            ("io.bfq.weight", "8:0 10", "default 100\n", "8:0 default"),
            ("io.weight", "8:0 10", "default 100\n", "8:0 default"),
            ("io.latency", "8:0 target=10", "", "8:0 target=0"),
            ("dmem.max", "drm/0000:03:00.0/vram0 5", "drm/0000:03:00.0/vram0 max\n", "drm/0000:03:00.0/vram0 max"),
            ("memory.oom_control", "1", "oom_kill_disable 0\nunder_oom 0\noom_kill 0\n", "0"),
            ("net_prio.ifpriomap", "eth0 5", "lo 0\neth0 2\n", "eth0 2"),
            ("rdma.max", "mlx hca_handle=1", "mlx hca_handle=max hca_object=2\n", "mlx hca_handle=max hca_object=2"),
        ] {
            assert_eq!(old_value(file, value, text), [old], "{file} {value}");
        }
    }
}
