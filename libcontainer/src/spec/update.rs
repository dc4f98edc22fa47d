//! Properties of a document for `update` in addition to [`Resources`](super::Resources). They are an extension of masu.

use super::json::object;
use super::{Device, Mount};

object! {
    /// Changes of a container that exists.
    LiveChanges {
        // the same list as the device rules: an entry with a path also is a node
        "devices" => devices: Vec<Device>,
        "mounts" => mounts: MountChanges,
    }

    /// Mounts to remove, and then mounts to add. An entry to remove needs only its destination.
    MountChanges {
        "add" => add: Vec<Mount>,
        "remove" => remove: Vec<Mount>,
    }
}
