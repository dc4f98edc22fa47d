//! `start`: containerd asks for a shim, and gets the address of one (core/runtime/v2, README). Containers of one group, such as
//! those of a pod, share it.
//!
//! containerd takes stdout and stderr together for the answer, so nothing else may be written to either. It tells what it
//! understands by what it sends:
//!
//! | containerd  | sends                                    | wants                        |
//! |-------------|------------------------------------------|------------------------------|
//! | 1.6         | options or nothing                       | the bare address             |
//! | 1.7 to 2.2  | the same, MAX_SHIM_VERSION in the environment | JSON                    |
//! | 2.3         | BootstrapParams                          | BootstrapResult              |

use std::fs;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use libcontainer::error::{Doing, Error, Result};
use masu_host::fds::connect_at_once;
use masu_host::sys::clone::Side;
use masu_host::sys::exec::exit;
use masu_host::sys::fork::{Kept, fork};
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::thread::{CoreSchedulingScope, create_core_scheduling_cookie};
use sha2::{Digest, Sha256};

use crate::bundle;
use crate::flags::Flags;
use crate::rpc::messages::{Any, BootstrapParams, BootstrapResult, Options};
use crate::rpc::wire::Message;
use crate::serve::{self, Setup};

/// What containerd sends is shorter.
const MAX_INPUT: u64 = 4 << 20;
const SOCKETS: &str = "/run/containerd/s";

/// The form of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Address,
    Json,
    Message,
}

/// What containerd wants to be served.
#[derive(Debug, PartialEq)]
pub(crate) struct Wanted {
    pub(crate) form: Form,
    pub(crate) params: BootstrapParams,
    pub(crate) options: Options,
    pub(crate) debug: bool,
}

/// The input is BootstrapParams only if it names this shim: an Any has a text in field 1 as well.
pub(crate) fn wanted(input: &[u8], flags: &Flags, max_version: bool, ttrpc_address: Option<String>) -> Wanted {
    if let Ok(params) = BootstrapParams::decode(input)
        && params.instance_id == flags.id
        && params.namespace == flags.namespace
        && !input.is_empty()
    {
        let options = params.extensions.iter().filter_map(|e| e.value.as_ref()).find_map(Options::of).unwrap_or_default();
        let debug = flags.debug || params.log_level < 0;
        return Wanted { form: Form::Message, options, debug, params };
    }
    let options = Any::decode(input).ok().as_ref().and_then(Options::of).unwrap_or_default();
    let params = BootstrapParams {
        instance_id: flags.id.clone(),
        namespace: flags.namespace.clone(),
        ttrpc_address: ttrpc_address.unwrap_or_else(|| format!("{}.ttrpc", flags.address)),
        grpc_address: flags.address.clone(),
        ..BootstrapParams::default()
    };
    Wanted { form: if max_version { Form::Json } else { Form::Address }, options, debug: flags.debug, params }
}

pub(crate) fn answer(form: Form, address: &str) -> Vec<u8> {
    match form {
        Form::Address => address.as_bytes().to_vec(),
        // every version of this shim serves both versions of the task service on the same socket
        Form::Json => format!("{{\"version\":2,\"address\":\"{address}\",\"protocol\":\"ttrpc\"}}").into_bytes(),
        Form::Message => BootstrapResult { version: 3, address: address.into(), protocol: "ttrpc".into() }.encode(),
    }
}

