//! Filters of system calls.
