//! Time namespaces: clock offsets in a new namespace, in one joined by path, and for exec (time_namespaces(7)).

use std::fs;

use anyhow::ensure;
use integration::{Container, Test, check};
use serde_json::json;

const FILE: &str = "/proc/self/timens_offsets";

/// Whether the runtime is too old for time namespaces.
fn unknown(t: &Test) -> bool {
    t.differs("runc<1.2", "knows no time namespaces") || t.differs("crun<1.9", "breaks off where a time namespace is new")
}

/// Clock, seconds and nanoseconds of each line.
fn offsets(text: &str) -> Vec<Vec<&str>> {
    text.lines().map(|line| line.split_whitespace().collect()).collect()
}

#[test]
fn a_new_one_has_the_offsets_of_the_config() {
    check(|t| {
        if unknown(t) {
            return Ok(());
        }
        let mut bundle = t.bundle()?;
        bundle.namespace("time", None).args(["/bin/payload", "read", FILE, "then", "read", "/proc/uptime", "then", "report"]);
        bundle.set("/linux/timeOffsets", json!({"monotonic": {"secs": 7881, "nanosecs": 2_718_281}, "boottime": {"secs": 500_000}}));
        let output = t.run(&bundle)?.ok()?.stdout;
        let lines: Vec<&str> = output.trim_end().splitn(4, '\n').collect();
        assert_eq!(offsets(&lines[..2].join("\n")), [["monotonic", "7881", "2718281"], ["boottime", "500000", "0"]]);
        // the program itself is in the namespace, not only its children
        let uptime: f64 = lines[2].split(' ').next().unwrap_or_default().parse()?;
        let host: f64 = fs::read_to_string("/proc/uptime")?.split(' ').next().unwrap_or_default().parse()?;
        ensure!((uptime - host - 500_000.0).abs() < 60.0, "uptime {uptime}, on the host {host}");
        let report: serde_json::Value = serde_json::from_str(lines[3])?;
        let host = fs::read_link("/proc/self/ns/time")?;
        ensure!(report["namespaces"]["time"] != json!(host), "not a new one");
        Ok(())
    });
}

#[test]
fn a_new_one_without_offsets_has_the_hosts_clocks() {
    check(|t| {
        if unknown(t) {
            return Ok(());
        }
        let mut bundle = t.bundle()?;
        bundle.namespace("time", None).args(["/bin/payload", "read", FILE]);
        let output = t.run(&bundle)?.ok()?.stdout;
        assert_eq!(offsets(&output), [["monotonic", "0", "0"], ["boottime", "0", "0"]]);
        Ok(())
    });
}

#[test]
fn exec_and_a_container_by_path_join_it() {
    check(|t| {
        if unknown(t) {
            return Ok(());
        }
        let mut bundle = t.bundle()?;
        bundle.namespace("time", None).args(["/bin/sleep"]);
        bundle.set("/linux/timeOffsets", json!({"monotonic": {"secs": -1, "nanosecs": 5}, "boottime": {"secs": 1337}}));
        let container = Container::start_of(t, &bundle)?;
        let expected = [["monotonic", "-1", "5"], ["boottime", "1337", "0"]];
        assert_eq!(offsets(&container.exec(&[], ["/bin/payload", "read", FILE])?.ok()?.stdout), expected);
        let theirs = json!(fs::read_link(format!("/proc/{}/ns/time", container.pid.as_raw_nonzero()))?);
        assert_eq!(container.exec_report(&[])?["namespaces"]["time"], theirs);

        let mut other = t.bundle()?;
        other.namespace("time", Some(&format!("/proc/{}/ns/time", container.pid.as_raw_nonzero())));
        assert_eq!(t.report(&mut other)?["namespaces"]["time"], theirs);
        other.args(["/bin/payload", "read", FILE]);
        assert_eq!(offsets(&t.run(&other)?.ok()?.stdout), expected);
        Ok(())
    });
}
