//! `process.apparmorProfile` and `process.selinuxLabel`: the label of the program after execve(2) (`/proc/PID/attr`,
//! proc_pid_attr(5)).
//!
//! A label is written only through a checked handle of procfs. If it were written to another file, the container would have no
//! label (CVE-2019-16884, CVE-2025-52881).

use std::os::fd::BorrowedFd;

use rustix::fs::{Mode, OFlags, XattrFlags};
use rustix::io::Errno;

use crate::error::{Doing, Error, Result};
use crate::findings::Findings;
use masu_host::procfs::Procfs;
use masu_host::sys::close_range::leave;

/// The labels of the process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Labels {
    pub apparmor: Option<String>,
    pub selinux: Option<String>,
}

impl Labels {
    /// Checks that the host has the security module of each label, because otherwise the label would have no effect.
    pub(crate) fn plan(apparmor: &str, selinux: &str, found: &mut Findings) -> Labels {
        let text = |s: &str| if s.is_empty() { None } else { Some(s.to_owned()) };
        if apparmor.contains('\0') || selinux.contains('\0') {
            found.invalid("process", "process: a label holds a NUL byte");
        }
        let labels = Labels { apparmor: text(apparmor), selinux: text(selinux) };
        if let Some(profile) = &labels.apparmor
            && !apparmor_enabled()
        {
            let text = format!(
                "process.apparmorProfile: apparmor profile {profile:?} is specified in config, but apparmor is disabled or not supported"
            );
            found.invalid("process.apparmorProfile", text);
        }
        if labels.selinux.is_some() && !selinux_enabled() {
            let text = "selinux label is specified in config, but selinux is disabled or not supported";
            found.invalid("process.selinuxLabel", text);
        }
        labels
    }

    /// Whether there is no label.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Labels::default()
    }

    /// Sets the labels for the caller's next execve(2).
    pub(crate) fn apply(&self, proc: &Procfs) -> Result<()> {
        let me = proc.me()?;
        if let Some(profile) = &self.apparmor {
            let value = format!("exec {profile}");
            let written = match proc.write(&format!("{me}/attr/apparmor/exec"), value.as_bytes()) {
                // kernels before 5.8, and kernels without several security modules
                Err(Errno::NOENT) => proc.write(&format!("{me}/attr/exec"), value.as_bytes()),
                result => result,
            };
            written.doing(|| format!("unable to apply apparmor profile: write {profile:?} to /proc/self/attr/apparmor/exec"))?;
        }
        if let Some(label) = &self.selinux {
            proc.write(&format!("{me}/attr/keycreate"), label.as_bytes()).doing(|| format!("set the key label {label:?}"))?;
            proc.write(&format!("{me}/attr/exec"), label.as_bytes())
                .doing(|| format!("set process label: write {label:?} to /proc/self/attr/exec"))?;
        }
        Ok(())
    }
}

fn apparmor_enabled() -> bool {
    rustix::fs::access("/sys/kernel/security/apparmor", rustix::fs::Access::EXISTS).is_ok()
        || std::fs::read("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.starts_with(b"Y"))
}

fn selinux_enabled() -> bool {
    rustix::fs::access("/sys/fs/selinux/enforce", rustix::fs::Access::EXISTS).is_ok()
}

/// Whether mounts get `mountLabel`. Without SELinux they do not, which is only a warning: a label of files confines no process.
/// The label of a process does, so that is an error without SELinux.
pub(crate) fn check_mount_label(label: &str) -> Result<bool> {
    if label.contains('\0') {
        return Err(Error::invalid("linux.mountLabel: it holds a NUL byte"));
    }
    Ok(!label.is_empty() && selinux_enabled())
}

/// Sets the label of the mount's root, for a file system without a mount option for it (mqueue).
pub(crate) fn label_mount(mount: BorrowedFd<'_>, label: &str) -> Result<()> {
    let doing = || format!("set the label {label:?} of the mount");
    let root = rustix::fs::openat(mount, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).doing(doing)?;
    rustix::fs::fsetxattr(&root, "security.selinux", label.as_bytes(), XattrFlags::empty()).doing(doing)?;
    leave(root);
    Ok(())
}
