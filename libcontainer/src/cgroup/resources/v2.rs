//! The settings of the v2 hierarchy, converted from the scales of v1 that the specification uses.

use super::v1::kernel_memory;
use super::{Setting, check_burst, device, given, pids, shared, swappiness, weight, without_effect, wrong};
use crate::error::{Error, Result};
use crate::findings::{Findings, Item};
use crate::spec;

/// The kernel's default period, the second number of cpu.max, in microseconds.
const DEFAULT_PERIOD: u64 = 100_000;

/// Files that are no limits: `unified` could move, freeze or end processes by them.
const NO_LIMITS: [&str; 6] = ["cgroup.procs", "cgroup.threads", "cgroup.kill", "cgroup.freeze", "cgroup.type", "cgroup.subtree_control"];

/// The reason why a weight is not written; the text begins as runc's.
const NO_WEIGHT: &str = "unable to apply both cpu.weight and cpu.idle";

/// The settings for v2. A property without a file in v2 causes a warning. Exceptions are swappiness, disableOOMKiller and
/// leafWeight, because engines send them everywhere.
///
/// # Errors
/// Swap without memory or below it; a weight out of range; a name in `unified` that is no limit's file.
pub(in crate::cgroup) fn v2(r: &spec::Resources, found: &mut Findings) -> Vec<Setting> {
    let mut out = Vec::new();
    if let Some(limit) = r.pids.limit {
        out.push(Setting::new("pids.limit", "pids", "pids.max", pids(limit)));
    }
    memory(&r.memory, &mut out, found);
    io(&r.block_io, &mut out, found);
    let idle = r.unified.get("cpu.idle").is_some_and(|value| value.trim() == "1");
    cpu(&r.cpu, idle, &mut out, found);
    for (at, file, list) in [("cpu.cpus", "cpuset.cpus", &r.cpu.cpus), ("cpu.mems", "cpuset.mems", &r.cpu.mems)] {
        if !list.is_empty() {
            out.push(Setting::new(at, "cpuset", file, list));
        }
    }
    shared(r, "max", &mut out, found);
    for (at, given) in [
        ("network.classID", given(r.network.class_id).is_some()),
        ("network.priorities", r.network.priorities.iter().any(|p| p.priority != 0)),
    ] {
        if given {
            without_effect(
                found,
                at,
                "cgroup v2 has neither net_cls nor net_prio; mark the traffic of the container by its cgroup in nftables",
            );
        }
    }
    for (file, value) in &r.unified {
        let at = format!("unified[{file:?}]");
        if idle && file == "cpu.weight" {
            without_effect(found, &at, NO_WEIGHT);
            continue;
        }
        match unified(file) {
            Ok(controller) => out.extend(value.lines().map(|line| Setting {
                controller: controller.into(),
                unified: true,
                ..Setting::new(&at, "", file, line)
            })),
            Err(text) => wrong(found, at, text),
        }
    }
    out
}

fn memory(memory: &spec::Memory, out: &mut Vec<Setting>, found: &mut Findings) {
    kernel_memory(memory, found);
    // v2 has no file for it, but a bad value is an error all the same
    swappiness(memory, found);
    let max = |v: i64| if v == -1 { "max".into() } else { v.to_string() };
    match swap(memory.limit.unwrap_or(0), memory.swap.unwrap_or(0)) {
        Ok(None) => {}
        Ok(Some(swap)) => {
            let setting = Setting::new("memory.swap", "memory", "memory.swap.max", max(swap));
            // on a kernel that does not count swap, the file is missing, and 0 and -1 need nothing
            out.push(if swap <= 0 { setting.optional() } else { setting });
        }
        Err(error) => wrong(found, "memory.swap", error),
    }
    if let Some(limit) = given(memory.limit) {
        out.push(Setting::new("memory.limit", "memory", "memory.max", max(limit)));
    }
    if let Some(reservation) = given(memory.reservation) {
        out.push(Setting::new("memory.reservation", "memory", "memory.low", max(reservation)));
    }
}

/// Converts swap: in the specification memory and swap together, in v2 swap alone. `None`: not given. -1: unlimited.
///
/// # Errors
/// Swap without memory or below it.
pub(in crate::cgroup) fn swap(memory: i64, swap: i64) -> Result<Option<i64>> {
    match (memory, swap) {
        // as in v1, unlimited memory means unlimited swap
        (-1, 0) | (_, -1) => Ok(Some(-1)),
        (_, 0) => Ok(None),
        (-1, swap) => Ok(Some(swap)),
        (0, _) => Err(Error::invalid("unable to set swap limit without memory limit")),
        (memory, _) if memory < 0 => Err(Error::invalid(format!("invalid memory value: {memory}"))),
        (memory, swap) if swap < memory => Err(Error::invalid("memory+swap limit should be >= memory limit")),
        (memory, swap) => Ok(Some(swap - memory)),
    }
}

