//! A fork that starts with the descriptors it needs and no others.
//!
//! A fork has a copy of every descriptor of its maker. Each copy keeps a pipe from ending and a socket from closing for as long
//! as the fork lives, so a fork names those that it keeps, and closes the others before anything else.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::io::Errno;

use super::clone::{Side, clone3};
use super::close_range::close_all_but;
use super::exec::exit;

/// The descriptors that a new process has: its standard streams, and those that it keeps by their numbers.
#[derive(Debug, Default)]
pub struct Kept<'a> {
    /// These become 0, 1 and 2. Without one, the maker's stays.
    stdio: [Option<BorrowedFd<'a>>; 3],
    /// In their order.
    numbers: Vec<u32>,
}

impl<'a> Kept<'a> {
    /// Keeps these, beside the maker's standard streams.
    pub fn new(fds: impl IntoIterator<Item = BorrowedFd<'a>>) -> Kept<'a> {
        let mut numbers: Vec<u32> = fds.into_iter().map(|fd| fd.as_raw_fd() as u32).collect();
        numbers.sort_unstable();
        Kept { stdio: [None; 3], numbers }
    }

    /// Keeps `n` more from 3 on, whatever they are, as a caller may hand them to the program.
    #[must_use]
    pub fn preserve(mut self, n: u32) -> Kept<'a> {
        self.numbers.extend(3..3 + n);
        self.numbers.sort_unstable();
        self.numbers.dedup();
        self
    }

    /// Has these as standard streams.
    #[must_use]
    pub fn stdio(self, stdio: [Option<BorrowedFd<'a>>; 3]) -> Kept<'a> {
        Kept { stdio, ..self }
    }

    /// Puts the standard streams in place and closes all others. Only for a fresh child, which never uses nor drops what was
    /// closed.
    ///
    /// # Errors
    /// The table of descriptors is full, and a stream is itself one of 0 to 2.
    pub fn take(&self) -> Result<(), Errno> {
        // one that is itself below 3 would be overwritten before its turn
        let mut moved = [const { None }; 3];
        for (moved, fd) in moved.iter_mut().zip(self.stdio) {
            if let Some(fd) = fd.filter(|fd| fd.as_raw_fd() < 3) {
                *moved = Some(rustix::io::fcntl_dupfd_cloexec(fd, 3)?);
            }
        }
        let [stdin, stdout, stderr] = &moved;
        let [own_stdin, own_stdout, own_stderr] = self.stdio;
        if let Some(fd) = stdin.as_ref().map(AsFd::as_fd).or(own_stdin) {
            rustix::stdio::dup2_stdin(fd)?;
        }
        if let Some(fd) = stdout.as_ref().map(AsFd::as_fd).or(own_stdout) {
            rustix::stdio::dup2_stdout(fd)?;
        }
        if let Some(fd) = stderr.as_ref().map(AsFd::as_fd).or(own_stderr) {
            rustix::stdio::dup2_stderr(fd)?;
        }
        drop(moved);
        close_all_but(&self.numbers)
    }
}

/// [`clone3`] of a process that takes `kept` first. One that cannot ends with 1, and never returns.
///
/// The caller must have one thread, as for [`clone3`].
pub fn fork(flags: u64, cgroup: Option<BorrowedFd<'_>>, kept: &Kept<'_>) -> Result<Side, Errno> {
    match clone3(flags, cgroup)? {
        Side::Child if kept.take().is_err() => exit(1),
        side => Ok(side),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{PipeWriter, Read, Write};
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    use super::*;

    /// Has a child take `kept` and run `body`. A test has threads, which the maker of a [`fork`] must not have, so the standard
    /// library makes the child; `body` takes no lock.
    fn in_child(kept: &Kept<'static>, body: fn(&PipeWriter), say: &'static PipeWriter) {
        let kept = Kept { stdio: kept.stdio, numbers: kept.numbers.clone() };
        let mut command = Command::new("/bin/true");
        // SAFETY: the closure makes system calls alone, and ends the child.
        unsafe {
            command.pre_exec(move || {
                let taken = kept.take().is_ok();
                if taken {
                    body(say);
                }
                exit(i32::from(!taken))
            });
        }
        assert!(command.status().unwrap().success());
    }

    fn forever<T>(value: T) -> &'static T {
        Box::leak(Box::new(value))
    }

    #[test]
    fn a_child_has_what_it_keeps_and_no_more() {
        let (mut hear, say) = std::io::pipe().unwrap();
        let say = forever(say);
        let others: Vec<_> = (0..5).map(|_| std::fs::File::open("/dev/null").unwrap()).collect();
        let kept = forever(std::fs::File::open("/dev/null").unwrap());
        let body = |mut say: &PipeWriter| {
            let open = |number: u8| {
                // SAFETY: only asks whether the number is open.
                unsafe { libc::fcntl(i32::from(number), libc::F_GETFD) >= 0 }
            };
            let mut said = [0; 256];
            for (number, place) in (0..=u8::MAX).zip(&mut said) {
                *place = u8::from(open(number));
            }
            say.write_all(&said).unwrap();
        };
        in_child(&Kept::new([say.as_fd(), kept.as_fd()]), body, say);
        let mut said = [0; 256];
        hear.read_exact(&mut said).unwrap();
        let open: Vec<i32> = said.iter().zip(0..).filter(|(open, number)| **open == 1 && *number > 2).map(|(_, number)| number).collect();
        let mut wanted = [say.as_raw_fd(), kept.as_raw_fd()];
        wanted.sort_unstable();
        assert_eq!(open, wanted);
        assert!(others.iter().all(|file| !open.contains(&file.as_raw_fd())));
    }

    #[test]
    fn standard_streams_are_put_in_place() {
        let (mut hear, say) = std::io::pipe().unwrap();
        let (stdin, mut ask) = std::io::pipe().unwrap();
        let (stdin, say) = (forever(stdin), forever(say));
        ask.write_all(b"x").unwrap();
        // 2 becomes what 1 was before the pipe took its place
        let kept = Kept::new([]).stdio([Some(stdin.as_fd()), Some(say.as_fd()), Some(rustix::stdio::stdout())]);
        let body = |_: &PipeWriter| {
            let mut byte = [0; 1];
            rustix::io::read(rustix::stdio::stdin(), &mut byte).unwrap();
            let same =
                rustix::fs::fstat(rustix::stdio::stdout()).unwrap().st_ino == rustix::fs::fstat(rustix::stdio::stderr()).unwrap().st_ino;
            rustix::io::write(rustix::stdio::stdout(), &[byte[0], u8::from(same)]).unwrap();
        };
        in_child(&kept, body, say);
        let mut said = [0; 2];
        hear.read_exact(&mut said).unwrap();
        assert_eq!(&said, b"x\0");
    }
}
