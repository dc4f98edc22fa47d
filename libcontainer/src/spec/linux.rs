//! `linux` of config.json (config-linux.md), except resources and seccomp.

use std::collections::BTreeMap;

use super::json::object;
use super::{Resources, Seccomp};

object! {
    /// The properties of Linux containers.
    Linux {
        "uidMappings" => uid_mappings: Vec<IdMapping>,
        "gidMappings" => gid_mappings: Vec<IdMapping>,
        "sysctl" => sysctl: BTreeMap<String, String>,
        "resources" => resources: Option<Resources>,
        "cgroupsPath" => cgroups_path: String,
        "namespaces" => namespaces: Vec<Namespace>,
        "devices" => devices: Vec<Device>,
        "netDevices" => net_devices: BTreeMap<String, NetDevice>,
        "seccomp" => seccomp: Option<Seccomp>,
        "rootfsPropagation" => rootfs_propagation: String,
        "maskedPaths" => masked_paths: Vec<String>,
        "readonlyPaths" => readonly_paths: Vec<String>,
        "mountLabel" => mount_label: String,
        "intelRdt" => intel_rdt: Option<IntelRdt>,
        "memoryPolicy" => memory_policy: Option<MemoryPolicy>,
        "personality" => personality: Option<Personality>,
        "timeOffsets" => time_offsets: BTreeMap<String, TimeOffset>,
    }

    /// A range of ids.
    IdMapping {
        "containerID" => container_id: u32,
        "hostID" => host_id: u32,
        "size" => size: u32,
    }

    /// A namespace to make, or to join if it has a path.
    Namespace {
        "type" => kind: String,
        "path" => path: String,
    }

    /// A device node to make.
    Device {
        "path" => path: String,
        "type" => kind: String,
        "major" => major: Option<i64>,
        "minor" => minor: Option<i64>,
        "fileMode" => file_mode: Option<u32>,
        "uid" => uid: Option<u32>,
        "gid" => gid: Option<u32>,
    }

    /// A network device to move into the container.
    NetDevice {
        "name" => name: String,
    }

    /// Intel RDT, through resctrl.
    IntelRdt {
        "closID" => clos_id: String,
        "schemata" => schemata: Vec<String>,
        "l3CacheSchema" => l3_cache_schema: String,
        "memBwSchema" => mem_bw_schema: String,
        "enableMonitoring" => enable_monitoring: bool,
    }

    /// The arguments of set_mempolicy(2), by name.
    MemoryPolicy {
        "mode" => mode: String,
        "nodes" => nodes: String,
        "flags" => flags: Vec<String>,
    }

    /// The arguments of personality(2), by name.
    Personality {
        "domain" => domain: String,
        "flags" => flags: Vec<String>,
    }

    /// The offset of a clock in a time namespace, in seconds and nanoseconds.
    TimeOffset {
        "secs" => secs: i64,
        "nanosecs" => nanosecs: u32,
    }
}
