//! Steps that run beside the runtime, on the host: `launch` starts it in the disorder that a caller may leave it in, and
//! `hook` is what the tests give as hooks.

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

/// Becomes `command`.
fn execute(command: &mut Command) -> Result<()> {
    Err(command.exec()).with_context(|| format!("execute {}", command.get_program().display()))
}

/// Does to this process what `options` say, then executes the words after `--`:
/// `umask=077`, `nofile=32` and `fsize=65536` (limits), `close=0` (a standard stream), `open=FILE` (one more descriptor that the
/// program inherits), `ignore=SIGNAL-NUMBER`, `groups=7,8`, `cwd-gone` (a working directory that was removed),
/// `session` (setsid), `terminal` (standard input becomes the controlling terminal).
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

/// Appends to `file` one line of JSON: the state read from standard input, arguments, environment, working directory,
/// namespaces and descriptors of this hook; then does what the operands say: `exit N`, `sleep N`, `name WORD` (kept in the
/// line), `see PATH` (is there such a file?).
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
    // one write, so that hooks that run at once keep their lines whole
    OpenOptions::new().append(true).create(true).open(file)?.write_all(format!("{line}\n").as_bytes())?;
    std::thread::sleep(Duration::from_secs_f64(seconds));
    Ok(code)
}
