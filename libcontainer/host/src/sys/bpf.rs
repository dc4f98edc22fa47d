//! bpf(2) for the device programs of a cgroup: load, attach, replace, detach, list.
//!
//! Source: bpf(2), linux/bpf.h. BPF_PROG_TYPE_CGROUP_DEVICE needs Linux 4.15, BPF_F_REPLACE 5.6. Since 5.11 the kernel charges a
//! program to the caller's memory cgroup, so RLIMIT_MEMLOCK does not matter.

use std::ffi::c_void;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::Errno;

const PROG_LOAD: libc::c_long = 5;
const PROG_ATTACH: libc::c_long = 8;
const PROG_DETACH: libc::c_long = 9;
const PROG_GET_FD_BY_ID: libc::c_long = 13;
const OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const PROG_QUERY: libc::c_long = 16;

const PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_TYPE_CGROUP_DEVICE: u32 = 6;
const F_ALLOW_MULTI: u32 = 1 << 1;
const F_REPLACE: u32 = 1 << 2;

/// The maximum number of programs on one cgroup (BPF_CGROUP_MAX_PROGS).
const MAX_ATTACHED: usize = 64;

/// The size of a program's name, with its NUL (BPF_OBJ_NAME_LEN).
const NAME_LEN: usize = 16;
/// The name of masu's programs, which tells them from others on the same cgroup.
pub const NAME: [u8; NAME_LEN] = *b"masu_devices\0\0\0\0";

/// The number of attempts of a load that signals interrupt (EAGAIN).
const LOAD_TRIES: usize = 30;

/// One eBPF instruction (`struct bpf_insn`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct Instruction {
    /// Class, source and operation bits.
    pub code: u8,
    registers: u8,
    /// The number of instructions that a jump skips, or the offset of a load in the context.
    pub offset: i16,
    /// The immediate operand.
    pub immediate: i32,
}

impl Instruction {
    /// An instruction on the register `destination`, which may read the register `source`.
    pub const fn new(code: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> Instruction {
        let registers = if cfg!(target_endian = "big") { destination << 4 | source } else { source << 4 | destination };
        Instruction { code, registers, offset, immediate }
    }

    /// The number of the destination register.
    pub const fn destination(&self) -> u8 {
        if cfg!(target_endian = "big") { self.registers >> 4 } else { self.registers & 0xf }
    }

    /// The number of the source register.
    pub const fn source(&self) -> u8 {
        if cfg!(target_endian = "big") { self.registers & 0xf } else { self.registers >> 4 }
    }
}

/// `union bpf_attr` for BPF_PROG_LOAD, up to the last member that is set.
#[repr(C)]
struct LoadAttributes {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; NAME_LEN],
}

/// `union bpf_attr` for BPF_PROG_ATTACH and BPF_PROG_DETACH.
#[repr(C)]
#[derive(Default)]
struct AttachAttributes {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
    replace_bpf_fd: u32,
}

/// `union bpf_attr` for BPF_PROG_QUERY. All members are declared, because Linux 6.17 and later write `revision` even if the
/// caller gave a smaller size.
#[repr(C)]
#[derive(Default)]
struct QueryAttributes {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    pad: u32,
    prog_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

/// `union bpf_attr` for BPF_OBJ_GET_INFO_BY_FD.
#[repr(C)]
struct InfoAttributes {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// The beginning of `struct bpf_prog_info`.
#[repr(C)]
#[derive(Default)]
struct ProgramInfo {
    kind: u32,
    id: u32,
    tag: [u8; 8],
    jited_prog_len: u32,
    xlated_prog_len: u32,
    jited_prog_insns: u64,
    xlated_prog_insns: u64,
    load_time: u64,
    created_by_uid: u32,
    nr_map_ids: u32,
    map_ids: u64,
    name: [u8; NAME_LEN],
}

/// The kernel's hash of the program's instructions (linux/bpf.h, BPF_TAG_SIZE): equal instructions have equal tags.
///
/// # Errors
/// The errno of BPF_OBJ_GET_INFO_BY_FD.
pub fn program_tag(program: BorrowedFd<'_>) -> Result<[u8; 8], Errno> {
    program_info(program).map(|info| info.tag)
}

/// The name under which the program was loaded.
///
/// # Errors
/// The errno of BPF_OBJ_GET_INFO_BY_FD.
pub fn program_name(program: BorrowedFd<'_>) -> Result<[u8; NAME_LEN], Errno> {
    program_info(program).map(|info| info.name)
}

fn program_info(program: BorrowedFd<'_>) -> Result<ProgramInfo, Errno> {
    let mut info = ProgramInfo::default();
    let mut attributes = InfoAttributes {
        bpf_fd: program.as_raw_fd().cast_unsigned(),
        info_len: size_of::<ProgramInfo>() as u32,
        info: &raw mut info as u64,
    };
    // SAFETY: BPF_OBJ_GET_INFO_BY_FD writes at most `info_len` bytes at `info`, a live structure of that size. repr(C) gives it
    // the layout of the beginning of the kernel's.
    unsafe { bpf(OBJ_GET_INFO_BY_FD, &mut attributes) }?;
    Ok(info)
}

/// Loads a device program. `name` must end with a NUL. The returned descriptor is close-on-exec.
///
/// # Errors
/// EPERM without CAP_BPF or CAP_SYS_ADMIN in the initial user namespace; EINVAL or EACCES if the verifier refuses.
pub fn load_device_program(program: &[Instruction], name: [u8; NAME_LEN]) -> Result<OwnedFd, Errno> {
    let license = c"Apache-2.0";
    let mut attributes = LoadAttributes {
        prog_type: PROG_TYPE_CGROUP_DEVICE,
        insn_cnt: u32::try_from(program.len()).map_err(|_| Errno::TOOBIG)?,
        insns: program.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buf: 0,
        kern_version: 0,
        prog_flags: 0,
        prog_name: name,
    };
    for _ in 0..LOAD_TRIES {
        // SAFETY: BPF_PROG_LOAD reads `insn_cnt` instructions at `insns`, a live slice of that length with the layout of struct
        // bpf_insn (repr(C)). It reads a string at `license`, a literal with its NUL. It keeps neither.
        match unsafe { bpf(PROG_LOAD, &mut attributes) } {
            Err(Errno::AGAIN) => {}
            // SAFETY: a successful load returns a new descriptor (close-on-exec, bpf(2)) without another owner.
            result => return result.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }),
        }
    }
    Err(Errno::AGAIN)
}

