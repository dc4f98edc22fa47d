//! Checks `linux.seccomp` and turns it into numbers (in the plan, in the parent).
//!
//! Errors and their texts are runc's, where runc has them (config-linux.md, "Seccomp"; seccomp(2)).

use std::fmt::Display;

use super::arch::Arch;
use super::{AT, Listener, invalid, syscalls};
use crate::error::{Doing, Error, Result};
use crate::findings::{Findings, Item};
use crate::spec::{Seccomp, SeccompArg, SyscallRule};
use masu_host::sys::seccomp::{FLAG_LOG, FLAG_NEW_LISTENER, FLAG_SPEC_ALLOW, FLAG_WAIT_KILLABLE_RECV};

/// The values that a filter returns to the kernel (linux/seccomp.h, `SECCOMP_RET_*`).
pub(super) mod ret {
    pub(in super::super) const KILL_THREAD: u32 = 0;
    pub(super) const KILL_PROCESS: u32 = 0x8000_0000;
    pub(super) const TRAP: u32 = 0x0003_0000;
    pub(super) const ERRNO: u32 = 0x0005_0000;
    pub(super) const NOTIFY: u32 = 0x7fc0_0000;
    pub(super) const TRACE: u32 = 0x7ff0_0000;
    pub(super) const LOG: u32 = 0x7ffc_0000;
    pub(super) const ALLOW: u32 = 0x7fff_0000;
    pub(in super::super) const ENOSYS: u32 = ERRNO | libc::ENOSYS as u32;
    pub(super) const KIND: u32 = 0xffff_0000;
}

/// The largest error number that the kernel lets a filter return (linux/err.h, `MAX_ERRNO`).
const MAX_ERRNO: u32 = 4095;

/// The names of the actions that masu knows, sorted (`masu features`).
pub const ACTIONS: &[&str] = &[
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_LOG",
    "SCMP_ACT_NOTIFY",
    "SCMP_ACT_TRACE",
    "SCMP_ACT_TRAP",
];

/// The names of the comparisons that masu knows, sorted (`masu features`).
pub const OPERATORS: &[&str] =
    &["SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_LE", "SCMP_CMP_LT", "SCMP_CMP_MASKED_EQ", "SCMP_CMP_NE"];

/// The flags that masu knows, and their values for the kernel. TSYNC is accepted and left out, as in runc: it applies the
/// filter to other threads, and the process that becomes the container's has none.
pub(super) const FLAGS: &[(&str, u32)] = &[
    ("SECCOMP_FILTER_FLAG_TSYNC", 0),
    ("SECCOMP_FILTER_FLAG_SPEC_ALLOW", FLAG_SPEC_ALLOW),
    ("SECCOMP_FILTER_FLAG_LOG", FLAG_LOG),
    ("SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV", FLAG_WAIT_KILLABLE_RECV),
];

/// The name of a value that a filter returns.
pub(super) fn words_of(answer: u32) -> String {
    let data = answer & !ret::KIND;
    match answer & ret::KIND {
        ret::KILL_PROCESS => "kill-process".into(),
        ret::KILL_THREAD => "kill-thread".into(),
        ret::TRAP => "trap".into(),
        ret::ERRNO => format!("errno-{data}"),
        ret::NOTIFY => "notify".into(),
        ret::TRACE => format!("trace-{data}"),
        ret::LOG => "log".into(),
        ret::ALLOW => "allow".into(),
        _ => format!("{answer:#x}"),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Op {
    Ne,
    Lt,
    Le,
    Eq,
    Ge,
    Gt,
    /// `argument & mask == value`.
    Masked,
}

/// A condition on one argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Condition {
    pub(super) argument: u8,
    pub(super) op: Op,
    /// All bits set, except for `Masked`.
    pub(super) mask: u64,
    pub(super) value: u64,
}

#[derive(Debug)]
pub(super) struct Rule<'a> {
    pub(super) names: &'a [String],
    pub(super) action: u32,
    /// The rule holds if all conditions of one alternative hold, and always if there is no alternative. Each alternative is
    /// sorted by argument, and has each argument at most once.
    pub(super) alternatives: Vec<Vec<Condition>>,
}

