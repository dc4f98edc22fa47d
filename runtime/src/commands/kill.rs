//! `kill`: sends a signal to a container.

use anyhow::Result;
use libcontainer::error::{Error, Kind};

use crate::call::Call;

pub(super) fn run(call: &Call<'_>) -> Result<u8> {
    let word = call.args.operands.get(1).map_or("", String::as_str);
    let signal = number(word).ok_or_else(|| Error::invalid(format!("unknown signal \"{word}\"")))?;
    let all = call.args.on("all");
    if call.args.on("regex") {
        let runtime = call.runtime()?;
        return super::delete::each_match(call, |id| runtime.open(id)?.kill(signal, all));
    }
    match call.container()?.kill(signal, all) {
        // with --all the caller wants no process to be left, and none is
        Err(e) if all && e.kind() == Kind::WrongStatus => Ok(0),
        result => Ok(result.map(|()| 0)?),
    }
}

/// The names of signals 1 to 31 in order, on x86 and Arm (signal(7)).
#[cfg(not(any(target_arch = "mips", target_arch = "mips64", target_arch = "sparc64")))]
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM", "TERM", "STKFLT", "CHLD",
    "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// Parses a number, or a name in any case, with or without SIG. An empty text is SIGTERM. Signal 0 only checks that the process
/// exists.
fn number(word: &str) -> Option<i32> {
    if let Ok(number) = word.parse::<i32>() {
        return Some(number).filter(|n| *n >= 0);
    }
    let upper = word.to_ascii_uppercase();
    let name = match upper.strip_prefix("SIG").unwrap_or(&upper) {
        "" if word.is_empty() => "TERM",
        "IOT" => "ABRT",
        "CLD" => "CHLD",
        "POLL" => "IO",
        name => name,
    };
    if let Some(i) = NAMES.iter().position(|n| *n == name) {
        return i32::try_from(i + 1).ok();
    }
    // 34, because the C libraries use 32 and 33 internally
    let (first, last) = (34, 64);
    let step = |rest: &str, sign| match rest {
        "" => Some(0),
        rest => rest.strip_prefix(sign).filter(|d| d.bytes().all(|b| b.is_ascii_digit())).and_then(|d| d.parse::<i32>().ok()),
    };
    let number = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
        (Some(rest), _) => first + step(rest, '+').filter(|n| *n <= last - first)?,
        (_, Some(rest)) => last - step(rest, '-').filter(|n| *n <= last - first)?,
        _ => return None,
    };
    Some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals() {
        for (word, n) in [
            ("", 15),
            ("0", 0),
            ("9", 9),
            ("KILL", 9),
            ("SIGKILL", 9),
            ("sigkill", 9),
            ("kill", 9),
            ("Usr1", 10),
            ("IOT", 6),
            ("winch", 28),
            ("SYS", 31),
            ("RTMIN", 34),
            ("SIGRTMIN+3", 37),
            ("rtmin+30", 64),
            ("RTMAX", 64),
            ("RTMAX-1", 63),
            ("37", 37),
        ] {
            assert_eq!(number(word), Some(n), "{word}");
        }
        for word in [
            "-9",
            "SIG",
            "NOPE",
            "SIGSIGKILL",
            "RTMIN+31",
            "RTMIN-1",
            "RTMIN+",
            "RTMIN+x",
            "RTMIN++1",
            "RTMAX+1",
            "RTMAX-99999999999",
            "9 ",
        ] {
            assert_eq!(number(word), None, "{word}");
        }
    }
}
