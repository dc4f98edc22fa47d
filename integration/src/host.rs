//! The guard over the host: what a runtime must leave as it found it. Looked at before and after each test.
//!
//! Other programs, and tests that run at the same time, change the host meanwhile, under any name. So the guard heeds only
//! what can be told to be the test's own work:
//!
//! | kind | heeded | how it is known to be ours |
//! |---|---|---|
//! | mounts | each that is new or changed, wherever it is and whatever its name | the test has a mount namespace of its own ([`namespaces::enter`]), into which no other program's mounts come. A mount is known by its number: another program that renames or removes a directory changes the paths of mounts also here |
//! | mounts that are gone | unless the directory of the mount point changed, too | when another program removes a mount point, the kernel takes the mount out of every namespace, also out of ours; a runtime that unmounts leaves the directory alone |
//! | cgroups | those with the test's token (`it-XXXXXX`) in their path | the cgroup tree is one for all and says nothing of its maker; so [`Test::new_id`](crate::Test::new_id) and [`cgroups::path_for`](crate::cgroups::path_for) put the token into each container's id and each first directory of its path, and systemd's units are named by them |
//! | processes | each that descends from the test | orphans come to the test, as it is their subreaper; under `cargo test`, where one process runs many tests, only those with the token |
//! | processes of others (systemd starts some for us) | those with the token in cgroup or environment, or with a mount from the test's folder | none of these three is got by looking at the test, as by ps(1) or find(1) |
//! | host name | each change | the test has a UTS namespace of its own |
//! | device nodes, our own umask | each change | no other program has a reason to change /dev/null and the like: if one does, a failure is right |
//!
//! Not compared are the options of a file system that was there before: they are one for all namespaces, and other programs
//! change them (runc does with cgroup2, for each container). Only `ro` is compared, of what the machine cannot do without.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::env;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::namespaces::{self, mount_point, mountinfo};

