//! How documents of ours are written as JSON: piece by piece.

use std::io::Write;

use masu_host::write::Pieces;
use serde::Serialize;

use crate::error::Result;

/// Writes `value` as JSON.
pub(super) fn write_json(file: &mut Pieces, value: &(impl Serialize + ?Sized)) -> Result<()> {
    Ok(serde_json::to_writer(file, value).map_err(std::io::Error::from)?)
}

/// Writes `text` as a string of JSON.
pub(super) fn write_text(file: &mut Pieces, text: &str) -> Result<()> {
    if !is_verbatim(text.as_bytes()) {
        return write_json(file, text);
    }
    for part in ["\"", text, "\""] {
        file.write_all(part.as_bytes())?;
    }
    Ok(())
}

/// Whether a string of JSON holds `bytes` as they are: no control character, quote or backslash. Eight at a time, for that is
/// most of the work with a megabyte of annotations.
fn is_verbatim(bytes: &[u8]) -> bool {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGH: u64 = ONES << 7;
    // the high bit of a byte is set where it is below `n`, which is at most 0x80
    let below = |word: u64, n: u64| word.wrapping_sub(ONES * n) & !word & HIGH;
    let (words, rest) = bytes.as_chunks();
    let special = |word: &[u8; 8]| {
        let word = u64::from_ne_bytes(*word);
        below(word, 0x20) | below(word ^ (ONES * u64::from(b'"')), 1) | below(word ^ (ONES * u64::from(b'\\')), 1) != 0
    };
    !words.iter().any(special) && !rest.iter().any(|&b| b < 0x20 || b == b'"' || b == b'\\')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_json_escapes_is_found_at_any_place() {
        for special in ["", "\"", "\\", "\u{1f}", "\0", "\u{7f}", " ", "!", "#", "[", "]", "ä", "\u{20ac}\u{10ffff}"] {
            for before in 0..20 {
                let text = format!("{}{special}{}", "x".repeat(before), "ÿ".repeat(before / 2));
                assert_eq!(is_verbatim(text.as_bytes()), serde_json::to_string(&text).unwrap() == format!("\"{text}\""), "{text:?}");
            }
        }
    }
}
