//! What the library supports, for `features` (spec: features.md, features-linux.md). It speaks of the binary, not of
//! the host, and claims nothing that the library would refuse.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::process::{capabilities, memory_policy};
use crate::{namespaces, rootfs, seccomp, spec};

/// The whole document. Absent means "unknown" in this format, so every list and switch is there.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Features {
    /// The oldest version of config.json that is read.
    pub oci_version_min: &'static str,
    /// The newest.
    pub oci_version_max: &'static str,
    /// Kinds of hooks.
    pub hooks: &'static [&'static str],
    /// Those that are no data of a file system.
    pub mount_options: Vec<&'static str>,
    /// What only Linux has.
    pub linux: Linux,
    /// What is said of the program itself.
    pub annotations: BTreeMap<&'static str, String>,
    /// Annotations of a config.json that change what the runtime does; one that ends in a dot stands for all that begin so.
    pub potentially_unsafe_config_annotations: &'static [&'static str],
}

/// What only Linux has.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Linux {
    /// Kinds of namespaces.
    pub namespaces: Vec<&'static str>,
    /// Names of capabilities.
    pub capabilities: &'static [&'static str],
    /// Control groups.
    pub cgroup: Cgroup,
    /// Filters of system calls.
    pub seccomp: Seccomp,
    /// AppArmor.
    pub apparmor: Switch,
    /// SELinux.
    pub selinux: Switch,
    /// Intel RDT.
    pub intel_rdt: IntelRdt,
    /// Memory policies.
    pub memory_policy: MemoryPolicy,
    /// Beyond the options of mounts.
    pub mount_extensions: MountExtensions,
    /// Moving network devices.
    pub net_devices: Switch,
}

/// The kinds of cgroups and who may make them.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Cgroup {
    /// cgroup v1.
    pub v1: bool,
    /// cgroup v2.
    pub v2: bool,
    /// Made by systemd.
    pub systemd: bool,
    /// Made by a user's systemd.
    pub systemd_user: bool,
    /// Limits of RDMA.
    pub rdma: bool,
}

/// The words of `linux.seccomp`.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Seccomp {
    /// Whether there is any of it.
    pub enabled: bool,
    /// Names of actions.
    pub actions: &'static [&'static str],
    /// Names of comparisons.
    pub operators: &'static [&'static str],
    /// Names of architectures.
    pub archs: &'static [&'static str],
    /// Flags that this build knows.
    pub known_flags: Vec<&'static str>,
    /// The one list that depends on the kernel.
    pub supported_flags: Vec<&'static str>,
}

/// `intelRdt`.
#[derive(Debug, Clone, Copy, Serialize)]
#[non_exhaustive]
pub struct IntelRdt {
    /// Whether there is any of it.
    pub enabled: bool,
    /// `schemata` besides the older two.
    pub schemata: bool,
    /// `enableMonitoring`.
    pub monitoring: bool,
}

/// The words of `linux.memoryPolicy`.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct MemoryPolicy {
    /// Names of modes.
    pub modes: &'static [&'static str],
    /// Names of flags.
    pub flags: &'static [&'static str],
}

/// `mountExtensions`.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct MountExtensions {
    /// Id-mapped mounts.
    pub idmap: Switch,
}

/// `{"enabled": …}`.
#[derive(Debug, Clone, Copy, Serialize)]
#[non_exhaustive]
pub struct Switch {
    /// Whether there is any of it.
    pub enabled: bool,
}

