//! `ps`: prints the processes of a container, as process ids or as the host's ps(1) shows them.

use std::process::Command;

use anyhow::Result;
use libcontainer::error::{self, Doing, Error, Kind};

use crate::call::Call;

pub(super) fn run(call: &Call<'_>) -> Result<u8> {
    let format = call.args.text("format").unwrap_or("table");
    if !matches!(format, "table" | "json") {
        return Err(Error::invalid(format!("invalid format option: {format}")).into());
    }
    let pids = call.container()?.processes()?;
    if format == "json" {
        // Go's encoder writes null for an empty list
        super::print_json(&(!pids.is_empty()).then_some(&pids))?;
        return Ok(0);
    }
    let options = call.args.operands.get(1..).unwrap_or_default();
    let mut ps = Command::new("ps");
    if options.is_empty() {
        ps.arg("-ef")
    } else {
        ps.args(options)
    };
    let output = ps.output().doing(|| "run ps")?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let said = format!("{text}{}", String::from_utf8_lossy(&output.stderr));
        return Err(Error::new(Kind::Os, format!("ps: {}: {}", output.status, one_line(&said))).into());
    }
    super::print(filter(&text, &pids)?.as_bytes())?;
    Ok(0)
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Keeps the title and the lines whose PID column is one of `pids`.
fn filter(text: &str, pids: &[i32]) -> error::Result<String> {
    let mut lines = text.lines();
    let title = lines.next().unwrap_or_default();
    let column = title.split_whitespace().position(|word| word == "PID");
    let column = column.ok_or_else(|| Error::new(Kind::Internal, "couldn't find PID field in ps output"))?;
    let mut found = format!("{title}\n");
    for line in lines {
        let pid = line.split_whitespace().nth(column).and_then(|word| word.parse().ok());
        if pid.is_some_and(|pid: i32| pids.contains(&pid)) {
            found.push_str(line);
            found.push('\n');
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_chosen_by_the_column_pid() {
        let text =
            "UID          PID    PPID CMD\nroot           1       0 init 12\nroot          12       1 sh\nroot         120      12 ps\n\n";
        assert_eq!(filter(text, &[12, 7]).unwrap(), "UID          PID    PPID CMD\nroot          12       1 sh\n");
        assert_eq!(filter(text, &[]).unwrap(), "UID          PID    PPID CMD\n");
        assert_eq!(filter("CMD\nsh\n", &[1]).unwrap_err().text(), "couldn't find PID field in ps output");
        assert!(filter("", &[1]).is_err());
    }
}
