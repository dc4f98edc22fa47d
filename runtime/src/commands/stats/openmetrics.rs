//! OpenMetrics text 1.0 for a collector such as Prometheus: a timer or a sidecar runs `masu stats --format openmetrics`.

use std::collections::BTreeMap;
use std::fmt::Write;

use libcontainer::cgroup::{BlkioEntry, Pressure, Stats};

use super::Sample;
use super::table::UNLIMITED;

/// A metric family. The name is without the prefix `masu_container_`.
struct Family {
    name: &'static str,
    kind: &'static str,
    unit: &'static str,
    help: &'static str,
    /// The values of the family, each with its further labels (`,name="value"`).
    values: fn(&Stats) -> Vec<(String, Number)>,
}

enum Number {
    Whole(u64),
    /// Printed in seconds.
    Nanoseconds(u64),
}

use Number::{Nanoseconds, Whole};

/// One value without further labels.
fn one(number: Number) -> Vec<(String, Number)> {
    vec![(String::new(), number)]
}

/// A limit, or nothing if there is none.
fn limit(value: u64) -> Vec<(String, Number)> {
    if value == 0 || value >= UNLIMITED { Vec::new() } else { one(Whole(value)) }
}

const FAMILIES: [Family; 19] = [
    Family {
        name: "cpu_seconds",
        kind: "counter",
        unit: "seconds",
        help: "Processor time used.",
        values: |s| one(Nanoseconds(s.cpu.usage.total)),
    },
    Family {
        name: "cpu_user_seconds",
        kind: "counter",
        unit: "seconds",
        help: "Processor time used in programs.",
        values: |s| one(Nanoseconds(s.cpu.usage.user)),
    },
    Family {
        name: "cpu_system_seconds",
        kind: "counter",
        unit: "seconds",
        help: "Processor time used in the kernel.",
        values: |s| one(Nanoseconds(s.cpu.usage.kernel)),
    },
    Family {
        name: "cpu_periods",
        kind: "counter",
        unit: "",
        help: "Periods of the quota in which something ran.",
        values: |s| one(Whole(s.cpu.throttling.periods)),
    },
    Family {
        name: "cpu_throttled_periods",
        kind: "counter",
        unit: "",
        help: "Periods in which the quota was used up.",
        values: |s| one(Whole(s.cpu.throttling.throttled_periods)),
    },
    Family {
        name: "cpu_throttled_seconds",
        kind: "counter",
        unit: "seconds",
        help: "How long tasks were kept from running.",
        values: |s| one(Nanoseconds(s.cpu.throttling.throttled_time)),
    },
    Family { name: "memory_bytes", kind: "gauge", unit: "bytes", help: "Memory in use.", values: |s| one(Whole(s.memory.usage.usage)) },
    Family {
        name: "memory_limit_bytes",
        kind: "gauge",
        unit: "bytes",
        help: "The limit of memory.",
        values: |s| limit(s.memory.usage.limit),
    },
    Family {
        name: "memory_peak_bytes",
        kind: "gauge",
        unit: "bytes",
        help: "The most memory ever in use.",
        values: |s| limit(s.memory.usage.max),
    },
    Family { name: "memory_cache_bytes", kind: "gauge", unit: "bytes", help: "Pages of files.", values: |s| one(Whole(s.memory.cache)) },
    Family {
        name: "memory_and_swap_bytes",
        kind: "gauge",
        unit: "bytes",
        help: "Memory and swap in use.",
        values: |s| one(Whole(s.memory.swap.usage.max(s.memory.usage.usage))),
    },
    Family { name: "memory_events", kind: "counter", unit: "", help: "How often a limit of memory did something.", values: memory_events },
    Family { name: "pids", kind: "gauge", unit: "", help: "Tasks.", values: |s| one(Whole(s.pids.current)) },
    Family { name: "pids_limit", kind: "gauge", unit: "", help: "The limit of tasks.", values: |s| limit(s.pids.limit) },
    Family {
        name: "io_bytes",
        kind: "counter",
        unit: "bytes",
        help: "Bytes moved from and to block devices.",
        values: |s| devices(&s.blkio.io_service_bytes_recursive),
    },
    Family {
        name: "io_operations",
        kind: "counter",
        unit: "",
        help: "Requests to block devices.",
        values: |s| devices(&s.blkio.io_serviced_recursive),
    },
    Family { name: "hugetlb_bytes", kind: "gauge", unit: "bytes", help: "Huge pages in use.", values: |s| huge_pages(s, |h| h.usage) },
    Family { name: "hugetlb_refused", kind: "counter", unit: "", help: "Huge pages refused.", values: |s| huge_pages(s, |h| h.failcnt) },
    Family {
        name: "pressure_seconds",
        kind: "counter",
        unit: "seconds",
        help: "How long some or all tasks waited for a resource.",
        values: pressure,
    },
];

