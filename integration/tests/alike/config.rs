//! A random valid config: the choices. `write.rs` writes them into a bundle.

#[path = "write.rs"]
mod write;

use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use proptest::strategy::BoxedStrategy;
use rustix::process::{Resource, getrlimit};

/// All choices.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) process: Process,
    pub(crate) files: Files,
    pub(crate) linux: Linux,
}

/// The choices for `process` and for the top level of the config.
#[derive(Debug, Clone)]
pub(crate) struct Process {
    user: (u32, u32, Vec<u32>, Option<u32>),
    capabilities: Option<Capabilities>,
    no_new_privileges: bool,
    limits: Vec<(&'static str, u64)>,
    oom_score: Option<i32>,
    env: Vec<&'static str>,
    cwd: &'static str,
    names: (Option<&'static str>, Option<&'static str>),
    annotations: Vec<(&'static str, &'static str)>,
}

#[derive(Debug, Clone)]
struct Capabilities {
    bounding: Vec<&'static str>,
    permitted: Vec<&'static str>,
    effective: Vec<&'static str>,
    inheritable: Vec<&'static str>,
    ambient: Vec<&'static str>,
}

/// The choices for the root file system.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    read_only: bool,
    /// The usual mounts that are left out.
    without: Vec<&'static str>,
    mounts: Vec<Mount>,
    cgroup: Option<Vec<&'static str>>,
    masked: Vec<&'static str>,
    read_only_paths: Vec<&'static str>,
    devices: Vec<Device>,
    propagation: Option<&'static str>,
}

#[derive(Debug, Clone)]
struct Mount {
    destination: &'static str,
    /// `None` means a tmpfs.
    source: Option<&'static str>,
    options: Vec<&'static str>,
}

