//! `exec`: runs a further process in a container.

use anyhow::Result;
use libcontainer::container::{ExecOptions, UserSpec};
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
    // blocked now, so that a signal waits until the process exists and is then passed on
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
    let gid = |g: &String| UserSpec::parse_id(g).ok_or_else(|| Error::invalid(format!("additional-gids must be a positive number {g}")));
    let mut options = ExecOptions::new(words);
    options.process = process;
    options.cwd = args.text("cwd").map(str::to_string);
    options.env = args.each("env");
    options.tty = args.on("tty");
    options.user = args.last("user").map(UserSpec::parse).transpose()?;
    options.additional_gids = args.each("additional-gids").iter().map(gid).collect::<error::Result<_>>()?;
    options.caps = args.each("cap");
    options.no_new_privileges = args.choice("no-new-privs");
    options.apparmor = args.text("apparmor").map(str::to_string);
    options.process_label = args.text("process-label").map(str::to_string);
    options.cgroups = args.each("cgroup");
    options.ignore_paused = args.on("ignore-paused");
    options.preserve_fds = preserve_fds(args)?;
    options.console_socket = path(args, "console-socket");
    options.console_size = crate::relay::size_of_ours();
    options.pidfd_socket = path(args, "pidfd-socket");
    options.pid_file = pid_file(args)?;
    options.detach = args.on("detach");
    Ok(options)
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
    fn flags_become_options() {
        let o = parse("exec --cwd /tmp -e A=1 -e B=2 -g 7 -g 8 -u 3:4 -c CAP_KILL --no-new-privs=false --cgroup cpu,memory:x --preserve-fds 2 -td id sh -c ls").unwrap();
        assert_eq!((o.args, o.env), (vec!["sh".into(), "-c".into(), "ls".into()], vec!["A=1".into(), "B=2".into()]));
        assert_eq!((o.additional_gids, o.user, o.no_new_privileges), (vec![7, 8], Some(UserSpec::parse("3:4").unwrap()), Some(false)));
        assert_eq!((o.cgroups, o.preserve_fds, o.tty, o.detach), (vec!["cpu,memory:x".to_string()], 2, true, true));
        assert_eq!(parse("exec id").unwrap_err().text(), "exec args cannot be empty");
        assert_eq!(parse("exec -g -1 id sh").unwrap_err().text(), "additional-gids must be a positive number -1");
        assert_eq!(parse("exec --preserve-fds -1 id sh").unwrap_err().text(), "--preserve-fds -1: out of range");
    }
}
