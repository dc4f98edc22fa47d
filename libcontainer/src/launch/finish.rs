//! The tail that a container's init and an exec'd process share: from "in all its namespaces" to execve.
//!
//! The order is runc's, and each step has its reason for its place (security.md, "Credentials", in short): what needs
//! privilege first, then the ids, then the sets, then what a filter might forbid.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{Access, AtFlags, CWD, FileType};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};

use super::channel::{Channel, Message};
use crate::error::{Doing, Error, Kind, Result, errno_text};
use crate::process::ProcessPlan;
use crate::process::{io_priority, memory_policy, personality, scheduler};
use masu_host::procfs::Procfs;
use masu_host::sys::exec::{Strings, execve, exit};

/// What execve is given.
#[derive(Debug)]
pub(crate) struct Program {
    path: CString,
    /// `HOME=…`, where the config has none.
    home: Option<CString>,
}

impl ProcessPlan {
    /// Asks for the labels that the program is to have. It is the last that needs a handle to /proc, which is closed then:
    /// while execve closes what is close-on-exec, the process may be looked at by root of its user namespace already.
    pub(crate) fn ask_for_labels(&self, proc: Option<&Procfs>) -> Result<()> {
        proc.filter(|_| !self.labels.is_empty()).map_or(Ok(()), |proc| self.labels.apply(proc))
    }

    /// Takes on ids, capabilities and limits, goes to the working directory and finds the executable: all that can fail, so
    /// that `create` fails for it.
    pub(crate) fn become_user(&self, channel: &Channel) -> Result<Program> {
        self.cpu_affinity.apply()?;
        if self.no_new_privileges {
            rustix::thread::set_no_new_privs(true).doing(|| "set no_new_privs")?;
        }
        // after the affinity: SCHED_DEADLINE wants all CPUs
        if let Some(scheduler) = &self.scheduler {
            scheduler::apply(scheduler)?;
        }
        if let Some(priority) = self.io_priority {
            io_priority::apply(priority)?;
        }
        // before the ids change: root may enter folders that the user may not, and raise limits
        let entered = rustix::process::chdir(self.cwd.as_str());
        if entered.is_ok() {
            // a filter may forbid it later
            check_cwd()?;
        }
        let home = self.env.home_is_missing.then(|| crate::process::user::home(self.uid));
        if self.in_user_namespace && !self.rlimits.is_empty() {
            // only root of the host may raise them
            channel.send(&Message::LimitsDue)?;
            channel.expect("limits set", |m| if let Message::LimitsSet = m { Some(()) } else { None })?;
        } else {
            self.rlimits.apply()?;
        }
        if self.uid != 0 && self.terminal.is_none() {
            self.give_stdio()?;
        }
        if let Some(domain) = self.personality {
            personality::apply(domain)?;
        }
        if let Some(policy) = &self.memory_policy {
            memory_policy::apply(policy)?;
        }
        if self.filter_early() {
            self.load_filter(channel)?;
        }
        if let Some(sets) = &self.capabilities {
            sets.apply_bounding()?;
        }
        self.change_ids(channel)?;
        if entered == Err(Errno::ACCESS) || entered == Err(Errno::PERM) {
            // a folder on NFS, or with the user's own permission only
            rustix::process::chdir(self.cwd.as_str()).doing(|| self.cwd_words())?;
            check_cwd()?;
        } else {
            entered.doing(|| self.cwd_words())?;
        }
        if let Some(sets) = &self.capabilities {
            let refused = sets.apply()?;
            for n in (0..64).filter(|n| refused & (1 << n) != 0) {
                let name = crate::process::capabilities::name(n);
                channel.send(&Message::Warning(format!("can't raise ambient capability {name}: operation not permitted")))?;
            }
        }
        let home = home.map(|home| CString::new(format!("HOME={home}"))).transpose().map_err(|_| Errno::INVAL)?;
        Ok(Program { path: self.find_executable()?, home })
    }

    /// What the program gets as its environment.
    pub(super) fn environment<'a>(&'a self, program: &'a Program) -> impl Iterator<Item = &'a CStr> {
        self.env.iter().chain(program.home.as_deref())
    }

    fn cwd_words(&self) -> String {
        format!("chdir to cwd ({:?}) set in config.json failed", self.cwd)
    }

