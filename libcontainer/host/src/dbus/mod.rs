//! D-Bus, as far as masu needs it to talk to systemd: addresses, messages, values and one connection.

mod address;
mod bus;
mod message;
mod value;

pub use address::Owner;
pub use bus::{Bus, Failure, PATIENCE};
pub use message::Message;
pub use value::{Value, garbage, split_first};
