//! Processes that cannot be killed or frozen for a while, because they sleep in the kernel: here on a frozen file system, in
//! practice on a disk or file server that does not answer. Commands give up in time and can be repeated later.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use integration::{Container, Test, cgroups, check};
use rustix::fs::{CWD, Mode, mkfifoat};

/// A small ext4 file system on a loop device.
struct Disk {
    at: PathBuf,
    frozen: bool,
}

impl Disk {
    /// Makes the file system. `None` without loop devices or without the programs for it.
    fn make(t: &Test) -> Result<Option<Disk>> {
        let (image, at) = (t.path().join("disk.img"), t.path().join("disk"));
        fs::create_dir(&at)?;
        fs::File::create(&image)?.set_len(16 << 20)?;
        let made = run("mkfs.ext4", &["-q".as_ref(), &image]) && run("mount", &["-o".as_ref(), "loop".as_ref(), &image, &at]);
        Ok(made.then_some(Disk { at, frozen: false }))
    }

    fn freeze(&mut self) -> bool {
        self.frozen = run("fsfreeze", &["--freeze".as_ref(), &self.at]);
        self.frozen
    }

    fn thaw(&mut self) -> bool {
        self.frozen = false;
        run("fsfreeze", &["--unfreeze".as_ref(), &self.at])
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.frozen {
            self.thaw();
        }
        // a process that slept on the file system may take a moment to exit
        for _ in 0..100 {
            if run("umount", &[&self.at]) {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

fn run(program: &str, words: &[&Path]) -> bool {
    Command::new(program).args(words).output().is_ok_and(|output| output.status.success())
}

fn sleeps_in_the_kernel(container: &Container) -> Result<bool> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", container.pid.as_raw_nonzero()))?;
    Ok(stat.rsplit_once(") ").context("a state")?.1.starts_with('D'))
}

#[test]
fn rel_d_1_delete_and_pause_give_up_in_time_and_work_later() {
    check(|t| {
        let Some(mut disk) = Disk::make(t)? else { return t.skip("needs mkfs.ext4 and loop devices") };
        let mut bundle = t.bundle()?;
        bundle.mount("/disk", "bind", &disk.at.to_string_lossy(), &["rbind"]);
        let go = bundle.rootfs("go");
        mkfifoat(CWD, &go, Mode::from_raw_mode(0o600))?;
        bundle.args(["/bin/payload", "read", "/go", "then", "write", "/disk/file", "text"]);
        let mut container = Container::start_of(t, &bundle)?;
        let frozen = disk.freeze();
        // the container's program waits for the end of the fifo
        drop(fs::OpenOptions::new().write(true).open(&go)?);
        if !frozen {
            container.wait()?;
            return t.skip("needs fsfreeze");
        }
        let start = Instant::now();
        while !sleeps_in_the_kernel(&container)? {
            ensure!(start.elapsed() < Duration::from_secs(20), "it does not sleep in the kernel");
            std::thread::sleep(Duration::from_millis(20));
        }

        let start = Instant::now();
        if !t.differs("crun", "waits for ever for it to freeze, and to go") {
            let paused = container.command("pause")?;
            ensure!(start.elapsed() < Duration::from_secs(20), "pause took {:?}", start.elapsed());
            if paused.status.success() && !cgroups::unified() {
                // the freezer of v1 counts this sleep as frozen
                container.command("resume")?.ok()?;
            } else {
                paused.exits(1)?.fails_with("freeze")?;
            }
            assert_eq!(container.status()?, "running", "a pause that failed is taken back");
            let start = Instant::now();
            let error = t.runtime(["delete", "--force", &container.id])?.exits(1)?;
            ensure!(error.stderr.contains("still running"), "{}", error.stderr);
            ensure!(start.elapsed() < Duration::from_secs(25), "delete took {:?}", start.elapsed());
            // state answers meanwhile
            ensure!(["running", "stopped"].contains(&container.status()?.as_str()));
        }
        ensure!(disk.thaw(), "fsfreeze --unfreeze");
        container.delete_by_force()?.ok()?;
        container.wait()?;
        Ok(())
    });
}