/// Attaches a device program to a cgroup v2 directory, beside others or, with `replace`, in the place of that program.
///
/// # Errors
/// EPERM without the needed capability; ENOENT if `replace` is not attached there.
pub fn attach_device_program(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>, replace: Option<BorrowedFd<'_>>) -> Result<(), Errno> {
    let mut attributes = attach_attributes(cgroup, program);
    attributes.attach_flags = F_ALLOW_MULTI;
    if let Some(old) = replace {
        attributes.attach_flags |= F_REPLACE;
        attributes.replace_bpf_fd = old.as_raw_fd().cast_unsigned();
    }
    // SAFETY: BPF_PROG_ATTACH reads only the members of the structure; it has no pointers.
    unsafe { bpf(PROG_ATTACH, &mut attributes) }.map(drop)
}

/// Detaches a device program from a cgroup v2 directory.
///
/// # Errors
/// ENOENT if the program is not attached there; otherwise the errno of BPF_PROG_DETACH.
pub fn detach_device_program(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut attributes = attach_attributes(cgroup, program);
    // SAFETY: BPF_PROG_DETACH reads only the members of the structure; it has no pointers.
    unsafe { bpf(PROG_DETACH, &mut attributes) }.map(drop)
}

/// The device programs on this cgroup itself, without its ancestors. A program that a security module hides is left out: that
/// is safe, because one program can only narrow the others.
///
/// # Errors
/// The errno of BPF_PROG_QUERY or BPF_PROG_GET_FD_BY_ID; ENOSPC for more than 64 programs.
pub fn attached_device_programs(cgroup: BorrowedFd<'_>) -> Result<Vec<OwnedFd>, Errno> {
    let mut ids = [0_u32; MAX_ATTACHED];
    let mut attributes = QueryAttributes {
        target_fd: cgroup.as_raw_fd().cast_unsigned(),
        attach_type: ATTACH_TYPE_CGROUP_DEVICE,
        prog_ids: ids.as_mut_ptr() as u64,
        prog_cnt: MAX_ATTACHED as u32,
        ..QueryAttributes::default()
    };
    // SAFETY: BPF_PROG_QUERY writes at most `prog_cnt` numbers of 32 bits at `prog_ids`, a live array of that length, and members
    // of the structure, which is declared completely. Its other pointers are null, so nothing is written there.
    unsafe { bpf(PROG_QUERY, &mut attributes) }?;
    let mut programs = Vec::new();
    for id in ids.iter().take(attributes.prog_cnt as usize) {
        let mut id = *id;
        // SAFETY: BPF_PROG_GET_FD_BY_ID reads one number of 32 bits.
        match unsafe { bpf(PROG_GET_FD_BY_ID, &mut id) } {
            // SAFETY: success returns a new descriptor (close-on-exec) without another owner.
            Ok(fd) => programs.push(unsafe { OwnedFd::from_raw_fd(fd) }),
            Err(Errno::PERM | Errno::ACCESS | Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(programs)
}

fn attach_attributes(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> AttachAttributes {
    AttachAttributes {
        target_fd: cgroup.as_raw_fd().cast_unsigned(),
        attach_bpf_fd: program.as_raw_fd().cast_unsigned(),
        attach_type: ATTACH_TYPE_CGROUP_DEVICE,
        ..AttachAttributes::default()
    }
}

/// The system call itself.
///
/// # Safety
/// `attributes` must be the structure that `command` expects, a prefix of `union bpf_attr`. Every pointer in it must be valid
/// for the command.
unsafe fn bpf<T>(command: libc::c_long, attributes: &mut T) -> Result<i32, Errno> {
    let attributes: *mut T = attributes;
    // SAFETY: the pointer is to a live, exclusively borrowed T, and its size is given; the caller promises the rest.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes.cast::<c_void>(), size_of::<T>()) };
    match i32::try_from(result) {
        Ok(fd) if fd >= 0 => Ok(fd),
        _ => Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instruction_is_laid_out_as_the_kernel_reads_it() {
        let i = Instruction::new(0x61, 2, 1, 4, -1);
        assert_eq!((size_of::<Instruction>(), i.destination(), i.source()), (8, 2, 1));
        if cfg!(target_endian = "little") {
            assert_eq!(i.registers, 0x12);
        }
    }
}
