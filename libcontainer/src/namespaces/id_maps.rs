//! Id mappings of a user namespace (user_namespaces(7)). They are checked as the kernel does, because the kernel says only
//! "invalid argument".

use std::fmt::Write as _;
use std::os::fd::OwnedFd;

use masu_host::procfs::Procfs;
use masu_host::sys::clone::{Ended, check_threads};

use crate::error::{Doing, Error, Kind, Result};
use crate::spec::IdMapping;

/// The maximum number of ranges in one map (UID_GID_MAP_MAX_EXTENTS).
const MAX_RANGES: usize = 340;
/// The maximum text of a map, in bytes: the kernel takes it in one write shorter than a page.
const MAX_TEXT: usize = 4095;

/// The maps of user ids and group ids.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IdMaps {
    /// The map of user ids.
    pub uids: IdMap,
    /// The map of group ids.
    pub gids: IdMap,
}

impl IdMaps {
    /// Makes a user namespace with these maps and without processes, for id-mapped mounts (mount_setattr(2)). `proc` must be of
    /// the caller's pid namespace. The caller must have one thread: a child is made and reaped, without SIGCHLD.
    ///
    /// # Errors
    /// [`Kind::Unsupported`] with more than one thread; otherwise the errno of clone3(2) or of the writes of the maps.
    pub fn user_namespace(&self, proc: &Procfs) -> Result<OwnedFd> {
        let make = || -> Result<OwnedFd> {
            check_threads()?;
            let child = Ended::in_namespaces(libc::CLONE_NEWUSER)?;
            proc.write(&format!("{}/uid_map", child.pid), self.uids.text().as_bytes()).doing(|| "write uid_map")?;
            proc.write(&format!("{}/gid_map", child.pid), self.gids.text().as_bytes()).doing(|| "write gid_map")?;
            proc.open_namespace(child.pid, "user").doing(|| "open it")
        };
        make().doing(|| "failed to create userns for id-mapping")
    }
}

/// One map: ranges in the order of the ids inside. No two overlap, inside or outside.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IdMap(Vec<Range>);

/// The `size` ids from `inside` are those from `outside` in the parent namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Range {
    inside: u32,
    outside: u32,
    size: u32,
}

impl IdMap {
    /// Checks the ranges and makes the map. `path` is their JSON path.
    ///
    /// # Errors
    /// [`Kind::InvalidSpec`] for a map that the kernel would refuse: empty or overlapping ranges, too high ids, too many ranges.
    pub fn plan(list: &[IdMapping], path: &str) -> Result<IdMap> {
        let invalid = |why: &str| Err(Error::invalid(format!("{path}: {why}")));
        if list.len() > MAX_RANGES {
            return invalid(&format!("{} ranges are more than the kernel's {MAX_RANGES}", list.len()));
        }
        let mut ranges: Vec<_> =
            list.iter().map(|range| Range { inside: range.container_id, outside: range.host_id, size: range.size }).collect();
        for range in &ranges {
            if range.size == 0 {
                return invalid(&format!("the range {range} is empty"));
            }
            if range.inside.checked_add(range.size).is_none() || range.outside.checked_add(range.size).is_none() {
                return invalid(&format!("the range {range} goes beyond the highest id"));
            }
        }
        for side in [|range: &Range| range.outside, |range: &Range| range.inside] {
            ranges.sort_unstable_by_key(side);
            if let Some(two) = ranges.windows(2).find(|two| side(&two[0]) + two[0].size > side(&two[1])) {
                return invalid(&format!("the ranges {} and {} overlap", two[0], two[1]));
            }
        }
        let map = IdMap(ranges);
        if map.text().len() > MAX_TEXT {
            return invalid(&format!("the map is longer than the {MAX_TEXT} bytes that the kernel takes"));
        }
        Ok(map)
    }

    /// Parses the text of `/proc/PID/uid_map` or `gid_map`.
    pub(crate) fn parse(text: &str) -> Result<IdMap> {
        let range = |line: &str| {
            let mut numbers = line.split_ascii_whitespace().map(str::parse);
            let mut next = || numbers.next()?.ok();
            Some(IdMapping { container_id: next()?, host_id: next()?, size: next()? })
        };
        let ranges: Option<Vec<_>> = text.lines().map(range).collect();
        IdMap::plan(&ranges.ok_or_else(|| Error::new(Kind::Internal, "a line is not three numbers"))?, "the map")
    }

    /// Whether the map has no ranges.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The text for `/proc/PID/uid_map` or `gid_map`.
    pub fn text(&self) -> String {
        self.0.iter().fold(String::new(), |mut text, Range { inside, outside, size }| {
            // a write to a String cannot fail
            let _ = writeln!(text, "{inside} {outside} {size}");
            text
        })
    }

    /// The id outside of the id `id` inside, or `None` if `id` is not mapped.
    pub fn outside(&self, id: u32) -> Option<u32> {
        self.0.iter().find(|range| id >= range.inside && id - range.inside < range.size).map(|range| range.outside + (id - range.inside))
    }
}

impl std::fmt::Display for Range {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}:{}", self.inside, self.outside, self.size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(json: &str) -> Result<IdMap> {
        IdMap::plan(&serde_json::from_str::<Vec<IdMapping>>(json).unwrap(), "x")
    }

    #[test]
    fn the_order_of_ranges_does_not_matter() {
        let a = r#"{"containerID":0,"hostID":1000,"size":1}"#;
        let b = r#"{"containerID":1,"hostID":5,"size":10}"#;
        let map = plan(&format!("[{b},{a}]")).unwrap();
        assert_eq!(map, plan(&format!("[{a},{b}]")).unwrap());
        assert_eq!(map.text(), "0 1000 1\n1 5 10\n");
        assert_eq!(IdMap::parse("         1          5         10\n         0       1000          1\n").unwrap(), map);
        assert_eq!(IdMap::parse("0 0 4294967295\n").unwrap().outside(7), Some(7));
        assert!(IdMap::parse("1 2\n").is_err());
        assert_eq!([0, 1, 10, 11].map(|id| map.outside(id)), [Some(1000), Some(5), Some(14), None]);
        assert!(plan("[]").unwrap().is_empty());
    }

    #[test]
    fn what_the_kernel_would_refuse_is_refused_in_words() {
        for (json, text) in [
            (r#"[{"containerID":0,"hostID":1,"size":0}]"#, "x: the range 0:1:0 is empty"),
            (r#"[{"containerID":4294967295,"hostID":0,"size":1}]"#, "beyond the highest id"),
            (r#"[{"containerID":0,"hostID":4294967290,"size":6}]"#, "beyond the highest id"),
            (r#"[{"containerID":0,"hostID":0,"size":10},{"containerID":9,"hostID":100,"size":1}]"#, "0:0:10 and 9:100:1 overlap"),
            (r#"[{"containerID":0,"hostID":0,"size":10},{"containerID":10,"hostID":9,"size":1}]"#, "overlap"),
        ] {
            let e = plan(json).unwrap_err();
            assert!(e.to_string().contains(text), "{json}: {e}");
        }
        let many = |n: u32, at: u32| {
            let list: Vec<_> = (0..n).map(|i| format!(r#"{{"containerID":{},"hostID":{},"size":1}}"#, at + 2 * i, at + 2 * i)).collect();
            plan(&format!("[{}]", list.join(",")))
        };
        assert!(many(340, 0).is_ok());
        assert!(many(341, 0).unwrap_err().to_string().contains("341 ranges"));
        assert!(many(340, 4_000_000_000).unwrap_err().to_string().contains("longer than the 4095 bytes"));
    }
}
