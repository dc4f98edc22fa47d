//! The kernel and the host, with no idea of containers: the lowest floor of masu, under libcontainer, the command and the shim.
//!
//! | module | holds |
//! |---|---|
//! | [`sys`] | the system calls that rustix lacks, one file each: the only `unsafe` of the workspace |
//! | [`procfs`] | the one checked handle of /proc |
//! | [`beneath`] | paths that are resolved below a directory's descriptor |
//! | [`mounts`] | mounts that are made, given their attributes, and then attached: the one mount builder |
//! | [`fds`] | descriptors that are passed over unix sockets |
//! | [`pidfd`] | waiting for processes by descriptor |
//! | [`netlink`] | the few messages of rtnetlink that move a network device |
//! | [`dbus`] | a connection to systemd |
//! | [`mask`] | sets of CPUs and memory nodes |
//! | [`time`] | the time of day as text |
//! | [`sealed_exe`] | the program executes itself from a file that a container cannot write |
//! | `write` | files that are there whole or not at all |
//! | [`error`] | the one error type, which every floor above adds its words to |

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

/// Whether the kernel is played by an emulator that lacks openat2 and seccomp: such a test is skipped, in words that the
/// test command counts.
#[cfg(test)]
pub(crate) fn is_emulated(test: &str) -> bool {
    let emulated = !beneath::has_openat2();
    if emulated {
        println!("skip {test}: no openat2 in this emulator of system calls");
    }
    emulated
}
