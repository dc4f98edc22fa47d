//! What the shim reads in a container's bundle, and keeps there for those that come after it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use libcontainer::error::{Doing, Error, Result};
use serde::Deserialize;

use crate::rpc::messages::Options;

/// Init's pid.
pub(crate) const PID_FILE: &str = "init.pid";
/// The socket of the bundle's shim.
pub(crate) const ADDRESS: &str = "address";
/// Where Create keeps the options that are not the default.
const OPTIONS: &str = "options.json";
/// Annotations that name a group; the first that is there counts.
const GROUPS: [&str; 2] = ["io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id"];

/// The group that the annotations of a bundle's config name.
pub(crate) fn group(bundle: &Path) -> Result<Option<String>> {
    let path = bundle.join("config.json");
    let bytes = match fs::read(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        result => result.doing(|| format!("read {}", path.display()))?,
    };
    group_in_config(&bytes).map_err(|e| e.context(path.display()))
}

/// The same by what the file holds; a sandbox has none, which is the same as an empty one.
pub(crate) fn group_in_config(bytes: &[u8]) -> Result<Option<String>> {
    #[derive(Deserialize, Default)]
    #[serde(default)]
    struct Config {
        annotations: Option<BTreeMap<String, String>>,
    }
    if bytes.is_empty() {
        return Ok(None);
    }
    let config: Config = serde_json::from_slice(bytes).map_err(|e| Error::invalid(e.to_string()))?;
    Ok(config.annotations.as_ref().and_then(group_in).cloned())
}

/// The same by what the annotations are.
pub(crate) fn group_in(annotations: &BTreeMap<String, String>) -> Option<&String> {
    GROUPS.iter().find_map(|name| annotations.get(*name))
}

/// Init's pid; 0 if nothing was created.
pub(crate) fn pid(bundle: &Path) -> i32 {
    fs::read_to_string(bundle.join(PID_FILE)).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

/// The socket of the group's shim, which goes with the container that the group is named after.
pub(crate) fn socket(bundle: &Path) -> Option<PathBuf> {
    let address = fs::read_to_string(bundle.join(ADDRESS)).ok()?;
    address.trim().strip_prefix("unix://").map(PathBuf::from)
}

/// Written before anything is made, for the action `delete`.
pub(crate) fn write_options(bundle: &Path, options: &Options) -> Result<()> {
    if options.binary_name.is_empty() && options.root.is_empty() {
        return Ok(());
    }
    let path = bundle.join(OPTIONS);
    let doing = || format!("write {}", path.display());
    let text = serde_json::json!({
        "binary_name": options.binary_name, "root": options.root, "systemd_cgroup": options.systemd_cgroup,
        "io_uid": options.io_uid, "io_gid": options.io_gid,
    })
    .to_string();
    let flags = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::CREATE | rustix::fs::OFlags::TRUNC | rustix::fs::OFlags::CLOEXEC;
    let fd = rustix::fs::open(&path, flags, rustix::fs::Mode::from_raw_mode(0o600)).doing(doing)?;
    std::io::Write::write_all(&mut std::fs::File::from(fd), text.as_bytes()).doing(doing)
}

pub(crate) fn read_options(bundle: &Path) -> Result<Options> {
    let path = bundle.join(OPTIONS);
    let text = match std::fs::read(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Options::default()),
        result => result.doing(|| format!("read {}", path.display()))?,
    };
    let value: serde_json::Value = serde_json::from_slice(&text).map_err(|e| Error::invalid(format!("{}: {e}", path.display())))?;
    let get = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
    Ok(Options {
        binary_name: get("binary_name"),
        root: get("root"),
        systemd_cgroup: value["systemd_cgroup"].as_bool().unwrap_or(false),
        ..Options::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_named_by_annotations() {
        let dir = tempfile::tempdir().unwrap();
        let with = |text: &str| {
            fs::write(dir.path().join("config.json"), text).unwrap();
            group(dir.path())
        };
        assert_eq!(with("{}").unwrap(), None);
        assert_eq!(with(r#"{"annotations":null}"#).unwrap(), None);
        assert_eq!(with(r#"{"annotations":{"io.kubernetes.cri.sandbox-id":"pod"}}"#).unwrap().as_deref(), Some("pod"));
        assert_eq!(
            with(r#"{"annotations":{"io.kubernetes.cri.sandbox-id":"pod","io.containerd.runc.v2.group":"g"}}"#).unwrap().as_deref(),
            Some("g")
        );
        with("{").unwrap_err();
        assert_eq!(with("").unwrap(), None);
        fs::remove_file(dir.path().join("config.json")).unwrap();
        assert_eq!(group(dir.path()).unwrap(), None);
    }

    #[test]
    fn options_are_found_again() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read_options(dir.path()).unwrap(), Options::default());
        write_options(dir.path(), &Options::default()).unwrap();
        assert!(!dir.path().join(OPTIONS).exists());
        let options = Options { binary_name: "crun".into(), root: "/r".into(), systemd_cgroup: true, ..Options::default() };
        write_options(dir.path(), &options).unwrap();
        assert_eq!(read_options(dir.path()).unwrap(), options);
        std::fs::write(dir.path().join(OPTIONS), "{").unwrap();
        read_options(dir.path()).unwrap_err();
    }
}
