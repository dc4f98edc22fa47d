//! The cgroup of an exec: the container's own, one below it, or the cgroup of the container's init.
//!
//! Runs in the runtime. `runc exec --cgroup`.

use std::os::fd::AsFd;

use super::plan::{clean, join};
use super::{Cgroup, Hierarchy, Layout, file, layout};
use crate::error::{Doing, Error, Result};

impl Cgroup {
    /// The cgroup for an exec with the values `sub` of `--cgroup`. Each is `path` (v2, or all of v1) or
    /// `controller[,controller]:path`. A path is below the container's cgroup, with or without a leading slash.
    ///
    /// # Errors
    /// A path above the container's cgroup; a controller that is unknown or named twice; a cgroup that does not exist.
    pub fn exec_target(&self, sub: &[String]) -> Result<Cgroup> {
        if self.hierarchies.is_empty() {
            return Err(Error::unsupported("invalid --cgroup argument: the container has no cgroup"));
        }
        let wanted = parse(sub, self.is_unified())?;
        if let Some((controller, _)) = wanted.iter().find(|(c, _)| !c.is_empty() && !self.hierarchies.iter().any(|h| h.has(c))) {
            return Err(Error::invalid(format!("invalid --cgroup argument: unknown controller {controller}")));
        }
        let mut hierarchies = Vec::with_capacity(self.hierarchies.len());
        for h in &self.hierarchies {
            let inner = wanted.iter().find(|(c, _)| c.is_empty() || h.has(c)).map_or("", |(_, inner)| inner.as_str());
            let path = join(&h.path, inner);
            let fd = match inner {
                "" => rustix::io::fcntl_dupfd_cloexec(&h.fd, 3),
                inner => file::open_below(h.fd.as_fd(), inner),
            };
            let fd = fd.doing(|| format!("open cgroup {path}"))?;
            hierarchies.push(Hierarchy { controllers: h.controllers.clone(), path, fd, made: 0 });
        }
        Ok(Cgroup::of(hierarchies))
    }

    /// Whether none of the directories `paths` was found, although there are some.
    pub(crate) fn is_gone(&self, paths: &super::Paths) -> bool {
        self.hierarchies.is_empty() && (paths.v2.is_some() || !paths.v1.is_empty())
    }

    /// The cgroup that the container's init is in now, on a host with v2 alone. `proc_cgroup` is the content of
    /// /proc/PID/cgroup of init.
    ///
    /// An exec uses it if the container's own cgroup is gone, or refuses the process with EBUSY. The kernel does so when init
    /// has moved into a cgroup below and enabled controllers there.
    ///
    /// # Errors
    /// If the directory is not a cgroup or cannot be opened.
    pub fn exec_fallback(layout: &Layout, proc_cgroup: &[u8]) -> Result<Option<Cgroup>> {
        let Some(mount) = layout.v2.as_ref().filter(|_| layout.is_v2()) else { return Ok(None) };
        let Some(own) = layout::own_cgroup(proc_cgroup, "") else { return Ok(None) };
        let path = join(&mount.dir, own.trim_matches('/'));
        let opened = file::open_recorded(&path, true)?;
        Ok(opened.map(|fd| Cgroup::of(vec![Hierarchy { controllers: String::new(), path, fd, made: 0 }])))
    }
}

/// Reads `sub` as pairs of a controller (empty: all) and a clean path.
fn parse(sub: &[String], unified: bool) -> Result<Vec<(String, String)>> {
    let mut wanted: Vec<(String, String)> = Vec::new();
    for argument in sub {
        let bad = |why: &str| Error::invalid(format!("invalid --cgroup argument: {argument} ({why})"));
        let Some((controllers, path)) = argument.split_once(':') else {
            if sub.len() != 1 {
                return Err(bad("missing <controller>: prefix"));
            }
            return Ok(vec![(String::new(), below(argument)?)]);
        };
        if unified {
            return Err(bad("cgroup v2 has no <controller>: prefix"));
        }
        for controller in controllers.split(',') {
            if controller.is_empty() {
                return Err(bad("empty <controller> prefix"));
            }
            if wanted.iter().any(|(c, _)| c == controller) {
                return Err(Error::invalid(format!("invalid --cgroup argument(s): controller {controller} specified multiple times")));
            }
            wanted.push((controller.to_owned(), below(path)?));
        }
    }
    Ok(wanted)
}

/// `path` without `.` and `..`; an error if it goes above its start.
fn below(path: &str) -> Result<String> {
    let mut depth = 0_usize;
    for part in path.split('/') {
        let next = match part {
            "" | "." => Some(depth),
            ".." => depth.checked_sub(1),
            _ => Some(depth + 1),
        };
        match next {
            Some(d) if !part.contains('\0') => depth = d,
            _ => return Err(Error::invalid(format!("bad sub cgroup path: {}", path.escape_debug()))),
        }
    }
    Ok(clean(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(sub: &[&str], unified: bool) -> Result<Vec<(String, String)>> {
        parse(&sub.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>(), unified)
    }

    #[test]
    fn arguments_are_read_as_runc_reads_them() {
        let pair = |c: &str, p: &str| (c.to_owned(), p.to_owned());
        assert_eq!(parsed(&[], true).unwrap(), []);
        for (argument, path) in [("/", ""), ("foo", "foo"), ("/foo//bar/", "foo/bar"), ("foo/../bar", "bar"), ("..foo", "..foo")] {
            assert_eq!(parsed(&[argument], true).unwrap(), [pair("", path)]);
        }
        let v1 = parsed(&["memory:submem", "cpu,cpuacct:/sub"], false).unwrap();
        assert_eq!(v1, [pair("memory", "submem"), pair("cpu", "sub"), pair("cpuacct", "sub")]);
    }

    #[test]
    fn nothing_leads_out() {
        for path in ["..", "../..", "foo/../../bar", "/..", "a/../../a", "./.."] {
            assert_eq!(parsed(&[path], true).unwrap_err().to_string(), format!("bad sub cgroup path: {path}"));
            assert_eq!(parsed(&[&format!("cpu:{path}")], false).unwrap_err().to_string(), format!("bad sub cgroup path: {path}"));
        }
        assert_eq!(parsed(&["a\0b"], true).unwrap_err().to_string(), "bad sub cgroup path: a\\0b");
        for (sub, text) in [
            (&["cpu:a", "b"][..], "invalid --cgroup argument: b (missing <controller>: prefix)"),
            (&[":a"], "invalid --cgroup argument: :a (empty <controller> prefix)"),
            (&["cpu:a", "cpu:b"], "invalid --cgroup argument(s): controller cpu specified multiple times"),
        ] {
            assert_eq!(parsed(sub, false).unwrap_err().to_string(), text);
        }
        assert!(parsed(&["cpu:a"], true).is_err());
    }
}
