//! The sockets of systemd: a bus, or its own private socket (D-Bus specification, "Server Addresses").
//!
//! [`Address::parse`] is pure; the other functions read the environment.

use rustix::fs::Access;
use serde::{Deserialize, Serialize};

/// The system bus.
const SYSTEM_BUS: &str = "/run/dbus/system_bus_socket";
/// The private socket of the system's systemd, which only root may use.
const PRIVATE: &str = "/run/systemd/private";

/// The systemd that makes the cgroup: the system's or a user's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Owner {
    /// The systemd of the system, process 1.
    #[default]
    System,
    /// The systemd of the user that runs this process.
    User,
}

impl Owner {
    /// The system's systemd if the caller is root of the host. Root of a machine in a user namespace gets it, too, if it may
    /// write to systemd's private socket.
    pub fn detect() -> Owner {
        let maps = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        let whole = maps.split_whitespace().eq(["0", "0", "4294967295"]) || maps.is_empty();
        let lets_in = || rustix::fs::access(PRIVATE, Access::WRITE_OK).is_ok();
        if rustix::process::geteuid().is_root() && (whole || lets_in()) { Owner::System } else { Owner::User }
    }
}

/// A socket of a bus or of systemd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    pub place: Place,
    /// Whether a bus listens there, not systemd itself. A bus wants a greeting and a list of the signals to forward.
    pub bus: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    Path(String),
    Abstract(String),
}

impl Address {
    /// The sockets to try, in order. The bus comes first, as in runc, although it is one more program in between. systemd writes
    /// each change of any unit to each connection on its private socket. That costs process 1 more time than its work for a
    /// container.
    pub(super) fn all(owner: Owner) -> Vec<Address> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let given = |name: &str| variable(name).map(|list| Address::parse(&list));
        let direct = |path: &str| Address { place: Place::Path(path.into()), bus: false };
        let bus = |path: &str| Address { place: Place::Path(path.into()), bus: true };
        match owner {
            Owner::System => given("DBUS_SYSTEM_BUS_ADDRESS").unwrap_or_else(|| vec![bus(SYSTEM_BUS), direct(PRIVATE)]),
            Owner::User => {
                let run = variable("XDG_RUNTIME_DIR");
                let mut list = given("DBUS_SESSION_BUS_ADDRESS").unwrap_or_default();
                if list.is_empty() {
                    list.extend(run.iter().map(|dir| bus(&format!("{dir}/bus"))));
                }
                list.extend(run.iter().map(|dir| direct(&format!("{dir}/systemd/private"))));
                list
            }
        }
    }

    /// The unix sockets in a list of addresses: `unix:path=/run/bus,guid=...;unix:abstract=x`.
    fn parse(list: &str) -> Vec<Address> {
        let place = |address: &str| {
            address.strip_prefix("unix:")?.split(',').find_map(|pair| match pair.split_once('=')? {
                ("path", value) => unescape(value).map(Place::Path),
                ("abstract", value) => unescape(value).map(Place::Abstract),
                _ => None,
            })
        };
        list.split(';').filter_map(place).map(|place| Address { place, bus: true }).collect()
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.place {
            Place::Path(path) => f.write_str(path),
            Place::Abstract(name) => write!(f, "@{name}"),
        }
    }
}

/// Decodes `%2f` and the like.
fn unescape(value: &str) -> Option<String> {
    let mut out = Vec::new();
    let mut bytes = value.bytes();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                u8::try_from(digit()? * 16 + digit()?).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(out).ok().filter(|text| !text.contains('\0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read() {
        let path = |p: &str| Address { place: Place::Path(p.into()), bus: true };
        for (list, expected) in [
            ("unix:path=/run/user/1000/bus", vec![path("/run/user/1000/bus")]),
            ("unix:guid=1,path=/a%20b;tcp:host=x", vec![path("/a b")]),
            ("unix:abstract=/tmp/x;unix:path=/y", vec![Address { place: Place::Abstract("/tmp/x".into()), bus: true }, path("/y")]),
            ("unix:path=/%zz;unix:path=/%2;unixexec:path=x;unix:;", vec![]),
            ("", vec![]),
        ] {
            assert_eq!(Address::parse(list), expected, "{list}");
        }
    }
}
