//! A containerd shim, started and called as containerd does it, with this test in containerd's place: it speaks ttrpc by hand
//! and takes the events.
//!
//! Which one: with `RUNTIME` a masu the `containerd-shim-masu-v2` beside it (or `$SHIM`), else containerd's own shim, which
//! executes the runtime.

use std::fs;
use std::io::ErrorKind;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, Signal, WaitOptions};

use crate::message::{Fields, Message};
use crate::{Bundle, Test, artifacts};

/// Long, as an emulated machine may be slow; only what fails waits for it.
const PATIENCE: Duration = Duration::from_secs(60);
const NAMESPACE: &str = "it";
/// The service of pods.
pub const SANDBOX: &str = "containerd.runtime.sandbox.v1.Sandbox";

/// An answer that is a failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// gRPC's number.
    pub code: u64,
    pub text: String,
}

pub type Answer = Result<Fields, Refused>;

/// A shim that runs.
#[derive(Debug)]
pub struct Shim<'t> {
    test: &'t Test,
    binary: PathBuf,
    address: String,
    /// The task service that it serves: newer ones of containerd's own know the older version no more.
    service: &'static str,
    events_path: PathBuf,
    listener: Option<UnixListener>,
    sinks: Vec<(UnixStream, Vec<u8>)>,
    client: UnixStream,
    unread: Vec<u8>,
    answers: Vec<(u32, Answer)>,
    stream: u32,
    /// `topic id`, in the order of arrival; the id of an exec is `container/exec`.
    pub events: Vec<String>,
    pub pid: i32,
    log: OwnedFd,
}

impl<'t> Shim<'t> {
    /// `start` in the bundle of container `id`.
    ///
    /// # Errors
    /// There is no shim, or it does not start.
    pub fn start(test: &'t Test, bundle: &Bundle, id: &str) -> Result<Self> {
        Self::start_with(test, bundle, id, &[])
    }

