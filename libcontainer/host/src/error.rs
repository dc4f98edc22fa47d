//! The error type of masu-host and of all crates above it.
//!
//! An [`Error`] is one lower-case line: the action, its operand and the reason, from the outside in:
//! `create container web: mount proc on /proc: operation not permitted`. Each layer that knows more adds its words with
//! [`Doing::doing`], and logs nothing. Programs decide by [`Error::kind`] and [`Error::errno`], never by the text.

use std::fmt;
use std::io;

use rustix::io::Errno;

/// `Result` with [`Error`] as its default error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The class of a failure: enough for exit codes, ttrpc codes and the texts that callers match.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// No container has this id.
    NotFound,
    /// A container with this id exists already.
    Exists,
    /// The status of the container does not allow this call.
    WrongStatus,
    /// config.json, a flag or a document with resources contradicts itself or is malformed.
    InvalidSpec,
    /// The request is valid, but this build or this kernel cannot carry it out.
    Unsupported,
    /// Another command works on the container, or the object to remove is in use. The caller can try again.
    Busy,
    /// An awaited event did not come in time.
    Timeout,
    /// A hook of the config failed.
    Hook,
    /// A check of the host or of the root file system failed: to go on could harm the host.
    Unsafe,
    /// The kernel refused a call; [`Error::errno`] has its number.
    Os,
    /// A peer broke the protocol, or a file of the runtime is damaged.
    Internal,
}

impl Kind {
    /// The name of this kind in logs, e.g. `wrong-status`.
    pub fn name(self) -> &'static str {
        match self {
            Kind::NotFound => "not-found",
            Kind::Exists => "exists",
            Kind::WrongStatus => "wrong-status",
            Kind::InvalidSpec => "invalid-spec",
            Kind::Unsupported => "unsupported",
            Kind::Busy => "busy",
            Kind::Timeout => "timeout",
            Kind::Hook => "hook",
            Kind::Unsafe => "unsafe",
            Kind::Os => "os",
            Kind::Internal => "internal",
        }
    }

    /// The inverse of [`Kind::name`]; an unknown name is [`Kind::Internal`].
    pub fn from_name(name: &str) -> Kind {
        match name {
            "not-found" => Kind::NotFound,
            "exists" => Kind::Exists,
            "wrong-status" => Kind::WrongStatus,
            "invalid-spec" => Kind::InvalidSpec,
            "unsupported" => Kind::Unsupported,
            "busy" => Kind::Busy,
            "timeout" => Kind::Timeout,
            "hook" => Kind::Hook,
            "unsafe" => Kind::Unsafe,
            "os" => Kind::Os,
            _ => Kind::Internal,
        }
    }
}

/// A failure; see the [module](self). It is a box, so that `Result<()>` has the size of one pointer.
#[derive(Debug)]
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: Kind,
    /// `None` if no system call failed.
    source: Option<Errno>,
    text: String,
    step: Option<&'static str>,
}

impl Error {
    /// A failure of `kind` without an error number of the kernel.
    pub fn new(kind: Kind, text: impl Into<String>) -> Error {
        Error(Box::new(Inner { kind, source: None, text: text.into(), step: None }))
    }

    /// [`Kind::InvalidSpec`]; `text` must name the JSON path or the flag.
    pub fn invalid(text: impl Into<String>) -> Error {
        Error::new(Kind::InvalidSpec, text)
    }

    /// [`Kind::Unsupported`].
    pub fn unsupported(text: impl Into<String>) -> Error {
        Error::new(Kind::Unsupported, text)
    }

    /// [`Kind::WrongStatus`].
    pub fn wrong_status(text: impl Into<String>) -> Error {
        Error::new(Kind::WrongStatus, text)
    }

    /// Rebuilds an error that another process of the runtime sent over a socket.
    pub fn reported(kind: Kind, errno: Option<i32>, text: impl Into<String>) -> Error {
        Error(Box::new(Inner { kind, source: errno.map(Errno::from_raw_os_error), text: text.into(), step: None }))
    }

    /// The class of the failure.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// The kernel's error number, if a system call failed.
    pub fn errno(&self) -> Option<Errno> {
        self.0.source
    }

