//! What is on disk of a container: a record in its state directory, and beside it what only some verbs need.
//!
//! The record is written twice: as an intent, before the first side effect, so that whatever is made on the host has its
//! undo on disk first; and whole, before init is released. Each time it is complete: a temporary file, renamed.
//!
//! | file            | read by                          | holds                                             |
//! |-----------------|----------------------------------|---------------------------------------------------|
//! | `record.json`   | every verb                       | [`Record`]                                        |
//! | `defaults.json` | exec, update                     | [`Defaults`]: the process document and resources  |
//! | `annotations`   | state, list, hooks               | the annotations, as `state` prints them; only if there are any |
//! | `seccomp.bpf`   | exec                             | the compiled filter                               |
//! | `exec.fifo`     | start                            | the gate; gone once started                       |

use std::collections::BTreeMap;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::write::{Pieces, write, write_atomically, write_json, write_text};
use crate::cgroup::{Paths, Unit};
use crate::error::{Doing, Error, Kind, Result};
use crate::hooks::{self, Hook};
use crate::intel_rdt;
use crate::spec;
use masu_host::procfs::read_regular;

const RECORD: &str = "record.json";
const DEFAULTS: &str = "defaults.json";
const FILTER: &str = "seccomp.bpf";
const ANNOTATIONS: &str = "annotations";
/// The version of the layout; another one is refused.
const VERSION: u32 = 1;
/// Larger files are not ours, in bytes.
const MAX: u64 = 64 << 20;

/// One container, as it was created.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Record {
    pub(crate) version: u32,
    /// Its id.
    pub id: String,
    /// The bundle's directory, absolute.
    pub bundle: String,
    /// The root file system on the host, absolute.
    pub rootfs: String,
    /// RFC 3339, UTC, with nanoseconds.
    pub created: String,
    /// The uid of who created it.
    pub owner: u32,
    /// Whether it has annotations. They are in a file of their own: there may be a megabyte of them, and most verbs need
    /// none.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) annotated: bool,
    /// Init's pid on the host; 0 in an intent.
    pub pid: i32,
    /// Its start time, in clock ticks since boot: a pid alone may be another process by now.
    pub start_time: u64,
    /// The boot in which it was made: after another, no process of it lives.
    pub boot_id: String,
    /// The runtime that makes it, while it is an intent.
    pub(crate) maker: i32,
    pub(crate) maker_start_time: u64,
    pub(crate) cgroup: Paths,
    /// The unit of systemd that its cgroup is, or is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) unit: Option<Unit>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) intel_rdt: Option<intel_rdt::Group>,
    /// CLONE_NEW* flags of the namespaces that are the container's, made or joined.
    pub(crate) namespaces: i32,
    /// Those of them that were made for it.
    pub(crate) fresh_namespaces: i32,
    pub(crate) keyring: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) poststart: Vec<Hook>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) poststop: Vec<Hook>,
    #[serde(default, skip_serializing_if = "hooks::Output::is_default")]
    pub(crate) hook_output: hooks::Output,
    /// The config has no `process`: there is nothing to start.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) no_program: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) notify_socket: Option<String>,
}

impl Record {
    /// Whether the container has no pid namespace of its own: then others outlive its init.
    pub fn shares_pids(&self) -> bool {
        self.fresh_namespaces & libc::CLONE_NEWPID == 0
    }
}

/// What exec and update need of the config, as it was at create: later edits of config.json do not count (runtime.md).
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Defaults {
    pub(crate) process: spec::Process,
    pub(crate) resources: spec::Resources,
    /// The device rules in force, where an update has changed those of the config.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) devices: Option<Vec<spec::DeviceRule>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) personality: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) memory_policy: Option<spec::MemoryPolicy>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) keep_groups: bool,
}

/// The state directory of one container.
#[derive(Debug)]
pub(crate) struct StateDir {
    fd: OwnedFd,
    name: String,
}

impl StateDir {
    /// Makes it: mkdir is the lock against a second create of the same id.
    pub(crate) fn claim(root: &Path, id: &str) -> Result<StateDir> {
        let path = root.join(id);
        let make = || rustix::fs::mkdirat(CWD, &path, Mode::from_raw_mode(0o711));
        let made = match make() {
            Err(Errno::NOENT) => {
                std::fs::DirBuilder::new().recursive(true).create(root).doing(|| format!("make the state root {}", root.display()))?;
                make()
            }
            result => result,
        };
        match made {
            Ok(()) => {}
            Err(Errno::EXIST) => return Err(Error::new(Kind::Exists, "container with given ID already exists")),
            Err(e) => return Err(e).doing(|| format!("make the state directory {}", path.display())),
        }
        Self::open(root, id)
    }

