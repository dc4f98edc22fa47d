//! Users. The home directory comes from the container's passwd(5), by number and never by name (CVE-2016-3697). Only exec can
//! have a user by name.
//!
//! Both files belong to the image, so another file may be in their place.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::error::{Doing, Error, Result};
use masu_host::beneath;
use masu_host::procfs::read_regular;

/// The size limit of a searched file, in bytes.
const MAX: u64 = 8 << 20;
const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";

/// A user or group, as given on a command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Id {
    /// The number.
    Number(u32),
    /// The name, which is looked up in the container.
    Name(String),
}

/// The user of a process: `UID[:GID]` or `NAME[:GROUP]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserSpec {
    /// The user.
    pub user: Id,
    /// The group. Without it a user given by name has the group of passwd(5), and a user given by number that of the config.
    pub group: Option<Id>,
}

/// The ids of a [`UserSpec`] in one container.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) uid: u32,
    /// `None` means the group of the config, for a user given by number.
    pub(crate) gid: Option<u32>,
    /// The groups that have the user as a member, for a user given by name without a group.
    pub(crate) groups: Vec<u32>,
}

impl UserSpec {
    /// Parses an id of a command line: only digits, and not `u32::MAX`, which means "no change" to the kernel.
    pub fn parse_id(text: &str) -> Option<u32> {
        number(text.as_bytes())
    }

    /// Parses the whole text. A text that begins like a number is a number or an error, never another user (CVE-2026-30892).
    ///
    /// # Errors
    /// [`Kind::InvalidSpec`](crate::error::Kind::InvalidSpec) if a part is neither a number nor a name.
    pub fn parse(text: &str) -> Result<UserSpec> {
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        Ok(UserSpec { user: Id::parse("uid", user)?, group: group.map(|g| Id::parse("gid", g)).transpose()? })
    }

    /// Looks up the names in the container's root directory `root`.
    pub(crate) fn find(&self, root: BorrowedFd<'_>) -> Result<Found> {
        let read = |path| read(root, path).doing(|| format!("read {path} of the container"));
        let passwd = if matches!(self.user, Id::Name(_)) { read(PASSWD)? } else { Vec::new() };
        let groups = match (&self.user, &self.group) {
            (_, Some(Id::Name(_))) => read(GROUP)?,
            // without the file there are no groups
            (Id::Name(_), None) => read(GROUP).or_else(|e| if e.errno() == Some(Errno::NOENT) { Ok(Vec::new()) } else { Err(e) })?,
            _ => Vec::new(),
        };
        self.find_in(&passwd, &groups)
    }

    fn find_in(&self, passwd: &[u8], groups: &[u8]) -> Result<Found> {
        let group = match &self.group {
            None => None,
            Some(Id::Number(gid)) => Some(*gid),
            Some(Id::Name(name)) => {
                Some(entry(groups, name).and_then(|f| f.number(2)).ok_or_else(|| unknown("gid", "group", name, GROUP))?)
            }
        };
        let name = match &self.user {
            Id::Number(uid) => return Ok(Found { uid: *uid, gid: group, groups: Vec::new() }),
            Id::Name(name) => name,
        };
        let found = entry(passwd, name).and_then(|f| Some((f.number(2)?, f.number(3)?)));
        let (uid, gid) = found.ok_or_else(|| unknown("uid", "user", name, PASSWD))?;
        let members =
            if group.is_some() { Vec::new() } else { lines(groups).filter(|f| f.has_member(name)).filter_map(|f| f.number(2)).collect() };
        Ok(Found { uid, gid: group.or(Some(gid)), groups: members })
    }
}

impl Id {
    fn parse(what: &str, text: &str) -> Result<Id> {
        // the names that useradd(8) accepts
        let is_name = |first: u8| first.is_ascii_alphabetic() || first == b'_';
        let rest = |b: u8| b.is_ascii_alphanumeric() || b"_.-$".contains(&b);
        match text.as_bytes() {
            [first, more @ ..] if is_name(*first) && more.iter().all(|b| rest(*b)) => Ok(Id::Name(text.to_owned())),
            _ => number(text.as_bytes())
                .map(Id::Number)
                .ok_or_else(|| Error::invalid(format!("bad {what}: \"{text}\" is neither a number nor a name"))),
        }
    }
}

fn unknown(what: &str, kind: &str, name: &str, file: &str) -> Error {
    Error::invalid(format!("bad {what}: the container's {file} has no {kind} {name}"))
}

/// Parses an id: only digits, and not u32::MAX, which means "no change" to the kernel.
pub(crate) fn number(text: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(text).ok().filter(|t| t.bytes().all(|b| b.is_ascii_digit()))?;
    text.parse().ok().filter(|id| *id != u32::MAX)
}

/// A line of passwd(5) or group(5).
struct Fields<'a>(Vec<&'a [u8]>);

impl Fields<'_> {
    fn number(&self, i: usize) -> Option<u32> {
        number(self.0.get(i)?)
    }

    fn has_member(&self, name: &str) -> bool {
        self.0.get(3).is_some_and(|list| list.split(|&b| b == b',').any(|m| m.trim_ascii() == name.as_bytes()))
    }
}

