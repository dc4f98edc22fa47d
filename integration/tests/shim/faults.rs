//! Lack of descriptors and of space, callers without permission, and callers that do not read.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use integration::check;
use integration::message::Message;
use integration::shim::{Shim, refused};
use rustix::process::{Pid, Resource, Rlimit};

use super::{INVALID, NOT_FOUND, of, refuses, with_shim};

/// The methods that take a message.
const METHODS: [&str; 15] = [
    "Create",
    "Start",
    "Delete",
    "Exec",
    "State",
    "Wait",
    "Kill",
    "Pids",
    "Pause",
    "Resume",
    "CloseIO",
    "ResizePty",
    "Update",
    "Stats",
    "Connect",
];

/// A frame with a State request for `id`.
fn state_of(stream: u32, id: &str) -> Vec<u8> {
    let request = Message::new().text(1, "containerd.task.v2.Task").text(2, "State").message(3, of(id)).0;
    let mut frame = (request.len() as u32).to_be_bytes().to_vec();
    frame.extend(stream.to_be_bytes());
    frame.extend([1, 0]);
    frame.extend(request);
    frame
}

/// Runs `body` while the shim cannot open any file.
fn without_descriptors(shim: &mut Shim<'_>, body: impl FnOnce(&mut Shim<'_>) -> Result<()>) -> Result<()> {
    let pid = Pid::from_raw(shim.pid);
    // the shim has the same limits as this test
    let before = rustix::process::getrlimit(Resource::Nofile);
    rustix::process::prlimit(pid, Resource::Nofile, Rlimit { current: Some(3), ..before })?;
    let result = body(shim);
    rustix::process::prlimit(pid, Resource::Nofile, before)?;
    result
}

#[test]
fn a_full_disk_is_an_error_and_the_rest_goes_on() {
    check(|t| {
        with_shim(t, &["/bin/payload", "sleep"], |shim, bundle, id| {
            let full = t.path().join("full");
            fs::create_dir(&full)?;
            let size = Some(c"size=8k");
            rustix::mount::mount("full", &full, "tmpfs", rustix::mount::MountFlags::empty(), size)?;
            let result = (|| {
                let mut file = fs::File::create(full.join("file"))?;
                while file.write_all(&[1; 1024]).is_ok() {}
                let (mut second, other) = (t.bundle()?, t.new_id());
                second.args(["/bin/payload", "sleep"]).write()?;
                let create = shim.create_message_with_root(&second, &other, "", &full);
                let said = shim.call("Create", create)?.err();
                // runc does not report the reason
                let reason = if t.runtime.is("masu") { "no space left" } else { "unable to store init state" };
                ensure!(said.as_ref().is_some_and(|e| e.text.to_lowercase().contains(reason)), "{said:?}");
                refuses(shim.call("State", of(&other))?, NOT_FOUND, "not found")
            })();
            // the failed shim or worker may still be closing its files
            let end = Instant::now() + Duration::from_secs(10);
            while let Err(e) = rustix::mount::unmount(&full, rustix::mount::UnmountFlags::empty()) {
                ensure!(e == rustix::io::Errno::BUSY && Instant::now() < end, "unmount the full disk: {e}");
                std::thread::sleep(Duration::from_millis(10));
            }
            result?;
            shim.run(bundle, id)?;
            shim.end(id)
        })
    });
}

#[test]
fn every_method_refuses_a_damaged_message() {
    check(|t| {
        with_shim(t, &["/bin/payload", "sleep"], |shim, bundle, id| {
            shim.run(bundle, id)?;
            for method in METHODS {
                let answer = shim.call(method, Message(vec![0x0a, 0x7f, 0x61]))?;
                if t.runtime.is("masu") {
                    refuses(answer, INVALID, &format!("the message of {method} is malformed"))?;
                } else {
                    ensure!(answer.is_err(), "{method} took it");
                }
            }
            // an input that the fuzzer found, and its seeds
            for seed in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../shim/fuzz/seeds/frame"))? {
                let bytes = fs::read(seed?.path())?;
                shim.connect()?.write_all(bytes.get(1..).unwrap_or_default())?;
            }
            ensure!(shim.call("State", of(id))?.map_err(refused)?.number(4) == 2, "not running");
            shim.end(id)
        })
    });
}

#[test]
fn without_descriptors_a_create_fails_and_leaves_nothing() {
    check(|t| {
        with_shim(t, &["/bin/payload", "sleep"], |shim, bundle, id| {
            if !t.runtime.is("masu") {
                t.differs(t.runtime.kind, "the Go runtime has some open for later");
                return Ok(());
            }
            without_descriptors(shim, |shim| {
                let said = shim.call("Create", shim.create_message(bundle, id, ""))?.err().context("created")?;
                // the texts of glibc and of musl
                let reasons = ["too many open files", "no file descriptors available"];
                ensure!(reasons.iter().any(|reason| said.text.to_lowercase().contains(reason)), "{said:?}");
                refuses(shim.call("State", of(id))?, NOT_FOUND, "not found")
            })?;
            shim.run(bundle, id)?;
            shim.end(id)
        })
    });
}

