//! The root disk: data, then the hash tree that its measured root hash vouches for.

use core::str::Utf8Error;

use attestation::register::Digest256;
use attestation::verity::{BLOCK, TreeBuilder, Verity, VerityError};

use crate::initrd::{Initrd, InitrdError};

/// What the initrd says about the root.
pub fn stated(initrd: &[u8]) -> Result<Verity, RootError> {
    let text = core::str::from_utf8(Initrd::parse(initrd)?.verity)?;
    Ok(text.trim_end_matches('\n').parse()?)
}

/// The same, if the disk is what it says.
pub fn verify(initrd: &[u8], image: &[u8]) -> Result<Verity, RootError> {
    let stated = stated(initrd)?;
    let mut tree = TreeBuilder::new(stated.salt);
    let (blocks, _) = image.as_chunks::<BLOCK>();
    let count = usize::try_from(stated.data_blocks.get()).unwrap_or(usize::MAX);
    let (data, area) = blocks
        .split_at_checked(count)
        .ok_or(RootError::Short { len: image.len() })?;
    data.iter().for_each(|block| tree.push(block));
    let built = tree.finish()?;
    if built.verity != stated {
        return Err(RootError::Data {
            found: built.verity.root_hash,
            stated: stated.root_hash,
        });
    }
    match area.as_flattened() == built.hash_area && image.len().is_multiple_of(BLOCK) {
        true => Ok(stated),
        false => Err(RootError::Tree),
    }
}

/// Why a root disk is not the one that an initrd opens.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RootError {
    /// Other data.
    #[error("root disk has root hash {found}, the initrd says {stated}")]
    Data {
        /// As computed.
        found: Digest256,
        /// As stated.
        stated: Digest256,
    },
    /// Not our initrd.
    #[error("initrd cannot be read")]
    Initrd(#[from] InitrdError),
    /// Fewer blocks than stated.
    #[error("root disk has {len} bytes, less than the initrd says")]
    Short {
        /// Of the disk.
        len: usize,
    },
    /// The hash tree does not follow the data.
    #[error("root disk does not end in its own hash tree")]
    Tree,
    /// Not text.
    #[error("/verity in the initrd is not text")]
    Utf8(#[from] Utf8Error),
    /// Not the text form.
    #[error("/verity in the initrd is refused")]
    Verity(#[from] VerityError),
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::initrd::tests::archive;
    use alloc::format;
    use alloc::string::ToString;
    use alloc::vec;
    use alloc::vec::Vec;

    /// An initrd and the disk it opens.
    pub(crate) fn disk() -> (Vec<u8>, Vec<u8>) {
        let data = vec![7; 3 * BLOCK];
        let mut tree = TreeBuilder::new([9; 32]);
        data.as_chunks().0.iter().for_each(|block| tree.push(block));
        let built = tree.finish().unwrap();
        let text = format!("{}\n", built.verity);
        let initrd = archive(&[("init", b"program"), ("verity", text.as_bytes())]);
        (initrd, [data, built.hash_area].concat())
    }

    #[test]
    fn the_right_disk_is_recognised() {
        let (initrd, image) = disk();
        assert_eq!(verify(&initrd, &image).unwrap().data_blocks.get(), 3);
    }

    #[test]
    fn any_changed_byte_is_noticed() {
        let (initrd, image) = disk();
        for at in [0, 3 * BLOCK - 1, 3 * BLOCK, image.len() - 1] {
            let mut bad = image.clone();
            bad[at] ^= 1;
            let error = verify(&initrd, &bad).unwrap_err();
            match at < 3 * BLOCK {
                true => assert!(matches!(error, RootError::Data { .. }), "byte {at}"),
                false => assert_eq!(error, RootError::Tree, "byte {at}"),
            }
        }
    }

    #[test]
    fn a_disk_of_another_size_is_refused() {
        let (initrd, image) = disk();
        let error = verify(&initrd, &image[..2 * BLOCK]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "root disk has 8192 bytes, less than the initrd says"
        );
        let longer = [&image[..], &[0]].concat();
        assert_eq!(verify(&initrd, &longer), Err(RootError::Tree));
    }

    #[test]
    fn an_initrd_without_parameters_is_refused() {
        let initrd = archive(&[("init", b""), ("verity", b"sha256:")]);
        let error = verify(&initrd, b"").unwrap_err();
        assert_eq!(error.to_string(), "/verity in the initrd is refused");
        let initrd = archive(&[("init", b""), ("verity", b"\xff")]);
        let error = verify(&initrd, b"").unwrap_err();
        assert_eq!(error.to_string(), "/verity in the initrd is not text");
        let error = verify(b"", b"").unwrap_err();
        assert_eq!(error.to_string(), "initrd cannot be read");
    }
}
