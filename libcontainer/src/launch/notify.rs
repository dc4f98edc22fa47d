//! NOTIFY_SOCKET: a program in the container tells the service manager of the host that it is ready (sd_notify(3)).
//!
//! The container gets a socket of its own, in a folder of the state directory that is bound at /run/notify; `start`
//! reads it and passes on what may be passed on: readiness, with the pid as the host knows it.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};

use crate::error::{Doing, Result};

/// How long the service manager may take to see all that was said before (sd_notify_barrier(3)).
const BARRIER: Duration = Duration::from_secs(30);

const DIR: &str = "notify";
const SOCKET: &str = "notify.sock";

/// Makes the folder that the container will see, in the state directory `state`.
pub(crate) fn make(state: BorrowedFd<'_>) -> Result<()> {
    rustix::fs::mkdirat(state, DIR, Mode::from_raw_mode(0o755)).doing(|| format!("make {DIR} in the state directory"))
}

/// The container's socket.
#[derive(Debug)]
pub(crate) struct Listener(OwnedFd);

/// Binds it. A socket that a killed `start` left is replaced. Its path may be longer than an address, so it is named by the
/// folder's descriptor.
pub(crate) fn listen(state: BorrowedFd<'_>) -> Result<Listener> {
    let doing = || format!("listen on {DIR}/{SOCKET}");
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = rustix::fs::openat(state, DIR, flags, Mode::empty()).doing(doing)?;
    match rustix::fs::unlinkat(&dir, SOCKET, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(e) => return Err(e).doing(|| format!("remove the old {DIR}/{SOCKET}")),
    }
    let socket = datagram().doing(doing)?;
    let own = format!("/proc/self/fd/{}/{SOCKET}", dir.as_raw_fd());
    let address = SocketAddrUnix::new(&own).doing(doing)?;
    // for every user that the program may run as. Not by chmod(2) afterwards: the container could put a link in its place
    let mask = rustix::process::umask(Mode::empty());
    let bound = rustix::net::bind(&socket, &address);
    rustix::process::umask(mask);
    bound.doing(doing)?;
    Ok(Listener(socket))
}

impl Listener {
    /// Waits until the program says READY or ends, and tells the host's socket.
    pub(crate) fn forward(&self, host: &str, pid: i32, pidfd: &OwnedFd) -> Result<()> {
        let mut text = [0u8; 4096];
        loop {
            let mut fds = [PollFd::new(&self.0, PollFlags::IN), PollFd::new(pidfd, PollFlags::IN)];
            match rustix::event::poll(&mut fds, None) {
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(e) => return Err(e).doing(|| "wait for the container's readiness"),
            }
            if fds[0].revents().contains(PollFlags::IN) {
                let (n, _) = rustix::net::recv(&self.0, &mut text[..], RecvFlags::DONTWAIT).doing(|| "read the container's readiness")?;
                let ready = text[..n].split(|&b| b == b'\n').find(|line| line.starts_with(b"READY="));
                if let Some(line) = ready {
                    return tell(host, line, pid).doing(|| format!("notify {host}"));
                }
            } else if fds[1].revents().contains(PollFlags::IN) {
                return Ok(());
            }
        }
    }
}

fn tell(host: &str, ready: &[u8], pid: i32) -> Result<()> {
    let address = match host.strip_prefix('@') {
        Some(name) => SocketAddrUnix::new_abstract_name(name.as_bytes())?,
        None => SocketAddrUnix::new(host)?,
    };
    let socket = datagram()?;
    rustix::net::sendto(&socket, &[ready, b"\n"].concat(), SendFlags::NOSIGNAL, &address)?;
    rustix::net::sendto(&socket, format!("MAINPID={pid}").as_bytes(), SendFlags::NOSIGNAL, &address)?;
    // the manager closes the other end once it has read all before it; one that does not know the word just closes it
    let (ours, theirs) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fds = [theirs.as_fd()];
    ancillary.push(SendAncillaryMessage::ScmRights(&fds));
    rustix::net::sendmsg_addr(&socket, &address, &[IoSlice::new(b"BARRIER=1")], &mut ancillary, SendFlags::NOSIGNAL)?;
    drop(theirs);
    let timeout = Timespec { tv_sec: BARRIER.as_secs() as i64, tv_nsec: 0 };
    rustix::event::poll(&mut [PollFd::new(&ours, PollFlags::HUP)], Some(&timeout))?;
    Ok(())
}

fn datagram() -> Result<OwnedFd, Errno> {
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
}
