//! The cgroup file systems of this host, their mount points, and our own cgroup in each of them.
//!
//! Runs in the runtime, before the plan. proc_pid_mountinfo(5), cgroups(7) "/proc/pid/cgroup". [`Layout::parse`] and
//! [`Layout::unified`] are pure.

use std::os::fd::AsFd;

use rustix::fs::{Mode, OFlags, PROC_SUPER_MAGIC};

use super::file;
use super::plan::Paths;
use crate::error::{Doing, Error, Result};
use masu_host::procfs::unescape;

/// The usual mount point of v2 on a host without v1.
pub(crate) const UNIFIED: &str = "/sys/fs/cgroup";

/// The v1 controllers, in the order in which a container joins their hierarchies: cpuset first, because it may refuse the
/// process. Other hierarchies that have only a name come after these.
const V1_CONTROLLERS: [&str; 15] = [
    "cpuset",
    "devices",
    "memory",
    "cpu",
    "cpuacct",
    "pids",
    "blkio",
    "hugetlb",
    "net_cls",
    "net_prio",
    "perf_event",
    "freezer",
    "rdma",
    "name=systemd",
    "misc",
];

/// The cgroup file systems of this host, and our own cgroup in each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    pub(super) v1: Vec<Mount>,
    pub(super) v2: Option<Mount>,
    /// The controllers of v2, separated by spaces; see [`Layout::with_controllers`].
    pub(super) available: Option<String>,
}

/// One hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mount {
    /// The controllers in our order, separated by commas; empty for v2.
    pub(super) controllers: String,
    /// The mount point.
    pub(super) dir: String,
    /// Our own cgroup below the mount point, with a leading slash; `None` if the mount does not show it.
    pub(super) own: Option<String>,
}

impl Mount {
    pub(super) fn has(&self, controller: &str) -> bool {
        self.controllers.split(',').any(|c| c == controller)
    }
}

impl Layout {
    /// Reads the layout of this host. The mount table is read only if /sys/fs/cgroup is not cgroup2.
    ///
    /// # Errors
    /// If /proc cannot be read, or no cgroup file system is mounted.
    pub fn detect() -> Result<Layout> {
        let own = read_proc("/proc/self/cgroup")?;
        if file::is_cgroup2(UNIFIED) {
            return Ok(Layout::unified(UNIFIED, &own));
        }
        Layout::parse(&read_proc("/proc/self/mountinfo")?, &own)
    }

    /// No hierarchy at all: the container stays in the caller's cgroup.
    pub fn none() -> Layout {
        Layout { v1: Vec::new(), v2: None, available: None }
    }

    /// The cgroups of process `pid`, except those that are the root of their hierarchy.
    ///
    /// # Errors
    /// As for [`Layout::detect`]; also if there is no such process.
    pub fn paths_of(pid: i32) -> Result<Paths> {
        let proc_cgroup = read_proc(&format!("/proc/{pid}/cgroup"))?;
        let layout = match file::is_cgroup2(UNIFIED) {
            true => Layout::unified(UNIFIED, &proc_cgroup),
            false => Layout::parse(&read_proc("/proc/self/mountinfo")?, &proc_cgroup)?,
        };
        let path = |m: &Mount| m.own.as_ref().filter(|own| *own != "/").map(|own| format!("{}{own}", m.dir));
        let v1 = layout.v1.iter().filter_map(|m| Some((m.controllers.clone(), path(m)?))).collect();
        Ok(Paths { v2: layout.v2.as_ref().and_then(path), v1 })
    }

