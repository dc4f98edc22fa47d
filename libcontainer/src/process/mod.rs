//! The properties that a process gets between clone and execve: one file for each, named as in config.md, "Process".

pub(crate) mod capabilities;
pub(crate) mod cpu_affinity;
mod environment;
pub(crate) mod io_priority;
pub(crate) mod keyring;
pub(crate) mod lsm;
pub(crate) mod memory_policy;
pub(crate) mod personality;
mod plan;
pub(crate) mod rlimits;
pub(crate) mod scheduler;
mod stdio;
pub(crate) mod terminal;
pub(crate) mod user;

pub(crate) use plan::{ProcessPlan, Terminal};
pub use stdio::Stdio;
