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
pub(crate) mod exec_init;
mod finish;
pub(crate) mod gate;
pub(crate) mod init;
pub(crate) mod notify;
pub(crate) mod serve;
pub(crate) mod spawn;
mod stage;
