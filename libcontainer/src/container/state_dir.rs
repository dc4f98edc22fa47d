//! The state directory of one container, and the lock that a change of it needs.
//!
//! | file            | read by                          | holds                                             |
//! |-----------------|----------------------------------|---------------------------------------------------|
//! | `record.json`   | every verb                       | [`Record`]                                        |
//! | `defaults.json` | exec, update                     | [`Defaults`]: the process document and resources  |
//! | `annotations`   | state, list, hooks               | the annotations, as `state` prints them; only if there are any |
//! | `seccomp.bpf`   | exec                             | the compiled filter                               |
//! | `exec.fifo`     | start                            | the gate; gone once started                       |
//! | `notify/`       | start                            | the socket of sd_notify(3), if the caller has one |
//!
//! The record is written twice: as an intent, before the first side effect, so that whatever is made on the host has its
//! undo on disk first; and whole, before init is released. A reader meets either of the two, or none: each is a temporary file
//! that is renamed.
//!
//! All changes after the first need [`Locked`]. The lock is never held while foreign code runs (a hook, the container's
//! program, a reader of a socket), because `delete --force` must not depend on it.

use std::collections::BTreeMap;
use std::io::Write;
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use masu_host::beneath;
use masu_host::procfs::read_regular;
use masu_host::write::{self, Pieces};
use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use serde::Serialize;

use super::json::{write_json, write_text};
use super::record::{self, Defaults, Record};
use crate::error::{Doing, Error, Kind, Result};
use crate::spec;

pub(super) const RECORD: &str = "record.json";
const DEFAULTS: &str = "defaults.json";
const FILTER: &str = "seccomp.bpf";
const ANNOTATIONS: &str = "annotations";
/// Larger files are not ours, in bytes.
pub(super) const MAX: u64 = 64 << 20;

/// How long a verb waits for another one.
const PATIENCE: Duration = Duration::from_secs(10);
/// flock(2) has no descriptor to wait on, and a blocking call has no deadline. Only a verb that meets another one comes here.
const PAUSE: Duration = Duration::from_millis(5);

/// The state directory of one container.
#[derive(Debug)]
pub(crate) struct StateDir {
    fd: OwnedFd,
    path: PathBuf,
}

/// The directory with its lock, which is released when this is dropped. The directory is the one that its name leads to: one
/// that another verb removed meanwhile cannot be locked.
#[derive(Debug)]
pub(crate) struct Locked<'a> {
    dir: &'a StateDir,
    /// Another verb was at work: what was read before may have changed.
    pub(crate) waited: bool,
}

impl Deref for Locked<'_> {
    type Target = StateDir;

    fn deref(&self) -> &StateDir {
        self.dir
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        // it cannot fail on an open descriptor, and closing that would release it as well
        let _ = rustix::fs::flock(&self.dir.fd, FlockOperation::Unlock);
    }
}

