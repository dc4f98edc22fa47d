//! No process in a container may write the runtime's own executable (CVE-2019-5736). The executable of a runtime's process inside
//! is sealed, in whatever directory the program is.

use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use integration::{Output, Test, check};
use rustix::fs::{SealFlags, StatVfsMountFlags};

/// A copy of the runtime in a new directory named `folder`.
fn copy(t: &Test, folder: &str) -> Result<PathBuf> {
    let folder = t.path().join(folder);
    fs::create_dir_all(&folder)?;
    let copy = folder.join(t.runtime.path.file_name().context("a runtime has a name")?);
    fs::copy(&t.runtime.path, &copy)?;
    Ok(copy)
}

/// Runs a create by the command `program`. Returns its output and the container.
fn create<'t>(t: &'t Test, program: &[&OsStr]) -> Result<(Output, Waiting<'t>)> {
    let mut bundle = t.bundle()?;
    bundle.args(["/bin/true"]).write()?;
    let waiting = Waiting { t, id: t.new_id(), pid_file: t.path().join("pid") };
    let words = ["create".as_ref(), "--bundle".as_ref(), bundle.path().as_os_str(), "--pid-file".as_ref(), waiting.pid_file.as_os_str()];
    let plain = t.command(words)?;
    let mut command = Command::new(program.first().context("a program")?);
    command.args(program.iter().skip(1)).args(plain.get_args()).arg(&waiting.id);
    Ok((t.run_command(command)?, waiting))
}

struct Waiting<'a> {
    t: &'a Test,
    id: String,
    pid_file: PathBuf,
}

impl Waiting<'_> {
    /// Whether the executable of init, which is still the runtime's, is sealed.
    fn is_sealed(&self) -> Result<bool> {
        let pid = fs::read_to_string(&self.pid_file)?;
        let exe = fs::File::open(format!("/proc/{}/exe", pid.trim()))?;
        let is_read_only = rustix::fs::fstatvfs(&exe)?.f_flag.contains(StatVfsMountFlags::RDONLY);
        Ok(is_read_only || rustix::fs::fcntl_get_seals(&exe).is_ok_and(|seals| seals.contains(SealFlags::WRITE)))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let _ = self.t.runtime(["delete", "--force", &self.id]);
    }
}

#[test]
fn it_is_sealed_wherever_it_lies() {
    check(|t| {
        // some names have special characters of overlay options; the last one is too long for an overlay
        let long = [&"d".repeat(250); 5].map(String::as_str).join("/");
        for folder in ["plain", "a:b", "back\\slash", "\\", "a,b", "white space", "new\nline", "a=b", &long] {
            let program = copy(t, folder)?;
            let (output, waiting) = create(t, &[program.as_os_str()])?;
            output.ok().with_context(|| format!("a program in {folder:?}"))?;
            ensure!(waiting.is_sealed()?, "a program in {folder:?} is not sealed");
        }
        Ok(())
    });
}

#[test]
fn a_program_that_was_removed_or_replaced_is_the_one_that_is_sealed() {
    check(|t| {
        for change in ["rm", "cp -f --remove-destination /bin/false"] {
            let program = copy(t, "folder")?;
            let text = format!("exec 9<\"$0\"; {change} \"$0\"; exec /proc/self/fd/9 \"$@\"");
            let (output, waiting) = create(t, &["sh".as_ref(), "-c".as_ref(), text.as_ref(), program.as_os_str()])?;
            output.ok().context(change)?;
            ensure!(waiting.is_sealed()?, "after {change} it is not sealed");
        }
        Ok(())
    });
}

#[test]
fn what_cannot_be_sealed_does_not_go_on() {
    check(|t| {
        if t.differs("runc", "takes an overlay for paths of any length") || t.differs("crun", "has other ways") {
            return Ok(());
        }
        // too long for an overlay, and the file size limit also prevents a copy in memory
        let program = copy(t, &[&"d".repeat(250); 5].map(String::as_str).join("/"))?;
        let limited = ["launch", "fsize=65536", "ignore=25", "--"].map(AsRef::as_ref);
        let (output, waiting) = create(t, &[&[t.payload.as_os_str()], &limited[..], &[program.as_os_str()]].concat())?;
        output.fails_with("seal the runtime's own executable")?;
        ensure!(!waiting.pid_file.exists() && fs::read_dir(t.root())?.next().is_none(), "something was made");
        Ok(())
    });
}

/// A container may be named like a command for which the program is sealed before it reads its arguments.
#[test]
fn words_that_are_commands_elsewhere() {
    check(|t| {
        for word in ["create", "run", "exec"] {
            t.runtime(["state", word])?.exits(1)?;
            t.runtime(["delete", "--force", word])?.ok()?;
        }
        Ok(())
    });
}
