//! How files of ours are written: in pieces, and those that somebody may read meanwhile whole or not at all.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags};

use crate::error::{Error, Result};

/// A file that is written piece by piece: to fill memory for the first time costs more than to write, and a document may be a
/// megabyte.
pub type Pieces = BufWriter<File>;
/// In bytes; most documents are one.
const PIECE: usize = 16 << 10;

/// Writes the new file `file`.
pub fn in_pieces(file: OwnedFd, content: impl FnOnce(&mut Pieces) -> Result<()>) -> Result<()> {
    let mut file = BufWriter::with_capacity(PIECE, File::from(file));
    content(&mut file)?;
    Ok(file.flush()?)
}

/// Writes `name` in `dir` so that it is there whole or not at all, by way of the file `temporary`.
pub fn atomically(
    dir: BorrowedFd<'_>,
    name: &str,
    temporary: &str,
    mode: Mode,
    content: impl FnOnce(&mut Pieces) -> Result<()>,
) -> Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(dir, temporary, flags, mode).map_err(Error::from);
    let written = file.and_then(|file| in_pieces(file, content)).and_then(|()| Ok(rustix::fs::renameat(dir, temporary, dir, name)?));
    if written.is_err() {
        let _ = rustix::fs::unlinkat(dir, temporary, AtFlags::empty());
    }
    written
}
