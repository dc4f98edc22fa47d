//! libcontainer: create, start, exec, kill and delete OCI containers.
//!
//! The code in reading order:
//!
//! 1. [`spec`]: config.json as the user wrote it.
//! 2. [`plan`]: what the kernel will be told; every check is made here, before anything exists.
//! 3. `container/create.rs` and `process/init.rs`: the two sides of create, each from top to bottom.
//! 4. `container/exec.rs` and `process/exec_init.rs`: the same for exec.
//! 5. The features, one file each, with a plan (pure) and an apply (the kernel's work).
//! 6. [`sys`]: the system calls that rustix lacks; the only `unsafe`.
//!
//! Nothing here makes a thread, and what clones ([`container::create`], [`container::Container::exec`]) must be called from a
//! process with one: a program with several forks a worker first.
//!
//! # The API
//!
//! It is what this page lists: a container's life in [`container`], configs in [`spec`], failures in [`error`], what is wrong
//! with a bundle in [`mod@check`], the print of a plan in [`dry_run`], what this build can do in [`features`]. Modules that are
//! not listed are for masu and for tests; they change without notice.
//!
//! ```no_run
//! use libcontainer::container::{self, CreateOptions};
//! use std::path::Path;
//!
//! # fn main() -> libcontainer::error::Result<()> {
//! let options = CreateOptions { bundle: "/srv/web".into(), ..CreateOptions::default() };
//! let (mut container, init) = container::create(Path::new("/run/containers"), "web", &options)?;
//! container.start()?;
//! println!("it ended with {}", init.wait()?.code());
//! container.delete(false)
//! # }
//! ```
//!
//! `examples/lifecycle.rs` also executes a second process, with descriptors as standard streams.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod check;
pub mod container;
pub mod dry_run;
pub mod features;
pub mod findings;
pub mod spec;

#[doc(inline)]
pub use masu_host::error;

#[doc(hidden)]
pub mod cgroup;
#[doc(hidden)]
pub mod extensions;
#[doc(hidden)]
pub mod hooks;
#[doc(hidden)]
pub mod intel_rdt;
#[doc(hidden)]
pub mod namespaces;
#[doc(hidden)]
pub mod plan;
#[doc(hidden)]
pub mod process;
#[doc(hidden)]
pub mod rootfs;
#[doc(hidden)]
pub mod seccomp;

mod launch;
mod outline;

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
