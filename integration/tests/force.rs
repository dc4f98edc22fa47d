//! Foreign code, such as a hook or a program that is not ready, blocks no other verb while it runs. `delete --force` ends the
//! container at once, and other verbs work.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use integration::background::{Background, Barrier, until};
use integration::host::processes_with;
use integration::runtime::ended_within;
use integration::{Bundle, Output, Test, cgroups, check, sys};
use rustix::process::Pid;
use serde_json::json;

/// Far more than a verb takes, and far less than a verb waits for the lock.
const AT_ONCE: Duration = Duration::from_secs(4);

/// Adds a hook of `kind` that waits, and then exits with `code`. The returned file appears when the hook has begun.
fn add_waiting_hook(t: &Test, bundle: &mut Bundle, kind: &str, code: u8) -> Result<(Barrier, PathBuf)> {
    let inside = kind == "startContainer";
    let (program, folder) =
        if inside { (PathBuf::from("/bin/payload"), PathBuf::from("/tmp")) } else { (t.payload.clone(), t.path().to_owned()) };
    let host = if inside { bundle.rootfs("tmp") } else { folder.clone() };
    let name = format!("{kind}-{}", t.new_id());
    let (log, fifo) = (format!("{name}.log"), format!("{name}.fifo"));
    let at = |file: &str| folder.join(file).to_string_lossy().into_owned();
    let code = code.to_string();
    let args = ["payload", "hook", &at(&log), "name", kind, "then", "read", &at(&fifo), "then", "exit", &code];
    bundle.push(&format!("/hooks/{kind}"), json!({"path": program, "args": args}));
    Ok((Barrier::at(&host.join(fifo))?, host.join(log)))
}

fn create<'a>(bundle: &'a Bundle, id: &'a str) -> [&'a std::ffi::OsStr; 4] {
    ["create".as_ref(), "--bundle".as_ref(), bundle.path().as_os_str(), id.as_ref()]
}

fn init_of(t: &Test, id: &str) -> Result<Pid> {
    let pid = t.runtime(["state", id])?.ok()?.json()?["pid"].as_i64().context("a pid")?;
    Pid::from_raw(i32::try_from(pid)?).context("a pid")
}

/// Checks that `delete --force` exits with 0 at once, and that the container is gone.
fn deleted_at_once(t: &Test, id: &str) -> Result<()> {
    let begin = Instant::now();
    t.runtime(["delete", "--force", id])?.exits(0)?;
    ensure!(begin.elapsed() < AT_ONCE, "delete --force took {:?}", begin.elapsed());
    t.runtime(["state", id])?.fails_with(if t.runtime.is("crun<1.28") { "no such file" } else { "does not exist" })?;
    Ok(())
}

/// Waits until no process of this test is left.
fn all_have_ended(t: &Test) -> Result<()> {
    until("the processes of the test have ended", || Ok(processes_with(t.token()).is_empty()))
}

/// `delete --force` ends a container whose create waits for a hook, and ends that create too.
#[test]
fn a_forced_delete_does_not_wait_for_a_hook_of_create() {
    check(|t| {
        if !t.runtime.is("masu") {
            t.differs(t.runtime.kind, "knows no container before its hooks have run");
            return Ok(());
        }
        for kind in ["prestart", "createRuntime", "createContainer"] {
            let mut bundle = t.bundle()?;
            let (mut barrier, begun) = add_waiting_hook(t, &mut bundle, kind, 0)?;
            bundle.write()?;
            let id = t.new_id();
            let making = t.begin(t.command(create(&bundle, &id))?)?;
            until("the hook has begun", || Ok(begun.exists() || !making.goes_on_after(Duration::ZERO)?))?;
            assert_eq!(t.runtime(["state", &id])?.ok()?.json()?["status"], "creating", "{kind}");
            deleted_at_once(t, &id).with_context(|| kind.to_owned())?;
            let output = making.end_within(AT_ONCE).with_context(|| format!("the create, which waits for a {kind} hook"))?;
            ensure!(!output.status.success(), "the create of what was deleted: {output:?}");
            barrier.lift()?;
            all_have_ended(t)?;
        }
        Ok(())
    });
}

/// Creates a container, begins its start, and waits until `waits` tells that foreign code blocks the start.
fn start(t: &Test, bundle: &Bundle, id: &str, env: Option<&Path>, waits: impl Fn(Pid) -> Result<bool>) -> Result<(Background, Pid)> {
    bundle.write()?;
    let mut command = t.command(create(bundle, id))?;
    command.envs(env.map(|path| ("NOTIFY_SOCKET", path)));
    t.finish(command)?.ok()?;
    let init = init_of(t, id)?;
    let mut command = t.command(["start", id])?;
    command.envs(env.map(|path| ("NOTIFY_SOCKET", path)));
    let start = t.begin(command)?;
    until("the start waits", || waits(init))?;
    Ok((start, init))
}

