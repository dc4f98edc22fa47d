//! The statistics that `events --stats` prints, in the JSON of runc, which BuildKit and others parse.
//!
//! Runs in the runtime. The names of the fields are runc's, and so is the choice of fields that are left out when zero.

mod parse;
mod v1;
mod v2;

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};

pub(super) use parse::to_pressure;

use super::Cgroup;
use crate::error::Result;

/// The statistics of one container. A controller that the host lacks leaves zeros.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Stats {
    /// CPU time.
    pub cpu: Cpu,
    /// The cpuset (v1 only).
    pub cpuset: Cpuset,
    /// Memory, in bytes.
    pub memory: Memory,
    /// Tasks.
    pub pids: Pids,
    /// Block devices.
    pub blkio: Blkio,
    /// Huge pages by size (`2MB`).
    pub hugetlb: BTreeMap<String, Hugetlb>,
    /// Intel RDT, if the container has it.
    pub intel_rdt: crate::intel_rdt::Stats,
    /// Always `None`: runc has interfaces here only if it made them, i.e. never for an OCI bundle.
    pub network_interfaces: Option<Vec<()>>,
}

/// See [`Stats::cpu`].
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Cpu {
    /// CPU time used.
    #[serde(skip_serializing_if = "is_zero")]
    pub usage: CpuUsage,
    /// CPU time refused, because the quota was used up.
    #[serde(skip_serializing_if = "is_zero")]
    pub throttling: Throttling,
    /// Pressure (v2 only).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psi: Option<Pressure>,
}

/// CPU time in nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct CpuUsage {
    /// All CPU time.
    #[serde(skip_serializing_if = "is_zero")]
    pub total: u64,
    /// All CPU time by CPU (v1 only).
    #[serde(skip_serializing_if = "is_zero")]
    pub percpu: Vec<u64>,
    /// In kernel mode, by CPU (v1 only).
    #[serde(skip_serializing_if = "is_zero")]
    pub percpu_kernel: Vec<u64>,
    /// In user mode, by CPU (v1 only).
    #[serde(skip_serializing_if = "is_zero")]
    pub percpu_user: Vec<u64>,
    /// In kernel mode.
    pub kernel: u64,
    /// In user mode.
    pub user: u64,
}

/// Throttling by the CPU quota.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Throttling {
    /// Periods in which a task ran.
    #[serde(skip_serializing_if = "is_zero")]
    pub periods: u64,
    /// Periods in which the quota was used up.
    #[serde(skip_serializing_if = "is_zero")]
    pub throttled_periods: u64,
    /// How long tasks were throttled, in nanoseconds.
    #[serde(skip_serializing_if = "is_zero")]
    pub throttled_time: u64,
}

/// Pressure stall information (accounting/psi.rst).
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Pressure {
    /// Time in which at least one task waited.
    pub some: PressureData,
    /// Time in which all tasks waited.
    pub full: PressureData,
}

/// Shares of time in percent, and the total in microseconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct PressureData {
    /// Over 10 seconds.
    #[serde(serialize_with = "short_float")]
    pub avg10: f64,
    /// Over 60 seconds.
    #[serde(serialize_with = "short_float")]
    pub avg60: f64,
    /// Over 300 seconds.
    #[serde(serialize_with = "short_float")]
    pub avg300: f64,
    /// Since the cgroup was made.
    pub total: u64,
}

/// The files `cpuset.NAME`; see cpuset(7).
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Cpuset {
    #[serde(skip_serializing_if = "is_zero")]
    pub cpus: Vec<u16>,
    pub cpu_exclusive: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub mems: Vec<u16>,
    pub mem_hardwall: u64,
    pub mem_exclusive: u64,
    pub memory_migrate: u64,
    pub memory_spread_page: u64,
    pub memory_spread_slab: u64,
    pub memory_pressure: u64,
    pub sched_load_balance: u64,
    pub sched_relax_domain_level: i64,
}

