//! `--log journald:ID` and `--log syslog:ID`: sends each entry as one datagram to the service's socket. conmon-rs uses journald.

use std::io;
use std::os::unix::net::UnixDatagram;

use libcontainer::error::{Doing, Result};
use log::Level;

/// From systemd-journald.socket(8).
const JOURNAL: &str = "/run/systemd/journal/socket";
/// From syslog(3).
const SYSLOG: &str = "/dev/log";
/// LOG_USER, shifted as in RFC 3164.
const FACILITY: u8 = 1 << 3;

/// A connected service.
#[derive(Debug)]
pub(super) struct Service {
    socket: UnixDatagram,
    journal: bool,
    /// The container's id, by which its entries can be found.
    id: String,
}

impl Service {
    pub(super) fn connect(kind: &str, id: &str) -> Result<Service> {
        let journal = kind == "journald";
        Self::at(if journal { JOURNAL } else { SYSLOG }, journal, id).doing(|| format!("open log {kind}:{id}"))
    }

    fn at(path: &str, journal: bool, id: &str) -> Result<Service> {
        let socket = UnixDatagram::unbound().doing(|| "make a socket")?;
        socket.connect(path).doing(|| format!("connect to {path}"))?;
        Ok(Service { socket, journal, id: id.to_owned() })
    }

    pub(super) fn send(&self, level: Level, text: &str) -> io::Result<()> {
        // syslog(3): LOG_ERR, LOG_WARNING, LOG_INFO, LOG_DEBUG
        let priority = match level {
            Level::Error => 3,
            Level::Warn => 4,
            Level::Info => 6,
            Level::Debug | Level::Trace => 7,
        };
        let bytes = if self.journal {
            fields(&[("PRIORITY", &priority.to_string()), ("MESSAGE", text), ("ID", &self.id), ("SYSLOG_IDENTIFIER", "masu")])
        } else {
            // without a time, because the service adds it
            let ident = if self.id.is_empty() { "masu" } else { &self.id };
            format!("<{}>{ident}: {}", FACILITY | priority, text.replace('\n', " ")).into_bytes()
        };
        self.socket.send(&bytes).map(drop)
    }
}

/// Journal fields in the native protocol's binary form: name, newline, length, value, newline.
fn fields(pairs: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(256);
    for (name, value) in pairs {
        bytes.extend(name.as_bytes());
        bytes.push(b'\n');
        bytes.extend((value.len() as u64).to_le_bytes());
        bytes.extend(value.as_bytes());
        bytes.push(b'\n');
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(journal: bool, id: &str, level: Level, text: &str) -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let server = UnixDatagram::bind(&path).unwrap();
        Service::at(path.to_str().unwrap(), journal, id).unwrap().send(level, text).unwrap();
        let mut bytes = [0; 512];
        let n = server.recv(&mut bytes).unwrap();
        bytes[..n].to_vec()
    }

    #[test]
    fn syslog_gets_a_line_with_priority_and_identity() {
        assert_eq!(sent(false, "web", Level::Error, "x\ny"), b"<11>web: x y");
        assert_eq!(sent(false, "", Level::Debug, "x"), b"<15>masu: x");
    }

    #[test]
    fn the_journal_gets_fields_that_may_hold_anything() {
        let bytes = sent(true, "web", Level::Warn, "x\nFAKE=1");
        assert!(bytes.starts_with(b"PRIORITY\n\x01\0\0\0\0\0\0\x004\nMESSAGE\n\x08\0\0\0\0\0\0\0x\nFAKE=1\nID\n\x03\0\0\0\0\0\0\0web\n"));
    }

    #[test]
    fn a_service_that_is_not_there_is_an_error() {
        assert!(
            Service::at("/nonexistent/socket", true, "x").unwrap_err().text().starts_with("connect to /nonexistent/socket: no such file")
        );
    }
}