impl Features {
    /// Of this library, in a program of that version and commit.
    pub fn of_this_library(version: &str, commit: &str) -> Features {
        Features {
            oci_version_min: "1.0.0",
            oci_version_max: spec::VERSION,
            hooks: &["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
            mount_options: rootfs::options::supported().collect(),
            linux: Linux {
                // the plan refuses these two
                namespaces: namespaces::KINDS.iter().map(|kind| kind.name).collect(),
                capabilities: &capabilities::NAMES,
                cgroup: Cgroup { v1: true, v2: true, systemd: true, systemd_user: false, rdma: true },
                seccomp: Seccomp {
                    enabled: true,
                    actions: seccomp::ACTIONS,
                    operators: seccomp::OPERATORS,
                    archs: seccomp::ARCHITECTURES,
                    known_flags: seccomp::known_flags(),
                    supported_flags: seccomp::supported_flags(),
                },
                apparmor: Switch { enabled: true },
                selinux: Switch { enabled: true },
                intel_rdt: IntelRdt { enabled: true, schemata: true, monitoring: true },
                memory_policy: MemoryPolicy { modes: &memory_policy::MODES, flags: &memory_policy::FLAGS },
                mount_extensions: MountExtensions { idmap: Switch { enabled: true } },
                net_devices: Switch { enabled: true },
            },
            annotations: BTreeMap::from([
                ("io.github.masu-containers.masu.version", version.to_string()),
                ("io.github.masu-containers.masu.commit", commit.to_string()),
                // containerd and CRI-O know no other key for it
                ("org.opencontainers.runc.checkpoint.enabled", "false".to_string()),
            ]),
            potentially_unsafe_config_annotations: &["run.oci."],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document() -> serde_json::Value {
        serde_json::to_value(Features::of_this_library("0.1.0", "abc")).unwrap()
    }

    #[test]
    fn what_cri_o_and_containerd_look_for_is_there() {
        let d = document();
        assert_eq!((&d["ociVersionMin"], &d["ociVersionMax"]), (&"1.0.0".into(), &spec::VERSION.into()));
        assert!(d["mountOptions"].as_array().unwrap().contains(&"rro".into()));
        assert_eq!(d["linux"]["mountExtensions"]["idmap"]["enabled"], true);
        assert_eq!(d["linux"]["cgroup"]["systemdUser"], false);
        assert_eq!(d["linux"]["intelRdt"]["monitoring"], true);
        assert_eq!(d["linux"]["netDevices"]["enabled"], true);
        assert_eq!(d["linux"]["memoryPolicy"]["modes"].as_array().unwrap().len(), 7);
        assert_eq!(d["linux"]["capabilities"].as_array().unwrap().len(), 41);
        assert_eq!(d["potentiallyUnsafeConfigAnnotations"], serde_json::json!(["run.oci."]));
    }

    #[test]
    fn the_keys_are_those_of_the_specification() {
        use oci_spec::runtime::Features as Theirs;
        let theirs: Theirs = serde_json::from_value(document()).unwrap();
        let back = serde_json::to_value(&theirs).unwrap();
        for key in ["ociVersionMin", "ociVersionMax", "hooks", "mountOptions", "annotations", "potentiallyUnsafeConfigAnnotations"] {
            assert_eq!(back[key], document()[key], "{key}");
        }
        for key in ["namespaces", "capabilities", "apparmor", "selinux", "intelRdt", "mountExtensions"] {
            assert_eq!(back["linux"][key], document()["linux"][key], "{key}");
        }
        for key in ["enabled", "actions", "operators", "archs", "knownFlags", "supportedFlags"] {
            assert_eq!(back["linux"]["seccomp"][key], document()["linux"]["seccomp"][key], "{key}");
        }
    }

    #[test]
    fn nothing_is_listed_that_is_refused() {
        let features = Features::of_this_library("0.1.0", "abc");
        for kind in features.linux.namespaces {
            let namespace: spec::Namespace = serde_json::from_value(serde_json::json!({ "type": kind })).unwrap();
            let mut found = crate::findings::Findings::new();
            namespaces::Namespaces::plan(&[namespace], &mut found);
            assert!(!found.is_wrong(), "{found:?}");
        }
        for option in features.mount_options {
            rootfs::options::Options::plan(&[option.to_string()], "/x").unwrap();
        }
    }
}
