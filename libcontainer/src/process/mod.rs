//! What a process is given between clone and execve, one file a feature, named as in the specification (config.md, "Process").

pub mod capabilities;
pub mod cpu_affinity;
mod environment;
pub mod io_priority;
pub(crate) mod keyring;
pub mod lsm;
pub mod memory_policy;
pub mod personality;
mod plan;
pub mod rlimits;
pub mod scheduler;
mod stdio;
pub(crate) mod terminal;
pub mod user;

pub use environment::Environment;
pub use plan::{ProcessPlan, Terminal};
pub use stdio::Stdio;
