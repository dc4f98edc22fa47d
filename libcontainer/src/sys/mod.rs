//! The system calls that rustix does not have, one file each: thin, named, errno in, errno out.
//!
//! These are the only files that may contain `unsafe`. Every block names the contract of the call and why it holds.
#![expect(unsafe_code, reason = "the raw system calls live here and nowhere else")]

pub mod bpf;
pub mod seccomp;
