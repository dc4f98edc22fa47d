//! Looks for processes whose /proc files can be read, the first step of CVE-2016-9962 and CVE-2019-5736.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::Result;

/// For the given time, reads the files of all other processes in /proc that need the right to trace the process. Prints each
/// executable, root and descriptor that was found, once.
pub(crate) fn spy(seconds: &str) -> Result<()> {
    let end = Instant::now() + Duration::from_secs_f64(seconds.parse()?);
    let own = rustix::process::getpid().as_raw_nonzero().get();
    let mut found = BTreeSet::new();
    println!("ready");
    while Instant::now() < end {
        for entry in fs::read_dir("/proc")?.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()).filter(|pid| *pid != own) else {
                continue;
            };
            for link in ["exe", "root", "cwd"] {
                if let Ok(target) = fs::read_link(format!("/proc/{pid}/{link}")) {
                    found.insert(format!("{link} {}", target.display()));
                }
            }
            for fd in fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
                if let Ok(target) = fs::read_link(fd.path()) {
                    let target = target.to_string_lossy().into_owned();
                    // anonymous files by their type only
                    let kind = if target.starts_with('/') { &target } else { target.split(':').next().unwrap_or_default() };
                    found.insert(format!("fd {kind}"));
                    if kind == "socket" && fs::File::open(fd.path()).is_ok() {
                        found.insert("opened a socket".to_owned());
                    }
                }
            }
        }
    }
    found.iter().for_each(|line| println!("{line}"));
    println!("done");
    Ok(())
}
