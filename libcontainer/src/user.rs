//! What the container's passwd(5) says of a user: only the home directory, and only by number (CVE-2016-3697).

use std::os::fd::AsFd;

use rustix::fs::{Mode, OFlags};

use crate::procfs::read_regular;

/// A larger file is not searched, in bytes.
const MAX: u64 = 8 << 20;

/// The home directory of `uid` in the root that the caller is in; `/` where the file does not tell. The file belongs to
/// the image: a FIFO or a device in its place must not hold us up.
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
    fn users_are_found_by_number_only() {
        let text = b"1000:x:0:0:trap:/trap:/bin/sh\nroot:x:0:0::/root:/bin/sh\nbroken\nu:x:1000:5::/home/u:\n";
        assert_eq!(find_home(text, 1000).as_deref(), Some("/home/u"));
        assert_eq!(find_home(text, 0).as_deref(), Some("/trap"));
        assert_eq!(find_home(text, 7), None);
    }
}
