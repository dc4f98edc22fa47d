//! `linux.seccomp`: compiles a profile of system calls into a filter for the kernel, without libseccomp.
//!
//! `plan` runs in the parent, once per container. The filter is kept as bytes beside the container's record, so that exec
//! only reads it. [`masu_host::sys::seccomp::load`] installs it in the container's process, as one of its last steps.
//! Sources: config-linux.md "Seccomp", seccomp(2); runc 1.5 for texts and for choices that the specification leaves open.

mod arch;
mod assemble;
mod bytes;
mod compile;
mod extras;
pub mod listener;
mod names;
mod profile;
mod raw;
mod syscalls;
#[cfg(test)]
mod tests;

use std::fmt::Display;

use crate::error::{Doing, Error, Result};
use crate::findings::Findings;
use crate::spec::Seccomp;
pub use arch::ARCHITECTURES;
use arch::Arch;
pub(crate) use extras::{Extras, plan};
pub use masu_host::sys::seccomp::Instruction;
use masu_host::sys::seccomp::knows_flags;
pub use profile::{ACTIONS, OPERATORS};

/// A compiled filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// The program, of at most 4096 instructions.
    pub program: Vec<Instruction>,
    /// `SECCOMP_FILTER_FLAG_*` for [`masu_host::sys::seccomp::load`].
    pub flags: u32,
    /// The agent that decides calls with SCMP_ACT_NOTIFY. A compiled profile has one exactly if one of its rules has that
    /// action.
    pub listener: Option<Listener>,
}

impl Filter {
    /// The actions that the filter can return, each once: `allow`, `errno-1`.
    pub(crate) fn answers(&self) -> Vec<String> {
        let mut answers: Vec<u32> = self.program.iter().filter_map(assemble::answer).collect();
        answers.sort_unstable();
        answers.dedup();
        answers.into_iter().rev().map(profile::words_of).collect()
    }
}

/// The agent that decides system calls of the container (`listenerPath`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// The absolute path of a listening unix socket.
    pub path: String,
    /// `listenerMetadata`, passed on unchanged.
    pub metadata: String,
}

/// Compiles the profile for this machine. `None` if it has neither a default action nor rules, which means no filter.
///
/// Pure, except for log lines about unknown system calls (debug).
///
/// # Errors
/// The first error of the profile, with runc's text where runc has one.
pub fn compile(spec: &Seccomp) -> Result<Option<Filter>> {
    let mut found = Findings::new();
    let filter = plan_for(spec, Arch::NATIVE, &mut found);
    found.unless_wrong(filter)
}

fn plan_for(spec: &Seccomp, native: Arch, found: &mut Findings) -> Option<Filter> {
    let profile = profile::check(spec, native, found)?;
    if log::log_enabled!(log::Level::Debug) {
        for name in profile.rules.iter().flat_map(|rule| rule.names) {
            let known = profile.architectures.iter().any(|arch| syscalls::number(*arch, name).is_some());
            if !known && syscalls::multiplexed(name).is_none() {
                log::debug!("unknown seccomp syscall {name:?} ignored");
            }
        }
    }
    let program = found.at(AT, compile::compile(&profile).doing(|| AT))?;
    Some(Filter { program, flags: profile.flags, listener: profile.listener })
}

/// The path of the profile in config.json. Errors name a path below it.
const AT: &str = "linux.seccomp";

/// Notes an error of the profile.
fn invalid(found: &mut Findings, path: impl Display, text: impl Into<String>) {
    found.wrong(path, Error::invalid(text).context(AT));
}

/// The names of the flags that masu knows (`masu features`).
pub fn known_flags() -> Vec<&'static str> {
    profile::FLAGS.iter().map(|(name, _)| *name).collect()
}

/// The names of the flags that masu knows and this kernel has. Makes one system call for each flag.
pub fn supported_flags() -> Vec<&'static str> {
    use masu_host::sys::seccomp::{FLAG_NEW_LISTENER, FLAG_WAIT_KILLABLE_RECV};
    let supported = |flag: u32| knows_flags(if flag == FLAG_WAIT_KILLABLE_RECV { flag | FLAG_NEW_LISTENER } else { flag });
    profile::FLAGS.iter().filter(|(_, flag)| supported(*flag)).map(|(name, _)| *name).collect()
}