    /// The cgroup `name`, such as `/kubepods/pod1`, in each hierarchy.
    ///
    /// # Errors
    /// If the name is empty or has an empty part, `.` or `..`.
    pub fn paths_at(&self, name: &str) -> Result<Paths> {
        let name = name.trim_matches('/');
        if name.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(Error::invalid(format!("{name:?} is not the name of a cgroup")));
        }
        let path = |m: &Mount| format!("{}/{name}", m.dir);
        Ok(Paths { v2: self.v2.as_ref().map(path), v1: self.v1.iter().map(|m| (m.controllers.clone(), path(m))).collect() })
    }

    /// The layout of a host with v2 alone, mounted at `dir`. `proc_cgroup` is the content of /proc/PID/cgroup.
    pub fn unified(dir: &str, proc_cgroup: &[u8]) -> Layout {
        let mount = Mount { controllers: String::new(), dir: dir.into(), own: own_cgroup(proc_cgroup, "") };
        Layout { v1: Vec::new(), v2: Some(mount), available: None }
    }

    /// The layout that a mount table and /proc/self/cgroup describe.
    ///
    /// # Errors
    /// If the mount table has no cgroup file system.
    pub fn parse(mountinfo: &[u8], proc_cgroup: &[u8]) -> Result<Layout> {
        let mut v1: Vec<(usize, Mount)> = Vec::new();
        let mut v2: Option<Mount> = None;
        for line in mountinfo.split(|b| *b == b'\n') {
            let Some(found) = parse_mount(line) else { continue };
            if found.v2 {
                if v2.as_ref().is_none_or(|m| !m.dir.starts_with(UNIFIED) && found.dir.starts_with(UNIFIED)) {
                    v2 = Some(found.into_mount(String::new(), proc_cgroup, ""));
                }
                continue;
            }
            let options = || found.options.split(',');
            let known = V1_CONTROLLERS.iter().enumerate().filter(|(_, c)| options().any(|o| o == **c)).map(|(i, c)| (i, *c));
            let named = options().filter(|o| o.starts_with("name=") && !V1_CONTROLLERS.contains(o)).map(|o| (V1_CONTROLLERS.len(), o));
            let (places, names): (Vec<usize>, Vec<&str>) = known.chain(named).unzip();
            let (Some(place), Some(name)) = (places.first(), names.first()) else { continue };
            let controllers = names.join(",");
            match v1.iter_mut().find(|(_, m)| m.controllers == controllers) {
                // a hierarchy may be mounted several times: the usual mount point wins, else the first
                Some((_, m)) if !m.dir.starts_with(UNIFIED) && found.dir.starts_with(UNIFIED) => {
                    *m = found.into_mount(controllers, proc_cgroup, name)
                }
                Some(_) => {}
                None => v1.push((*place, found.into_mount(controllers, proc_cgroup, name))),
            }
        }
        v1.sort_by_key(|(i, _)| *i);
        if v1.is_empty() && v2.is_none() {
            return Err(Error::unsupported("no cgroup file system is mounted"));
        }
        Ok(Layout { v1: v1.into_iter().map(|(_, m)| m).collect(), v2, available: None })
    }

    /// Whether there is no v1 hierarchy; also true for [`Layout::none`].
    pub fn is_v2(&self) -> bool {
        self.v1.is_empty()
    }

    /// Adds the controllers of v2, if there is no v1 and they can be read. A plan can then report each limit whose controller
    /// is missing.
    pub fn with_controllers(mut self) -> Layout {
        if let Some(mount) = self.v2.as_ref().filter(|_| self.v1.is_empty()) {
            let root = file::open_mount(&mount.dir, true);
            self.available = root.ok().and_then(|root| file::read_short(root.as_fd(), "cgroup.controllers").ok());
        }
        self
    }

    /// Whether both v1 and v2 are mounted.
    pub fn is_hybrid(&self) -> bool {
        !self.v1.is_empty() && self.v2.is_some()
    }

    pub(super) fn mounts(&self) -> impl Iterator<Item = &Mount> {
        self.v1.iter().chain(&self.v2)
    }

    /// Whether the absolute path `dir` is our own cgroup or one above it, in any hierarchy.
    pub(super) fn is_ours_or_above(&self, dir: &str) -> bool {
        self.mounts().any(|m| {
            let own = m.own.as_deref().unwrap_or("/").trim_end_matches('/');
            dir.strip_prefix(m.dir.as_str()).is_some_and(|inner| {
                inner.is_empty() || own.strip_prefix(inner).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            })
        })
    }
}

