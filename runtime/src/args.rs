//! Reads the command line by the table of flags in `args/table.rs`.
//!
//! Flags may be written as Go programs take them and as GNU programs do: `--x v`, `--x=v`, `-x v` and `-x=v` for long names
//! (go-runc sends `-no-subreaper`), clusters of short flags (`-td`), `--detach=false`, and the beginning of a long name (`--pid`
//! for `--pid-file`). Flags may stand before and after the id. lexopt does all of it except long names after a single dash. Those
//! are looked up in the table first, so that a name in the table wins over a cluster, as in Go.

mod help;
mod table;
#[cfg(test)]
mod tests;

use std::ffi::{OsStr, OsString};

pub(crate) use help::help;
pub(crate) use table::{COMMANDS, Command, Flag, GLOBAL, Takes};

/// The parsed command line.
#[derive(Debug, Default)]
pub(crate) struct Args {
    /// `None` when no command is named.
    pub(crate) command: Option<&'static Command>,
    pub(crate) help: bool,
    pub(crate) version: bool,
    /// The arguments that are not flags: the id and those after it.
    pub(crate) operands: Vec<String>,
    /// The first mistake, if there is one. All flags before the mistake are set, so that `--log` still works.
    pub(crate) problem: Option<String>,
    flags: Vec<(&'static Flag, String)>,
}

impl Args {
    /// Parses the arguments after the program's name.
    pub(crate) fn parse(words: impl Iterator<Item = OsString>) -> Args {
        let mut args = Args::default();
        // lexopt owns the arguments, so it copies them into a `Vec`; there are few
        args.problem = args.read(&mut lexopt::Parser::from_args(words)).and_then(|()| args.count()).err();
        args
    }

    /// Whether a flag is on.
    pub(crate) fn on(&self, long: &str) -> bool {
        self.last(long).is_some_and(|v| v == "true")
    }

    /// A flag that can be on, off or absent.
    pub(crate) fn choice(&self, long: &str) -> Option<bool> {
        self.last(long).map(|v| v == "true")
    }

    /// The value of a flag, unless it is absent or empty.
    pub(crate) fn text(&self, long: &str) -> Option<&str> {
        self.last(long).filter(|v| !v.is_empty())
    }

    /// Whether a flag is given, even with an empty value.
    pub(crate) fn given(&self, long: &str) -> bool {
        self.last(long).is_some()
    }

    /// The value of a flag that takes a number.
    pub(crate) fn number(&self, long: &str) -> Option<i64> {
        self.last(long).and_then(|v| v.parse().ok())
    }

    /// All values of a flag, in order.
    pub(crate) fn each(&self, long: &str) -> Vec<String> {
        self.values(long).map(str::to_string).collect()
    }

    pub(crate) fn last(&self, long: &str) -> Option<&str> {
        self.values(long).last()
    }

    /// The command's own flag comes before a global flag of the same name: `--rootless=true spec` is not `spec --rootless`.
    fn values(&self, long: &str) -> impl Iterator<Item = &str> {
        let flag = self.find(|f| f.long == long);
        debug_assert!(self.command.is_none() || flag.is_some(), "--{long} is not in the table");
        self.flags.iter().filter(move |(f, _)| flag.is_some_and(|flag| std::ptr::eq(*f, flag))).map(|(_, v)| v.as_str())
    }

    /// A flag of the command, else a global flag.
    fn find(&self, is: impl Fn(&Flag) -> bool) -> Option<&'static Flag> {
        let own = self.command.map_or(&[][..], |c| c.flags);
        own.iter().chain(GLOBAL).find(|f| is(f))
    }

    fn read(&mut self, parser: &mut lexopt::Parser) -> Result<(), String> {
        let mut last: Option<&'static Flag> = None;
        loop {
            if let Some(mut words) = parser.try_raw_args()
                && let Some(word) = words.peek()
            {
                if word == "--" {
                    words.next();
                    return words.try_for_each(|w| self.operand(w));
                }
                if self.command.is_some_and(|c| c.rest_after_id) && !self.operands.is_empty() {
                    return words.try_for_each(|w| self.operand(w));
                }
                if is_negative_number(word) {
                    let word = words.next().unwrap_or_default();
                    self.operand(word)?;
                    continue;
                }
                if let Some((flag, value)) = self.long_behind_one_dash(word)? {
                    let name = words.next().unwrap_or_default();
                    let value = match (flag.takes, value) {
                        (Takes::Nothing | Takes::Perhaps | Takes::OneOf(_), value) => value.unwrap_or_default(),
                        (_, Some(value)) => value,
                        (_, None) => utf8(words.next().ok_or_else(|| needs_argument(&name.to_string_lossy()))?)?,
                    };
                    self.set(flag, value)?;
                    continue;
                }
            }
            let mut long = false;
            let flag = match parser.next() {
                Ok(None) => return Ok(()),
                Ok(Some(lexopt::Arg::Value(word))) => {
                    self.operand(word)?;
                    continue;
                }
                Ok(Some(lexopt::Arg::Long(name))) => {
                    long = true;
                    self.long(name)?
                }
                Ok(Some(lexopt::Arg::Short(c))) => {
                    let alias = match c {
                        '?' => 'h',
                        'V' => 'v',
                        c => c,
                    };
                    self.find(|f| f.short == Some(alias)).ok_or_else(|| format!("flag provided but not defined: -{c}"))?
                }
                // `-d=false`: lexopt reports the value of a short flag only when the next argument is read
                Err(lexopt::Error::UnexpectedValue { value, .. }) => {
                    if let Some(flag) = last {
                        self.set(flag, utf8(value)?)?;
                    }
                    continue;
                }
                Err(e) => return Err(e.to_string()),
            };
            last = Some(flag);
            let value = match flag.takes {
                // for a short flag, asking lexopt for a value would take the rest of its cluster
                Takes::Nothing => String::new(),
                // only a long name has a joined value; after a short flag the same text would be the rest of a cluster
                Takes::Perhaps | Takes::OneOf(_) if long => parser.optional_value().map_or(Ok(String::new()), utf8)?,
                Takes::Perhaps | Takes::OneOf(_) => String::new(),
                _ => utf8(parser.value().map_err(|_| needs_argument(&spelling(flag)))?)?,
            };
            self.set(flag, value)?;
        }
    }

