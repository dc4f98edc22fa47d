//! A container's limits as properties of its unit: systemd writes the same files, and would undo limits that it does not
//! know.
//!
//! Pure. systemd.resource-control(5), org.freedesktop.systemd1(5); runc's docs/systemd.md has the same table. Each limit is
//! also written to its file, so that a limit without a property, e.g. in an old systemd, is not lost.

use super::super::devices::{self, Devices, MKNOD, READ, WRITE};
use super::super::resources::{cpu_weight, swap};
use crate::spec::{BlockIo, Cpu, Resources, ThrottleDevice};
use masu_host::dbus::Value;
use masu_host::mask::Mask;

/// systemd's value for "infinity" and for "not set".
const INFINITY: u64 = u64::MAX;
/// The kernel's default period of a quota, in microseconds.
const PERIOD: u64 = 100_000;
/// The step of systemd's quotas: a hundredth of a second of CPU time, in microseconds.
const QUOTA_STEP: u64 = 10_000;

/// A property and its value.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Property {
    pub(super) name: String,
    pub(super) value: Value,
    /// Whether it is an error that systemd does not know the property. Not for a limit, because its file is written too.
    pub(super) required: bool,
}

impl Property {
    pub(super) fn required(name: impl Into<String>, value: Value) -> Property {
        Property { name: name.into(), value, required: true }
    }

    fn limit(name: &str, value: Value) -> Property {
        Property { name: name.to_owned(), value, required: false }
    }

    fn number(name: &str, value: u64) -> Property {
        Property::limit(name, Value::U64(value))
    }

    /// The property as an argument of type `(sv)`.
    pub(super) fn argument(&self) -> Value {
        Value::Struct(vec![Value::text(&*self.name), Value::Variant(Box::new(self.value.clone()))])
    }
}

/// The limits of `resources` on cgroup v2, without device rules. Errors in them are found where their files are planned.
pub(super) fn limits(resources: &Resources) -> Vec<Property> {
    let Resources { devices: _, memory, cpu, pids, block_io, hugepage_limits: _, network: _, rdma: _, unified } = resources;
    let mut out = Vec::new();
    let unlimited = |limit: i64| u64::try_from(limit).unwrap_or(INFINITY);
    let given = |limit: Option<i64>| limit.filter(|limit| *limit != 0).map(unlimited);
    out.extend(given(memory.limit).map(|limit| Property::number("MemoryMax", limit)));
    out.extend(given(memory.reservation).map(|limit| Property::number("MemoryLow", limit)));
    let swap = swap(memory.limit.unwrap_or(0), memory.swap.unwrap_or(0)).ok().flatten();
    out.extend(swap.map(|limit| Property::number("MemorySwapMax", unlimited(limit))));
    out.extend(cpu_properties(cpu));
    // systemd refuses 0
    out.extend(pids.limit.map(|limit| Property::number("TasksMax", unlimited(limit).max(1))));
    out.extend(io(block_io));
    for (file, value) in unified {
        out.extend(of_file(file, value.trim()));
    }
    // systemd has one property for weight and idle, and idle wins
    if out.contains(&idle()) {
        out.retain(|p| p.name != "CPUWeight" || *p == idle());
    }
    out
}

/// OOMPolicy, which can be set only when the unit is made: whether running out of memory kills all processes of the unit.
pub(super) fn at_start(resources: &Resources) -> Option<Property> {
    let policy = match resources.unified.get("memory.oom.group")?.trim() {
        "0" => "continue",
        "1" => "kill",
        _ => return None,
    };
    Some(Property::limit("OOMPolicy", Value::text(policy)))
}

/// The resources with a quota that systemd can count, so that files and properties agree.
pub(in crate::cgroup) fn countable(resources: &Resources) -> Resources {
    let mut out = resources.clone();
    let period = out.cpu.period.filter(|p| *p != 0).unwrap_or(PERIOD);
    if let Some(quota) = out.cpu.quota.and_then(|quota| u64::try_from(quota).ok()).filter(|quota| *quota > 0) {
        let counted = per_second(quota, period).checked_mul(period.into()).map(|n| n / 1_000_000);
        out.cpu.quota = counted.and_then(|n| n.try_into().ok()).or(out.cpu.quota);
    }
    out
}

/// The CPU time in a second, in microseconds, rounded up to systemd's step.
fn per_second(quota: u64, period: u64) -> u128 {
    let exact = u128::from(quota) * 1_000_000 / u128::from(period);
    exact.next_multiple_of(QUOTA_STEP.into())
}

