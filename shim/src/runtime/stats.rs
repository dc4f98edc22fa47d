//! Stats: a container's numbers as containerd's metrics (github.com/containerd/cgroups, the two metrics.proto).

use libcontainer::cgroup::{Layout, Stats};
use libcontainer::container::Container;
use libcontainer::error::Result;

use crate::rpc::messages::Any;
use crate::rpc::wire::Message;

crate::messages! {
    // io.containerd.cgroups.v1
    V1 { 1 hugetlb: Vec<V1Huge>, 2 pids: Option<Pids>, 3 cpu: Option<V1Cpu>, 4 memory: Option<V1Memory>, 5 blkio: Option<V1Block>, 9 oom: Option<V1Oom>, }
    V1Huge { 1 usage: u64, 2 max: u64, 3 failcnt: u64, 4 page_size: String, }
    /// Of both versions.
    Pids { 1 current: u64, 2 limit: u64, }
    V1Cpu { 1 usage: Option<V1Usage>, 2 throttling: Option<V1Throttle>, }
    V1Usage { 1 total: u64, 2 kernel: u64, 3 user: u64, 4 per_cpu: Vec<u64>, }
    V1Throttle { 1 periods: u64, 2 throttled_periods: u64, 3 throttled_time: u64, }
    V1Entry { 1 limit: u64, 2 usage: u64, 3 max: u64, 4 failcnt: u64, }
    V1Oom { 1 kill_disable: u64, 2 under_oom: u64, 3 kill: u64, }
    V1Memory {
        1 cache: u64, 2 rss: u64, 3 rss_huge: u64, 4 mapped_file: u64, 5 dirty: u64, 6 writeback: u64, 7 pgpgin: u64, 8 pgpgout: u64,
        9 pgfault: u64, 10 pgmajfault: u64, 11 inactive_anon: u64, 12 active_anon: u64, 13 inactive_file: u64, 14 active_file: u64,
        15 unevictable: u64, 16 hierarchical_memory_limit: u64, 17 hierarchical_memsw_limit: u64, 18 total_cache: u64, 19 total_rss: u64,
        20 total_rss_huge: u64, 21 total_mapped_file: u64, 22 total_dirty: u64, 23 total_writeback: u64, 24 total_pgpgin: u64,
        25 total_pgpgout: u64, 26 total_pgfault: u64, 27 total_pgmajfault: u64, 28 total_inactive_anon: u64, 29 total_active_anon: u64,
        30 total_inactive_file: u64, 31 total_active_file: u64, 32 total_unevictable: u64,
        33 usage: Option<V1Entry>, 34 swap: Option<V1Entry>, 35 kernel: Option<V1Entry>, 36 kernel_tcp: Option<V1Entry>,
    }
    V1Block {
        1 service_bytes: Vec<V1Io>, 2 serviced: Vec<V1Io>, 3 queued: Vec<V1Io>, 4 service_time: Vec<V1Io>, 5 wait_time: Vec<V1Io>,
        6 merged: Vec<V1Io>, 7 time: Vec<V1Io>, 8 sectors: Vec<V1Io>,
    }
    V1Io { 1 op: String, 2 device: String, 3 major: u64, 4 minor: u64, 5 value: u64, }

    // io.containerd.cgroups.v2
    V2 { 1 pids: Option<Pids>, 2 cpu: Option<V2Cpu>, 4 memory: Option<V2Memory>, 6 io: Option<V2Io>, 7 hugetlb: Vec<V2Huge>, 8 events: Option<V2Events>, }
    V2Cpu {
        1 usage_usec: u64, 2 user_usec: u64, 3 system_usec: u64, 4 nr_periods: u64, 5 nr_throttled: u64, 6 throttled_usec: u64,
        7 psi: Option<Psi>,
    }
    Psi { 1 some: Option<PsiData>, 2 full: Option<PsiData>, }
    PsiData { 1 avg10: f64, 2 avg60: f64, 3 avg300: f64, 4 total: u64, }
    V2Memory {
        1 anon: u64, 2 file: u64, 3 kernel_stack: u64, 4 slab: u64, 5 sock: u64, 6 shmem: u64, 7 file_mapped: u64, 8 file_dirty: u64,
        9 file_writeback: u64, 10 anon_thp: u64, 11 inactive_anon: u64, 12 active_anon: u64, 13 inactive_file: u64, 14 active_file: u64,
        15 unevictable: u64, 16 slab_reclaimable: u64, 17 slab_unreclaimable: u64, 18 pgfault: u64, 19 pgmajfault: u64,
        20 workingset_refault: u64, 21 workingset_activate: u64, 22 workingset_nodereclaim: u64, 23 pgrefill: u64, 24 pgscan: u64,
        25 pgsteal: u64, 26 pgactivate: u64, 27 pgdeactivate: u64, 28 pglazyfree: u64, 29 pglazyfreed: u64, 30 thp_fault_alloc: u64,
        31 thp_collapse_alloc: u64, 32 usage: u64, 33 usage_limit: u64, 34 swap_usage: u64, 35 swap_limit: u64, 36 max_usage: u64,
        37 swap_max_usage: u64, 38 psi: Option<Psi>,
    }
    V2Io { 1 usage: Vec<V2IoEntry>, 2 psi: Option<Psi>, }
    V2IoEntry { 1 major: u64, 2 minor: u64, 3 rbytes: u64, 4 wbytes: u64, 5 rios: u64, 6 wios: u64, }
    V2Huge { 1 current: u64, 2 max: u64, 3 page_size: String, 4 failcnt: u64, }
    V2Events { 1 low: u64, 2 high: u64, 3 max: u64, 4 oom: u64, 5 oom_kill: u64, }
}

