//! The settings of the v1 hierarchies.

use super::{Missing, Setting, check_burst, device, given, pids, shared, swappiness, weight, without_effect, wrong};
use crate::findings::{Findings, Item};
use crate::spec;

/// The range of cpu.shares (MIN_SHARES, MAX_SHARES). The kernel silently moves other values into it.
const SHARES: std::ops::RangeInclusive<u64> = 2..=262_144;

/// The settings for v1, each with the controller whose hierarchy has the file.
///
/// # Errors
/// A value out of its range, or `unified`, which only v2 has.
pub(in crate::cgroup) fn v1(r: &spec::Resources, found: &mut Findings) -> Vec<Setting> {
    if !r.unified.is_empty() {
        wrong(found, "unified", "invalid configuration: cannot use unified on cgroup v1");
    }
    let mut out = Vec::new();
    for (at, file, list) in [("cpu.cpus", "cpuset.cpus", &r.cpu.cpus), ("cpu.mems", "cpuset.mems", &r.cpu.mems)] {
        if !list.is_empty() {
            out.push(Setting::new(at, "cpuset", file, list));
        }
    }
    memory(&r.memory, &mut out, found);
    cpu(&r.cpu, &mut out, found);
    if let Some(limit) = r.pids.limit {
        out.push(Setting::new("pids.limit", "pids", "pids.max", pids(limit)));
    }
    blkio(&r.block_io, &mut out, found);
    shared(r, "limit_in_bytes", &mut out, found);
    if let Some(class) = given(r.network.class_id) {
        out.push(Setting::new("network.classID", "net_cls", "net_cls.classid", class));
    }
    for (i, p) in r.network.priorities.iter().enumerate() {
        let at = Item("network.priorities", i);
        if p.name.is_empty() || p.name.contains(char::is_whitespace) {
            wrong(found, at, format_args!("invalid interface name {:?}", p.name));
        }
        out.push(Setting::new(at, "net_prio", "net_prio.ifpriomap", format!("{} {}", p.name, p.priority)));
    }
    out
}

fn memory(memory: &spec::Memory, out: &mut Vec<Setting>, found: &mut Findings) {
    kernel_memory(memory, found);
    let limit = given(memory.limit);
    if let Some(limit) = limit {
        out.push(Setting::new("memory.limit", "memory", "memory.limit_in_bytes", limit).later());
    }
    let swap = |value| Setting::new("memory.swap", "memory", "memory.memsw.limit_in_bytes", value);
    match (limit, given(memory.swap)) {
        // unlimited memory means unlimited swap, if the kernel counts swap
        (Some(-1), None) => out.push(swap(-1).optional()),
        (Some(limit), Some(both)) if limit > 0 && both >= 0 && both < limit => {
            wrong(found, "memory.swap", "memory+swap limit should be >= memory limit");
        }
        (_, Some(both)) => out.push(swap(both)),
        (_, None) => {}
    }
    if let Some(reservation) = given(memory.reservation) {
        out.push(Setting::new("memory.reservation", "memory", "memory.soft_limit_in_bytes", reservation));
    }
    if memory.disable_oom_killer == Some(true) {
        out.push(Setting::new("memory.disableOOMKiller", "memory", "memory.oom_control", 1));
    }
    if let Some(s) = swappiness(memory, found) {
        out.push(Setting::new("memory.swappiness", "memory", "memory.swappiness", s));
    }
}

/// Warns of limits that are not written. Limits of kernel memory are refused since Linux 5.16, and had no effect long before.
/// Limits of TCP buffers are not written by runc and crun either.
pub(super) fn kernel_memory(memory: &spec::Memory, found: &mut Findings) {
    for (at, value) in [("memory.kernel", memory.kernel), ("memory.kernelTCP", memory.kernel_tcp)] {
        if given(value).is_some() {
            without_effect(found, at, "the limit of memory counts the kernel's too");
        }
    }
}