#[derive(Debug)]
pub(super) struct Profile<'a> {
    pub(super) default: u32,
    /// The architectures that this kernel can run, the native one first, each once.
    pub(super) architectures: Vec<Arch>,
    pub(super) rules: Vec<Rule<'a>>,
    pub(super) flags: u32,
    pub(super) listener: Option<Listener>,
}

/// Checks the profile. `None` if it has neither a default action nor rules: no filter, as in runc. A profile with rules but
/// without a default action is an error, as in runc.
pub(super) fn check<'a>(spec: &'a Seccomp, native: Arch, found: &mut Findings) -> Option<Profile<'a>> {
    if spec.default_action.is_empty() && spec.syscalls.is_empty() {
        return None;
    }
    let mut flags = flags(spec.flags.as_deref(), found);
    let architectures = architectures(&spec.architectures, native, found);
    let default = action(&spec.default_action, spec.default_errno_ret, AT, "defaultErrnoRet", found);
    let default = found.at("linux.seccomp.defaultAction", default.doing(|| AT));
    if default == Some(ret::NOTIFY) {
        invalid(found, "linux.seccomp.defaultAction", "SCMP_ACT_NOTIFY cannot be used as default action");
    }
    let mut rules = Vec::with_capacity(spec.syscalls.len());
    for (i, syscall) in spec.syscalls.iter().enumerate() {
        let at = Item("linux.seccomp.syscalls", i);
        let rule = rule(syscall, at, found).doing(|| AT);
        rules.extend(found.at(at, rule));
    }
    let notifies = rules.iter().any(|rule| rule.action == ret::NOTIFY && !rule.names.is_empty());
    let listener = if notifies { found.at("linux.seccomp.listenerPath", listener(spec).doing(|| AT)) } else { None };
    if notifies {
        flags |= FLAG_NEW_LISTENER;
    } else if flags & FLAG_WAIT_KILLABLE_RECV != 0 {
        let text = "seccomp flag SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV needs a rule with SCMP_ACT_NOTIFY";
        invalid(found, "linux.seccomp.flags", text);
    }
    Some(Profile { default: default?, architectures, rules, flags, listener })
}

pub(super) fn flags(names: Option<&[String]>, found: &mut Findings) -> u32 {
    let Some(names) = names else { return FLAG_SPEC_ALLOW };
    let mut flags = 0;
    for (i, name) in names.iter().enumerate() {
        match FLAGS.iter().find(|(known, _)| known == name) {
            Some((_, flag)) => flags |= flag,
            None => invalid(found, Item("linux.seccomp.flags", i), format!("seccomp flag {name} is not known to masu")),
        }
    }
    flags
}

fn architectures(names: &[String], native: Arch, found: &mut Findings) -> Vec<Arch> {
    let mut all = vec![native];
    for (i, name) in names.iter().enumerate() {
        let at = Item("linux.seccomp.architectures", i);
        let Some(arch) = Arch::from_name(name) else {
            invalid(found, at, format!("string {name} is not a valid arch for seccomp"));
            continue;
        };
        if !arch.runs_on(native) || all.contains(&arch) {
            continue;
        }
        if !syscalls::known(arch) {
            let text = format!("seccomp architecture {name}: no table of system calls in this build");
            found.wrong(at, Error::unsupported(text).context(AT));
        }
        all.push(arch);
    }
    all
}

