//! `--version`: three lines that go-runc and dockerd parse.

use libcontainer::spec;

/// The version of the package.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit that the binary is built from, if the build sets `MASU_COMMIT`.
pub(crate) const COMMIT: &str = match option_env!("MASU_COMMIT") {
    Some(commit) => commit,
    None => "unknown",
};

/// go-runc expects the first line to begin with `runc version`, which it does under the name runc. dockerd takes any line with
/// the word "version" as the version, so only one line has it.
pub(crate) fn text(program: &str) -> String {
    let name = if matches!(program, "runc" | "crun") { program } else { "masu" };
    format!("{name} version {VERSION}\ncommit: {COMMIT}\nspec: {}\n", spec::VERSION)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_is_the_version() {
        assert_eq!(text("masu").lines().next(), Some(&*format!("masu version {VERSION}")));
        assert_eq!(text("masu-0.1").lines().next(), Some(&*format!("masu version {VERSION}")));
        let runc = text("runc");
        assert!(runc.starts_with("runc version "));
        assert_eq!(runc.matches("version").count(), 1);
        assert!(runc.contains("\ncommit: ") && runc.ends_with("\nspec: 1.3.0\n"));
    }
}
