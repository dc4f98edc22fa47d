//! The view of a process inside a container, as one JSON object.
//!
//! Sources: proc(5), capabilities(7), namespaces(7), keyrings(7).

use std::env;
use std::fs;
use std::path::Path;

use caps::CapSet;
use integration::sys;
use rustix::process::{Resource, getrlimit};
use serde_json::{Map, Value, json};

use crate::files::describe;
use crate::steps::is_terminal;

/// The whole report. A value that cannot be read (without /proc, say) is null.
pub(crate) fn everything() -> Map<String, Value> {
    let status = read("/proc/self/status");
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.map_or(Value::Null, |value| json!(value.split_whitespace().collect::<Vec<_>>().join(" ")))
    };
    let mut all = Map::new();
    let mut tell = |name: &str, value: Value| {
        all.insert(name.to_owned(), value);
    };
    tell("args", env::args_os().map(|arg| arg.to_string_lossy().into_owned()).collect());
    tell("env", env::vars_os().map(|(name, value)| format!("{}={}", name.display(), value.display())).collect());
    tell("cwd", env::current_dir().map_or(Value::Null, |cwd| json!(cwd)));
    tell("pid", json!(rustix::process::getpid().as_raw_nonzero()));
    tell("session_leader", json!(session_leader()));
    tell("umask", json!(format!("{:04o}", umask())));
    tell("uids", field("Uid"));
    tell("gids", field("Gid"));
    tell("groups", rustix::process::getgroups().unwrap_or_default().iter().map(|group| group.as_raw()).collect());
    tell("capabilities", capabilities());
    tell("no_new_privileges", field("NoNewPrivs"));
    tell("seccomp", field("Seccomp"));
    tell("seccomp_filters", field("Seccomp_filters"));
    tell("signals", json!({"blocked": field("SigBlk"), "ignored": field("SigIgn"), "caught": field("SigCgt")}));
    tell("cpus", field("Cpus_allowed_list"));
    tell("scheduler", scheduler());
    tell("io_priority", io_priority());
    tell("memory_policy", json!(read("/proc/self/numa_maps").split_whitespace().nth(1)));
    tell("limits", limits());
    tell("oom_score_adj", json!(read("/proc/self/oom_score_adj").trim()));
    tell("mounts", mounts());
    tell("fds", fds());
    tell("namespaces", namespaces());
    tell("hostname", json!(rustix::system::uname().nodename().to_string_lossy()));
    tell("domainname", json!(rustix::system::uname().domainname().to_string_lossy()));
    tell("machine", json!(rustix::system::uname().machine().to_string_lossy()));
    tell("cgroup", read("/proc/self/cgroup").lines().collect());
    tell("dev", folder("/dev"));
    tell("uid_map", json!(read("/proc/self/uid_map").split_whitespace().collect::<Vec<_>>()));
    tell("processes", processes());
    tell("session_keyring", keyring());
    tell("terminal", terminal());
    tell("links", folder_names("/sys/class/net"));
    all
}

/// Whether each standard stream is a terminal, and the terminal's size and name.
pub(crate) fn terminal() -> Value {
    let streams = [is_terminal(std::io::stdin()), is_terminal(std::io::stdout()), is_terminal(std::io::stderr())];
    let size = rustix::termios::tcgetwinsize(std::io::stdin()).ok();
    json!({
        "streams": streams,
        "columns": size.map(|size| size.ws_col),
        "rows": size.map(|size| size.ws_row),
        "name": fs::read_link("/proc/self/fd/0").ok(),
        "controlling": fs::File::open("/dev/tty").is_ok(),
        "console": describe(Path::new("/dev/console")),
    })
}

/// Whether this process is the first of its session. Read from /proc/self/stat, because getsid(2) of rustix does not accept 0,
/// the session of a process in another pid namespace.
fn session_leader() -> Option<bool> {
    let stat = read("/proc/self/stat");
    let (_, after_name) = stat.rsplit_once(')')?;
    let session: i32 = after_name.split_whitespace().nth(3)?.parse().ok()?;
    Some(session == rustix::process::getpid().as_raw_nonzero().get())
}

