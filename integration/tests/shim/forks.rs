//! A worker of the shim may take long. It must hold only the descriptors that its verb needs.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use integration::background::{Barrier, until};
use integration::host::processes_with;
use integration::runtime::readable_within;
use integration::shim::{Shim, refused};
use integration::{Bundle, Test, check};
use rustix::fs::{CWD, Mode, mkfifoat};
use serde_json::json;

use super::{of, with_shim};

/// Far more than the end of a stream takes.
const AT_ONCE: Duration = Duration::from_secs(5);

/// A second container of the shim. One of its verbs waits for a hook of `kind`.
struct Busy {
    bundle: Bundle,
    id: String,
    barrier: Barrier,
    begun: PathBuf,
    verb: &'static str,
    stream: u32,
}

impl Busy {
    /// Prepares everything before the verb.
    fn new(t: &Test, kind: &'static str) -> Result<Self> {
        let verb = match kind {
            "createRuntime" => "Create",
            "poststart" => "Start",
            _ => "Delete",
        };
        let (mut bundle, id) = (t.bundle()?, t.new_id());
        let (fifo, begun) = (t.path().join(format!("{id}.fifo")), t.path().join(format!("{id}.log")));
        let (shown, log) = (fifo.to_string_lossy().into_owned(), begun.to_string_lossy().into_owned());
        let args = ["payload", "hook", &log, "name", kind, "then", "read", &shown];
        bundle.args(["/bin/true"]).push(&format!("/hooks/{kind}"), json!({"path": t.payload, "args": args})).write()?;
        Ok(Self { bundle, id, barrier: Barrier::at(&fifo)?, begun, verb, stream: 0 })
    }

    /// Begins the verb. Returns while its hook, and so the worker, waits.
    fn begin(&mut self, shim: &mut Shim<'_>) -> Result<()> {
        let create = shim.create_message(&self.bundle, &self.id, "");
        if self.verb == "Create" {
            self.stream = shim.begin("Create", create)?;
        } else {
            shim.call("Create", create)?.map_err(refused)?;
            if self.verb == "Delete" {
                let wait = shim.begin("Wait", of(&self.id))?;
                shim.call("Start", of(&self.id))?.map_err(refused)?;
                shim.finish(wait)?.map_err(refused)?;
            }
            self.stream = shim.begin(self.verb, of(&self.id))?;
        }
        until("the hook has begun", || Ok(self.begun.exists()))
    }

    /// Lets the hook end, and deletes the container.
    fn end(mut self, shim: &mut Shim<'_>) -> Result<()> {
        self.barrier.lift()?;
        shim.finish(self.stream)?.map_err(refused)?;
        if self.verb == "Create" {
            shim.call("Start", of(&self.id))?.map_err(refused)?;
        }
        if self.verb != "Delete" {
            let wait = shim.begin("Wait", of(&self.id))?;
            shim.finish(wait)?.map_err(refused)?;
            shim.call("Delete", of(&self.id))?.map_err(refused)?;
        }
        Ok(())
    }
}

fn fifo(t: &Test, name: &str) -> Result<PathBuf> {
    let path = t.path().join(name);
    mkfifoat(CWD, &path, Mode::from_raw_mode(0o600))?;
    Ok(path)
}

/// Opens one end of a fifo without waiting for the other end.
fn open(path: &Path, write: bool) -> Result<File> {
    let mut options = OpenOptions::new();
    // read and write, because opening only for writing fails without a reader
    options.read(true).write(write).custom_flags(libc::O_NONBLOCK);
    options.open(path).with_context(|| format!("open {}", path.display()))
}

/// Creates and starts a container with fifos as standard input and output. Returns the test's ends.
fn with_streams(t: &Test, shim: &mut Shim<'_>, bundle: &Bundle, id: &str) -> Result<(File, File)> {
    let (stdin, stdout) = (fifo(t, &format!("{id}.in"))?, fifo(t, &format!("{id}.out"))?);
    let output = open(&stdout, false)?;
    // the shim opens its end in its own time
    let input = open(&stdin, true)?;
    // a peer's shim needs both outputs
    let stderr = fifo(t, &format!("{id}.err"))?;
    let _errors = open(&stderr, false)?;
    let message = shim.create_message(bundle, id, &stdout.to_string_lossy());
    let message = message.text(5, &stdin.to_string_lossy()).text(7, &stderr.to_string_lossy());
    shim.call("Create", message)?.map_err(refused)?;
    shim.call("Start", of(id))?.map_err(refused)?;
    Ok((input, output))
}

