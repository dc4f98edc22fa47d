//! Prepares the measured bundles in a scratch directory.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use integration::{Bundle, Surroundings, artifacts, cgroups};

use crate::heavy::Load;

/// A directory for all files of the benchmark, with the surroundings of the bundles.
#[derive(Debug)]
pub(crate) struct Scratch {
    folder: tempfile::TempDir,
    payload: PathBuf,
    surroundings: Surroundings,
}

/// Two bundles: the program of one exits at once, that of the other sleeps.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) name: String,
    pub(crate) size: u64,
    pub(crate) short: PathBuf,
    pub(crate) long: PathBuf,
}

impl Scratch {
    pub(crate) fn new() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("bench-").tempdir().context("make a scratch folder")?;
        // the root of a user namespace needs search permission
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o711))?;
        let payload = artifacts::payload()?;
        let surroundings = Surroundings::new(folder.path(), &payload)?;
        Ok(Self { folder, payload, surroundings })
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn payload(&self) -> &Path {
        &self.payload
    }

    /// Prepares the bundle `given`: a directory of `bundles/`, or a path.
    pub(crate) fn bundle(&self, given: &str) -> Result<Prepared> {
        let name = Path::new(given).file_name().unwrap_or_default().to_string_lossy().into_owned();
        self.prepare(name, given, |_| Ok(()))
    }

    /// Prepares a heavy load.
    pub(crate) fn load(&self, load: Load) -> Result<Prepared> {
        self.prepare(load.name().to_owned(), "docker-default", |bundle| load.put_on(bundle))
    }

    fn prepare(&self, name: String, given: &str, edit: impl Fn(&mut Bundle) -> Result<()>) -> Result<Prepared> {
        let make = |kind: &str, args: &[&str]| -> Result<PathBuf> {
            let mut bundle = self.surroundings.bundle(given, &self.path().join(format!("{name}-{kind}")))?;
            edit(&mut bundle)?;
            bundle.args(args).write()?;
            Ok(bundle.path().to_owned())
        };
        let short = make("short", &["/bin/true"])?;
        let long = make("long", &["/bin/sleep", "100000"])?;
        Ok(Prepared { size: fs::metadata(short.join("config.json"))?.len(), name, short, long })
    }
}

/// The cgroup version, for the heading and the baseline.
pub(crate) fn view() -> &'static str {
    if cgroups::unified() { "v2" } else { "v1" }
}