    /// The same with more variables in the environment of `start`.
    ///
    /// # Errors
    /// As [`Shim::start`].
    pub fn start_with(test: &'t Test, bundle: &Bundle, id: &str, env: &[(&str, &str)]) -> Result<Self> {
        let binary = if test.runtime.is("masu") { artifacts::shim()? } else { artifacts::in_path(Path::new("containerd-shim-runc-v2"))? };
        let events_path = test.path().join(format!("{id}.events"));
        let listener = UnixListener::bind(&events_path)?;
        listener.set_nonblocking(true)?;
        let fifo = bundle.path().join("log");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o700.into(), 0)?;
        // containerd reads it; here it may fill up
        let log = rustix::fs::open(&fifo, rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::CLOEXEC, 0.into())?;
        let (address, service) = ask(test, &binary, &events_path, bundle, id, env)?;
        let client = connect(&address)?;
        let mut shim = Self {
            test,
            binary,
            address,
            service,
            events_path,
            listener: Some(listener),
            sinks: Vec::new(),
            client,
            unread: Vec::new(),
            answers: Vec::new(),
            stream: 1,
            events: Vec::new(),
            pid: 0,
            log,
        };
        shim.pid = shim.call("Connect", Message::new().text(1, id))?.map_err(refused)?.number(1) as i32;
        Ok(shim)
    }

    /// The address that `start` gives for another container.
    ///
    /// # Errors
    /// It does not start.
    pub fn address_for(&self, bundle: &Bundle, id: &str) -> Result<String> {
        Ok(ask(self.test, &self.binary, &self.events_path, bundle, id, &[])?.0)
    }

    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// A connection of its own.
    ///
    /// # Errors
    /// Nobody listens.
    pub fn connect(&self) -> Result<UnixStream> {
        connect(&self.address)
    }

    /// Calls a method of the task service and waits for the answer, taking events meanwhile.
    ///
    /// # Errors
    /// The shim hangs up, or does not answer in time.
    pub fn call(&mut self, method: &str, message: Message) -> Result<Answer> {
        let stream = self.begin(method, message)?;
        self.finish(stream)
    }

    /// Sends a call.
    ///
    /// # Errors
    /// The shim has hung up.
    pub fn begin(&mut self, method: &str, message: Message) -> Result<u32> {
        self.begin_at(self.service, method, message)
    }

    /// Sends a call to any service.
    ///
    /// # Errors
    /// The shim has hung up.
    pub fn begin_at(&mut self, service: &str, method: &str, message: Message) -> Result<u32> {
        let request = Message::new().text(1, service).text(2, method).message(3, message);
        let stream = self.stream;
        self.stream += 2;
        self.send(stream, &request.0)?;
        Ok(stream)
    }

    /// Sends a frame with any content.
    ///
    /// # Errors
    /// The shim has hung up.
    pub fn send(&mut self, stream: u32, payload: &[u8]) -> Result<()> {
        self.client.write_all(&frame(stream, 1, payload)).context("send a request")
    }

    /// Waits for the answer of a call.
    ///
    /// # Errors
    /// As [`Shim::call`].
    pub fn finish(&mut self, stream: u32) -> Result<Answer> {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(i) = self.answers.iter().position(|(s, _)| *s == stream) {
                return Ok(self.answers.swap_remove(i).1);
            }
            ensure!(Instant::now() < end, "no answer to the call of stream {stream} in time");
            self.turn()?;
        }
    }

    /// Takes events until `done` says so.
    ///
    /// # Errors
    /// It does not in time.
    pub fn until(&mut self, done: impl Fn(&[String]) -> bool) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        while !done(&self.events) {
            ensure!(Instant::now() < end, "events so far: {:?}", self.events);
            self.turn()?;
        }
        Ok(())
    }

    /// Takes events no more, as if containerd had been stopped.
    ///
    /// # Errors
    /// The socket cannot be removed.
    pub fn stop_events(&mut self) -> Result<()> {
        self.listener = None;
        self.sinks.clear();
        Ok(fs::remove_file(&self.events_path)?)
    }

    /// Takes events again.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub fn take_events(&mut self) -> Result<()> {
        let listener = UnixListener::bind(&self.events_path)?;
        listener.set_nonblocking(true)?;
        self.listener = Some(listener);
        Ok(())
    }

    /// The end of what it has logged and nobody has read.
    fn logged(&self) -> String {
        let mut text = vec![0; 1 << 16];
        let n = rustix::io::read(&self.log, &mut text).unwrap_or(0);
        String::from_utf8_lossy(text.get(n.saturating_sub(2000)..n).unwrap_or_default()).into_owned()
    }

    /// Waits for whatever comes next, at most a tenth of a second, and takes it.
    fn turn(&mut self) -> Result<()> {
        let listener = self.listener.iter().map(AsFd::as_fd);
        let sinks = self.sinks.iter().map(|(sink, _)| sink.as_fd());
        let mut fds: Vec<_> = std::iter::once(self.client.as_fd())
            .chain(listener)
            .chain(sinks)
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
            .collect();
        let limit = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
        rustix::event::poll(&mut fds, Some(&limit))?;
        drop(fds);
        if let Some(listener) = &self.listener
            && let Ok((sink, _)) = listener.accept()
        {
            sink.set_nonblocking(true)?;
            self.sinks.push((sink, Vec::new()));
        }
        let mut taken = Vec::new();
        for (sink, unread) in &mut self.sinks {
            receive(sink, unread)?;
            while let Some((stream, payload)) = next_frame(unread) {
                taken.push(payload);
                // an empty status is success; a shim that ends may be gone by then
                let _ = sink.write_all(&frame(stream, 2, &Message::new().message(1, Message::new()).0));
            }
        }
        for request in taken {
            self.events.push(event(&request).context("a damaged event")?);
        }
        self.client.set_nonblocking(true)?;
        let result = receive(&mut self.client, &mut self.unread);
        self.client.set_nonblocking(false)?;
        ensure!(result?, "the shim hung up; its log ends with {:?}", self.logged());
        while let Some((stream, payload)) = next_frame(&mut self.unread) {
            let response = Fields::of(&payload)?;
            let status = response.message(1).unwrap_or_default();
            let answer = match status.number(1) {
                0 => Ok(response.message(2).unwrap_or_default()),
                code => Err(Refused { code, text: status.text(2) }),
            };
            self.answers.push((stream, answer));
        }
        Ok(())
    }

    /// The message of Create, with its output in `stdout` unless that is empty.
    #[must_use]
    pub fn create_message(&self, bundle: &Bundle, id: &str, stdout: &str) -> Message {
        self.create_message_with_root(bundle, id, stdout, &self.test.root())
    }

    /// The same with the runtime's records elsewhere.
    #[must_use]
    pub fn create_message_with_root(&self, bundle: &Bundle, id: &str, stdout: &str, root: &Path) -> Message {
        let runtime = if self.test.runtime.is("masu") { String::new() } else { self.test.runtime.path.to_string_lossy().into_owned() };
        let options = Message::new().text(6, &runtime).text(7, &root.to_string_lossy());
        let any = Message::new().text(1, "containerd.runc.v1.Options").bytes(2, &options.0);
        Message::new().text(1, id).text(2, &bundle.path().to_string_lossy()).text(6, stdout).message(10, any)
    }

    /// Creates and starts a container.
    ///
    /// # Errors
    /// It is refused.
    pub fn run(&mut self, bundle: &Bundle, id: &str) -> Result<()> {
        self.call("Create", self.create_message(bundle, id, ""))?.map_err(refused)?;
        self.call("Start", Message::new().text(1, id))?.map_err(refused)?;
        Ok(())
    }

    /// Adds a process that is to run `args`.
    ///
    /// # Errors
    /// It is refused.
    pub fn exec(&mut self, id: &str, exec_id: &str, args: &[&str]) -> Result<()> {
        let process = serde_json::json!({"args": args, "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}});
        let any =
            Message::new().text(1, "types.containerd.io/opencontainers/runtime-spec/1/Process").bytes(2, process.to_string().as_bytes());
        self.call("Exec", Message::new().text(1, id).text(2, exec_id).message(7, any))?.map_err(refused)?;
        Ok(())
    }

    /// Kills, waits and deletes.
    ///
    /// # Errors
    /// It is refused.
    pub fn end(&mut self, id: &str) -> Result<()> {
        let wait = self.begin("Wait", Message::new().text(1, id))?;
        // it may have ended by itself
        let _ = self.call("Kill", Message::new().text(1, id).number(3, 9))?;
        self.finish(wait)?.map_err(refused)?;
        self.call("Delete", Message::new().text(1, id))?.map_err(refused)?;
        Ok(())
    }

    /// Calls a method of the sandbox service and waits for the answer.
    ///
    /// # Errors
    /// As [`Shim::call`].
    pub fn call_sandbox(&mut self, method: &str, message: Message) -> Result<Answer> {
        let stream = self.begin_at(SANDBOX, method, message)?;
        self.finish(stream)
    }

    /// Shuts the shim down and waits for its end.
    ///
    /// # Errors
    /// It does not end.
    pub fn shut_down(mut self) -> Result<()> {
        let stream = self.begin("Shutdown", Message::new())?;
        self.until_ended(stream)
    }

    /// Waits for the end of the shim, which the call of `stream` brings.
    ///
    /// # Errors
    /// It does not end.
    pub fn until_ended(mut self, stream: u32) -> Result<()> {
        // it may be gone before its answer is read
        let end = Instant::now() + PATIENCE;
        while !self.reaped()? {
            ensure!(Instant::now() < end, "the shim does not end");
            let _ = self.turn();
            self.answers.retain(|(s, _)| *s != stream);
        }
        Ok(())
    }

    /// Kills the shim.
    ///
    /// # Errors
    /// It is not there.
    pub fn kill(&mut self) -> Result<()> {
        let pid = Pid::from_raw(self.pid).context("the shim has no pid")?;
        rustix::process::kill_process(pid, Signal::KILL)?;
        rustix::process::waitpid(Some(pid), WaitOptions::empty())?;
        Ok(())
    }

    fn reaped(&self) -> Result<bool> {
        let pid = Pid::from_raw(self.pid).context("the shim has no pid")?;
        match rustix::process::waitpid(Some(pid), WaitOptions::NOHANG) {
            Ok(None) => Ok(false),
            Ok(Some(_)) | Err(rustix::io::Errno::CHILD) => Ok(true),
            Err(e) => Err(e.into()),
        }
    }

    /// `delete` for a container whose shim is gone: pid and status.
    ///
    /// # Errors
    /// It fails.
    pub fn delete_action(&self, bundle: &Bundle, id: &str) -> Result<(u64, u64)> {
        let mut command = command(self.test, &self.binary, &self.events_path, bundle, id);
        command.arg("-bundle").arg(bundle.path()).arg("delete");
        let output = command.output()?;
        ensure!(output.status.success(), "delete: {}", String::from_utf8_lossy(&output.stderr));
        let response = Fields::of(&output.stdout)?;
        Ok((response.number(1), response.number(2)))
    }
}

/// As an error of a test.
pub fn refused(refused: Refused) -> anyhow::Error {
    let Refused { code, text } = refused;
    anyhow::anyhow!("refused with {code}: {text}")
}

fn command(test: &Test, binary: &Path, events: &Path, bundle: &Bundle, id: &str) -> Command {
    let mut command = Command::new("/bin/sh");
    // a descriptor that containerd inherited itself and passes on
    command.args(["-c", r#"exec 9</dev/zero; exec "$0" "$@""#]).arg(binary);
    command.args(["-namespace", NAMESPACE, "-address"]).arg(test.path().join("containerd.sock"));
    command.args(["-publish-binary", "/bin/false", "-id", id]);
    command.env("TTRPC_ADDRESS", events).env("GRPC_ADDRESS", test.path().join("containerd.sock")).env("NAMESPACE", NAMESPACE);
    command.env("MAX_SHIM_VERSION", "2").current_dir(bundle.path()).stdin(Stdio::null());
    command
}

/// Runs `start`; its answer is a bare address, or JSON. The address, and the service behind it.
fn ask(test: &Test, binary: &Path, events: &Path, bundle: &Bundle, id: &str, env: &[(&str, &str)]) -> Result<(String, &'static str)> {
    let output = command(test, binary, events, bundle, id).envs(env.iter().copied()).arg("start").output().context("run the shim")?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "start: {said}");
    let (address, version) = match serde_json::from_str::<serde_json::Value>(&said) {
        Ok(json) => (json["address"].as_str().unwrap_or_default().to_owned(), json["version"].as_u64()),
        Err(_) => (said.trim().to_owned(), None),
    };
    ensure!(address.starts_with("unix://"), "start answered {said:?}");
    Ok((address, if version == Some(3) { "containerd.task.v3.Task" } else { "containerd.task.v2.Task" }))
}

fn connect(address: &str) -> Result<UnixStream> {
    UnixStream::connect(address.trim_start_matches("unix://")).with_context(|| format!("connect to {address}"))
}

fn frame(stream: u32, kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes().to_vec();
    frame.extend(stream.to_be_bytes());
    frame.extend([kind, 0]);
    frame.extend(payload);
    frame
}

/// Reads what is there; whether the peer is still there.
fn receive(from: &mut UnixStream, unread: &mut Vec<u8>) -> Result<bool> {
    let mut bytes = [0; 4096];
    loop {
        match from.read(&mut bytes) {
            Ok(0) => return Ok(false),
            Ok(n) => unread.extend(&bytes[..n]),
            Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(true),
            Err(e) if e.kind() == ErrorKind::ConnectionReset => return Ok(false),
            Err(e) => bail!("read from a socket: {e}"),
        }
    }
}

fn next_frame(unread: &mut Vec<u8>) -> Option<(u32, Vec<u8>)> {
    let header: [u8; 10] = *unread.first_chunk()?;
    let length = u32::from_be_bytes(header[..4].try_into().ok()?) as usize;
    let stream = u32::from_be_bytes(header[4..8].try_into().ok()?);
    let payload = unread.get(10..10 + length)?.to_vec();
    unread.drain(..10 + length);
    Some((stream, payload))
}

/// A request of Forward as a line of [`Shim::events`].
fn event(request: &[u8]) -> Result<String> {
    let request = Fields::of(request)?;
    let envelope = request.message(3).and_then(|forward| forward.message(1)).context("no envelope")?;
    let topic = envelope.text(3).trim_start_matches("/tasks/").to_owned();
    let event = envelope.message(4).and_then(|any| any.message(2)).unwrap_or_default();
    let (container, other) = (event.text(1), event.text(2));
    let exec = matches!(topic.as_str(), "exit" | "exec-added" | "exec-started") && other != container;
    Ok(if exec { format!("{topic} {container}/{other}") } else { format!("{topic} {container}") })
}