impl StateDir {
    /// Makes it, for [`Locked::write_intent`] to take: the two decide between creates of the same id.
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
            Err(Errno::EXIST) => return Err(taken()),
            Err(e) => return Err(e).doing(|| format!("make the state directory {}", path.display())),
        }
        Self::open(root, id)
    }

    /// Removes the directory if nothing is in it: that of a create which has not come to write its intent.
    pub(crate) fn abandon(&self) {
        // what is left is an empty directory, which the next delete --force clears
        let _ = rustix::fs::unlinkat(CWD, &self.path, AtFlags::REMOVEDIR);
    }

    /// Opens it.
    pub(crate) fn open(root: &Path, id: &str) -> Result<StateDir> {
        let path = root.join(id);
        match rustix::fs::openat(CWD, &path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()) {
            Ok(fd) => Ok(StateDir { fd, path }),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Err(missing()),
            Err(e) => Err(e).doing(|| format!("open the state directory {}", path.display())),
        }
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Waits for the lock, at most ten seconds.
    ///
    /// # Errors
    /// [`Kind::Busy`] if another verb keeps it so long; [`Kind::NotFound`] if another verb has removed the directory.
    pub(crate) fn lock(&self) -> Result<Locked<'_>> {
        let end = Instant::now() + PATIENCE;
        let mut waited = false;
        loop {
            match self.try_lock()? {
                Some(mut lock) => {
                    lock.waited = waited;
                    return Ok(lock);
                }
                None if Instant::now() < end => {
                    waited = true;
                    std::thread::sleep(PAUSE);
                }
                None => return Err(Error::new(Kind::Busy, "another command is at work on the container; try again")),
            }
        }
    }

    /// Takes the lock, if no other verb has it.
    pub(crate) fn try_lock(&self) -> Result<Option<Locked<'_>>> {
        let doing = || format!("lock the state directory {}", self.path.display());
        loop {
            match rustix::fs::flock(&self.fd, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(Errno::WOULDBLOCK) => return Ok(None),
                Err(Errno::INTR) => {}
                Err(e) => return Err(e).doing(doing),
            }
        }
        let lock = Locked { dir: self, waited: false };
        if self.is_current()? { Ok(Some(lock)) } else { Err(missing()) }
    }

    /// Whether the directory is still the one that its name leads to. Another one there is of a later container with the same
    /// id.
    pub(crate) fn is_current(&self) -> Result<bool> {
        let doing = || format!("look at the state directory {}", self.path.display());
        let ours = rustix::fs::fstat(&self.fd).doing(doing)?;
        match rustix::fs::statat(CWD, &self.path, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(there) => Ok((there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(false),
            Err(e) => Err(e).doing(doing),
        }
    }

    /// The record.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if there is none: the directory was claimed a moment ago, or its maker was killed in that moment. Any
    /// other error says nothing about whether the container is there.
    pub(crate) fn record(&self) -> Result<Record> {
        let bytes = self.read(RECORD)?.ok_or_else(missing)?;
        record::parse(&bytes, &self.path.to_string_lossy())
    }

    pub(crate) fn defaults(&self) -> Result<Defaults> {
        let bytes = self.read(DEFAULTS)?.unwrap_or_else(|| b"{}".to_vec());
        spec::first_value(&bytes).map_err(|e| self.damaged(DEFAULTS, &e))
    }

    /// The annotations' file, if there are any.
    pub(crate) fn open_annotations(&self) -> Result<Option<OwnedFd>> {
        self.open_file(ANNOTATIONS)
    }

    pub(crate) fn annotations(&self) -> Result<BTreeMap<String, String>> {
        let Some(bytes) = self.read(ANNOTATIONS)? else { return Ok(BTreeMap::new()) };
        spec::first_value(&bytes).map_err(|e| self.damaged(ANNOTATIONS, &e))
    }

    pub(crate) fn filter(&self) -> Result<Option<Vec<u8>>> {
        self.read(FILTER)
    }

    /// Writes the whole record over the intent. It needs no lock, because until then nobody but the maker changes anything:
    /// a `delete --force` ends the maker first.
    pub(crate) fn complete(&self, record: &Record) -> Result<()> {
        self.replace(RECORD, record)
    }

    /// For the first time: nobody reads it before the record is whole.
    pub(crate) fn write_first_defaults(&self, defaults: &Defaults) -> Result<()> {
        self.write_new(DEFAULTS, |file| write_json(file, defaults))
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

    /// The compiled filter. Written once, before the record that makes the container known.
    pub(crate) fn write_filter(&self, filter: &[u8]) -> Result<()> {
        self.write_new(FILTER, |file| Ok(file.write_all(filter)?))
    }

    /// For the first time: nobody reads it before the record is whole.
    fn write_new(&self, name: &str, content: impl FnOnce(&mut Pieces) -> Result<()>) -> Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.fd, name, flags, Mode::from_raw_mode(0o600)).map_err(Error::from);
        file.and_then(|file| write::in_pieces(file, content)).doing(|| format!("write {}/{name}", self.path.display()))
    }

    fn replace(&self, name: &str, value: &impl Serialize) -> Result<()> {
        write::atomically(self.fd(), name, &format!(".{name}"), Mode::from_raw_mode(0o600), |file| write_json(file, value))
            .doing(|| format!("write {}/{name}", self.path.display()))
    }

    fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let read = |fd: OwnedFd| read_regular(fd.as_fd(), MAX).doing(|| format!("read {}/{name}", self.path.display()));
        self.open_file(name)?.map(read).transpose()
    }

    fn open_file(&self, name: &str) -> Result<Option<OwnedFd>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        match rustix::fs::openat(&self.fd, name, flags, Mode::empty()) {
            Ok(fd) => Ok(Some(fd)),
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(e).doing(|| format!("open {}/{name}", self.path.display())),
        }
    }

    fn damaged(&self, name: &str, why: &dyn std::fmt::Display) -> Error {
        Error::new(Kind::Internal, format!("{}/{name} is damaged: {why}", self.path.display()))
    }
}

