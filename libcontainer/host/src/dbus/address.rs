//! Where systemd is spoken to: its own socket, or a bus between (D-Bus specification, "Server Addresses").
//!
//! [`Address::parse`] is pure; the rest looks at the environment.

use rustix::fs::Access;
use serde::{Deserialize, Serialize};

/// The bus of the machine.
const SYSTEM_BUS: &str = "/run/dbus/system_bus_socket";
/// The socket of systemd itself, for its root.
const PRIVATE: &str = "/run/systemd/private";

/// Whose systemd it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Owner {
    /// The machine's, process 1.
    #[default]
    System,
    /// That of the user who runs us.
    User,
}

impl Owner {
    /// The machine's, if we are its root: also of a machine in a user namespace, whose systemd then lets us in.
    pub fn detect() -> Owner {
        let maps = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        let whole = maps.split_whitespace().eq(["0", "0", "4294967295"]) || maps.is_empty();
        let lets_in = || rustix::fs::access(PRIVATE, Access::WRITE_OK).is_ok();
        if rustix::process::geteuid().is_root() && (whole || lets_in()) { Owner::System } else { Owner::User }
    }
}

/// A socket to try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    pub place: Place,
    /// Whether a bus is there, and not systemd itself: it wants to be greeted, and to be told which signals to send.
    pub bus: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    Path(String),
    Abstract(String),
}

impl Address {
    /// The sockets to try, in order. The bus comes first, as for runc, although it is one more program in between: to each
    /// connection on its own socket systemd writes whatever happens to any unit, which takes process 1 longer than all that it
    /// does for a container.
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

    /// The unix sockets among the addresses of a list: `unix:path=/run/bus,guid=…;unix:abstract=x`.
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

/// `%2f` is a slash.
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
