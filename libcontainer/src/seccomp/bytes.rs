//! A compiled filter as bytes: create writes them and exec reads them, both in the parent.
//!
//! Little-endian: `masuBPF1`; flags, length of the listener's path, length of its metadata, number of instructions (each
//! u32); the two texts; the instructions (u16, u8, u8, u32). A path of length 0 means no listener.

use super::compile::MAX_INSTRUCTIONS;
use super::{Filter, Instruction, Listener};
use crate::error::{Error, Kind, Result};

const MAGIC: &[u8; 8] = b"masuBPF1";
const WORDS: usize = 4;

impl Filter {
    /// Writes the form that [`Filter::from_bytes`] reads.
    pub fn to_bytes(&self) -> Vec<u8> {
        let (path, metadata) = self.listener.as_ref().map_or(("", ""), |l| (&l.path, &l.metadata));
        let mut bytes = Vec::with_capacity(MAGIC.len() + 4 * WORDS + path.len() + metadata.len() + 8 * self.program.len());
        bytes.extend_from_slice(MAGIC);
        for word in [self.flags, path.len() as u32, metadata.len() as u32, self.program.len() as u32] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        bytes.extend_from_slice(path.as_bytes());
        bytes.extend_from_slice(metadata.as_bytes());
        for i in &self.program {
            let [c0, c1] = i.code.to_le_bytes();
            let [k0, k1, k2, k3] = i.k.to_le_bytes();
            bytes.extend_from_slice(&[c0, c1, i.jt, i.jf, k0, k1, k2, k3]);
        }
        bytes
    }

    /// Reads the form that [`Filter::to_bytes`] writes. The kernel checks later whether the program is valid.
    ///
    /// # Errors
    /// If `bytes` has another form.
    pub fn from_bytes(bytes: &[u8]) -> Result<Filter> {
        read(bytes).ok_or_else(|| Error::new(Kind::Internal, "read the compiled seccomp filter: not a filter of this version"))
    }
}

fn read(bytes: &[u8]) -> Option<Filter> {
    let bytes = bytes.strip_prefix(MAGIC)?;
    let (head, bytes) = bytes.split_at_checked(4 * WORDS)?;
    let mut words = head.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word));
    let (flags, path, metadata, count) = (words.next()?, words.next()?, words.next()?, words.next()?);
    let (path, bytes) = bytes.split_at_checked(path as usize)?;
    let (metadata, bytes) = bytes.split_at_checked(metadata as usize)?;
    let (instructions, rest) = bytes.as_chunks::<8>();
    let count = count as usize;
    if !rest.is_empty() || instructions.len() != count || count == 0 || count > MAX_INSTRUCTIONS {
        return None;
    }
    let program = instructions
        .iter()
        .map(|&[c0, c1, jt, jf, k0, k1, k2, k3]| Instruction {
            code: u16::from_le_bytes([c0, c1]),
            jt,
            jf,
            k: u32::from_le_bytes([k0, k1, k2, k3]),
        })
        .collect();
    let (path, metadata) = (String::from_utf8(path.to_vec()).ok()?, String::from_utf8(metadata.to_vec()).ok()?);
    let listener = if path.is_empty() { None } else { Some(Listener { path, metadata }) };
    Some(Filter { program, flags, listener })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Filter {
        Filter {
            program: vec![Instruction { code: 0x15, jt: 1, jf: 2, k: 0xc000_003e }, Instruction { code: 6, jt: 0, jf: 0, k: 7 }],
            flags: 12,
            listener: Some(Listener { path: "/run/agent".into(), metadata: "m".into() }),
        }
    }

    #[test]
    fn come_back_as_they_were() {
        let filter = sample();
        assert_eq!(Filter::from_bytes(&filter.to_bytes()).unwrap(), filter);
        let filter = Filter { listener: None, ..filter };
        assert_eq!(Filter::from_bytes(&filter.to_bytes()).unwrap(), filter);
    }

    #[test]
    fn damage_is_an_error() {
        let bytes = sample().to_bytes();
        for end in 0..bytes.len() {
            assert!(Filter::from_bytes(&bytes[..end]).is_err(), "{end} bytes");
        }
        let mut longer = bytes.clone();
        longer.push(0);
        assert!(Filter::from_bytes(&longer).is_err());
        for at in [0, 12, 13, 15, 16, 19, 20, 21, 23] {
            let mut bytes = bytes.clone();
            bytes[at] ^= 0xff;
            assert!(Filter::from_bytes(&bytes).is_err(), "byte {at}");
        }
    }
}
