//! A connection to systemd: opened, authenticated, used for calls and their answers, all within one deadline.
//!
//! D-Bus specification, "Authentication Protocol" and "Message Bus"; org.freedesktop.systemd1(5). It uses poll(2) and no
//! thread, because the calling process forks.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType};

use super::address::{Address, Owner, Place};
use super::message::{ANSWER, Message, Method, REFUSAL, SIGNAL, START};
use super::value::{Value, garbage};
use crate::error::{Doing, Error, Kind, Result};

/// The time limit of a conversation. systemd works for milliseconds, but it answers nothing while it reloads the units of a
/// large machine.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// The time limit of new attempts while systemd is being restarted. They go on until the deadline if the socket refuses or
/// closes connections, as while systemd executes itself again.
const RESTART: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(20);
/// The time limit of the bus's greeting, before systemd's private socket is tried.
const GREETING: Duration = Duration::from_secs(5);
/// After this time a job may have ended during a restart of systemd, unreported: its effect is then checked.
const GLANCE: Duration = Duration::from_secs(1);
/// The longest line of the authentication, in bytes.
const LONGEST_LINE: usize = 16 << 10;
/// A directory of a systemd that is process 1 (sd_booted(3)).
const BOOTED: &str = "/run/systemd/system";

/// Errors of a bus while systemd is being restarted.
const AWAY: [&str; 5] = [
    "org.freedesktop.DBus.Error.NoReply",
    "org.freedesktop.DBus.Error.Disconnected",
    "org.freedesktop.DBus.Error.NameHasNoOwner",
    "org.freedesktop.DBus.Error.ServiceUnknown",
    "org.freedesktop.DBus.Error.UnknownObject",
];

const MANAGER: &str = "org.freedesktop.systemd1.Manager";

/// The reason why a call has no answer.
#[derive(Debug)]
pub enum Failure {
    /// The connection ended: systemd or the bus is being restarted. The caller can try again on a new connection.
    Closed,
    /// systemd refused: the name of its error, and its text.
    Refused(String, String),
    /// The deadline has passed.
    TimedOut,
    /// Another failure.
    Broken(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Broken(error)
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Error {
        match failure {
            Failure::Closed => Error::new(Kind::Internal, "systemd closed the connection"),
            Failure::TimedOut => {
                let text = format!("timed out: systemd did not answer within {} seconds", PATIENCE.as_secs());
                Error::new(Kind::Timeout, text)
            }
            Failure::Refused(name, text) if text.is_empty() => Error::new(Kind::Os, name),
            Failure::Refused(_, text) => Error::new(Kind::Os, text),
            Failure::Broken(error) => error,
        }
    }
}

/// The end of a job: its object path and its result.
type Ended = (String, String);

/// An open connection to systemd.
#[derive(Debug)]
pub struct Bus {
    owner: Owner,
    socket: OwnedFd,
    address: Address,
    deadline: Instant,
    serial: u32,
    input: Vec<u8>,
    /// Jobs that ended while another answer was awaited.
    ended: Vec<Ended>,
}

impl Bus {
    /// Connects and authenticates, within [`PATIENCE`]. It is called before anything is made, because systemd may be absent.
    ///
    /// # Errors
    /// [`Kind::Unsupported`] if systemd does not run or has no known address; otherwise the first socket's failure.
    pub fn connect(owner: Owner) -> Result<Bus> {
        Bus::connect_until(owner, Instant::now() + PATIENCE)
    }

    fn connect_until(owner: Owner, deadline: Instant) -> Result<Bus> {
        let tries = (Instant::now() + RESTART).min(deadline);
        loop {
            let (mut reason, mut is_renewed) = (None, false);
            let addresses = Address::all(owner);
            for (i, address) in addresses.iter().enumerate() {
                let doing = format!("connect to systemd at {address}");
                let until = if i + 1 < addresses.len() { deadline.min(Instant::now() + GREETING) } else { deadline };
                match open(address, owner, until) {
                    Ok(bus) => return Ok(Bus { deadline, ..bus }),
                    // the other sockets belong to the same systemd
                    Err(failure) if Instant::now() >= deadline => return Err(Error::from(failure).context(doing)),
                    Err(failure) => {
                        let closed = matches!(failure, Failure::Closed);
                        let failure = match failure {
                            Failure::TimedOut => {
                                let text = format!("timed out: the bus did not answer within {} seconds", GREETING.as_secs());
                                Error::new(Kind::Timeout, text)
                            }
                            failure => Error::from(failure),
                        };
                        is_renewed |= closed || failure.errno() == Some(Errno::CONNREFUSED);
                        _ = reason.get_or_insert(failure.context(doing));
                    }
                }
            }
            let booted = std::path::Path::new(BOOTED).is_dir();
            match reason {
                None => return Err(Error::unsupported("could not detect DBUS_SESSION_BUS_ADDRESS from the environment")),
                Some(_) if owner == Owner::System && !booted && std::env::var_os("DBUS_SYSTEM_BUS_ADDRESS").is_none() => {
                    // the text of runc
                    return Err(Error::unsupported("systemd not running on this host, cannot use systemd cgroups manager"));
                }
                Some(reason) if !booted || Instant::now() >= tries && !is_renewed => return Err(reason),
                Some(_) => std::thread::sleep(PAUSE),
            }
        }
    }

