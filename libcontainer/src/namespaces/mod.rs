//! `linux.namespaces`: the namespaces to make with the clone, to make later, and to join (namespaces(7)).
//!
//! clone3(2) makes all new namespaces except these:
//! - cgroup: init unshares it in its final cgroup, because its root is the caller's cgroup at that moment;
//! - time: its offsets are set after it is made and before it is entered (`time_offsets.rs`);
//! - with a user namespace, those that must belong to its root (`Namespaces::late_flags`).
//!
//! Init joins the namespaces with a path. The mount namespace is the last, because the runtime's paths are not valid in it. The
//! runtime joins a pid namespace before the clone, because setns(2) changes only the pid namespace of later children.

pub(crate) mod id_maps;
pub(crate) mod net_devices;
pub(crate) mod sysctl;
pub(crate) mod time_offsets;
pub(crate) mod user_namespace;

pub use id_maps::{IdMap, IdMaps};
pub use sysctl::Sysctls;
pub(crate) use user_namespace::UserNamespace;

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags};

use crate::error::{Doing, Error, Result};
use crate::findings::{Findings, Item};
use crate::spec;
use masu_host::sys::namespace::setns;

/// A type of namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    /// The name in config.json: `network`.
    pub name: &'static str,
    /// `CLONE_NEW*`.
    pub flag: i32,
    /// The name of the file in `/proc/PID/ns`: `net`.
    pub file: &'static str,
}

/// All types of runtime-spec 1.3, in the order in which they are joined.
pub const KINDS: [Kind; 8] = [
    Kind { name: "user", flag: libc::CLONE_NEWUSER, file: "user" },
    Kind { name: "ipc", flag: libc::CLONE_NEWIPC, file: "ipc" },
    Kind { name: "uts", flag: libc::CLONE_NEWUTS, file: "uts" },
    Kind { name: "network", flag: libc::CLONE_NEWNET, file: "net" },
    Kind { name: "pid", flag: libc::CLONE_NEWPID, file: "pid" },
    Kind { name: "cgroup", flag: libc::CLONE_NEWCGROUP, file: "cgroup" },
    Kind { name: "time", flag: libc::CLONE_NEWTIME, file: "time" },
    Kind { name: "mount", flag: libc::CLONE_NEWNS, file: "mnt" },
];

/// The `CLONE_NEW*` flag of a type, by its name in config.json; 0 for an unknown name.
pub fn flag(name: &str) -> i32 {
    KINDS.iter().find(|kind| kind.name == name).map_or(0, |kind| kind.flag)
}

/// The namespaces of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Namespaces {
    /// The flags of the new namespaces.
    pub fresh: i32,
    /// The flags and paths of existing namespaces, in the order in which they are joined.
    pub joined: Vec<(i32, String)>,
}

/// An opened namespace, to be joined.
#[derive(Debug)]
pub(crate) struct Opened {
    pub flag: i32,
    pub path: String,
    pub fd: OwnedFd,
}

impl Namespaces {
    /// Checks the list: known types, no duplicates, absolute paths.
    pub(crate) fn plan(list: &[spec::Namespace], found: &mut Findings) -> Namespaces {
        let mut plan = Namespaces::default();
        let mut seen = 0;
        for (i, ns) in list.iter().enumerate() {
            let at = Item("linux.namespaces", i);
            let Some(kind) = KINDS.iter().find(|k| k.name == ns.kind) else {
                found.invalid(at, format!("linux.namespaces: namespace {{{:?} {:?}}} does not exist", ns.kind, ns.path));
                continue;
            };
            if seen & kind.flag != 0 {
                found.invalid(at, format!("malformed spec file: duplicated ns {{{:?} {:?}}}", ns.kind, ns.path));
                continue;
            }
            seen |= kind.flag;
            if ns.path.is_empty() {
                plan.fresh |= kind.flag;
            } else {
                if !ns.path.starts_with('/') || ns.path.contains('\0') {
                    found.invalid(at, format!("linux.namespaces: namespace path: {:?} is not absolute", ns.path));
                }
                plan.joined.push((kind.flag, ns.path.clone()));
            }
        }
        let position = |flag: i32| KINDS.iter().position(|k| k.flag == flag);
        plan.joined.sort_by_key(|(flag, _)| position(*flag));
        plan
    }

    /// Whether the container has its own namespace of this type, new or joined.
    pub(crate) fn has(&self, flag: i32) -> bool {
        self.fresh & flag != 0 || self.joined.iter().any(|(f, _)| *f == flag)
    }

    /// Whether the container has a new namespace of this type.
    pub(crate) fn is_fresh(&self, flag: i32) -> bool {
        self.fresh & flag != 0
    }

