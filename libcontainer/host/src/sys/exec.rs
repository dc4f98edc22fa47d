//! execve(2), execveat(2) and _exit(2).

use std::ffi::{CStr, c_char};
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

/// A list of C strings with a null pointer at its end, as execve(2) reads it.
#[derive(Debug)]
pub struct Strings<'a> {
    pointers: Vec<*const c_char>,
    _strings: std::marker::PhantomData<&'a CStr>,
}

impl<'a> Strings<'a> {
    /// Makes a list that borrows `strings`.
    pub fn new(strings: impl IntoIterator<Item = &'a (impl AsRef<CStr> + ?Sized + 'a)>) -> Strings<'a> {
        let mut pointers: Vec<_> = strings.into_iter().map(|s| s.as_ref().as_ptr()).collect();
        pointers.push(std::ptr::null());
        Strings { pointers, _strings: std::marker::PhantomData }
    }

    /// The address of the first pointer, valid while this list lives.
    pub fn as_ptr(&self) -> *const *const c_char {
        self.pointers.as_ptr()
    }
}

/// execve(2). It returns only on failure, with the errno.
pub fn execve(path: &CStr, args: &Strings<'_>, env: &Strings<'_>) -> Errno {
    // SAFETY: path and every pointer of the two lists are borrowed C strings that outlive the call, and both lists end with a
    // null pointer (Strings::new).
    unsafe { libc::execve(path.as_ptr(), args.pointers.as_ptr(), env.pointers.as_ptr()) };
    super::last_errno()
}

/// execveat(2) of the file `fd` itself. It returns only on failure, with the errno.
pub fn execve_fd(fd: BorrowedFd<'_>, args: &Strings<'_>, env: &Strings<'_>) -> Errno {
    // SAFETY: as for execve; the empty path is a C string and AT_EMPTY_PATH makes fd the program.
    unsafe {
        libc::syscall(libc::SYS_execveat, fd.as_raw_fd(), c"".as_ptr(), args.pointers.as_ptr(), env.pointers.as_ptr(), libc::AT_EMPTY_PATH)
    };
    super::last_errno()
}

/// Ends the process with _exit(2): no destructor and no atexit handler runs, and no buffer that the parent also has is flushed.
pub fn exit(code: i32) -> ! {
    // SAFETY: _exit takes no memory and does not return.
    unsafe { libc::_exit(code) }
}

/// Whether this program was started by [`execve_fd`]: the kernel then names it `/dev/fd/N` (execveat(2), getauxval(3)).
pub fn started_from_fd() -> bool {
    // SAFETY: getauxval reads the vector the kernel left on the stack; AT_EXECFN is a C string there for good.
    let name = unsafe {
        let pointer = libc::getauxval(libc::AT_EXECFN) as *const c_char;
        if pointer.is_null() {
            return false;
        }
        CStr::from_ptr(pointer)
    };
    name.to_bytes().starts_with(b"/dev/fd/")
}