#[derive(Debug, Clone)]
struct Device {
    path: &'static str,
    node: (&'static str, i64, i64),
    mode: Option<u32>,
    owner: Option<(u32, u32)>,
}

/// Allow, type, major, minor, access.
type DeviceRule = (bool, &'static str, Option<i64>, Option<i64>, &'static str);
/// System call, action, errno, argument: its index, value and how they are compared.
type FilterRule = (&'static str, &'static str, Option<u32>, Option<(u32, u64, &'static str)>);

/// The choices for the rest of `linux`.
#[derive(Debug, Clone)]
pub(crate) struct Linux {
    namespaces: Vec<&'static str>,
    sysctls: Vec<(&'static str, &'static str, &'static str)>,
    resources: Vec<(&'static str, i64)>,
    rules: Vec<DeviceRule>,
    cgroups_path: Option<&'static str>,
    filter: Option<Filter>,
    personality: bool,
}

#[derive(Debug, Clone)]
struct Filter {
    dockers: bool,
    rules: Vec<FilterRule>,
    flags: Option<Vec<&'static str>>,
}

const CAPABILITIES: [&str; 12] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_ADMIN",
    "CAP_SYS_CHROOT",
];
const LIMITS: [(&str, Resource); 8] = [
    ("RLIMIT_CORE", Resource::Core),
    ("RLIMIT_CPU", Resource::Cpu),
    ("RLIMIT_FSIZE", Resource::Fsize),
    ("RLIMIT_MEMLOCK", Resource::Memlock),
    ("RLIMIT_MSGQUEUE", Resource::Msgqueue),
    ("RLIMIT_NOFILE", Resource::Nofile),
    ("RLIMIT_SIGPENDING", Resource::Sigpending),
    ("RLIMIT_STACK", Resource::Stack),
];
const ENV: [&str; 10] =
    ["HOME=/somewhere", "HOME=", "A=1", "A=2", "B==x=y", "EMPTY=", "SPACE=a b  c", "LINES=a\nb", "UMLAUT=\u{e4}\u{20ac}", "TERM=xterm"];
const PATHS: [&str; 10] =
    ["/mnt", "/mnt/a", "/mnt/a/b", "/new/deep/path", "/tmp", "/tmp/inside", "/etc/passwd", "/file", "/dev/shm/x", "/srv/link"];
const MASKABLE: [&str; 12] = [
    "/proc/kcore",
    "/proc/keys",
    "/proc/acpi",
    "/proc/scsi",
    "/proc/timer_list",
    "/sys/firmware",
    "/etc/passwd",
    "/etc",
    "/mnt/a",
    "/tmp",
    "/no/such",
    "/proc/sys/kernel",
];
const PROPAGATION: [&str; 8] = ["private", "rprivate", "slave", "rslave", "shared", "rshared", "unbindable", "runbindable"];
/// The system calls that the program makes after its report, to test the filter.
const CALLS: [(&str, &[&str]); 6] =
    [("getppid", &[]), ("sync", &[]), ("personality", &["0"]), ("personality", &["8"]), ("unshare", &["0"]), ("socket", &["1", "1", "0"])];

/// Some of `all`, in any order.
fn some<T: Clone + std::fmt::Debug + 'static>(all: &[T], most: usize) -> BoxedStrategy<Vec<T>> {
    subsequence(all.to_vec(), 0..=most.min(all.len())).prop_shuffle().boxed()
}

pub(crate) fn config() -> impl Strategy<Value = Config> {
    (process(), files(), linux()).prop_map(|(process, files, linux)| Config { process, files, linux })
}

fn process() -> impl Strategy<Value = Process> {
    let id = || select(vec![0, 0, 1, 1000, 65_534, 1_234_567]);
    let user = (id(), id(), vec(id(), 0..4), of(select(vec![0, 0o022, 0o027, 0o077, 0o777])));
    let capabilities = some(&CAPABILITIES, 12).prop_flat_map(|bounding| {
        some(&bounding, 12).prop_flat_map(move |permitted| {
            let bounding = bounding.clone();
            let sets = (some(&permitted, 12), some(&permitted, 6), some(&permitted, 4));
            (Just(bounding), Just(permitted), sets).prop_map(|(bounding, permitted, (effective, inheritable, ambient))| {
                // an ambient capability must be inheritable
                let ambient = ambient.into_iter().filter(|name| inheritable.contains(name)).collect();
                Capabilities { bounding, permitted, effective, inheritable, ambient }
            })
        })
    });
    let limits = some(&LIMITS, 4).prop_flat_map(|list| {
        let n = list.len();
        (Just(list), vec(0..=100_u64, n)).prop_map(|(list, parts)| {
            let soft = |(resource, part): (Resource, u64)| getrlimit(resource).maximum.unwrap_or(1 << 30) / 100 * part;
            list.into_iter().zip(parts).map(|((name, resource), part)| (name, soft((resource, part)))).collect::<Vec<_>>()
        })
    });
    let names = (of(select(vec!["inside", "a.b", "x"])), of(select(vec!["domain", "example.org"])));
    let annotations = some(&[("a.b", "c"), ("empty", ""), ("quoted", "\"\n\\"), ("org.example/x", "{}")], 4);
    let cwd = select(vec!["/", "/", "/tmp", "/made/here", "/etc", "/mnt/a", "/proc/self/.."]);
    let last = (some(&ENV, 6), cwd, names, annotations);
    (user, of(capabilities), any::<bool>(), limits, of(select(vec![0, 100, 1000])), last).prop_map(
        |(user, capabilities, no_new_privileges, limits, oom_score, (env, cwd, names, annotations))| Process {
            user,
            capabilities,
            no_new_privileges,
            limits,
            oom_score,
            env,
            cwd,
            names,
            annotations,
        },
    )
}

fn options(bind: bool) -> BoxedStrategy<Vec<&'static str>> {
    // no contradictions: of two access-time options runc passes both to the kernel, of an opposite pair crun uses either
    let pairs = [["ro", "rw"], ["nosuid", "suid"], ["nodev", "dev"], ["noexec", "exec"], ["nodiratime", "diratime"]];
    let flags = some(&pairs, 4).prop_flat_map(|pairs| pairs.into_iter().map(|pair| select(pair.to_vec())).collect::<Vec<_>>());
    let times = some(&["noatime", "relatime", "strictatime"], 1);
    let recursive = ["rro", "rnosuid", "rnodev", "rnoexec", "rnoatime"];
    let own = ["size=64k", "size=1m", "mode=700", "mode=1777", "mode=0755", "nr_inodes=100", "uid=1000"];
    let kind: BoxedStrategy<Vec<&'static str>> = if bind {
        (select(vec!["bind", "rbind"]), some(&recursive, 2)).prop_map(|(word, rest)| [vec![word], rest].concat()).boxed()
    } else {
        some(&own, 3)
    };
    let propagation = of(select(PROPAGATION.to_vec())).prop_map(|word| word.into_iter().collect::<Vec<_>>());
    (kind, flags, times, propagation).prop_map(|(kind, flags, times, last)| [kind, flags, times, last].concat()).prop_shuffle().boxed()
}

fn files() -> impl Strategy<Value = Files> {
    let mount = (select(PATHS.to_vec()), of(select(vec!["volume", "volume/inner", "volume/file"])))
        .prop_flat_map(|(destination, source)| options(source.is_some()).prop_map(move |options| Mount { destination, source, options }));
    let nodes = [("c", 1, 3), ("c", 1, 5), ("c", 10, 229), ("b", 7, 0), ("p", 0, 0), ("u", 1, 7)];
    let path = select(vec!["/dev/one", "/dev/two", "/dev/sub/three", "/outside"]);
    let owner = of((select(vec![0, 1000]), select(vec![0, 5])));
    let device = (path, select(nodes.to_vec()), of(select(vec![0o600, 0o666, 0o644, 0o777])), owner)
        .prop_map(|(path, node, mode, owner)| Device { path, node, mode, owner });
    let cgroup = of(some(&["ro", "nosuid", "noexec", "nodev", "relatime"], 5));
    // runc writes a sysctl after the masks are mounted
    let paths = (some(&MASKABLE[..11], 5), some(&MASKABLE, 5));
    let without = some(&["/dev/mqueue", "/dev/shm", "/dev/pts", "/sys"], 2);
    let propagation = of(select(vec!["private", "rprivate", "slave", "rslave"]));
    (any::<bool>(), without, vec(mount, 0..5), cgroup, paths, vec(device, 0..3), propagation).prop_map(
        |(read_only, without, mut mounts, cgroup, (masked, read_only_paths), mut devices, propagation)| Files {
            read_only,
            without,
            mounts: {
                // sorted and unique, because runc remounts a read-only tmpfs by its path, where another mount may be by then
                mounts.sort_by_key(|mount| mount.destination);
                mounts.dedup_by_key(|mount| mount.destination);
                mounts
            },
            cgroup,
            masked,
            read_only_paths,
            devices: {
                devices.dedup_by_key(|device| device.path);
                devices
            },
            propagation,
        },
    )
}

fn linux() -> impl Strategy<Value = Linux> {
    let sysctls = some(
        &[
            ("ipc", "kernel.msgmax", "4096"),
            ("ipc", "kernel.shmmni", "1024"),
            ("ipc", "fs.mqueue.msg_max", "8"),
            ("network", "net.ipv4.ip_forward", "1"),
            ("network", "net.core.somaxconn", "77"),
            ("network", "net/ipv4/ip_unprivileged_port_start", "80"),
        ],
        4,
    );
    let resources = some(
        &[
            ("memory/limit", 256 << 20),
            ("memory/limit", -1),
            ("memory/reservation", 32 << 20),
            ("memory/swappiness", 10),
            ("cpu/shares", 2),
            ("cpu/shares", 1234),
            ("cpu/quota", 50_000),
            ("cpu/quota", -1),
            ("cpu/period", 200_000),
            ("pids/limit", 50),
            ("pids/limit", -1),
            ("pids/limit", 1000),
        ],
        5,
    );
    let number = || of(select(vec![1, 5, 7, 10, 136]));
    let rule = (any::<bool>(), select(vec!["c", "b", "a"]), number(), number(), select(vec!["rwm", "r", "w", "m", "rw"]));
    // for the type `a`, number and access do not count, but crun on v2 heeds them
    let rule = rule.prop_map(|rule| if rule.1 == "a" { (rule.0, "a", None, None, "rwm") } else { rule });
    let actions = ["SCMP_ACT_ERRNO", "SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_TRACE"];
    let argument = of((0..2_u32, select(vec![0_u64, 1, 8]), select(vec!["SCMP_CMP_EQ", "SCMP_CMP_NE", "SCMP_CMP_GE", "SCMP_CMP_LT"])));
    // without getppid, because runc calls it under the filter and exits if the answer is wrong
    let rule_of_filter = (
        select(CALLS[1..].iter().map(|(name, _)| *name).collect::<Vec<_>>()),
        select(actions.to_vec()),
        of(select(vec![1, 38, 95])),
        argument,
    );
    let flags = of(some(&["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"], 2));
    let filter = (any::<bool>(), vec(rule_of_filter, 0..4), flags).prop_map(|(dockers, rules, flags)| Filter { dockers, rules, flags });
    // all paths contain the test's token, so that other tests know the owner
    let path = of(select(vec!["/parent-ID/ID", "relative-ID/ID", "/way-ID/../ID"]));
    let namespaces = subsequence(vec!["network", "ipc", "uts", "pid", "cgroup"], 0..=5);
    let rules = vec(rule, 0..4).prop_map(|rules| {
        // v1 cannot represent a rule that denies a part of a wider rule
        let plain = rules.iter().all(|(allow, ..)| *allow);
        if plain { rules } else { rules.into_iter().filter(|(_, kind, ..)| *kind == "a").collect() }
    });
    (namespaces, sysctls, resources, rules, path, of(filter), proptest::bool::weighted(0.1)).prop_map(
        |(namespaces, sysctls, resources, rules, cgroups_path, filter, personality)| Linux {
            namespaces,
            sysctls,
            resources,
            rules,
            cgroups_path,
            filter,
            personality,
        },
    )
}
