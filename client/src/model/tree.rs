//! Work in pieces by several threads, and the hash tree of a disk so made.

use std::num::NonZero;
use std::sync::Mutex;
use std::thread;

use anyhow::{Context as _, Result, anyhow};
use attestation::verity::{BLOCK, Built, TreeBuilder};

/// Hashes `blocks` blocks, which `fill` puts into a buffer from a block of that number on.
///
/// Each thread holds one piece of 4 MiB; the tree has 1/128 of the disk.
pub(super) fn build(
    salt: [u8; 32],
    blocks: u32,
    threads: NonZero<usize>,
    fill: impl Fn(u32, &mut [u8]) -> Result<()> + Sync,
) -> Result<Built> {
    let firsts = (0..blocks).step_by(PIECE);
    let mut pieces = each(threads, firsts, |buffer, first| {
        let left = usize::try_from(blocks.saturating_sub(first))?;
        buffer.resize(left.min(PIECE).saturating_mul(BLOCK), 0);
        fill(first, buffer)?;
        let mut tree = TreeBuilder::new(salt);
        let (whole, _) = buffer.as_chunks();
        whole.iter().for_each(|block| tree.push(block));
        Ok((first, tree))
    })?;
    pieces.sort_by_key(|(first, _)| *first);
    let mut tree = TreeBuilder::new(salt);
    pieces.into_iter().for_each(|(_, piece)| tree.append(piece));
    tree.finish().context("cannot hash the disk")
}

/// Does the work for each item, in any order. Each thread has a buffer of its own.
pub(super) fn each<T: Send, R: Send>(
    threads: NonZero<usize>,
    items: impl Iterator<Item = T> + Send,
    work: impl Fn(&mut Vec<u8>, T) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    let items = Mutex::new(items);
    // Poisoned by a panic, which the end of that thread tells.
    let next = || items.lock().ok()?.next();
    let thread = || {
        let mut buffer = Vec::new();
        let mut done = Vec::new();
        while let Some(item) = next() {
            done.push(work(&mut buffer, item)?);
        }
        Ok(done)
    };
    let mut all = Vec::new();
    thread::scope(|scope| {
        let threads: Vec<_> = (0..threads.get()).map(|_| scope.spawn(thread)).collect();
        for thread in threads {
            let done: Result<Vec<R>> = thread.join().map_err(|_| anyhow!("a thread panicked"))?;
            all.extend(done?);
        }
        Ok(all)
    })
}

/// In blocks.
const PIECE: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_number_of_threads_makes_the_same_tree() {
        let blocks = 3 * 1024 + 5;
        let content = |first: u32, buffer: &mut [u8]| {
            for (number, block) in (first..).zip(buffer.chunks_mut(BLOCK)) {
                block.fill(0);
                block[..4].copy_from_slice(&number.to_le_bytes());
            }
            Ok(())
        };
        let mut whole = TreeBuilder::new([7; 32]);
        for number in 0..blocks {
            let mut block = [0; BLOCK];
            content(number, &mut block).unwrap();
            whole.push(&block);
        }
        let expected = whole.finish().unwrap();
        for threads in [1, 3] {
            let threads = NonZero::new(threads).unwrap();
            let built = build([7; 32], blocks, threads, content).unwrap();
            assert_eq!(built.verity, expected.verity);
            assert_eq!(built.hash_area, expected.hash_area);
        }
    }

    #[test]
    fn what_cannot_be_read_is_said() {
        let fill = |first: u32, _: &mut [u8]| Err(anyhow!("no block {first}"));
        let error = build([7; 32], 1, NonZero::<usize>::MIN, fill).unwrap_err();
        assert_eq!(error.to_string(), "no block 0");
    }
}