/// The kernel's value for an action. `errno` defaults to EPERM. If the action returns no error number, `errno` is ignored
/// with a warning (without one in runc). `field` is the name of `errno` in messages, below `at`.
fn action(name: &str, errno: Option<u32>, at: impl Display, field: &str, found: &mut Findings) -> Result<u32> {
    let value = |limit: u32| match errno {
        Some(errno) if errno > limit => Err(Error::invalid(format!("seccomp {field} {errno}: at most {limit}"))),
        Some(errno) => Ok(errno),
        None => Ok(libc::EPERM as u32),
    };
    let action = match name {
        "SCMP_ACT_ERRNO" => return Ok(ret::ERRNO | value(MAX_ERRNO)?),
        "SCMP_ACT_TRACE" => return Ok(ret::TRACE | value(0xffff)?),
        "SCMP_ACT_ALLOW" => ret::ALLOW,
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => ret::KILL_THREAD,
        "SCMP_ACT_KILL_PROCESS" => ret::KILL_PROCESS,
        "SCMP_ACT_TRAP" => ret::TRAP,
        "SCMP_ACT_LOG" => ret::LOG,
        "SCMP_ACT_NOTIFY" => ret::NOTIFY,
        _ => return Err(Error::invalid(format!("string {name} is not a valid action for seccomp"))),
    };
    if let Some(errno) = errno {
        let text = format!("seccomp {field} {errno} is ignored: {name} returns no error number");
        found.warn(format_args!("{at}.{field}"), text);
    }
    Ok(action)
}

fn rule<'a>(spec: &'a SyscallRule, at: Item<'_>, found: &mut Findings) -> Result<Rule<'a>> {
    let action = action(&spec.action, spec.errno_ret, at, "errnoRet", found)?;
    let mut conditions = Vec::new();
    for arg in &spec.args {
        conditions.push(condition(arg, spec.names.first().map_or("", String::as_str))?);
    }
    for name in &spec.names {
        if name.is_empty() {
            return Err(Error::invalid("empty string is not a valid syscall"));
        }
        if name == "write" && action == ret::NOTIFY {
            return Err(Error::invalid("SCMP_ACT_NOTIFY cannot be used for the write syscall"));
        }
    }
    if spec.names.is_empty() {
        found.warn(at, format!("a seccomp rule with {} names no system call", spec.action));
    }
    conditions.sort_by_key(|c| c.argument);
    let alternatives = if conditions.is_empty() {
        Vec::new()
    } else if conditions.windows(2).any(|pair| matches!(pair, [a, b] if a.argument == b.argument)) {
        // libseccomp takes one condition on an argument, so runc makes each condition a rule of its own, and one of them
        // suffices
        conditions.into_iter().map(|c| vec![c]).collect()
    } else {
        vec![conditions]
    };
    Ok(Rule { names: &spec.names, action, alternatives })
}

fn condition(arg: &SeccompArg, name: &str) -> Result<Condition> {
    let op = match arg.op.as_str() {
        "SCMP_CMP_NE" => Op::Ne,
        "SCMP_CMP_LT" => Op::Lt,
        "SCMP_CMP_LE" => Op::Le,
        "SCMP_CMP_EQ" => Op::Eq,
        "SCMP_CMP_GE" => Op::Ge,
        "SCMP_CMP_GT" => Op::Gt,
        "SCMP_CMP_MASKED_EQ" => Op::Masked,
        other => return Err(Error::invalid(format!("string {other} is not a valid operator for seccomp"))),
    };
    let argument = u8::try_from(arg.index).ok().filter(|index| *index < 6).ok_or_else(|| {
        Error::invalid(format!(
            "error creating seccomp syscall condition for syscall {name}: syscalls only have up to 6 arguments ({} given)",
            arg.index
        ))
    })?;
    Ok(match op {
        Op::Masked => Condition { argument, op, mask: arg.value, value: arg.value_two & arg.value },
        _ => Condition { argument, op, mask: u64::MAX, value: arg.value },
    })
}

fn listener(spec: &Seccomp) -> Result<Listener> {
    let path = &spec.listener_path;
    if path.is_empty() {
        return Err(Error::invalid("seccomp listenerPath is not set"));
    }
    if !path.starts_with('/') || path.contains('\0') {
        return Err(Error::invalid(format!("seccomp listenerPath {path}: not an absolute path")));
    }
    Ok(Listener { path: path.clone(), metadata: spec.listener_metadata.clone() })
}

/// Whether a call newer than the profile gets ENOSYS in place of this default action. With ENOSYS the C library falls back to
/// older calls, but with EPERM it fails. Not for a default that lets newer calls through, nor for a tracer, which decides
/// itself.
pub(super) fn hides_new_calls(default: u32) -> bool {
    !matches!(default & ret::KIND, ret::ALLOW | ret::LOG | ret::TRACE)
}