    /// Starts the deadline of a new conversation, [`PATIENCE`] from now.
    pub fn begin(&mut self) {
        self.deadline = Instant::now() + PATIENCE;
    }

    /// Waits 20 ms, and returns whether the deadline is still ahead.
    pub fn pause(&self) -> bool {
        std::thread::sleep(PAUSE);
        Instant::now() < self.deadline
    }

    /// Opens the connection again, within the same deadline.
    ///
    /// # Errors
    /// The deadline has passed, or as for [`Bus::connect`].
    pub fn reconnect(&mut self) -> Result<()> {
        if Instant::now() >= self.deadline {
            return Err(Failure::TimedOut.into());
        }
        std::thread::sleep(PAUSE);
        *self = Bus::connect_until(self.owner, self.deadline)?;
        Ok(())
    }

    /// Asks the bus to forward the ends of jobs of `unit`; systemd itself sends them unasked. The answer is not awaited, because
    /// [`Bus::wait_job`] also works without these signals.
    ///
    /// # Errors
    /// The message cannot be sent.
    pub fn watch_jobs(&mut self, unit: &str) -> Result<(), Failure> {
        if !self.address.bus {
            return Ok(());
        }
        let rule = format!(
            "type='signal',sender='org.freedesktop.systemd1',path='/org/freedesktop/systemd1',interface='{MANAGER}',\
             member='JobRemoved',arg2='{unit}'"
        );
        self.send(&bus_method("AddMatch"), false, &[Value::text(rule)]).map(drop)
    }

    /// Calls the method `member` of systemd's manager, and waits for the answer.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn call(&mut self, member: &str, arguments: &[Value]) -> Result<Message, Failure> {
        let serial = self.send(&manager_method(member), true, arguments)?;
        self.answer(serial)
    }

    /// Reads a text property of systemd's manager.
    ///
    /// # Errors
    /// See [`Failure`]; [`Failure::Broken`] if the property is not a text.
    pub fn property(&mut self, name: &str) -> Result<String, Failure> {
        let method = Method { interface: "org.freedesktop.DBus.Properties", ..manager_method("Get") };
        let serial = self.send(&method, true, &[Value::text(MANAGER), Value::text(name)])?;
        match self.answer(serial)?.arguments()?.into_iter().next() {
            Some(Value::Variant(value)) => match *value {
                Value::Text(text) => Ok(text),
                _ => Err(garbage().into()),
            },
            _ => Err(garbage().into()),
        }
    }

    /// Calls the method `member` of systemd's manager without an answer.
    ///
    /// # Errors
    /// The message cannot be sent.
    pub fn tell(&mut self, member: &str, arguments: &[Value]) -> Result<(), Failure> {
        self.send(&manager_method(member), false, arguments).map(drop)
    }

