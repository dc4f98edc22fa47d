//! The kernel and the host, without any knowledge of containers: the lowest floor of masu, under libcontainer, the command
//! and the shim.
//!
//! | module | holds |
//! |---|---|
//! | [`sys`] | the system calls that rustix lacks, one file each; all `unsafe` code of this crate |
//! | [`procfs`] | a checked handle of /proc |
//! | [`beneath`] | paths that are resolved below a directory's descriptor |
//! | [`mounts`] | the mount builder: a mount is made, gets its attributes, and is then attached |
//! | [`fds`] | descriptors that are passed over unix sockets |
//! | [`pidfd`] | waiting for a process by its descriptor |
//! | [`netlink`] | the messages of rtnetlink that move a network device |
//! | [`dbus`] | a connection to systemd |
//! | [`mask`] | sets of CPUs and memory nodes |
//! | [`time`] | the time of day as text |
//! | [`sealed_exe`] | execution of the own program from a file that no container can write |
//! | [`mod@write`] | files that are written completely or not at all |
//! | [`error`] | the error type of this crate and of all crates above it |

#![warn(missing_docs)]

pub mod beneath;
pub mod dbus;
pub mod error;
pub mod fds;
pub mod mask;
pub mod mounts;
pub mod netlink;
pub mod pidfd;
pub mod procfs;
pub mod sealed_exe;
pub mod sys;
pub mod time;
pub mod write;

/// Whether an emulator without openat2(2) and seccomp(2) plays the kernel. The test must then be skipped: the test command
/// counts the printed line.
#[cfg(test)]
pub(crate) fn is_emulated(test: &str) -> bool {
    let emulated = !beneath::has_openat2();
    if emulated {
        println!("skip {test}: no openat2 in this emulator of system calls");
    }
    emulated
}
