//! list: all containers of a state root, and what each is at.
//!
//! There may be thousands, so nothing of a container is opened but what tells: its record, and its gate, which alone shows
//! that a created one lives. What runs is looked up in /proc.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags};

use super::record::Record;
use super::state_dir::{StateDir, read_record};
use super::{Container, Status, check_id, status};
use crate::error::{Doing, Kind, Result};
use crate::launch::gate;
use masu_host::procfs::Procfs;

/// One container of a list.
#[derive(Debug)]
#[non_exhaustive]
pub struct Listed<'a> {
    root: &'a Path,
    /// What was recorded at create.
    pub record: Record,
    /// What it was at when it was looked at.
    pub status: Status,
}

impl Listed<'_> {
    /// Opens it. [`Kind::NotFound`] when it is gone by now.
    pub fn open(&self) -> Result<Container> {
        Container::open(self.root, &self.record.id)
    }

    /// The annotations of its config.
    pub fn annotations(&self) -> Result<BTreeMap<String, String>> {
        if self.record.annotated { StateDir::open(self.root, &self.record.id)?.annotations() } else { Ok(BTreeMap::new()) }
    }
}

/// The ids of all containers of the state root, sorted.
pub(super) fn ids(root: &Path) -> Result<Vec<String>> {
    let doing = || format!("read the state root {}", root.display());
    let mut ids = Vec::new();
    for entry in std::fs::read_dir(root).doing(doing)? {
        let entry = entry.doing(doing)?;
        if let Ok(id) = entry.file_name().into_string()
            && entry.file_type().is_ok_and(|t| t.is_dir())
            && check_id(&id).is_ok()
        {
            ids.push(id);
        }
    }
    ids.sort_unstable();
    Ok(ids)
}

/// All containers of the state root, by id, each looked at when it is its turn; nothing of it stays open. Those that vanish
/// meanwhile are left out; damaged ones are errors.
pub(super) fn list(root: &Path) -> Result<impl Iterator<Item = Result<Listed<'_>>>> {
    let proc = Procfs::open()?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::openat(CWD, root, flags, Mode::empty()).doing(|| format!("read the state root {}", root.display()))?;
    let look = move |id: String| {
        let record = match read_record(dir.as_fd(), &id) {
            Err(e) if e.kind() == Kind::NotFound => return None,
            result => result.doing(|| format!("load container {id}")),
        };
        let listed = record.and_then(|record| {
            let status = status(&record, &proc, || gate::is_closed_below(dir.as_fd(), &id));
            Ok(Listed { root, status: status.doing(|| format!("status of container {id}"))?, record })
        });
        Some(listed)
    };
    Ok(ids(root)?.into_iter().filter_map(look))
}
