//! The gate, where a created container waits for its start: filters that refuse calls there, signals that interrupt the waiting,
//! and a start after another one.

use std::fs::{self, File};
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::background::{Barrier, until};
use integration::runtime::readable_within;
use integration::terminal::ConsoleSocket;
use integration::{Bundle, Container, Test, check, strace};
use serde_json::{Value, json};

/// Far more than a verb takes.
const AT_ONCE: Duration = Duration::from_secs(5);
/// The exit code of the program, and of nothing else.
const RAN: i32 = 7;

/// Creates, starts and ends a container with the filter of `bundle`. Returns whether the program ran; if not, an error text must
/// exist.
fn runs_or_tells(t: &Test, bundle: &Bundle) -> Result<bool> {
    let said = t.path().join("said");
    let stderr = File::create(&said)?;
    let mut container = match Container::make(t, bundle, "create", |command| {
        command.stderr(stderr);
    }) {
        Ok(container) => container,
        Err(error) => {
            // the file is the standard error of create
            let text = fs::read_to_string(&said)?;
            ensure!(!text.trim().is_empty(), "create fails without a word: {error:#}");
            return Ok(false);
        }
    };
    let start = container.start()?;
    let code = container.wait()?;
    let text = fs::read_to_string(&said)?;
    container.delete_by_force()?.ok()?;
    ensure!(code == RAN || !text.trim().is_empty(), "created, it ends with {code} without a word; start: {start:?}");
    Ok(code == RAN)
}

fn filter(call: &str, path: Option<&str>) -> Value {
    let rule = json!({"names": [call], "action": "SCMP_ACT_ERRNO", "errnoRet": libc::ENOMEM});
    let watched = json!({"names": ["sync"], "action": "SCMP_ACT_NOTIFY"});
    match path {
        None => json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}),
        Some(path) => json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule, watched], "listenerPath": path}),
    }
}

/// A filter may refuse any call between its installation and the program. Then the container runs, or create reports the reason,
/// or, after a failed execve, init reports it on its standard error. Without signalfd4, which filters for programs may well
/// refuse, the container runs.
#[test]
fn a_filter_may_refuse_what_is_called_at_the_gate() {
    check(|t| {
        let calls = ["signalfd4", "poll", "ppoll", "read", "rt_sigprocmask", "recvmsg", "sendmsg", "openat", "close", "fcntl", "prctl"];
        for call in calls {
            for (no_new_privileges, listens) in [(false, false), (true, false), (true, true)] {
                let path = t.path().join(format!("{call}-{no_new_privileges}-{listens}.sock"));
                let _listener = listens.then(|| ConsoleSocket::at(path.clone())).transpose()?;
                let mut bundle = t.bundle()?;
                bundle.args(["/bin/payload", "exit", &RAN.to_string()]).set("/process/noNewPrivileges", json!(no_new_privileges));
                bundle.set("/linux/seccomp", filter(call, listens.then_some(&*path.to_string_lossy())));
                let what = || format!("without {call}, no new privileges: {no_new_privileges}, a listener: {listens}");
                if !t.runtime.is("masu") && call != "signalfd4" {
                    t.differs(t.runtime.kind, "makes other calls there");
                    continue;
                }
                let ran = runs_or_tells(t, &bundle).with_context(what)?;
                ensure!(ran || call != "signalfd4", "{}: it did not run", what());
            }
        }
        Ok(())
    });
}

/// strace of a running process. Dropping this detaches strace.
struct Attached(Child);

impl Attached {
    fn to(container: &Container<'_>, trace: &std::path::Path, fault: &str) -> Result<Self> {
        let mut command = Command::new("strace");
        command.arg("-o").arg(trace).args(["-f", "-p", &container.pid.as_raw_nonzero().to_string(), "-e", fault]);
        Ok(Self(command.stdin(Stdio::null()).stderr(Stdio::null()).spawn()?))
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        // both calls fail only for a tracer that was already reaped
        let _ = rustix::process::kill_process(rustix::process::Pid::from_child(&self.0), rustix::process::Signal::TERM);
        let _ = self.0.wait();
    }
}

/// An interrupted call of a waiting container is repeated: the container still waits, receives signals, and starts.
#[test]
fn an_interrupted_container_goes_on_waiting() {
    check(|t| {
        if !strace::works() {
            return t.skip("needs strace");
        }
        if !t.runtime.is("masu") {
            t.differs(t.runtime.kind, "waits in another call, which runc takes for failed");
            return Ok(());
        }
        let mut bundle = t.bundle()?;
        bundle.args(["/bin/payload", "exit", &RAN.to_string()]);
        for ends in ["start", "kill"] {
            let mut container = Container::create(t, &bundle)?;
            let trace = t.path().join(ends);
            let attached = Attached::to(&container, &trace, "inject=poll,ppoll,restart_syscall,openat:error=EINTR:when=1..3")?;
            until("a call is interrupted", || Ok(fs::read_to_string(&trace).unwrap_or_default().contains("EINTR")))?;
            assert_eq!(container.status()?, "created");
            drop(attached);
            assert_eq!(container.status()?, "created");
            if ends == "start" {
                let start = t.begin(t.command(["start", &container.id])?)?;
                start.end_within(AT_ONCE).context("start")?.ok()?;
                assert_eq!(container.wait()?, RAN);
            } else {
                container.kill("TERM")?.ok()?;
                ensure!(integration::runtime::ended_within(container.pid, AT_ONCE)?, "it is deaf");
                container.wait()?;
            }
        }
        Ok(())
    });
}

