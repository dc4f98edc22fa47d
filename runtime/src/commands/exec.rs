//! `exec`: a further process in a container.

use anyhow::Result;
use libcontainer::container::ExecOptions;
use libcontainer::error::{self, Doing, Error};
use libcontainer::spec;

use super::create::{path, pid_file, preserve_fds};
use super::update::document;
use crate::args::Args;
use crate::call::Call;
use crate::foreground::{Foreground, Signals};

pub(super) fn run(call: &Call<'_>) -> Result<u8> {
    let container = call.container()?;
    let options = options(call.args)?;
    // from here on a signal is for the process, and kept until there is one
    let signals = if options.detach { None } else { Some(Signals::hold()?) };
    let process = container.exec(&options)?;
    match signals {
        Some(signals) => Ok(Foreground::over(process, &signals)?.attend()?),
        None => Ok(0),
    }
}

fn options(args: &Args) -> error::Result<ExecOptions> {
    let words = args.operands.get(1..).unwrap_or_default();
    let process = match args.text("process") {
        Some(file) => Some(spec::Process::from_slice(&document(file)?).doing(|| format!("read {file}"))?),
        None if words.is_empty() => return Err(Error::invalid("exec args cannot be empty")),
        None => None,
    };
    let gid = |g: &String| id(g).ok_or_else(|| Error::invalid(format!("additional-gids must be a positive number {g}")));
    Ok(ExecOptions {
        process,
        args: words.to_vec(),
        cwd: args.text("cwd").map(str::to_string),
        env: args.each("env"),
        tty: args.on("tty"),
        user: args.last("user").map(user).transpose()?,
        additional_gids: args.each("additional-gids").iter().map(gid).collect::<error::Result<_>>()?,
        caps: args.each("cap"),
        no_new_privileges: args.choice("no-new-privs"),
        apparmor: args.text("apparmor").map(str::to_string),
        process_label: args.text("process-label").map(str::to_string),
        cgroups: args.each("cgroup"),
        ignore_paused: args.on("ignore-paused"),
        preserve_fds: preserve_fds(args)?,
        console_socket: path(args, "console-socket"),
        console_size: crate::relay::size_of_ours(),
        pidfd_socket: path(args, "pidfd-socket"),
        pid_file: pid_file(args)?,
        detach: args.on("detach"),
    })
}

/// `UID[:GID]`, whole: what does not read as a number must never become another user (CVE-2016-3697, CVE-2026-30892).
fn user(text: &str) -> error::Result<(u32, Option<u32>)> {
    let (uid, gid) = match text.split_once(':') {
        Some((uid, gid)) => (uid, Some(gid)),
        None => (text, None),
    };
    let bad = |what, text| Error::invalid(format!("bad {what}: \"{text}\" is not a number"));
    let gid = gid.map(|g| id(g).ok_or_else(|| bad("gid", g))).transpose()?;
    Ok((id(uid).ok_or_else(|| bad("uid", uid))?, gid))
}

/// Digits only; u32::MAX means "no change" to the kernel and is no id.
fn id(text: &str) -> Option<u32> {
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().filter(|id| *id != u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsString;

    fn parse(line: &str) -> error::Result<ExecOptions> {
        let args = Args::parse(line.split(' ').map(OsString::from));
        assert_eq!(args.problem, None);
        options(&args)
    }

    #[test]
    fn users() {
        assert_eq!(user("0").unwrap(), (0, None));
        assert_eq!(user("1000:50").unwrap(), (1000, Some(50)));
        for (text, error) in [
            ("root", "bad uid: \"root\" is not a number"),
            ("-1", "bad uid: \"-1\" is not a number"),
            ("+1", "bad uid: \"+1\" is not a number"),
            ("1000 ", "bad uid: \"1000 \" is not a number"),
            ("4294967295", "bad uid: \"4294967295\" is not a number"),
            (":5", "bad uid: \"\" is not a number"),
            ("1:", "bad gid: \"\" is not a number"),
            ("1:2:3", "bad gid: \"2:3\" is not a number"),
        ] {
            assert_eq!(user(text).unwrap_err().text(), error);
        }
    }

    #[test]
    fn flags_become_options() {
        let o = parse("exec --cwd /tmp -e A=1 -e B=2 -g 7 -g 8 -u 3:4 -c CAP_KILL --no-new-privs=false --cgroup cpu,memory:x --preserve-fds 2 -td id sh -c ls").unwrap();
        assert_eq!((o.args, o.env), (vec!["sh".into(), "-c".into(), "ls".into()], vec!["A=1".into(), "B=2".into()]));
        assert_eq!((o.additional_gids, o.user, o.no_new_privileges), (vec![7, 8], Some((3, Some(4))), Some(false)));
        assert_eq!((o.cgroups, o.preserve_fds, o.tty, o.detach), (vec!["cpu,memory:x".to_string()], 2, true, true));
        assert_eq!(parse("exec id").unwrap_err().text(), "exec args cannot be empty");
        assert_eq!(parse("exec -g -1 id sh").unwrap_err().text(), "additional-gids must be a positive number -1");
        assert_eq!(parse("exec --preserve-fds -1 id sh").unwrap_err().text(), "--preserve-fds -1: out of range");
    }
}
