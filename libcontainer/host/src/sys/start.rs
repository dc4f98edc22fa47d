//! The start of a program without the standard library's own, which costs a dozen system calls and several pages: more
//! than a `state` needs for its work. On musl it does nothing else that we use.

use std::ffi::{CStr, OsStr, OsString, c_char, c_int};
use std::os::unix::ffi::OsStrExt;
use std::sync::OnceLock;

static ARGS: OnceLock<Vec<OsString>> = OnceLock::new();

/// The program's arguments, argument 0 first: of [`program!`](crate::program), else of the standard library.
pub fn args() -> Vec<OsString> {
    ARGS.get().cloned().unwrap_or_else(|| std::env::args_os().collect())
}

/// Keeps what the C library gave `main`. Only for [`program!`](crate::program).
///
/// # Safety
/// `argv` points to `argc` C strings that are never freed, as the kernel lays them out.
#[doc(hidden)]
pub unsafe fn keep_args(argc: c_int, argv: *const *const c_char) {
    let n = usize::try_from(argc).unwrap_or(0);
    // SAFETY: the caller vouches for argc and argv.
    let arg = |i| OsStr::from_bytes(unsafe { CStr::from_ptr(*argv.add(i)) }.to_bytes()).to_owned();
    // it is called once, before anything could have asked
    let _ = ARGS.set((0..n).map(arg).collect());
}

/// Opens /dev/null on those of 0, 1 and 2 that are closed, so that no file of ours can land there and be taken for a
/// standard stream.
#[doc(hidden)]
pub fn open_standard_streams() {
    use rustix::event::{PollFd, PollFlags};
    let [a, b, c] = [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()];
    let mut fds = [a, b, c].map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::empty()));
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    let closed = match rustix::event::poll(&mut fds, Some(&now)) {
        Ok(0) => false,
        Ok(_) => fds.iter().any(|fd| fd.revents().contains(PollFlags::NVAL)),
        Err(_) => true,
    };
    if !closed {
        return;
    }
    loop {
        // the lowest free number is taken: the first above 2 ends it
        let Ok(null) = rustix::fs::open("/dev/null", rustix::fs::OFlags::RDWR, rustix::fs::Mode::empty()) else { return };
        if std::os::fd::AsRawFd::as_raw_fd(&null) > 2 {
            return;
        }
        std::mem::forget(null);
    }
}

/// Makes `$main`, a `fn() -> u8`, the program's entry: what it returns is the exit code. The crate says `#![no_main]`.
#[macro_export]
macro_rules! program {
    ($main:path) => {
        mod entry {
            #[unsafe(no_mangle)]
            extern "C" fn main(argc: ::std::ffi::c_int, argv: *const *const ::std::ffi::c_char) -> ::std::ffi::c_int {
                // SAFETY: the C library passes on what the kernel laid on the stack, which stays there.
                unsafe { $crate::sys::start::keep_args(argc, argv) };
                $crate::sys::start::open_standard_streams();
                ::std::ffi::c_int::from($main())
            }
        }
    };
}
