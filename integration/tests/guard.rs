//! The guard over the host, in both directions: it must find what a runtime would leave behind, or all other tests prove
//! nothing; and it must not heed what other programs do meanwhile, or tests fail on a machine where anything else runs.

use std::fs;
use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use integration::host::{Host, only_empty_folders, processes_with};
use integration::{Test, check, namespaces};
use nix::sched::{CloneFlags, setns};
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, mount_remount, unmount};
use rustix::process::{Pid, Signal, getpid, getppid, kill_process, set_child_subreaper};

/// The guard must complain of `kind` while `leave` holds, and not after `clean`.
fn seen<T>(t: &Test, kind: &str, leave: impl FnOnce() -> Result<T>, clean: impl FnOnce(T) -> Result<()>) -> Result<()> {
    let before = Host::look(t.token())?;
    let left = leave()?;
    let found = Host::look(t.token())?.same_as(&before);
    clean(left)?;
    let text = found.err().with_context(|| format!("{kind} left behind is not seen"))?.to_string();
    ensure!(text.contains(kind), "{text}");
    Host::look(t.token())?.same_as(&before)
}

/// Runs `body` as a test that runs beside this one: in a thread with mount and UTS namespaces of its own, which go with it.
fn aside(t: &Test, body: impl FnOnce(&str) -> Result<()> + Send) -> Result<()> {
    let token = t.token();
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // the kernel wants a working directory that no other thread has
            namespaces::enter()?;
            setns(fs::File::open(host_mounts()?)?, CloneFlags::CLONE_NEWNS)?;
            namespaces::enter()?;
            body(token)
        });
        thread.join().map_err(|_| anyhow::anyhow!("the thread panicked"))?
    })
}

/// The mount namespace that the tests were started in.
fn host_mounts() -> Result<String> {
    Ok(format!("/proc/{}/ns/mnt", getppid().context("the runner of tests")?.as_raw_nonzero()))
}

/// Another program on the host: it shares nothing with the test, neither name nor namespace nor parent.
struct Other {
    folder: PathBuf,
    name: String,
}

impl Other {
    fn new() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("other-").tempdir()?.keep();
        let name = folder.file_name().context("a name")?.to_string_lossy().into_owned();
        Ok(Self { folder, name })
    }

    /// Runs `script` in the host's mount namespace; `$1` is the folder.
    fn sh(&self, script: &str) -> Result<()> {
        let mut command = Command::new("nsenter");
        command.arg(format!("--mount={}", host_mounts()?)).args(["sh", "-ec", script, "sh"]).arg(&self.folder);
        let output = command.stdin(Stdio::null()).output().context("run nsenter")?;
        ensure!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.sh("for point in \"$1\"/*; do umount \"$point\" 2>/dev/null || true; done; rm -rf --one-file-system \"$1\"");
    }
}

fn hierarchy() -> Option<&'static str> {
    ["/sys/fs/cgroup/pids", "/sys/fs/cgroup/memory", "/sys/fs/cgroup"]
        .into_iter()
        .find(|path| fs::exists(format!("{path}/cgroup.procs")).unwrap_or_default())
}

#[test]
fn sees_a_mount() {
    check(|t| {
        let point = t.path().join("mount");
        fs::create_dir(&point)?;
        let make = || Ok(mount("tmpfs", &point, "tmpfs", MountFlags::empty(), None)?);
        seen(t, "mounts", make, |()| Ok(unmount(&point, UnmountFlags::DETACH)?))
    });
}

/// Such as one that a path of the config led out of the rootfs.
#[test]
fn sees_a_mount_that_has_no_name_of_the_test() {
    check(|t| {
        for point in ["/proc/sys", "/dev"] {
            let make = || Ok(mount_bind(point, point)?);
            seen(t, "mounts", make, |()| Ok(unmount(point, UnmountFlags::DETACH)?)).context(point)?;
        }
        Ok(())
    });
}

