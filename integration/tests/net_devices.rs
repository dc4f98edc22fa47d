//! Host network devices that are moved into a container: their names, addresses and settings, and their return if the create
//! fails.

use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use integration::{Bundle, Output, Test, check};
use serde_json::json;

/// A shell script. It makes a network namespace in place of the host's, with one end of a configured veth pair, runs the runtime,
/// and prints the devices that are left.
const HOST: &str = "
ip link add it0 type veth peer name peer0 &&
ip link set it0 mtu 1789 address 02:11:22:33:44:55 up && ip link set peer0 up &&
ip address add 10.77.0.1/24 broadcast 10.77.0.255 dev it0 && ip address add 127.0.0.33/8 scope host dev it0 &&
ip -6 address add fd77::1/64 nodad dev it0 || exit 99
\"$@\"; code=$?
ip -o address show dev it0 2>&1; ip -o link show dev it0 2>&1
exit $code";

/// Whether the runtime lacks the feature, or the machine lacks a tool.
fn lacks(t: &Test) -> Result<bool> {
    if t.differs("runc<1.4", "has no netDevices") || t.differs("crun<1.24", "has no netDevices") {
        return Ok(true);
    }
    let able = Command::new("unshare").args(["--net", "ip", "link", "add", "it0", "type", "veth", "peer", "name", "it1"]).output();
    if !able.is_ok_and(|output| output.status.success()) {
        t.skip("needs ip(8), unshare(1) and devices of type veth")?;
        return Ok(true);
    }
    Ok(false)
}

fn run(t: &Test, bundle: &Bundle) -> Result<Output> {
    bundle.write()?;
    let command =
        t.under(&["unshare", "--net", "sh", "-c", HOST, "sh"], ["run", "--bundle", &bundle.path().to_string_lossy(), &t.new_id()])?;
    t.finish(command)
}

/// Lets the payload print these files.
fn reading(bundle: &mut Bundle, files: &[&str]) {
    let words = files.iter().flat_map(|file| ["then", "read", file]).skip(1);
    bundle.args(["/bin/payload"].into_iter().chain(words));
}

#[test]
fn a_device_keeps_its_addresses_and_settings_under_its_new_name() {
    check(|t| {
        if lacks(t)? {
            return Ok(());
        }
        let mut bundle = t.bundle()?;
        bundle.set("/linux/netDevices", json!({"it0": {"name": "inside0"}}));
        let of = |file: &str| format!("/sys/class/net/inside0/{file}");
        reading(&mut bundle, &[&of("mtu"), &of("address"), &of("flags"), "/proc/net/fib_trie", "/proc/net/if_inet6"]);
        let seen = run(t, &bundle)?.exits(0)?.stdout;
        let mut lines = seen.lines();
        assert_eq!((lines.next(), lines.next()), (Some("1789"), Some("02:11:22:33:44:55")), "{seen}");
        // IFF_UP
        ensure!(lines.next().is_some_and(|flags| flags.ends_with('3')), "{seen}");
        ensure!(seen.contains("|-- 10.77.0.1\n") && seen.contains("|-- 10.77.0.255\n"), "{seen}");
        ensure!(!seen.contains("127.0.0.33"), "an address of the host's own scope came along: {seen}");
        let six = seen.lines().find(|line| line.starts_with("fd77")).map(str::to_owned);
        if !t.differs("runc", "sets the device down first, and its IPv6 addresses are gone then") {
            ensure!(six.is_some_and(|line| line.ends_with("inside0")), "{seen}");
        }
        ensure!(!seen.contains("10.77.0.1/24"), "it is still on the host: {seen}");
        Ok(())
    });
}

