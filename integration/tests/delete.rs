//! `delete --force` exits with 0 only if the container is gone. If that cannot be found out, it fails and removes nothing.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::background::until;
use integration::runtime::ended_within;
use integration::{Container, Output, Test, check, strace};
use rustix::fs::{CWD, Mode, mkfifoat};

/// The file of the runtime under test with the record of the container `id`.
fn record_of(t: &Test, id: &str) -> PathBuf {
    let name = match t.runtime.kind {
        "runc" => "state.json",
        "crun" => "status",
        _ => "record.json",
    };
    t.root().join(id).join(name)
}

/// A record that was moved away. Dropping this restores it, with its directory if that is gone, so that the test can always
/// delete the container.
struct Away {
    record: PathBuf,
    kept: PathBuf,
}

impl Away {
    fn take(t: &Test, id: &str) -> Result<Self> {
        let away = Away { record: record_of(t, id), kept: t.path().join(format!("{id}.kept")) };
        fs::rename(&away.record, &away.kept).with_context(|| format!("take {} away", away.record.display()))?;
        Ok(away)
    }

    fn text(&self) -> Result<String> {
        Ok(fs::read_to_string(&self.kept)?)
    }
}

impl Drop for Away {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.record).or_else(|_| fs::remove_file(&self.record));
        let _ = fs::create_dir_all(self.record.parent().unwrap_or(Path::new("/")));
        let _ = fs::rename(&self.kept, &self.record);
    }
}

fn runs(container: &Container) -> Result<bool> {
    Ok(!ended_within(container.pid, Duration::ZERO)?)
}

/// Checks the result of `delete --force`: after 0 the container is gone, else it is still known, so that a second one can delete
/// it.
fn answer_is_true(t: &Test, container: &mut Container, output: &Output) -> Result<bool> {
    let status = t.runtime(["state", &container.id])?;
    if output.status.success() {
        ensure!(!runs(container)?, "delete --force answers 0, and init runs");
        status.fails_with(if t.runtime.is("crun") { "" } else { "does not exist" })?;
        return Ok(true);
    }
    ensure!(!output.stderr.is_empty(), "it fails without a word");
    status.ok().with_context(|| format!("unknown after delete --force failed with {:?}", output.stderr))?;
    // init may be exiting just now
    until("the status is that of init", || Ok(container.status()? == if runs(container)? { "running" } else { "stopped" }))?;
    Ok(false)
}

/// Puts something else in place of a record; the text is the record's.
type Make = fn(&Path, &str) -> Result<()>;

/// A record that exists but cannot be read or understood is an error for every verb, also for `delete --force`, which then
/// removes nothing. When the record is readable again, the container is known and can be deleted.
#[test]
fn a_record_that_cannot_be_read_is_no_reason_to_forget_its_container() {
    check(|t| {
        if t.differs("crun", "forgets a container whose record is damaged, without force too") {
            return Ok(());
        }
        let mut bundle = t.bundle()?;
        bundle.args(["/bin/sleep"]);
        let mut container = Container::start_of(t, &bundle)?;
        let make: [(&str, Make); 8] = [
            ("a half of it", |path, text| Ok(fs::write(path, text.get(..text.len() / 2).unwrap_or_default())?)),
            ("all but its last byte", |path, text| Ok(fs::write(path, text.trim_end().strip_suffix('}').unwrap_or_default())?)),
            ("an empty file", |path, _| Ok(fs::write(path, "")?)),
            ("of a newer version", |path, text| Ok(fs::write(path, text.replacen("\"version\":1", "\"version\":2", 1))?)),
            ("a folder", |path, _| Ok(fs::create_dir(path)?)),
            ("a fifo", |path, _| Ok(mkfifoat(CWD, path, Mode::from_raw_mode(0o600))?)),
            ("a loop of links", |path, _| Ok(symlink(path, path)?)),
            ("a socket", |path, _| std::os::unix::net::UnixListener::bind(path).map(drop).context("bind")),
        ];
        for (what, make) in make {
            if !t.runtime.is("masu") && ["of a newer version", "a fifo", "a loop of links"].contains(&what) {
                t.differs(t.runtime.kind, "has no version in its record, waits for the writer of a fifo, and takes such a link for none");
                continue;
            }
            let away = Away::take(t, &container.id)?;
            make(&away.record, &away.text()?).with_context(|| what.to_owned())?;
            for words in [&["state"][..], &["delete"], &["delete", "--force"]] {
                let output = t.runtime(words.iter().copied().chain([container.id.as_str()]))?;
                let output = output.exits(1).with_context(|| format!("{what}: {words:?}"))?;
                ensure!(!output.stderr.contains("does not exist"), "{what}: {words:?} says that there is no container: {}", output.stderr);
                ensure!(runs(&container)?, "{what}: init is gone after {words:?}");
            }
            let again = t.runtime(["create".as_ref(), "--bundle".as_ref(), bundle.path().as_os_str(), container.id.as_ref()])?;
            again.fails_with("exist").with_context(|| format!("{what}: a second create"))?;
            drop(away);
            assert_eq!(container.status()?, "running", "{what}: after the record was put back");
        }
        container.delete_by_force()?.ok()?;
        ensure!(!runs(&container)?, "it runs after its deletion");
        Ok(())
    });
}

