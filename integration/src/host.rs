//! The guard over the host: what a runtime must leave as it found it. Looked at before and after each test; what other
//! tests, which may run at the same time, make is told apart by their tokens (`it-XXXXXX`).

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};

/// The version of the kernel, as far as tests depend on it.
pub fn kernel() -> (u32, u32) {
    let uname = rustix::system::uname();
    let mut numbers = uname.release().to_str().unwrap_or_default().split(['.', '-']).map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// The host at one moment.
#[derive(Debug, PartialEq, Eq)]
pub struct Host {
    mounts: BTreeSet<String>,
    cgroups: BTreeSet<String>,
    /// Processes with the test's token in their command line, environment, cgroup or mounts.
    processes: BTreeSet<String>,
    devices: Vec<String>,
    hostname: String,
    umask_of_us: String,
}

impl Host {
    /// Looks at the host before the test of `token`, which was just made: no process can have it.
    ///
    /// # Errors
    /// /proc cannot be read.
    pub fn before(token: &str) -> Result<Self> {
        Self::with(token, BTreeSet::new())
    }

    /// Looks at the host for the test of `token`.
    ///
    /// # Errors
    /// /proc cannot be read.
    pub fn look(token: &str) -> Result<Self> {
        Self::with(token, processes_with(token))
    }

    fn with(token: &str, processes: BTreeSet<String>) -> Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").context("read /proc/self/mountinfo")?;
        let mounts = mounts.lines().filter(|line| !of_another_test(line, token)).map(point_and_options).collect();
        let mut cgroups = BTreeSet::new();
        walk(Path::new("/sys/fs/cgroup"), &mut |path| {
            let path = path.to_string_lossy();
            if !of_another_test(&path, token) {
                cgroups.insert(path.into_owned());
            }
        });
        let status = fs::read_to_string("/proc/self/status").context("read /proc/self/status")?;
        Ok(Self {
            mounts,
            cgroups,
            processes,
            devices: ["/dev/null", "/dev/zero", "/dev/full", "/dev/tty", "/dev/ptmx"].into_iter().map(device).collect(),
            hostname: fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default(),
            umask_of_us: status.lines().find(|line| line.starts_with("Umask")).unwrap_or_default().to_owned(),
        })
    }

    /// Compares with how it was `before`.
    ///
    /// # Errors
    /// What is new, gone or changed.
    pub fn same_as(&self, before: &Self) -> Result<()> {
        for (what, now, then) in [
            ("mounts", &self.mounts, &before.mounts),
            ("cgroups", &self.cgroups, &before.cgroups),
            ("processes", &self.processes, &before.processes),
        ] {
            let new: Vec<_> = now.difference(then).collect();
            let gone: Vec<_> = then.difference(now).collect();
            ensure!(new.is_empty() && (gone.is_empty() || what == "cgroups"), "{what}: new {new:#?}, gone {gone:#?}");
        }
        ensure!(self.devices == before.devices, "device nodes of the host: {:?}, before {:?}", self.devices, before.devices);
        ensure!(self.hostname == before.hostname, "host name {:?}, before {:?}", self.hostname, before.hostname);
        ensure!(self.umask_of_us == before.umask_of_us, "our own {}, before {}", self.umask_of_us, before.umask_of_us);
        Ok(())
    }
}

/// Fails if a file is left below the state directory `root`.
///
/// # Errors
/// The path of what is left.
pub fn only_empty_folders(root: &Path) -> Result<()> {
    for entry in fs::read_dir(root).with_context(|| format!("read {}", root.display()))? {
        let path = entry?.path();
        ensure!(path.is_dir() && !path.is_symlink(), "left in the state directory: {}", path.display());
        only_empty_folders(&path)?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        ensure!(!name.starts_with("it-"), "left in the state directory: {}", path.display());
    }
    Ok(())
}

/// Removes the cgroups of the test of `token` that are empty, for runtimes that are known to leave some; how many there were.
pub fn remove_empty_cgroups(token: &str) -> usize {
    cgroups_with(token).iter().rev().filter(|path| fs::remove_dir(path).is_ok()).count()
}

