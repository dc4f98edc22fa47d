//! A containerd shim, started and called as by containerd. The test takes containerd's place: it speaks ttrpc by hand and
//! receives the events.
//!
//! If `RUNTIME` is masu, the shim is that of [`artifacts::shim`]. Else it is `containerd-shim-runc-v2`, which executes the
//! runtime.

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

/// Long, because an emulated machine may be slow. Only a failing test waits that long.
const PATIENCE: Duration = Duration::from_secs(60);
const NAMESPACE: &str = "it";
/// The sandbox service, for pods.
pub const SANDBOX: &str = "containerd.runtime.sandbox.v1.Sandbox";

/// A failed call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The gRPC status code.
    pub code: u64,
    pub text: String,
}

pub type Answer = Result<Fields, Refused>;

/// A running shim.
#[derive(Debug)]
pub struct Shim<'t> {
    test: &'t Test,
    binary: PathBuf,
    address: String,
    /// The task service that the shim offers: newer versions of containerd's shim dropped the older service.
    service: &'static str,
    events_path: PathBuf,
    listener: Option<UnixListener>,
    sinks: Vec<(UnixStream, Vec<u8>)>,
    client: UnixStream,
    unread: Vec<u8>,
    answers: Vec<(u32, Answer)>,
    stream: u32,
    /// `topic id`, in the order of arrival. The id of an exec is `container/exec`.
    pub events: Vec<String>,
    pub pid: i32,
    log: OwnedFd,
}

impl<'t> Shim<'t> {
    /// Runs `start` in the bundle of container `id`.
    ///
    /// # Errors
    /// There is no shim, or it does not start.
    pub fn start(test: &'t Test, bundle: &Bundle, id: &str) -> Result<Self> {
        Self::start_with(test, bundle, id, &[])
    }

    /// As [`Shim::start`], with further variables in the environment of `start`.
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
        // containerd would read the log; here the fifo may fill up
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

    /// The address that `start` prints for another container.
    ///
    /// # Errors
    /// `start` fails.
    pub fn address_for(&self, bundle: &Bundle, id: &str) -> Result<String> {
        Ok(ask(self.test, &self.binary, &self.events_path, bundle, id, &[])?.0)
    }

    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// A further connection to the shim.
    ///
    /// # Errors
    /// No process listens at the address.
    pub fn connect(&self) -> Result<UnixStream> {
        connect(&self.address)
    }

    /// Calls a method of the task service and waits for the answer. Events are received meanwhile.
    ///
    /// # Errors
    /// The shim closes the connection, or does not answer in time.
    pub fn call(&mut self, method: &str, message: Message) -> Result<Answer> {
        let stream = self.begin(method, message)?;
        self.finish(stream)
    }

    /// Sends a call to the task service.
    ///
    /// # Errors
    /// The shim has closed the connection.
    pub fn begin(&mut self, method: &str, message: Message) -> Result<u32> {
        self.begin_at(self.service, method, message)
    }

    /// Sends a call to any service.
    ///
    /// # Errors
    /// The shim has closed the connection.
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
    /// The shim has closed the connection.
    pub fn send(&mut self, stream: u32, payload: &[u8]) -> Result<()> {
        self.client.write_all(&frame(stream, 1, payload)).context("send a request")
    }

    /// Waits for the answer to a call.
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

