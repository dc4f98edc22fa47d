//! The system calls that rustix lacks, one file each: thin wrappers that return the errno.
//!
//! All `unsafe` code of this crate is in these files. Each block names the contract of the call and why it holds. For the other
//! system calls (openat2, fsopen, move_mount, pidfd_open, capset and so on) the callers use rustix.
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

/// The errno of a libc call that has just returned -1.
fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL)
}