fn cpu_properties(cpu: &Cpu) -> Vec<Property> {
    let mut out = Vec::new();
    if cpu.idle == Some(1) {
        out.push(idle());
    } else if let Some(shares) = cpu.shares.filter(|shares| *shares != 0) {
        out.push(Property::number("CPUWeight", cpu_weight(shares)));
    }
    let (quota, period) = (cpu.quota.filter(|q| *q != 0), cpu.period.filter(|p| *p != 0));
    out.extend(quota_properties(quota, period));
    out.extend(set("AllowedCPUs", &cpu.cpus));
    out.extend(set("AllowedMemoryNodes", &cpu.mems));
    out
}

/// For weight 0, systemd sets cpu.idle (since version 252).
fn idle() -> Property {
    Property::number("CPUWeight", 0)
}

fn quota_properties(quota: Option<i64>, period: Option<u64>) -> Vec<Property> {
    let mut out: Vec<Property> = period.map(|period| Property::number("CPUQuotaPeriodUSec", period)).into_iter().collect();
    if quota.is_some() || period.is_some() {
        let quota = quota.and_then(|quota| u64::try_from(quota).ok());
        let counted = quota.map_or(INFINITY, |quota| per_second(quota, period.unwrap_or(PERIOD)).try_into().unwrap_or(INFINITY));
        out.push(Property::number("CPUQuotaPerSecUSec", counted));
    }
    out
}

/// A set of numbers as bytes: bit n of byte m stands for the number 8 m + n.
fn set(name: &str, list: &str) -> Option<Property> {
    let mask = Mask::parse(list).ok().flatten()?;
    let mut bytes: Vec<u8> = mask.words().iter().flat_map(|word| word.to_le_bytes()).collect();
    while bytes.last() == Some(&0) {
        bytes.pop();
    }
    Some(Property::limit(name, Value::bytes(&bytes)))
}

fn io(io: &BlockIo) -> Vec<Property> {
    let mut out = Vec::new();
    let weight = |weight: u16| 1 + (u64::from(weight) - 10) * 9999 / 990;
    let valid = |weight: &u16| (10..=1000).contains(weight);
    out.extend(io.weight.filter(valid).map(|w| Property::number("IOWeight", weight(w))));
    let weights = io.weight_device.iter().filter_map(|d| Some(for_device(d.major, d.minor, weight(d.weight.filter(valid)?))));
    out.extend(list("IODeviceWeight", "(st)", weights.collect()));
    for (name, devices) in [
        ("IOReadBandwidthMax", &io.throttle_read_bps_device),
        ("IOWriteBandwidthMax", &io.throttle_write_bps_device),
        ("IOReadIOPSMax", &io.throttle_read_iops_device),
        ("IOWriteIOPSMax", &io.throttle_write_iops_device),
    ] {
        let rate = |d: &ThrottleDevice| if d.rate == 0 { INFINITY } else { d.rate };
        out.extend(list(name, "(st)", devices.iter().map(|d| for_device(d.major, d.minor, rate(d))).collect()));
    }
    out
}

fn for_device(major: i64, minor: i64, value: u64) -> Value {
    Value::Struct(vec![Value::text(format!("/dev/block/{major}:{minor}")), Value::U64(value)])
}

fn list(name: &str, element: &str, items: Vec<Value>) -> Option<Property> {
    (!items.is_empty()).then(|| Property::limit(name, Value::array(element, items)))
}

/// The properties for a file of `unified`. There are none if systemd has no property for it, or the value is not plain.
fn of_file(file: &str, value: &str) -> Vec<Property> {
    let number = || if value == "max" { Some(INFINITY) } else { value.parse().ok() };
    let named = |name: &str| number().map(|n| Property::number(name, n)).into_iter().collect();
    match file {
        "memory.max" => named("MemoryMax"),
        "memory.high" => named("MemoryHigh"),
        "memory.low" => named("MemoryLow"),
        "memory.min" => named("MemoryMin"),
        "memory.swap.max" => named("MemorySwapMax"),
        "memory.zswap.max" => named("MemoryZSwapMax"),
        "pids.max" => number().map(|n| Property::number("TasksMax", n.max(1))).into_iter().collect(),
        "cpu.weight" => named("CPUWeight"),
        "cpu.idle" if value == "1" => vec![idle()],
        "cpu.max" => cpu_max(value).unwrap_or_default(),
        "cpuset.cpus" => set("AllowedCPUs", value).into_iter().collect(),
        "cpuset.mems" => set("AllowedMemoryNodes", value).into_iter().collect(),
        "io.weight" => {
            value.strip_prefix("default ").unwrap_or(value).trim().parse().map_or(Vec::new(), |n| vec![Property::number("IOWeight", n)])
        }
        "io.max" => io_max(value),
        _ => Vec::new(),
    }
}