    /// The step of the lifecycle in which the failure happened, for logs, e.g. `mounts`.
    pub fn step(&self) -> Option<&'static str> {
        self.0.step
    }

    /// Notes the step of the lifecycle, unless a deeper layer has noted one.
    pub fn in_step(mut self, step: &'static str) -> Error {
        self.0.step.get_or_insert(step);
        self
    }

    /// Puts `words` and a colon in front of the text.
    pub fn context(mut self, words: impl fmt::Display) -> Error {
        self.0.text = format!("{words}: {}", self.0.text);
        self
    }

    /// The whole line, without the kind.
    pub fn text(&self) -> &str {
        &self.0.text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.text)
    }
}

impl std::error::Error for Error {
    /// The [`Errno`] of the kernel, if a system call failed.
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_ref().map(|errno| errno as _)
    }
}

/// The text of an error number as Go programs print it: lower case, without the number. Callers of runc match several of
/// these texts ("permission denied", "no such file or directory", "is a directory", "not a directory").
pub fn errno_text(errno: i32) -> String {
    let text = io::Error::from_raw_os_error(errno).to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    // musl has other texts than Go and glibc for these
    match errno {
        libc::ESRCH => "no such process".into(),
        libc::ENOEXEC => "exec format error".into(),
        libc::EBUSY => "device or resource busy".into(),
        libc::EROFS => "read-only file system".into(),
        libc::E2BIG => "argument list too long".into(),
        libc::ERANGE => "numerical result out of range".into(),
        libc::ENODEV => "no such device".into(),
        libc::ELOOP => "too many levels of symbolic links".into(),
        libc::ENXIO => "no such device or address".into(),
        libc::ENAMETOOLONG => "file name too long".into(),
        _ => text.chars().enumerate().map(|(i, c)| if i == 0 { c.to_ascii_lowercase() } else { c }).collect(),
    }
}

impl From<Errno> for Error {
    fn from(errno: Errno) -> Error {
        Error(Box::new(Inner { kind: Kind::Os, source: Some(errno), text: errno_text(errno.raw_os_error()), step: None }))
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Error {
        match error.raw_os_error() {
            Some(n) => Errno::from_raw_os_error(n).into(),
            None => Error::new(Kind::Internal, error.to_string()),
        }
    }
}

/// Adds the action that failed to an error, in the layer that knows it.
pub trait Doing<T> {
    /// Puts `words` in front of an error: a lower-case verb phrase with its operand. The closure runs on failure only.
    ///
    /// # Errors
    /// The error of `self`, with the words in front.
    fn doing<W: fmt::Display>(self, words: impl FnOnce() -> W) -> Result<T>;
}

impl<T, E: Into<Error>> Doing<T> for std::result::Result<T, E> {
    fn doing<W: fmt::Display>(self, words: impl FnOnce() -> W) -> Result<T> {
        self.map_err(|e| e.into().context(words()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_from_the_outside_in() {
        let e: Result<()> = Err(Errno::PERM).doing(|| "mount proc on /proc");
        let e = e.doing(|| "create container web").unwrap_err();
        assert_eq!(e.to_string(), "create container web: mount proc on /proc: operation not permitted");
        assert_eq!((e.kind(), e.errno()), (Kind::Os, Some(Errno::PERM)));
        let source = std::error::Error::source(&e).and_then(|source| source.downcast_ref::<Errno>());
        assert_eq!(source, Some(&Errno::PERM));
        assert!(std::error::Error::source(&Error::invalid("x")).is_none());
    }

    #[test]
    fn kinds_keep_their_names() {
        let all = [
            Kind::NotFound,
            Kind::Exists,
            Kind::WrongStatus,
            Kind::InvalidSpec,
            Kind::Unsupported,
            Kind::Busy,
            Kind::Timeout,
            Kind::Hook,
            Kind::Unsafe,
            Kind::Os,
            Kind::Internal,
        ];
        for kind in all {
            assert_eq!(Kind::from_name(kind.name()), kind);
        }
    }

    #[test]
    fn words_of_the_kernel_are_those_of_go() {
        for (errno, text) in [
            (libc::EACCES, "permission denied"),
            (libc::EPERM, "operation not permitted"),
            (libc::ENOENT, "no such file or directory"),
            (libc::EISDIR, "is a directory"),
            (libc::ENOTDIR, "not a directory"),
            (libc::EINVAL, "invalid argument"),
            (libc::ENOEXEC, "exec format error"),
        ] {
            assert_eq!(errno_text(errno), text);
        }
    }
}
