//! The standard streams of one process: named, opened, copied.

pub(crate) mod copy;
pub(crate) mod logger;
pub(crate) mod stdio;
