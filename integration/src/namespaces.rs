//! The mount and UTS namespaces of one test, so that every change in them was made by the test's own processes.
//!
//! Only the test's thread enters them, and the processes it starts inherit them. The thread's files are below
//! `/proc/thread-self`, because `/proc/self` is the main thread.
//!
//! Sources: mount_namespaces(7), uts_namespaces(7), unshare(2).

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, unshare};
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, mount_change};

/// Moves the calling thread into new mount and UTS namespaces.
///
/// No mount is shared with the old namespace, so other programs' mounts do not appear. Mounts that were shared are shared again,
/// in new peer groups: without shared mounts, a leak from a container could not be seen.
///
/// # Errors
/// The caller lacks CAP_SYS_ADMIN, or the root directory is not a mount point.
pub fn enter() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS).context("make mount and UTS namespaces for the test")?;
    let shared: Vec<PathBuf> =
        mountinfo()?.lines().filter(|line| optional_fields(line).any(|field| field.starts_with("shared:"))).map(mount_point).collect();
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).context("make the mounts of the test private")?;
    for point in shared {
        match mount_change(&point, MountPropagationFlags::SHARED) {
            // another program removed the mount point and so the mount, or a second mount hides it
            Ok(()) | Err(Errno::NOENT | Errno::INVAL) => {}
            Err(error) => return Err(error).with_context(|| format!("make {} shared", point.display())),
        }
    }
    Ok(())
}

/// The mounts of the calling thread, as proc_pid_mountinfo(5) describes them.
///
/// # Errors
/// /proc cannot be read.
pub fn mountinfo() -> Result<String> {
    let path = "/proc/thread-self/mountinfo";
    // a mount point's name may be any bytes
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).with_context(|| format!("read {path}"))
}

/// The calling thread's namespace of `kind` (`mnt`, `uts` ...), as `kind:[inode]`.
///
/// # Errors
/// The kernel has no namespaces of that kind.
pub fn own(kind: &str) -> Result<String> {
    let path = format!("/proc/thread-self/ns/{kind}");
    Ok(fs::read_link(&path).with_context(|| format!("read {path}"))?.to_string_lossy().into_owned())
}

/// The mount point in a line of mountinfo.
pub fn mount_point(line: &str) -> PathBuf {
    unescape(line.split(' ').nth(4).unwrap_or_default())
}

fn optional_fields(line: &str) -> impl Iterator<Item = &str> {
    line.split(' ').skip(6).take_while(|field| *field != "-")
}

/// Decodes `\040` and the like, the kernel's escapes for white space and backslashes.
fn unescape(field: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let octal = after.get(..3).and_then(|digits| str::from_utf8(digits).ok()).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match octal.filter(|_| *first == b'\\') {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const LINE: &str = r"36 35 98:0 /root /a\040b\134c rw,noatime shared:7 master:1 - ext4 /dev/sda rw,errors=continue";

    #[test]
    fn a_line_is_taken_apart() {
        assert_eq!(mount_point(LINE), Path::new(r"/a b\c"));
        assert_eq!(optional_fields(LINE).collect::<Vec<_>>(), ["shared:7", "master:1"]);
        assert_eq!(unescape(r"/ends\"), Path::new(r"/ends\"));
    }
}