/// Converts a weight from the specification's scale, which is BFQ's (10 to 1000), to that of io.weight (1 to 10000).
fn io_weight(bfq: u16) -> u64 {
    1 + (u64::from(bfq) - 10) * 9999 / 990
}

fn io(io: &spec::BlockIo, out: &mut Vec<Setting>, found: &mut Findings) {
    if let Some(w) = weight("blockIO.weight", io.weight, found) {
        out.push(Setting::new("blockIO.weight", "io", "io.bfq.weight", w).or("io.weight", io_weight(w)));
    }
    for (i, d) in io.weight_device.iter().enumerate() {
        let at = Item("blockIO.weightDevice", i);
        let Some(numbers) = device(at, d.major, d.minor, found) else { continue };
        if let Some(w) = weight(at, d.weight, found) {
            let instead = format!("{numbers} {}", io_weight(w));
            out.push(Setting::new(at, "io", "io.bfq.weight", format!("{numbers} {w}")).or("io.weight", instead));
        }
    }
    for (list, key, devices) in [
        ("blockIO.throttleReadBpsDevice", "rbps", &io.throttle_read_bps_device),
        ("blockIO.throttleWriteBpsDevice", "wbps", &io.throttle_write_bps_device),
        ("blockIO.throttleReadIOPSDevice", "riops", &io.throttle_read_iops_device),
        ("blockIO.throttleWriteIOPSDevice", "wiops", &io.throttle_write_iops_device),
    ] {
        for (i, d) in devices.iter().enumerate() {
            let at = Item(list, i);
            let Some(numbers) = device(at, d.major, d.minor, found) else { continue };
            // 0 is "no limit" for v1, but v2 refuses it
            let rate = if d.rate == 0 { "max".into() } else { d.rate.to_string() };
            out.push(Setting::new(at, "io", "io.max", format!("{numbers} {key}={rate}")));
        }
    }
}

/// `idle`: whether `unified` makes the cgroup idle.
fn cpu(cpu: &spec::Cpu, idle: bool, out: &mut Vec<Setting>, found: &mut Findings) {
    check_burst(cpu, found);
    out.extend(cpu.idle.map(|idle| Setting::new("cpu.idle", "cpu", "cpu.idle", idle)));
    // an idle cgroup refuses a weight, and forgets its old one; systemd may have made it idle already
    if let Some(shares) = given(cpu.shares).filter(|_| !idle) {
        if cpu.idle == Some(1) {
            without_effect(found, "cpu.shares", NO_WEIGHT);
        } else {
            out.push(Setting::new("cpu.shares", "cpu", "cpu.weight", cpu_weight(shares)));
        }
    }
    if let Some(burst) = cpu.burst {
        out.push(Setting::new("cpu.burst", "cpu", "cpu.max.burst", burst).later());
    }
    let (quota, period) = (given(cpu.quota), given(cpu.period));
    if quota.is_some() || period.is_some() {
        let at = if quota.is_some() { "cpu.quota" } else { "cpu.period" };
        let quota = quota.filter(|q| *q > 0).map_or_else(|| "max".into(), |q| q.to_string());
        out.push(Setting::new(at, "cpu", "cpu.max", format!("{quota} {}", period.unwrap_or(DEFAULT_PERIOD))));
    }
    for (at, value) in
        [("cpu.realtimeRuntime", given(cpu.realtime_runtime).is_some()), ("cpu.realtimePeriod", given(cpu.realtime_period).is_some())]
    {
        if value {
            without_effect(found, at, "cgroup v2 has no limits of real-time tasks");
        }
    }
}

/// Converts cpu.shares (2 to 262144, default 1024) to cpu.weight (1 to 10000, default 100), by the curve through these three
/// points that runc 1.3.2 and crun 1.23 use.
pub(in crate::cgroup) fn cpu_weight(shares: u64) -> u64 {
    if shares <= 2 {
        return 1;
    }
    if shares >= 262_144 {
        return 10_000;
    }
    let l = (shares as f64).log2();
    let weight = 10_f64.powf((l * l + 125.0 * l) / 612.0 - 7.0 / 34.0);
    // math libraries differ in the last digit, but 1024 must be 100 everywhere
    (weight - 1e-6).ceil() as u64
}

/// The controller of a file that `unified` names.
fn unified(file: &str) -> std::result::Result<&str, String> {
    if file.contains('/') {
        return Err(format!("unified resource {file:?} must be a file name (no slashes)"));
    }
    match file.split_once('.') {
        Some((controller, parameter)) if !controller.is_empty() && !parameter.is_empty() && !file.contains('\0') => {
            if NO_LIMITS.contains(&file) {
                return Err(format!("unified resource {file:?} is no limit: it is the runtime's to write"));
            }
            Ok(controller)
        }
        _ => Err(format!("unified resource {file:?} must be in the form CONTROLLER.PARAMETER")),
    }
}