fn cpu(cpu: &spec::Cpu, out: &mut Vec<Setting>, found: &mut Findings) {
    check_burst(cpu, found);
    let idle = cpu.idle.map(|idle| Setting::new("cpu.idle", "cpu", "cpu.idle", idle));
    // the kernel refuses shares while the cgroup is idle
    let (before, after) = idle.into_iter().partition::<Vec<_>, _>(|idle| idle.value == "0");
    out.extend(before);
    if let Some(shares) = given(cpu.shares) {
        if shares < *SHARES.start() {
            wrong(found, "cpu.shares", format_args!("the minimum allowed cpu-shares is {}", SHARES.start()));
        }
        if shares > *SHARES.end() {
            wrong(found, "cpu.shares", format_args!("the maximum allowed cpu-shares is {}", SHARES.end()));
        }
        out.push(Setting::new("cpu.shares", "cpu", "cpu.shares", shares));
    }
    if let Some(period) = given(cpu.period) {
        out.push(Setting::new("cpu.period", "cpu", "cpu.cfs_period_us", period).later());
    }
    if let Some(burst) = cpu.burst {
        // since Linux 5.14
        out.push(Setting::new("cpu.burst", "cpu", "cpu.cfs_burst_us", burst).later().optional());
    }
    if let Some(quota) = given(cpu.quota) {
        out.push(Setting::new("cpu.quota", "cpu", "cpu.cfs_quota_us", quota));
    }
    out.extend(after);
    if let Some(period) = given(cpu.realtime_period) {
        out.push(Setting::new("cpu.realtimePeriod", "cpu", "cpu.rt_period_us", period).later());
    }
    if let Some(runtime) = given(cpu.realtime_runtime) {
        out.push(Setting::new("cpu.realtimeRuntime", "cpu", "cpu.rt_runtime_us", runtime));
    }
}

fn blkio(io: &spec::BlockIo, out: &mut Vec<Setting>, found: &mut Findings) {
    // Linux 5.0 removed blkio.weight with the CFQ scheduler; BFQ has its own file with the same scale
    if let Some(w) = weight("blockIO.weight", io.weight, found) {
        out.push(Setting::new("blockIO.weight", "blkio", "blkio.weight", w).or("blkio.bfq.weight", w));
    }
    if let Some(w) = weight("blockIO.leafWeight", io.leaf_weight, found) {
        out.push(Setting::new("blockIO.leafWeight", "blkio", "blkio.leaf_weight", w));
    }
    for (i, d) in io.weight_device.iter().enumerate() {
        let at = Item("blockIO.weightDevice", i);
        let Some(numbers) = device(at, d.major, d.minor, found) else { continue };
        if let Some(w) = weight(at, d.weight, found) {
            let value = format!("{numbers} {w}");
            let missing = Missing::Instead("blkio.bfq.weight_device", value.clone());
            out.push(Setting { missing, ..Setting::new(at, "blkio", "blkio.weight_device", value) });
        }
        if let Some(w) = weight(at, d.leaf_weight, found) {
            out.push(Setting::new(at, "blkio", "blkio.leaf_weight_device", format!("{numbers} {w}")));
        }
    }
    for (list, file, devices) in [
        ("blockIO.throttleReadBpsDevice", "blkio.throttle.read_bps_device", &io.throttle_read_bps_device),
        ("blockIO.throttleWriteBpsDevice", "blkio.throttle.write_bps_device", &io.throttle_write_bps_device),
        ("blockIO.throttleReadIOPSDevice", "blkio.throttle.read_iops_device", &io.throttle_read_iops_device),
        ("blockIO.throttleWriteIOPSDevice", "blkio.throttle.write_iops_device", &io.throttle_write_iops_device),
    ] {
        for (i, d) in devices.iter().enumerate() {
            let at = Item(list, i);
            let Some(numbers) = device(at, d.major, d.minor, found) else { continue };
            out.push(Setting::new(at, "blkio", file, format!("{numbers} {}", d.rate)));
        }
    }
}