    /// Receives events until `done` returns true.
    ///
    /// # Errors
    /// `done` is still false at the deadline.
    pub fn until(&mut self, done: impl Fn(&[String]) -> bool) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        while !done(&self.events) {
            ensure!(Instant::now() < end, "events so far: {:?}", self.events);
            self.turn()?;
        }
        Ok(())
    }

    /// Stops receiving events, as if containerd had been stopped.
    ///
    /// # Errors
    /// The socket cannot be removed.
    pub fn stop_events(&mut self) -> Result<()> {
        self.listener = None;
        self.sinks.clear();
        Ok(fs::remove_file(&self.events_path)?)
    }

    /// Receives events again.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub fn take_events(&mut self) -> Result<()> {
        let listener = UnixListener::bind(&self.events_path)?;
        listener.set_nonblocking(true)?;
        self.listener = Some(listener);
        Ok(())
    }

    /// The end of the log that was not read yet.
    fn logged(&self) -> String {
        let mut text = vec![0; 1 << 16];
        let n = rustix::io::read(&self.log, &mut text).unwrap_or(0);
        String::from_utf8_lossy(text.get(n.saturating_sub(2000)..n).unwrap_or_default()).into_owned()
    }

    /// Waits at most a tenth of a second for a message or event, and handles it.
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
                // an empty status means success; a shim that exits may be gone already
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

    /// The request of Create. The task's output goes to `stdout` unless that is empty.
    #[must_use]
    pub fn create_message(&self, bundle: &Bundle, id: &str, stdout: &str) -> Message {
        self.create_message_with_root(bundle, id, stdout, &self.test.root())
    }

    /// The same, with another state root for the runtime.
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
    /// The shim refuses.
    pub fn run(&mut self, bundle: &Bundle, id: &str) -> Result<()> {
        self.call("Create", self.create_message(bundle, id, ""))?.map_err(refused)?;
        self.call("Start", Message::new().text(1, id))?.map_err(refused)?;
        Ok(())
    }

    /// Adds a process to the container, which will run `args`.
    ///
    /// # Errors
    /// The shim refuses.
    pub fn exec(&mut self, id: &str, exec_id: &str, args: &[&str]) -> Result<()> {
        let process = serde_json::json!({"args": args, "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}});
        let any =
            Message::new().text(1, "types.containerd.io/opencontainers/runtime-spec/1/Process").bytes(2, process.to_string().as_bytes());
        self.call("Exec", Message::new().text(1, id).text(2, exec_id).message(7, any))?.map_err(refused)?;
        Ok(())
    }

    /// Kills a container, waits for its exit and deletes it.
    ///
    /// # Errors
    /// The shim refuses.
    pub fn end(&mut self, id: &str) -> Result<()> {
        let wait = self.begin("Wait", Message::new().text(1, id))?;
        // the container may have exited already
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

    /// Shuts the shim down and waits for its exit.
    ///
    /// # Errors
    /// The shim does not exit.
    pub fn shut_down(mut self) -> Result<()> {
        let stream = self.begin("Shutdown", Message::new())?;
        self.until_ended(stream)
    }

    /// Waits until the shim exits, after the call of `stream`.
    ///
    /// # Errors
    /// The shim does not exit.
    pub fn until_ended(mut self, stream: u32) -> Result<()> {
        // the shim may exit before its answer is read
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
    /// The shim is not running.
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

    /// Runs `delete` for a container whose shim is gone, and returns pid and status.
    ///
    /// # Errors
    /// The command fails.
    pub fn delete_action(&self, bundle: &Bundle, id: &str) -> Result<(u64, u64)> {
        let mut command = command(self.test, &self.binary, &self.events_path, bundle, id);
        command.arg("-bundle").arg(bundle.path()).arg("delete");
        let output = command.output()?;
        ensure!(output.status.success(), "delete: {}", String::from_utf8_lossy(&output.stderr));
        let response = Fields::of(&output.stdout)?;
        Ok((response.number(1), response.number(2)))
    }
}

/// Turns a failed call into a test's error.
pub fn refused(refused: Refused) -> anyhow::Error {
    let Refused { code, text } = refused;
    anyhow::anyhow!("refused with {code}: {text}")
}

fn command(test: &Test, binary: &Path, events: &Path, bundle: &Bundle, id: &str) -> Command {
    let mut command = Command::new("/bin/sh");
    // containerd too may inherit such a descriptor and pass it on
    command.args(["-c", r#"exec 9</dev/zero; exec "$0" "$@""#]).arg(binary);
    command.args(["-namespace", NAMESPACE, "-address"]).arg(test.path().join("containerd.sock"));
    command.args(["-publish-binary", "/bin/false", "-id", id]);
    command.env("TTRPC_ADDRESS", events).env("GRPC_ADDRESS", test.path().join("containerd.sock")).env("NAMESPACE", NAMESPACE);
    command.env("MAX_SHIM_VERSION", "2").current_dir(bundle.path()).stdin(Stdio::null());
    command
}

/// Runs `start`, which prints a bare address or JSON. Returns the address and the name of the task service.
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

/// Reads the available bytes. Returns whether the peer still holds the connection.
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

/// Converts a Forward request to a line of [`Shim::events`].
fn event(request: &[u8]) -> Result<String> {
    let request = Fields::of(request)?;
    let envelope = request.message(3).and_then(|forward| forward.message(1)).context("no envelope")?;
    let topic = envelope.text(3).trim_start_matches("/tasks/").to_owned();
    let event = envelope.message(4).and_then(|any| any.message(2)).unwrap_or_default();
    let (container, other) = (event.text(1), event.text(2));
    let exec = matches!(topic.as_str(), "exit" | "exec-added" | "exec-started") && other != container;
    Ok(if exec { format!("{topic} {container}/{other}") } else { format!("{topic} {container}") })
}
