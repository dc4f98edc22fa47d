//! Numbers of system calls by name, for each architecture (in the plan, in the parent).
//!
//! The numbers come from the crate `syscalls`, which is generated from the kernel's tables. Calls that it lacks or names
//! differently are added here. The program has only the tables of architectures that the target can run.

use super::arch::Arch;
use super::names::{Names, bytes};

/// Calls newer than the crate, with their numbers above the base of each architecture.
const NEW: &[(&str, u32)] = &[("listns", 470), ("rseq_slice_yield", 471)];

/// `table! { NAME, module of the crate, base, [missing calls], numbers to leave out }`
macro_rules! table {
    ($name:ident, $module:ident, $base:literal, $extra:expr, $skip:pat) => {
        static $name: Names<{ $module::LIST.len() }, { bytes(&$module::LIST) }> = Names::new(&$module::LIST);
        mod $module {
            use syscalls::$module::Sysno;

            const EXTRA: &[(&str, u32)] = $extra;

            const fn listed(id: i32) -> Option<Sysno> {
                match id - $base {
                    $skip => None,
                    _ => Sysno::new(id as usize),
                }
            }

            const COUNT: usize = {
                let (mut id, mut n) = (Sysno::first().id(), super::NEW.len() + EXTRA.len());
                while id <= Sysno::last().id() {
                    n += listed(id).is_some() as usize;
                    id += 1;
                }
                n
            };

            pub(super) const LIST: [(&str, u32); COUNT] = {
                let mut list = [("", 0); COUNT];
                let (mut id, mut n) = (Sysno::first().id(), 0);
                while id <= Sysno::last().id() {
                    if let Some(call) = listed(id) {
                        list[n] = (call.name(), id as u32);
                        // `break` is a keyword of Rust, so the crate has `r#break`
                        if let Some((b"r#", _)) = call.name().as_bytes().split_at_checked(2) {
                            list[n].0 = call.name().split_at(2).1;
                        }
                        n += 1;
                    }
                    id += 1;
                }
                let mut i = 0;
                while i < super::NEW.len() {
                    list[n] = (super::NEW[i].0, super::NEW[i].1 + $base);
                    n += 1;
                    i += 1;
                }
                i = 0;
                while i < EXTRA.len() {
                    list[n] = EXTRA[i];
                    n += 1;
                    i += 1;
                }
                list
            };
        }
    };
}

const NONE: i32 = -1;

#[cfg(any(test, target_arch = "x86", target_arch = "x86_64"))]
table! { X86_64, x86_64, 0, &[], super::NONE }
#[cfg(any(test, target_arch = "x86", target_arch = "x86_64"))]
table! { X86, x86, 0, &[], super::NONE }
// The generic table (include/uapi/asm-generic/unistd.h) names call 79 newfstatat, but the crate names it fstatat. The crate
// also lists the calls with 64-bit times (403 to 423), which only 32-bit architectures have.
#[cfg(any(test, target_arch = "arm", target_arch = "aarch64"))]
table! { AARCH64, aarch64, 0, &[("newfstatat", 79)], 79 | 403..=423 }
#[cfg(any(test, target_arch = "loongarch64"))]
table! { LOONGARCH64, loongarch64, 0, &[("newfstatat", 79)], 38 | 79 | 163 | 164 | 403..=423 | 447 }
// arch/arm/include/uapi/asm/unistd.h, __ARM_NR_*
#[cfg(any(test, target_arch = "arm", target_arch = "aarch64"))]
table! { ARM, arm, 0, &[
    ("breakpoint", 0xf_0001), ("cacheflush", 0xf_0002), ("usr26", 0xf_0003), ("usr32", 0xf_0004), ("set_tls", 0xf_0005),
    ("get_tls", 0xf_0006),
], super::NONE }
#[cfg(any(test, target_arch = "riscv64"))]
table! { RISCV64, riscv64, 0, &[], super::NONE }
#[cfg(any(test, target_arch = "s390x"))]
table! { S390X, s390x, 0, &[], super::NONE }
#[cfg(any(test, target_arch = "powerpc", target_arch = "powerpc64"))]
table! { PPC, powerpc, 0, &[], super::NONE }
#[cfg(any(test, target_arch = "powerpc", target_arch = "powerpc64"))]
table! { PPC64, powerpc64, 0, &[], super::NONE }
#[cfg(any(test, target_arch = "mips", target_arch = "mips64"))]
table! { MIPS, mips, 4000, &[], super::NONE }
#[cfg(any(test, target_arch = "mips", target_arch = "mips64"))]
table! { MIPS64, mips64, 5000, &[("set_mempolicy_home_node", 5450)], super::NONE }

