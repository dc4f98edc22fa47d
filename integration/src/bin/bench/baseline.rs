//! The counts kept in the repository: system calls and page faults of the first runtime. They do not depend on the load of the
//! machine. The comparison fails for a change that needs noticeably more.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::options::Options;
use crate::prepare::view;
use crate::steps::Results;
use crate::syscalls::Count;
use crate::table;

/// The tolerance: 2 per cent and two for system calls, 10 per cent and eight for page faults, because the kernel's placement of
/// memory changes the faults a little.
fn allowed(what: &str, kept: i64) -> i64 {
    if what == "syscalls" { kept + kept / 50 + 2 } else { kept + kept / 10 + 8 }
}

/// Saves or compares the system calls, as the options say. False if there are too many.
pub(crate) fn calls(options: &Options, bundle: &str, counts: &[Count]) -> Result<bool> {
    let first = options.runtimes.first().map(|(name, _)| name.as_str()).unwrap_or_default();
    let own = counts.iter().filter(|count| count.runtime == first);
    let numbers = own.map(|count| Ok((count.step.to_owned(), i64::try_from(count.calls)?))).collect::<Result<Vec<_>>>()?;
    settle(options, bundle, "syscalls", &numbers)
}

/// Saves or compares the page faults, as the options say. False if there are too many.
pub(crate) fn faults(options: &Options, bundle: &str, results: &[Results]) -> Result<bool> {
    let first = |part: &Results| Some((part.step.clone(), table::faults(part.samples.first()?)));
    let numbers: Vec<_> = results.iter().filter_map(first).collect();
    settle(options, bundle, "faults", &numbers)
}

fn settle(options: &Options, bundle: &str, what: &str, numbers: &[(String, i64)]) -> Result<bool> {
    let mut good = true;
    if let Some(file) = &options.compare {
        let all = read(file)?;
        let kept = &all[bundle][view()][what];
        let mut compared = 0;
        for (step, number) in numbers {
            let Some(kept) = kept[step].as_i64() else { continue };
            compared += 1;
            if *number > allowed(what, kept) {
                println!("worse: {bundle} {} {step}: {number} {what}, {kept} in {}", view(), file.display());
                good = false;
            }
        }
        println!("{compared} numbers of {what} compared with {}: {}", file.display(), if good { "as good" } else { "worse" });
    }
    if let Some(file) = &options.save {
        let mut all = if file.exists() { read(file)? } else { json!({}) };
        for (step, number) in numbers {
            all[bundle][view()][what][step] = json!(number);
        }
        fs::write(file, serde_json::to_string_pretty(&all)? + "\n").with_context(|| format!("write {}", file.display()))?;
    }
    Ok(good)
}

fn read(file: &Path) -> Result<Value> {
    let text = fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    serde_json::from_str(&text).with_context(|| format!("parse {}", file.display()))
}
