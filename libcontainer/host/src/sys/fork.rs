//! A fork that keeps only the descriptors that it needs.
//!
//! A fork has a copy of every descriptor of its parent. Each copy keeps a pipe from its end of file and a socket from closing. So
//! the caller names the descriptors to keep, and the fork first closes all others.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::io::Errno;

use super::clone::{Side, clone3};
use super::close_range::close_all_but;
use super::exec::exit;

/// The descriptors of a new process: its standard streams, and those that it keeps under their numbers.
#[derive(Debug, Default)]
pub struct Kept<'a> {
    /// The new descriptors 0, 1 and 2. With `None` the parent's stays.
    stdio: [Option<BorrowedFd<'a>>; 3],
    /// Sorted.
    numbers: Vec<u32>,
}

impl<'a> Kept<'a> {
    /// Keeps `fds` and the parent's standard streams.
    pub fn new(fds: impl IntoIterator<Item = BorrowedFd<'a>>) -> Kept<'a> {
        let mut numbers: Vec<u32> = fds.into_iter().map(|fd| fd.as_raw_fd() as u32).collect();
        numbers.sort_unstable();
        Kept { stdio: [None; 3], numbers }
    }

    /// Also keeps `n` descriptors from 3 on, open or not, which a caller may pass to the program.
    #[must_use]
    pub fn preserve(mut self, n: u32) -> Kept<'a> {
        self.numbers.extend(3..3 + n);
        self.numbers.sort_unstable();
        self.numbers.dedup();
        self
    }

    /// Sets the standard streams.
    #[must_use]
    pub fn stdio(self, stdio: [Option<BorrowedFd<'a>>; 3]) -> Kept<'a> {
        Kept { stdio, ..self }
    }

    /// Installs the standard streams and closes all descriptors that are not kept. Only for a new child that neither uses nor
    /// drops a closed descriptor.
    ///
    /// # Errors
    /// The errno of fcntl(2), dup2(2) or close_range(2), for example EMFILE if the table of descriptors is full.
    pub fn take(&self) -> Result<(), Errno> {
        install(self.stdio)?;
        close_all_but(&self.numbers)
    }
}

/// Makes `streams` the descriptors 0, 1 and 2 of this process (dup2(2)). `None` leaves the one that is there.
///
/// # Errors
/// The errno of fcntl(2) or dup2(2), for example EMFILE if the table of descriptors is full.
pub fn install(streams: [Option<BorrowedFd<'_>>; 3]) -> Result<(), Errno> {
    // a stream below 3 could be overwritten before its own dup2(2)
    let mut moved = [const { None }; 3];
    for (moved, fd) in moved.iter_mut().zip(streams) {
        if let Some(fd) = fd.filter(|fd| fd.as_raw_fd() < 3) {
            *moved = Some(rustix::io::fcntl_dupfd_cloexec(fd, 3)?);
        }
    }
    let [stdin, stdout, stderr] = &moved;
    let [own_stdin, own_stdout, own_stderr] = streams;
    if let Some(fd) = stdin.as_ref().map(AsFd::as_fd).or(own_stdin) {
        rustix::stdio::dup2_stdin(fd)?;
    }
    if let Some(fd) = stdout.as_ref().map(AsFd::as_fd).or(own_stdout) {
        rustix::stdio::dup2_stdout(fd)?;
    }
    if let Some(fd) = stderr.as_ref().map(AsFd::as_fd).or(own_stderr) {
        rustix::stdio::dup2_stderr(fd)?;
    }
    Ok(())
}

/// [`clone3`] of a process that first takes `kept`. If that fails, the child exits with 1. As for [`clone3`], the caller must
/// have one thread.
///
/// # Errors
/// The errno of clone3(2).
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

    /// Runs `body` in a child that has taken `kept`. The standard library makes the child, because a test has threads and
    /// [`fork`]
    /// does not allow. `body` takes no lock.
    fn in_child(kept: &Kept<'static>, body: fn(&PipeWriter), say: &'static PipeWriter) {
        let kept = Kept { stdio: kept.stdio, numbers: kept.numbers.clone() };
        let mut command = Command::new("/bin/true");
        // SAFETY: the closure makes only system calls, and ends the child.
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
                // SAFETY: the call only checks whether the number is open.
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
        // 2 becomes the old 1, although the pipe replaces 1 first
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
