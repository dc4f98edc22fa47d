//! Steps that run on the host. `launch` starts the runtime in an unusual process state, such as a caller may have. `hook` is the
//! program of the tests' hooks.

use std::env;
use std::fs::{self, OpenOptions};
use std::io::{Read, Write, stdin};
use std::os::fd::IntoRawFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use integration::sys;
use rustix::fs::Mode;
use rustix::process::{Gid, Resource, Rlimit, setrlimit};
use serde_json::json;

/// Executes `command` in this process.
fn execute(command: &mut Command) -> Result<()> {
    Err(command.exec()).with_context(|| format!("execute {}", command.get_program().display()))
}

/// Changes this process as `options` say, then executes the words after `--`. The options: `umask=077`, `nofile=32` and
/// `fsize=65536` (limits), `close=0` (a standard stream), `open=FILE` (a further inherited descriptor), `ignore=SIGNAL-NUMBER`,
/// `groups=7,8`, `cwd-gone` (a removed working directory), `session` (setsid), `terminal` (standard input becomes the controlling
/// terminal).
pub(crate) fn launch(options: &[&str]) -> Result<()> {
    let mut words = options.iter();
    for option in words.by_ref() {
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        match name {
            "--" => break,
            "umask" => {
                rustix::process::umask(Mode::from_raw_mode(u32::from_str_radix(value, 8)?));
            }
            "nofile" | "fsize" => {
                let limit = Some(value.parse()?);
                let resource = if name == "nofile" { Resource::Nofile } else { Resource::Fsize };
                setrlimit(resource, Rlimit { current: limit, maximum: limit })?;
            }
            "close" => sys::close(value.parse()?),
            "open" => {
                let file = OpenOptions::new().read(true).open(value)?;
                rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::empty())?;
                let _ = file.into_raw_fd();
            }
            "ignore" => sys::ignore(value.parse()?),
            "groups" => {
                let groups: Vec<Gid> = value.split(',').map(|gid| Ok(Gid::from_raw(gid.parse()?))).collect::<Result<_>>()?;
                rustix::thread::set_thread_groups(&groups)?;
            }
            "cwd-gone" => {
                let folder = env::temp_dir().join(format!("it-gone-{}", std::process::id()));
                fs::create_dir(&folder)?;
                env::set_current_dir(&folder)?;
                fs::remove_dir(&folder)?;
            }
            "session" => {
                rustix::process::setsid()?;
            }
            "terminal" => rustix::process::ioctl_tiocsctty(stdin())?,
            _ => bail!("launch: unknown option {name}"),
        }
    }
    let mut words = words.copied();
    let program = words.next().context("launch: no program after --")?;
    execute(Command::new(program).args(words))
}

/// Appends one line of JSON to `file`: the state read from standard input, and this hook's arguments, environment, working
/// directory, namespaces and descriptors. Then follows the operands: `exit N`, `sleep N`, `name WORD` (added to the line), `see
/// PATH` (notes whether the path exists).
pub(crate) fn hook(file: &str, operands: &[&str]) -> Result<u8> {
    let mut state = String::new();
    let mut name = "";
    let mut seen = serde_json::Map::new();
    let mut code = 0;
    let mut seconds = 0.0;
    for pair in operands.chunks(2) {
        match pair {
            ["name", word] => name = word,
            ["exit", number] => code = number.parse()?,
            ["sleep", number] => seconds = number.parse()?,
            ["see", path] => {
                seen.insert((*path).to_owned(), Path::new(path).exists().into());
            }
            _ => bail!("hook: unknown operands {pair:?}"),
        }
    }
    stdin().read_to_string(&mut state).context("read the state from standard input")?;
    let report = crate::report::everything();
    let line = json!({
        "name": name, "raw": state, "state": serde_json::from_str(&state).unwrap_or(serde_json::Value::Null), "seen": seen,
        "args": report["args"], "env": report["env"], "cwd": report["cwd"], "fds": report["fds"], "namespaces": report["namespaces"],
    });
    // one write, so that the lines of concurrent hooks stay whole
    OpenOptions::new().append(true).create(true).open(file)?.write_all(format!("{line}\n").as_bytes())?;
    std::thread::sleep(Duration::from_secs_f64(seconds));
    Ok(code)
}
