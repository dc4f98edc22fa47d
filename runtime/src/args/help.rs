//! `--help`, printed from the table in the layout of Go's command line packages.

use super::table::{COMMANDS, Command, Flag, GLOBAL, Takes};

/// The help of one command, or of the program called `program`.
pub(crate) fn help(program: &str, command: Option<&Command>) -> String {
    match command {
        Some(command) => of_command(program, command),
        None => of_program(program),
    }
}

fn of_command(program: &str, command: &Command) -> String {
    let Command { name, operands, summary, about, flags, .. } = command;
    let options = if flags.is_empty() { "" } else { "[command options] " };
    let mut text = format!("NAME:\n   {program} {name} - {summary}\n\nUSAGE:\n   {program} {name} {options}{operands}\n");
    if !about.is_empty() {
        text.push_str(&format!("\nDESCRIPTION:\n   {about}\n"));
    }
    text.push_str("\nOPTIONS:\n");
    let help = GLOBAL.iter().filter(|f| f.long == "help");
    table(&mut text, flags.iter().chain(help).filter(|f| !f.help.is_empty()).map(|f| (spelling(f), f.help)));
    text
}

fn of_program(program: &str) -> String {
    let mut text = format!(
        "NAME:\n   {program} - Open Container Initiative runtime: runs containers as its specification describes them\n\n\
         USAGE:\n   {program} [global options] command [command options] [arguments...]\n\nCOMMANDS:\n"
    );
    table(&mut text, COMMANDS.iter().map(|c| (c.name.to_string(), c.summary)));
    text.push_str("\nGLOBAL OPTIONS:\n");
    table(&mut text, GLOBAL.iter().filter(|f| !f.help.is_empty()).map(|f| (spelling(f), f.help)));
    text
}

fn spelling(flag: &Flag) -> String {
    let value = if matches!(flag.takes, Takes::Nothing | Takes::Perhaps | Takes::OneOf(_)) { "" } else { " value" };
    match flag.short {
        Some(c) => format!("--{}{value}, -{c}{value}", flag.long),
        None => format!("--{}{value}", flag.long),
    }
}

fn table<'a>(text: &mut String, rows: impl Iterator<Item = (String, &'a str)>) {
    let rows: Vec<_> = rows.collect();
    let width = rows.iter().map(|(left, _)| left.len()).max().unwrap_or_default();
    for (left, right) in rows {
        text.push_str(&format!("   {left:width$}  {right}\n"));
    }
}