fn lines(text: &[u8]) -> impl Iterator<Item = Fields<'_>> {
    text.split(|&b| b == b'\n').map(|line| Fields(line.split(|&b| b == b':').collect()))
}

/// The first line with that name, as the C library chooses it.
fn entry<'a>(text: &'a [u8], name: &str) -> Option<Fields<'a>> {
    lines(text).find(|f| f.0.first() == Some(&name.as_bytes()))
}

/// Reads a file of the image, in a process outside the container. The type is checked before the file is opened: the open of a
/// device can have effects, and the container's device rules do not apply to this process.
fn read(root: BorrowedFd<'_>, path: &str) -> Result<Vec<u8>> {
    let found = beneath::open(root, path, OFlags::PATH)?;
    if FileType::from_raw_mode(rustix::fs::fstat(&found)?.st_mode) != FileType::RegularFile {
        return Err(Error::invalid("not a regular file"));
    }
    let own = format!("/proc/self/fd/{}", found.as_raw_fd());
    let file = rustix::fs::open(own, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty())?;
    read_regular(file.as_fd(), MAX)
}

/// The home directory of `uid` in the caller's root directory, or `/` if passwd(5) has none. The file belongs to the image, so it
/// is opened without blocking: it may be a FIFO or a device.
pub(crate) fn home(uid: u32) -> String {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = rustix::fs::open("/etc/passwd", flags, Mode::empty());
    let text = file.ok().and_then(|fd| read_regular(fd.as_fd(), MAX).ok()).unwrap_or_default();
    find_home(&text, uid).unwrap_or_else(|| "/".to_owned())
}

fn find_home(passwd: &[u8], uid: u32) -> Option<String> {
    passwd.split(|&b| b == b'\n').find_map(|line| {
        let mut fields = line.split(|&b| b == b':');
        let number = std::str::from_utf8(fields.nth(2)?).ok()?;
        let home = std::str::from_utf8(fields.nth(2)?).ok()?;
        (number.parse() == Ok(uid) && !home.is_empty() && !home.contains('\0')).then(|| home.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names() {
        let spec = |user, group| UserSpec { user, group };
        let name = |n: &str| Id::Name(n.to_owned());
        for (text, is) in [
            ("0", spec(Id::Number(0), None)),
            ("1000:50", spec(Id::Number(1000), Some(Id::Number(50)))),
            ("www-data", spec(name("www-data"), None)),
            ("_x.y$:wheel", spec(name("_x.y$"), Some(name("wheel")))),
            ("7:wheel", spec(Id::Number(7), Some(name("wheel")))),
        ] {
            assert_eq!(UserSpec::parse(text).unwrap(), is, "{text}");
        }
        for (text, what, part) in [
            ("-1", "uid", "-1"),
            ("+1", "uid", "+1"),
            ("", "uid", ""),
            ("1000 ", "uid", "1000 "),
            ("1000a", "uid", "1000a"),
            ("4294967295", "uid", "4294967295"),
            ("99999999999", "uid", "99999999999"),
            (":5", "uid", ""),
            ("1:", "gid", ""),
            ("1:2:3", "gid", "2:3"),
            ("a/b", "uid", "a/b"),
            ("r\u{f6}t", "uid", "r\u{f6}t"),
        ] {
            assert_eq!(UserSpec::parse(text).unwrap_err().text(), format!("bad {what}: \"{part}\" is neither a number nor a name"));
        }
    }

    #[test]
    fn names_are_looked_up_and_never_guessed() {
        let passwd = b"root:x:0:0::/root:/bin/sh\nbad:x:-1:5::/:\nbroken:x:7\nweb:x:33:34::/:\nweb:x:0:0::/:\nmax:x:4294967295:1::/:\n";
        let groups = b"wheel:x:10:root, web\nweb:x:34:\nlogs:x:4:web,x\nnone:x::web\nwebs:x:5:webs\n";
        let find = |text: &str| UserSpec::parse(text).unwrap().find_in(passwd, groups).map_err(|e| e.to_string());
        assert_eq!(find("web"), Ok(Found { uid: 33, gid: Some(34), groups: vec![10, 4] }));
        assert_eq!(find("web:logs"), Ok(Found { uid: 33, gid: Some(4), groups: vec![] }));
        assert_eq!(find("web:0"), Ok(Found { uid: 33, gid: Some(0), groups: vec![] }));
        assert_eq!(find("5:wheel"), Ok(Found { uid: 5, gid: Some(10), groups: vec![] }));
        assert_eq!(find("5"), Ok(Found { uid: 5, gid: None, groups: vec![] }));
        for name in ["nobody", "bad", "broken", "max", "we"] {
            assert_eq!(find(name), Err(format!("bad uid: the container's /etc/passwd has no user {name}")));
        }
        assert_eq!(find("web:none"), Err("bad gid: the container's /etc/group has no group none".into()));
    }

    #[test]
    fn users_are_found_by_number_only() {
        let text = b"1000:x:0:0:trap:/trap:/bin/sh\nroot:x:0:0::/root:/bin/sh\nbroken\nu:x:1000:5::/home/u:\n";
        assert_eq!(find_home(text, 1000).as_deref(), Some("/home/u"));
        assert_eq!(find_home(text, 0).as_deref(), Some("/trap"));
        assert_eq!(find_home(text, 7), None);
    }
}
