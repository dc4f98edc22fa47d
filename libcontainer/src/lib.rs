//! libcontainer: create, start, exec, kill, pause, update and delete OCI containers, and read what they use.
//!
//! A [`Runtime`] is a directory with the records of containers. It makes a [`Container`] of a bundle (a folder with a config.json
//! and a root file system), whose first [`Process`] waits for [`Container::start`].
//!
//! ```no_run
//! use libcontainer::{CreateOptions, Runtime};
//!
//! # fn main() -> libcontainer::Result<()> {
//! let runtime = Runtime::new("/run/containers");
//! let (mut container, init) = runtime.create("web", &CreateOptions::new("/srv/web"))?;
//! container.start()?;
//! println!("it ended with {}", init.wait()?.code());
//! container.delete(false)
//! # }
//! ```
//!
//! `examples/` has a whole life, a terminal, statistics and notices in a poll loop, and an engine under tokio.
//!
//! # What a program has to know
//!
//! - No call makes a thread, and a call that clones ([`Runtime::create`], [`Container::exec`], [`Container::update_live`] with
//!   mounts or nodes) refuses a process that has more than one thread: the child has a copy of all memory, with the locks that other
//!   threads hold. A program with threads forks a worker before it starts them.
//! - These calls mark descriptors close-on-exec, and the processes that they make become children of the caller:
//!   [`Runtime::create`] says what it does to its caller.
//! - A program of root that enters containers should seal its own executable first, or a container could write to it
//!   (CVE-2019-5736): the crate masu-host has `sealed_exe`.
//! - The library logs warnings through the crate `log`; every failure is an [`Error`], whose [`Kind`] is for programs.
//!
//! # The code in reading order
//!
//! 1. [`spec`]: config.json as the user wrote it.
//! 2. `plan.rs`: what the kernel will be told; every check is made here, before anything exists.
//! 3. `container/create.rs` and `launch/init.rs`: the two sides of create, each from top to bottom.
//! 4. `container/exec.rs` and `launch/exec_init.rs`: the same for exec.
//! 5. The features, one file each, with a plan (pure) and an apply (the kernel's work).
//! 6. The crate masu-host: the kernel and the host below all of it, with all of the unsafe code.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod cgroup;
pub mod check;
pub mod container;
pub mod dry_run;
pub mod features;
pub mod findings;
pub mod namespaces;
pub mod seccomp;
pub mod spec;

#[doc(inline)]
pub use masu_host::error;

pub use cgroup::Stats;
pub use container::{Container, CreateOptions, ExecOptions, Exit, Process, Runtime, Status, Stdio};
pub use error::{Error, Kind, Result};
pub use spec::Spec;

mod extensions;
mod hooks;
mod intel_rdt;
mod launch;
mod outline;
mod plan;
mod process;
mod rootfs;

/// Whether the kernel is played by an emulator that lacks openat2 and seccomp: such a test is skipped, in words that the
/// test command counts.
#[cfg(test)]
pub(crate) fn is_emulated(test: &str) -> bool {
    let emulated = !masu_host::beneath::has_openat2();
    if emulated {
        println!("skip {test}: no openat2 in this emulator of system calls");
    }
    emulated
}
