//! The standard streams of a container, as a request names them: nothing, a fifo, a file, a program that logs.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use libcontainer::error::{Doing, Error, Result};
use rustix::fs::{CWD, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;

use crate::io::copy::Target;
use crate::io::logger::{Logger, path_in_uri};

/// What a request says.
#[derive(Debug, Clone, Default)]
pub(crate) struct Streams {
    pub(crate) stdin: String,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) terminal: bool,
}

/// The streams, opened.
#[derive(Debug, Default)]
pub(crate) struct Opened {
    /// The container's ends of stdin, stdout and stderr; /dev/null where there is none.
    pub(crate) inner: [Option<OwnedFd>; 3],
    /// stdin: from, to. With a terminal there is no `to` before it is made.
    pub(crate) input: Option<(OwnedFd, Option<OwnedFd>)>,
    /// Keeps stdin from ending before CloseIO, whoever closes the fifo.
    pub(crate) holder: Option<OwnedFd>,
    /// Streams to copy. With a terminal it is one, without a `from` before that is made.
    pub(crate) outputs: Vec<(Option<OwnedFd>, Target)>,
    /// A program that takes stdout and stderr itself.
    pub(crate) logger: Option<Logger>,
}

/// Writing ends of fifos that are read already, by path.
pub(crate) type Writers = BTreeMap<PathBuf, OwnedFd>;

/// Whether somebody reads each fifo that output is to go to. Who starts a process before has it end before he reads, and
/// closes what he has not opened yet when it ends. The writing ends are kept: closing one would be the end for its reader.
pub(crate) fn are_read(streams: &Streams, writers: &mut Writers) -> bool {
    let stderr = if streams.terminal { "" } else { &streams.stderr };
    let names = [&*streams.stdout, stderr].into_iter().filter(|name| !name.is_empty() && !name.contains("://"));
    let mut all = true;
    for path in names.map(PathBuf::from) {
        let is_fifo = rustix::fs::stat(&path).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Fifo);
        if !is_fifo || writers.contains_key(&path) {
            continue;
        }
        match rustix::fs::open(&path, OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty()) {
            Ok(writer) => drop(writers.insert(path, writer)),
            Err(Errno::NXIO) => all = false,
            // to be told when it is opened
            Err(_) => {}
        }
    }
    all
}

/// Opens what `streams` names, without waiting for anybody. `owner` gets the pipes; `writers` are used up.
pub(crate) fn open(streams: &Streams, owner: (u32, u32), writers: &mut Writers) -> Result<Opened> {
    let mut opened = Opened::default();
    if !streams.stdin.is_empty() {
        let path = fifo_path(&streams.stdin)?;
        let flags = OFlags::NONBLOCK | OFlags::CLOEXEC;
        let doing = || format!("open stdin {}", path.display());
        let from = rustix::fs::open(&path, OFlags::RDONLY | flags, Mode::empty()).doing(doing)?;
        if is_fifo(&from)? {
            opened.holder = Some(rustix::fs::open(&path, OFlags::WRONLY | flags, Mode::empty()).doing(doing)?);
        }
        let to = if streams.terminal {
            None
        } else {
            let (inner, ours) = pipe(owner, false)?;
            if let Some(place) = opened.inner.first_mut() {
                *place = Some(inner);
            }
            Some(ours)
        };
        opened.input = Some((from, to));
    }
    match Sink::parse(&streams.stdout)? {
        Sink::Program(mut logger) => {
            for number in [1, 2] {
                let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).doing(|| "make a pipe for a logger")?;
                logger.streams.push(reader);
                match (streams.terminal, opened.inner.get_mut(number)) {
                    (false, Some(place)) => *place = Some(writer),
                    _ if number == 1 => {
                        rustix::fs::fcntl_setfl(&writer, OFlags::WRONLY | OFlags::NONBLOCK).doing(|| "make a pipe for a logger")?;
                        opened.outputs.push((None, Target { fd: writer, reader: None }));
                    }
                    // a terminal has one stream
                    _ => {}
                }
            }
            opened.logger = Some(logger);
            return Ok(opened);
        }
        Sink::File(path) => {
            let file = open_file(&path)?;
            let second = file.try_clone().doing(|| "duplicate a descriptor")?;
            opened.output(1, Target { fd: file, reader: None }, streams.terminal, owner)?;
            if !streams.terminal {
                opened.output(2, Target { fd: second, reader: None }, false, owner)?;
            }
            return Ok(opened);
        }
        Sink::Path(path) => opened.output(1, open_target(&path, writers)?, streams.terminal, owner)?,
        Sink::Nowhere => {}
    }
    if !streams.stderr.is_empty() && !streams.terminal {
        opened.output(2, open_target(&fifo_path(&streams.stderr)?, writers)?, false, owner)?;
    }
    Ok(opened)
}

