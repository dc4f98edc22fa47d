//! What happens between clone and execve.
//!
//! | process   | is                                | runs              | becomes            |
//! |-----------|-----------------------------------|-------------------|--------------------|
//! | runtime   | the command, or whoever links us  | `container/*.rs`  |                    |
//! | init      | the container's first process     | `init.rs`         | the user's program |
//! | exec init | a process added to a container    | `exec_init.rs`    | the user's program |
//! | stage     | only where a user namespace is    | `stage.rs`        |                    |
//! |           | joined, or others are beside one  |                   |                    |
//!
//! Else there is no intermediate process: clone3 makes the namespaces directly, and the plan is handed over by the fork.
//! A child leaves by execve or `_exit`, never by return.

pub(crate) mod channel;
mod environment;
pub(crate) mod exec_init;
pub(crate) mod finish;
pub(crate) mod gate;
mod id_maps;
pub(crate) mod init;
mod plan;
pub(crate) mod spawn;
mod stage;
mod stdio;
pub(crate) mod user_namespace;

pub use environment::Environment;
pub use id_maps::{IdMap, IdMaps};
pub use plan::{ProcessPlan, Terminal};
pub use stdio::Stdio;
pub use user_namespace::UserNamespace;
