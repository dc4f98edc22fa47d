//! The settings of the v2 hierarchy, converted from the scales of v1 in which the spec is written.

use super::{Setting, given, pids, shared, weight};
use crate::error::{Error, Result};
use crate::findings::Findings;
use crate::spec;

/// The kernel's default of cpu.max's second number, in microseconds.
const DEFAULT_PERIOD: u64 = 100_000;

/// The values for v2. What v2 has no file for (swappiness, disableOOMKiller, kernel, leafWeight, network, realtime) is left
/// out without a word, as runc does.
///
/// # Errors
/// Swap without memory or below it, a weight out of range, a `unified` name that is not a file's.
pub(in crate::cgroup) fn v2(r: &spec::Resources, found: &mut Findings) -> Vec<Setting> {
    let mut out = Vec::new();
    if let Some(limit) = r.pids.limit {
        out.push(Setting::new("pids", "pids.max", pids(limit)));
    }
    memory(&r.memory, &mut out, found);
    io(&r.block_io, &mut out, found);
    cpu(&r.cpu, &mut out);
    for (file, list) in [("cpuset.cpus", &r.cpu.cpus), ("cpuset.mems", &r.cpu.mems)] {
        if !list.is_empty() {
            out.push(Setting::new("cpuset", file, list));
        }
    }
    shared(r, "max", &mut out, found);
    for (file, value) in &r.unified {
        found.at(format_args!("linux.resources.unified[{file:?}]"), unified(file, value, &mut out));
    }
    out
}

/// Whether something is asked for that a threaded cgroup cannot have (cgroups(7), "Thread mode").
pub(in crate::cgroup) fn needs_domain(r: &spec::Resources) -> bool {
    let settings = v2(r, &mut Findings::new());
    settings.iter().any(|s| matches!(s.controller.as_str(), "memory" | "io" | "cpu" | "hugetlb") && !s.unified)
}

fn memory(memory: &spec::Memory, out: &mut Vec<Setting>, found: &mut Findings) {
    let max = |v: i64| if v == -1 { "max".into() } else { v.to_string() };
    let swap = swap(memory.limit.unwrap_or(0), memory.swap.unwrap_or(0));
    if let Some(swap) = found.at("linux.resources.memory.swap", swap).flatten() {
        let setting = Setting::new("memory", "memory.swap.max", max(swap));
        // a kernel that does not count swap: "no swap" and "any" are as it is
        out.push(if swap <= 0 { setting.optional() } else { setting });
    }
    if let Some(limit) = given(memory.limit) {
        out.push(Setting::new("memory", "memory.max", max(limit)));
    }
    if let Some(reservation) = given(memory.reservation) {
        out.push(Setting::new("memory", "memory.low", max(reservation)));
    }
}

/// The spec's swap is memory and swap together, v2's is swap alone. `None`: not given. -1: unlimited.
pub(super) fn swap(memory: i64, swap: i64) -> Result<Option<i64>> {
    match (memory, swap) {
        // v1 reads "unlimited memory" as both
        (-1, 0) | (_, -1) => Ok(Some(-1)),
        (_, 0) => Ok(None),
        (-1, swap) => Ok(Some(swap)),
        (0, _) => Err(Error::invalid("unable to set swap limit without memory limit")),
        (memory, _) if memory < 0 => Err(Error::invalid(format!("invalid memory value: {memory}"))),
        (memory, swap) if swap < memory => Err(Error::invalid("memory+swap limit should be >= memory limit")),
        (memory, swap) => Ok(Some(swap - memory)),
    }
}

fn io(io: &spec::BlockIo, out: &mut Vec<Setting>, found: &mut Findings) {
    if let Some(w) = weight("weight", io.weight, found) {
        // BFQ's file has the spec's scale, the other goes from 1 to 10000
        out.push(Setting::new("io", "io.bfq.weight", w).or("io.weight", 1 + (u64::from(w) - 10) * 9999 / 990));
    }
    for d in &io.weight_device {
        if let Some(w) = weight("weightDevice", d.weight, found) {
            out.push(Setting::new("io", "io.bfq.weight", format!("{}:{} {w}", d.major, d.minor)).optional());
        }
    }
    for (key, devices) in [
        ("rbps", &io.throttle_read_bps_device),
        ("wbps", &io.throttle_write_bps_device),
        ("riops", &io.throttle_read_iops_device),
        ("wiops", &io.throttle_write_iops_device),
    ] {
        for d in devices {
            // v1 takes 0 as "no limit", v2 refuses it
            let rate = if d.rate == 0 { "max".into() } else { d.rate.to_string() };
            out.push(Setting::new("io", "io.max", format!("{}:{} {key}={rate}", d.major, d.minor)));
        }
    }
}

fn cpu(cpu: &spec::Cpu, out: &mut Vec<Setting>) {
    if let Some(idle) = cpu.idle {
        out.push(Setting::new("cpu", "cpu.idle", idle));
    }
    if let Some(shares) = given(cpu.shares) {
        out.push(Setting::new("cpu", "cpu.weight", cpu_weight(shares)));
    }
    if let Some(burst) = cpu.burst {
        out.push(Setting::new("cpu", "cpu.max.burst", burst).later());
    }
    let (quota, period) = (given(cpu.quota), given(cpu.period));
    if quota.is_some() || period.is_some() {
        let quota = quota.filter(|q| *q > 0).map_or_else(|| "max".into(), |q| q.to_string());
        out.push(Setting::new("cpu", "cpu.max", format!("{quota} {}", period.unwrap_or(DEFAULT_PERIOD))));
    }
}

/// cpu.shares (2 to 262144, default 1024) as cpu.weight (1 to 10000, default 100): the curve through all three that runc
/// 1.3.2 and crun 1.23 use.
pub(super) fn cpu_weight(shares: u64) -> u64 {
    if shares <= 2 {
        return 1;
    }
    if shares >= 262_144 {
        return 10_000;
    }
    let l = (shares as f64).log2();
    let weight = 10_f64.powf((l * l + 125.0 * l) / 612.0 - 7.0 / 34.0);
    // math libraries differ in the last digit, and 1024 is meant to be 100 everywhere
    (weight - 1e-6).ceil() as u64
}

fn unified(file: &str, value: &str, out: &mut Vec<Setting>) -> Result<()> {
    if file.contains('/') {
        return Err(Error::invalid(format!("unified resource {file:?} must be a file name (no slashes)")));
    }
    let Some((controller, parameter)) = file.split_once('.') else {
        return Err(Error::invalid(format!("unified resource {file:?} must be in the form CONTROLLER.PARAMETER")));
    };
    if controller.is_empty() || parameter.is_empty() || file.contains('\0') {
        return Err(Error::invalid(format!("unified resource {file:?} must be in the form CONTROLLER.PARAMETER")));
    }
    for line in value.lines() {
        out.push(Setting { controller: controller.into(), unified: true, ..Setting::new("", file, line) });
    }
    Ok(())
}