fn cpu_max(value: &str) -> Option<Vec<Property>> {
    let mut words = value.split_whitespace();
    let quota = match words.next()? {
        "max" => None,
        quota => Some(quota.parse().ok()?),
    };
    let period = words.next().map_or(Some(PERIOD), |period| period.parse().ok().filter(|p| *p != 0))?;
    Some(quota_properties(quota, Some(period)))
}

fn io_max(value: &str) -> Vec<Property> {
    let keys =
        [("rbps=", "IOReadBandwidthMax"), ("wbps=", "IOWriteBandwidthMax"), ("riops=", "IOReadIOPSMax"), ("wiops=", "IOWriteIOPSMax")];
    let entry = |line: &str, key: &str| {
        let (device, limits) = line.trim().split_once(' ')?;
        let (major, minor) = device.split_once(':')?;
        let limit = limits.split_whitespace().find_map(|word| word.strip_prefix(key))?;
        let limit = if limit == "max" { INFINITY } else { limit.parse().ok()? };
        Some(for_device(major.parse().ok()?, minor.parse().ok()?, limit))
    };
    keys.iter().filter_map(|(key, name)| list(name, "(st)", value.lines().filter_map(|line| entry(line, key)).collect())).collect()
}

/// Device rules. An access is allowed if systemd's program and ours both allow it. So this list may allow too much, but never
/// too little. A rule that it cannot express (a hole, a minor number of any major) is allowed as a whole, and our program
/// narrows it.
pub(super) fn device_rules(devices: &Devices) -> Vec<Property> {
    let policy = |policy: &str| Property::required("DevicePolicy", Value::text(policy));
    // an empty list removes the entries of an earlier list
    let allow = |entries: Vec<Value>| Property::required("DeviceAllow", Value::array("(ss)", entries));
    if devices.allow {
        return vec![policy("auto"), allow(Vec::new())];
    }
    let mut entries: Vec<(String, u8)> = Vec::new();
    for exception in &devices.exceptions {
        let (class, path) = match exception.kind {
            devices::Kind::Char => ("char", "/dev/char"),
            devices::Kind::Block => ("block", "/dev/block"),
        };
        let name = match (exception.major, exception.minor) {
            (Some(major), Some(minor)) => format!("{path}/{major}:{minor}"),
            (Some(major), None) => format!("{class}-{major}"),
            (None, _) => format!("{class}-*"),
        };
        // systemd keeps only one of two entries for the same devices
        match entries.iter_mut().find(|(other, _)| *other == name) {
            Some((_, access)) => *access |= exception.access,
            None => entries.push((name, exception.access)),
        }
    }
    let letters = |access: u8| {
        [(READ, 'r'), (WRITE, 'w'), (MKNOD, 'm')].iter().filter(|(bit, _)| access & bit != 0).map(|(_, c)| *c).collect::<String>()
    };
    let entry = |(name, access): (String, u8)| Value::Struct(vec![Value::text(name), Value::text(letters(access))]);
    vec![policy("strict"), allow(Vec::new()), allow(entries.into_iter().map(entry).collect())]
}

