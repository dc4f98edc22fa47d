//! A compiled filter from crun's annotation `run.oci.seccomp_bpf_data`: the kernel's instructions in base64.
//!
//! The kernel checks a program when the container's process loads it. This file checks it by the same rules before anything
//! is made (kernel/seccomp.c, seccomp_check_filter; net/core/filter.c, bpf_check_classic).

use super::Instruction;
use super::compile::MAX_INSTRUCTIONS;
use crate::error::{Error, Result};

/// `struct seccomp_data`, in bytes.
const DATA: u32 = 64;
/// Words of scratch memory (BPF_MEMWORDS).
const WORDS: u32 = 16;

/// Decodes and checks the program.
pub(super) fn program(base64: &str) -> Result<Vec<Instruction>> {
    let invalid = |why: String| Error::invalid(format!("annotations: run.oci.seccomp_bpf_data: {why}"));
    let bytes = decode(base64).ok_or_else(|| invalid("it is not base64".into()))?;
    let (whole, rest) = bytes.as_chunks::<8>();
    if !rest.is_empty() {
        return Err(invalid(format!("{} bytes are not a number of instructions of 8 bytes", bytes.len())));
    }
    if whole.is_empty() || whole.len() > MAX_INSTRUCTIONS {
        return Err(invalid(format!("{} instructions are not between 1 and {MAX_INSTRUCTIONS}", whole.len())));
    }
    let program: Vec<Instruction> = whole
        .iter()
        .map(|&[c0, c1, jt, jf, k0, k1, k2, k3]| Instruction {
            code: u16::from_ne_bytes([c0, c1]),
            jt,
            jf,
            k: u32::from_ne_bytes([k0, k1, k2, k3]),
        })
        .collect();
    match program.iter().enumerate().find(|(at, i)| !is_valid(i, program.len() - at - 1)) {
        Some((at, i)) => Err(invalid(format!("instruction {at} (code {:#04x}, k {:#x}) is invalid", i.code, i.k))),
        None => Ok(program),
    }
}

/// Whether a filter may have this instruction with `after` instructions behind it.
fn is_valid(i: &Instruction, after: usize) -> bool {
    let last = after == 0;
    match i.code {
        // RET K, RET A
        0x06 | 0x16 => true,
        // the last instruction must return
        _ if last => false,
        // LD ABS: a word of seccomp_data
        0x20 => i.k.is_multiple_of(4) && i.k < DATA,
        // LD LEN, LDX LEN, LD IMM, LDX IMM, TAX, TXA
        0x80 | 0x81 | 0x00 | 0x01 | 0x07 | 0x87 => true,
        // LD MEM, LDX MEM, ST, STX
        0x60 | 0x61 | 0x02 | 0x03 => i.k < WORDS,
        // ADD, SUB, MUL, OR, AND, XOR: K and X; DIV, LSH, RSH: X; NEG
        0x04 | 0x0c | 0x14 | 0x1c | 0x24 | 0x2c | 0x44 | 0x4c | 0x54 | 0x5c | 0xa4 | 0xac | 0x3c | 0x6c | 0x7c | 0x84 => true,
        // DIV K
        0x34 => i.k != 0,
        // LSH K, RSH K
        0x64 | 0x74 => i.k < 32,
        // JA
        0x05 => (i.k as usize) < after,
        // JEQ, JGT, JGE, JSET: K and X
        0x15 | 0x1d | 0x25 | 0x2d | 0x35 | 0x3d | 0x45 | 0x4d => usize::from(i.jt.max(i.jf)) < after,
        _ => false,
    }
}

/// Decodes base64 (RFC 4648), with or without padding.
fn decode(text: &str) -> Option<Vec<u8>> {
    let text = text.trim_ascii().trim_end_matches('=').as_bytes();
    let mut bytes = Vec::with_capacity(text.len() * 3 / 4);
    for group in text.chunks(4) {
        let mut bits = 0_u32;
        for c in group {
            let value = match c {
                b'A'..=b'Z' => c - b'A',
                b'a'..=b'z' => c - b'a' + 26,
                b'0'..=b'9' => c - b'0' + 52,
                b'+' => 62,
                b'/' => 63,
                _ => return None,
            };
            bits = bits << 6 | u32::from(value);
        }
        let whole = group.len() * 6 / 8;
        if whole == 0 {
            return None;
        }
        let shifted = bits << (32 - group.len() * 6);
        bytes.extend(shifted.to_be_bytes().get(..whole)?);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The reverse of [`decode`].
    fn encode(bytes: &[u8]) -> String {
        const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut text = String::new();
        for group in bytes.chunks(3) {
            let mut all = [0; 4];
            all[1..=group.len()].copy_from_slice(group);
            let bits = u32::from_be_bytes(all);
            for n in 0..4 {
                let digit = DIGITS[(bits >> (18 - 6 * n) & 63) as usize];
                text.push(if n <= group.len() { digit.into() } else { '=' });
            }
        }
        text
    }

    fn raw(list: &[(u16, u8, u8, u32)]) -> String {
        let bytes: Vec<u8> =
            list.iter().flat_map(|(code, jt, jf, k)| [&code.to_ne_bytes()[..], &[*jt, *jf], &k.to_ne_bytes()].concat()).collect();
        encode(&bytes)
    }

    #[test]
    fn a_program_is_read_as_the_kernel_would() {
        let list = [(0x20, 0, 0, 0), (0x15, 0, 1, 39), (0x06, 0, 0, 0x5_0001), (0x06, 0, 0, 0x7fff_0000)];
        let read = program(&raw(&list)).unwrap();
        assert_eq!(read.iter().map(|i| (i.code, i.jt, i.jf, i.k)).collect::<Vec<_>>(), list);
        assert_eq!(read, program(raw(&list).trim_end_matches('=')).unwrap());
    }

    #[test]
    fn what_the_kernel_would_refuse_is_refused() {
        const ALLOW: (u16, u8, u8, u32) = (0x06, 0, 0, 0x7fff_0000);
        for list in [
            &[(0x20, 0, 0, 0)][..],
            &[(0x20, 0, 0, 64), ALLOW],
            &[(0x20, 0, 0, 2), ALLOW],
            &[(0x28, 0, 0, 0), ALLOW],
            &[(0x15, 1, 0, 0), ALLOW],
            &[(0x05, 0, 0, 1), ALLOW],
            &[(0x05, 0, 0, u32::MAX), ALLOW],
            &[(0x34, 0, 0, 0), ALLOW],
            &[(0x64, 0, 0, 32), ALLOW],
            &[(0x02, 0, 0, 16), ALLOW],
            &[(0x94, 0, 0, 3), ALLOW],
        ] {
            assert!(program(&raw(list)).unwrap_err().to_string().contains("instruction 0 "), "{list:?}");
        }
        for (text, why) in [("", "0 instructions"), ("!", "not base64"), ("A", "not base64"), ("AAAA", "3 bytes are not a number of")] {
            let e = program(text).unwrap_err().to_string();
            assert!(e.contains(why), "{text:?}: {e}");
        }
        let long = raw(&vec![ALLOW; 4097]);
        assert!(program(&long).unwrap_err().to_string().contains("4097 instructions"));
    }

    #[test]
    fn base64_both_ways() {
        for bytes in [&b""[..], b"a", b"ab", b"abc", b"abcd", &[0xff, 0xfe, 0xfd]] {
            assert_eq!(decode(&encode(bytes)).unwrap(), bytes);
        }
        assert_eq!(decode("//79").unwrap(), [0xff, 0xfe, 0xfd]);
    }
}
