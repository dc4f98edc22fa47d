//! Where and when a process runs, and where its memory comes from: sched_setattr(2), sched_setaffinity(2), ioprio_set(2),
//! set_mempolicy(2).

use rustix::io::Errno;

/// `struct sched_attr` of `linux/sched/types.h`, as long as in kernel 5.3.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SchedAttr {
    pub size: u32,
    pub policy: u32,
    pub flags: u64,
    pub nice: i32,
    pub priority: u32,
    pub runtime: u64,
    pub deadline: u64,
    pub period: u64,
    pub util_min: u32,
    pub util_max: u32,
}

/// IOPRIO_WHO_PROCESS of `linux/ioprio.h`; runc calls it the process group, which a session leader of one process is.
const PROCESS: libc::c_int = 1;

/// Sets how the caller is scheduled.
pub fn set_attributes(attr: &SchedAttr) -> Result<(), Errno> {
    let mut attr = *attr;
    attr.size = size_of::<SchedAttr>() as u32;
    // SAFETY: the kernel reads `size` bytes of a sched_attr, which `attr` is; on E2BIG it writes its own size into the
    // field `size` of this copy.
    match unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw mut attr, 0) } {
        -1 => Err(super::last_errno()),
        _ => Ok(()),
    }
}

/// Restricts the caller to these CPUs. Those that the machine or the cpuset lacks do not count.
pub fn set_affinity(cpus: &[u64]) -> Result<(), Errno> {
    // SAFETY: the kernel reads at most so many bytes from a slice of that size.
    match unsafe { libc::syscall(libc::SYS_sched_setaffinity, 0, size_of_val(cpus), cpus.as_ptr()) } {
        -1 => Err(super::last_errno()),
        _ => Ok(()),
    }
}

/// The CPUs that the caller may run on.
pub fn affinity() -> Result<Vec<u64>, Errno> {
    let mut cpus = vec![0_u64; 16];
    loop {
        // SAFETY: the kernel writes at most so many bytes into a vector of that size.
        match unsafe { libc::syscall(libc::SYS_sched_getaffinity, 0, size_of_val(cpus.as_slice()), cpus.as_mut_ptr()) } {
            -1 => match super::last_errno() {
                // a machine with more CPUs
                Errno::INVAL if cpus.len() < 1 << 12 => cpus = vec![0; cpus.len() * 4],
                errno => return Err(errno),
            },
            written => {
                cpus.truncate(written as usize / size_of::<u64>());
                return Ok(cpus);
            }
        }
    }
}

/// Sets the I/O priority of the caller: class and level in one number, as `linux/ioprio.h` has them.
pub fn set_io_priority(priority: u32) -> Result<(), Errno> {
    // SAFETY: three integers.
    match unsafe { libc::syscall(libc::SYS_ioprio_set, PROCESS, 0, priority) } {
        -1 => Err(super::last_errno()),
        _ => Ok(()),
    }
}

/// Sets the caller's memory policy; no nodes is an empty set.
pub fn set_memory_policy(mode: u32, nodes: &[u64]) -> Result<(), Errno> {
    // the kernel takes one off the number of bits (its get_nodes()), and takes only no address for no nodes
    let (address, bits) = if nodes.is_empty() { (std::ptr::null(), 0) } else { (nodes.as_ptr(), nodes.len() * 64 + 1) };
    // SAFETY: the kernel reads so many bits, less one, from a slice of that size, or nothing from no address.
    match unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, address, bits) } {
        -1 => Err(super::last_errno()),
        _ => Ok(()),
    }
}