/// The socket of a group.
pub(crate) fn socket_path(dir: &Path, grpc_address: &str, namespace: &str, group: &str) -> PathBuf {
    // no part can have a zero byte
    let hash = Sha256::digest(format!("{grpc_address}\0{namespace}\0{group}"));
    dir.join(hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

/// Answers with the address of the group's shim, and makes that if there is none.
pub(crate) fn start(flags: &Flags) -> Result<()> {
    let mut input = Vec::new();
    std::io::stdin().take(MAX_INPUT).read_to_end(&mut input).doing(|| "read the parameters")?;
    let max_version = std::env::var_os("MAX_SHIM_VERSION").is_some();
    let wanted = wanted(&input, flags, max_version, std::env::var("TTRPC_ADDRESS").ok().filter(|a| !a.is_empty()));
    let group = bundle::group(Path::new("."))?.unwrap_or_else(|| flags.id.clone());
    let dir = if wanted.params.socket_dir.is_empty() { SOCKETS } else { &wanted.params.socket_dir };
    let path = socket_path(Path::new(dir), &wanted.params.grpc_address, &flags.namespace, &group);
    let address = format!("unix://{}", path.display());
    // containerd 1.6 finds a shim again by this file
    fs::write(bundle::ADDRESS, &address).doing(|| "write the file address")?;
    if let Some(listener) = listen(Path::new(dir), &path)? {
        let setup = Setup {
            listener,
            socket: path,
            namespace: flags.namespace.clone(),
            events: wanted.params.ttrpc_address.clone(),
            options: wanted.options,
            debug: wanted.debug,
        };
        become_daemon(setup)?;
    }
    let mut stdout = std::io::stdout();
    stdout.write_all(&answer(wanted.form, &address)).and_then(|()| stdout.flush()).doing(|| "write the answer")
}

/// A socket that listens at `path`, or `None` if one does already.
fn listen(dir: &Path, path: &Path) -> Result<Option<OwnedFd>> {
    let doing = || format!("listen at {}", path.display());
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).doing(|| format!("make {}", dir.display()))?;
    let found = fs::symlink_metadata(dir).doing(|| format!("stat {}", dir.display()))?;
    if !found.is_dir() || found.uid() != rustix::process::geteuid().as_raw() {
        return Err(Error::invalid(format!("{} is not a folder of ours", dir.display())));
    }
    let lock = rustix::fs::open(dir, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).doing(doing)?;
    // two starts of one group must not take each other's socket for a dead one
    rustix::fs::flock(&lock, FlockOperation::LockExclusive).doing(doing)?;
    if connect_at_once(path).is_ok() {
        return Ok(None);
    }
    match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e).doing(|| format!("remove {}", path.display())),
        _ => {}
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).doing(doing)?;
    let address = SocketAddrUnix::new(path).doing(doing)?;
    // a mask instead of a later change: nobody else can connect in between
    let mask = rustix::process::umask(Mode::from_raw_mode(0o177));
    let bound = rustix::net::bind(&socket, &address);
    rustix::process::umask(mask);
    bound.doing(doing)?;
    rustix::net::listen(&socket, 128).doing(doing)?;
    Ok(Some(socket))
}

/// Makes the daemon, which is this program, forked.
fn become_daemon(setup: Setup) -> Result<()> {
    let parent = rustix::process::getppid().map_or(0, |p| p.as_raw_nonzero().get());
    if std::env::var_os("SCHED_CORE").is_some_and(|value| !value.is_empty())
        && let Err(e) = own_cores()
    {
        let _ = fs::remove_file(&setup.socket);
        return Err(e);
    }
    // it leaves containerd's pipes, and keeps of all else only its socket
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).doing(|| "open /dev/null")?;
    let kept = Kept::new([setup.listener.as_fd()]).stdio([Some(null.as_fd()); 3]);
    match fork(0, None, &kept).doing(|| "fork the daemon")? {
        Side::Parent { pid, .. } => {
            let adjusted = adjust_oom_score(parent, pid).and_then(|()| join_cgroup(&setup.options.shim_cgroup, pid));
            if let Err(e) = adjusted {
                if let Some(pid) = rustix::process::Pid::from_raw(pid) {
                    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                }
                let _ = fs::remove_file(&setup.socket);
                return Err(e);
            }
            Ok(())
        }
        Side::Child => exit(rustix::process::setsid().map_or(1, |_| serve::run(setup))),
    }
}

/// Has the kernel run nothing else beside this process and what it forks on the threads of a core (kernel 5.14).
fn own_cores() -> Result<()> {
    let made = create_core_scheduling_cookie(rustix::process::getpid(), CoreSchedulingScope::ThreadGroup);
    made.doing(|| match made {
        Err(Errno::INVAL) => "SCHED_CORE is set, and this kernel has no core scheduling",
        Err(Errno::NODEV) => "SCHED_CORE is set, and the cores of this machine have one thread each",
        _ => "SCHED_CORE: schedule a pod on cores of its own",
    })
}

/// The kernel should rather kill a shim than containerd.
fn adjust_oom_score(containerd: i32, shim: i32) -> Result<()> {
    let path = format!("/proc/{containerd}/oom_score_adj");
    let text = fs::read_to_string(&path).doing(|| format!("read {path}"))?;
    let own: i32 = text.trim().parse().map_err(|_| Error::invalid(format!("{path} holds no number")))?;
    let path = format!("/proc/{shim}/oom_score_adj");
    fs::write(&path, (own + 1).min(1000).to_string()).doing(|| format!("write {path}"))
}

