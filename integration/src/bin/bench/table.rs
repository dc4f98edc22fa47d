//! The table of times.

use std::fmt::Write;

use crate::steps::{Results, Sample};

/// The value below which `percent` of the samples lie.
pub(crate) fn percentile(samples: &[Sample], percent: usize, value: impl Fn(&Sample) -> f64) -> f64 {
    let mut values: Vec<f64> = samples.iter().map(value).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() * percent / 100).copied().unwrap_or(f64::NAN)
}

/// The median of the page faults.
#[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "page faults of one command are far below 2^52")]
pub(crate) fn faults(samples: &[Sample]) -> i64 {
    percentile(samples, 50, |sample| sample.faults as f64) as i64
}

/// One line for each step and runtime.
pub(crate) fn table(runtimes: &[String], results: &[Results]) -> String {
    let mut text = String::new();
    let _ = writeln!(
        text,
        "{:<14}{:<14}{:>10}{:>10}{:>8}{:>10}{:>10}{:>8}",
        "step", "runtime", "median ms", "p10 ms", "ratio", "cpu ms", "peak KiB", "faults"
    );
    for part in results {
        let base = part.samples.first().map_or(f64::NAN, |samples| percentile(samples, 50, |sample| sample.wall));
        for (name, samples) in runtimes.iter().zip(&part.samples) {
            let median = percentile(samples, 50, |sample| sample.wall);
            let tenth = percentile(samples, 10, |sample| sample.wall);
            let cpu = percentile(samples, 50, |sample| sample.cpu);
            let peak = samples.iter().map(|sample| sample.peak).max().unwrap_or_default();
            let failed = samples.iter().filter(|sample| sample.failed).count();
            let mark = if failed > 0 { format!("  FAILED {failed} of {}", samples.len()) } else { String::new() };
            let _ = writeln!(
                text,
                "{:<14}{name:<14}{median:>10.2}{tenth:>10.2}{:>8.2}{cpu:>10.2}{peak:>10}{:>8}{mark}",
                part.step,
                median / base,
                faults(samples)
            );
        }
    }
    text
}