/// The metrics of a container of libcontainer's, as an Any.
pub(crate) fn of_container(container: &Container) -> Result<Vec<u8>> {
    let stats = container.stats()?;
    Ok(any(&stats, Layout::detect()?.is_v2()))
}

/// The same of the cgroup that a process is in.
pub(crate) fn of_process(pid: i32) -> Result<Vec<u8>> {
    let cgroup = libcontainer::cgroup::Cgroup::open(&Layout::paths_of(pid)?)?;
    Ok(any(&cgroup.stats()?, Layout::detect()?.is_v2()))
}

/// The same of the cgroup of that name, such as a pod's.
pub(crate) fn of_cgroup(name: &str) -> Result<Vec<u8>> {
    let layout = Layout::detect()?;
    let cgroup = libcontainer::cgroup::Cgroup::open(&layout.paths_at(name)?)?;
    Ok(any(&cgroup.stats()?, layout.is_v2()))
}

fn any(stats: &Stats, v2: bool) -> Vec<u8> {
    let (type_url, value) = if v2 {
        ("io.containerd.cgroups.v2.Metrics", to_v2(stats).encode())
    } else {
        ("io.containerd.cgroups.v1.Metrics", to_v1(stats).encode())
    };
    Any { type_url: type_url.into(), value }.encode()
}

fn to_v1(s: &Stats) -> V1 {
    let event = |key: &str| s.memory.events.get(key).copied().unwrap_or(0);
    let io = |list: &[libcontainer::cgroup::BlkioEntry]| {
        let one = |e: &libcontainer::cgroup::BlkioEntry| V1Io {
            op: e.op.clone(),
            device: String::new(),
            major: e.major,
            minor: e.minor,
            value: e.value,
        };
        list.iter().map(one).collect()
    };
    V1 {
        hugetlb: s
            .hugetlb
            .iter()
            .map(|(size, h)| V1Huge { usage: h.usage, max: h.max, failcnt: h.failcnt, page_size: size.clone() })
            .collect(),
        pids: Some(Pids { current: s.pids.current, limit: s.pids.limit }),
        cpu: Some(V1Cpu {
            usage: Some(V1Usage {
                total: s.cpu.usage.total,
                kernel: s.cpu.usage.kernel,
                user: s.cpu.usage.user,
                per_cpu: s.cpu.usage.percpu.clone(),
            }),
            throttling: Some(V1Throttle {
                periods: s.cpu.throttling.periods,
                throttled_periods: s.cpu.throttling.throttled_periods,
                throttled_time: s.cpu.throttling.throttled_time,
            }),
        }),
        memory: Some(memory_v1(s)),
        blkio: Some(V1Block {
            service_bytes: io(&s.blkio.io_service_bytes_recursive),
            serviced: io(&s.blkio.io_serviced_recursive),
            queued: io(&s.blkio.io_queued_recursive),
            service_time: io(&s.blkio.io_service_time_recursive),
            wait_time: io(&s.blkio.io_wait_time_recursive),
            merged: io(&s.blkio.io_merged_recursive),
            time: io(&s.blkio.io_time_recursive),
            sectors: io(&s.blkio.sectors_recursive),
        }),
        oom: Some(V1Oom { kill_disable: event("oom_kill_disable"), under_oom: event("under_oom"), kill: event("oom_kill") }),
    }
}