/// `delete --force` ends a container whose start waits for a hook, for a program that is not ready, or for execve.
#[test]
fn a_forced_delete_does_not_wait_for_a_start() {
    check(|t| {
        for kind in ["startContainer", "poststart"] {
            let mut bundle = t.bundle()?;
            bundle.args(["/bin/sleep"]);
            if kind == "poststart" && t.differs("runc", "runs poststart hooks in create") {
                continue;
            }
            let (mut barrier, begun) = add_waiting_hook(t, &mut bundle, kind, 0)?;
            let id = t.new_id();
            let (start, init) = start(t, &bundle, &id, None, |_| Ok(begun.exists()))?;
            deleted_at_once(t, &id).with_context(|| kind.to_owned())?;
            ensure!(ended_within(init, AT_ONCE)?, "{kind}: init runs after the deletion");
            if kind == "startContainer" {
                // the hook was killed with its container
                start.end_within(AT_ONCE).context("the start of what was deleted")?;
                barrier.lift()?;
            } else {
                barrier.lift()?;
                start.end_within(AT_ONCE).context("the start, whose hook has ended")?;
            }
            all_have_ended(t)?;
        }
        Ok(())
    });
}

/// `delete --force` ends a container whose program has not sent READY=1 yet (sd_notify(3)).
#[test]
fn a_forced_delete_does_not_wait_for_a_program_to_be_ready() {
    check(|t| {
        let socket = t.path().join("notify.sock");
        let _manager = UnixDatagram::bind(&socket)?;
        let mut bundle = t.bundle()?;
        bundle.args(["/bin/sleep"]);
        let id = t.new_id();
        let (start, init) = start(t, &bundle, &id, Some(&socket), |_| is_running(t, &id))?;
        deleted_at_once(t, &id)?;
        ensure!(ended_within(init, AT_ONCE)?, "init runs after the deletion");
        if t.differs("runc", "its start goes on waiting") {
            drop(start);
        } else {
            start.end_within(AT_ONCE).context("the start of what was deleted")?;
        }
        all_have_ended(t)
    });
}

/// `delete --force` ends a container whose execve blocks. A lease on the program blocks it here, as a dead file server would.
#[test]
fn a_forced_delete_does_not_wait_for_an_execve() {
    check(|t| {
        let mut bundle = t.bundle()?;
        fs::copy(&t.payload, bundle.rootfs("bin/leased"))?;
        bundle.args(["/bin/leased", "sleep"]);
        let program = fs::OpenOptions::new().read(true).write(true).open(bundle.rootfs("bin/leased"))?;
        // the kernel sends SIGIO to the holder of the lease
        sys::ignore(libc::SIGIO);
        let lease = |kind: i32| sys::call(libc::SYS_fcntl, [program.as_raw_fd() as u64, libc::F_SETLEASE as u64, kind as u64, 0, 0]);
        if let Err(error) = lease(libc::F_WRLCK) {
            return t.skip(&format!("no lease on a file here: {error}"));
        }
        let id = t.new_id();
        let in_execve = |init: Pid| {
            let call = fs::read_to_string(format!("/proc/{}/syscall", init.as_raw_nonzero())).unwrap_or_default();
            Ok(call.split(' ').next().and_then(|number| number.parse().ok()) == Some(libc::SYS_execve))
        };
        let (start, init) = start(t, &bundle, &id, None, in_execve)?;
        deleted_at_once(t, &id)?;
        ensure!(ended_within(init, AT_ONCE)?, "init runs after the deletion");
        start.end_within(AT_ONCE).context("the start of what was deleted")?;
        all_have_ended(t)
    });
}

fn is_running(t: &Test, id: &str) -> Result<bool> {
    Ok(t.runtime(["state", id])?.ok()?.json()?["status"] == "running")
}

/// Each of these verbs works at once on a running container.
fn verbs_work(t: &Test, id: &str) -> Result<()> {
    let verbs: [&[&str]; 6] = [
        &["update", "--pids-limit", "60", id],
        &["exec", id, "/bin/true"],
        &["pause", id],
        &["resume", id],
        &["kill", id, "0"],
        &["ps", id],
    ];
    // without the pids controller the limit cannot be set
    for words in verbs.into_iter().filter(|words| words[0] != "update" || cgroups::has("pids")) {
        let begin = Instant::now();
        t.runtime(words)?.ok().with_context(|| format!("{words:?}"))?;
        ensure!(begin.elapsed() < AT_ONCE, "{words:?} took {:?}", begin.elapsed());
    }
    Ok(())
}

