//! Looks up paths as the container would see them, without making a mount: the rootfs, and the bind mounts over it.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{CWD, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::rootfs::{MountPlan, Operation, RootfsPlan, What};
use masu_host::beneath::{self, clean};

/// The number of symbolic links that the kernel follows (path_resolution(7)).
const MAX_LINKS: usize = 40;

/// The tree of a planned container. Functions return `None` for a path that is unknown before mounts are made.
#[derive(Debug)]
pub(super) struct Tree<'a>(&'a RootfsPlan);

impl<'a> Tree<'a> {
    pub(super) fn new(plan: &'a RootfsPlan) -> Tree<'a> {
        Tree(plan)
    }

    /// The status of the file at the absolute path `path`, after following symbolic links. Races do no harm, because this
    /// only reads.
    pub(super) fn stat(&self, path: &str) -> Option<Result<Stat, Errno>> {
        let mut rest: VecDeque<String> = parts(path);
        let mut here = String::new();
        let mut links = 0;
        while let Some(part) = rest.pop_front() {
            if part == ".." {
                here.truncate(here.rfind('/').unwrap_or(0));
                continue;
            }
            let next = format!("{here}/{part}");
            let node = match self.open(&next)? {
                Ok(node) => node,
                Err(e) => return Some(Err(e)),
            };
            let stat = match rustix::fs::fstat(&node) {
                Ok(stat) => stat,
                Err(e) => return Some(Err(e)),
            };
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Symlink if links == MAX_LINKS => return Some(Err(Errno::LOOP)),
                FileType::Symlink => {
                    links += 1;
                    let target = match rustix::fs::readlinkat(&node, "", Vec::new()) {
                        Ok(target) => target.to_string_lossy().into_owned(),
                        Err(e) => return Some(Err(e)),
                    };
                    if target.starts_with('/') {
                        here.clear();
                    }
                    for part in parts(&target).into_iter().rev() {
                        rest.push_front(part);
                    }
                }
                FileType::Directory => here = next,
                _ if rest.is_empty() => return Some(Ok(stat)),
                _ => return Some(Err(Errno::NOTDIR)),
            }
        }
        let node = self.open(&here)?;
        Some(node.and_then(rustix::fs::fstat))
    }

    /// Opens the file at `path`, which is clean and has no symbolic link except as its last part.
    fn open(&self, path: &str) -> Option<Result<OwnedFd, Errno>> {
        let covers = |mount: &&MountPlan| path.strip_prefix(&mount.target).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        let mounts = self.0.operations.iter().filter_map(|operation| match operation {
            Operation::Mount(mount) => Some(mount),
            _ => None,
        });
        // the last mount over the path
        let (source, inner) = match mounts.rev().find(covers) {
            None => (self.0.path.as_str(), path),
            Some(MountPlan { what: What::Bind { source, .. }, target, .. }) => {
                (source.as_str(), path.get(target.len()..).unwrap_or_default())
            }
            Some(_) => return None,
        };
        let source = rustix::fs::openat(CWD, source, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
        Some(source.and_then(|source| match clean(inner).as_str() {
            "/" => Ok(source),
            inner => beneath::open(source.as_fd(), inner, OFlags::PATH | OFlags::NOFOLLOW),
        }))
    }
}

fn parts(path: &str) -> VecDeque<String> {
    path.split('/').filter(|part| !part.is_empty() && *part != ".").map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::Paths;
    use crate::findings::Findings;
    use crate::namespaces::Namespaces;
    use crate::spec::Spec;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_are_followed_over_binds() {
        if crate::is_emulated("links_are_followed_over_binds") {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        for folder in ["rootfs/usr", "host/bin"] {
            std::fs::create_dir_all(at(folder)).unwrap();
        }
        std::fs::write(at("host/bin/tool"), "x").unwrap();
        symlink("usr/bin", at("rootfs/bin")).unwrap();
        symlink("/bin/tool", at("rootfs/link")).unwrap();
        symlink("loop", at("rootfs/loop")).unwrap();
        let spec = serde_json::json!({
            "mounts": [
                {"destination": "/usr", "source": at("host"), "options": ["rbind"]},
                {"destination": "/tmp", "source": "tmpfs", "type": "tmpfs"},
            ],
            "linux": {"namespaces": [{"type": "mount"}]},
        });
        let spec: Spec = serde_json::from_value(spec).unwrap();
        let mut found = Findings::new();
        let namespaces = Namespaces::plan(&spec.linux.as_ref().unwrap().namespaces, &mut found);
        let path = at("rootfs").to_str().unwrap().to_owned();
        let plan = RootfsPlan::plan(&spec, &path, "/", &namespaces, None, &Paths::default(), &mut found);
        assert_eq!(found.list(), []);
        let tree = Tree::new(&plan);
        let size = |path: &str| tree.stat(path).map(|found| found.map(|stat| stat.st_size));
        for path in ["/link", "/bin/tool", "/usr/bin/../bin/tool", "//bin/./tool"] {
            assert_eq!(size(path), Some(Ok(1)), "{path}");
        }
        assert_eq!(size("/usr/no"), Some(Err(Errno::NOENT)));
        assert_eq!(size("/bin/tool/x"), Some(Err(Errno::NOTDIR)));
        assert_eq!(size("/loop"), Some(Err(Errno::LOOP)));
        assert_eq!(size("/tmp/x"), None);
        assert!(matches!(size("/"), Some(Ok(_))));
    }
}