fn memory_v1(s: &Stats) -> V1Memory {
    let raw = |key: &str| s.memory.raw.get(key).copied().unwrap_or(0);
    let entry = |e: &libcontainer::cgroup::MemoryEntry| Some(V1Entry { limit: e.limit, usage: e.usage, max: e.max, failcnt: e.failcnt });
    V1Memory {
        cache: raw("cache"),
        rss: raw("rss"),
        rss_huge: raw("rss_huge"),
        mapped_file: raw("mapped_file"),
        dirty: raw("dirty"),
        writeback: raw("writeback"),
        pgpgin: raw("pgpgin"),
        pgpgout: raw("pgpgout"),
        pgfault: raw("pgfault"),
        pgmajfault: raw("pgmajfault"),
        inactive_anon: raw("inactive_anon"),
        active_anon: raw("active_anon"),
        inactive_file: raw("inactive_file"),
        active_file: raw("active_file"),
        unevictable: raw("unevictable"),
        hierarchical_memory_limit: raw("hierarchical_memory_limit"),
        hierarchical_memsw_limit: raw("hierarchical_memsw_limit"),
        total_cache: raw("total_cache"),
        total_rss: raw("total_rss"),
        total_rss_huge: raw("total_rss_huge"),
        total_mapped_file: raw("total_mapped_file"),
        total_dirty: raw("total_dirty"),
        total_writeback: raw("total_writeback"),
        total_pgpgin: raw("total_pgpgin"),
        total_pgpgout: raw("total_pgpgout"),
        total_pgfault: raw("total_pgfault"),
        total_pgmajfault: raw("total_pgmajfault"),
        total_inactive_anon: raw("total_inactive_anon"),
        total_active_anon: raw("total_active_anon"),
        total_inactive_file: raw("total_inactive_file"),
        total_active_file: raw("total_active_file"),
        total_unevictable: raw("total_unevictable"),
        usage: entry(&s.memory.usage),
        swap: entry(&s.memory.swap),
        kernel: entry(&s.memory.kernel),
        kernel_tcp: entry(&s.memory.kernel_tcp),
    }
}

fn psi(pressure: Option<&libcontainer::cgroup::Pressure>) -> Option<Psi> {
    let data = |d: &libcontainer::cgroup::PressureData| Some(PsiData { avg10: d.avg10, avg60: d.avg60, avg300: d.avg300, total: d.total });
    pressure.map(|p| Psi { some: data(&p.some), full: data(&p.full) })
}

