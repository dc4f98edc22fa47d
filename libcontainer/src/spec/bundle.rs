//! A bundle: a directory with a config.json and a root file system (bundle.md).

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::{MAX_CONFIG, Spec};
use crate::error::{Doing, Error, Result};
use masu_host::procfs::{openat2_retry, read_regular};

/// The default name of the config.
const CONFIG: &str = "config.json";

/// The content of a bundle.
#[derive(Debug)]
pub(crate) struct Bundle {
    /// An absolute path without symbolic links.
    pub(crate) dir: String,
    pub(crate) spec: Spec,
}

impl Bundle {
    /// Reads the bundle; `config` is another name for its config.json.
    pub(crate) fn open(dir: &Path, config: Option<&Path>) -> Result<Bundle> {
        let name = config.unwrap_or(Path::new(CONFIG));
        let (dir, bytes) = read(dir, config)?;
        Ok(Bundle { dir, spec: Spec::from_slice(&bytes).doing(|| name.display())? })
    }
}

/// The absolute path of the bundle's directory, and the content of its config.json.
pub(crate) fn read(dir: &Path, config: Option<&Path>) -> Result<(String, Vec<u8>)> {
    let doing = || format!("chdir {}", dir.display());
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    let fd = rustix::fs::openat(CWD, dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).doing(doing)?;
    let name = config.unwrap_or(Path::new(CONFIG));
    let file = match rustix::fs::openat(&fd, name, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty()) {
        Err(Errno::NOENT) => return Err(Error::invalid(format!("JSON specification file {} not found", name.display()))),
        result => result.doing(|| format!("open {}", name.display()))?,
    };
    let bytes = read_regular(file.as_fd(), MAX_CONFIG).doing(|| format!("read {}", name.display()))?;
    Ok((path_of(&fd).doing(doing)?, bytes))
}

/// The path of a directory, as the kernel resolves it.
fn path_of(fd: &OwnedFd) -> Result<String> {
    let path = rustix::fs::readlink(format!("/proc/self/fd/{}", fd.as_raw_fd()), Vec::new())?;
    path.into_string().map_err(|_| Error::invalid("the path is not UTF-8"))
}

/// Checks that the rootfs is a directory and that no component of its path is a symbolic link: the mounts on the target of a link
/// would not be where the caller expects them.
pub(crate) fn check_rootfs(path: &str) -> Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match openat2_retry(CWD, path, flags, ResolveFlags::NO_SYMLINKS) {
        Ok(_) => Ok(()),
        Err(Errno::LOOP) => Err(Error::invalid(format!("invalid rootfs: {path} is not an absolute path, or a symlink"))),
        Err(e) => Err(e).doing(|| format!("invalid rootfs: stat {path}")),
    }
}
