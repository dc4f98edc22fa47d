//! `linux.cgroupsPath` as systemd's driver reads it: `slice:prefix:name`, the name of a unit and of its slice.
//!
//! Pure. systemd.unit(5), systemd.slice(5); runc's docs/systemd.md.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use masu_host::dbus::Owner;

/// The longest name of a unit, in bytes (systemd.unit(5)).
const NAME_MAX: usize = 255;
const SLICE: &str = ".slice";

/// The unit of a container, as the container's record keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Unit {
    pub(crate) name: String,
    #[serde(default, skip_serializing_if = "is_system")]
    pub(crate) owner: Owner,
}

fn is_system(owner: &Owner) -> bool {
    *owner == Owner::System
}

/// A unit's name and its slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) unit: String,
    pub(super) slice: String,
    /// The directory of the unit, without slashes at its ends.
    pub(super) dir: String,
}

impl Named {
    /// Reads `linux.cgroupsPath`. An empty path stands for the scope `masu-ID.scope`. An empty slice stands for
    /// `system.slice`, or for `user.slice` in a user's systemd.
    ///
    /// # Errors
    /// [`Kind::InvalidSpec`](crate::error::Kind), with runc's texts: another form, or an invalid name of a slice or unit.
    pub(super) fn parse(id: &str, cgroups_path: &str, owner: Owner) -> Result<Named> {
        let bad = |what: String| Error::invalid(format!("linux.cgroupsPath: {what}"));
        let (slice, prefix, name) = match cgroups_path.split(':').collect::<Vec<_>>().as_slice() {
            [""] => ("", "masu", id),
            [slice, prefix, name] => (*slice, *prefix, *name),
            _ => {
                let form = "expected cgroupsPath to be of format \"slice:prefix:name\" for systemd cgroups";
                return Err(bad(format!("{form}, got {cgroups_path:?} instead")));
            }
        };
        let slice = match (slice, owner) {
            ("", Owner::System) => "system.slice",
            ("", Owner::User) => "user.slice",
            (slice, _) => slice,
        };
        let above = expand(slice).ok_or_else(|| bad(format!("invalid slice name: {slice}")))?;
        if name.ends_with(SLICE) {
            return Err(bad(format!("{name} is a slice, which has other units in it and no processes")));
        }
        let unit = format!("{prefix}-{name}.scope");
        if name.is_empty() || unit.len() > NAME_MAX || !unit.bytes().all(is_unit_byte) {
            return Err(bad(format!("invalid unit name: {unit}")));
        }
        let dir = if above.is_empty() { unit.clone() } else { format!("{above}/{unit}") };
        Ok(Named { unit, slice: slice.to_owned(), dir })
    }
}

fn is_unit_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b":-_.\\@".contains(&byte)
}

/// The directory of a slice: `a-b.slice` is in `a.slice`. That of `-.slice` is the root, so it is empty.
fn expand(slice: &str) -> Option<String> {
    let name = slice.strip_suffix(SLICE)?;
    if name == "-" {
        return Some(String::new());
    }
    if slice.len() > NAME_MAX || !name.bytes().all(is_unit_byte) {
        return None;
    }
    let mut parts = Vec::new();
    for (end, _) in name.match_indices('-').chain([(name.len(), "")]) {
        let part = name.get(..end)?;
        if part.is_empty() || part.ends_with('-') {
            return None;
        }
        parts.push(format!("{part}{SLICE}"));
    }
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn named(path: &str) -> Result<(String, String), String> {
        Named::parse("web", path, Owner::System).map(|n| (n.dir, n.slice)).map_err(|e| e.to_string())
    }

    #[test]
    fn the_form_of_systemd_is_read() {
        for (path, dir, slice) in [
            ("", "system.slice/masu-web.scope", "system.slice"),
            ("system.slice:docker:1234", "system.slice/docker-1234.scope", "system.slice"),
            (":cri-containerd:1", "system.slice/cri-containerd-1.scope", "system.slice"),
            ("-.slice:p:n", "p-n.scope", "-.slice"),
            (
                "kubepods-besteffort-pod1_2.slice:crio:x",
                "kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod1_2.slice/crio-x.scope",
                "kubepods-besteffort-pod1_2.slice",
            ),
            ("machine.slice:libpod:a.b@c", "machine.slice/libpod-a.b@c.scope", "machine.slice"),
        ] {
            assert_eq!(named(path).unwrap(), (dir.into(), slice.into()), "{path}");
        }
        assert_eq!(Named::parse("web", "", Owner::User).unwrap().dir, "user.slice/masu-web.scope");
    }

    #[test]
    fn what_is_not_of_that_form_is_refused() {
        let form = |path: &str| {
            format!(
                "linux.cgroupsPath: expected cgroupsPath to be of format \"slice:prefix:name\" for systemd cgroups, got {path:?} instead"
            )
        };
        for path in ["/docker/x", "a:b", "a.slice:b:c:d", ":"] {
            assert_eq!(named(path).unwrap_err(), form(path));
        }
        let long = format!("{}.slice", "n".repeat(250));
        for slice in ["system", "a--b.slice", "-a.slice", "a-.slice", "a/b.slice", "../a.slice", ".slice", "a b.slice", "--.slice", &long] {
            assert_eq!(named(&format!("{slice}:p:n")).unwrap_err(), format!("linux.cgroupsPath: invalid slice name: {slice}"));
        }
        for (prefix, name) in [("p", ""), ("p", "a/b"), ("p", "../x"), ("a b", "x"), ("p", "ä"), ("p", &*"n".repeat(250)), ("p", "\0")] {
            let text = format!("linux.cgroupsPath: invalid unit name: {prefix}-{name}.scope");
            assert_eq!(named(&format!("a.slice:{prefix}:{name}")).unwrap_err(), text);
        }
        assert!(named("a.slice:p:pod.slice").unwrap_err().contains("pod.slice is a slice"));
    }

    proptest! {
        #[test]
        fn no_path_leads_anywhere_else(path in "[a-z./:@\\-]{0,24}|[a-z-]{0,8}\\.slice:[a-z./-]{0,5}:.{0,8}") {
            if let Ok(named) = Named::parse("web", &path, Owner::System) {
                prop_assert!(named.dir.split('/').all(|part| part.ends_with(".slice") || part.ends_with(".scope")));
                prop_assert!(named.dir.split('/').all(|part| !part.is_empty() && part != ".." && part != "."));
                prop_assert!(named.dir.ends_with(&named.unit));
            }
        }
    }
}