pub(super) fn print(samples: &BTreeMap<String, Sample>) -> String {
    let mut text = String::new();
    for Family { name, kind, unit, help, values } in FAMILIES {
        let _ = writeln!(text, "# TYPE masu_container_{name} {kind}");
        if !unit.is_empty() {
            let _ = writeln!(text, "# UNIT masu_container_{name} {unit}");
        }
        let _ = writeln!(text, "# HELP masu_container_{name} {help}");
        let suffix = if kind == "counter" { "_total" } else { "" };
        for sample in samples.values() {
            for (labels, number) in values(&sample.stats) {
                let value = match number {
                    Whole(n) => n.to_string(),
                    Nanoseconds(n) => format!("{}.{:09}", n / 1_000_000_000, n % 1_000_000_000),
                };
                // the characters that a container id may have need no escape
                let _ = writeln!(text, "masu_container_{name}{suffix}{{id=\"{}\"{labels}}} {value}", sample.id);
            }
        }
    }
    text.push_str("# EOF\n");
    text
}

fn memory_events(s: &Stats) -> Vec<(String, Number)> {
    // on v1, two of the entries are states, not counters
    let counters = s.memory.events.iter().filter(|(name, _)| !matches!(name.as_str(), "oom_kill_disable" | "under_oom"));
    counters.map(|(name, n)| (format!(",event=\"{name}\""), Whole(*n))).collect()
}

fn devices(list: &[BlkioEntry]) -> Vec<(String, Number)> {
    // v1 also has the sums Sync, Async and Total
    let moved = list.iter().filter(|e| matches!(e.op.as_str(), "Read" | "Write" | "Discard"));
    let labels = |e: &BlkioEntry| format!(",device=\"{}:{}\",operation=\"{}\"", e.major, e.minor, e.op.to_ascii_lowercase());
    moved.map(|e| (labels(e), Whole(e.value))).collect()
}

fn huge_pages(s: &Stats, number: fn(&libcontainer::cgroup::Hugetlb) -> u64) -> Vec<(String, Number)> {
    s.hugetlb.iter().map(|(size, h)| (format!(",size=\"{size}\""), Whole(number(h)))).collect()
}

fn pressure(s: &Stats) -> Vec<(String, Number)> {
    let of = |(resource, psi): (&str, &Option<Pressure>)| -> Vec<(String, Number)> {
        let total = |kind: &str, microseconds: u64| {
            (format!(",resource=\"{resource}\",tasks=\"{kind}\""), Nanoseconds(microseconds.saturating_mul(1000)))
        };
        psi.iter().flat_map(|p| [total("some", p.some.total), total("full", p.full.total)]).collect()
    };
    [("cpu", &s.cpu.psi), ("memory", &s.memory.psi), ("io", &s.blkio.psi)].into_iter().flat_map(of).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn the_text_is_openmetrics() {
        let mut stats = Stats::default();
        stats.cpu.usage.total = 1_500_000_001;
        stats.memory.usage.limit = u64::MAX;
        stats.memory.events.insert("oom_kill".into(), 3);
        let read = |op: &str| BlkioEntry { major: 8, minor: 16, op: op.into(), value: 4096 };
        stats.blkio.io_service_bytes_recursive = vec![read("Read"), read("Total")];
        stats.cpu.psi = Some(Pressure::default());
        let sample = Sample { id: "web".into(), at: Instant::now(), stats };
        let text = print(&BTreeMap::from([("web".to_owned(), sample)]));
        for line in [
            "# TYPE masu_container_cpu_seconds counter\n# UNIT masu_container_cpu_seconds seconds\n# HELP masu_container_cpu_seconds Processor time used.\nmasu_container_cpu_seconds_total{id=\"web\"} 1.500000001\n",
            "masu_container_memory_events_total{id=\"web\",event=\"oom_kill\"} 3\n",
            "masu_container_io_bytes_total{id=\"web\",device=\"8:16\",operation=\"read\"} 4096\n# TYPE",
            "masu_container_pressure_seconds_total{id=\"web\",resource=\"cpu\",tasks=\"full\"} 0.000000000\n",
            "# TYPE masu_container_memory_limit_bytes gauge\n# UNIT masu_container_memory_limit_bytes bytes\n# HELP masu_container_memory_limit_bytes The limit of memory.\n# TYPE",
        ] {
            assert!(text.contains(line), "no {line:?} in {text}");
        }
        assert!(text.ends_with("\n# EOF\n"));
        for Family { name, kind, unit, .. } in FAMILIES {
            assert!(name.ends_with(unit) && !name.ends_with("_total"), "{name}: the unit is the end of the name");
            assert!(matches!(kind, "counter" | "gauge"));
        }
    }
}
