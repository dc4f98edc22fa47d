//! Steps about files. Each prints its result, or `errno NAME` where a test expects a refusal.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::Instant;

use anyhow::{Result, bail};
use rustix::fs::{CWD, Dev, FileType, Mode, makedev, mkfifoat, mknodat};

use crate::steps::errno_name;

/// Runs the step `word`.
pub(crate) fn run(word: &str, operands: &[&str]) -> Result<()> {
    match (word, operands) {
        ("write", [path, text]) => put(OpenOptions::new().write(true).create(true).truncate(true), path, text)?,
        ("append", [path, text]) => put(OpenOptions::new().append(true).create(true), path, text)?,
        ("read", [path]) => {
            let mut text = Vec::new();
            File::open(path)?.take(1 << 20).read_to_end(&mut text)?;
            std::io::stdout().write_all(&text)?;
        }
        ("read-device", [path, count]) => read_device(path, count.parse()?)?,
        // one line for each path, `ok` or the errno; the step never fails
        ("try-write", [path]) => answer(path, &OpenOptions::new().write(true).create(true).truncate(false).open(path)),
        ("try-put", [path, text]) => {
            let opened = OpenOptions::new().write(true).open(path);
            answer(path, &opened.and_then(|mut file| file.write_all(text.as_bytes())));
        }
        ("try-open", paths) => paths.iter().for_each(|path| answer(path, &open_quietly(path))),
        ("try-mkdir", [path]) => answer(path, &fs::create_dir(path)),
        ("try-chmod", [mode, path]) => {
            let mode = fs::Permissions::from_mode(u32::from_str_radix(mode, 8)?);
            answer(path, &fs::set_permissions(path, mode));
        }
        ("mknod", [kind, major, minor, path]) => {
            let device = makedev(major.parse()?, minor.parse()?);
            answer(path, &node(kind, device, path));
        }
        ("access", [kind, major, minor, path]) => access(kind, makedev(major.parse()?, minor.parse()?), path),
        ("ls", [path]) => {
            let mut names: Vec<_> =
                fs::read_dir(path)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect::<Result<_>>()?;
            names.sort();
            println!("{}", names.join(" "));
        }
        ("stat", paths) => paths.iter().for_each(|path| println!("{path} {}", describe(Path::new(path)))),
        _ => bail!("unknown step"),
    }
    Ok(())
}

/// Reads the first `count` bytes of a block device with O_DIRECT. Prints the time in milliseconds.
fn read_device(path: &str, count: usize) -> Result<()> {
    const ALIGNED: usize = 4096;
    let mut device = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path)?;
    let mut room = vec![0_u8; ALIGNED + (64 << 10)];
    let begin = room.as_ptr().align_offset(ALIGNED);
    let Some(buffer) = room.get_mut(begin..begin + (64 << 10)) else { bail!("no buffer that is aligned") };
    let start = Instant::now();
    for _ in 0..count / buffer.len() {
        device.read_exact(buffer)?;
    }
    println!("{}", start.elapsed().as_millis());
    Ok(())
}

fn put(options: &OpenOptions, path: &str, text: &str) -> Result<()> {
    Ok(options.open(path)?.write_all(text.as_bytes())?)
}

fn open_quietly(path: &str) -> std::io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)
}

fn node(kind: &str, device: Dev, path: &str) -> std::io::Result<()> {
    let _ = fs::remove_file(path);
    let mode = Mode::from_raw_mode(0o600);
    match kind {
        "p" => mkfifoat(CWD, path, mode)?,
        kind => mknodat(CWD, path, if kind == "b" { FileType::BlockDevice } else { FileType::CharacterDevice }, mode, device)?,
    }
    open_quietly(path).map(drop)
}

/// Prints whether the node can be made (`m`), and then whether it can be opened in each mode: a line each, with the errno's name.
fn access(kind: &str, device: Dev, path: &str) {
    let name = format!("{kind} {}:{}", rustix::fs::major(device), rustix::fs::minor(device));
    let _ = fs::remove_file(path);
    let file_type = if kind == "b" { FileType::BlockDevice } else { FileType::CharacterDevice };
    let made = mknodat(CWD, path, file_type, Mode::from_raw_mode(0o600), device).map_err(std::io::Error::from);
    answer(&format!("{name} m"), &made);
    for (letters, read, write) in [("r", true, false), ("w", false, true), ("rw", true, true)] {
        if made.is_ok() {
            let mut options = OpenOptions::new();
            let opened = options.read(read).write(write).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path);
            answer(&format!("{name} {letters}"), &opened);
        }
    }
}

fn answer<T>(path: &str, result: &std::io::Result<T>) {
    match result {
        Ok(_) => println!("{path} ok"),
        Err(error) => println!("{path} {}", errno_name(error)),
    }
}

/// Type, mode, owner and device numbers of a file. Symbolic links are not followed.
pub(crate) fn describe(path: &Path) -> String {
    let data = match fs::symlink_metadata(path) {
        Ok(data) => data,
        Err(error) => return errno_name(&error),
    };
    let kind = data.file_type();
    let device = || format!("{}:{}", rustix::fs::major(data.rdev()), rustix::fs::minor(data.rdev()));
    let kind = match kind {
        _ if kind.is_symlink() => return format!("link {}", fs::read_link(path).unwrap_or_default().display()),
        _ if kind.is_char_device() => format!("c {}", device()),
        _ if kind.is_block_device() => format!("b {}", device()),
        _ if kind.is_fifo() => "fifo".to_owned(),
        _ if kind.is_socket() => "socket".to_owned(),
        _ if kind.is_dir() => "dir".to_owned(),
        _ => format!("file {}", data.len()),
    };
    format!("{kind} {:o} {}:{}", data.mode() & 0o7777, data.uid(), data.gid())
}
