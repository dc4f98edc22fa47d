//! How files of ours are written: in pieces, and those that somebody may read meanwhile whole or not at all.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use serde::Serialize;

use crate::error::{Doing, Error, Result};

/// A file that is written piece by piece: to fill memory for the first time costs more than to write, and a document may be a
/// megabyte.
pub(super) type Pieces = BufWriter<File>;
/// In bytes; most documents are one.
const PIECE: usize = 16 << 10;

/// Writes the new file `file`.
pub(super) fn write(file: OwnedFd, content: impl FnOnce(&mut Pieces) -> Result<()>) -> Result<()> {
    let mut file = BufWriter::with_capacity(PIECE, File::from(file));
    content(&mut file)?;
    Ok(file.flush()?)
}

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

/// Writes `name` in `dir` so that it is there whole or not at all, by way of the file `temporary`.
pub(super) fn write_atomically(
    dir: BorrowedFd<'_>,
    name: &str,
    temporary: &str,
    mode: Mode,
    content: impl FnOnce(&mut Pieces) -> Result<()>,
) -> Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(dir, temporary, flags, mode).map_err(Error::from);
    let written = file.and_then(|file| write(file, content)).and_then(|()| Ok(rustix::fs::renameat(dir, temporary, dir, name)?));
    if written.is_err() {
        let _ = rustix::fs::unlinkat(dir, temporary, AtFlags::empty());
    }
    written
}

/// Writes a pid file: whole or not at all, without a newline, which some readers do not take.
pub(super) fn write_pid_file(path: &Path, pid: i32) -> Result<()> {
    let doing = || format!("write pid file {}", path.display());
    let (Some(name), parent) = (path.file_name().and_then(|n| n.to_str()), path.parent()) else {
        return Err(Error::invalid("it has no name")).doing(doing);
    };
    let parent = parent.filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let dir = rustix::fs::openat(CWD, parent, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).doing(doing)?;
    let temporary = format!(".{name}.{}", rustix::process::getpid().as_raw_nonzero());
    write_atomically(dir.as_fd(), name, &temporary, Mode::from_raw_mode(0o666), |file| Ok(write!(file, "{pid}")?)).doing(doing)
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

    #[test]
    fn a_pid_file_has_no_newline() {
        let dir = tempfile::tempdir().unwrap();
        write_pid_file(&dir.path().join("pid"), 42).unwrap();
        assert_eq!(std::fs::read(dir.path().join("pid")).unwrap(), b"42");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        let e = write_pid_file(Path::new("/no/dir/pid"), 1).unwrap_err();
        assert!(e.to_string().ends_with("no such file or directory"), "{e}");
    }
}