/// The x32 number of an x86_64 call (arch/x86/entry/syscalls/syscall_64.tbl). It is the same number, except for calls with an
/// x32 entry of their own, and for calls that x32 lacks.
#[cfg(any(test, target_arch = "x86", target_arch = "x86_64"))]
fn x32(number: u32) -> Option<u32> {
    let own = match number {
        13 => 512,
        15 => 513,
        16 => 514,
        19 => 515,
        20 => 516,
        45 => 517,
        46 => 518,
        47 => 519,
        59 => 520,
        101 => 521,
        127 => 522,
        128 => 523,
        129 => 524,
        131 => 525,
        222 => 526,
        244 => 527,
        246 => 528,
        247 => 529,
        273 => 530,
        274 => 531,
        278 => 532,
        279 => 533,
        295 => 534,
        296 => 535,
        297 => 536,
        299 => 537,
        307 => 538,
        310 => 539,
        311 => 540,
        54 => 541,
        55 => 542,
        206 => 543,
        209 => 544,
        322 => 545,
        327 => 546,
        328 => 547,
        134 | 156 | 174 | 177 | 178 | 180 | 205 | 211 | 214 | 215 | 236 => return None,
        other => other,
    };
    Some(own | super::arch::X32_BIT)
}

/// The calls in which 31-bit s390 differs from s390x (arch/s390/kernel/syscalls/syscall.tbl).
#[cfg(any(test, target_arch = "s390x"))]
const S390: &[(&str, u32)] = &[
    ("time", 13),
    ("lchown", 16),
    ("setuid", 23),
    ("getuid", 24),
    ("stime", 25),
    ("setgid", 46),
    ("getgid", 47),
    ("geteuid", 49),
    ("getegid", 50),
    ("setreuid", 70),
    ("setregid", 71),
    ("getrlimit", 76),
    ("getgroups", 80),
    ("setgroups", 81),
    ("fchown", 95),
    ("ioperm", 101),
    ("setfsuid", 138),
    ("setfsgid", 139),
    ("_llseek", 140),
    ("_newselect", 142),
    ("setresuid", 164),
    ("getresuid", 165),
    ("setresgid", 170),
    ("getresgid", 171),
    ("chown", 182),
    ("ugetrlimit", 191),
    ("mmap2", 192),
    ("truncate64", 193),
    ("ftruncate64", 194),
    ("stat64", 195),
    ("lstat64", 196),
    ("fstat64", 197),
    ("lchown32", 198),
    ("getuid32", 199),
    ("getgid32", 200),
    ("geteuid32", 201),
    ("getegid32", 202),
    ("setreuid32", 203),
    ("setregid32", 204),
    ("getgroups32", 205),
    ("setgroups32", 206),
    ("fchown32", 207),
    ("setresuid32", 208),
    ("getresuid32", 209),
    ("setresgid32", 210),
    ("getresgid32", 211),
    ("chown32", 212),
    ("setuid32", 213),
    ("setgid32", 214),
    ("setfsuid32", 215),
    ("setfsgid32", 216),
    ("fcntl64", 221),
    ("sendfile64", 223),
    ("fadvise64_64", 264),
    ("fstatat64", 293),
    ("clock_gettime64", 403),
    ("clock_settime64", 404),
    ("clock_adjtime64", 405),
    ("clock_getres_time64", 406),
    ("clock_nanosleep_time64", 407),
    ("timer_gettime64", 408),
    ("timer_settime64", 409),
    ("timerfd_gettime64", 410),
    ("timerfd_settime64", 411),
    ("utimensat_time64", 412),
    ("pselect6_time64", 413),
    ("ppoll_time64", 414),
    ("io_pgetevents_time64", 416),
    ("recvmmsg_time64", 417),
    ("mq_timedsend_time64", 418),
    ("mq_timedreceive_time64", 419),
    ("semtimedop_time64", 420),
    ("rt_sigtimedwait_time64", 421),
    ("futex_time64", 422),
    ("sched_rr_get_interval_time64", 423),
];