/// Puts the daemon into the cgroup that the options name, in each hierarchy.
fn join_cgroup(name: &str, pid: i32) -> Result<()> {
    if name.is_empty() {
        return Ok(());
    }
    let name = Path::new(name.trim_start_matches('/'));
    if name.components().any(|part| !matches!(part, std::path::Component::Normal(_))) {
        return Err(Error::invalid(format!("shim_cgroup: {} leads elsewhere", name.display())));
    }
    let root = Path::new("/sys/fs/cgroup");
    let mut joined = false;
    let hierarchies: Vec<PathBuf> = match root.join("cgroup.controllers").exists() {
        true => vec![root.to_owned()],
        false => fs::read_dir(root).doing(|| "read /sys/fs/cgroup")?.filter_map(|e| Some(e.ok()?.path())).collect(),
    };
    for hierarchy in hierarchies {
        let procs = hierarchy.join(name).join("cgroup.procs");
        if procs.exists() {
            fs::write(&procs, pid.to_string()).doing(|| format!("write {}", procs.display()))?;
            joined = true;
        }
    }
    if joined { Ok(()) } else { Err(Error::invalid(format!("shim_cgroup: there is no cgroup {}", name.display()))) }
}

/// Whether a daemon listens there.
pub(crate) fn is_served(path: &Path) -> bool {
    connect_at_once(path).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::messages::Extension;

    fn flags() -> Flags {
        Flags { namespace: "default".into(), id: "abc".into(), address: "/run/c.sock".into(), ..Flags::default() }
    }

    fn options_any() -> Any {
        let options = Options { binary_name: "crun".into(), root: "/r".into(), systemd_cgroup: true, ..Options::default() };
        Any { type_url: Options::TYPE.into(), value: options.encode() }
    }

    #[test]
    fn every_containerd_gets_the_answer_that_it_understands() {
        let old = wanted(b"", &flags(), false, None);
        assert_eq!((old.form, &*old.params.ttrpc_address), (Form::Address, "/run/c.sock.ttrpc"));
        assert_eq!(answer(old.form, "unix:///s"), b"unix:///s");

        let middle = wanted(&options_any().encode(), &flags(), true, Some("/t".into()));
        assert_eq!((middle.form, &*middle.options.binary_name, &*middle.params.ttrpc_address), (Form::Json, "crun", "/t"));
        assert_eq!(answer(middle.form, "unix:///s"), br#"{"version":2,"address":"unix:///s","protocol":"ttrpc"}"#);

        let params = BootstrapParams {
            instance_id: "abc".into(),
            namespace: "default".into(),
            log_level: -4,
            ttrpc_address: "/t2".into(),
            grpc_address: "/g2".into(),
            extensions: vec![Extension { value: Some(options_any()) }],
            ..BootstrapParams::default()
        };
        let new = wanted(&params.encode(), &flags(), true, Some("/t".into()));
        assert_eq!((new.form, &*new.options.binary_name, new.debug), (Form::Message, "crun", true));
        assert_eq!(new.params.ttrpc_address, "/t2");
        assert_eq!(answer(new.form, "unix:///s"), b"\x08\x03\x12\x09unix:///s\x1a\x05ttrpc");
    }

    #[test]
    fn an_any_is_not_taken_for_parameters() {
        // field 1 of both is a text
        let any = Any { type_url: "abc".into(), value: b"default".to_vec() };
        let mut other = flags();
        other.namespace = "x".into();
        assert_eq!(wanted(&any.encode(), &other, true, None).form, Form::Json);
    }

    #[test]
    fn sockets_of_different_groups_differ() {
        let path = |a: &str, b: &str, c: &str| socket_path(Path::new("/run/containerd/s"), a, b, c);
        assert!(path("a", "b", "c").to_str().unwrap().len() < 107);
        assert_ne!(path("a", "b", "c"), path("a", "bc", ""));
        // running shims of other versions must be found: the standard's hash of "a\0b\0c"
        let hash = "8badde10c760e9b702defb4b5e225de79c515b1d2a5cfb000e140f3c6fbb5629";
        assert_eq!(path("a", "b", "c").file_name().unwrap(), hash);
    }

    #[test]
    fn a_dead_socket_is_replaced_and_a_living_one_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let first = listen(dir.path(), &path).unwrap().unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert!(listen(dir.path(), &path).unwrap().is_none());
        assert!(is_served(&path));
        drop(first);
        assert!(!is_served(&path));
        assert!(listen(dir.path(), &path).unwrap().is_some());
    }
}
