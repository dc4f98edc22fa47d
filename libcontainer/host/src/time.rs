//! The time of day as RFC 3339 text in UTC, for `state` and the log.

use std::time::{SystemTime, UNIX_EPOCH};

/// The current time, with nanoseconds: `2026-11-24T04:24:40.123456789Z`.
pub fn now() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format(since.as_secs(), Some(since.subsec_nanos()))
}

/// The text of `seconds` after 1970-01-01 00:00 UTC. With `None` it has no fraction, as in runc's log.
pub fn format(seconds: u64, nanoseconds: Option<u32>) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let fraction = nanoseconds.map(|n| format!(".{n:09}")).unwrap_or_default();
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}{fraction}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

/// Year, month and day of the Gregorian calendar, `days` after 1970-01-01. It counts eras of 400 years that begin on 1 March,
/// so that the leap day is the last day of its year.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_days() {
        assert_eq!(format(0, None), "1970-01-01T00:00:00Z");
        assert_eq!(format(951_782_400, None), "2000-02-29T00:00:00Z");
        assert_eq!(format(1_795_494_280, Some(5)), "2026-11-24T04:24:40.000000005Z");
        assert_eq!(format(4_107_542_399, None), "2100-02-28T23:59:59Z");
        assert_eq!(now().len(), 30);
    }
}
