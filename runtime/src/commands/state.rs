//! `state`: one container as JSON, in runc's form (runtime.md, "State", and what callers read beyond it).

use std::collections::BTreeMap;

use anyhow::Result;
use libcontainer::container::{Record, Status};
use libcontainer::error::{Error, Kind};
use libcontainer::spec;
use serde::Serialize;

use crate::call::Call;

pub(super) fn run(call: &Call<'_>) -> Result<u8> {
    let container = call.container()?;
    // runc ends it without a newline
    let text = serde_json::to_string_pretty(&State::of(container.record().clone(), container.status()?, String::new()))?;
    match container.annotations_file()? {
        None => super::print(text.as_bytes())?,
        // they come last but for the owner, and are on disk as they are printed: there may be a megabyte of them
        Some(annotations) => {
            let head = text.strip_suffix(OWNER).ok_or_else(|| Error::new(Kind::Internal, "the state does not end with its owner"))?;
            super::print(format!("{head},\n  \"annotations\": ").as_bytes())?;
            super::print_file(&annotations)?;
            super::print(OWNER.as_bytes())?;
        }
    }
    Ok(0)
}

/// How a state without an owner ends.
const OWNER: &str = ",\n  \"owner\": \"\"\n}";

/// The keys of runc, in its order; CRI-O reads all of them into a type of its own.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct State {
    oci_version: &'static str,
    pub(super) id: String,
    /// 0 when the container is stopped.
    pub(super) pid: i32,
    pub(super) status: String,
    pub(super) bundle: String,
    rootfs: String,
    pub(super) created: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) annotations: BTreeMap<String, String>,
    /// A user name or `#uid` in lists, else empty.
    pub(super) owner: String,
}

impl State {
    /// All of it but the annotations.
    pub(super) fn of(record: Record, status: Status, owner: String) -> State {
        State {
            oci_version: spec::VERSION,
            id: record.id,
            pid: if matches!(status, Status::Stopped) { 0 } else { record.pid },
            status: status.to_string(),
            bundle: record.bundle,
            rootfs: record.rootfs,
            created: record.created,
            annotations: BTreeMap::new(),
            owner,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl State {
        pub(in crate::commands) fn for_test(id: &str) -> State {
            State {
                oci_version: "1.3.0",
                id: id.into(),
                pid: 7,
                status: "running".into(),
                bundle: "/b".into(),
                rootfs: "/b/rootfs".into(),
                created: "2026-11-24T04:46:55.123456789Z".into(),
                annotations: BTreeMap::new(),
                owner: String::new(),
            }
        }
    }

    #[test]
    fn the_layout_is_that_of_runc() {
        let mut state = State::for_test("web");
        state.annotations = BTreeMap::from([("a/b".to_string(), "c".to_string())]);
        let text = "{\n  \"ociVersion\": \"1.3.0\",\n  \"id\": \"web\",\n  \"pid\": 7,\n  \"status\": \"running\",\n  \"bundle\": \"/b\",\n  \
                    \"rootfs\": \"/b/rootfs\",\n  \"created\": \"2026-11-24T04:46:55.123456789Z\",\n  \"annotations\": {\n    \"a/b\": \"c\"\n  },\n  \
                    \"owner\": \"\"\n}";
        assert_eq!(serde_json::to_string_pretty(&state).unwrap(), text);
        state.annotations.clear();
        assert!(serde_json::to_string_pretty(&state).unwrap().ends_with(OWNER));
    }
}
