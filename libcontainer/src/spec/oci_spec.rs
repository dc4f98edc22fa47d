//! Conversions from and to the types of the crate oci-spec, for programs that use it (feature `oci-spec`). They go through JSON,
//! because both crates follow the same specification.

use oci_spec::runtime::Spec as Theirs;
use serde_json::{Map, Value, json};

use super::Spec;
use crate::error::{Error, Result};

impl TryFrom<&Theirs> for Spec {
    type Error = Error;

    /// # Errors
    /// A value that has no place in the types of this library.
    fn try_from(theirs: &Theirs) -> Result<Spec> {
        Spec::from_slice(&serde_json::to_vec(theirs).map_err(|e| Error::invalid(e.to_string()))?)
    }
}

impl TryFrom<&Spec> for Theirs {
    type Error = Error;

    /// # Errors
    /// A value that has no place in the types of oci-spec, for example an unknown action or namespace type. In this library these
    /// are text until the plan is made.
    fn try_from(ours: &Spec) -> Result<Theirs> {
        let mut value = serde_json::to_value(ours).map_err(|e| Error::invalid(e.to_string()))?;
        write_required(&mut value);
        serde_json::from_value(value).map_err(|e| Error::invalid(format!("no place in the types of oci-spec: {e}")))
    }
}

/// Adds properties that oci-spec requires also when they are zero or empty. [`Spec`] writes no key for those.
fn write_required(spec: &mut Value) {
    if let Some(process) = spec.get_mut("process").and_then(Value::as_object_mut) {
        absent_is(process, "user", json!({}));
        absent_is(process, "cwd", json!(""));
    }
    let rules = spec.pointer_mut("/linux/seccomp/syscalls").and_then(Value::as_array_mut);
    for rule in rules.into_iter().flatten().filter_map(Value::as_object_mut) {
        absent_is(rule, "names", json!([]));
        let args = rule.get_mut("args").and_then(Value::as_array_mut);
        for arg in args.into_iter().flatten().filter_map(Value::as_object_mut) {
            absent_is(arg, "index", json!(0));
            absent_is(arg, "value", json!(0));
        }
    }
}

fn absent_is(object: &mut Map<String, Value>, key: &str, value: Value) {
    object.entry(key).or_insert(value);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks that no value is lost in either direction.
    fn both_ways(text: &[u8]) {
        let ours = Spec::from_slice(text).unwrap();
        let theirs = Theirs::try_from(&ours).unwrap();
        let read: Theirs = serde_json::from_slice(text).unwrap();
        for theirs in [theirs, read] {
            let back = Spec::try_from(&theirs).unwrap();
            assert!(in_order(back.clone()) == in_order(ours.clone()), "{}", String::from_utf8_lossy(text));
        }
    }

    /// Sorts the capabilities, because oci-spec has them as sets.
    fn in_order(mut spec: Spec) -> Spec {
        if let Some(sets) = spec.process.as_mut().and_then(|process| process.capabilities.as_mut()) {
            for set in [&mut sets.bounding, &mut sets.effective, &mut sets.inheritable, &mut sets.permitted, &mut sets.ambient] {
                set.sort();
            }
        }
        spec
    }

    #[test]
    fn bundles_go_both_ways() {
        let bundles = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../bundles");
        let mut tried = 0;
        for bundle in std::fs::read_dir(bundles).unwrap() {
            let Ok(text) = std::fs::read(bundle.unwrap().path().join("config.json")) else { continue };
            both_ways(&text);
            tried += 1;
        }
        assert!(tried > 3, "{tried}");
    }

    #[test]
    fn zeros_and_what_is_rare_go_both_ways() {
        let config = json!({
            "ociVersion": "1.3.0",
            "root": {"path": "rootfs"},
            "process": {"user": {"uid": 0, "gid": 0}, "cwd": "/", "args": ["sh"], "rlimits": [{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]},
            "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
            "annotations": {"a": ""},
            "linux": {
                "namespaces": [{"type": "pid"}, {"type": "time"}],
                "uidMappings": [{"containerID": 0, "hostID": 100_000, "size": 65_536}],
                "timeOffsets": {"monotonic": {"secs": -3, "nanosecs": 0}},
                "devices": [{"path": "/dev/x", "type": "c", "major": 0, "minor": 0, "fileMode": 0}],
                "personality": {"domain": "LINUX32"},
                "seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{
                    "names": ["personality"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1,
                    "args": [{"index": 0, "value": 0, "op": "SCMP_CMP_EQ"}]
                }]},
                "resources": {"pids": {"limit": 0}, "memory": {"limit": -1}, "devices": [{"allow": false, "access": "rwm"}]}
            }
        });
        both_ways(&serde_json::to_vec(&config).unwrap());
    }

    #[test]
    fn what_they_have_no_place_for_is_named() {
        let ours = Spec::from_slice(br#"{"linux": {"namespaces": [{"type": "galaxy"}]}}"#).unwrap();
        let error = Theirs::try_from(&ours).unwrap_err().to_string();
        assert!(error.contains("oci-spec") && error.contains("galaxy"), "{error}");
    }
}