    /// Opens it.
    pub(crate) fn open(root: &Path, id: &str) -> Result<StateDir> {
        let path = root.join(id);
        match rustix::fs::openat(CWD, &path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()) {
            Ok(fd) => Ok(StateDir { fd, name: path.to_string_lossy().into_owned() }),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Err(missing()),
            Err(e) => Err(e).doing(|| format!("open the state directory {}", path.display())),
        }
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The record. A directory without one is a create that was killed before it wrote its intent.
    pub(crate) fn record(&self) -> Result<Record> {
        let bytes = self.read(RECORD)?.ok_or_else(missing)?;
        parse(&bytes, &self.name)
    }

    /// The intent, before there is anything that it could be confused with: a write that is cut short leaves a directory
    /// and nothing else on the host, which is what `delete --force` then clears.
    pub(crate) fn write_intent(&self, record: &mut Record) -> Result<()> {
        record.version = VERSION;
        self.write_new(RECORD, |file| write_json(file, record))
    }

    pub(crate) fn write_record(&self, record: &mut Record) -> Result<()> {
        record.version = VERSION;
        self.replace(RECORD, record)
    }

    pub(crate) fn defaults(&self) -> Result<Defaults> {
        let bytes = self.read(DEFAULTS)?.unwrap_or_else(|| b"{}".to_vec());
        spec::first_value(&bytes).map_err(|e| Error::new(Kind::Internal, format!("{}/{DEFAULTS} is damaged: {e}", self.name)))
    }

    pub(crate) fn write_defaults(&self, defaults: &Defaults) -> Result<()> {
        self.replace(DEFAULTS, defaults)
    }

    /// For the first time: nobody reads it before the record is whole.
    pub(crate) fn write_first_defaults(&self, defaults: &Defaults) -> Result<()> {
        self.write_new(DEFAULTS, |file| write_json(file, defaults))
    }

    /// The annotations' file, if there are any.
    pub(crate) fn open_annotations(&self) -> Result<Option<OwnedFd>> {
        self.open_file(ANNOTATIONS)
    }

    pub(crate) fn annotations(&self) -> Result<BTreeMap<String, String>> {
        let Some(bytes) = self.read(ANNOTATIONS)? else { return Ok(BTreeMap::new()) };
        spec::first_value(&bytes).map_err(|e| Error::new(Kind::Internal, format!("{}/{ANNOTATIONS} is damaged: {e}", self.name)))
    }

    /// Written once, and only if there are any, as a JSON object with the layout that it has within the pretty-printed state.
    pub(crate) fn write_annotations(&self, annotations: &BTreeMap<String, String>) -> Result<()> {
        self.write_new(ANNOTATIONS, |file| {
            let mut before = "{\n    ";
            for (key, value) in annotations {
                file.write_all(before.as_bytes())?;
                write_text(file, key)?;
                file.write_all(b": ")?;
                write_text(file, value)?;
                before = ",\n    ";
            }
            Ok(file.write_all(b"\n  }")?)
        })
    }

    pub(crate) fn filter(&self) -> Result<Option<Vec<u8>>> {
        self.read(FILTER)
    }

    /// The compiled filter. Written once, before the record that makes the container known.
    pub(crate) fn write_filter(&self, filter: &[u8]) -> Result<()> {
        self.write_new(FILTER, |file| Ok(file.write_all(filter)?))
    }

    /// For the first time: nobody reads it before the record is whole.
    fn write_new(&self, name: &str, content: impl FnOnce(&mut Pieces) -> Result<()>) -> Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.fd, name, flags, Mode::from_raw_mode(0o600)).map_err(Error::from);
        file.and_then(|file| write(file, content)).doing(|| format!("write {}/{name}", self.name))
    }

    fn replace(&self, name: &str, value: &impl Serialize) -> Result<()> {
        // whoever writes here has the container's lock
        write_atomically(self.fd(), name, &format!(".{name}"), Mode::from_raw_mode(0o600), |file| write_json(file, value))
            .doing(|| format!("write {}/{name}", self.name))
    }

    fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let read = |fd: OwnedFd| read_regular(fd.as_fd(), MAX).doing(|| format!("read {}/{name}", self.name));
        self.open_file(name)?.map(read).transpose()
    }

    fn open_file(&self, name: &str) -> Result<Option<OwnedFd>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        match rustix::fs::openat(&self.fd, name, flags, Mode::empty()) {
            Ok(fd) => Ok(Some(fd)),
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(e).doing(|| format!("open {}/{name}", self.name)),
        }
    }

    /// Removes it with all that is in it; `annotated` says whether annotations are. What somebody else has removed is fine.
    pub(crate) fn remove(&self, root: &Path, id: &str, annotated: bool) -> Result<()> {
        let path = root.join(id);
        let doing = || format!("remove the state directory {}", path.display());
        // the record last: without it nothing else could be found again
        for name in [DEFAULTS, FILTER, "exec.fifo", ANNOTATIONS, RECORD] {
            if name == ANNOTATIONS && !annotated {
                continue;
            }
            match rustix::fs::unlinkat(&self.fd, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(e) => return Err(e).doing(doing),
            }
        }
        match rustix::fs::unlinkat(CWD, &path, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(Errno::NOTEMPTY | Errno::EXIST) => match std::fs::remove_dir_all(&path) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e).doing(doing),
                _ => Ok(()),
            },
            Err(e) => Err(e).doing(doing),
        }
    }
}

