//! Errors and warnings: written to the target of `--log` as text or JSON lines in runc's format, else to standard error.
//!
//! containerd reads the last JSON line whose level is `error`. podman reads the whole file as one JSON object. So at the default
//! level a failing command writes one line, and a successful one writes none.

use std::fs::File;
use std::io::{self, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use libcontainer::error::{Doing, Error, Result};
use log::{Level, LevelFilter, Log, Metadata, Record};
use masu_host::time;
use rustix::fs::{Mode, OFlags};
use serde_json::json;

mod service;

use service::Service;

use crate::args::Args;

/// The logger of this process.
#[derive(Debug)]
pub(crate) struct Sink {
    target: Option<Target>,
    json: bool,
}

/// The target of `--log`.
#[derive(Debug)]
enum Target {
    File(File),
    /// syslog(3) or journald, through its socket.
    Service(Service),
}

impl Sink {
    /// Opens the log as `--log`, `--log-format`, `--log-level` and `--debug` say. Called before the command runs.
    pub(crate) fn open(args: &Args) -> Result<&'static Sink> {
        let json = match args.text("log-format") {
            None | Some("text") => false,
            Some("json") => true,
            Some(other) => return Err(Error::invalid(format!("invalid log-format: {other}"))),
        };
        let target = args.text("log").map(open).transpose()?;
        // by default no warnings go to a file, because podman could not parse a warning next to the error
        let level = match (args.on("debug"), args.text("log-level")) {
            (true, _) | (_, Some("debug")) => LevelFilter::Debug,
            (_, Some("info")) => LevelFilter::Info,
            (_, Some("warning")) => LevelFilter::Warn,
            (_, Some("error")) => LevelFilter::Error,
            (_, None) if target.is_some() => LevelFilter::Error,
            (_, None) => LevelFilter::Warn,
            (_, Some(other)) => return Err(Error::invalid(format!("invalid log-level: {other}"))),
        };
        let sink: &'static Sink = Box::leak(Box::new(Sink { target, json }));
        if log::set_logger(sink).is_ok() {
            log::set_max_level(level);
        }
        Ok(sink)
    }

    /// Writes the command's error: one line to the log, one to standard error.
    pub(crate) fn failure(&self, line: &str, error: Option<&Error>) {
        // on a full disk the error is not lost, because it also goes to standard error
        let _ = self.write(Level::Error, line, error);
        if self.target.is_none() && self.json {
            complain(entry(true, Level::Error, line, error).trim_end());
        } else {
            // a hook's output may have several lines, but callers read one
            complain(&line.trim_end().replace('\n', " "));
        }
    }

    /// Writes one entry to the target of `--log`, if there is one.
    fn write(&self, level: Level, text: &str, error: Option<&Error>) -> io::Result<()> {
        match &self.target {
            Some(Target::File(file)) => {
                let mut file = file;
                file.write_all(entry(self.json, level, text, error).as_bytes())
            }
            // the services add the time themselves
            Some(Target::Service(service)) if self.json => service.send(level, entry(true, level, text, error).trim_end()),
            Some(Target::Service(service)) => service.send(level, text),
            None => Ok(()),
        }
    }
}

impl Log for Sink {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let text = record.args().to_string();
        let _ = match self.target {
            Some(_) => self.write(record.level(), &text, None),
            None => io::stderr().write_all(entry(self.json, record.level(), &text, None).as_bytes()),
        };
    }

    fn flush(&self) {}
}

/// Writes one line to standard error. A failure is ignored, because there is nowhere to report it.
pub(crate) fn complain(line: &str) {
    let _ = io::stderr().write_all(format!("{line}\n").as_bytes());
}

fn open(target: &str) -> Result<Target> {
    let path = match target.split_once(':') {
        Some(("file", path)) => path,
        Some((kind @ ("journald" | "syslog"), id)) => return Service::connect(kind, id).map(Target::Service),
        _ => target,
    };
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOCTTY;
    // not through a symbolic link, because other users may write to the directory; /dev/stderr is one by design
    let follow = path.starts_with("/dev/") || path.starts_with("/proc/self/fd/");
    let flags = if follow { flags } else { flags | OFlags::NOFOLLOW };
    let fd = rustix::fs::open(path, flags, Mode::from_raw_mode(0o644)).doing(|| format!("open log file {path}"))?;
    Ok(Target::File(File::from(fd)))
}

/// One log line with its newline.
fn entry(json: bool, level: Level, text: &str, error: Option<&Error>) -> String {
    // logrus' names, because callers compare them
    let level = match level {
        Level::Error => "error",
        Level::Warn => "warning",
        Level::Info => "info",
        Level::Debug | Level::Trace => "debug",
    };
    let time = time::format(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(), None);
    // JSON and Go quote a text alike, except for unprintable characters
    let quoted = json!(text);
    if !json {
        return format!("time=\"{time}\" level={level} msg={quoted}\n");
    }
    let mut line = format!("{{\"level\":\"{level}\",\"msg\":{quoted},\"time\":\"{time}\"");
    if let Some(error) = error {
        line.push_str(&format!(",\"kind\":\"{}\"", error.kind().name()));
        if let Some(errno) = error.errno() {
            line.push_str(&format!(",\"errno\":{}", errno.raw_os_error()));
        }
        if let Some(step) = error.step() {
            line.push_str(&format!(",\"step\":\"{step}\""));
        }
    }
    line.push_str("}\n");
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use libcontainer::error::Kind;

    #[test]
    fn a_json_line_is_one_object_with_the_keys_of_runc_and_ours() {
        let error = Error::from(rustix::io::Errno::NOENT).context("open \"/x\"").in_step("rootfs");
        let line = entry(true, Level::Error, "masu run failed: open \"/x\":\nno", Some(&error));
        assert_eq!(line.matches('\n').count(), 1);
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["level"], "error");
        assert_eq!(value["msg"], "masu run failed: open \"/x\":\nno");
        assert_eq!(value["time"].as_str().unwrap().len(), 20);
        assert_eq!((&value["kind"], &value["errno"], &value["step"]), (&json!("os"), &json!(2), &json!("rootfs")));
        let line = entry(true, Level::Error, "x", Some(&Error::new(Kind::NotFound, "x")));
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert!(value["kind"] == "not-found" && value.get("errno").is_none() && value.get("step").is_none());
    }

    #[test]
    fn a_text_line_is_that_of_logrus() {
        let line = entry(false, Level::Warn, "say \"hi\"\n", None);
        let (time, rest) = line.split_at(28);
        assert!(time.starts_with("time=\"20") && time.ends_with("Z\" "), "{time}");
        assert_eq!(rest, "level=warning msg=\"say \\\"hi\\\"\\n\"\n");
    }

    #[test]
    fn a_file_is_opened_with_or_without_its_kind() {
        assert_eq!(open("/nonexistent/x").unwrap_err().text(), "open log file /nonexistent/x: no such file or directory");
        assert_eq!(open("file:/nonexistent/x").unwrap_err().text(), "open log file /nonexistent/x: no such file or directory");
    }
}