    /// Makes stdio the user's, so that it can open /dev/stdout again; but never the host's /dev/null (CVE-less regression of
    /// runc 1.1.2), and the group stays.
    fn give_stdio(&self) -> Result<()> {
        for stdio in [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()] {
            let Ok(stat) = rustix::fs::fstat(stdio) else { continue };
            if stat.st_uid == self.uid || stat.st_rdev == rustix::fs::makedev(1, 3) {
                continue;
            }
            match rustix::fs::fchown(stdio, Some(Uid::from_raw(self.uid)), None) {
                Ok(()) | Err(Errno::INVAL | Errno::PERM | Errno::ROFS) => {}
                Err(e) => return Err(e).doing(|| format!("give stdio to uid {}", self.uid)),
            }
        }
        Ok(())
    }

    /// setgroups, setgid, setuid. With keepcaps, for the sets are applied afterwards, as the user.
    fn change_ids(&self, channel: &Channel) -> Result<()> {
        let keep = self.uid != 0 && self.capabilities.is_some();
        if keep {
            rustix::thread::set_keep_capabilities(true).doing(|| "set keepcaps")?;
        }
        let groups: Vec<Gid> = self.groups.iter().map(|g| Gid::from_raw(*g)).collect();
        let set = if self.keep_groups { Ok(()) } else { rustix::thread::set_thread_groups(&groups) };
        match set {
            // its owner had to deny it (user_namespaces(7)); the caller's groups are gone already
            Err(Errno::PERM) if self.in_user_namespace => {
                if !groups.is_empty() {
                    let text = "additional groups are left out: the user namespace denies setgroups";
                    channel.send(&Message::Warning(text.into()))?;
                }
            }
            result => result.doing(|| "unable to setup user: setgroups")?,
        }
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        let refused = |what: &str, id: u32, errno: Errno| match errno {
            Errno::INVAL => {
                Error::from(errno).context(format!("unable to setup user: cannot set{what} to unmapped {what} {id} in user namespace"))
            }
            errno => Error::from(errno).context(format!("unable to setup user: set{what} {id}")),
        };
        rustix::thread::set_thread_res_gid(gid, gid, gid).map_err(|e| refused("gid", self.gid, e))?;
        rustix::thread::set_thread_res_uid(uid, uid, uid).map_err(|e| refused("uid", self.uid, e))?;
        if keep {
            rustix::thread::set_keep_capabilities(false).doing(|| "clear keepcaps")?;
        }
        Ok(())
    }

    /// Loads the filter; from here on the program's own rules hold for us.
    fn load_filter(&self, channel: &Channel) -> Result<()> {
        let Some(filter) = &self.filter else { return Ok(()) };
        let listener = masu_host::sys::seccomp::load(&filter.program, filter.flags).doing(|| "unable to init seccomp: load the filter")?;
        match listener {
            Some(listener) => channel.send(&Message::Listener(listener)),
            None => Ok(()),
        }
    }

    /// Looks argument 0 up as execvp(3) does, with the texts of Go's exec.LookPath: callers turn them into exit codes
    /// 126 and 127.
    fn find_executable(&self) -> Result<CString> {
        // no process: nothing will be executed
        let Some(name) = self.args.first().map(|a| a.as_bytes()) else { return Ok(CString::default()) };
        let shown = String::from_utf8_lossy(name).into_owned();
        if name.contains(&b'/') {
            return match executable(name) {
                Ok(()) => Ok(CString::new(name).map_err(|_| Errno::INVAL)?),
                Err(errno @ (Errno::ISDIR | Errno::ACCESS)) => Err(errno).doing(|| format!("exec: {shown:?}")),
                Err(errno) => Err(errno).doing(|| format!("exec: {shown:?}: stat {shown}")),
            };
        }
        let mut denied = None;
        for dir in self.env.search_path.as_deref().unwrap_or_default().split(':').filter(|_| !name.is_empty()) {
            let dir = if dir.is_empty() { "." } else { dir };
            let path = [dir.as_bytes(), b"/", name].concat();
            match executable(&path) {
                Ok(()) => return Ok(CString::new(path).map_err(|_| Errno::INVAL)?),
                Err(errno @ Errno::ACCESS) => denied = Some(errno),
                Err(_) => {}
            }
        }
        match denied {
            Some(errno) => Err(errno).doing(|| format!("exec: {shown:?}")),
            None => Err(Error::reported(Kind::Os, Some(libc::ENOENT), format!("exec: {shown:?}: executable file not found in $PATH"))),
        }
    }

