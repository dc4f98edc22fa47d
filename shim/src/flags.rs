//! The command line, as containerd gives it and Go's package flag reads it: `-name value` or `-name=value`, one dash or two,
//! until the first word that is no flag.

use std::ffi::OsString;

#[derive(Debug, Default, PartialEq)]
pub(crate) struct Flags {
    pub(crate) namespace: String,
    pub(crate) address: String,
    pub(crate) id: String,
    pub(crate) bundle: String,
    pub(crate) debug: bool,
    pub(crate) version: bool,
    pub(crate) info: bool,
    /// `start`, `delete`, or nothing.
    pub(crate) action: String,
}

impl Flags {
    pub(crate) fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Flags, String> {
        let mut flags = Flags::default();
        let mut words = words.into_iter().map(|word| word.to_string_lossy().into_owned());
        while let Some(word) = words.next() {
            let Some(rest) = word.strip_prefix("--").or(word.strip_prefix('-')).filter(|rest| !rest.is_empty()) else {
                flags.action = word;
                break;
            };
            let (name, value) = match rest.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (rest, None),
            };
            let on = matches!(value.as_deref(), None | Some("true" | "1" | "t" | "T" | "TRUE" | "True"));
            let mut ignored = String::new();
            let place = match name {
                "debug" => {
                    flags.debug = on;
                    continue;
                }
                "v" | "version" => {
                    flags.version = on;
                    continue;
                }
                "info" => {
                    flags.info = on;
                    continue;
                }
                "namespace" => &mut flags.namespace,
                "address" => &mut flags.address,
                "id" => &mut flags.id,
                "bundle" => &mut flags.bundle,
                // events go over ttrpc, and the daemon is not executed but forked with its socket
                "publish-binary" | "socket" | "debug-socket" => &mut ignored,
                _ => return Err(format!("flag provided but not defined: -{name}")),
            };
            *place = match value {
                Some(value) => value,
                None => words.next().ok_or_else(|| format!("flag needs an argument: -{name}"))?,
            };
        }
        Ok(flags)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Flags, String> {
        Flags::parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn as_containerd_calls_it() {
        let flags = parse("-namespace k8s.io -address /run/c.sock -publish-binary /usr/bin/containerd -id abc -debug start").unwrap();
        assert_eq!((&*flags.namespace, &*flags.address, &*flags.id, &*flags.action), ("k8s.io", "/run/c.sock", "abc", "start"));
        assert!(flags.debug && !flags.version);
        let flags = parse("--id=x --bundle /b delete -v").unwrap();
        assert_eq!((&*flags.id, &*flags.bundle, &*flags.action, flags.version), ("x", "/b", "delete", false));
        assert!(parse("-v").unwrap().version);
    }

    #[test]
    fn mistakes_are_told() {
        assert_eq!(parse("-x").unwrap_err(), "flag provided but not defined: -x");
        assert_eq!(parse("-id").unwrap_err(), "flag needs an argument: -id");
    }
}
