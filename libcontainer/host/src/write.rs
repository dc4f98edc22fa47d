//! Files of the runtime: written in pieces, and replaced as a whole where another process may read them meanwhile.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags};

use crate::error::{Error, Result};

/// A file that is written in pieces: to touch new memory for a whole document, up to a megabyte, costs more than the writes.
pub type Pieces = BufWriter<File>;
/// Bytes of one piece; most documents are shorter.
const PIECE: usize = 16 << 10;

/// Writes `content` to the new file `file`.
///
/// # Errors
/// The error of `content`, or the errno of write(2).
pub fn in_pieces(file: OwnedFd, content: impl FnOnce(&mut Pieces) -> Result<()>) -> Result<()> {
    let mut file = BufWriter::with_capacity(PIECE, File::from(file));
    content(&mut file)?;
    Ok(file.flush()?)
}

/// Writes the file `name` in `dir` by a rename of the file `temporary`. A reader sees the old file or the complete new one.
///
/// # Errors
/// The error of `content`, or the errno of openat(2), write(2) or renameat(2). The temporary file is then removed.
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
