//! The state of a container as programs outside see it (runtime.md, "State").

use std::collections::BTreeMap;

/// What `state` prints and hooks and seccomp agents are given.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct State {
    pub oci_version: String,
    pub id: String,
    /// 0 when the container is stopped.
    pub pid: i32,
    pub status: String,
    pub bundle: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}
