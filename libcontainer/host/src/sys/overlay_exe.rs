//! Executes the own program again from a read-only overlay of its directory; [`sealed_exe`](crate::sealed_exe) says why. In a
//! static program this happens at the first instruction, before the C library and the standard library start. So their start
//! and the parsing of the arguments are done once, not twice. This saves a sixth of the page faults of an `exec`.
//!
//! At that point nothing is relocated and there is no thread-local storage. So no address may come from a table, and nothing may
//! set `errno`. A call into the C library would need the table, too: the volatile accesses keep the compiler from making a loop
//! over bytes a call of strlen(3). A failure here is not reported: [`seal`](crate::sealed_exe::seal) tries again and reports it.

use std::convert::Infallible;
use std::ffi::{CStr, c_char, c_long};
use std::mem::MaybeUninit;

use super::exec::Strings;

const OWN: &CStr = c"/proc/self/exe";
/// A program with a longer path is sealed by a copy in memory.
const LONGEST: usize = 1000;
/// A second lower directory; [`execve_with`] says why.
const SECOND: &[u8] = b":/sys\0";

/// Executes the own program again, from a sealed overlay. It returns only on failure.
pub fn execve_overlay(args: &Strings<'_>, env: &Strings<'_>) {
    // SAFETY: both lists end with a null pointer, and their strings are borrowed (Strings::new).
    unsafe { execve(args.as_ptr(), env.as_ptr()) }
}

/// # Safety
/// `args` and `env` are lists of C strings that end with a null pointer.
#[inline(always)]
unsafe fn execve(args: *const *const c_char, env: *const *const c_char) {
    let mut opened = [usize::MAX; 3];
    // SAFETY: as the caller says. The descriptors have no other owner, and close(2) of an invalid number does nothing.
    unsafe {
        let _ = execve_with(&mut opened, args, env);
        for fd in opened {
            let _ = call(libc::SYS_close, [fd, 0, 0, 0, 0]);
        }
    }
}

/// # Safety
/// As for [`execve`]. The opened descriptors are stored in `opened`; a successful execve closes them.
#[inline(always)]
unsafe fn execve_with(opened: &mut [usize; 3], args: *const *const c_char, env: *const *const c_char) -> Option<Infallible> {
    let (mut path, mut lower) = (MaybeUninit::<[u8; LONGEST + 1]>::uninit(), MaybeUninit::<[u8; 2 * LONGEST + SECOND.len()]>::uninit());
    let (mut ours, mut theirs) = (MaybeUninit::<libc::stat>::uninit(), MaybeUninit::<libc::stat>::uninit());
    let (path, lower) = (path.as_mut_ptr().cast::<u8>(), lower.as_mut_ptr().cast::<u8>());
    // SAFETY: the kernel gets C strings, and buffers with their sizes. `path` has `len` bytes and room for one more. Each byte
    // before its last slash becomes at most two bytes of `lower`.
    unsafe {
        let len = call(libc::SYS_readlinkat, [word(libc::AT_FDCWD), address(OWN), path as usize, LONGEST, 0])?;
        path.add(len).write(0);
        let mut slash = 0;
        for i in 0..len {
            if path.add(i).read_volatile() == b'/' {
                slash = i;
            }
        }
        // the path was cut off, or the program was removed
        if len == LONGEST || path.read() != b'/' {
            return None;
        }
        // an overlay without an upper layer needs two lower ones; the second is used only for names that the first lacks
        let mut end = lower;
        for i in 0..slash.max(1) {
            let byte = path.add(i).read_volatile();
            if byte == b'\\' || byte == b':' {
                end.write_volatile(b'\\');
                end = end.add(1);
            }
            end.write_volatile(byte);
            end = end.add(1);
        }
        for i in 0..SECOND.len() {
            end.add(i).write_volatile(SECOND.as_ptr().add(i).read_volatile());
        }
        let fs = call(libc::SYS_fsopen, [address(c"overlay"), FSOPEN_CLOEXEC, 0, 0, 0])?;
        opened[0] = fs;
        call(libc::SYS_fsconfig, [fs, FSCONFIG_SET_STRING, address(c"lowerdir"), lower as usize, 0])?;
        call(libc::SYS_fsconfig, [fs, FSCONFIG_CMD_CREATE, 0, 0, 0])?;
        let mount = call(libc::SYS_fsmount, [fs, FSMOUNT_CLOEXEC, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV, 0, 0])?;
        opened[1] = mount;
        let flags = word(libc::O_PATH | libc::O_NOFOLLOW | libc::O_CLOEXEC);
        let copy = call(libc::SYS_openat, [mount, path.add(slash + 1) as usize, flags, 0, 0])?;
        opened[2] = copy;
        // another file may be at the path by now: the executed file must be the one that runs
        call(libc::SYS_newfstatat, [word(libc::AT_FDCWD), address(OWN), ours.as_mut_ptr() as usize, 0, 0])?;
        call(libc::SYS_newfstatat, [copy, address(c""), theirs.as_mut_ptr() as usize, word(libc::AT_EMPTY_PATH), 0])?;
        let (ours, theirs) = (ours.assume_init_ref(), theirs.assume_init_ref());
        if ours.st_size != theirs.st_size || ours.st_mtime != theirs.st_mtime || ours.st_mtime_nsec != theirs.st_mtime_nsec {
            return None;
        }
        call(libc::SYS_execveat, [copy, address(c""), args as usize, env as usize, word(libc::AT_EMPTY_PATH)])?;
    }
    None
}