/// Where the output of a process goes, by the name that a request gives it.
#[derive(Debug)]
pub(crate) enum Sink {
    Nowhere,
    /// A fifo, or a file: each stream has its own.
    Path(PathBuf),
    /// A file that takes both streams.
    File(PathBuf),
    /// A program that takes both streams.
    Program(Logger),
}

impl Sink {
    pub(crate) fn parse(name: &str) -> Result<Sink> {
        match name.split_once("://") {
            None if name.is_empty() => Ok(Sink::Nowhere),
            Some(("binary" | "binary-v2", _)) => Logger::parse(name).map(Sink::Program),
            Some(("file", rest)) => Ok(Sink::File(path_in_uri(name, rest)?)),
            _ => fifo_path(name).map(Sink::Path),
        }
    }
}

/// What a worker takes of [`Opened`].
#[derive(Debug, Default)]
pub(crate) struct Inner {
    pub(crate) ends: [Option<OwnedFd>; 3],
    pub(crate) logger: Option<Logger>,
}

impl Inner {
    /// All that the worker must keep.
    pub(crate) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let logged = self.logger.iter().flat_map(|logger| &logger.streams);
        self.ends.iter().flatten().chain(logged).map(AsFd::as_fd)
    }
}

impl Opened {
    /// The container's ends, which the daemon must not keep: their end is the end of the stream.
    pub(crate) fn take_inner(&mut self) -> Inner {
        Inner { ends: std::mem::take(&mut self.inner), logger: self.logger.take() }
    }

    fn output(&mut self, number: usize, to: Target, terminal: bool, owner: (u32, u32)) -> Result<()> {
        let mut from = None;
        if !terminal {
            let (ours, inner) = pipe(owner, true)?;
            from = Some(ours);
            if let Some(place) = self.inner.get_mut(number) {
                *place = Some(inner);
            }
        }
        self.outputs.push((from, to));
        Ok(())
    }
}

/// A pipe, reading end first. Ours does not block, the container's does; which is ours `reads` says.
fn pipe(owner: (u32, u32), reads: bool) -> Result<(OwnedFd, OwnedFd)> {
    let doing = || "make a pipe for a stream of a container";
    let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).doing(doing)?;
    let (ours, inner) = if reads { (&reader, &writer) } else { (&writer, &reader) };
    rustix::fs::fcntl_setfl(ours, OFlags::NONBLOCK).doing(doing)?;
    if owner != (0, 0) {
        rustix::fs::fchown(inner, Some(Uid::from_raw(owner.0)), Some(Gid::from_raw(owner.1))).doing(doing)?;
    }
    Ok((reader, writer))
}

pub(crate) fn fifo_path(name: &str) -> Result<PathBuf> {
    match name.split_once("://") {
        None => Ok(name.into()),
        Some(("fifo" | "file", rest)) => path_in_uri(name, rest),
        Some((scheme, _)) => Err(Error::invalid(format!("unknown STDIO scheme {scheme}"))),
    }
}

fn is_fifo(fd: &OwnedFd) -> Result<bool> {
    let stat = rustix::fs::fstat(fd).doing(|| "stat a stream")?;
    Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Fifo)
}

/// A fifo, or a file that is appended to.
fn open_target(path: &Path, writers: &mut Writers) -> Result<Target> {
    if let Some(fd) = writers.remove(path) {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let reader = rustix::fs::open(path, flags, Mode::empty()).doing(|| format!("open fifo {}", path.display()))?;
        return Ok(Target { fd, reader: Some(reader) });
    }
    match rustix::fs::stat(path) {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Fifo => open_fifo(path),
        _ => Ok(Target { fd: open_file(path)?, reader: None }),
    }
}

