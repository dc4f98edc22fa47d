//! Durations as Go programs write them, for flags that callers know from runc.

use std::time::Duration;

use libcontainer::error::{Error, Result};

/// Parses the value of `flag`, which must be greater than zero.
pub(super) fn interval(flag: &str, text: &str) -> Result<Duration> {
    let nanoseconds = duration(text).ok_or_else(|| Error::invalid(format!("invalid value \"{text}\" for flag -{flag}: no duration")))?;
    match u64::try_from(nanoseconds) {
        Ok(n) if n > 0 => Ok(Duration::from_nanos(n)),
        _ => Err(Error::invalid(format!("duration {flag} must be greater than 0"))),
    }
}

/// Parses `1h2m3.5s`, `100ms`, `-1s` or `0` as Go's time.ParseDuration does. The result is in nanoseconds.
fn duration(text: &str) -> Option<i64> {
    const UNITS: [(&str, f64); 8] =
        [("ns", 1.0), ("us", 1e3), ("µs", 1e3), ("μs", 1e3), ("ms", 1e6), ("s", 1e9), ("m", 6e10), ("h", 3.6e12)];
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    let mut sum = 0.0;
    loop {
        let (number, after) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit() && c != '.')?);
        let number: f64 = number.parse().ok()?;
        let (unit, after) = after.split_at(after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len()));
        sum += number * UNITS.iter().find(|(name, _)| *name == unit)?.1;
        if after.is_empty() {
            break;
        }
        rest = after;
    }
    (sum < 9e18).then_some((sign * sum) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, n) in [
            ("5s", 5_000_000_000),
            ("100ms", 100_000_000),
            ("1m30s", 90_000_000_000),
            ("1h", 3_600_000_000_000),
            ("1.5s", 1_500_000_000),
            (".5s", 500_000_000),
            ("10us", 10_000),
            ("10µs", 10_000),
            ("7ns", 7),
            ("0", 0),
            ("-1s", -1_000_000_000),
            ("+2s", 2_000_000_000),
        ] {
            assert_eq!(duration(text), Some(n), "{text}");
        }
        for text in ["", "5", "s", "5x", "5 s", ".s", "1..5s", "-", "5s3", "9999999999h"] {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    #[test]
    fn an_interval_is_more_than_nothing() {
        assert_eq!(interval("interval", "0s").unwrap_err().text(), "duration interval must be greater than 0");
        assert_eq!(interval("interval", "-1s").unwrap_err().text(), "duration interval must be greater than 0");
        assert_eq!(interval("interval", "5").unwrap_err().text(), "invalid value \"5\" for flag -interval: no duration");
    }
}
