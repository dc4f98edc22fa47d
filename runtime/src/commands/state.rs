//! `state`: prints one container as JSON, in runc's form (runtime.md, "State", and runc's further keys that callers read).

use std::collections::BTreeMap;

use anyhow::Result;
use libcontainer::container::{Record, Status};
use libcontainer::error::{Error, Kind};
use libcontainer::spec;
use serde::Serialize;

use crate::call::Call;

pub(super) fn run(call: &Call<'_>) -> Result<u8> {
    let container = call.container()?;
    // runc prints no newline at the end
    let text = serde_json::to_string_pretty(&State::of(container.record().clone(), container.status()?, String::new()))?;
    match container.annotations_file()? {
        None => super::print(text.as_bytes())?,
        // annotations are stored as they are printed and can take a megabyte, so they are copied; only the owner follows them
        Some(annotations) => {
            let head = text.strip_suffix(OWNER).ok_or_else(|| Error::new(Kind::Internal, "the state does not end with its owner"))?;
            super::print(format!("{head},\n  \"annotations\": ").as_bytes())?;
            super::print_file(&annotations)?;
            super::print(OWNER.as_bytes())?;
        }
    }
    Ok(0)
}

/// The end of a state with an empty owner.
const OWNER: &str = ",\n  \"owner\": \"\"\n}";

/// runc's keys in runc's order. CRI-O decodes all of them.
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
    /// In lists a user name or `#uid`, else empty.
    pub(super) owner: String,
}

impl State {
    /// Everything except the annotations.
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