/// A cgroup mount of the mount table.
struct Found<'a> {
    v2: bool,
    root: String,
    dir: String,
    options: &'a str,
}

impl Found<'_> {
    fn into_mount(self, controllers: String, proc_cgroup: &[u8], controller: &str) -> Mount {
        // in a container without a cgroup namespace, the mount shows only a part of the tree (`root`), but /proc/self/cgroup
        // has the whole path
        let own = own_cgroup(proc_cgroup, controller).and_then(|own| {
            let inner = own.strip_prefix(self.root.trim_end_matches('/'))?;
            match inner {
                "" => Some("/".into()),
                inner => inner.starts_with('/').then(|| inner.into()),
            }
        });
        Mount { controllers, dir: self.dir, own }
    }
}

/// A line of mountinfo: `36 35 98:0 /root /point options shared:1 - type source superoptions`.
fn parse_mount(line: &[u8]) -> Option<Found<'_>> {
    let line = std::str::from_utf8(line).ok()?;
    let (mount, filesystem) = line.split_once(" - ")?;
    let mut filesystem = filesystem.split(' ');
    let v2 = match filesystem.next()? {
        "cgroup" => false,
        "cgroup2" => true,
        _ => return None,
    };
    let mut mount = mount.split(' ').skip(3);
    let (root, dir) = (unescape(mount.next()?), unescape(mount.next()?));
    Some(Found { v2, root, dir, options: filesystem.nth(1).unwrap_or_default() })
}

/// The path of `controller` (empty: v2) in /proc/PID/cgroup, whose lines are `number:controllers:path`. `None` also for a
/// cgroup outside our cgroup namespace, which the kernel writes as `/../x`.
pub(super) fn own_cgroup(proc_cgroup: &[u8], controller: &str) -> Option<String> {
    proc_cgroup.split(|b| *b == b'\n').find_map(|line| {
        let line = std::str::from_utf8(line).ok()?;
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let path = path.strip_suffix(" (deleted)").unwrap_or(path);
        (controllers.split(',').any(|c| c == controller) && path.starts_with('/') && !path.starts_with("/..")).then(|| path.to_owned())
    })
}

