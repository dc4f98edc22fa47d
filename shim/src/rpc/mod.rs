//! How containerd speaks: messages in frames over connections.

pub(crate) mod connection;
pub(crate) mod frame;
pub(crate) mod messages;
pub(crate) mod wire;
