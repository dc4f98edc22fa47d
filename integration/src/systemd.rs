//! The tests' own systemd and bus. It makes cgroups as the real one does and records its calls. On demand it misbehaves: it
//! hangs, answers garbage, closes connections, refuses.
//!
//! For machines without systemd, and for failures that a real systemd does not produce on demand.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::dbus::{Answer, Call, length};

/// The cgroup of systemd's user instance, for callers without privileges.
pub const USERS_CGROUP: &str = "/user.slice/user-1000.slice/user@1000.service";

/// A deviation from systemd's usual behaviour, for one method or for the whole conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Manner {
    /// Accepts a connection and sends nothing.
    Mute,
    /// Answers the authentication with garbage.
    Garbage,
    /// Rejects the authentication.
    Stranger,
    /// Does not answer calls of this method.
    Hangs(&'static str),
    /// Answers calls of this method with garbage.
    GarbageAt(&'static str),
    /// Closes the connection instead of handling the call, this many times.
    ClosesBefore(&'static str, usize),
    /// Handles the call, but closes the connection instead of answering, this many times.
    ClosesAfter(&'static str, usize),
    /// Answers this method with an error, this many times. The last two fields are name and text of the error.
    Refuses(&'static str, usize, &'static str, &'static str),
    /// Makes a unit after half a second. Processes that exited meanwhile stay in their cgroup, as with the real one.
    Late,
    /// Every job ends with this result.
    Jobs(&'static str),
    /// Jobs do nothing and never finish.
    Stuck,
    /// Jobs do their work, but send no signal when they finish.
    Silent,
}

/// A running systemd. Dropping it ends it and removes its socket.
#[derive(Debug)]
pub struct Systemd {
    socket: PathBuf,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    manners: Mutex<Vec<Manner>>,
    calls: Mutex<Vec<Call>>,
    connections: Mutex<usize>,
    ended: AtomicBool,
}

impl Systemd {
    /// Starts a systemd whose socket is in `folder`.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub fn start(folder: &Path, manners: &[Manner]) -> Result<Systemd> {
        let socket = folder.join("bus");
        let _ = fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).with_context(|| format!("bind {}", socket.display()))?;
        listener.set_nonblocking(true)?;
        let shared = Arc::new(Shared {
            manners: Mutex::new(manners.to_vec()),
            calls: Mutex::default(),
            connections: Mutex::default(),
            ended: AtomicBool::new(false),
        });
        let theirs = Arc::clone(&shared);
        let thread = beside(move || serve(&listener, &theirs));
        Ok(Systemd { socket, shared, thread: Some(thread) })
    }

    /// Sets the environment of `command` so that it uses this bus.
    pub fn tell(&self, command: &mut Command) {
        command.env("DBUS_SYSTEM_BUS_ADDRESS", format!("unix:path={}", self.socket.display()));
    }

    /// Takes the recorded calls of systemd's methods.
    pub fn calls(&self) -> Vec<Call> {
        std::mem::take(&mut lock(&self.shared.calls))
    }

    /// The number of connections so far.
    pub fn connections(&self) -> usize {
        *lock(&self.shared.connections)
    }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let _ = fs::remove_file(&self.socket);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[expect(clippy::disallowed_methods, reason = "a test only starts programs, which is safe beside threads")]
fn beside(work: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    std::thread::spawn(work)
}

fn serve(listener: &UnixListener, shared: &Arc<Shared>) {
    let mut connections = Vec::new();
    while !shared.ended.load(Ordering::Relaxed) {
        let Ok((stream, _)) = listener.accept() else {
            std::thread::sleep(Duration::from_millis(2));
            continue;
        };
        *lock(&shared.connections) += 1;
        let shared = Arc::clone(shared);
        connections.push(beside(move || {
            // an error usually means that the peer closed the connection
            let _ = Connection { stream, shared, input: Vec::new(), serial: 0 }.talk();
        }));
    }
    for connection in connections {
        let _ = connection.join();
    }
}

struct Connection {
    stream: UnixStream,
    shared: Arc<Shared>,
    input: Vec<u8>,
    serial: u32,
}

impl Connection {
    fn talk(&mut self) -> Result<()> {
        self.stream.set_nonblocking(false)?;
        self.stream.set_read_timeout(Some(Duration::from_millis(20)))?;
        while !self.input.ends_with(b"BEGIN\r\n") && !self.input.windows(7).any(|part| part == b"BEGIN\r\n") {
            self.read()?;
        }
        let is = |manner: &Manner| lock(&self.shared.manners).contains(manner);
        if is(&Manner::Mute) {
            return self.wait();
        }
        if is(&Manner::Garbage) {
            self.stream.write_all(b"\r\nHTTP/1.1 400 Bad Request\r\n\r\n")?;
            return self.wait();
        }
        if is(&Manner::Stranger) {
            self.stream.write_all(b"REJECTED KERBEROS_V4\r\n")?;
            return self.wait();
        }
        let (end, _) = self.input.windows(7).enumerate().find(|(_, part)| *part == b"BEGIN\r\n").context("BEGIN")?;
        let lines = String::from_utf8(self.input.drain(..end + 7).collect())?;
        // the uid in hexadecimal digits, or nothing: then the server asks for it, and an empty answer is valid too
        let uid: String = peer_uid(&self.stream)?.to_string().bytes().map(|digit| format!("{digit:02x}")).collect();
        let answer = match lines.strip_prefix("\0AUTH EXTERNAL") {
            Some(rest) if rest.starts_with(&format!(" {uid}\r\n")) => "",
            Some(rest) if rest.starts_with("\r\nDATA\r\n") => "DATA\r\n",
            // the uid does not match
            Some(_) => return Ok(self.stream.write_all(b"REJECTED EXTERNAL\r\n")?),
            None => bail!("authentication: {lines:?}"),
        };
        self.stream.write_all(format!("{answer}OK 0123456789abcdef0123456789abcdef\r\n").as_bytes())?;
        loop {
            let call = self.receive()?;
            self.answer(&call)?;
        }
    }

    /// Waits until the peer closes the connection.
    fn wait(&mut self) -> Result<()> {
        loop {
            self.read()?;
        }
    }

    fn read(&mut self) -> Result<()> {
        let mut part = [0; 4096];
        match self.stream.read(&mut part) {
            Ok(0) => bail!("the peer closed"),
            Ok(n) => self.input.extend(part.iter().take(n)),
            Err(e) if e.kind() == ErrorKind::WouldBlock && !self.shared.ended.load(Ordering::Relaxed) => {}
            Err(e) => return Err(e.into()),
        }
        Ok(())
    }

    fn receive(&mut self) -> Result<Call> {
        loop {
            if let Some(n) = length(&self.input)?.filter(|n| self.input.len() >= *n) {
                let bytes: Vec<u8> = self.input.drain(..n).collect();
                return Call::parse(&bytes);
            }
            self.read()?;
        }
    }

    fn send(&mut self, answer: Answer) -> Result<()> {
        self.serial += 1;
        Ok(self.stream.write_all(&answer.bytes(self.serial))?)
    }

    /// Finds the manner for `call`, and counts it down.
    fn manner(&self, call: &Call) -> Option<Manner> {
        let mut manners = lock(&self.shared.manners);
        manners.iter_mut().find_map(|manner| {
            let found = manner.clone();
            match manner {
                Manner::Hangs(member) | Manner::GarbageAt(member) => (*member == call.member).then_some(found),
                Manner::ClosesBefore(member, n) | Manner::ClosesAfter(member, n) | Manner::Refuses(member, n, _, _) => {
                    let now = *member == call.member && *n > 0;
                    *n -= usize::from(now);
                    now.then_some(found)
                }
                _ => None,
            }
        })
    }

    fn answer(&mut self, call: &Call) -> Result<()> {
        if !matches!(call.member.as_str(), "Hello" | "AddMatch") {
            lock(&self.shared.calls).push(call.clone());
        }
        let manner = self.manner(call);
        match manner {
            Some(Manner::Hangs(_)) => return self.wait(),
            Some(Manner::GarbageAt(_)) => {
                self.stream.write_all(&[b'l'; 64])?;
                return self.wait();
            }
            Some(Manner::ClosesBefore(..)) => bail!("closed"),
            Some(Manner::Refuses(_, _, name, text)) => return self.send(Answer::refusal(call, name, text)),
            _ => {}
        }
        let is = |manner: &Manner| lock(&self.shared.manners).contains(manner);
        let job = match call.member.as_str() {
            "Hello" => return self.send(Answer::to(call).text('s', ":1.7")),
            "Get" => return self.send(Answer::to(call).variant(USERS_CGROUP)),
            "StartTransientUnit" => {
                let late = is(&Manner::Late);
                if late {
                    std::thread::sleep(Duration::from_millis(500));
                }
                if !is(&Manner::Stuck) {
                    make(call, late)?;
                }
                true
            }
            "StopUnit" => match remove(call.text(0)) {
                true => true,
                false => {
                    let text = format!("Unit {} not loaded.", call.text(0));
                    return self.send(Answer::refusal(call, "org.freedesktop.systemd1.NoSuchUnit", &text));
                }
            },
            _ => false,
        };
        if matches!(manner, Some(Manner::ClosesAfter(..))) {
            bail!("closed");
        }
        if !job {
            return if call.answered { self.send(Answer::to(call)) } else { Ok(()) };
        }
        let path = format!("/org/freedesktop/systemd1/job/{}", call.serial);
        self.send(Answer::to(call).text('o', &path))?;
        // first the signal of another job, which the runtime must ignore
        self.send(
            Answer::signal("JobRemoved").u32(1).text('o', "/org/freedesktop/systemd1/job/1").text('s', "other.service").text('s', "failed"),
        )?;
        let how = lock(&self.shared.manners).iter().find_map(|m| match m {
            Manner::Jobs(how) => Some(*how),
            Manner::Stuck | Manner::Silent => Some(""),
            _ => None,
        });
        match how.unwrap_or("done") {
            "" => Ok(()),
            how => self.send(Answer::signal("JobRemoved").u32(call.serial).text('o', &path).text('s', call.text(0)).text('s', how)),
        }
    }
}

fn peer_uid(stream: &UnixStream) -> Result<u32> {
    Ok(rustix::net::sockopt::socket_peercred(stream)?.uid.as_raw())
}

/// Makes the directory of the scope and moves the processes of `call` into it. With `without_dead`, processes that cannot be
/// moved are ignored.
fn make(call: &Call, without_dead: bool) -> Result<()> {
    let properties = call.properties(2);
    let slice = properties.get("Slice").and_then(|v| v["s"].as_str()).context("a slice")?;
    if slice != "-.slice" {
        bail!("{slice}: only scopes in the root slice are made here");
    }
    let path = Path::new("/sys/fs/cgroup").join(call.text(0));
    fs::create_dir_all(&path).with_context(|| format!("make {}", path.display()))?;
    for pid in properties.get("PIDs").and_then(|v| v["au"].as_array()).context("processes")? {
        let moved = fs::write(path.join("cgroup.procs"), pid.to_string());
        if !without_dead {
            moved?;
        }
    }
    Ok(())
}

/// Removes the scope's directory and all below it. `false` if there is none.
fn remove(unit: &str) -> bool {
    let all = crate::host::cgroups_with(unit);
    for path in all.iter().rev() {
        let _ = fs::remove_dir(path);
    }
    !all.is_empty()
}