    /// Waits for the end of the job `job`, an object path, and returns its result: `done` for success. `is_done` checks the
    /// effect of the job, for an end that is not reported.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn wait_job(&mut self, job: &str, is_done: &dyn Fn() -> bool) -> Result<String, Failure> {
        let deadline = self.deadline;
        let result = loop {
            if let Some((_, result)) = self.ended.iter().find(|(path, _)| path == job) {
                break Ok(result.clone());
            }
            self.deadline = deadline.min(Instant::now() + GLANCE);
            match self.receive() {
                Ok(message) => {
                    if let Err(e) = self.note(&message) {
                        break Err(e.into());
                    }
                }
                Err(Failure::TimedOut) if is_done() => break Ok("done".into()),
                Err(Failure::TimedOut) if Instant::now() < deadline => {}
                Err(failure) => break Err(failure),
            }
        };
        self.deadline = deadline;
        result
    }

    fn send(&mut self, method: &Method<'_>, answered: bool, arguments: &[Value]) -> Result<u32, Failure> {
        self.serial += 1;
        let bytes = method.call(self.serial, answered, arguments);
        self.write(&bytes)?;
        Ok(self.serial)
    }

    fn answer(&mut self, serial: u32) -> Result<Message, Failure> {
        loop {
            let message = self.receive()?;
            if message.reply_to == serial {
                match message.kind {
                    ANSWER => return Ok(message),
                    REFUSAL => {
                        let text = message.first_text().unwrap_or_default();
                        if self.address.bus && AWAY.contains(&&*message.error) {
                            return Err(Failure::Closed);
                        }
                        return Err(Failure::Refused(message.error, text));
                    }
                    _ => return Err(garbage().into()),
                }
            }
            self.note(&message)?;
        }
    }

    /// Stores the end of a job.
    fn note(&mut self, message: &Message) -> Result<()> {
        if message.kind == SIGNAL && message.member == "JobRemoved" && message.interface == MANAGER {
            let arguments = message.arguments()?;
            let [Value::U32(_), Value::Path(job), Value::Text(_), Value::Text(result)] = arguments.as_slice() else {
                return Err(garbage());
            };
            self.ended.push((job.clone(), result.clone()));
        }
        Ok(())
    }

    fn receive(&mut self) -> Result<Message, Failure> {
        let start: [u8; START] = self.peek(START)?.try_into().map_err(|_| garbage())?;
        let length = Message::length(&start)?;
        self.peek(length)?;
        let message = Message::parse(self.input.get(..length).unwrap_or_default())?;
        self.input.drain(..length);
        Ok(message)
    }

    /// The first `n` bytes of the input, which stay there.
    fn peek(&mut self, n: usize) -> Result<&[u8], Failure> {
        while self.input.len() < n {
            self.fill()?;
        }
        self.input.get(..n).ok_or_else(|| garbage().into())
    }

    /// Reads a line of the authentication.
    fn line(&mut self) -> Result<String, Failure> {
        loop {
            if let Some(end) = self.input.windows(2).position(|two| two == b"\r\n") {
                let line: Vec<u8> = self.input.drain(..end + 2).collect();
                return String::from_utf8(line).map_err(|_| garbage().into());
            }
            if self.input.len() > LONGEST_LINE {
                return Err(garbage().into());
            }
            self.fill()?;
        }
    }

    /// Reads the next bytes, and waits for them if there are none.
    fn fill(&mut self) -> Result<(), Failure> {
        let mut part = [0_u8; 8192];
        loop {
            match rustix::net::recv(&self.socket, &mut part, RecvFlags::DONTWAIT) {
                Ok((0, _)) | Err(Errno::CONNRESET | Errno::PIPE) => return Err(Failure::Closed),
                Ok((n, _)) => {
                    self.input.extend_from_slice(part.get(..n).unwrap_or_default());
                    return Ok(());
                }
                Err(Errno::AGAIN) => self.wait(PollFlags::IN)?,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(Error::from(errno).context("read from systemd").into()),
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let mut rest = bytes;
        while !rest.is_empty() {
            match rustix::net::send(&self.socket, rest, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(n) => rest = rest.get(n..).unwrap_or_default(),
                Err(Errno::AGAIN) => self.wait(PollFlags::OUT)?,
                Err(Errno::INTR) => {}
                Err(Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN) => return Err(Failure::Closed),
                Err(errno) => return Err(Error::from(errno).context("write to systemd").into()),
            }
        }
        Ok(())
    }

    fn wait(&self, what: PollFlags) -> Result<(), Failure> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Failure::TimedOut);
        }
        let time = Timespec { tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX), tv_nsec: i64::from(left.subsec_nanos()) };
        match rustix::event::poll(&mut [PollFd::new(&self.socket, what)], Some(&time)) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(Error::from(errno).context("wait for systemd").into()),
        }
    }
}

fn open(address: &Address, owner: Owner, deadline: Instant) -> Result<Bus, Failure> {
    let socket = connect(&address.place, deadline)?;
    let mut bus = Bus { owner, socket, address: address.clone(), deadline, serial: 0, input: Vec::new(), ended: Vec::new() };
    // EXTERNAL takes the identity from the socket. The client sends its uid in hexadecimal digits, or nothing: in a user
    // namespace (podman without root) the server sees another uid
    let identity = match owner {
        Owner::System => {
            rustix::process::geteuid().as_raw().to_string().bytes().fold(String::from(" "), |all, digit| all + &format!("{digit:02x}"))
        }
        Owner::User => "\r\nDATA".to_owned(),
    };
    bus.write(format!("\0AUTH EXTERNAL{identity}\r\nBEGIN\r\n").as_bytes())?;
    let hello = if address.bus { Some(bus.send(&bus_method("Hello"), true, &[])?) } else { None };
    let mut line = bus.line()?;
    if owner == Owner::User && line.trim_end() == "DATA" {
        line = bus.line()?;
    }
    if !line.starts_with("OK ") {
        return Err(Error::new(Kind::Os, format!("authentication failed: {}", line.trim_end().escape_debug())).into());
    }
    if let Some(serial) = hello {
        bus.answer(serial)?;
    }
    Ok(bus)
}

/// Connects. While the socket's queue is full, connect(2) waits, for at most SO_SNDTIMEO.
fn connect(place: &Place, deadline: Instant) -> Result<OwnedFd> {
    let address = match place {
        Place::Path(path) => SocketAddrUnix::new(path.as_str())?,
        Place::Abstract(name) => SocketAddrUnix::new_abstract_name(name.as_bytes())?,
    };
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    // 0 means no limit
    let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    rustix::net::sockopt::set_socket_timeout(&socket, rustix::net::sockopt::Timeout::Send, Some(left))?;
    rustix::io::retry_on_intr(|| rustix::net::connect(&socket, &address)).doing(|| "connect")?;
    Ok(socket)
}

fn bus_method(member: &str) -> Method<'_> {
    Method { destination: "org.freedesktop.DBus", path: "/org/freedesktop/DBus", interface: "org.freedesktop.DBus", member }
}

fn manager_method(member: &str) -> Method<'_> {
    Method { destination: "org.freedesktop.systemd1", path: "/org/freedesktop/systemd1", interface: MANAGER, member }
}