fn read(path: &str) -> String {
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

/// The umask, read by setting it and restoring it, because /proc may be missing.
fn umask() -> u32 {
    let mask = rustix::process::umask(rustix::fs::Mode::empty());
    rustix::process::umask(mask);
    mask.as_raw_mode()
}

fn capabilities() -> Value {
    let set = |which| {
        let mut names: Vec<_> = caps::read(None, which).unwrap_or_default().iter().map(ToString::to_string).collect();
        names.sort();
        json!(names)
    };
    json!({
        "effective": set(CapSet::Effective),
        "permitted": set(CapSet::Permitted),
        "inheritable": set(CapSet::Inheritable),
        "bounding": set(CapSet::Bounding),
        "ambient": set(CapSet::Ambient),
    })
}

/// Policy by number, nice value and real-time priority, from /proc/self/stat.
fn scheduler() -> Value {
    let stat = read("/proc/self/stat");
    let fields: Vec<&str> = stat.rsplit_once(')').map(|(_, after)| after.split_whitespace().collect()).unwrap_or_default();
    let field = |n: usize| fields.get(n - 3).and_then(|text| text.parse::<i64>().ok());
    json!({"policy": field(41), "nice": field(19), "priority": field(40)})
}

/// Class and level; null if the process has no I/O priority of its own.
fn io_priority() -> Value {
    const PROCESS: u64 = 1;
    match sys::call(libc::SYS_ioprio_get, [PROCESS, 0, 0, 0, 0]) {
        Ok(priority) if priority >> 13 != 0 => json!([priority >> 13, priority & 7]),
        _ => Value::Null,
    }
}

/// Soft and hard limits by their names in config.json. Null means unlimited.
fn limits() -> Value {
    let all = [
        ("RLIMIT_AS", Resource::As),
        ("RLIMIT_CORE", Resource::Core),
        ("RLIMIT_CPU", Resource::Cpu),
        ("RLIMIT_DATA", Resource::Data),
        ("RLIMIT_FSIZE", Resource::Fsize),
        ("RLIMIT_LOCKS", Resource::Locks),
        ("RLIMIT_MEMLOCK", Resource::Memlock),
        ("RLIMIT_MSGQUEUE", Resource::Msgqueue),
        ("RLIMIT_NICE", Resource::Nice),
        ("RLIMIT_NOFILE", Resource::Nofile),
        ("RLIMIT_NPROC", Resource::Nproc),
        ("RLIMIT_RSS", Resource::Rss),
        ("RLIMIT_RTPRIO", Resource::Rtprio),
        ("RLIMIT_RTTIME", Resource::Rttime),
        ("RLIMIT_SIGPENDING", Resource::Sigpending),
        ("RLIMIT_STACK", Resource::Stack),
    ];
    let limit = |resource| {
        let limit = getrlimit(resource);
        json!([limit.current, limit.maximum])
    };
    Value::Object(all.into_iter().map(|(name, resource)| (name.to_owned(), limit(resource))).collect())
}

/// /proc/self/mountinfo, parsed. In source, root and mount point, escapes such as `\040` are decoded.
fn mounts() -> Value {
    let plain = |text: &str| text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\");
    let one = |line: &str| {
        let (mount, system) = line.split_once(" - ")?;
        let mount: Vec<&str> = mount.split(' ').collect();
        let system: Vec<&str> = system.split(' ').collect();
        Some(json!({
            "root": plain(mount.get(3)?), "point": plain(mount.get(4)?), "options": mount.get(5)?.split(',').collect::<Vec<_>>(),
            "propagation": mount.get(6..)?, "type": system.first()?, "source": plain(system.get(1)?),
            "super": system.get(2)?.split(',').collect::<Vec<_>>(),
        }))
    };
    read("/proc/self/mountinfo").lines().filter_map(one).collect()
}

/// The open descriptors and their targets, without the descriptor of the listing itself.
fn fds() -> Value {
    let Ok(entries) = fs::read_dir("/proc/self/fd") else { return Value::Null };
    let mut open = Map::new();
    for entry in entries.flatten() {
        let Ok(target) = fs::read_link(entry.path()) else { continue };
        if !target.to_string_lossy().ends_with("/fd") || !target.starts_with("/proc") {
            open.insert(entry.file_name().to_string_lossy().into_owned(), json!(target));
        }
    }
    Value::Object(open)
}

fn namespaces() -> Value {
    let names = ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"];
    names.iter().map(|name| ((*name).to_owned(), json!(fs::read_link(format!("/proc/self/ns/{name}")).ok()))).collect()
}

/// The entries of a directory: name and description.
fn folder(path: &str) -> Value {
    let Ok(entries) = fs::read_dir(path) else { return Value::Null };
    let one = |entry: fs::DirEntry| (entry.file_name().to_string_lossy().into_owned(), json!(describe(&entry.path())));
    Value::Object(entries.flatten().map(one).collect())
}

fn folder_names(path: &str) -> Value {
    let Ok(entries) = fs::read_dir(path) else { return Value::Null };
    entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// The process ids that /proc shows.
fn processes() -> Value {
    let Ok(entries) = fs::read_dir("/proc") else { return Value::Null };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok()).collect()
}

/// The serial number of the session keyring, or null if there is none. The user's default keyring counts as none.
fn keyring() -> Value {
    const GET_KEYRING_ID: u64 = 0;
    const SESSION: u64 = (-3_i64).cast_unsigned();
    sys::call(libc::SYS_keyctl, [GET_KEYRING_ID, SESSION, 0, 0, 0]).map_or(Value::Null, |id| json!(id))
}