/// Without a record nothing was made: the directory is removed, and the exit code is 0.
#[test]
fn a_state_directory_without_a_record_is_removed_by_force() {
    check(|t| {
        let id = t.new_id();
        fs::create_dir(t.root().join(&id))?;
        t.runtime(["delete", "--force", &id])?.exits(0)?;
        ensure!(!t.root().join(&id).exists() || t.differs("crun", "leaves the folder"), "the folder is left");
        let _ = fs::remove_dir(t.root().join(&id));
        t.runtime(["delete", "--force", &id])?.exits(0)?;
        Ok(())
    });
}

/// With too few descriptors for any of its files, the result of `delete --force` is still true.
#[test]
fn without_descriptors_a_forced_delete_answers_the_truth() {
    check(|t| {
        if t.differs("runc", "answers 0 with 8 descriptors, and keeps the record") {
            return Ok(());
        }
        let mut bundle = t.bundle()?;
        bundle.args(["/bin/sleep"]);
        let mut container = Container::start_of(t, &bundle)?;
        let mut fails = 0;
        for limit in 3..=16 {
            let command = t.launched(&[&format!("nofile={limit}")], ["delete", "--force", &container.id])?;
            let output = t.finish(command)?;
            // a Go runtime may end by a panic
            let what = || format!("with {limit} descriptors");
            fails += u32::from(!answer_is_true(t, &mut container, &output).with_context(what)?);
            if !runs(&container)? {
                container.delete_by_force()?.ok().with_context(what)?;
                container = Container::start_of(t, &bundle)?;
            }
        }
        ensure!(fails > 0, "no limit was low enough to test anything");
        Ok(())
    });
}

/// If the kernel refuses any call of `delete --force`, for any reason, its result is still true.
#[test]
fn a_forced_delete_whose_calls_fail_answers_the_truth() {
    check(|t| {
        if !strace::works() {
            return t.skip("needs strace");
        }
        if !t.runtime.is("masu") {
            t.differs(t.runtime.kind, "its calls are its own");
            return Ok(());
        }
        let mut bundle = t.bundle()?;
        bundle.args(["/bin/sleep"]);
        let mut container = Container::start_of(t, &bundle)?;
        let mut tried = 0;
        // one call only, or all calls from one on, because the record may be read twice
        for (call, error, rest) in [("openat", "EIO", ""), ("openat", "EACCES", "+"), ("read", "EIO", "+"), ("fstat", "ENOMEM", "+")] {
            for nth in 1.. {
                let fault = format!("inject={call}:error={error}:when={nth}{rest}");
                let trace = t.path().join("trace");
                let output = t.finish(strace::under(t, &trace, &["-e", &fault], ["delete", "--force", &container.id])?)?;
                answer_is_true(t, &mut container, &output).with_context(|| fault.clone())?;
                if !runs(&container)? {
                    container.delete_by_force()?.ok().with_context(|| fault.clone())?;
                    container = Container::start_of(t, &bundle)?;
                }
                if !fs::read_to_string(&trace)?.contains("(INJECTED)") {
                    break;
                }
                tried += 1;
            }
        }
        ensure!(tried > 10, "only {tried} calls were refused");
        Ok(())
    });
}
