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
//! Nothing here makes a thread, and what clones must have one: see `sys/clone.rs`.

pub mod capabilities;
pub mod cgroup;
pub mod check;
pub mod container;
pub mod cpu_affinity;
pub mod dry_run;
pub mod error;
pub mod extensions;
pub mod features;
pub mod findings;
pub mod hooks;
pub mod intel_rdt;
pub mod io_priority;
mod keyring;
pub mod lsm;
pub mod mask;
pub mod memory_policy;
pub mod namespaces;
pub mod net_devices;
mod netlink;
mod notify;
pub mod personality;
mod pidfd;
pub mod plan;
pub mod process;
pub mod procfs;
pub mod rfc3339;
pub mod rlimits;
pub mod rootfs;
pub mod scheduler;
pub mod sealed_exe;
pub mod seccomp;
pub mod spec;
pub mod sys;
pub mod sysctl;
mod terminal;
pub mod time_offsets;
pub mod user;