#[test]
fn sees_a_mount_of_the_host_change_its_flags() {
    check(|t| {
        let before = Host::look(t.token())?;
        aside(t, |token| {
            let before = Host::look(token)?;
            mount_remount("/proc", MountFlags::BIND | MountFlags::RDONLY, "")?;
            let text = Host::look(token)?.same_as(&before).err().context("/proc read-only is not seen")?.to_string();
            ensure!(text.contains("mounts") && text.contains(" /proc ro"), "{text}");
            Ok(())
        })?;
        Host::look(t.token())?.same_as(&before)
    });
}

#[test]
fn sees_a_mount_of_the_host_go() {
    check(|t| {
        let before = Host::look(t.token())?;
        aside(t, |token| {
            let before = Host::look(token)?;
            unmount("/proc", UnmountFlags::DETACH)?;
            mount("proc", "/proc", "proc", MountFlags::empty(), None)?;
            let text = Host::look(token)?.same_as(&before).err().context("/proc unmounted is not seen")?.to_string();
            let gone = text.split_once("gone").context("the list of what is gone")?.1;
            ensure!(gone.contains(" /proc "), "{text}");
            Ok(())
        })?;
        Host::look(t.token())?.same_as(&before)
    });
}

#[test]
fn sees_a_cgroup() {
    check(|t| {
        let Some(hierarchy) = hierarchy() else { return t.skip("no cgroups") };
        let group = format!("{hierarchy}/{}-left", t.token());
        seen(t, "cgroups", || Ok(fs::create_dir(&group)?), |()| Ok(fs::remove_dir(&group)?))
    });
}

fn end(mut child: Child) -> Result<()> {
    child.kill()?;
    child.wait()?;
    Ok(())
}

/// Starts the payload, which sleeps, by `command`; once it says so, its command line and environment are in place.
fn sleeper(mut command: Command) -> Result<Child> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    child.stdout.take().context("its output")?.read_exact(&mut [0; 6])?;
    Ok(child)
}

#[test]
fn sees_a_process() {
    check(|t| {
        let start = || {
            let mut command = Command::new(&t.payload);
            command.args(["deaf", "USR1", "then", "sleep"]).env("ID", t.token());
            sleeper(command)
        };
        seen(t, "processes", start, end)?;
        ensure!(processes_with(t.token()).is_empty(), "processes");
        Ok(())
    });
}

#[test]
fn sees_a_process_that_has_no_name_of_the_test() {
    check(|t| {
        if std::env::var_os("NEXTEST").is_none() {
            return t.skip("with other tests in the same process nothing but names tells whose processes are whose");
        }
        let start = || {
            // an orphan, as the runtime has ended before a process that it leaves
            let mut shell = Command::new("sh");
            shell.env_clear().args(["-c", "\"$1\" deaf USR1 then sleep 2>/dev/null & echo $! >&2", "sh"]).arg(&t.payload);
            let mut child = shell.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
            child.stdout.take().context("its output")?.read_exact(&mut [0; 6])?;
            let pid = std::io::read_to_string(child.stderr.take().context("its number")?)?;
            child.wait()?;
            pid.trim().parse().ok().and_then(Pid::from_raw).with_context(|| format!("{pid:?} is no number"))
        };
        seen(t, "processes", start, |pid| {
            kill_process(pid, Signal::KILL)?;
            rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty())?;
            Ok(())
        })
    });
}

#[test]
fn sees_the_host_name_change() {
    check(|t| {
        let name = rustix::system::uname().nodename().to_bytes().to_vec();
        let other = |name: &[u8]| Ok(rustix::system::sethostname(name)?);
        seen(t, "host name", || other(b"other"), |()| other(&name))
    });
}