/// Other verbs work on a container whose start waits for a poststart hook, or for the program to be ready.
#[test]
fn other_verbs_do_not_wait_for_a_start() {
    check(|t| {
        let id = t.new_id();
        let mut bundle = t.bundle()?;
        bundle.args(["/bin/sleep"]);
        let socket = t.path().join("notify.sock");
        let _manager = UnixDatagram::bind(&socket)?;
        let (starting, _) = start(t, &bundle, &id, Some(&socket), |_| is_running(t, &id))?;
        let verbs = verbs_work(t, &id).context("while a start waits for READY");
        t.runtime(["delete", "--force", &id])?;
        drop(starting);
        verbs?;

        if t.differs("runc", "runs poststart hooks in create") {
            return Ok(());
        }
        let id = t.new_id();
        let (mut barrier, begun) = add_waiting_hook(t, &mut bundle, "poststart", 0)?;
        let (starting, _) = start(t, &bundle, &id, None, |_| Ok(begun.exists()))?;
        let verbs = verbs_work(t, &id).context("while a poststart hook runs");
        barrier.lift()?;
        let started = starting.end().and_then(Output::ok);
        t.runtime(["delete", "--force", &id])?;
        verbs?;
        started?;
        Ok(())
    });
}

/// A container whose program has exited is deleted at once, also without force, while its poststart hook still runs.
#[test]
fn a_delete_does_not_wait_for_a_poststart_hook() {
    check(|t| {
        if t.differs("runc", "runs poststart hooks in create") {
            return Ok(());
        }
        let mut bundle = t.bundle()?;
        let (mut barrier, begun) = add_waiting_hook(t, &mut bundle, "poststart", 0)?;
        let id = t.new_id();
        let (start, init) = start(t, &bundle, &id, None, |_| Ok(begun.exists()))?;
        ensure!(ended_within(init, AT_ONCE)?, "true goes on");
        let begin = Instant::now();
        let deleted = t.runtime(["delete", &id])?;
        let took = begin.elapsed();
        barrier.lift()?;
        start.end()?;
        t.runtime(["delete", "--force", &id])?;
        deleted.ok()?;
        ensure!(took < AT_ONCE, "delete took {took:?}");
        all_have_ended(t)
    });
}

/// A poststart hook may itself use the runtime on its container.
#[test]
fn a_poststart_hook_may_call_the_runtime() {
    check(|t| {
        if t.differs("runc", "runs poststart hooks in create") {
            return Ok(());
        }
        let id = t.new_id();
        let mut bundle = t.bundle()?;
        bundle.args(["/bin/sleep"]);
        let root = t.root().to_string_lossy().into_owned();
        let verbs: [&[&str]; 5] = [&["update", "--pids-limit", "60"], &["pause"], &["resume"], &["state"], &["exec"]];
        for verb in verbs.into_iter().filter(|verb| verb[0] != "update" || cgroups::has("pids")) {
            let mut args = vec![t.runtime.kind, "--root", &root];
            args.extend(verb);
            args.push(&id);
            args.extend((verb == ["exec"]).then_some("/bin/true"));
            bundle.push("/hooks/poststart", json!({"path": t.runtime.path, "args": args, "timeout": 4}));
        }
        bundle.write()?;
        t.runtime(create(&bundle, &id))?.ok()?;
        let started = t.runtime(["start", &id])?;
        let status = t.runtime(["state", &id])?;
        t.runtime(["delete", "--force", &id])?;
        started.ok()?;
        assert_eq!(status.ok()?.json()?["status"], "running");
        Ok(())
    });
}

/// While a hook of create runs, every other verb answers at once, and `state` knows that the container is being created.
#[test]
fn a_hook_of_create_keeps_nobody_waiting() {
    check(|t| {
        if !t.runtime.is("masu") {
            t.differs(t.runtime.kind, "knows no container before its hooks have run");
            return Ok(());
        }
        let id = t.new_id();
        let mut bundle = t.bundle()?;
        let (mut barrier, begun) = add_waiting_hook(t, &mut bundle, "createRuntime", 0)?;
        bundle.write()?;
        let making = t.begin(t.command(create(&bundle, &id))?)?;
        until("the hook has begun", || Ok(begun.exists()))?;
        let mut slow = Vec::new();
        for words in [&["update", "--pids-limit", "60", &id][..], &["pause", &id], &["resume", &id], &["start", &id], &["delete", &id]] {
            let begin = Instant::now();
            let output = t.runtime(words)?;
            if begin.elapsed() > AT_ONCE {
                slow.push(format!("{words:?}: {:?}, {}", begin.elapsed(), output.stderr));
                break;
            }
        }
        barrier.lift()?;
        let made = making.end()?;
        let status = t.runtime(["state", &id])?;
        t.runtime(["delete", "--force", &id])?;
        ensure!(slow.is_empty(), "{slow:?}");
        made.ok()?;
        assert_eq!(status.ok()?.json()?["status"], "created");
        Ok(())
    });
}