fn to_v2(s: &Stats) -> V2 {
    let raw = |key: &str| s.memory.raw.get(key).copied().unwrap_or(0);
    // split by anonymous and file pages since Linux 5.9
    let refaults = |name: &str| raw(&format!("{name}_anon")).saturating_add(raw(&format!("{name}_file"))).max(raw(name));
    let event = |key: &str| s.memory.events.get(key).copied().unwrap_or(0);
    let (usage, swap) = (&s.memory.usage, &s.memory.swap);
    V2 {
        pids: Some(Pids { current: s.pids.current, limit: if s.pids.limit == 0 { u64::MAX } else { s.pids.limit } }),
        cpu: Some(V2Cpu {
            usage_usec: s.cpu.usage.total / 1000,
            user_usec: s.cpu.usage.user / 1000,
            system_usec: s.cpu.usage.kernel / 1000,
            nr_periods: s.cpu.throttling.periods,
            nr_throttled: s.cpu.throttling.throttled_periods,
            throttled_usec: s.cpu.throttling.throttled_time / 1000,
            psi: psi(s.cpu.psi.as_ref()),
        }),
        memory: Some(V2Memory {
            anon: raw("anon"),
            file: raw("file"),
            kernel_stack: raw("kernel_stack"),
            slab: raw("slab"),
            sock: raw("sock"),
            shmem: raw("shmem"),
            file_mapped: raw("file_mapped"),
            file_dirty: raw("file_dirty"),
            file_writeback: raw("file_writeback"),
            anon_thp: raw("anon_thp"),
            inactive_anon: raw("inactive_anon"),
            active_anon: raw("active_anon"),
            inactive_file: raw("inactive_file"),
            active_file: raw("active_file"),
            unevictable: raw("unevictable"),
            slab_reclaimable: raw("slab_reclaimable"),
            slab_unreclaimable: raw("slab_unreclaimable"),
            pgfault: raw("pgfault"),
            pgmajfault: raw("pgmajfault"),
            workingset_refault: refaults("workingset_refault"),
            workingset_activate: refaults("workingset_activate"),
            workingset_nodereclaim: raw("workingset_nodereclaim"),
            pgrefill: raw("pgrefill"),
            pgscan: raw("pgscan"),
            pgsteal: raw("pgsteal"),
            pgactivate: raw("pgactivate"),
            pgdeactivate: raw("pgdeactivate"),
            pglazyfree: raw("pglazyfree"),
            pglazyfreed: raw("pglazyfreed"),
            thp_fault_alloc: raw("thp_fault_alloc"),
            thp_collapse_alloc: raw("thp_collapse_alloc"),
            usage: usage.usage,
            usage_limit: usage.limit,
            // libcontainer counts them together, as runc does
            swap_usage: swap.usage.saturating_sub(usage.usage),
            swap_limit: if swap.limit == u64::MAX { u64::MAX } else { swap.limit.saturating_sub(usage.limit) },
            max_usage: usage.max,
            swap_max_usage: 0,
            psi: psi(s.memory.psi.as_ref()),
        }),
        io: Some(V2Io { usage: io_by_device(s), psi: psi(s.blkio.psi.as_ref()) }),
        hugetlb: s
            .hugetlb
            .iter()
            .map(|(size, h)| V2Huge { current: h.usage, max: h.max, page_size: size.clone(), failcnt: h.failcnt })
            .collect(),
        events: Some(V2Events {
            low: event("low"),
            high: event("high"),
            max: event("max"),
            oom: event("oom"),
            oom_kill: event("oom_kill"),
        }),
    }
}

/// One entry a device, from libcontainer's lists under the names of v1.
fn io_by_device(s: &Stats) -> Vec<V2IoEntry> {
    let mut devices: Vec<V2IoEntry> = Vec::new();
    for (list, bytes) in [(&s.blkio.io_service_bytes_recursive, true), (&s.blkio.io_serviced_recursive, false)] {
        for entry in list {
            let index = devices.iter().position(|d| (d.major, d.minor) == (entry.major, entry.minor)).unwrap_or_else(|| {
                devices.push(V2IoEntry { major: entry.major, minor: entry.minor, ..V2IoEntry::default() });
                devices.len() - 1
            });
            let Some(device) = devices.get_mut(index) else { continue };
            match (bytes, entry.op.as_str()) {
                (true, "Read") => device.rbytes = entry.value,
                (true, "Write") => device.wbytes = entry.value,
                (false, "Read") => device.rios = entry.value,
                (false, "Write") => device.wios = entry.value,
                _ => {}
            }
        }
    }
    devices
}