/// The record of container `id`, by the state root: a list has thousands, and needs no more of their directories.
pub(crate) fn read_record(root: BorrowedFd<'_>, id: &str) -> Result<Record> {
    let doing = || format!("read {id}/{RECORD}");
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = match rustix::fs::openat(root, format!("{id}/{RECORD}"), flags, Mode::empty()) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Err(missing()),
        result => result.doing(doing)?,
    };
    parse(&read_regular(fd.as_fd(), MAX).doing(doing)?, id)
}

/// The record that `bytes` hold, which are from the directory `dir`.
fn parse(bytes: &[u8], dir: &str) -> Result<Record> {
    let damaged =
        |why: &dyn std::fmt::Display| Error::new(Kind::Internal, format!("{dir}/{RECORD} is damaged: {why}; delete --force removes it"));
    let record: Record = spec::first_value(bytes).map_err(|e| damaged(&e))?;
    if record.version != VERSION {
        return Err(damaged(&format!("version {} is not {VERSION}", record.version)));
    }
    Ok(record)
}

fn missing() -> Error {
    Error::new(Kind::NotFound, "container does not exist")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_written_and_damage_is_told() {
        let root = tempfile::tempdir().unwrap();
        let dir = StateDir::claim(root.path(), "x").unwrap();
        assert_eq!(StateDir::claim(root.path(), "x").unwrap_err().to_string(), "container with given ID already exists");
        assert_eq!(dir.record().unwrap_err().kind(), Kind::NotFound);
        let mut record = Record { id: "x".into(), pid: 7, ..Record::default() };
        dir.write_record(&mut record).unwrap();
        assert_eq!(dir.record().unwrap().pid, 7);
        for bytes in [&b""[..], b"{", b"\xff\xff", b"{\"version\":99}", b"[]"] {
            std::fs::write(root.path().join("x/record.json"), bytes).unwrap();
            assert!(dir.record().unwrap_err().to_string().contains("is damaged"), "{bytes:?}");
        }
        std::fs::create_dir(root.path().join("x/notify")).unwrap();
        dir.remove(root.path(), "x", false).unwrap();
        dir.remove(root.path(), "x", false).unwrap();
        assert_eq!(StateDir::open(root.path(), "x").unwrap_err().kind(), Kind::NotFound);
    }

    #[test]
    fn annotations_are_read_as_written() {
        let root = tempfile::tempdir().unwrap();
        let dir = StateDir::claim(root.path(), "x").unwrap();
        let mut annotations: BTreeMap<String, String> = BTreeMap::new();
        for special in ["", "a", "\"", "\\", "\u{1f}", "\0", "\u{7f}", " ", "!", "#", "[", "]", "ä", "\u{20ac}\u{10ffff}"] {
            for before in 0..10 {
                let text = format!("{}{special}{}", "x".repeat(before), "ÿ".repeat(before / 2));
                annotations.insert(format!("key {special:?} {text}"), text);
            }
        }
        dir.write_annotations(&annotations).unwrap();
        assert_eq!(dir.annotations().unwrap(), annotations);
        let written = std::fs::read_to_string(root.path().join("x/annotations")).unwrap();
        assert_eq!(written, serde_json::to_string_pretty(&annotations).unwrap().replace('\n', "\n  "));
    }
}