fn read_proc(path: &str) -> Result<Vec<u8>> {
    let doing = || format!("read {path}");
    let fd = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).doing(doing)?;
    if rustix::fs::fstatfs(&fd).doing(doing)?.f_type as u64 != PROC_SUPER_MAGIC as u64 {
        return Err(Error::unsupported(format!("{path} is not in a proc file system")));
    }
    let mut all = Vec::new();
    let mut part = [0_u8; 4096];
    loop {
        let n = rustix::io::retry_on_intr(|| rustix::io::read(fd.as_fd(), &mut part)).doing(doing)?;
        all.extend_from_slice(part.get(..n).unwrap_or_default());
        if n == 0 {
            return Ok(all);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: &str = "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
        32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
        34 31 0:31 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n\
        90 31 0:31 / /mnt/with\\040space rw - cgroup cgroup rw,cpuset\n\
        36 31 0:33 / /sys/fs/cgroup/devices rw - cgroup cgroup rw,devices\n\
        40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n";
    const OWN: &str = "9:name=systemd:/\n5:devices:/user.slice\n3:cpuset:/\n1:cpu,cpuacct:/user.slice/a\n0::/init\n";

    #[test]
    fn v1_hierarchies_come_in_our_order_and_once() {
        let layout = Layout::parse(V1.as_bytes(), OWN.as_bytes()).unwrap();
        let names: Vec<_> = layout.v1.iter().map(|m| (m.controllers.as_str(), m.dir.as_str(), m.own.as_deref())).collect();
        assert_eq!(
            names,
            [
                ("cpuset", "/sys/fs/cgroup/cpuset", Some("/")),
                ("devices", "/sys/fs/cgroup/devices", Some("/user.slice")),
                ("cpu,cpuacct", "/sys/fs/cgroup/cpu,cpuacct", Some("/user.slice/a")),
                ("name=systemd", "/sys/fs/cgroup/systemd", Some("/")),
            ]
        );
        assert!(!layout.is_v2() && !layout.is_hybrid());
    }

    #[test]
    fn the_usual_place_wins_over_an_earlier_mount() {
        let text = "1 2 0:3 / /elsewhere rw - cgroup cgroup rw,pids\n4 2 0:3 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n\
            5 2 0:4 / /other rw - cgroup2 none rw\n6 2 0:4 / /sys/fs/cgroup/unified rw - cgroup2 none rw\n";
        let layout = Layout::parse(text.as_bytes(), OWN.as_bytes()).unwrap();
        assert_eq!(layout.v1[0].dir, "/sys/fs/cgroup/pids");
        assert_eq!(layout.v2.as_ref().unwrap().dir, "/sys/fs/cgroup/unified");
        assert!(layout.is_hybrid());
    }

    #[test]
    fn a_hierarchy_that_has_only_a_name_is_one_too() {
        let text = "1 2 0:3 / /sys/fs/cgroup/mine rw - cgroup cgroup rw,xattr,name=mine\n4 2 0:3 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n\
            5 2 0:5 / /sys/fs/cgroup/b rw - cgroup cgroup rw,name=b\n6 2 0:6 / /sys/fs/cgroup/x rw - cgroup cgroup rw,debug\n";
        let layout = Layout::parse(text.as_bytes(), b"7:name=mine:/here\n8:pids:/\n9:name=b:/\n").unwrap();
        let names: Vec<_> = layout.v1.iter().map(|m| (m.controllers.as_str(), m.own.as_deref())).collect();
        assert_eq!(names, [("pids", Some("/")), ("name=mine", Some("/here")), ("name=b", Some("/"))]);
    }

    #[test]
    fn a_mount_of_a_part_of_the_tree_shows_only_that() {
        let text = "1 2 0:3 /docker/x /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n";
        let own = |path: &str| Layout::parse(text.as_bytes(), format!("3:pids:{path}\n").as_bytes()).unwrap().v1[0].own.clone();
        assert_eq!(own("/docker/x/y").as_deref(), Some("/y"));
        assert_eq!(own("/docker/x").as_deref(), Some("/"));
        assert_eq!(own("/docker/xyz"), None);
        assert_eq!(own("/../other"), None);
    }

    #[test]
    fn our_own_cgroup_and_those_above_are_known() {
        let layout = Layout::unified("/sys/fs/cgroup", b"0::/a/b/c\n");
        for (dir, ours) in
            [("", true), ("/a", true), ("/a/b", true), ("/a/b/c", true), ("/a/bb", false), ("/a/b/c/d", false), ("/x", false)]
        {
            assert_eq!(layout.is_ours_or_above(&format!("/sys/fs/cgroup{dir}")), ours, "{dir}");
        }
        assert!(Layout::unified("/sys/fs/cgroup", b"0::/\n").is_ours_or_above("/sys/fs/cgroup"));
        assert!(!Layout::unified("/sys/fs/cgroup", b"0::/\n").is_ours_or_above("/sys/fs/cgroup/x"));
    }

    #[test]
    fn nothing_mounted_is_an_error_and_damage_is_skipped() {
        assert_eq!(
            Layout::parse(b"garbage\n\xff\xfe - cgroup\n1 2 3 - cgroup\n", b"\xff").unwrap_err().to_string(),
            "no cgroup file system is mounted"
        );
    }

    #[test]
    fn this_host_has_one() {
        let layout = Layout::detect().unwrap();
        assert!(layout.mounts().count() > 0);
    }

    proptest::proptest! {
        #[test]
        fn no_input_makes_it_panic(mounts: Vec<u8>, own: Vec<u8>) {
            let _ = Layout::parse(&mounts, &own);
        }
    }
}
