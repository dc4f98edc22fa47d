//! What a document for `update` may hold besides [`Resources`](super::Resources); an extension.

use super::json::object;
use super::{Device, Mount};

object! {
    /// Changes of a container that exists.
    LiveChanges {
        // the same list as the device rules, read once more: an entry with a path is a node too
        "devices" => devices: Vec<Device>,
        "mounts" => mounts: MountChanges,
    }

    /// Mounts to take away, and then mounts to make. To take one away its destination is enough.
    MountChanges {
        "add" => add: Vec<Mount>,
        "remove" => remove: Vec<Mount>,
    }
}
