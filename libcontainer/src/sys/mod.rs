//! The system calls that rustix does not have, one file each: thin, named, errno in, errno out.
//!
//! These are the only files that may contain `unsafe`. Every block names the contract of the call and why it holds.
//! What rustix has (openat2, fsopen, move_mount, setns, pidfd_open, capset, …) is called there directly.
#![allow(unsafe_code, reason = "the raw system calls live here and nowhere else")]

pub mod bpf;
pub mod clone;
pub mod close_range;
pub mod exec;
pub mod interface;
pub mod keyctl;
pub mod loop_device;
pub mod mount_attr;
pub mod namespace;
pub(crate) mod overlay_exe;
pub mod peer;
pub mod personality;
pub mod place;
pub mod regex;
pub mod scheduling;
pub mod seccomp;
pub mod signal;
pub mod start;

use rustix::io::Errno;

/// The errno of the call that just returned -1 through libc.
fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL)
}

/// Whether the kernel is played by an emulator that has neither openat2 nor seccomp (qemu-user before 9): such a test is
/// skipped, in words that `.ci/run` counts.
#[cfg(test)]
pub(crate) fn is_emulated(test: &str) -> bool {
    use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
    let emulated = rustix::fs::openat2(CWD, "/", OFlags::PATH, Mode::empty(), ResolveFlags::empty()).err() == Some(Errno::NOSYS);
    if emulated {
        println!("skip {test}: no openat2 in this emulator of system calls");
    }
    emulated
}