impl Locked<'_> {
    /// Writes what will be on the host, before the first of it is made: from then on the directory is the caller's.
    ///
    /// # Errors
    /// [`Kind::Exists`] if another create was quicker: a slow one may have opened the directory that this one made.
    pub(crate) fn write_intent(&self, record: &Record) -> Result<()> {
        match rustix::fs::statat(&self.fd, RECORD, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => self.dir.replace(RECORD, record),
            Ok(_) => Err(taken()),
            Err(e) => Err(e).doing(|| format!("look for {}/{RECORD}", self.path.display())),
        }
    }

    pub(crate) fn write_defaults(&self, defaults: &Defaults) -> Result<()> {
        self.dir.replace(DEFAULTS, defaults)
    }

    /// Removes the directory with all that is in it. What another process has removed is fine.
    pub(crate) fn remove(&self, annotated: bool) -> Result<()> {
        let doing = || format!("remove the state directory {}", self.path.display());
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
        // the lock says that the name leads to this directory
        let rmdir = || rustix::fs::unlinkat(CWD, &self.path, AtFlags::REMOVEDIR);
        match rmdir() {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(Errno::NOTEMPTY | Errno::EXIST) => {
                beneath::remove_all_in(self.fd()).doing(doing)?;
                rmdir().doing(doing)
            }
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
    record::parse(&read_regular(fd.as_fd(), MAX).doing(doing)?, id)
}

fn taken() -> Error {
    Error::new(Kind::Exists, "container with given ID already exists")
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
        dir.complete(&Record { id: "x".into(), pid: 7, ..Record::new() }).unwrap();
        assert_eq!(dir.record().unwrap().pid, 7);
        for bytes in [&b""[..], b"{", b"\xff\xff", b"{\"version\":99}", b"[]"] {
            std::fs::write(root.path().join("x/record.json"), bytes).unwrap();
            let e = dir.record().unwrap_err();
            assert!(e.to_string().contains("is damaged") && e.kind() != Kind::NotFound, "{bytes:?}");
        }
        std::fs::create_dir(root.path().join("x/notify")).unwrap();
        std::fs::write(root.path().join("x/notify/deep"), "").unwrap();
        dir.lock().unwrap().remove(false).unwrap();
        assert_eq!(StateDir::open(root.path(), "x").unwrap_err().kind(), Kind::NotFound);
    }

    #[test]
    fn a_directory_of_a_later_container_is_not_locked_and_not_removed() {
        let root = tempfile::tempdir().unwrap();
        let slow = StateDir::claim(root.path(), "x").unwrap();
        StateDir::open(root.path(), "x").unwrap().lock().unwrap().remove(false).unwrap();
        assert_eq!(slow.lock().unwrap_err().kind(), Kind::NotFound);
        let later = StateDir::claim(root.path(), "x").unwrap();
        later.lock().unwrap().write_intent(&Record::new()).unwrap();
        assert_eq!(slow.lock().unwrap_err().kind(), Kind::NotFound);
        assert!(slow.complete(&Record::new()).is_err(), "a removed directory takes no file");
        assert!(later.record().is_ok());
    }

    #[test]
    fn one_has_the_lock_at_a_time() {
        let root = tempfile::tempdir().unwrap();
        let dir = StateDir::claim(root.path(), "x").unwrap();
        let other = StateDir::open(root.path(), "x").unwrap();
        let lock = dir.lock().unwrap();
        assert!(!lock.waited && other.try_lock().unwrap().is_none());
        drop(lock);
        assert!(other.try_lock().unwrap().is_some());
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
