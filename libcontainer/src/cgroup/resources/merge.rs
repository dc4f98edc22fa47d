//! Merges new limits into those in force, for `update`, by runc's rules.

use crate::spec::{BlockIo, Cpu, Memory, Resources, ThrottleDevice};

/// The resources after an update, to write and to record.
///
/// - An absent value keeps the old one, except for pids, cpuset, burst, idle and `unified`. Those are written only when
///   given, so that changes by other programs stay.
/// - `memory.limit` -1 without `swap` makes swap unlimited too.
/// - `idle` without `shares` drops the shares, because the kernel refuses a weight while a cgroup is idle.
/// - Rates and weights of devices replace those of the same device. The device rules stay.
pub fn merge(old: &Resources, new: &Resources) -> Resources {
    let mut r = Resources { devices: old.devices.clone(), unified: new.unified.clone(), pids: new.pids.clone(), ..Resources::default() };
    r.memory = memory(&old.memory, &new.memory);
    r.cpu = cpu(&old.cpu, &new.cpu);
    r.block_io = block_io(&old.block_io, &new.block_io);
    r.hugepage_limits.clone_from(&old.hugepage_limits);
    for limit in &new.hugepage_limits {
        upsert(&mut r.hugepage_limits, limit, |a, b| a.page_size == b.page_size);
    }
    r.network = old.network.clone();
    r.network.class_id = new.network.class_id.or(old.network.class_id);
    for priority in &new.network.priorities {
        upsert(&mut r.network.priorities, priority, |a, b| a.name == b.name);
    }
    r.rdma.clone_from(&old.rdma);
    r.rdma.extend(new.rdma.clone());
    r
}

fn memory(old: &Memory, new: &Memory) -> Memory {
    let swap = if new.limit == Some(-1) && new.swap.is_none() { Some(0) } else { new.swap.or(old.swap) };
    Memory {
        limit: new.limit.or(old.limit),
        reservation: new.reservation.or(old.reservation),
        swap,
        kernel: None,
        kernel_tcp: None,
        swappiness: new.swappiness.or(old.swappiness),
        disable_oom_killer: new.disable_oom_killer.or(old.disable_oom_killer),
        use_hierarchy: old.use_hierarchy,
        check_before_update: new.check_before_update.or(Some(false)),
    }
}

fn cpu(old: &Cpu, new: &Cpu) -> Cpu {
    let given = |v: Option<u64>| v.filter(|v| *v != 0);
    Cpu {
        shares: if new.idle.is_some() && new.shares.is_none() { Some(0) } else { new.shares.or(old.shares) },
        quota: new.quota.filter(|q| *q != 0).or(old.quota),
        burst: new.burst,
        period: given(new.period).or(old.period),
        realtime_runtime: new.realtime_runtime.or(old.realtime_runtime),
        realtime_period: new.realtime_period.or(old.realtime_period),
        cpus: new.cpus.clone(),
        mems: new.mems.clone(),
        idle: new.idle,
    }
}

fn block_io(old: &BlockIo, new: &BlockIo) -> BlockIo {
    let mut io = old.clone();
    io.weight = new.weight.or(old.weight);
    io.leaf_weight = new.leaf_weight.or(old.leaf_weight);
    for device in &new.weight_device {
        match io.weight_device.iter_mut().rev().find(|d| (d.major, d.minor) == (device.major, device.minor)) {
            Some(d) => {
                d.weight = device.weight.or(d.weight);
                d.leaf_weight = device.leaf_weight.or(d.leaf_weight);
            }
            None => io.weight_device.push(device.clone()),
        }
    }
    let same = |a: &ThrottleDevice, b: &ThrottleDevice| (a.major, a.minor) == (b.major, b.minor);
    for (to, from) in [
        (&mut io.throttle_read_bps_device, &new.throttle_read_bps_device),
        (&mut io.throttle_write_bps_device, &new.throttle_write_bps_device),
        (&mut io.throttle_read_iops_device, &new.throttle_read_iops_device),
        (&mut io.throttle_write_iops_device, &new.throttle_write_iops_device),
    ] {
        for device in from {
            upsert(to, device, same);
        }
    }
    io
}

/// Replaces the last equal entry, because it is the one in force; else appends.
fn upsert<T: Clone>(list: &mut Vec<T>, entry: &T, same: impl Fn(&T, &T) -> bool) {
    match list.iter_mut().rev().find(|e| same(e, entry)) {
        Some(e) => e.clone_from(entry),
        None => list.push(entry.clone()),
    }
}