/// A container's input ends when its caller closes it, and its output when the container exits, even while workers for other
/// containers wait.
#[test]
fn the_streams_of_a_container_end_while_another_one_waits() {
    check(|t| {
        for kind in ["createRuntime", "poststart", "poststop"] {
            if !t.runtime.is("masu") {
                t.differs(t.runtime.kind, "its shim answers nobody while it creates a container");
                break;
            }
            with_shim(t, &["/bin/payload", "cat"], |shim, bundle, id| {
                let (input, output) = with_streams(t, shim, bundle, id)?;
                let mut busy = Busy::new(t, kind)?;
                busy.begin(shim)?;
                let wait = shim.begin("Wait", of(id))?;
                drop(input);
                shim.call("CloseIO", of(id).number(3, 1))?.map_err(refused)?;
                let begin = Instant::now();
                let ended = shim.until(|events| events.iter().any(|event| event == &format!("exit {id}")) || begin.elapsed() > AT_ONCE);
                let in_time = shim.events.iter().any(|event| event == &format!("exit {id}"));
                // the container writes nothing, so only the end can be read
                let hung_up = in_time && at_its_end(&output)?;
                busy.end(shim)?;
                let status = shim.finish(wait)?.map_err(refused)?.number(1);
                shim.call("Delete", of(id))?.map_err(refused)?;
                ended?;
                ensure!(in_time, "{kind}: its input did not end while the worker of another container waited");
                ensure!(hung_up, "{kind}: its output did not end while the worker of another container waited");
                ensure!(status == 0, "{kind}: it ended with {status}");
                Ok(())
            })?;
        }
        Ok(())
    });
}

/// Whether the fifo has no writer any more.
fn at_its_end(mut output: &File) -> Result<bool> {
    use std::io::Read;
    let begin = Instant::now();
    while begin.elapsed() < AT_ONCE {
        if !readable_within(&output, AT_ONCE)? {
            return Ok(false);
        }
        match output.read(&mut [0; 64]) {
            Ok(0) => return Ok(true),
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => std::thread::sleep(Duration::from_millis(10)),
            Err(e) => bail!("read the output: {e}"),
        }
    }
    Ok(false)
}

/// A killed daemon's socket accepts no connection, and its old connections are closed, while a worker still waits.
#[test]
fn the_socket_of_a_killed_daemon_takes_no_connection() {
    check(|t| {
        if !t.runtime.is("masu") {
            t.differs(t.runtime.kind, "its shim forks no worker, and forgets a container whose create it did not end");
            return Ok(());
        }
        for kind in ["createRuntime", "poststop"] {
            let mut left = Vec::new();
            let mut bundle = t.bundle()?;
            let id = t.new_id();
            bundle.args(["/bin/payload", "sleep"]).write()?;
            let mut shim = Shim::start(t, &bundle, &id)?;
            shim.run(&bundle, &id)?;
            let mut busy = Busy::new(t, kind)?;
            busy.begin(&mut shim)?;
            let client = shim.connect()?;
            let address = shim.address().trim_start_matches("unix://").to_owned();
            shim.kill()?;
            if UnixStream::connect(&address).is_ok() {
                left.push("its socket takes connections");
            }
            if !readable_within(&client, Duration::from_secs(1))? {
                left.push("its connections are open");
            }
            busy.barrier.lift()?;
            // the worker may finish
            until("the hook has ended", || Ok(!processes_with(t.token()).iter().any(|process| process.contains(" hook "))))?;
            shim.delete_action(&bundle, &id)?;
            shim.delete_action(&busy.bundle, &busy.id)?;
            until("all have ended", || Ok(processes_with(t.token()).is_empty()))?;
            ensure!(left.is_empty(), "{kind}: of a killed daemon, while a worker waits, {left:?}");
        }
        Ok(())
    });
}

/// A worker has none of the daemon's container streams, sockets and connections, and no other container's cgroup.
#[test]
fn a_worker_has_no_stream_and_no_connection_of_the_daemon() {
    check(|t| {
        with_shim(t, &["/bin/payload", "cat"], |shim, bundle, id| {
            if !t.runtime.is("masu") {
                t.differs(t.runtime.kind, "the runtime is a program of its own there");
                return Ok(());
            }
            let (_input, _output) = with_streams(t, shim, bundle, id)?;
            let _more = shim.connect()?;
            let mut busy = Busy::new(t, "createRuntime")?;
            let before = links(shim.pid)?;
            busy.begin(shim)?;
            let workers: Vec<i32> = children(shim.pid)?;
            let mut shared = Vec::new();
            for worker in &workers {
                // without the containers' processes, which are children too
                let mut own = links(*worker)?;
                // only links whose name identifies one file
                let names_one = |link: &str| !["/dev/null", "/proc", "anon_inode:"].iter().any(|common| link.starts_with(common));
                own.retain(|link| before.contains(link) && names_one(link));
                let name = fs::read_to_string(format!("/proc/{worker}/comm"))?;
                if name.starts_with("containerd-shim") || name.starts_with("masu") {
                    shared.extend(own.into_iter().map(|link| format!("{}: {link}", name.trim())));
                }
            }
            busy.end(shim)?;
            shim.end(id)?;
            // containerd's log is allowed, because warnings go there
            shared.retain(|link| !link.ends_with("/log"));
            ensure!(!workers.is_empty(), "no worker was seen");
            ensure!(shared.is_empty(), "a worker has of the daemon's: {shared:#?}");
            Ok(())
        })
    });
}

/// The link targets of the descriptors of a process.
fn links(pid: i32) -> Result<Vec<String>> {
    let mut links = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        links.extend(fs::read_link(entry?.path()).map(|link| link.to_string_lossy().into_owned()));
    }
    Ok(links)
}

fn children(pid: i32) -> Result<Vec<i32>> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    Ok(text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect())
}
