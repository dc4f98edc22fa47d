//! `linux.resources` as an ordered list of files and values; `merge.rs` has the rules of `update`.
//!
//! Pure; runs in the runtime. config-linux.md, "Control groups"; the kernel's admin-guide/cgroup-v1 and cgroup-v2.rst.
//! Conversions and error texts are runc's, because callers see both.

mod merge;
#[cfg(test)]
mod tests;
mod v1;
mod v2;

pub use merge::merge;
pub(super) use v1::v1;
pub(super) use v2::{cpu_weight, swap, v2};

use std::fmt::Display;

use crate::findings::{Findings, Item};
use crate::spec::{self, HugepageLimit};

/// One value for one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Setting {
    /// The property in config.json that asks for it.
    pub(super) asked: String,
    /// The controller that has the file; it names the v1 hierarchy.
    pub(super) controller: String,
    pub(super) file: String,
    pub(super) value: String,
    pub(super) missing: Missing,
    /// After EINVAL, write it again after the other settings of this controller. The reason: two values bound each other
    /// (memory and swap, quota and period), and the right order depends on the old ones.
    pub(super) later: bool,
    /// Whether it is a line of `unified`, which has error texts of its own.
    pub(super) unified: bool,
}

/// The reaction to a missing file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Missing {
    /// An error: the limit cannot be set.
    Fail,
    /// Nothing: without the file, the kernel behaves as asked.
    Skip,
    /// Write the file of another scheduler, with the value in its scale.
    Instead(&'static str, String),
}

impl Setting {
    /// `asked` is the path below `linux.resources`.
    fn new(asked: impl Display, controller: &'static str, file: impl Into<String>, value: impl Display) -> Setting {
        Setting {
            asked: format!("linux.resources.{asked}"),
            controller: controller.into(),
            file: file.into(),
            value: value.to_string(),
            missing: Missing::Fail,
            later: false,
            unified: false,
        }
    }

    fn optional(mut self) -> Setting {
        self.missing = Missing::Skip;
        self
    }

    fn or(mut self, file: &'static str, value: impl Display) -> Setting {
        self.missing = Missing::Instead(file, value.to_string());
        self
    }

    fn later(mut self) -> Setting {
        self.later = true;
        self
    }
}

/// Notes an error of the property `at` below `linux.resources`.
fn wrong(found: &mut Findings, at: impl Display, text: impl Display) {
    let at = format!("linux.resources.{at}");
    let text = format!("{at}: {text}");
    found.invalid(at, text);
}

/// Warns that the property `at` below `linux.resources` does nothing here.
fn without_effect(found: &mut Findings, at: &str, why: &str) {
    found.warn(format_args!("linux.resources.{at}"), format!("linux.resources.{at} is ignored: {why}"));
}

/// Takes 0 for "not given", as runc does.
fn given<T: Copy + Default + PartialEq>(value: Option<T>) -> Option<T> {
    value.filter(|v| *v != T::default())
}

/// The value of pids.max. 0 becomes 1, because systemd has no 0, and the container's init is one already.
fn pids(limit: i64) -> String {
    match limit {
        0 => "1".into(),
        1.. => limit.to_string(),
        _ => "max".into(),
    }
}

/// Refuses a burst above the quota. The kernel does so too, but its error names the quota.
fn check_burst(cpu: &spec::Cpu, found: &mut Findings) {
    if let (Some(burst), Some(quota)) = (cpu.burst, cpu.quota.and_then(|q| u64::try_from(q).ok()).filter(|q| *q > 0))
        && burst > quota
    {
        wrong(found, "cpu.burst", format_args!("a burst of {burst} is more than the quota of {quota}"));
    }
}

/// The swappiness, 0 to 100, if given. Callers write -1 as the largest number, for "not given".
fn swappiness(memory: &spec::Memory, found: &mut Findings) -> Option<u64> {
    let swappiness = memory.swappiness.filter(|s| *s != u64::MAX)?;
    if swappiness > 100 {
        wrong(found, "memory.swappiness", format_args!("invalid memory swappiness value: {swappiness} (valid range is 0-100)"));
        return None;
    }
    Some(swappiness)
}

/// Block I/O weights are 10 to 1000 (config-linux.md); 0 is "not given". `at` is below `linux.resources`.
fn weight(at: impl Display, weight: Option<u16>, found: &mut Findings) -> Option<u16> {
    let weight = given(weight)?;
    if !(10..=1000).contains(&weight) {
        wrong(found, at, format_args!("invalid weight {weight} (valid range is 10-1000)"));
        return None;
    }
    Some(weight)
}

/// The number of a block device in the form of cgroup files: `8:0`. `at` is below `linux.resources`.
fn device(at: impl Display, major: i64, minor: i64, found: &mut Findings) -> Option<String> {
    if u32::try_from(major).is_err() || u32::try_from(minor).is_err() {
        wrong(found, at, format_args!("{major}:{minor} are no numbers of a device"));
        return None;
    }
    Some(format!("{major}:{minor}"))
}

/// Whether `size` is one as in the name of a hugetlb file: a number without leading zero, and a unit.
fn is_page_size(size: &str) -> bool {
    let digits = ["KB", "MB", "GB"].iter().find_map(|unit| size.strip_suffix(unit)).unwrap_or_default();
    !digits.is_empty() && !digits.starts_with('0') && digits.bytes().all(|b| b.is_ascii_digit())
}

/// Settings that v1 and v2 share: huge pages (`suffix` ends the name of the file) and RDMA.
fn shared(r: &spec::Resources, suffix: &str, out: &mut Vec<Setting>, found: &mut Findings) {
    for (i, HugepageLimit { page_size: size, limit }) in r.hugepage_limits.iter().enumerate() {
        let at = Item("hugepageLimits", i);
        if !is_page_size(size) {
            wrong(found, at, format_args!("invalid page size {size:?}"));
            continue;
        }
        out.push(Setting::new(at, "hugetlb", format!("hugetlb.{size}.{suffix}"), limit));
        // Linux 5.7 limits reservations apart from use, if so configured
        out.push(Setting::new(at, "hugetlb", format!("hugetlb.{size}.rsvd.{suffix}"), limit).optional());
    }
    for (device, limit) in &r.rdma {
        let at = format!("rdma[{device:?}]");
        if device.is_empty() || device.contains(char::is_whitespace) {
            wrong(found, &at, format_args!("invalid device name {device:?}"));
        }
        let mut value = device.clone();
        for (name, limit) in [("hca_handle", limit.hca_handles), ("hca_object", limit.hca_objects)] {
            if let Some(limit) = limit {
                value.push_str(&format!(" {name}={limit}"));
            }
        }
        if value != *device {
            out.push(Setting::new(at, "rdma", "rdma.max", value));
        }
    }
}
