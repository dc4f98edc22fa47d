//! `state`: one container as JSON, in runc's form (runtime.md, "State", and what callers read beyond it).

use std::collections::BTreeMap;

use anyhow::Result;
use libcontainer::container::{Container, Status};
use libcontainer::{error, spec};
use serde::Serialize;

use crate::call::Call;

pub(super) fn run(call: &Call<'_>) -> Result<u8> {
    let container = call.container()?;
    // runc ends it without a newline
    super::print(&serde_json::to_vec_pretty(&State::of(&container, String::new())?)?)?;
    Ok(0)
}

/// The keys of runc, in its order; CRI-O reads all of them into a type of its own.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct State<'a> {
    oci_version: &'static str,
    pub(super) id: &'a str,
    /// 0 when the container is stopped.
    pub(super) pid: i32,
    pub(super) status: String,
    pub(super) bundle: &'a str,
    rootfs: &'a str,
    pub(super) created: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: &'a BTreeMap<String, String>,
    /// A user name or `#uid` in lists, else empty.
    pub(super) owner: String,
}

impl State<'_> {
    pub(super) fn of(container: &Container, owner: String) -> error::Result<State<'_>> {
        let status = container.status()?;
        let record = container.record();
        Ok(State {
            oci_version: spec::VERSION,
            id: &record.id,
            pid: if matches!(status, Status::Stopped) { 0 } else { record.pid },
            status: status.to_string(),
            bundle: &record.bundle,
            rootfs: &record.rootfs,
            created: &record.created,
            annotations: &record.annotations,
            owner,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl<'a> State<'a> {
        pub(in crate::commands) fn for_test(id: &'a str, annotations: &'a BTreeMap<String, String>) -> State<'a> {
            State {
                oci_version: "1.3.0",
                id,
                pid: 7,
                status: "running".into(),
                bundle: "/b",
                rootfs: "/b/rootfs",
                created: "2026-11-24T04:46:55.123456789Z",
                annotations,
                owner: String::new(),
            }
        }
    }

    #[test]
    fn the_layout_is_that_of_runc() {
        let annotations = BTreeMap::from([("a/b".to_string(), "c".to_string())]);
        let mut state = State::for_test("web", &annotations);
        let text = "{\n  \"ociVersion\": \"1.3.0\",\n  \"id\": \"web\",\n  \"pid\": 7,\n  \"status\": \"running\",\n  \"bundle\": \"/b\",\n  \
                    \"rootfs\": \"/b/rootfs\",\n  \"created\": \"2026-11-24T04:46:55.123456789Z\",\n  \"annotations\": {\n    \"a/b\": \"c\"\n  },\n  \
                    \"owner\": \"\"\n}";
        assert_eq!(serde_json::to_string_pretty(&state).unwrap(), text);
        let none = BTreeMap::new();
        state.annotations = &none;
        assert!(!serde_json::to_string(&state).unwrap().contains("annotations"));
    }
}
