//! Watches a container in one poll loop: its statistics, each kill for want of memory, and its end.
//!
//! ```text
//! watch STATE-ROOT ID [MILLISECONDS]
//! ```
#![allow(clippy::print_stdout, reason = "this is what it is for")]

use std::os::fd::AsFd;
use std::time::Duration;

use libcontainer::cgroup::OomNotice;
use libcontainer::{Result, Runtime};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let [_, root, id, rest @ ..] = args.as_slice() else {
        println!("watch STATE-ROOT ID [MILLISECONDS]");
        return Ok(());
    };
    let pause = Duration::from_millis(rest.first().and_then(|text| text.parse().ok()).unwrap_or(1000));
    let container = Runtime::new(root).open(id)?;
    let Some(end) = container.pidfd()? else {
        println!("{id} has ended");
        return Ok(());
    };
    let mut events = container.oom_events_with_victims()?;
    let pause = Timespec { tv_sec: pause.as_secs().cast_signed(), tv_nsec: pause.subsec_nanos().into() };
    loop {
        let (ended, noticed) = {
            let mut fds = [PollFd::new(&end, PollFlags::IN), PollFd::from_borrowed_fd(events.as_fd(), PollFlags::IN | PollFlags::PRI)];
            poll(&mut fds, Some(&pause))?;
            (!fds[0].revents().is_empty(), !fds[1].revents().is_empty())
        };
        if noticed && events.read()? == OomNotice::Oom {
            println!("killed for want of memory: {:?}", events.victims());
        }
        if ended {
            println!("{id} has ended");
            return Ok(());
        }
        let stats = container.stats()?;
        println!("memory {} bytes, processor {} ns", stats.memory.usage.usage, stats.cpu.usage.total);
    }
}
