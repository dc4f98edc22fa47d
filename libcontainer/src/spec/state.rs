//! The state of a container as programs outside see it (runtime.md, "State").

use std::collections::BTreeMap;

/// What `state` prints and hooks and seccomp agents are given.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct State {
    /// The version of the specification that it follows.
    pub oci_version: String,
    /// The container's id.
    pub id: String,
    /// 0 when the container is stopped.
    pub pid: i32,
    /// `creating`, `created`, `running`, `paused` or `stopped`.
    pub status: String,
    /// The bundle's directory, absolute.
    pub bundle: String,
    /// Those of the config.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}
