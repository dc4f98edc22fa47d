//! Passes the notification descriptor to the agent of `listenerPath` (in the parent).
//!
//! One stream connection per filter carries a JSON document (runtime.md, "The Container Process State") and, with its first
//! byte, the descriptor (SCM_RIGHTS, unix(7)). The owner of the connection closes it afterwards. Connecting is a separate
//! step, so that a missing agent is found before a process is made.

use std::io::IoSlice;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect as connect_to,
    sendmsg, socket_with,
};

use crate::error::{Doing, Result};
use crate::spec::State;

/// The message to the agent about the process under the filter.
#[derive(Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessState<'a> {
    /// The version of the specification.
    pub oci_version: &'a str,
    /// The names of the passed descriptors: [`FDS`].
    pub fds: &'a [&'a str],
    /// The process under the filter, in the runtime's pid namespace.
    pub pid: i32,
    #[serde(skip_serializing_if = "str::is_empty")]
    /// `listenerMetadata` of the config.
    pub metadata: &'a str,
    /// The state of the container: `creating` for its first process, `running` for an exec.
    pub state: &'a State,
}

/// The name of the one descriptor, from the specification.
pub const FDS: &[&str] = &["seccompFd"];

/// Connects to the agent's socket.
///
/// # Errors
/// If no agent listens at `path`.
pub fn connect(path: &str) -> Result<OwnedFd> {
    let connected = SocketAddrUnix::new(path).and_then(|address| {
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        retry_on_intr(|| connect_to(&socket, &address))?;
        Ok(socket)
    });
    connected.doing(|| format!("failed to connect with seccomp agent specified in the seccomp profile: connect to {path}"))
}

/// Sends the document and the descriptor. `state_json` must not be empty, because the descriptor goes with its first byte.
///
/// # Errors
/// If the kernel refuses to send, e.g. because the agent has gone.
pub fn send(socket: BorrowedFd<'_>, state_json: &[u8], fd: BorrowedFd<'_>) -> Result<()> {
    write(socket, state_json, fd).doing(|| "cannot send seccomp fd to the seccomp agent")
}

fn write(socket: BorrowedFd<'_>, mut bytes: &[u8], fd: BorrowedFd<'_>) -> Result<(), Errno> {
    let fds = [fd];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut rights = SendAncillaryBuffer::new(&mut space);
    if !rights.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(Errno::NOBUFS);
    }
    let mut none = SendAncillaryBuffer::default();
    let mut control = &mut rights;
    while !bytes.is_empty() {
        let sent = retry_on_intr(|| sendmsg(socket, &[IoSlice::new(bytes)], control, SendFlags::NOSIGNAL))?;
        bytes = bytes.get(sent..).unwrap_or_default();
        // the descriptor went with the first byte
        control = &mut none;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    use std::io::IoSliceMut;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixListener;

    #[test]
    fn document_and_fd_arrive_together() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent");
        let agent = UnixListener::bind(&path).unwrap();
        let socket = connect(path.to_str().unwrap()).unwrap();
        let (peer, _) = agent.accept().unwrap();

        let container = State {
            oci_version: "1.3.0".into(),
            id: "web".into(),
            pid: 7,
            status: "creating".into(),
            bundle: "/b".into(),
            annotations: Default::default(),
        };
        let state = ProcessState { oci_version: "1.3.0", fds: FDS, pid: 7, metadata: "", state: &container };
        let json = serde_json::to_vec(&state).unwrap();
        let file = std::fs::File::open("/proc/self/status").unwrap();
        send(socket.as_fd(), &json, file.as_fd()).unwrap();

        let mut text = [0; 512];
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let n = recvmsg(&peer, &mut [IoSliceMut::new(&mut text)], &mut control, RecvFlags::CMSG_CLOEXEC).unwrap().bytes;
        assert_eq!(
            std::str::from_utf8(&text[..n]).unwrap(),
            r#"{"ociVersion":"1.3.0","fds":["seccompFd"],"pid":7,"state":{"ociVersion":"1.3.0","id":"web","pid":7,"status":"creating","bundle":"/b"}}"#
        );
        let fds: Vec<OwnedFd> =
            control.drain().flat_map(|m| if let RecvAncillaryMessage::ScmRights(fds) = m { fds.collect() } else { vec![] }).collect();
        assert_eq!(fds.len(), 1);
        let (ours, theirs) = (rustix::fs::fstat(&file).unwrap(), rustix::fs::fstat(&fds[0]).unwrap());
        assert_eq!((ours.st_dev, ours.st_ino), (theirs.st_dev, theirs.st_ino));
    }

    #[test]
    fn a_missing_agent_is_named() {
        let error = connect("/nonexistent/agent").unwrap_err();
        assert_eq!(
            error.to_string(),
            "failed to connect with seccomp agent specified in the seccomp profile: connect to /nonexistent/agent: no such file or directory"
        );
    }
}
