//! Scheduling, CPU affinity, I/O priority and memory policy of the caller: sched_setattr(2), sched_setaffinity(2), ioprio_set(2),
//! set_mempolicy(2).

use rustix::io::Errno;

/// `struct sched_attr` of linux/sched/types.h, with the size of kernel 5.3; see sched_setattr(2) for the values.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SchedAttr {
    /// The size of this structure in bytes; [`set_attributes`] sets it.
    pub size: u32,
    /// `SCHED_*`.
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
    /// -20 to 19, for SCHED_OTHER and SCHED_BATCH.
    pub nice: i32,
    /// 1 to 99, for SCHED_FIFO and SCHED_RR.
    pub priority: u32,
    /// Nanoseconds, for SCHED_DEADLINE.
    pub runtime: u64,
    /// Nanoseconds, for SCHED_DEADLINE.
    pub deadline: u64,
    /// Nanoseconds, for SCHED_DEADLINE.
    pub period: u64,
    /// The lower utilization clamp, 0 to 1024.
    pub util_min: u32,
    /// The upper utilization clamp, 0 to 1024.
    pub util_max: u32,
}

/// IOPRIO_WHO_PROCESS of linux/ioprio.h. runc uses the process group, which is the same for a session leader without children.
const PROCESS: libc::c_int = 1;

/// Sets the scheduling policy and attributes of the caller.
///
/// # Errors
/// The errno of sched_setattr(2).
pub fn set_attributes(attr: &SchedAttr) -> Result<(), Errno> {
    let mut attr = *attr;
    attr.size = size_of::<SchedAttr>() as u32;
    // SAFETY: the kernel reads `size` bytes of `attr`, a sched_attr; on E2BIG it writes its own size into the field `size` of
    // this
    // copy.
    match unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw mut attr, 0) } {
        -1 => Err(super::last_errno()),
        _ => Ok(()),
    }
}

/// Restricts the caller to the CPUs of the mask `cpus` (bit n is CPU n). CPUs that the machine or the cpuset lacks are ignored.
///
/// # Errors
/// The errno of sched_setaffinity(2): EINVAL if no CPU is left.
pub fn set_affinity(cpus: &[u64]) -> Result<(), Errno> {
    // SAFETY: the kernel reads at most the given number of bytes from a slice of that size.
    match unsafe { libc::syscall(libc::SYS_sched_setaffinity, 0, size_of_val(cpus), cpus.as_ptr()) } {
        -1 => Err(super::last_errno()),
        _ => Ok(()),
    }
}

/// The CPUs that the caller may run on, as a mask (bit n is CPU n).
///
/// # Errors
/// The errno of sched_getaffinity(2).
pub fn affinity() -> Result<Vec<u64>, Errno> {
    let mut cpus = vec![0_u64; 16];
    loop {
        // SAFETY: the kernel writes at most the given number of bytes into a vector of that size.
        match unsafe { libc::syscall(libc::SYS_sched_getaffinity, 0, size_of_val(cpus.as_slice()), cpus.as_mut_ptr()) } {
            -1 => match super::last_errno() {
                // the kernel has more CPUs than fit
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

/// Sets the I/O priority of the caller; `priority` has class and level as in linux/ioprio.h.
///
/// # Errors
/// The errno of ioprio_set(2).
pub fn set_io_priority(priority: u32) -> Result<(), Errno> {
    // SAFETY: the call takes three integers.
    match unsafe { libc::syscall(libc::SYS_ioprio_set, PROCESS, 0, priority) } {
        -1 => Err(super::last_errno()),
        _ => Ok(()),
    }
}

/// Sets the memory policy of the caller: `MPOL_*`, and a mask of nodes (bit n is node n), which may be empty.
///
/// # Errors
/// The errno of set_mempolicy(2).
pub fn set_memory_policy(mode: u32, nodes: &[u64]) -> Result<(), Errno> {
    // the kernel subtracts one from the number of bits (get_nodes()), and an empty set must be a null pointer
    let (address, bits) = if nodes.is_empty() { (std::ptr::null(), 0) } else { (nodes.as_ptr(), nodes.len() * 64 + 1) };
    // SAFETY: the kernel reads at most the given number of bits, less one, from a slice of that size, or nothing from null.
    match unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, address, bits) } {
        -1 => Err(super::last_errno()),
        _ => Ok(()),
    }
}
