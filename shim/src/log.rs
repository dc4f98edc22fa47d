//! The shim's log: logrus' text lines into the fifo that containerd reads, `log` in the bundle. When nobody reads, lines are
//! lost, and nothing waits.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use log::{Level, LevelFilter, Log, Metadata, Record};
use masu_host::time;
use rustix::fs::{Mode, OFlags};

#[derive(Debug)]
struct Sink(Option<File>);

static SINK: OnceLock<Sink> = OnceLock::new();

/// Begins to log to `fifo`. It is opened for both sides: so it outlives containerd, and cannot block.
pub(crate) fn open(fifo: &Path, debug: bool) {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = rustix::fs::open(fifo, flags, Mode::empty()).ok().map(File::from);
    if log::set_logger(SINK.get_or_init(|| Sink(file))).is_ok() {
        log::set_max_level(if debug { LevelFilter::Debug } else { LevelFilter::Info });
    }
}

/// The fifo, for forks that are to log.
pub(crate) fn fd() -> Option<BorrowedFd<'static>> {
    SINK.get()?.0.as_ref().map(AsFd::as_fd)
}

impl Log for Sink {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        self.0.is_some()
    }

    fn log(&self, record: &Record<'_>) {
        if let Some(mut file) = self.0.as_ref() {
            let _ = file.write_all(line(record.level(), &record.args().to_string()).as_bytes());
        }
    }

    fn flush(&self) {}
}

fn line(level: Level, text: &str) -> String {
    let level = match level {
        Level::Error => "error",
        Level::Warn => "warning",
        Level::Info => "info",
        Level::Debug | Level::Trace => "debug",
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let time = time::format(now.as_secs(), Some(now.subsec_nanos()));
    let quoted = serde_json::Value::from(text);
    format!("time=\"{time}\" level={level} msg={quoted} runtime=io.containerd.masu.v2\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_of_logrus() {
        let text = line(Level::Warn, "say \"hi\"\n");
        assert!(text.starts_with("time=\"20"), "{text}");
        assert!(text.ends_with("Z\" level=warning msg=\"say \\\"hi\\\"\\n\" runtime=io.containerd.masu.v2\n"), "{text}");
    }
}
