//! `list`: prints the containers below --root, as a table or as JSON.

use std::collections::BTreeMap;

use anyhow::Result;
use libcontainer::container::Listed;
use libcontainer::error::Error;
use rustix::io::Errno;

use super::state::State;
use crate::call::Call;
use crate::log::complain;

pub(super) fn run(call: &Call<'_>) -> Result<u8> {
    let format = call.args.text("format").unwrap_or("table");
    if !matches!(format, "table" | "json") {
        return Err(Error::invalid(format!("invalid format option: {format}")).into());
    }
    let runtime = call.runtime()?;
    let found = match runtime.list() {
        // a missing default root means that there are no containers; a missing --root is a mistake
        Err(e) if e.errno() == Some(Errno::NOENT) && !call.args.given("root") => None,
        result => Some(result?),
    };
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let json = format == "json" && !call.args.on("quiet");
    let mut states = Vec::new();
    // a damaged container must not hide the others
    for container in found.into_iter().flatten() {
        match container.and_then(|c| row(c, &passwd, json)) {
            Ok(row) => states.push(row),
            Err(e) => complain(&e.to_string()),
        }
    }
    if call.args.on("quiet") {
        let ids: String = states.iter().map(|s| format!("{}\n", s.id)).collect();
        super::print(ids.as_bytes())?;
    } else if json {
        // Go's encoder writes null for an empty list
        super::print_json(&(!states.is_empty()).then_some(&states))?;
    } else {
        super::print(table(&states).as_bytes())?;
    }
    Ok(0)
}

fn row(container: Listed<'_>, passwd: &str, annotated: bool) -> Result<State, Error> {
    let annotations = if annotated { container.annotations()? } else { BTreeMap::new() };
    let owner = owner(passwd, container.record.owner);
    let mut state = State::of(container.record, container.status, owner);
    state.annotations = annotations;
    Ok(state)
}

fn table(states: &[State]) -> String {
    let mut rows = vec![["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_string)];
    rows.extend(
        states
            .iter()
            .map(|s| [s.id.to_string(), s.pid.to_string(), s.status.clone(), s.bundle.to_string(), s.created.to_string(), s.owner.clone()]),
    );
    // runc's columns: at least twelve wide, three blanks apart, the last one not padded
    let width = |i: usize| rows.iter().map(|r| r.get(i).map_or(0, |c| c.chars().count() + 3)).max().unwrap_or_default().max(12);
    let widths: Vec<usize> = (0..5).map(width).collect();
    let mut text = String::new();
    for [id, pid, status, bundle, created, owner] in &rows {
        for (cell, width) in [id, pid, status, bundle, created].into_iter().zip(&widths) {
            text.push_str(&format!("{cell:width$}"));
        }
        text.push_str(owner);
        text.push('\n');
    }
    text
}

/// The user's name from passwd(5), or `#uid`.
fn owner(passwd: &str, uid: u32) -> String {
    let uid = uid.to_string();
    let of = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == uid && !name.is_empty()).then(|| name.to_string())
    };
    passwd.lines().find_map(of).unwrap_or_else(|| format!("#{uid}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nbroken\n:x:7:7::/:\n1000:x:5:5::/:\ndaemon:x:1:1::/:/bin/false\n";
        assert_eq!(["root", "daemon", "1000", "#7", "#1000"].map(str::to_string), [0, 1, 5, 7, 1000].map(|uid| owner(passwd, uid)));
    }

    #[test]
    fn columns_are_three_blanks_apart_and_twelve_wide() {
        assert_eq!(table(&[]), "ID          PID         STATUS      BUNDLE      CREATED     OWNER\n");
        let mut state = State::for_test("a-rather-long-id");
        state.owner = "root".into();
        assert_eq!(
            table(&[state]),
            "ID                 PID         STATUS      BUNDLE      CREATED                          OWNER\n\
             a-rather-long-id   7           running     /b          2026-11-24T04:46:55.123456789Z   root\n"
        );
    }
}
