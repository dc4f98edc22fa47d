//! `linux.resources` of config.json (config-linux.md, "Control groups"). It is also the input of `update`.

use std::collections::BTreeMap;

use super::json::object;

object! {
    /// The limits and device rules of the container's cgroup.
    Resources {
        "devices" => devices: Vec<DeviceRule>,
        "memory" => memory: Memory,
        "cpu" => cpu: Cpu,
        "pids" => pids: Pids,
        "blockIO" => block_io: BlockIo,
        "hugepageLimits" => hugepage_limits: Vec<HugepageLimit>,
        "network" => network: Network,
        "rdma" => rdma: BTreeMap<String, Rdma>,
        "unified" => unified: BTreeMap<String, String>,
    }

    /// A rule of the device list. Without `major` or `minor` it applies to all numbers.
    DeviceRule {
        "allow" => allow: bool,
        "type" => kind: String,
        "major" => major: Option<i64>,
        "minor" => minor: Option<i64>,
        "access" => access: String,
    }

    /// Memory limits, in bytes; -1 is no limit. `swap` is the limit of memory and swap together.
    Memory {
        "limit" => limit: Option<i64>,
        "reservation" => reservation: Option<i64>,
        "swap" => swap: Option<i64>,
        "kernel" => kernel: Option<i64>,
        "kernelTCP" => kernel_tcp: Option<i64>,
        "swappiness" => swappiness: Option<u64>,
        "disableOOMKiller" => disable_oom_killer: Option<bool>,
        "useHierarchy" => use_hierarchy: Option<bool>,
        "checkBeforeUpdate" => check_before_update: Option<bool>,
    }

    /// CPU limits; times are in microseconds.
    Cpu {
        "shares" => shares: Option<u64>,
        "quota" => quota: Option<i64>,
        "burst" => burst: Option<u64>,
        "period" => period: Option<u64>,
        "realtimeRuntime" => realtime_runtime: Option<i64>,
        "realtimePeriod" => realtime_period: Option<u64>,
        "cpus" => cpus: String,
        "mems" => mems: String,
        "idle" => idle: Option<i64>,
    }

    /// The maximum number of tasks; -1 is no limit.
    Pids {
        "limit" => limit: Option<i64>,
    }

    /// Weights and limits of block devices.
    BlockIo {
        "weight" => weight: Option<u16>,
        "leafWeight" => leaf_weight: Option<u16>,
        "weightDevice" => weight_device: Vec<WeightDevice>,
        "throttleReadBpsDevice" => throttle_read_bps_device: Vec<ThrottleDevice>,
        "throttleWriteBpsDevice" => throttle_write_bps_device: Vec<ThrottleDevice>,
        "throttleReadIOPSDevice" => throttle_read_iops_device: Vec<ThrottleDevice>,
        "throttleWriteIOPSDevice" => throttle_write_iops_device: Vec<ThrottleDevice>,
    }

    /// The weight of a device, 10 to 1000.
    WeightDevice {
        "major" => major: i64,
        "minor" => minor: i64,
        "weight" => weight: Option<u16>,
        "leafWeight" => leaf_weight: Option<u16>,
    }

    /// The maximum rate of a device, in bytes or operations per second.
    ThrottleDevice {
        "major" => major: i64,
        "minor" => minor: i64,
        "rate" => rate: u64,
    }

    /// The limit of huge pages of one size (`2MB`), in bytes.
    HugepageLimit {
        "pageSize" => page_size: String,
        "limit" => limit: u64,
    }

    /// Properties of net_cls and net_prio (cgroup v1 only).
    Network {
        "classID" => class_id: Option<u32>,
        "priorities" => priorities: Vec<InterfacePriority>,
    }

    /// The priority of traffic on one interface.
    InterfacePriority {
        "name" => name: String,
        "priority" => priority: u32,
    }

    /// The limits of RDMA handles and objects of one device.
    Rdma {
        "hcaHandles" => hca_handles: Option<u32>,
        "hcaObjects" => hca_objects: Option<u32>,
    }
}