#[test]
fn without_descriptors_new_callers_wait_and_are_served_later() {
    check(|t| {
        with_shim(t, &["/bin/payload", "sleep"], |shim, bundle, id| {
            shim.run(bundle, id)?;
            if !t.runtime.is("masu") {
                t.differs(t.runtime.kind, "what a Go server does then is its own");
                return shim.end(id);
            }
            let mut late = None;
            without_descriptors(shim, |shim| {
                let mut client = shim.connect()?;
                client.write_all(&state_of(1, id))?;
                client.set_read_timeout(Some(Duration::from_millis(300)))?;
                let answer = client.read(&mut [0; 10]);
                ensure!(answer.as_ref().is_err_and(|e| e.kind() == ErrorKind::WouldBlock), "answered without descriptors: {answer:?}");
                // existing connections are served, and the shim waits without using the CPU
                let ticks = || -> Result<u64> {
                    let stat = fs::read_to_string(format!("/proc/{}/stat", shim.pid))?;
                    let fields: Vec<_> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
                    Ok(fields.get(11).context("utime")?.parse::<u64>()? + fields.get(12).context("stime")?.parse::<u64>()?)
                };
                let before = ticks()?;
                std::thread::sleep(Duration::from_secs(1));
                let used = ticks()? - before;
                ensure!(used < 20, "{used} ticks in a second of waiting");
                ensure!(shim.call("State", of(id))?.map_err(refused)?.number(4) == 2, "not running");
                late = Some(client);
                Ok(())
            })?;
            let mut client = late.context("no client")?;
            client.set_read_timeout(Some(Duration::from_secs(20)))?;
            let mut header = [0; 10];
            client.read_exact(&mut header)?;
            ensure!(header[4..9] == [0, 0, 0, 1, 2], "{header:?}");
            shim.end(id)
        })
    });
}

#[test]
fn a_caller_of_another_user_is_refused() {
    check(|t| {
        with_shim(t, &["/bin/payload", "sleep"], |shim, bundle, id| {
            shim.run(bundle, id)?;
            let socket = Path::new(shim.address().trim_start_matches("unix://")).to_owned();
            let mode = |path: &Path| Ok::<_, std::io::Error>(fs::symlink_metadata(path)?.mode() & 0o777);
            ensure!(mode(&socket)? & 0o077 == 0, "the socket is for others, too: {:o}", mode(&socket)?);
            let dir = socket.parent().context("a folder")?;
            ensure!(mode(dir)? & 0o022 == 0, "others may write in {}: {:o}", dir.display(), mode(dir)?);
            // modes alone do not protect, because they can be changed
            fs::set_permissions(&socket, fs::Permissions::from_mode(0o666))?;
            let opened = rustix::fs::open(&socket, rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC, 0.into())?;
            let path = format!("/proc/self/fd/{}", opened.as_raw_fd());
            let ask = || -> Result<usize> {
                let nobody = rustix::process::Uid::from_raw(65534);
                // for this thread only
                rustix::thread::set_thread_res_uid(nobody, nobody, nobody)?;
                let mut client = UnixStream::connect(path)?;
                client.set_read_timeout(Some(Duration::from_secs(20)))?;
                // the shim may have closed the connection
                let _ = client.write_all(&state_of(1, id));
                match client.read(&mut [0; 64]) {
                    Err(e) if e.kind() == ErrorKind::ConnectionReset => Ok(0),
                    result => Ok(result?),
                }
            };
            let answered = std::thread::scope(|scope| scope.spawn(ask).join()).map_err(|_| anyhow::anyhow!("the thread panicked"))??;
            ensure!(answered == 0, "another user got an answer of {answered} bytes");
            ensure!(shim.call("State", of(id))?.map_err(refused)?.number(4) == 2, "not running");
            shim.end(id)
        })
    });
}

#[test]
fn a_caller_that_takes_no_answers_is_given_up() {
    check(|t| {
        with_shim(t, &["/bin/payload", "sleep"], |shim, bundle, id| {
            shim.run(bundle, id)?;
            if !t.runtime.is("masu") {
                t.differs(t.runtime.kind, "it is not read any more either");
                return shim.end(id);
            }
            let resident = |shim: &Shim<'_>| -> Result<u64> {
                let status = fs::read_to_string(format!("/proc/{}/status", shim.pid))?;
                let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("VmRSS")?;
                Ok(line.split_whitespace().nth(1).context("a number")?.parse()?)
            };
            let mut deaf = shim.connect()?;
            deaf.set_write_timeout(Some(Duration::from_secs(20)))?;
            let calls: Vec<u8> = (0..500).flat_map(|n| state_of(2 * n + 1, id)).collect();
            let mut rounds = 0;
            let end = loop {
                match deaf.write_all(&calls) {
                    Ok(()) => rounds += 1,
                    Err(e) => break e.kind(),
                }
                ensure!(rounds < 1000, "half a million answers are kept");
                ensure!(shim.call("State", of(id))?.map_err(refused)?.number(4) == 2, "not running");
            };
            ensure!(matches!(end, ErrorKind::BrokenPipe | ErrorKind::ConnectionReset), "{end} after {rounds} rounds");
            let left = resident(shim)?;
            ensure!(left < 8 << 10, "{left} KiB stay");
            shim.end(id)
        })
    });
}

#[test]
fn what_containerd_leaves_open_is_not_kept() {
    check(|t| {
        with_shim(t, &["/bin/payload", "sleep"], |shim, bundle, id| {
            shim.run(bundle, id)?;
            let mut open = Vec::new();
            for entry in fs::read_dir(format!("/proc/{}/fd", shim.pid))? {
                open.extend(fs::read_link(entry?.path()));
            }
            ensure!(open.iter().any(|path| path.ends_with("dev/null")), "what it has open: {open:?}");
            if t.runtime.is("masu") || !t.differs(t.runtime.kind, "containerd's shim keeps what containerd leaves open") {
                ensure!(!open.iter().any(|path| path.ends_with("dev/zero")), "it keeps what its start inherited: {open:?}");
            }
            shim.end(id)
        })
    });
}