/// Opens both sides of a fifo: it is not waited for a reader, and the fifo outlives the reader that goes away.
pub(crate) fn open_fifo(path: &Path) -> Result<Target> {
    let open = |flags| {
        rustix::fs::open(path, flags | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty()).doing(|| format!("open fifo {}", path.display()))
    };
    // the writer can be opened without waiting once there is a reader
    let reader = open(OFlags::RDONLY)?;
    Ok(Target { fd: open(OFlags::WRONLY)?, reader: Some(reader) })
}

fn open_file(path: &Path) -> Result<OwnedFd> {
    let doing = || format!("open log file {}", path.display());
    if let Some(dir) = path.parent() {
        std::os::unix::fs::DirBuilderExt::mode(&mut std::fs::DirBuilder::new(), 0o755).recursive(true).create(dir).doing(doing)?;
    }
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOCTTY;
    rustix::fs::openat(CWD, path, flags, Mode::from_raw_mode(0o644)).doing(doing)
}

/// Puts the container's ends at 0, 1 and 2 of this process, a worker.
pub(crate) fn put_in_place(inner: &[Option<OwnedFd>; 3]) -> Result<()> {
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).doing(|| "open /dev/null")?;
    let [stdin, stdout, stderr] = inner.each_ref().map(|fd| fd.as_ref().unwrap_or(&null).as_fd());
    let doing = || "put the container's streams in place";
    rustix::stdio::dup2_stdin(stdin).doing(doing)?;
    rustix::stdio::dup2_stdout(stdout).doing(doing)?;
    rustix::stdio::dup2_stderr(stderr).doing(doing)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn streams(stdin: &str, stdout: &str, stderr: &str) -> Streams {
        Streams { stdin: stdin.into(), stdout: stdout.into(), stderr: stderr.into(), terminal: false }
    }

    #[test]
    fn only_streams_that_are_named_get_pipes() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("deep/out");
        let opened = open(&streams("", &format!("file://{}", out.display()), ""), (0, 0), &mut Writers::new()).unwrap();
        assert_eq!(opened.inner.each_ref().map(Option::is_some), [false, true, true]);
        assert_eq!(opened.outputs.len(), 2);
        assert!(out.exists());
        let opened = open(&streams("", "", out.to_str().unwrap()), (0, 0), &mut Writers::new()).unwrap();
        assert_eq!(opened.inner.each_ref().map(Option::is_some), [false, false, true]);
    }

    #[test]
    fn a_fifo_is_not_written_before_it_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fifo");
        rustix::fs::mknodat(CWD, &path, FileType::Fifo, 0o600.into(), 0).unwrap();
        let (streams, mut writers) = (streams("", path.to_str().unwrap(), ""), Writers::new());
        assert!(!are_read(&streams, &mut writers));
        let reader = rustix::fs::open(&path, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty()).unwrap();
        assert!(are_read(&streams, &mut writers));
        let opened = open(&streams, (0, 0), &mut writers).unwrap();
        assert!(writers.is_empty());
        rustix::io::write(&opened.outputs[0].1.fd, b"x").unwrap();
        assert_eq!(rustix::io::read(&reader, &mut [0; 8][..]).unwrap(), 1);
    }

    #[test]
    fn other_schemes_are_refused() {
        for uri in ["http://x", "://", "binary://"] {
            assert!(open(&streams("", uri, ""), (0, 0), &mut Writers::new()).is_err(), "{uri}");
        }
        let error = open(&streams("", "npipe://x", ""), (0, 0), &mut Writers::new()).unwrap_err();
        assert_eq!(error.text(), "unknown STDIO scheme npipe");
    }

    #[test]
    fn a_file_is_named_by_the_path_of_its_uri() {
        assert!(matches!(Sink::parse("file:///a%20b?x=1"), Ok(Sink::File(path)) if path == Path::new("/a b")));
        assert_eq!(Sink::parse("file://a/b").unwrap_err().text(), "file://a/b: absolute path required");
        assert_eq!(fifo_path("/a%20b?x").unwrap(), Path::new("/a%20b?x"));
    }
}
