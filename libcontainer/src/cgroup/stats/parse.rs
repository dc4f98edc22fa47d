//! Reads the few formats of the statistics files.
//!
//! A file that does not exist, or is gone with its cgroup, gives `None`: the set of files depends on the kernel.

use std::collections::BTreeMap;

use rustix::io::Errno;

use super::super::file;
use super::super::settings::Dir;
use super::{BlkioEntry, Pressure, PressureData};
use crate::error::{Doing, Result};

/// The text of a file.
pub(super) fn text(dir: Dir<'_>, name: &str) -> Result<Option<String>> {
    match file::read(dir.fd, name) {
        // EOPNOTSUPP: a pressure file, on a kernel that was started without pressure accounting
        Err(Errno::NOENT | Errno::NODEV | Errno::OPNOTSUPP) => Ok(None),
        result => result.map(Some).doing(|| format!("read {name} of {}", dir.path)),
    }
}

/// A file of one number; `max` and numbers of more than 64 bits become the largest number.
pub(super) fn number(dir: Dir<'_>, name: &str) -> Result<Option<u64>> {
    Ok(text(dir, name)?.map(|t| to_number(t.trim())))
}

/// A file of lines `key value`.
pub(super) fn map(dir: Dir<'_>, name: &str) -> Result<Option<BTreeMap<String, u64>>> {
    let pairs = |t: String| t.lines().filter_map(|l| l.split_once(' ')).map(|(k, v)| (k.to_owned(), to_number(v.trim()))).collect();
    Ok(text(dir, name)?.map(pairs))
}

/// A pressure file: `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, and `full` the same.
pub(super) fn pressure(dir: Dir<'_>, name: &str) -> Result<Option<Pressure>> {
    Ok(text(dir, name)?.map(|t| to_pressure(&t)))
}

/// The text of a pressure file.
pub(in crate::cgroup) fn to_pressure(text: &str) -> Pressure {
    let mut p = Pressure::default();
    for line in text.lines() {
        let mut words = line.split(' ');
        let to = match words.next() {
            Some("some") => &mut p.some,
            Some("full") => &mut p.full,
            _ => continue,
        };
        *to = PressureData::default();
        for (key, value) in words.filter_map(|w| w.split_once('=')) {
            match key {
                "avg10" => to.avg10 = value.parse().unwrap_or_default(),
                "avg60" => to.avg60 = value.parse().unwrap_or_default(),
                "avg300" => to.avg300 = value.parse().unwrap_or_default(),
                "total" => to.total = to_number(value),
                _ => {}
            }
        }
    }
    p
}

/// A v1 blkio file: `8:0 Read 1282048`, or `8:0 6792`, and lines of totals.
pub(super) fn blkio(dir: Dir<'_>, name: &str) -> Result<Option<Vec<BlkioEntry>>> {
    Ok(text(dir, name)?.map(|t| t.lines().filter_map(blkio_line).collect()))
}

fn blkio_line(line: &str) -> Option<BlkioEntry> {
    let (device, rest) = line.split_once(' ')?;
    let (major, minor) = device.split_once(':')?;
    let (op, value) = rest.rsplit_once(' ').unwrap_or(("", rest));
    Some(BlkioEntry { major: major.parse().ok()?, minor: minor.parse().ok()?, op: op.into(), value: value.parse().ok()? })
}

/// Reads a list such as `0-2,5`, at most 65536 numbers. Invalid parts are skipped.
pub(super) fn list(text: &str) -> Vec<u16> {
    let range = |part: &str| {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        Some(from.parse::<u16>().ok()?..=to.parse::<u16>().ok()?)
    };
    text.trim().split(',').filter_map(range).flatten().take(1 << 16).collect()
}

fn to_number(text: &str) -> u64 {
    // other text is `max`, or -1 in a few old files
    text.parse().unwrap_or(if text.is_empty() { 0 } else { u64::MAX })
}

/// The huge page sizes of this kernel, in the form of the names of cgroup files: `2MB`, `1GB`.
pub(super) fn huge_page_sizes() -> Vec<String> {
    let Ok(entries) = std::fs::read_dir("/sys/kernel/mm/hugepages") else { return Vec::new() };
    let mut sizes: Vec<u64> =
        entries.filter_map(|e| e.ok()?.file_name().to_str()?.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()).collect();
    sizes.sort_unstable();
    sizes.into_iter().map(size_name).collect()
}

fn size_name(kib: u64) -> String {
    match kib {
        0x10_0000.. => format!("{}GB", kib >> 20),
        0x400.. => format!("{}MB", kib >> 10),
        _ => format!("{kib}KB"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_read() {
        assert_eq!(list("0-2,5\n"), [0, 1, 2, 5]);
        assert_eq!(list("\n"), [0_u16; 0]);
        assert_eq!(list("3-1,x"), [0_u16; 0]);
        assert_eq!([to_number("max"), to_number("7"), to_number("-1"), to_number("")], [u64::MAX, 7, u64::MAX, 0]);
        assert_eq!([size_name(64), size_name(2048), size_name(1 << 20)], ["64KB", "2MB", "1GB"]);
        assert_eq!(blkio_line("8:16 Read 5").unwrap(), BlkioEntry { major: 8, minor: 16, op: "Read".into(), value: 5 });
        assert_eq!(blkio_line("8:0 6792").unwrap().op, "");
        assert_eq!(blkio_line("Total 5"), None);
        let p = to_pressure("some avg10=1.50 avg60=2.00 avg300=0.00 total=12\nfull avg10=0.25 avg60=0.00 avg300=0.00 total=3\n");
        assert_eq!((p.some.avg10, p.some.total, p.full.avg10, p.full.total), (1.5, 12, 0.25, 3));
        let json = serde_json::to_string(&p.some).unwrap();
        assert_eq!(json, r#"{"avg10":1.5,"avg60":2,"avg300":0,"total":12}"#);
    }
}