const FSOPEN_CLOEXEC: usize = 1;
const FSCONFIG_SET_STRING: usize = 1;
const FSCONFIG_CMD_CREATE: usize = 6;
const FSMOUNT_CLOEXEC: usize = 1;
const MOUNT_ATTR_RDONLY: usize = 1;
const MOUNT_ATTR_NOSUID: usize = 2;
const MOUNT_ATTR_NODEV: usize = 4;

#[inline(always)]
fn address(text: &'static CStr) -> usize {
    text.as_ptr() as usize
}

/// The value as the kernel reads an int.
#[inline(always)]
fn word(value: i32) -> usize {
    value as isize as usize
}

/// A system call without the C library; `None` if it failed.
///
/// # Safety
/// The arguments must be valid for the call.
#[inline(always)]
unsafe fn call(number: c_long, [a, b, c, d, e]: [usize; 5]) -> Option<usize> {
    let result: isize;
    // SAFETY: the caller promises valid arguments; the kernel changes the result's register, on x86_64 also rcx and r11.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        std::arch::asm!("syscall", inlateout("rax") number as isize => result, in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d,
            in("r8") e, lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    // SAFETY: as above.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        std::arch::asm!("svc 0", inlateout("x0") a as isize => result, in("x1") b, in("x2") c, in("x3") d, in("x4") e,
            in("x8") number, options(nostack));
    }
    // SAFETY: as above; on these architectures this is called only after the start of the C library.
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    unsafe {
        result = libc::syscall(number, a, b, c, d, e) as isize;
    }
    usize::try_from(result).ok()
}

/// The entry point of the program; a build script passes its name to the linker.
#[cfg(all(target_env = "musl", any(target_arch = "x86_64", target_arch = "aarch64")))]
mod entry {
    use super::*;

    /// # Safety
    /// Only the kernel may call this, with the stack of execve(2).
    #[unsafe(naked)]
    #[unsafe(no_mangle)]
    #[cfg(target_arch = "x86_64")]
    unsafe extern "C" fn masu_entry() -> ! {
        std::arch::naked_asm!("mov rbx, rdx", "mov rdi, rsp", "call {seal}", "mov rdx, rbx", "jmp _start", seal = sym seal)
    }

    /// # Safety
    /// As for x86_64.
    #[unsafe(naked)]
    #[unsafe(no_mangle)]
    #[cfg(target_arch = "aarch64")]
    unsafe extern "C" fn masu_entry() -> ! {
        std::arch::naked_asm!("mov x19, x0", "mov x0, sp", "bl {seal}", "mov x0, x19", "b _start", seal = sym seal)
    }

    /// # Safety
    /// `stack` must be the stack of execve(2): the number of arguments, the arguments, the environment, the auxiliary vector.
    unsafe extern "C" fn seal(stack: *const usize) {
        // SAFETY: both lists end with a null pointer (getauxval(3)).
        unsafe {
            let args = stack.add(1).cast::<*const c_char>();
            let env = args.add(*stack).add(1);
            let mut end = env;
            while !end.read_volatile().is_null() {
                end = end.add(1);
            }
            if enters_a_container(args) && !is_sealed_copy(end.add(1).cast()) {
                execve(args, env);
            }
        }
    }

    /// Whether one of the arguments is a command that enters a container. A false match only costs an unneeded seal.
    ///
    /// # Safety
    /// `args` is a list of C strings that ends with a null pointer.
    #[inline(always)]
    unsafe fn enters_a_container(mut args: *const *const c_char) -> bool {
        // SAFETY: as the caller says.
        unsafe {
            while !args.read_volatile().is_null() {
                let arg = args.read_volatile();
                if begins(arg, b"create\0") || begins(arg, b"run\0") || begins(arg, b"exec\0") {
                    return true;
                }
                args = args.add(1);
            }
        }
        false
    }

    /// Whether the program was executed from a descriptor: its name is then `/dev/fd/N` (execveat(2)).
    ///
    /// # Safety
    /// `vector` is the auxiliary vector.
    #[inline(always)]
    unsafe fn is_sealed_copy(mut vector: *const [usize; 2]) -> bool {
        // SAFETY: the vector ends with AT_NULL; AT_EXECFN is the address of a C string.
        unsafe {
            loop {
                match vector.read_volatile() {
                    [0, _] => return false,
                    [kind, name] if kind == libc::AT_EXECFN as usize => return begins(name as *const c_char, b"/dev/fd/"),
                    _ => vector = vector.add(1),
                }
            }
        }
    }

    /// # Safety
    /// `text` must be a C string, and `with` may have a NUL only at its end.
    #[inline(always)]
    unsafe fn begins(text: *const c_char, with: &'static [u8]) -> bool {
        let mut i = 0;
        // SAFETY: the loop stops at the NUL of `text` at the latest, because `with` differs there or ends.
        unsafe {
            while i < with.len() {
                if text.add(i).cast::<u8>().read_volatile() != with.as_ptr().add(i).read_volatile() {
                    return false;
                }
                i += 1;
            }
        }
        true
    }
}