/// See [`Stats::memory`].
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Memory {
    /// The page cache.
    #[serde(skip_serializing_if = "is_zero")]
    pub cache: u64,
    /// Memory in use.
    #[serde(skip_serializing_if = "is_zero")]
    pub usage: MemoryEntry,
    /// Memory and swap together, also on v2.
    #[serde(skip_serializing_if = "is_zero")]
    pub swap: MemoryEntry,
    /// The kernel's memory (v1 only).
    #[serde(skip_serializing_if = "is_zero")]
    pub kernel: MemoryEntry,
    /// TCP buffers (v1 only).
    #[serde(rename = "kernelTCP", skip_serializing_if = "is_zero")]
    pub kernel_tcp: MemoryEntry,
    /// How often limits were reached: memory.events of v2, memory.oom_control of v1. Not in runc's JSON.
    #[serde(skip)]
    pub events: BTreeMap<String, u64>,
    /// The counters of memory.stat.
    #[serde(skip_serializing_if = "is_zero")]
    pub raw: BTreeMap<String, u64>,
    /// Pressure (v2 only).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psi: Option<Pressure>,
}

/// Values in bytes. If there is no limit, `limit` is the largest number of the kernel.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct MemoryEntry {
    /// The limit.
    pub limit: u64,
    /// In use.
    #[serde(skip_serializing_if = "is_zero")]
    pub usage: u64,
    /// The most ever in use.
    #[serde(skip_serializing_if = "is_zero")]
    pub max: u64,
    /// How often the limit was reached (v1 only).
    pub failcnt: u64,
}

/// See [`Stats::pids`].
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Pids {
    /// Tasks.
    #[serde(skip_serializing_if = "is_zero")]
    pub current: u64,
    /// The limit; 0 means none.
    #[serde(skip_serializing_if = "is_zero")]
    pub limit: u64,
}

/// See [`Stats::blkio`]; each list is a file of the v1 controller.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Blkio {
    #[serde(skip_serializing_if = "is_zero")]
    pub io_service_bytes_recursive: Vec<BlkioEntry>,
    #[serde(skip_serializing_if = "is_zero")]
    pub io_serviced_recursive: Vec<BlkioEntry>,
    #[serde(rename = "ioQueueRecursive", skip_serializing_if = "is_zero")]
    pub io_queued_recursive: Vec<BlkioEntry>,
    #[serde(skip_serializing_if = "is_zero")]
    pub io_service_time_recursive: Vec<BlkioEntry>,
    #[serde(skip_serializing_if = "is_zero")]
    pub io_wait_time_recursive: Vec<BlkioEntry>,
    #[serde(skip_serializing_if = "is_zero")]
    pub io_merged_recursive: Vec<BlkioEntry>,
    #[serde(skip_serializing_if = "is_zero")]
    pub io_time_recursive: Vec<BlkioEntry>,
    #[serde(skip_serializing_if = "is_zero")]
    pub sectors_recursive: Vec<BlkioEntry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psi: Option<Pressure>,
}

/// A counter of one device and operation.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct BlkioEntry {
    #[serde(skip_serializing_if = "is_zero")]
    /// The major number of the device.
    pub major: u64,
    #[serde(skip_serializing_if = "is_zero")]
    /// The minor number of the device.
    pub minor: u64,
    #[serde(skip_serializing_if = "is_zero")]
    /// `Read`, `Write` and others, with the names of runc.
    pub op: String,
    #[serde(skip_serializing_if = "is_zero")]
    /// Operations, bytes or nanoseconds, depending on the list.
    pub value: u64,
}

/// See [`Stats::hugetlb`]; bytes.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Hugetlb {
    /// In use.
    #[serde(skip_serializing_if = "is_zero")]
    pub usage: u64,
    /// The most ever in use (v1 only).
    #[serde(skip_serializing_if = "is_zero")]
    pub max: u64,
    /// How often the limit was reached.
    pub failcnt: u64,
}

impl Cgroup {
    /// Reads all statistics.
    ///
    /// # Errors
    /// If an existing file cannot be read.
    pub fn stats(&self) -> Result<Stats> {
        match self.v2().filter(|_| self.is_unified()) {
            Some(h) => v2::read(h.dir()),
            None => v1::read(&|controller| self.find(controller)),
        }
    }
}

fn is_zero<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Writes `0`, not `0.0`, as Go does.
fn short_float<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    if value.fract() == 0.0 && (0.0..1e15).contains(value) {
        serializer.serialize_u64(*value as u64)
    } else {
        serializer.serialize_f64(*value)
    }
}