/// Every cgroup with `token` in its path, parents first.
pub fn cgroups_with(token: &str) -> Vec<String> {
    let mut own = Vec::new();
    walk(Path::new("/sys/fs/cgroup"), &mut |path| {
        let path = path.to_string_lossy();
        if path.contains(token) {
            own.push(path.into_owned());
        }
    });
    own
}

/// Every mount of this namespace at or below `path`.
pub fn mounts_with(path: &str) -> Vec<String> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    mounts.lines().filter(|line| line.split(' ').nth(4).is_some_and(|point| point.starts_with(path))).map(point_and_options).collect()
}

/// Every process of the machine that has `token` in its command line, cgroup, environment or mounts, as `PID NAME`.
/// Zombies and this process are not among them.
pub fn processes_with(token: &str) -> BTreeSet<String> {
    let own = rustix::process::getpid().as_raw_nonzero().to_string();
    let mounts = fs::read_link("/proc/self/ns/mnt").ok();
    let mut found = BTreeSet::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().filter(|name| name.starts_with(|c: char| c.is_ascii_digit()) && **name != own) else { continue };
        let process = entry.path();
        let line = text(&process.join("cmdline")).trim_end_matches('\0').replace('\0', " ");
        // threads of the kernel have none either, and are many
        if !line.is_empty() && (line.contains(token) || belongs(&process, token, mounts.as_deref())) {
            found.insert(format!("{pid} {line}"));
        }
    }
    found
}

/// Is `process`, a folder of /proc, in a cgroup of `token`, has it that in its environment, or mounts of its own with it? `ours`
/// is the mount namespace that is looked at anyway.
fn belongs(process: &Path, token: &str, ours: Option<&Path>) -> bool {
    let has_own_mounts = || fs::read_link(process.join("ns/mnt")).ok().as_deref() != ours;
    let is_mounted =
        || text(&process.join("mountinfo")).lines().any(|line| line.split(' ').nth(3).is_some_and(|root| root.contains(token)));
    text(&process.join("cgroup")).contains(token) || text(&process.join("environ")).contains(token) || (has_own_mounts() && is_mounted())
}

/// What can be read there: a process may be gone meanwhile.
fn text(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

/// Does `line` name what a test other than that of `token` made?
fn of_another_test(line: &str, token: &str) -> bool {
    !line.contains(token)
        && line.split(['/', ' ', '-']).zip(line.split(['/', ' ', '-']).skip(1)).any(|(it, rest)| it == "it" && rest.len() >= 6)
}

/// A line of mountinfo without the numbers of the mount, which are given anew.
fn point_and_options(line: &str) -> String {
    line.split(' ').skip(2).collect::<Vec<_>>().join(" ")
}

fn device(path: &str) -> String {
    match fs::symlink_metadata(path) {
        Ok(data) => format!("{path} {:o} {}:{} {:x}", data.mode(), data.uid(), data.gid(), data.rdev()),
        Err(error) => format!("{path} {error}"),
    }
}

/// All folders below `folder` of a cgroup file system, where the links of a folder count those in it: most have none, but many
/// files.
fn walk(folder: &Path, visit: &mut dyn FnMut(&Path)) {
    if fs::symlink_metadata(folder).is_ok_and(|data| data.nlink() == 2) {
        return;
    }
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            visit(&entry.path());
            walk(&entry.path(), visit);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_other_tests_make_is_told_apart() {
        for (line, other) in [
            ("/sys/fs/cgroup/pids/it-AbCdEf-1", true),
            ("/sys/fs/cgroup/pids/it-Own123-1", false),
            ("/sys/fs/cgroup/pids/A-b_c.d+e-it-AbCdEf", true),
            ("0:39 / /tmp/it-AbCdEf/bundle1/rootfs rw - tmpfs tmpfs rw", true),
            ("0:39 / /tmp/it-Own123/bundle1/rootfs rw - tmpfs tmpfs rw", false),
            ("/sys/fs/cgroup/pids/docker", false),
            ("/sys/fs/cgroup/it/x", false),
        ] {
            assert_eq!(of_another_test(line, "it-Own123"), other, "{line}");
        }
    }
}