#[cfg(any(test, target_arch = "s390x"))]
fn s390(name: &str) -> Option<u32> {
    match S390.iter().find(|own| own.0 == name) {
        Some(own) => Some(own.1),
        None if matches!(name, "newfstatat" | "select" | "semtimedop") => None,
        None => S390X.get(name),
    }
}

/// Whether this program has a table for `arch`; programs for other targets have other tables.
pub(super) fn known(arch: Arch) -> bool {
    !matches!(arch, Arch::Mips64N32 | Arch::Mipsel64N32) && !arch.is_foreign()
}

/// The number of `name` on `arch`, with bit 30 for x32 and the base for MIPS; `None` if the architecture lacks the call.
pub(super) fn number(arch: Arch, name: &str) -> Option<u32> {
    match arch {
        #[cfg(any(test, target_arch = "x86", target_arch = "x86_64"))]
        Arch::X86_64 => X86_64.get(name),
        #[cfg(any(test, target_arch = "x86", target_arch = "x86_64"))]
        Arch::X32 => X86_64.get(name).and_then(x32),
        #[cfg(any(test, target_arch = "x86", target_arch = "x86_64"))]
        Arch::X86 => X86.get(name),
        #[cfg(any(test, target_arch = "arm", target_arch = "aarch64"))]
        Arch::Aarch64 => AARCH64.get(name),
        #[cfg(any(test, target_arch = "arm", target_arch = "aarch64"))]
        Arch::Arm => ARM.get(name),
        #[cfg(any(test, target_arch = "loongarch64"))]
        Arch::Loongarch64 => LOONGARCH64.get(name),
        #[cfg(any(test, target_arch = "riscv64"))]
        Arch::Riscv64 => RISCV64.get(name),
        #[cfg(any(test, target_arch = "s390x"))]
        Arch::S390x => S390X.get(name),
        #[cfg(any(test, target_arch = "s390x"))]
        Arch::S390 => s390(name),
        #[cfg(any(test, target_arch = "powerpc", target_arch = "powerpc64"))]
        Arch::Ppc => PPC.get(name),
        #[cfg(any(test, target_arch = "powerpc", target_arch = "powerpc64"))]
        Arch::Ppc64 | Arch::Ppc64le => PPC64.get(name),
        #[cfg(any(test, target_arch = "mips", target_arch = "mips64"))]
        Arch::Mips | Arch::Mipsel => MIPS.get(name),
        #[cfg(any(test, target_arch = "mips", target_arch = "mips64"))]
        Arch::Mips64 | Arch::Mipsel64 => MIPS64.get(name),
        _ => None,
    }
}

/// socketcall(2) or ipc(2), and the first argument that selects `name` (linux/net.h, linux/ipc.h).
pub(super) fn multiplexed(name: &str) -> Option<(&'static str, u32)> {
    const LIST: [(&str, u32); 32] = [
        ("socket", 1),
        ("bind", 2),
        ("connect", 3),
        ("listen", 4),
        ("accept", 5),
        ("getsockname", 6),
        ("getpeername", 7),
        ("socketpair", 8),
        ("send", 9),
        ("recv", 10),
        ("sendto", 11),
        ("recvfrom", 12),
        ("shutdown", 13),
        ("setsockopt", 14),
        ("getsockopt", 15),
        ("sendmsg", 16),
        ("recvmsg", 17),
        ("accept4", 18),
        ("recvmmsg", 19),
        ("sendmmsg", 20),
        ("semop", IPC | 1),
        ("semget", IPC | 2),
        ("semctl", IPC | 3),
        ("semtimedop", IPC | 4),
        ("msgsnd", IPC | 11),
        ("msgrcv", IPC | 12),
        ("msgget", IPC | 13),
        ("msgctl", IPC | 14),
        ("shmat", IPC | 21),
        ("shmdt", IPC | 22),
        ("shmget", IPC | 23),
        ("shmctl", IPC | 24),
    ];
    const IPC: u32 = 0x100;
    static CALLS: Names<{ LIST.len() }, { bytes(&LIST) }> = Names::new(&LIST);
    let call = CALLS.get(name)?;
    Some((if call & IPC == 0 { "socketcall" } else { "ipc" }, call & !IPC))
}
