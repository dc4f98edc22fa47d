//! Sets of CPUs or memory nodes. A config writes them as lists (`0-3,7`), the kernel reads them as bit masks.

use crate::error::{Error, Result};

/// All numbers must be below this limit: no kernel has more CPUs or nodes, and a mask is as long as its largest number.
const LIMIT: usize = 1 << 16;

/// A set with at least one member, in the form that the kernel reads: bit n is number n.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mask(Vec<u64>);

impl Mask {
    /// Parses a list, as runc does: white space around numbers and empty parts are allowed. The empty list is `None`.
    ///
    /// # Errors
    /// [`Kind::InvalidSpec`](crate::error::Kind::InvalidSpec): a malformed number, a number above 65535, a range that ends before
    /// its start, or a list without members.
    pub fn parse(list: &str) -> Result<Option<Mask>> {
        if list.is_empty() {
            return Ok(None);
        }
        let number = |text: &str| match text.parse::<usize>() {
            Ok(n) if n < LIMIT => Ok(n),
            Ok(_) => Err(Error::invalid(format!("values larger than {} are not supported", LIMIT - 1))),
            Err(e) => Err(Error::invalid(format!("parsing {text:?}: {e}"))),
        };
        let mut words: Vec<u64> = Vec::new();
        for part in list.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (first, last) = match part.split_once('-') {
                Some((first, last)) => (number(first)?, number(last)?),
                None => (number(part)?, number(part)?),
            };
            if first > last {
                return Err(Error::invalid(format!("invalid range: {part}")));
            }
            words.resize(words.len().max(last / 64 + 1), 0);
            for (i, word) in words.iter_mut().enumerate() {
                *word |= bits(first, last, i);
            }
        }
        if words.is_empty() {
            return Err(Error::invalid(format!("no members found in set {list:?}")));
        }
        Ok(Some(Mask(words)))
    }

    /// The number of members.
    pub fn count(&self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }

    /// The mask in words of 64 bits, the lowest numbers first.
    pub fn words(&self) -> &[u64] {
        &self.0
    }
}

/// The members of `first..=last` in word `i`.
fn bits(first: usize, last: usize, i: usize) -> u64 {
    (0..64).filter(|bit| (first..=last).contains(&(i * 64 + bit))).fold(0, |word, bit| word | 1 << bit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists() {
        for (list, words) in [
            ("0", &[1][..]),
            ("0-1", &[3]),
            ("1,0", &[3]),
            (" 3 , ,5-6,", &[0b110_1000]),
            ("63-64", &[1 << 63, 1]),
            ("200", &[0, 0, 0, 1 << 8]),
            ("65535,0", &[&[1][..], &[0; 1022], &[1 << 63]].concat()),
        ] {
            assert_eq!(Mask::parse(list).unwrap().unwrap().words(), words, "{list}");
        }
        assert_eq!(Mask::parse("").unwrap(), None);
        assert_eq!(Mask::parse("0-70").unwrap().unwrap().count(), 71);
    }

    #[test]
    fn bad_lists_are_refused() {
        for (list, text) in [
            ("a", "parsing \"a\": invalid digit"),
            ("-1", "parsing \"\""),
            ("1-", "parsing \"\""),
            ("1-2-3", "parsing \"2-3\""),
            ("3-1", "invalid range: 3-1"),
            ("65536", "values larger than 65535 are not supported"),
            ("0-9876543210", "values larger than 65535 are not supported"),
            ("99999999999999999999999", "number too large"),
            (",", "no members found in set \",\""),
            ("0x3", "parsing \"0x3\""),
        ] {
            let e = Mask::parse(list).unwrap_err().to_string();
            assert!(e.contains(text), "{list}: {e}");
        }
    }
}