#[test]
fn in_a_user_namespace_the_network_is_made_late_and_gets_them_all_the_same() {
    check(|t| {
        if lacks(t)? {
            return Ok(());
        }
        let mut bundle = t.bundle()?;
        let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}]);
        bundle.namespace("user", None).set("/linux/uidMappings", map.clone()).set("/linux/gidMappings", map);
        bundle.set("/linux/netDevices", json!({"it0": {"name": "inside0"}}));
        reading(&mut bundle, &["/sys/class/net/inside0/mtu", "/sys/class/net/inside0/address"]);
        let seen = run(t, &bundle)?.exits(0)?.stdout;
        ensure!(seen.starts_with("1789\n02:11:22:33:44:55\n"), "{seen}");
        ensure!(!seen.contains("10.77.0.1/24"), "it is still on the host: {seen}");

        // a create that fails after the move
        bundle.mount("/x", "bind", "/no/such/source", &["bind"]);
        let failed = run(t, &bundle)?.exits(1)?;
        ensure!(failed.stdout.contains("10.77.0.1/24"), "it did not come back: {}", failed.stdout);
        Ok(())
    });
}

/// A process that keeps a network namespace with a device `taken0`.
struct Held(Child);

impl Held {
    fn new() -> Result<Self> {
        let script = "ip link add taken0 type veth peer name other0 && echo ready && exec sleep 1000";
        let child = Command::new("unshare").args(["--net", "sh", "-c", script]).stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let mut held = Self(child);
        let mut ready = [0; 6];
        std::io::Read::read_exact(held.0.stdout.as_mut().context("a pipe")?, &mut ready)?;
        Ok(held)
    }

    fn path(&self) -> String {
        format!("/proc/{}/ns/net", self.0.id())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_template_takes_the_first_name_that_is_free() {
    check(|t| {
        if lacks(t)? || t.differs("runc", "looks for a device named %d") || t.differs("crun", "looks for a device named %d") {
            return Ok(());
        }
        let held = Held::new()?;
        let mut bundle = t.bundle()?;
        bundle.namespace("network", Some(&held.path())).set("/linux/netDevices", json!({"it0": {"name": "taken%d"}}));
        let links = links(t, &mut bundle)?;
        ensure!(["lo", "taken0", "other0", "taken1"].iter().all(|name| links.contains(name)), "{links}");
        Ok(())
    });
}

fn links(t: &Test, bundle: &mut Bundle) -> Result<String> {
    bundle.args(["/bin/payload", "report"]);
    let output = run(t, bundle)?.exits(0)?;
    let report: serde_json::Value = serde_json::from_str(output.stdout.lines().next().unwrap_or_default())?;
    Ok(report["links"].to_string())
}

#[test]
fn a_container_that_does_not_come_to_be_gives_them_back() {
    check(|t| {
        if lacks(t)? {
            return Ok(());
        }
        if t.differs("runc", "leaves them where they are") || t.differs("crun", "leaves them where they are") {
            return Ok(());
        }
        let held = Held::new()?;
        let back = |output: &Output| {
            let text = &output.stdout;
            let whole = ["10.77.0.1/24 brd 10.77.0.255", "fd77::1/64", "mtu 1789", "UP"].iter().all(|part| text.contains(part));
            ensure!(whole, "not as it was: {text}\n{}", output.stderr);
            Ok(())
        };
        // the name exists already: the kernel moves the device, and then fails to rename it
        let mut bundle = t.bundle()?;
        bundle.namespace("network", Some(&held.path())).set("/linux/netDevices", json!({"it0": {"name": "taken0"}}));
        let output = run(t, &bundle)?.exits(1)?;
        back(&output)?;
        output.fails_with("file exists")?.fails_with("move netDevice it0")?;
        // a later step fails, and the new namespace is destroyed with the container
        bundle.namespace("network", None).set("/linux/netDevices", json!({"it0": {"name": "inside0"}})).args(["/no/such"]);
        let output = run(t, &bundle)?.exits(1)?;
        back(&output)?;
        // the second device is missing; the program exists, else init could report its absence first
        bundle.set("/linux/netDevices", json!({"it0": {}, "nosuch0": {}})).args(["/bin/true"]);
        let output = run(t, &bundle)?.exits(1)?;
        back(&output)?;
        output.fails_with("link not found for interface nosuch0 on runtime namespace")?;
        Ok(())
    });
}
