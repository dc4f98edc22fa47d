//! The statistics of a v2 cgroup.

use super::super::settings::Dir;
use super::parse::{huge_page_sizes, map, number, pressure, text};
use super::{Blkio, BlkioEntry, Hugetlb, MemoryEntry, Stats};
use crate::error::Result;

/// Nanoseconds per microsecond.
const NANOS: u64 = 1000;

pub(super) fn read(dir: Dir<'_>) -> Result<Stats> {
    let mut s = Stats::default();
    pids(dir, &mut s)?;
    memory(dir, &mut s)?;
    if let Some(io) = text(dir, "io.stat")? {
        s.blkio = to_blkio(&io);
    }
    s.blkio.psi = pressure(dir, "io.pressure")?;
    if let Some(cpu) = map(dir, "cpu.stat")? {
        let get = |key: &str| cpu.get(key).copied().unwrap_or(0);
        s.cpu.usage.total = get("usage_usec").saturating_mul(NANOS);
        s.cpu.usage.user = get("user_usec").saturating_mul(NANOS);
        s.cpu.usage.kernel = get("system_usec").saturating_mul(NANOS);
        s.cpu.throttling.periods = get("nr_periods");
        s.cpu.throttling.throttled_periods = get("nr_throttled");
        s.cpu.throttling.throttled_time = get("throttled_usec").saturating_mul(NANOS);
    }
    s.cpu.psi = pressure(dir, "cpu.pressure")?;
    for size in huge_page_sizes() {
        let mut usage = number(dir, &format!("hugetlb.{size}.rsvd.current"))?;
        if usage.is_none() {
            usage = number(dir, &format!("hugetlb.{size}.current"))?;
        }
        let Some(usage) = usage else { break };
        let failcnt = map(dir, &format!("hugetlb.{size}.events"))?.and_then(|m| m.get("max").copied()).unwrap_or(0);
        s.hugetlb.insert(size, Hugetlb { usage, max: 0, failcnt });
    }
    Ok(s)
}

fn pids(dir: Dir<'_>, s: &mut Stats) -> Result<()> {
    if let Some(current) = number(dir, "pids.current")? {
        s.pids.current = current;
        s.pids.limit = number(dir, "pids.max")?.filter(|n| *n != u64::MAX).unwrap_or(0);
    } else {
        // without the controller, count the processes
        let list = text(dir, "cgroup.procs")?.or(text(dir, "cgroup.threads")?);
        s.pids.current = list.map_or(0, |t| t.lines().count()) as u64;
    }
    Ok(())
}

fn memory(dir: Dir<'_>, s: &mut Stats) -> Result<()> {
    s.memory.psi = pressure(dir, "memory.pressure")?;
    let Some(usage) = entry(dir, "memory")? else { return Ok(()) };
    s.memory.raw = map(dir, "memory.stat")?.unwrap_or_default();
    s.memory.events = map(dir, "memory.events")?.unwrap_or_default();
    s.memory.cache = s.memory.raw.get("file").copied().unwrap_or(0);
    // callers expect memory and swap together, as v1 counts them
    if let Some(mut swap) = entry(dir, "memory.swap")? {
        swap.usage = swap.usage.saturating_add(usage.usage);
        swap.limit = swap.limit.saturating_add(usage.limit);
        swap.max = 0;
        s.memory.swap = swap;
    } else {
        s.memory.swap = MemoryEntry { limit: usage.limit, usage: usage.usage, ..MemoryEntry::default() };
    }
    s.memory.usage = usage;
    Ok(())
}

fn entry(dir: Dir<'_>, name: &str) -> Result<Option<MemoryEntry>> {
    let Some(usage) = number(dir, &format!("{name}.current"))? else { return Ok(None) };
    let limit = number(dir, &format!("{name}.max"))?.unwrap_or(u64::MAX);
    // memory.peak since Linux 5.19, memory.swap.peak since 6.5
    let max = number(dir, &format!("{name}.peak"))?.unwrap_or(0);
    Ok(Some(MemoryEntry { limit, usage, max, failcnt: 0 }))
}

/// Gives the numbers of io.stat (`8:0 rbytes=1 wbytes=2 rios=3 wios=4 ...`) the names of v1.
fn to_blkio(io: &str) -> Blkio {
    let mut b = Blkio::default();
    for line in io.lines() {
        let Some((device, rest)) = line.split_once(' ') else { continue };
        let Some((Ok(major), Ok(minor))) = device.split_once(':').map(|(a, b)| (a.parse(), b.parse())) else { continue };
        for (key, value) in rest.split(' ').filter_map(|w| w.split_once('=')) {
            let (op, to) = match key {
                "rbytes" => ("Read", &mut b.io_service_bytes_recursive),
                "wbytes" => ("Write", &mut b.io_service_bytes_recursive),
                "rios" => ("Read", &mut b.io_serviced_recursive),
                "wios" => ("Write", &mut b.io_serviced_recursive),
                _ => continue,
            };
            to.push(BlkioEntry { major, minor, op: op.into(), value: value.parse().unwrap_or(0) });
        }
    }
    b
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn io_has_the_names_of_v1() {
        let b = to_blkio("8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n8:16\n");
        let json = serde_json::to_string(&b).unwrap();
        assert_eq!(
            json,
            r#"{"ioServiceBytesRecursive":[{"major":8,"op":"Read","value":1},{"major":8,"op":"Write","value":2}],"ioServicedRecursive":[{"major":8,"op":"Read","value":3},{"major":8,"op":"Write","value":4}]}"#
        );
    }

    #[test]
    fn zeros_are_left_out_as_in_runc() {
        let json = serde_json::to_string(&Stats::default()).unwrap();
        assert_eq!(
            json,
            r#"{"cpu":{},"cpuset":{"cpu_exclusive":0,"mem_hardwall":0,"mem_exclusive":0,"memory_migrate":0,"memory_spread_page":0,"memory_spread_slab":0,"memory_pressure":0,"sched_load_balance":0,"sched_relax_domain_level":0},"memory":{},"pids":{},"blkio":{},"hugetlb":{},"intel_rdt":{},"network_interfaces":null}"#
        );
    }
}
