//! The errors and warnings of a plan, in the order in which they are found.
//!
//! A plan function notes an error here and goes on with a harmless value, so that `masu check` can report all errors at once.
//! create and exec get the plan by `Findings::unless_wrong`, which returns the first error in its place.

use std::fmt::{self, Display};

use crate::error::{Error, Kind, Result};

/// An error or a warning.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// The path in config.json: `mounts[3].source`; empty for the whole file.
    pub path: String,
    /// The class of the error; `None` for a warning.
    pub kind: Option<Kind>,
    /// One line, as `create` would print or log it.
    pub text: String,
}

impl Finding {
    /// The path and the text as one line, with the path only once.
    pub fn line(&self) -> String {
        let Finding { path, text, .. } = self;
        // a text may begin with the path, or with that of the list that the path is in
        let rest = match text.split_once(": ") {
            Some((start, rest)) if !start.is_empty() && path.starts_with(start) => rest,
            _ => text,
        };
        if path.is_empty() { rest.to_owned() } else { format!("{path}: {rest}") }
    }
}

/// The path of an item of a list: `mounts[3]`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Item<'a>(pub(crate) &'a str, pub(crate) usize);

impl Display for Item<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]", self.0, self.1)
    }
}

/// All errors and warnings.
#[derive(Debug, Default)]
pub struct Findings {
    list: Vec<Finding>,
    first: Option<Error>,
}

impl Findings {
    /// An empty list.
    pub fn new() -> Findings {
        Findings::default()
    }

    /// All findings, in the order in which they were found.
    pub fn list(&self) -> &[Finding] {
        &self.list
    }

    /// Whether one of them is an error.
    pub fn is_wrong(&self) -> bool {
        self.first.is_some()
    }

    /// Notes an error at `path`.
    pub(crate) fn wrong(&mut self, path: impl Display, error: Error) {
        self.list.push(Finding { path: path.to_string(), kind: Some(error.kind()), text: error.text().to_owned() });
        self.first.get_or_insert(error);
    }

    /// Notes an error of the kind [`Kind::InvalidSpec`].
    pub(crate) fn invalid(&mut self, path: impl Display, text: impl Into<String>) {
        self.wrong(path, Error::invalid(text));
    }

    /// Notes a warning.
    pub(crate) fn warn(&mut self, path: impl Display, text: impl Into<String>) {
        self.list.push(Finding { path: path.to_string(), kind: None, text: text.into() });
    }

    /// Returns the value of `result`, or notes its error at `path`.
    pub(crate) fn at<T>(&mut self, path: impl Display, result: Result<T>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                self.wrong(path, error);
                None
            }
        }
    }

    /// Adds the findings of `more`. Leaves out those at the path of an earlier error or below it, because they may only
    /// follow from that error.
    pub(crate) fn extend(&mut self, more: Findings) {
        let below = |path: &str, wrong: &str| path.strip_prefix(wrong).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']));
        let told = |f: &Finding| self.list.iter().any(|known| known.kind.is_some() && !f.path.is_empty() && below(&f.path, &known.path));
        let news: Vec<Finding> = more.list.into_iter().filter(|f| !told(f)).collect();
        self.list.extend(news);
        if self.first.is_none() {
            self.first = more.first;
        }
    }

    /// Returns `plan` and logs the warnings.
    ///
    /// # Errors
    /// The first error that was noted.
    pub(crate) fn unless_wrong<T>(self, plan: T) -> Result<T> {
        if let Some(error) = self.first {
            return Err(error);
        }
        for warning in &self.list {
            log::warn!("{}", warning.text);
        }
        Ok(plan)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_error_stands_for_all() {
        let mut found = Findings::new();
        found.warn("a", "a is odd");
        assert!(!found.is_wrong());
        assert_eq!(found.at("b", Err::<(), _>(Error::unsupported("b: no"))), None);
        assert_eq!(found.at("c", Ok(1)), Some(1));
        found.invalid(Item("d", 1), "d: bad");
        let seen: Vec<_> = found.list().iter().map(|f| (f.path.as_str(), f.kind, f.text.as_str())).collect();
        assert_eq!(seen, [("a", None, "a is odd"), ("b", Some(Kind::Unsupported), "b: no"), ("d[1]", Some(Kind::InvalidSpec), "d: bad")]);
        assert_eq!(found.unless_wrong(()).unwrap_err().text(), "b: no");
    }

    #[test]
    fn what_follows_from_an_error_is_left_out() {
        let mut found = Findings::new();
        found.invalid("a", "a: bad");
        let mut more = Findings::new();
        for path in ["a", "a.b", "a[0]", "ab", ""] {
            more.invalid(path, "worse");
        }
        found.extend(more);
        assert_eq!(found.list().iter().map(|f| f.path.as_str()).collect::<Vec<_>>(), ["a", "ab", ""]);
    }

    #[test]
    fn a_line_has_the_path_once() {
        for (path, text, line) in [
            ("a.b", "a.b: bad", "a.b: bad"),
            ("a.b[3]", "a.b: x: bad", "a.b[3]: x: bad"),
            ("a.b[3]", "very: bad", "a.b[3]: very: bad"),
            ("", "x: bad", "x: bad"),
            ("a", "bad", "a: bad"),
        ] {
            let finding = Finding { path: path.into(), kind: None, text: text.into() };
            assert_eq!(finding.line(), line);
        }
    }
}