    /// Finds a long flag by its name or by an unambiguous beginning of the name (argp(3)). The command's own flags come first.
    fn long(&self, name: &str) -> Result<&'static Flag, String> {
        if let Some(flag) = self.find(|f| f.long == name) {
            return Ok(flag);
        }
        for flags in [self.command.map_or(&[][..], |c| c.flags), GLOBAL] {
            let mut found = flags.iter().filter(|f| f.long.starts_with(name));
            match (found.next(), found.next()) {
                (Some(flag), None) => return Ok(flag),
                (Some(a), Some(b)) => return Err(format!("flag --{name} is ambiguous: --{} or --{}", a.long, b.long)),
                _ => {}
            }
        }
        Err(format!("flag provided but not defined: -{name}"))
    }

    /// Splits `-no-subreaper`, `-root=/x` or `-tno` into the flag and its joined value, if there is one.
    fn long_behind_one_dash(&self, word: &OsStr) -> Result<Option<(&'static Flag, Option<String>)>, String> {
        let Some(rest) = word.as_encoded_bytes().strip_prefix(b"-").filter(|r| r.len() > 1 && r[0] != b'-') else {
            return Ok(None);
        };
        if let Some((short, value @ (b"no" | b"false"))) = rest.split_first()
            && let Some(flag) = self.find(|f| f.takes == Takes::Perhaps && f.short == Some(char::from(*short)))
        {
            return Ok(Some((flag, Some(String::from_utf8_lossy(value).into_owned()))));
        }
        let mut parts = rest.splitn(2, |b| *b == b'=');
        let name = parts.next().unwrap_or_default();
        let Some(flag) = self.find(|f| f.long.as_bytes() == name) else { return Ok(None) };
        let value = match parts.next() {
            Some(value) => Some(String::from_utf8(value.to_vec()).map_err(|_| not_utf8(word))?),
            None => None,
        };
        Ok(Some((flag, value)))
    }

    fn set(&mut self, flag: &'static Flag, value: String) -> Result<(), String> {
        let invalid = |why: &str| Err(format!("invalid value \"{value}\" for flag -{}: {why}", flag.long));
        let value = match flag.takes {
            Takes::Nothing | Takes::Perhaps => match boolean(&value) {
                Some(on) => on.to_string(),
                None if value.is_empty() => "true".to_string(),
                None if flag.takes == Takes::Perhaps => (value != "no").to_string(),
                None => return invalid("neither true nor false"),
            },
            Takes::OneOf(words) => match words.iter().find(|word| value.is_empty() || **word == value) {
                Some(word) => (*word).to_string(),
                None => return invalid(&format!("it is one of {}", words.join(", "))),
            },
            Takes::Number if value.parse::<i64>().is_err() => return invalid("not a number"),
            Takes::Text if flag.long == "rootless" && !matches!(&*value, "" | "auto") && boolean(&value).is_none() => {
                return invalid("neither true, false nor auto");
            }
            _ => value,
        };
        self.help |= matches!(flag.long, "help" | "usage") && value == "true";
        self.version |= flag.long == "version" && value == "true";
        self.flags.push((flag, value));
        Ok(())
    }

    fn operand(&mut self, word: OsString) -> Result<(), String> {
        let word = utf8(word)?;
        if self.command.is_some() {
            self.operands.push(word);
        } else if word == "help" || word == "h" {
            self.help = true;
        } else {
            let found = COMMANDS.iter().find(|c| c.name == word);
            self.command = Some(found.ok_or_else(|| format!("No help topic for '{word}'"))?);
        }
        Ok(())
    }

    /// Checks the number of operands, with runc's error texts.
    fn count(&self) -> Result<(), String> {
        let (Some(command), false) = (self.command, self.help) else { return Ok(()) };
        let (least, greatest) = command.count;
        let (n, how) = match self.operands.len() {
            n if n < least && least == greatest => (least, "exactly"),
            n if n < least => (least, "a minimum of"),
            n if n > greatest && least == greatest => (greatest, "exactly"),
            n if n > greatest => (greatest, "a maximum of"),
            _ => return Ok(()),
        };
        Err(format!("\"{}\" requires {how} {n} argument(s)", command.name))
    }
}

/// The texts that Go's strconv.ParseBool accepts.
fn boolean(word: &str) -> Option<bool> {
    match word {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// podman and CRI-O search for the text before the colon to learn which flags `restore` supports.
fn needs_argument(flag: &str) -> String {
    format!("flag needs an argument: {flag}")
}

fn spelling(flag: &Flag) -> String {
    format!("--{}", flag.long)
}

/// Go's flag parser takes `-9` as an operand.
fn is_negative_number(word: &OsStr) -> bool {
    matches!(word.as_encoded_bytes(), [b'-', b'0'..=b'9', ..])
}

fn utf8(word: OsString) -> Result<String, String> {
    word.into_string().map_err(|w| not_utf8(&w))
}

fn not_utf8(word: &OsStr) -> String {
    format!("argument {word:?} is not UTF-8")
}
