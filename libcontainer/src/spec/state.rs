//! The state of a container for other programs (runtime.md, "State").

use std::collections::BTreeMap;

/// The state that `state` prints and that hooks and seccomp agents receive.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct State {
    /// The version of the runtime spec.
    pub oci_version: String,
    /// The container's id.
    pub id: String,
    /// The pid of init, or 0 if the container is stopped.
    pub pid: i32,
    /// `creating`, `created`, `running`, `paused` or `stopped`.
    pub status: String,
    /// The absolute path of the bundle.
    pub bundle: String,
    /// The annotations of the config.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}