/// A container that is stopped and continued (SIGSTOP, SIGCONT), or frozen and thawed, still waits.
#[test]
fn a_stopped_container_goes_on_waiting() {
    check(|t| {
        let mut bundle = t.bundle()?;
        bundle.args(["/bin/payload", "exit", &RAN.to_string()]);
        let mut container = Container::create(t, &bundle)?;
        for _ in 0..3 {
            for signal in [rustix::process::Signal::STOP, rustix::process::Signal::CONT] {
                rustix::process::kill_process(container.pid, signal)?;
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        assert_eq!(container.status()?, "created");
        let start = t.begin(t.command(["start", &container.id])?)?;
        start.end_within(AT_ONCE)?.ok()?;
        assert_eq!(container.wait()?, RAN);
        Ok(())
    });
}

/// Creates a container with NOTIFY_SOCKET.
fn notifying<'t>(t: &'t Test, bundle: &Bundle, socket: &std::path::Path) -> Result<Container<'t>> {
    Container::make(t, bundle, "create", |command| {
        command.env("NOTIFY_SOCKET", socket);
    })
}

/// After a start that was killed at any step, a second start works, or the container was started already. The stale socket does
/// not disturb, and the program runs once.
#[test]
fn a_killed_start_is_followed_by_another() {
    check(|t| {
        if !strace::works() {
            return t.skip("needs strace");
        }
        if !t.runtime.is("masu") {
            t.differs(t.runtime.kind, "is not killed here: its calls are its own");
            return Ok(());
        }
        let socket = t.path().join("notify.sock");
        let _manager = UnixDatagram::bind(&socket)?;
        let mut kills = 0;
        for call in ["fchmodat", "bind", "openat", "write", "unlinkat", "poll", "flock", "renameat"] {
            for nth in 1..40 {
                let what = || format!("start killed at its {call} number {nth}");
                let mut bundle = t.bundle()?;
                bundle.args(["/bin/payload", "append", "/tmp/ran", "x"]);
                let mut container = notifying(t, &bundle, &socket)?;
                let fault = format!("inject={call}:signal=KILL:when={nth}");
                let trace = t.path().join("trace");
                let mut first = strace::under(t, &trace, &["-e", &fault], ["start", &container.id])?;
                first.env("NOTIFY_SOCKET", &socket);
                let killed = t.finish(first)?.status.code().is_none();
                let status = container.status()?;
                let mut second = t.command(["start", &container.id])?;
                second.env("NOTIFY_SOCKET", &socket);
                let second = t.begin(second)?.end_within(AT_ONCE).with_context(what)?;
                if status == "created" && second.status.success() {
                    // init still waited at the gate
                } else {
                    // the first start had already released init
                    second.fails_with("cannot start").with_context(what)?;
                }
                container.wait()?;
                assert_eq!(fs::read_to_string(bundle.rootfs("tmp/ran"))?, "x", "{}: how often it ran", what());
                container.delete()?.ok().with_context(what)?;
                if !killed {
                    break;
                }
                kills += 1;
            }
        }
        ensure!(kills > 8, "only {kills} starts were killed");
        Ok(())
    });
}

/// A second start is refused, and does not disturb the first one, which waits for READY=1 and passes it to the service manager.
#[test]
fn a_refused_start_does_not_disturb_the_first() {
    check(|t| {
        let socket = t.path().join("notify.sock");
        let manager = UnixDatagram::bind(&socket)?;
        let mut bundle = t.bundle()?;
        let mut barrier = Barrier::at(&bundle.rootfs("tmp/barrier"))?;
        bundle.args(["/bin/payload", "read", "/tmp/barrier", "then", "notify", "READY=1", "then", "sleep"]);
        let container = notifying(t, &bundle, &socket)?;
        let start = |id: &str| -> Result<_> {
            let mut command = t.command(["start", id])?;
            command.env("NOTIFY_SOCKET", &socket);
            t.begin(command)
        };
        let first = start(&container.id)?;
        until("it runs", || Ok(container.status()? == "running"))?;
        for _ in 0..2 {
            let second = start(&container.id)?.end_within(AT_ONCE).context("the second start")?;
            let text = if t.runtime.is("crun") { "" } else { "already running" };
            second.exits(1)?.fails_with(text)?;
        }
        ensure!(t.runtime.is("crun") || first.goes_on_after(Duration::ZERO)?, "the first start does not wait");
        barrier.lift()?;
        let mut text = [0; 64];
        ensure!(readable_within(&manager, AT_ONCE)?, "the manager is not told");
        let length = manager.recv(&mut text)?;
        ensure!(text[..length].starts_with(b"READY=1"), "{:?}", String::from_utf8_lossy(&text[..length]));
        // the first start may wait until the manager reads everything
        drop(manager);
        drop(first);
        Ok(())
    });
}