    /// The flags of all namespaces of the container, new or joined. exec joins these.
    pub(crate) fn all(&self) -> i32 {
        self.joined.iter().fold(self.fresh, |all, (flag, _)| all | flag)
    }

    /// The flags for the clone.
    pub(crate) fn clone_flags(&self) -> u64 {
        (self.fresh & !(libc::CLONE_NEWCGROUP | libc::CLONE_NEWTIME | self.late_flags())) as u64
    }

    /// With a user namespace, the flags that init unshares after it has become root there. The kernel gives objects of these
    /// namespaces (the root of mqueue, the sysctls of a network) to their maker, which has no mapped id before.
    pub(crate) fn late_flags(&self) -> i32 {
        if self.has(libc::CLONE_NEWUSER) { self.fresh & (libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS) } else { 0 }
    }

    /// Whether another process must join namespaces before it clones init; see `launch/stage.rs`.
    pub(crate) fn staged(&self) -> bool {
        self.has(libc::CLONE_NEWUSER) && !self.joined.is_empty()
    }

    /// Opens the namespaces to join. It runs in the runtime, because a wrong path there leaves nothing to clean up.
    pub(crate) fn open(&self) -> Result<Vec<Opened>> {
        self.joined.iter().map(|(flag, path)| open(*flag, path)).collect()
    }
}

pub(crate) fn open(flag: i32, path: &str) -> Result<Opened> {
    let doing = || format!("namespace path: open {path}");
    let fd = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty()).doing(doing)?;
    if rustix::fs::fstatfs(&fd).doing(doing)?.f_type as i64 != libc::NSFS_MAGIC {
        return Err(Error::invalid(format!("namespace path: {path} is not a namespace")));
    }
    Ok(Opened { flag, path: path.to_owned(), fd })
}

impl Opened {
    /// Joins the namespace.
    pub(crate) fn join(&self) -> Result<()> {
        setns(self.fd.as_fd(), self.flag).doing(|| {
            let name = KINDS.iter().find(|k| k.flag == self.flag).map_or("?", |k| k.name);
            format!("failed to setns into {name} namespace {}", self.path)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(json: &str) -> Result<Namespaces> {
        let mut found = Findings::new();
        let plan = Namespaces::plan(&serde_json::from_str::<Vec<spec::Namespace>>(json).unwrap(), &mut found);
        found.unless_wrong(plan)
    }

    #[test]
    fn the_mount_namespace_is_joined_last() {
        let plan = list(
            r#"[{"type":"mount","path":"/m"},{"type":"network","path":"/n"},{"type":"ipc","path":"/i"},{"type":"pid"},{"type":"cgroup"}]"#,
        )
        .unwrap();
        assert_eq!(plan.joined.iter().map(|j| j.1.as_str()).collect::<Vec<_>>(), ["/i", "/n", "/m"]);
        assert_eq!(plan.clone_flags(), libc::CLONE_NEWPID as u64);
        assert!(plan.has(libc::CLONE_NEWNS) && !plan.is_fresh(libc::CLONE_NEWNS));
    }

    #[test]
    fn in_a_user_namespace_some_are_made_late_and_joins_come_first() {
        let all = r#"{"type":"user"},{"type":"pid"},{"type":"mount"},{"type":"network"},{"type":"ipc"},{"type":"uts"},{"type":"time"}"#;
        let plan = list(&format!("[{all}]")).unwrap();
        assert_eq!(plan.clone_flags(), (libc::CLONE_NEWUSER | libc::CLONE_NEWPID | libc::CLONE_NEWNS) as u64);
        assert_eq!(plan.late_flags(), libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS);
        assert!(!plan.staged());
        let plan = list(r#"[{"type":"user","path":"/u"},{"type":"pid"},{"type":"network"}]"#).unwrap();
        assert_eq!((plan.clone_flags(), plan.late_flags()), (libc::CLONE_NEWPID as u64, libc::CLONE_NEWNET));
        assert!(plan.staged());
        assert_eq!(list(r#"[{"type":"network"},{"type":"pid"}]"#).unwrap().late_flags(), 0);
    }

    #[test]
    fn bad_lists_are_refused() {
        for (json, text) in [
            (r#"[{"type":"bogus"}]"#, "does not exist"),
            (r#"[{"type":"pid"},{"type":"pid"}]"#, "duplicated ns"),
            (r#"[{"type":"network","path":"ns/net"}]"#, "is not absolute"),
        ] {
            let e = list(json).unwrap_err();
            assert!(e.to_string().contains(text), "{json}: {e}");
        }
    }
}
