//! A program start without the standard library's own start code. That code costs a dozen system calls and several pages, more
//! than the work of `state`. On musl it does nothing else that masu needs.

use std::ffi::{CStr, OsStr, OsString, c_char, c_int};
use std::os::unix::ffi::OsStrExt;
use std::sync::OnceLock;

static ARGS: OnceLock<Vec<OsString>> = OnceLock::new();

/// The program's arguments, with argument 0. They are those that [`program!`](crate::program) kept, or else the standard
/// library's.
pub fn args() -> Vec<OsString> {
    ARGS.get().cloned().unwrap_or_else(|| std::env::args_os().collect())
}

/// Keeps the arguments that the C library passed to `main`. Only [`program!`](crate::program) may call this.
///
/// # Safety
/// `argv` must point to `argc` C strings that are never freed.
pub unsafe fn keep_args(argc: c_int, argv: *const *const c_char) {
    let n = usize::try_from(argc).unwrap_or(0);
    // SAFETY: the caller promises valid argc and argv.
    let arg = |i| OsStr::from_bytes(unsafe { CStr::from_ptr(*argv.add(i)) }.to_bytes()).to_owned();
    // called once, at the start
    let _ = ARGS.set((0..n).map(arg).collect());
}

/// Opens /dev/null on the closed ones of descriptors 0, 1 and 2. Otherwise another file could get such a number and be used
/// as a standard stream.
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
        // open(2) takes the lowest free number, so a number above 2 ends the loop
        let Ok(null) = rustix::fs::open("/dev/null", rustix::fs::OFlags::RDWR, rustix::fs::Mode::empty()) else { return };
        if std::os::fd::AsRawFd::as_raw_fd(&null) > 2 {
            return;
        }
        std::mem::forget(null);
    }
}

/// Makes `$main`, a `fn() -> u8`, the program's entry; its result is the exit code. The crate must have `#![no_main]`.
#[macro_export]
macro_rules! program {
    ($main:path) => {
        mod entry {
            #[unsafe(no_mangle)]
            extern "C" fn main(argc: ::std::ffi::c_int, argv: *const *const ::std::ffi::c_char) -> ::std::ffi::c_int {
                // SAFETY: the C library passes the strings that the kernel put on the stack, where they stay.
                unsafe { $crate::sys::start::keep_args(argc, argv) };
                $crate::sys::start::open_standard_streams();
                ::std::ffi::c_int::from($main())
            }
        }
    };
}
