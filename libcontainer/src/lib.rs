//! libcontainer: create, start, exec, kill and delete OCI containers.
pub mod cgroup;
pub mod error;
pub mod seccomp;
pub mod spec;
pub mod sys;
