//! The system calls that rustix does not have, one file each: thin, named, errno in, errno out.
//!
//! These are the only files that may contain `unsafe`. Every block names the contract of the call and why it holds.
//! What rustix has (openat2, fsopen, move_mount, setns, pidfd_open, capset, …) is called there directly.
#![allow(unsafe_code, reason = "the raw system calls live here and nowhere else")]

pub mod bpf;
pub mod clone;
pub mod close_range;
pub mod exec;
pub mod fork;
pub mod interface;
pub mod keyctl;
pub mod loop_device;
pub mod mount_attr;
pub mod namespace;
pub mod overlay_exe;
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