#[test]
fn sees_a_file_in_the_state_directory() {
    check(|t| {
        let folder = t.root().join("folder");
        fs::create_dir(&folder)?;
        only_empty_folders(&t.root())?;
        let file = folder.join("left");
        fs::write(&file, "")?;
        ensure!(only_empty_folders(&t.root()).is_err(), "a file left behind is not seen");
        fs::remove_file(&file)?;
        fs::remove_dir(&folder)?;
        fs::create_dir(t.root().join(t.new_id()))?;
        ensure!(only_empty_folders(&t.root()).is_err(), "a container's folder left behind is not seen");
        for entry in fs::read_dir(t.root())? {
            fs::remove_dir(entry?.path())?;
        }
        Ok(())
    });
}

#[test]
fn heeds_no_mounts_of_others() {
    check(|t| {
        let other = Other::new()?;
        other
            .sh("mkdir \"$1/goes\" \"$1/comes\" \"$1/changes\" \"$1/again\" \"$1/moves\" \"$1/moves/inside\" \"$1/source\" \"$1/bound\"
             mount --bind \"$1/source\" \"$1/bound\"")?;
        for name in ["goes", "changes", "again", "moves/inside"] {
            other.sh(&format!("mount -t tmpfs -o size=64k other \"$1/{name}\""))?;
        }
        aside(t, |token| {
            let before = Host::look(token)?;
            ensure!(namespaces::mountinfo()?.contains(&format!("{}/again", other.name)), "the other's mount is not there");
            other.sh("mount -t tmpfs other \"$1/comes\"; mount --bind \"$1/comes\" \"$1/comes\"
                 umount \"$1/goes\"; rmdir \"$1/goes\"
                 mount -o remount,ro,size=128k \"$1/changes\"
                 mv \"$1/moves\" \"$1/moved\"
                 rmdir \"$1/source\"
                 umount \"$1/again\"; rmdir \"$1/again\"; mkdir \"$1/again\"")?;
            ensure!(!namespaces::mountinfo()?.contains(&format!("{}/again", other.name)), "the kernel did not take the mount out");
            Host::look(token)?.same_as(&before)?;
            other.sh("umount \"$1/comes\"; umount \"$1/comes\"; rmdir \"$1/comes\"; umount \"$1/changes\"; umount \"$1/moved/inside\"")?;
            Host::look(token)?.same_as(&before)
        })
    });
}

#[test]
fn heeds_no_cgroups_of_others() {
    check(|t| {
        let Some(hierarchy) = hierarchy() else { return t.skip("no cgroups") };
        let other = Other::new()?;
        let (goes, comes) = (format!("{hierarchy}/{}", other.name), format!("{hierarchy}/docker-{}", other.name));
        fs::create_dir(&goes)?;
        let before = Host::look(t.token())?;
        fs::create_dir_all(format!("{comes}/below"))?;
        fs::remove_dir(&goes)?;
        let found = Host::look(t.token())?.same_as(&before);
        fs::remove_dir(format!("{comes}/below"))?;
        fs::remove_dir(&comes)?;
        found
    });
}

/// A program that looks at the test's files has their name in its command line, and is no less another's.
#[test]
fn heeds_no_processes_of_others() {
    check(|t| {
        let before = Host::look(t.token())?;
        // an orphan goes to the next reaper above, and is no descendant any more
        set_child_subreaper(None)?;
        let script = "exec 3<&0; sh -c 'echo ready; read -r line' \"$1\" <&3 2>/dev/null & echo $! >&2";
        let mut shell = Command::new("sh");
        shell.args(["-c", script, "sh", t.token()]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut shell = shell.spawn()?;
        let (input, output) = (shell.stdin.take(), shell.stdout.take());
        shell.wait()?;
        output.context("its output")?.read_exact(&mut [0; 6])?;
        set_child_subreaper(Some(getpid()))?;
        let pid = std::io::read_to_string(shell.stderr.take().context("its number")?)?;
        let line = fs::read_to_string(format!("/proc/{}/cmdline", pid.trim()))?;
        let found = Host::look(t.token())?.same_as(&before);
        // the end of its input ends it
        drop(input);
        ensure!(line.contains(t.token()), "it does not bear the name: {line:?}");
        found
    });
}
