//! The statistics of v1 cgroups.

use super::super::settings::Dir;
use super::parse::{blkio, huge_page_sizes, list, map, number, text};
use super::{Blkio, BlkioEntry, Cpu, Cpuset, Hugetlb, Memory, MemoryEntry, Stats};
use crate::error::Result;

/// Nanoseconds of one clock tick (USER_HZ is 100 on the architectures that masu supports).
const TICK: u64 = 10_000_000;

pub(super) fn read<'a>(find: &dyn Fn(&str) -> Option<Dir<'a>>) -> Result<Stats> {
    let mut s = Stats::default();
    if let Some(dir) = find("cpuset") {
        cpuset(dir, &mut s.cpuset)?;
    }
    if let Some(dir) = find("memory") {
        memory(dir, &mut s.memory)?;
    }
    if let Some(throttled) = find("cpu").map_or(Ok(None), |dir| map(dir, "cpu.stat"))? {
        let get = |key: &str| throttled.get(key).copied().unwrap_or(0);
        s.cpu.throttling.periods = get("nr_periods");
        s.cpu.throttling.throttled_periods = get("nr_throttled");
        s.cpu.throttling.throttled_time = get("throttled_time");
    }
    if let Some(dir) = find("cpuacct") {
        cpuacct(dir, &mut s.cpu)?;
    }
    if let Some(dir) = find("pids") {
        s.pids.current = number(dir, "pids.current")?.unwrap_or(0);
        s.pids.limit = number(dir, "pids.max")?.filter(|n| *n != u64::MAX).unwrap_or(0);
    }
    if let Some(dir) = find("blkio") {
        s.blkio = block(dir)?;
    }
    if let Some(dir) = find("hugetlb") {
        for size in huge_page_sizes() {
            let mut prefix = format!("hugetlb.{size}.rsvd");
            let mut usage = number(dir, &format!("{prefix}.usage_in_bytes"))?;
            if usage.is_none() {
                prefix = format!("hugetlb.{size}");
                usage = number(dir, &format!("{prefix}.usage_in_bytes"))?;
            }
            let Some(usage) = usage else { break };
            let max = number(dir, &format!("{prefix}.max_usage_in_bytes"))?.unwrap_or(0);
            let failcnt = number(dir, &format!("{prefix}.failcnt"))?.unwrap_or(0);
            s.hugetlb.insert(size, Hugetlb { usage, max, failcnt });
        }
    }
    Ok(s)
}

fn cpuset(dir: Dir<'_>, c: &mut Cpuset) -> Result<()> {
    c.cpus = list(&text(dir, "cpuset.cpus")?.unwrap_or_default());
    c.mems = list(&text(dir, "cpuset.mems")?.unwrap_or_default());
    for (name, to) in [
        ("cpuset.cpu_exclusive", &mut c.cpu_exclusive),
        ("cpuset.mem_hardwall", &mut c.mem_hardwall),
        ("cpuset.mem_exclusive", &mut c.mem_exclusive),
        ("cpuset.memory_migrate", &mut c.memory_migrate),
        ("cpuset.memory_spread_page", &mut c.memory_spread_page),
        ("cpuset.memory_spread_slab", &mut c.memory_spread_slab),
        ("cpuset.memory_pressure", &mut c.memory_pressure),
        ("cpuset.sched_load_balance", &mut c.sched_load_balance),
    ] {
        *to = number(dir, name)?.unwrap_or(0);
    }
    let level = text(dir, "cpuset.sched_relax_domain_level")?.unwrap_or_default();
    c.sched_relax_domain_level = level.trim().parse().unwrap_or(0);
    Ok(())
}

fn memory(dir: Dir<'_>, m: &mut Memory) -> Result<()> {
    m.raw = map(dir, "memory.stat")?.unwrap_or_default();
    m.events = map(dir, "memory.oom_control")?.unwrap_or_default();
    m.cache = m.raw.get("cache").copied().unwrap_or(0);
    m.usage = entry(dir, "memory")?;
    m.swap = entry(dir, "memory.memsw")?;
    m.kernel = entry(dir, "memory.kmem")?;
    m.kernel_tcp = entry(dir, "memory.kmem.tcp")?;
    Ok(())
}

/// Reads one kind of memory; zeros if the kernel does not count it.
fn entry(dir: Dir<'_>, name: &str) -> Result<MemoryEntry> {
    let read = |what: &str| -> Result<u64> { Ok(number(dir, &format!("{name}.{what}"))?.unwrap_or(0)) };
    Ok(MemoryEntry {
        limit: read("limit_in_bytes")?,
        usage: read("usage_in_bytes")?,
        max: read("max_usage_in_bytes")?,
        failcnt: read("failcnt")?,
    })
}

fn cpuacct(dir: Dir<'_>, c: &mut Cpu) -> Result<()> {
    let u = &mut c.usage;
    u.total = number(dir, "cpuacct.usage")?.unwrap_or(0);
    let ticks = map(dir, "cpuacct.stat")?.unwrap_or_default();
    let nanos = |key: &str| ticks.get(key).copied().unwrap_or(0).saturating_mul(TICK);
    (u.user, u.kernel) = (nanos("user"), nanos("system"));
    let percpu = text(dir, "cpuacct.usage_percpu")?.unwrap_or_default();
    u.percpu = percpu.split_whitespace().filter_map(|n| n.parse().ok()).collect();
    // one header line, then lines `cpu user system`
    for line in text(dir, "cpuacct.usage_all")?.unwrap_or_default().lines().skip(1) {
        let mut fields = line.split(' ').skip(1).map(|n| n.parse::<u64>());
        if let (Some(Ok(user)), Some(Ok(kernel))) = (fields.next(), fields.next()) {
            u.percpu_user.push(user);
            u.percpu_kernel.push(kernel);
        }
    }
    Ok(())
}

/// Each group of files belongs to an I/O scheduler or to a version of the kernel. The first group that exists is read.
fn block(dir: Dir<'_>) -> Result<Blkio> {
    type Field = fn(&mut Blkio) -> &mut Vec<BlkioEntry>;
    const DETAILED: [(&str, Field); 8] = [
        ("sectors_recursive", |b| &mut b.sectors_recursive),
        ("io_service_time_recursive", |b| &mut b.io_service_time_recursive),
        ("io_wait_time_recursive", |b| &mut b.io_wait_time_recursive),
        ("io_merged_recursive", |b| &mut b.io_merged_recursive),
        ("io_queued_recursive", |b| &mut b.io_queued_recursive),
        ("time_recursive", |b| &mut b.io_time_recursive),
        ("io_serviced_recursive", |b| &mut b.io_serviced_recursive),
        ("io_service_bytes_recursive", |b| &mut b.io_service_bytes_recursive),
    ];
    const BASIC: [(&str, Field); 2] =
        [("io_serviced", |b| &mut b.io_serviced_recursive), ("io_service_bytes", |b| &mut b.io_service_bytes_recursive)];
    let two = DETAILED.get(6..).unwrap_or_default();
    let groups: [(&str, &[(&str, Field)]); 5] =
        [("blkio.bfq.", &DETAILED), ("blkio.bfq.", two), ("blkio.", &DETAILED), ("blkio.throttle.", two), ("blkio.throttle.", &BASIC)];
    let mut b = Blkio::default();
    for (prefix, files) in groups {
        let mut any = false;
        for (name, field) in files {
            match blkio(dir, &format!("{prefix}{name}"))? {
                Some(entries) => *field(&mut b) = entries,
                None if !any => break,
                None => {}
            }
            any = true;
        }
        if any {
            break;
        }
    }
    Ok(b)
}