/// The properties that bring a unit from `new` back to `old`. A property that is not in `old` is unset.
pub(super) fn back(old: &[Property], new: &[Property]) -> Vec<Property> {
    let unset = |p: &Property| {
        let value = match &p.value {
            Value::Array(element, _) => Value::array(element, []),
            _ if matches!(p.name.as_str(), "MemoryLow" | "MemoryMin") => Value::U64(0),
            _ => Value::U64(INFINITY),
        };
        Property { value, ..p.clone() }
    };
    let added = new.iter().filter(|p| !old.iter().any(|o| o.name == p.name));
    added.map(unset).chain(old.iter().cloned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::findings::Findings;

    fn resources(json: &str) -> Resources {
        serde_json::from_str(json).unwrap()
    }

    fn of(json: &str) -> Vec<(String, Value)> {
        limits(&resources(json)).into_iter().map(|p| (p.name, p.value)).collect()
    }

    fn numbers(list: &[(&str, u64)]) -> Vec<(String, Value)> {
        list.iter().map(|(name, n)| ((*name).to_owned(), Value::U64(*n))).collect()
    }

    #[test]
    fn each_limit_has_its_property() {
        for (json, expected) in [
            ("{}", &[][..]),
            (
                r#"{"memory":{"limit":1000,"reservation":500,"swap":1500}}"#,
                &[("MemoryMax", 1000), ("MemoryLow", 500), ("MemorySwapMax", 500)],
            ),
            (r#"{"memory":{"limit":-1}}"#, &[("MemoryMax", INFINITY), ("MemorySwapMax", INFINITY)]),
            (r#"{"memory":{"limit":7,"swap":7}}"#, &[("MemoryMax", 7), ("MemorySwapMax", 0)]),
            (r#"{"cpu":{"shares":1024}}"#, &[("CPUWeight", 100)]),
            (r#"{"cpu":{"shares":1024,"idle":1}}"#, &[("CPUWeight", 0)]),
            (r#"{"cpu":{"shares":1024,"idle":0}}"#, &[("CPUWeight", 100)]),
            (r#"{"cpu":{"quota":50000}}"#, &[("CPUQuotaPerSecUSec", 500_000)]),
            (r#"{"cpu":{"quota":50000,"period":200000}}"#, &[("CPUQuotaPeriodUSec", 200_000), ("CPUQuotaPerSecUSec", 250_000)]),
            (r#"{"cpu":{"quota":-1}}"#, &[("CPUQuotaPerSecUSec", INFINITY)]),
            (r#"{"cpu":{"period":5000}}"#, &[("CPUQuotaPeriodUSec", 5000), ("CPUQuotaPerSecUSec", INFINITY)]),
            (r#"{"pids":{"limit":0}}"#, &[("TasksMax", 1)]),
            (r#"{"pids":{"limit":-1}}"#, &[("TasksMax", INFINITY)]),
            (r#"{"blockIO":{"weight":10}}"#, &[("IOWeight", 1)]),
            (r#"{"blockIO":{"weight":1000}}"#, &[("IOWeight", 10_000)]),
            (
                r#"{"unified":{"memory.high":"max","memory.low":"5\n","memory.min":"1"}}"#,
                &[("MemoryHigh", INFINITY), ("MemoryLow", 5), ("MemoryMin", 1)],
            ),
            (
                r#"{"unified":{"memory.max":"9","memory.swap.max":"0","memory.zswap.max":"3"}}"#,
                &[("MemoryMax", 9), ("MemorySwapMax", 0), ("MemoryZSwapMax", 3)],
            ),
            (
                r#"{"unified":{"pids.max":"0","cpu.weight":"70","io.weight":"default 200"}}"#,
                &[("CPUWeight", 70), ("IOWeight", 200), ("TasksMax", 1)],
            ),
            (r#"{"unified":{"cpu.idle":"1","cpu.weight":"70"}}"#, &[("CPUWeight", 0)]),
            (r#"{"unified":{"cpu.max":"max"}}"#, &[("CPUQuotaPeriodUSec", 100_000), ("CPUQuotaPerSecUSec", INFINITY)]),
            (r#"{"unified":{"cpu.max":"1000 20000"}}"#, &[("CPUQuotaPeriodUSec", 20_000), ("CPUQuotaPerSecUSec", 50_000)]),
            (r#"{"unified":{"cpu.max":"x","pids.max":"y","hugetlb.2MB.max":"0","memory.oom.group":"1"}}"#, &[]),
        ] {
            assert_eq!(of(json), numbers(expected), "{json}");
        }
    }

    #[test]
    fn a_quota_is_rounded_up_in_both_places() {
        let json = r#"{"cpu":{"quota":12345,"period":100000}}"#;
        assert_eq!(of(json), numbers(&[("CPUQuotaPeriodUSec", 100_000), ("CPUQuotaPerSecUSec", 130_000)]));
        assert_eq!(countable(&resources(json)).cpu.quota, Some(13_000));
        for (quota, counted) in [(-1, -1), (0, 0), (1000, 1000), (i64::MAX, i64::MAX)] {
            let mut r = Resources::default();
            r.cpu.quota = Some(quota);
            assert_eq!(countable(&r).cpu.quota.map(|q| q.max(counted)), Some(counted.max(quota)), "{quota}");
        }
    }

    #[test]
    fn sets_are_masks_of_bytes() {
        let bytes = |b: &[u8]| Value::bytes(b);
        assert_eq!(
            of(r#"{"cpu":{"cpus":"0-1,9","mems":"0"}}"#),
            [("AllowedCPUs".into(), bytes(&[3, 2])), ("AllowedMemoryNodes".into(), bytes(&[1]))]
        );
        assert_eq!(of(r#"{"unified":{"cpuset.cpus":"7"}}"#), [("AllowedCPUs".into(), bytes(&[128]))]);
        assert_eq!(of(r#"{"cpu":{"cpus":"x"}}"#), []);
    }

    #[test]
    fn devices_have_their_own_limits() {
        let device = |n: u64| Value::array("(st)", [for_device(8, 16, n)]);
        let json = r#"{"blockIO":{"weightDevice":[{"major":8,"minor":16,"weight":1000}],
            "throttleReadBpsDevice":[{"major":8,"minor":16,"rate":5}],"throttleWriteIOPSDevice":[{"major":8,"minor":16,"rate":0}]}}"#;
        assert_eq!(
            of(json),
            [
                ("IODeviceWeight".into(), device(10_000)),
                ("IOReadBandwidthMax".into(), device(5)),
                ("IOWriteIOPSMax".into(), device(INFINITY))
            ]
        );
        let unified = r#"{"unified":{"io.max":"8:16 rbps=5 wiops=max\n"}}"#;
        assert_eq!(of(unified), [("IOReadBandwidthMax".into(), device(5)), ("IOWriteIOPSMax".into(), device(INFINITY))]);
    }

    fn rules(json: &str) -> Vec<String> {
        let devices = Devices::plan(&serde_json::from_str::<Vec<crate::spec::DeviceRule>>(json).unwrap(), &mut Findings::new());
        let pair = |v: &Value| match v {
            Value::Struct(s) => match s.as_slice() {
                [Value::Text(name), Value::Text(access)] => format!("{name} {access}"),
                _ => panic!("{s:?}"),
            },
            v => panic!("{v:?}"),
        };
        let line = |p: Property| match p.value {
            Value::Text(policy) => vec![policy],
            Value::Array(_, items) => items.iter().map(pair).collect(),
            v => panic!("{v:?}"),
        };
        device_rules(&devices).into_iter().flat_map(line).collect()
    }

    #[test]
    fn device_rules_are_never_narrower_than_ours() {
        let defaults = [
            "char-* m",
            "block-* m",
            "/dev/char/1:3 rwm",
            "/dev/char/1:8 rwm",
            "/dev/char/1:7 rwm",
            "/dev/char/5:0 rwm",
            "/dev/char/1:5 rwm",
            "/dev/char/1:9 rwm",
            "char-136 rwm",
            "/dev/char/5:2 rwm",
            "/dev/char/10:200 rwm",
        ];
        assert_eq!(rules("[]"), [&["strict"][..], &defaults].concat());
        let own = rules(r#"[{"allow":true,"type":"b","major":8,"access":"r"},{"allow":true,"type":"b","minor":1,"access":"rw"}]"#);
        assert_eq!(own[..3], ["strict", "block-8 r", "block-* rwm"]);
        // systemd has no list of denied devices, so all is allowed here
        assert_eq!(rules(r#"[{"allow":true,"access":"rwm"},{"allow":false,"type":"c","major":1,"minor":3,"access":"r"}]"#), ["auto"]);
    }

    #[test]
    fn what_was_not_set_is_unset() {
        let old = limits(&resources(r#"{"pids":{"limit":5}}"#));
        let new = limits(&resources(r#"{"pids":{"limit":6},"memory":{"limit":9,"reservation":3},"cpu":{"cpus":"0"}}"#));
        let back: Vec<_> = back(&old, &new).into_iter().map(|p| (p.name, p.value)).collect();
        let mut expected = numbers(&[("MemoryMax", INFINITY), ("MemoryLow", 0)]);
        expected.push(("AllowedCPUs".into(), Value::bytes(&[])));
        expected.extend(numbers(&[("TasksMax", 5)]));
        assert_eq!(back, expected);
    }

    #[test]
    fn what_to_kill_is_said_at_the_start() {
        let policy = |v: &str| at_start(&resources(&format!(r#"{{"unified":{{"memory.oom.group":"{v}"}}}}"#))).map(|p| p.value);
        assert_eq!(policy("1"), Some(Value::text("kill")));
        assert_eq!(policy("0\\n"), Some(Value::text("continue")));
        assert_eq!(policy("2"), None);
        assert_eq!(at_start(&Resources::default()), None);
    }
}
