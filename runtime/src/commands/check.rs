//! `check`: prints every error and warning of a bundle, a line each. The exit code is 1 if there is an error.

use std::path::Path;

use anyhow::Result;
use libcontainer::check::check;
use libcontainer::error::Error;
use libcontainer::findings::Finding;
use serde::Serialize;

use super::create::path;
use super::{print, print_json};
use crate::call::Call;

/// The output of `--format json`.
#[derive(Debug, Serialize)]
struct Report<'a> {
    errors: Vec<Entry<'a>>,
    warnings: Vec<Entry<'a>>,
}

#[derive(Debug, Serialize)]
struct Entry<'a> {
    path: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    text: &'a str,
}

pub(super) fn run(call: &Call<'_>) -> Result<u8> {
    let bundle = call.args.operands.first().map(|operand| Path::new(operand).to_owned());
    let found = check(&bundle.or_else(|| path(call.args, "bundle")).unwrap_or_else(|| ".".into()), path(call.args, "config").as_deref());
    let (errors, warnings): (Vec<&Finding>, Vec<&Finding>) = found.list().iter().partition(|finding| finding.kind.is_some());
    match call.args.text("format") {
        None | Some("text") => {
            let line = |word: &str, finding: &Finding| format!("{word}: {}\n", finding.line().replace('\n', "\\n"));
            let errors = errors.iter().map(|finding| line("error", finding));
            print(errors.chain(warnings.iter().map(|finding| line("warning", finding))).collect::<String>().as_bytes())?;
        }
        Some("json") => {
            let (errors, warnings) = (errors.into_iter().map(entry).collect(), warnings.into_iter().map(entry).collect());
            print_json(&Report { errors, warnings })?;
        }
        Some(other) => return Err(Error::invalid(format!("--format {other}: neither text nor json")).into()),
    }
    Ok(u8::from(found.is_wrong()))
}

fn entry(finding: &Finding) -> Entry<'_> {
    Entry { path: &finding.path, kind: finding.kind.map(|kind| kind.name()), text: &finding.text }
}
