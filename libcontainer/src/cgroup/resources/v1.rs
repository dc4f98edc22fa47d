//! The settings of the v1 hierarchies.

use super::{Missing, Setting, given, pids, shared, weight};
use crate::findings::Findings;
use crate::spec;

/// What the kernel takes for cpu.shares (MIN_SHARES, MAX_SHARES); it moves other values there without a word.
const SHARES: std::ops::RangeInclusive<u64> = 2..=262_144;

/// The values for v1, each with the controller whose hierarchy has the file.
///
/// # Errors
/// A value out of its range, or `unified`, which only v2 has.
pub(in crate::cgroup) fn v1(r: &spec::Resources, found: &mut Findings) -> Vec<Setting> {
    if !r.unified.is_empty() {
        found.invalid("linux.resources.unified", "invalid configuration: cannot use unified on cgroup v1");
    }
    let mut out = Vec::new();
    cpuset(&r.cpu, &mut out);
    memory(&r.memory, &mut out, found);
    cpu(&r.cpu, &mut out, found);
    if let Some(limit) = r.pids.limit {
        out.push(Setting::new("pids", "pids.max", pids(limit)));
    }
    blkio(&r.block_io, &mut out, found);
    shared(r, "limit_in_bytes", &mut out, found);
    if let Some(class) = given(r.network.class_id) {
        out.push(Setting::new("net_cls", "net_cls.classid", class));
    }
    for p in &r.network.priorities {
        out.push(Setting::new("net_prio", "net_prio.ifpriomap", format!("{} {}", p.name, p.priority)));
    }
    out
}

fn cpuset(cpu: &spec::Cpu, out: &mut Vec<Setting>) {
    for (file, list) in [("cpuset.cpus", &cpu.cpus), ("cpuset.mems", &cpu.mems)] {
        if !list.is_empty() {
            out.push(Setting::new("cpuset", file, list));
        }
    }
}

fn memory(memory: &spec::Memory, out: &mut Vec<Setting>, found: &mut Findings) {
    // kernel and kernelTCP have been without effect since Linux 5.4 and 6.x, and runc ignores them
    let limit = given(memory.limit);
    if let Some(limit) = limit {
        out.push(Setting::new("memory", "memory.limit_in_bytes", limit).later());
    }
    match (limit, given(memory.swap)) {
        // unlimited memory means unlimited swap, where the kernel counts swap
        (Some(-1), None) => out.push(Setting::new("memory", "memory.memsw.limit_in_bytes", -1).optional()),
        (Some(limit), Some(swap)) if limit > 0 && swap >= 0 && swap < limit => {
            found.invalid("linux.resources.memory.swap", "memory+swap limit should be >= memory limit");
        }
        (_, Some(swap)) => out.push(Setting::new("memory", "memory.memsw.limit_in_bytes", swap)),
        (_, None) => {}
    }
    if let Some(reservation) = given(memory.reservation) {
        out.push(Setting::new("memory", "memory.soft_limit_in_bytes", reservation));
    }
    if memory.disable_oom_killer == Some(true) {
        out.push(Setting::new("memory", "memory.oom_control", 1));
    }
    match memory.swappiness {
        // callers write -1 as the largest number
        None | Some(u64::MAX) => {}
        Some(s @ 0..=100) => out.push(Setting::new("memory", "memory.swappiness", s)),
        Some(s) => {
            let text = format!("invalid memory swappiness value: {s} (valid range is 0-100)");
            found.invalid("linux.resources.memory.swappiness", text);
        }
    }
}

fn cpu(cpu: &spec::Cpu, out: &mut Vec<Setting>, found: &mut Findings) {
    if let Some(shares) = given(cpu.shares) {
        if shares < *SHARES.start() {
            found.invalid("linux.resources.cpu.shares", format!("the minimum allowed cpu-shares is {}", SHARES.start()));
        }
        if shares > *SHARES.end() {
            found.invalid("linux.resources.cpu.shares", format!("the maximum allowed cpu-shares is {}", SHARES.end()));
        }
        out.push(Setting::new("cpu", "cpu.shares", shares));
    }
    if let Some(period) = given(cpu.period) {
        out.push(Setting::new("cpu", "cpu.cfs_period_us", period).later());
    }
    if let Some(burst) = cpu.burst {
        // since Linux 5.14
        out.push(Setting::new("cpu", "cpu.cfs_burst_us", burst).later().optional());
    }
    if let Some(quota) = given(cpu.quota) {
        out.push(Setting::new("cpu", "cpu.cfs_quota_us", quota));
    }
    if let Some(idle) = cpu.idle {
        out.push(Setting::new("cpu", "cpu.idle", idle));
    }
    if let Some(period) = given(cpu.realtime_period) {
        out.push(Setting::new("cpu", "cpu.rt_period_us", period).later());
    }
    if let Some(runtime) = given(cpu.realtime_runtime) {
        out.push(Setting::new("cpu", "cpu.rt_runtime_us", runtime));
    }
}

fn blkio(io: &spec::BlockIo, out: &mut Vec<Setting>, found: &mut Findings) {
    // blkio.weight went with the CFQ scheduler (Linux 5.0); BFQ has its own file and the same scale
    if let Some(w) = weight("weight", io.weight, found) {
        out.push(Setting::new("blkio", "blkio.weight", w).or("blkio.bfq.weight", w.into()));
    }
    if let Some(w) = weight("leafWeight", io.leaf_weight, found) {
        out.push(Setting::new("blkio", "blkio.leaf_weight", w));
    }
    for d in &io.weight_device {
        if let Some(w) = weight("weightDevice", d.weight, found) {
            let value = format!("{}:{} {w}", d.major, d.minor);
            let missing = Missing::Instead("blkio.bfq.weight_device", value.clone());
            out.push(Setting { missing, ..Setting::new("blkio", "blkio.weight_device", value) });
        }
        if let Some(w) = weight("weightDevice", d.leaf_weight, found) {
            out.push(Setting::new("blkio", "blkio.leaf_weight_device", format!("{}:{} {w}", d.major, d.minor)));
        }
    }
    for (file, devices) in [
        ("blkio.throttle.read_bps_device", &io.throttle_read_bps_device),
        ("blkio.throttle.write_bps_device", &io.throttle_write_bps_device),
        ("blkio.throttle.read_iops_device", &io.throttle_read_iops_device),
        ("blkio.throttle.write_iops_device", &io.throttle_write_iops_device),
    ] {
        for d in devices {
            out.push(Setting::new("blkio", file, format!("{}:{} {}", d.major, d.minor, d.rate)));
        }
    }
}
