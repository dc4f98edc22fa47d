//! Seccomp filters in the kernel. Each test runs this program again with a mode in the environment, because a filter cannot be
//! removed. That child loads a filter, makes system calls and prints their results.
#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::io::IoSliceMut;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Output, Stdio};

use libcontainer::seccomp::{Filter, compile, listener};
use libcontainer::spec::Seccomp;
use masu_host::sys::seccomp::load;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

const PROFILE: &str = "MASU_TEST_SECCOMP";

fn filter(json: &str) -> Filter {
    compile(&serde_json::from_str::<Seccomp>(json).unwrap()).unwrap().unwrap()
}

/// Runs the test `child` below under the profile.
fn under(profile: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "--nocapture", "--ignored", "--test-threads=1", "child"]).env(PROFILE, profile).stdin(Stdio::null());
    command
}

fn said(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().filter_map(|line| line.split_once("SAYS ")).map(|(_, said)| format!("{said}\n")).collect()
}

#[test]
#[ignore = "run by the tests below, under a filter"]
fn child() {
    let filter = filter(&std::env::var(PROFILE).unwrap());
    let agent = filter.listener.as_ref().map(|l| listener::connect(&l.path).unwrap());
    rustix::thread::set_no_new_privs(true).unwrap();
    // the filter as exec reads it from the state directory
    let filter = Filter::from_bytes(&filter.to_bytes()).unwrap();
    let fd = load(&filter.program, filter.flags).unwrap();
    if let Some((agent, fd)) = agent.zip(fd) {
        listener::send(agent.as_fd(), b"{\"fds\":[\"seccompFd\"]}", fd.as_fd()).unwrap();
    }
    let made = std::fs::create_dir("/proc/masu-no-such-folder").unwrap_err();
    println!("SAYS mkdir {}", made.raw_os_error().unwrap());
    println!("SAYS uname {}", rustix::system::uname().sysname().to_str().unwrap());
    let priority = |of: i32| rustix::process::getpriority_process(rustix::process::Pid::from_raw(of)).map_err(|e| e.raw_os_error()).is_ok();
    println!("SAYS getpriority {} {}", priority(0), priority(1));
    println!("SAYS sync {:?}", rustix::fs::sync());
}

#[test]
fn denied_calls_get_their_errno() {
    // the arguments of getpriority(2) are PRIO_PROCESS (0) and a pid: only pid 1 is refused
    let profile = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[
        {"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":95},
        {"names":["getpriority"],"action":"SCMP_ACT_ERRNO","args":[{"index":0,"value":0,"op":"SCMP_CMP_EQ"},{"index":1,"value":1,"op":"SCMP_CMP_EQ"}]}]}"#;
    let output = under(profile).output().unwrap();
    assert_eq!(said(&output), "mkdir 95\nuname Linux\ngetpriority true false\nsync ()\n", "{output:?}");
    assert!(output.status.success());
}

#[test]
fn dockers_profile_loads_and_runs_a_program() {
    let config: serde_json::Value = serde_json::from_str(include_str!("../../bundles/docker-default/config.json")).unwrap();
    let output = under(&config["linux"]["seccomp"].to_string()).output().unwrap();
    // the filter allows mkdir, procfs refuses it
    assert_eq!(said(&output), "mkdir 2\nuname Linux\ngetpriority true true\nsync ()\n", "{output:?}");
}

#[test]
fn killing_actions_kill() {
    let profile = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["sync"],"action":"SCMP_ACT_KILL_PROCESS"}]}"#;
    let output = under(profile).output().unwrap();
    assert_eq!(said(&output), "mkdir 2\nuname Linux\ngetpriority true true\n");
    assert_eq!(output.status.signal(), Some(31), "SIGSYS");
}

#[test]
fn every_flag_loads() {
    for flags in [r#"[]"#, r#"["SECCOMP_FILTER_FLAG_LOG"]"#, r#"["SECCOMP_FILTER_FLAG_TSYNC","SECCOMP_FILTER_FLAG_SPEC_ALLOW"]"#] {
        let output = under(&format!(r#"{{"defaultAction":"SCMP_ACT_ALLOW","flags":{flags}}}"#)).output().unwrap();
        assert!(said(&output).ends_with("sync ()\n"), "{flags} {output:?}");
    }
}

#[test]
fn the_agent_gets_the_notification_fd() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent");
    let agent = UnixListener::bind(&path).unwrap();
    let profile = format!(
        r#"{{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"{}","flags":["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"],
        "syscalls":[{{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_NOTIFY"}}]}}"#,
        path.display()
    );
    let child = under(&profile).stdout(Stdio::piped()).spawn().unwrap();
    let (peer, _) = agent.accept().unwrap();
    let mut text = [0; 64];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let n = recvmsg(&peer, &mut [IoSliceMut::new(&mut text)], &mut control, RecvFlags::CMSG_CLOEXEC).unwrap().bytes;
    assert_eq!(&text[..n], b"{\"fds\":[\"seccompFd\"]}");
    let fds: Vec<OwnedFd> =
        control.drain().flat_map(|m| if let RecvAncillaryMessage::ScmRights(fds) = m { fds.collect() } else { vec![] }).collect();
    let [fd] = &fds[..] else { panic!("{fds:?}") };
    let what = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap();
    assert_eq!(what.to_str().unwrap(), "anon_inode:seccomp notify");
    // the call waits for an answer: without a listener it becomes ENOSYS, and the child goes on
    let mut asked = [rustix::event::PollFd::new(fd, rustix::event::PollFlags::IN)];
    rustix::event::poll(&mut asked, None).unwrap();
    assert!(asked[0].revents().contains(rustix::event::PollFlags::IN));
    drop(fds);
    let output = child.wait_with_output().unwrap();
    assert!(said(&output).starts_with("mkdir 38\nuname Linux\n"), "{output:?}");
}
