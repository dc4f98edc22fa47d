//! Tables from names to numbers, made at compile time.
//!
//! A hash table of plain numbers and bytes. So nothing is built when the program starts, and the loader has no pointers to
//! relocate.

/// More than twice the longest table, so that probes are short.
const SLOTS: usize = 1024;

/// FNV-1a of a name, folded to a slot.
const fn slot(name: &[u8]) -> usize {
    let mut hash: u32 = 0x811c_9dc5;
    let mut i = 0;
    while i < name.len() {
        hash = (hash ^ name[i] as u32).wrapping_mul(0x0100_0193);
        i += 1;
    }
    (hash ^ (hash >> 15)) as usize % SLOTS
}

/// A table of `N` names with `B` bytes in all. Slots hold an index plus one, or 0 for none.
pub(super) struct Names<const N: usize, const B: usize> {
    slots: [u16; SLOTS],
    starts: [u16; N],
    lengths: [u8; N],
    numbers: [u32; N],
    text: [u8; B],
}

/// The length of all names together, in bytes.
pub(super) const fn bytes(list: &[(&str, u32)]) -> usize {
    let (mut sum, mut i) = (0, 0);
    while i < list.len() {
        sum += list[i].0.len();
        i += 1;
    }
    sum
}

impl<const N: usize, const B: usize> Names<N, B> {
    /// Runs at compile time only: an index out of range stops the build.
    pub(super) const fn new(list: &[(&str, u32)]) -> Names<N, B> {
        let mut t = Names { slots: [0; SLOTS], starts: [0; N], lengths: [0; N], numbers: [0; N], text: [0; B] };
        let (mut i, mut end) = (0, 0);
        while i < N {
            let name = list[i].0.as_bytes();
            t.starts[i] = end as u16;
            t.lengths[i] = name.len() as u8;
            t.numbers[i] = list[i].1;
            let mut k = 0;
            while k < name.len() {
                t.text[end] = name[k];
                end += 1;
                k += 1;
            }
            let mut s = slot(name);
            while t.slots[s] != 0 {
                s = (s + 1) % SLOTS;
            }
            t.slots[s] = i as u16 + 1;
            i += 1;
        }
        t
    }

    pub(super) fn get(&self, name: &str) -> Option<u32> {
        let mut s = slot(name.as_bytes());
        loop {
            let i = usize::from(*self.slots.get(s)?).checked_sub(1)?;
            let start = usize::from(*self.starts.get(i)?);
            let length = usize::from(*self.lengths.get(i)?);
            if self.text.get(start..start + length)? == name.as_bytes() {
                return self.numbers.get(i).copied();
            }
            s = (s + 1) % SLOTS;
        }
    }
}