/// The version of the kernel, as far as tests depend on it.
pub fn kernel() -> (u32, u32) {
    let uname = rustix::system::uname();
    let mut numbers = uname.release().to_str().unwrap_or_default().split(['.', '-']).map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// The host at one moment.
#[derive(Debug)]
pub struct Host {
    /// By the number that the kernel gave each.
    mounts: BTreeMap<String, Mount>,
    cgroups: BTreeSet<String>,
    processes: BTreeSet<String>,
    devices: Vec<String>,
    hostname: String,
    umask_of_us: String,
}

/// One line of mountinfo.
#[derive(Debug)]
struct Mount {
    /// As it is shown.
    line: String,
    /// What no other program can change from another namespace: another one may rename or remove the directories of the
    /// mount's root and point, and so change the paths in the line.
    kept: String,
    point: PathBuf,
    /// The directory that the mount point is in.
    directory: Option<Directory>,
}

/// Device, inode and time of the last change: another one once a directory in it was made, removed or renamed.
#[derive(Debug, PartialEq, Eq)]
struct Directory(u64, u64, i64, i64);

impl Host {
    /// Looks at the host before the test of `token`, which was just made: no process can be its own.
    ///
    /// # Errors
    /// /proc cannot be read.
    pub fn before(token: &str) -> Result<Self> {
        Self::with(token, BTreeSet::new())
    }

    /// Looks at the host for the test of `token`, in the thread that runs it.
    ///
    /// # Errors
    /// /proc cannot be read.
    pub fn look(token: &str) -> Result<Self> {
        Self::with(token, processes_of(token, env::var_os("NEXTEST").is_some()))
    }

    fn with(token: &str, processes: BTreeSet<String>) -> Result<Self> {
        let mounts = mountinfo()?.lines().map(|line| (number(line).to_owned(), Mount::of(line))).collect();
        Ok(Self {
            mounts,
            cgroups: cgroups_with(token).into_iter().collect(),
            processes,
            devices: ["/dev/null", "/dev/zero", "/dev/full", "/dev/tty", "/dev/ptmx"].into_iter().map(device).collect(),
            hostname: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            umask_of_us: field("/proc/thread-self/status", "Umask:"),
        })
    }

    /// Compares with how it was `before`.
    ///
    /// # Errors
    /// What is new, gone or changed.
    pub fn same_as(&self, before: &Self) -> Result<()> {
        let is_new = |id: &String, now: &Mount| before.mounts.get(id).is_none_or(|then| then.kept != now.kept);
        let stays = |id: &String, then: &Mount| self.mounts.get(id).is_some_and(|now| now.point == then.point && now.kept == then.kept);
        let went = |id: &String, then: &Mount| !stays(id, then) && then.directory_is_same();
        let new: Vec<_> = self.mounts.iter().filter(|(id, now)| is_new(id, now)).map(|(_, mount)| &mount.line).collect();
        let gone: Vec<_> = before.mounts.iter().filter(|(id, then)| went(id, then)).map(|(_, mount)| &mount.line).collect();
        ensure!(new.is_empty() && gone.is_empty(), "mounts: new {new:#?}, gone {gone:#?}");
        for (kind, now, then) in [("cgroups", &self.cgroups, &before.cgroups), ("processes", &self.processes, &before.processes)] {
            let new: Vec<_> = now.difference(then).collect();
            ensure!(new.is_empty(), "{kind}: new {new:#?}");
        }
        ensure!(self.devices == before.devices, "device nodes of the host: {:?}, before {:?}", self.devices, before.devices);
        ensure!(self.hostname == before.hostname, "host name {:?}, before {:?}", self.hostname, before.hostname);
        ensure!(self.umask_of_us == before.umask_of_us, "our own {}, before {}", self.umask_of_us, before.umask_of_us);
        Ok(())
    }
}

impl Mount {
    fn of(line: &str) -> Self {
        let point = mount_point(line);
        let directory = Directory::around(&point);
        Self { line: line.to_owned(), kept: kept(line), point, directory }
    }

    /// A runtime that unmounts leaves the directory alone; another program that removes or renames the mount point does not.
    fn directory_is_same(&self) -> bool {
        self.directory.is_some() && self.directory == Directory::around(&self.point)
    }
}

impl Directory {
    /// The one that `point` is in.
    fn around(point: &Path) -> Option<Self> {
        let data = fs::symlink_metadata(point.parent().unwrap_or(point)).ok()?;
        Some(Self(data.dev(), data.ino(), data.mtime(), data.mtime_nsec()))
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

/// Every mount of the test's namespace at or below `path`, without the numbers of the mount, which are given anew.
pub fn mounts_with(path: &str) -> Vec<String> {
    let mounts = mountinfo().unwrap_or_default();
    let lines = mounts.lines().filter(|line| line.split(' ').nth(4).is_some_and(|point| point.starts_with(path)));
    lines.map(|line| line.split(' ').skip(2).collect::<Vec<_>>().join(" ")).collect()
}

/// Every process with `word` in its cgroup or environment or in the root of a mount of its own, and every descendant of this
/// process that has it in its command line besides, as `PID COMMAND LINE`. Zombies and this process are not among them.
pub fn processes_with(word: &str) -> BTreeSet<String> {
    processes_of(word, false)
}

/// The same; with `all_below` every descendant of this process, too, as it runs nothing but one test.
fn processes_of(word: &str, all_below: bool) -> BTreeSet<String> {
    let own = rustix::process::getpid().as_raw_nonzero().get();
    let mounts = namespaces::own("mnt").ok();
    let numbers: Vec<i32> =
        fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    let parents = numbers.iter().filter_map(|pid| Some((*pid, field(&format!("/proc/{pid}/status"), "PPid:").parse().ok()?))).collect();
    let mut found = BTreeSet::new();
    for pid in numbers.into_iter().filter(|pid| *pid != own) {
        let process = Path::new("/proc").join(pid.to_string());
        let line = text(&process.join("cmdline"));
        // zombies have none, nor have threads of the kernel, which are many
        if line.is_empty() {
            continue;
        }
        let line = line.trim_end_matches('\0').replace('\0', " ");
        let descends = descends(pid, own, &parents);
        if (descends && (all_below || line.contains(word))) || belongs(&process, word, mounts.as_deref()) {
            found.insert(format!("{pid} {line}"));
        }
    }
    found
}

/// Is `pid` below the process `from`, by each one's parent?
fn descends(mut pid: i32, from: i32, parents: &HashMap<i32, i32>) -> bool {
    // numbers that are given anew while they are read could make a circle
    for _ in 0..parents.len() {
        match parents.get(&pid) {
            Some(parent) if *parent == from => return true,
            Some(parent) => pid = *parent,
            None => return false,
        }
    }
    false
}

/// Is `process`, a folder of /proc, in a cgroup of `word`, has it that in its environment, or mounts of its own with it? `ours`
/// is the mount namespace that is looked at anyway.
fn belongs(process: &Path, word: &str, ours: Option<&str>) -> bool {
    let has_own_mounts = || fs::read_link(process.join("ns/mnt")).ok().as_deref() != ours.map(Path::new);
    let is_mounted = || text(&process.join("mountinfo")).lines().any(|line| line.split(' ').nth(3).is_some_and(|root| root.contains(word)));
    text(&process.join("cgroup")).contains(word) || text(&process.join("environ")).contains(word) || (has_own_mounts() && is_mounted())
}

/// What can be read there: a process may be gone meanwhile.
fn text(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

/// The value in the line of the file `path` that begins with `name`.
fn field(path: &str, name: &str) -> String {
    text(Path::new(path)).lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim().to_owned()
}

/// The number of a mount in a line of mountinfo.
fn number(line: &str) -> &str {
    line.split(' ').next().unwrap_or_default()
}

/// A line of mountinfo without what other programs can change: the paths, the number of the parent, and the options of the
/// file system. Only the first of these, `ro` or `rw`, is kept, and only for what the machine cannot do without: `/`, /proc,
/// /sys, /dev and the mounts below them.
fn kept(line: &str) -> String {
    let mut fields: Vec<&str> = line.split(' ').collect();
    let the_machines = mount_point(line).iter().nth(1).is_none_or(|name| ["proc", "sys", "dev"].iter().any(|one| name == *one));
    let options = fields.pop().unwrap_or_default().split(',').next().filter(|_| the_machines);
    // number, parent, device, root, point
    let rest = fields.into_iter().enumerate().filter(|(n, _)| ![1, 3, 4].contains(n)).map(|(_, field)| field);
    rest.chain(options).collect::<Vec<_>>().join(" ")
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
    fn descendants_are_told_by_their_parents() {
        let parents = HashMap::from([(1, 0), (10, 1), (11, 10), (12, 11), (20, 1), (30, 31), (31, 30)]);
        for (pid, expected) in [(11, true), (12, true), (20, false), (1, false), (30, false), (99, false)] {
            assert_eq!(descends(pid, 10, &parents), expected, "{pid}");
        }
    }

    #[test]
    fn of_a_mount_only_what_others_cannot_change_is_compared() {
        for (line, expected) in [
            ("36 35 98:0 /r / rw shared:7 - ext4 /dev/sda ro,errors=continue", "36 98:0 rw shared:7 - ext4 /dev/sda ro"),
            ("36 35 98:0 /r//deleted /a/b rw - ext4 /dev/sda ro,errors=continue", "36 98:0 rw - ext4 /dev/sda"),
            ("36 35 98:0 / /proc/sys ro - proc proc rw", "36 98:0 ro - proc proc rw"),
        ] {
            assert_eq!(kept(line), expected);
        }
    }
}
