//! What the library supports, for `features` (spec: features.md, features-linux.md). It describes the binary, not the host,
//! and lists nothing that the library refuses.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::process::{capabilities, memory_policy};
use crate::{namespaces, rootfs, seccomp, spec};

/// The whole document. In this format an absent field means "unknown", so all lists and switches are present.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Features {
    /// The oldest version of config.json that is read.
    pub oci_version_min: &'static str,
    /// The newest version.
    pub oci_version_max: &'static str,
    /// The kinds of hooks.
    pub hooks: &'static [&'static str],
    /// The mount options that are not data for a file system.
    pub mount_options: Vec<&'static str>,
    /// The features of Linux.
    pub linux: Linux,
    /// Facts about the program itself.
    pub annotations: BTreeMap<&'static str, String>,
    /// Annotations of a config.json that change the behaviour of the runtime. A name that ends in a dot stands for all names
    /// that begin so.
    pub potentially_unsafe_config_annotations: &'static [&'static str],
}

/// The features of Linux.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Linux {
    /// The kinds of namespaces.
    pub namespaces: Vec<&'static str>,
    /// The names of capabilities.
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
    /// Extensions of mounts.
    pub mount_extensions: MountExtensions,
    /// Moving network devices.
    pub net_devices: Switch,
}

/// The versions of cgroups and the programs that can make them.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Cgroup {
    /// cgroup v1.
    pub v1: bool,
    /// cgroup v2.
    pub v2: bool,
    /// cgroups made by the system instance of systemd.
    pub systemd: bool,
    /// cgroups made by a user instance of systemd.
    pub systemd_user: bool,
    /// Limits for RDMA.
    pub rdma: bool,
}

/// The known names of `linux.seccomp`.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Seccomp {
    /// Whether it is supported.
    pub enabled: bool,
    /// The names of actions.
    pub actions: &'static [&'static str],
    /// The names of comparisons.
    pub operators: &'static [&'static str],
    /// The names of architectures.
    pub archs: &'static [&'static str],
    /// The flags that this build knows.
    pub known_flags: Vec<&'static str>,
    /// The flags that the running kernel knows, too.
    pub supported_flags: Vec<&'static str>,
}

/// `intelRdt`.
#[derive(Debug, Clone, Copy, Serialize)]
#[non_exhaustive]
pub struct IntelRdt {
    /// Whether it is supported.
    pub enabled: bool,
    /// `schemata`, besides `l3CacheSchema` and `memBwSchema`.
    pub schemata: bool,
    /// `enableMonitoring`.
    pub monitoring: bool,
}

/// The known names of `linux.memoryPolicy`.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct MemoryPolicy {
    /// The names of modes.
    pub modes: &'static [&'static str],
    /// The names of flags.
    pub flags: &'static [&'static str],
}

/// `mountExtensions`.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct MountExtensions {
    /// Id-mapped mounts.
    pub idmap: Switch,
}

/// A feature without further details: `{"enabled": true}`.
#[derive(Debug, Clone, Copy, Serialize)]
#[non_exhaustive]
pub struct Switch {
    /// Whether it is supported.
    pub enabled: bool,
}

impl Features {
    /// The features of this library, in a program with this version and commit.
    pub fn of_this_library(version: &str, commit: &str) -> Features {
        Features {
            oci_version_min: "1.0.0",
            oci_version_max: spec::VERSION,
            hooks: &["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
            mount_options: rootfs::options::supported().collect(),
            linux: Linux {
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
                // containerd and CRI-O look for this key
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
