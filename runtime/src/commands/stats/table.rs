//! The table of `stats`.

use std::collections::BTreeMap;

use libcontainer::cgroup::Stats;

use super::Sample;

const TITLES: [&str; 9] = ["ID", "CPU", "MEMORY", "LIMIT", "MEM", "PIDS", "READ", "WRITTEN", "OOM KILLS"];
/// The number of left-aligned columns. The others are right-aligned.
const NAMES: usize = 1;

/// One line for each container that is in both samples. 100 % is one processor.
pub(super) fn print(before: &BTreeMap<String, Sample>, now: &BTreeMap<String, Sample>) -> String {
    let mut rows = vec![TITLES.map(str::to_owned)];
    rows.extend(now.values().filter_map(|sample| Some(row(before.get(&sample.id)?, sample))));
    let width = |i: usize| rows.iter().map(|row| row.get(i).map_or(0, |cell| cell.chars().count())).max().unwrap_or_default();
    let widths: Vec<usize> = (0..TITLES.len()).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().zip(&widths).enumerate();
        let line: Vec<String> = cells.map(|(i, (cell, w))| if i < NAMES { format!("{cell:w$}") } else { format!("{cell:>w$}") }).collect();
        text.push_str(line.join("   ").trim_end());
        text.push('\n');
    }
    text
}

fn row(before: &Sample, now: &Sample) -> [String; TITLES.len()] {
    let Stats { cpu, memory, pids, blkio, .. } = &now.stats;
    let spent = cpu.usage.total.saturating_sub(before.stats.cpu.usage.total) as f64;
    let passed = now.at.duration_since(before.at).as_nanos().max(1) as f64;
    let used = in_use(&now.stats);
    let limit = Some(memory.usage.limit).filter(|limit| *limit > 0 && *limit < UNLIMITED);
    let moved = |op: &str| -> u64 {
        let entries = blkio.io_service_bytes_recursive.iter().filter(|e| e.op.eq_ignore_ascii_case(op));
        entries.map(|e| e.value).fold(0, u64::saturating_add)
    };
    let kills = memory.events.get("oom_kill").copied().unwrap_or(0);
    [
        now.id.clone(),
        format!("{:.1}%", 100.0 * spent / passed),
        size(used),
        limit.map_or_else(|| "-".into(), size),
        limit.map_or_else(|| "-".into(), |limit| format!("{:.1}%", 100.0 * used as f64 / limit as f64)),
        if pids.limit == 0 { pids.current.to_string() } else { format!("{}/{}", pids.current, pids.limit) },
        size(moved("read")),
        size(moved("write")),
        kills.to_string(),
    ]
}

/// v1 reports "no limit" as the largest multiple of the page size.
pub(super) const UNLIMITED: u64 = 1 << 62;

/// Memory in use without inactive file pages, as Docker counts it.
fn in_use(stats: &Stats) -> u64 {
    let raw = &stats.memory.raw;
    let inactive = raw.get("total_inactive_file").or(raw.get("inactive_file")).copied().unwrap_or(0);
    stats.memory.usage.usage.checked_sub(inactive).unwrap_or(stats.memory.usage.usage)
}

/// Three digits and a unit: `512B`, `1.50MiB`, `20.3GiB`.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes}B");
    }
    let mut value = bytes as f64;
    let mut name = "";
    for unit in UNITS {
        value /= 1024.0;
        name = unit;
        if value < 999.5 {
            break;
        }
    }
    let digits = match value {
        v if v < 9.995 => 2,
        v if v < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.digits$}{name}")
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use libcontainer::cgroup::BlkioEntry;

    use super::*;

    #[test]
    fn sizes_have_three_digits() {
        for (bytes, text) in [
            (0, "0B"),
            (1023, "1023B"),
            (1024, "1.00KiB"),
            (1536, "1.50KiB"),
            (10 << 10, "10.0KiB"),
            (999 << 10, "999KiB"),
            (1023 << 10, "1.00MiB"),
            (64 << 20, "64.0MiB"),
            (3 << 40, "3.00TiB"),
            (u64::MAX, "16.0EiB"),
        ] {
            assert_eq!(size(bytes), text, "{bytes}");
        }
    }

    #[test]
    fn a_line_for_each_that_is_in_both_looks() {
        let start = Instant::now();
        let sample = |id: &str, after: u64, nanoseconds: u64| {
            let mut stats = Stats::default();
            stats.cpu.usage.total = nanoseconds;
            stats.memory.usage.usage = 3 << 20;
            stats.memory.usage.limit = if id == "web" { 4 << 20 } else { u64::MAX };
            stats.memory.raw.insert("inactive_file".into(), 1 << 20);
            stats.memory.events.insert("oom_kill".into(), 2);
            stats.pids.current = 7;
            stats.pids.limit = if id == "web" { 10 } else { 0 };
            let read = BlkioEntry { op: "Read".into(), value: 2048, ..BlkioEntry::default() };
            stats.blkio.io_service_bytes_recursive = vec![read.clone(), read];
            (id.to_owned(), Sample { id: id.into(), at: start + Duration::from_secs(after), stats })
        };
        let before = BTreeMap::from([sample("web", 0, 5), sample("db", 0, 0)]);
        let now = BTreeMap::from([sample("web", 2, 500_000_005), sample("db", 2, 4_000_000_000), sample("new", 2, 1)]);
        assert_eq!(
            print(&before, &now),
            "ID       CPU    MEMORY     LIMIT     MEM   PIDS      READ   WRITTEN   OOM KILLS\n\
             db    200.0%   2.00MiB         -       -      7   4.00KiB        0B           2\n\
             web    25.0%   2.00MiB   4.00MiB   50.0%   7/10   4.00KiB        0B           2\n"
        );
    }
}
