//! The root file system that Create asks for.

pub(crate) mod mount;
pub(crate) mod plan;
