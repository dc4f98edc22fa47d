//! regcomp(3) and regexec(3): extended regular expressions of the C library, for ids on the command line.

use std::ffi::{CStr, c_char};
use std::mem::MaybeUninit;

/// A compiled extended regular expression.
pub struct Regex(Box<libc::regex_t>);

impl std::fmt::Debug for Regex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Regex")
    }
}

impl Regex {
    /// Compiles `pattern`.
    ///
    /// # Errors
    /// The text of regerror(3).
    pub fn new(pattern: &CStr) -> Result<Regex, String> {
        let mut regex: Box<MaybeUninit<libc::regex_t>> = Box::new(MaybeUninit::zeroed());
        // SAFETY: the first argument points to memory of the size of a regex_t, which regcomp fills; the pattern is a C string.
        let code = unsafe { libc::regcomp(regex.as_mut_ptr(), pattern.as_ptr(), libc::REG_EXTENDED | libc::REG_NOSUB) };
        if code != 0 {
            let mut text = [0u8; 128];
            // SAFETY: regerror reads the structure of the failed regcomp and writes at most the given number of bytes, with a
            // NUL.
            unsafe { libc::regerror(code, regex.as_ptr(), text.as_mut_ptr().cast::<c_char>(), text.len()) };
            let text = CStr::from_bytes_until_nul(&text).unwrap_or_default();
            return Err(text.to_string_lossy().into_owned());
        }
        // SAFETY: regcomp succeeded, so it has filled the structure.
        Ok(Regex(unsafe { regex.assume_init() }))
    }

    /// Whether the expression matches anywhere in `text`.
    pub fn matches(&self, text: &CStr) -> bool {
        // SAFETY: the structure is from a successful regcomp, and the text is a C string. No matches are requested, so nothing is
        // written.
        unsafe { libc::regexec(&raw const *self.0, text.as_ptr(), 0, std::ptr::null_mut(), 0) == 0 }
    }
}

impl Drop for Regex {
    fn drop(&mut self) {
        // SAFETY: the structure is from a successful regcomp, and it is freed once.
        unsafe { libc::regfree(&raw mut *self.0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_extended_and_not_anchored() {
        let regex = Regex::new(c"a(b|c)+[0-9]").unwrap();
        for (text, matches) in [(c"abcb7", true), (c"x-ac1-y", true), (c"a7", false), (c"", false)] {
            assert_eq!(regex.matches(text), matches, "{text:?}");
        }
        assert!(Regex::new(c"^web$").unwrap().matches(c"web") && !Regex::new(c"^web$").unwrap().matches(c"web1"));
        assert!(!Regex::new(c"a(").unwrap_err().is_empty());
    }
}
