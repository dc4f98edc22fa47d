use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, PidfdFlags};
use rustix::pty::OpenptFlags;
use rustix::termios::{LocalModes, Winsize};

use super::*;
use crate::poll::wait;

/// A terminal: its master and the other end.
fn terminal() -> (OwnedFd, OwnedFd) {
    let master = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    rustix::pty::unlockpt(&master).unwrap();
    let name = rustix::pty::ptsname(&master, Vec::new()).unwrap();
    let slave = rustix::fs::open(&*name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).unwrap();
    // libcontainer also turns ONLCR off in a relayed terminal
    let mut modes = tcgetattr(&master).unwrap();
    modes.output_modes.remove(OutputModes::ONLCR);
    tcsetattr(&master, OptionalActions::Now, &modes).unwrap();
    (master, slave)
}

fn pipe() -> (OwnedFd, OwnedFd) {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap()
}

/// One round of the relay's poll loop.
fn round(relay: &mut Relay<'_>) {
    let mut wanted = Vec::new();
    relay.wants(&mut wanted);
    for source in wait(&wanted).unwrap() {
        relay.ready(source).unwrap();
    }
    relay.turn();
}

/// Runs rounds until the process has exited and all its output is written.
fn attend(relay: &mut Relay<'_>, child: &mut Child) {
    let pidfd = rustix::process::pidfd_open(Pid::from_child(child), PidfdFlags::empty()).unwrap();
    let mut ended = false;
    while !ended || !relay.is_drained() {
        let mut wanted = Vec::new();
        relay.wants(&mut wanted);
        if !ended {
            wanted.push((Source::Process, pidfd.as_fd(), PollFlags::IN));
        }
        for source in wait(&wanted).unwrap() {
            ended |= source == Source::Process;
            relay.ready(source).unwrap();
        }
        if ended {
            relay.finish();
        }
        relay.turn();
    }
    assert!(child.wait().unwrap().success());
}

#[test]
fn all_that_a_process_printed_arrives() {
    let (master, slave) = terminal();
    let ((_keep, stdin), (read, stdout)) = (pipe(), pipe());
    // the output is larger than the buffers of the terminal and the pipe together
    let mut relay = Relay::new(master, None, stdin.as_fd(), stdout.as_fd()).unwrap();
    let mut child = Command::new("seq").arg("30000").stdout(Stdio::from(slave)).spawn().unwrap();
    let reader = std::thread::Builder::new().spawn(move || {
        let mut text = String::new();
        std::fs::File::from(read).read_to_string(&mut text).unwrap();
        text
    });
    attend(&mut relay, &mut child);
    drop(relay);
    drop(stdout);
    let expected: String = (1..=30_000).map(|n| format!("{n}\n")).collect();
    assert!(reader.unwrap().join().unwrap() == expected);
}

#[test]
fn what_is_typed_reaches_the_terminal() {
    let (master, slave) = terminal();
    let mut modes = tcgetattr(&slave).unwrap();
    modes.make_raw();
    tcsetattr(&slave, OptionalActions::Now, &modes).unwrap();
    let ((stdin, write), (_read, stdout)) = (pipe(), pipe());
    let mut relay = Relay::new(master, None, stdin.as_fd(), stdout.as_fd()).unwrap();
    std::fs::File::from(write).write_all(b"ls\x03\n").unwrap();
    round(&mut relay);
    let mut bytes = [0; 4];
    std::fs::File::from(slave).read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"ls\x03\n");
    // after the end of the input, standard input is not polled any more
    while relay.stdin_open {
        round(&mut relay);
    }
    let mut wanted = Vec::new();
    relay.wants(&mut wanted);
    assert!(!wanted.iter().any(|(source, ..)| *source == Source::Stdin));
}

#[test]
fn a_terminal_that_is_closed_and_opened_again_is_quiet_between() {
    let (master, slave) = terminal();
    let name = rustix::termios::ttyname(&slave, Vec::new()).unwrap();
    let ((_keep, stdin), (read, stdout)) = (pipe(), pipe());
    let mut relay = Relay::new(master, None, stdin.as_fd(), stdout.as_fd()).unwrap();
    drop(slave);
    round(&mut relay);
    // hung up: poll(2) must not report the terminal again and again
    let mut fds = [rustix::event::PollFd::new(&relay.edges, PollFlags::IN)];
    let none = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    assert_eq!(rustix::event::poll(&mut fds, Some(&none)), Ok(0));
    assert!(!relay.is_drained());

    let again = rustix::fs::open(&*name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).unwrap();
    rustix::io::write(&again, b"back\n").unwrap();
    while relay.printed.is_empty() {
        round(&mut relay);
    }
    round(&mut relay);
    let mut bytes = [0; 5];
    std::fs::File::from(read).read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"back\n");
}

#[test]
fn a_reader_that_goes_away_does_not_stop_the_container() {
    let (master, slave) = terminal();
    let ((_keep, stdin), (read, stdout)) = (pipe(), pipe());
    drop(read);
    let mut child = Command::new("seq").arg("30000").stdout(Stdio::from(slave)).spawn().unwrap();
    let mut relay = Relay::new(master, None, stdin.as_fd(), stdout.as_fd()).unwrap();
    attend(&mut relay, &mut child);
    assert!(!relay.stdout_open);
}

#[test]
fn our_terminal_is_raw_meanwhile_and_gives_its_size() {
    let (_ours_master, ours) = terminal();
    tcsetwinsize(&ours, Winsize { ws_row: 33, ws_col: 99, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
    let before = tcgetattr(&ours).unwrap();
    let (master, slave) = terminal();
    let ((_keep, stdin), (_read, stdout)) = (pipe(), pipe());
    let host = HostTerminal::make_raw(rustix::io::dup(&ours).unwrap(), before.clone()).unwrap();
    let relay = Relay::new(master, Some(host), stdin.as_fd(), stdout.as_fd()).unwrap();
    let size = tcgetwinsize(&slave).unwrap();
    assert_eq!((size.ws_row, size.ws_col), (33, 99));
    let raw = tcgetattr(&ours).unwrap();
    assert!(!raw.local_modes.intersects(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG));
    assert!(raw.output_modes.contains(OutputModes::OPOST));
    drop(relay);
    let after = tcgetattr(&ours).unwrap();
    assert_eq!((after.local_modes, after.input_modes, after.output_modes), (before.local_modes, before.input_modes, before.output_modes));
}