    /// Loads the filter if it comes last, runs `hooks` under it, and executes. Only returns on failure.
    pub(crate) fn execute(&self, program: &Program, channel: &Channel, hooks: impl FnOnce() -> Result<()>) -> Error {
        if let Err(e) = super::gate::unblock_signals() {
            return e;
        }
        let args = Strings::new(&self.args);
        let env = Strings::new(self.environment(program));
        if self.filter.is_some()
            && !self.filter_early()
            && let Err(e) = self.load_filter(channel)
        {
            return e;
        }
        if let Err(e) = hooks() {
            return e;
        }
        let errno = execve(&program.path, &args, &env);
        let refused = self.filter.is_some() && matches!(errno, Errno::PERM | Errno::NOSYS);
        let hint = if refused { " (does the seccomp profile allow execve?)" } else { "" };
        let text = format!("exec {}: {}{hint}", program.path.to_string_lossy(), errno_text(errno.raw_os_error()));
        Error::reported(Kind::Os, Some(errno.raw_os_error()), text)
    }
}

/// Leaves for good: the program could not be executed after nobody waits for our word any more. Its own stderr tells.
pub(crate) fn fail_after_ready(error: &Error) -> ! {
    let line = format!("{error}\n");
    let _ = rustix::io::write(rustix::stdio::stderr(), line.as_bytes());
    exit(255)
}

fn executable(path: &[u8]) -> Result<(), Errno> {
    let path = OsStr::from_bytes(path);
    let stat = rustix::fs::stat(path)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => return Err(Errno::ISDIR),
        // what is no program at all: execve would say the same
        FileType::RegularFile => {}
        _ => return Err(Errno::ACCESS),
    }
    if stat.st_mode & 0o111 == 0 {
        return Err(Errno::ACCESS);
    }
    match rustix::fs::accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS) {
        // no faccessat2, or a filter forbids it: the mode says enough
        Err(Errno::NOSYS | Errno::PERM) => Ok(()),
        result => result,
    }
}

/// The working directory must be a place inside the root: an fd of the host that leaked into the container would make it
/// "(unreachable)" (CVE-2024-21626).
fn check_cwd() -> Result<()> {
    let cwd = match rustix::process::getcwd(Vec::new()) {
        Ok(cwd) => cwd.into_bytes(),
        Err(Errno::NOENT) => Vec::new(),
        Err(e) => return Err(e).doing(|| "find the current working directory"),
    };
    if cwd.first() != Some(&b'/') {
        let _ = rustix::process::chdir("/");
        return Err(Error::invalid(
            "current working directory is outside of container mount namespace root -- possible container breakout detected",
        ));
    }
    Ok(())
}

/// Puts /dev/null of the container in place of a stdio descriptor that is the host's /dev/null: the program must not hold
/// a file of the host's /dev, whose owner it could change (runc 1.1.2's regression).
pub(crate) fn reopen_null() -> Result<()> {
    let doing = || "reopen /dev/null inside the container";
    let mut null = None;
    for n in 0..3 {
        let stdio = match n {
            0 => rustix::stdio::stdin(),
            1 => rustix::stdio::stdout(),
            _ => rustix::stdio::stderr(),
        };
        let Ok(stat) = rustix::fs::fstat(stdio) else { continue };
        if stat.st_rdev != rustix::fs::makedev(1, 3) || FileType::from_raw_mode(stat.st_mode) != FileType::CharacterDevice {
            continue;
        }
        if null.is_none() {
            let fd = rustix::fs::open(
                "/dev/null",
                rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::CLOEXEC | rustix::fs::OFlags::NONBLOCK,
                rustix::fs::Mode::empty(),
            )
            .doing(doing)?;
            let theirs = rustix::fs::fstat(&fd).doing(doing)?;
            if theirs.st_rdev != stat.st_rdev || FileType::from_raw_mode(theirs.st_mode) != FileType::CharacterDevice {
                return Err(Error::invalid("container's /dev/null is invalid: it is not the character device 1:3"));
            }
            null = Some(fd);
        }
        if let Some(null) = &null {
            match n {
                0 => rustix::stdio::dup2_stdin(null.as_fd()),
                1 => rustix::stdio::dup2_stdout(null.as_fd()),
                _ => rustix::stdio::dup2_stderr(null.as_fd()),
            }
            .doing(doing)?;
        }
    }
    Ok(())
}

/// The environment as pairs, for hooks that inherit the container's.
pub(crate) fn pairs<'a>(env: impl Iterator<Item = &'a CStr>) -> Vec<(String, String)> {
    env.filter_map(|entry| entry.to_str().ok()?.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned()))).collect()
}
