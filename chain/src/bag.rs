//! Bags of cells from somebody who is not trusted.
//!
//! Decoding computes every hash anew. What a bag may hold is bounded by the packet that it
//! came in; what it holds means nothing until a hash is compared.

use tycho_types::boc::de::{BocHeader, Error, Options};
use tycho_types::cell::{Cell, CellFamily as _, HashBytes};
use tycho_types::merkle::MerkleProof;

/// The roots of a bag that has `N`.
pub fn roots<const N: usize>(bytes: &[u8]) -> Result<[Cell; N], BagError> {
    let roots = decode(bytes, Options::exact(N))?;
    roots
        .try_into()
        .map_err(|_| BagError::Cells(Error::RootCellNotFound))
}

/// The roots of a bag that has some, and at most `most`.
pub fn some_roots(bytes: &[u8], most: usize) -> Result<Vec<Cell>, BagError> {
    let options = Options {
        min_roots: Some(1),
        max_roots: Some(most),
    };
    decode(bytes, options)
}

fn decode(bytes: &[u8], options: Options) -> Result<Vec<Cell>, BagError> {
    let header = BocHeader::decode(bytes, &options).map_err(BagError::Cells)?;
    let cells = header
        .finalize(Cell::empty_context())
        .map_err(BagError::Cells)?;
    let roots = header.roots().iter().map(|root| cells.get(*root));
    let roots = roots.collect::<Option<Vec<_>>>();
    let roots = roots.ok_or(BagError::Cells(Error::RootCellNotFound))?;
    match roots.iter().map(|root| root.repr_depth()).max() {
        Some(found) if found > MAX_DEPTH => Err(BagError::Depth { found }),
        _ => Ok(roots),
    }
}

/// What a Merkle proof shows of the cell that has a hash: the rest of it is pruned, and
/// whoever reads there gets an error.
pub fn proved(proof: &Cell, hash: &HashBytes) -> Result<Cell, BagError> {
    let proof: MerkleProof = proof.parse_exotic().map_err(|_| BagError::Proof)?;
    match proof.hash == *hash {
        true => Ok(proof.cell),
        false => Err(BagError::Other {
            found: proof.hash,
            expected: *hash,
        }),
    }
}

/// Why a bag says nothing.
#[derive(Debug, thiserror::Error)]
pub enum BagError {
    /// Not a bag of cells, or not with so many roots.
    #[error("not a bag of the expected cells: {0}")]
    Cells(Error),
    /// Deeper than TON lets a cell be.
    #[error("the cells are {found} deep, expected at most {MAX_DEPTH}")]
    Depth {
        /// As read.
        found: u16,
    },
    /// About something else.
    #[error("the proof is of {found}, expected {expected}")]
    Other {
        /// As read.
        found: HashBytes,
        /// As asked.
        expected: HashBytes,
    },
    /// Not a Merkle proof, or one whose hash is not its cells'.
    #[error("not a Merkle proof of what is in it")]
    Proof,
}

/// Of block.tlb's implementations.
const MAX_DEPTH: u16 = 1024;

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    use proptest::prelude::*;
    use tycho_types::boc::Boc;
    use tycho_types::cell::CellBuilder;

    fn cell(depth: u16) -> Cell {
        (0..depth).fold(Cell::default(), |inner, number| {
            let mut builder = CellBuilder::new();
            builder.store_u16(number).unwrap();
            builder.store_reference(inner).unwrap();
            builder.build().unwrap()
        })
    }

    #[test]
    fn only_whole_bags_with_the_expected_roots_are_read() {
        let bytes = Boc::encode_pair((cell(3), cell(2)));
        let [first, second] = roots(&bytes).unwrap();
        assert_eq!((first, second), (cell(3), cell(2)));
        assert!(matches!(roots::<1>(&bytes), Err(BagError::Cells(_))));
        assert!(matches!(some_roots(&bytes, 1), Err(BagError::Cells(_))));
        for end in 0..bytes.len() {
            assert!(roots::<2>(bytes.get(..end).unwrap()).is_err());
        }
    }

    #[test]
    fn cells_deeper_than_the_network_allows_are_refused() {
        assert!(roots::<1>(&Boc::encode(cell(MAX_DEPTH))).is_ok());
        let error = roots::<1>(&Boc::encode(cell(MAX_DEPTH + 1))).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the cells are 1025 deep, expected at most 1024"
        );
    }

    #[test]
    fn a_chain_of_cells_as_long_as_a_packet_takes_no_deep_stack() {
        for (count, expected) in [(60_000_u32, "deep"), (500_000, "not a bag")] {
            let mut cells: Vec<u8> = (1..count)
                .flat_map(|next| [[1, 0].as_slice(), &next.to_be_bytes()].concat())
                .collect();
            cells.extend([0, 0]);
            let size = u32::try_from(cells.len()).unwrap();
            // serialized_boc#b5ee9c72 of block.tlb, with references and offsets of 4 bytes.
            let bag = [
                &[0xb5, 0xee, 0x9c, 0x72, 4, 4],
                &count.to_be_bytes()[..],
                &1_u32.to_be_bytes(),
                &0_u32.to_be_bytes(),
                &size.to_be_bytes(),
                &0_u32.to_be_bytes(),
                &cells,
            ];
            let error = roots::<1>(&bag.concat()).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        }
    }

    #[test]
    fn a_proof_is_of_the_cells_in_it() {
        let inner = cell(2);
        let proof = MerkleProof {
            hash: *inner.repr_hash(),
            depth: 2,
            cell: inner.clone(),
        };
        let build = |proof: &MerkleProof| CellBuilder::build_from(proof).unwrap();
        assert_eq!(proved(&build(&proof), inner.repr_hash()).unwrap(), inner);
        let error = proved(&build(&proof), cell(1).repr_hash()).unwrap_err();
        assert!(matches!(error, BagError::Other { .. }), "{error}");
        assert!(matches!(
            proved(&inner, inner.repr_hash()),
            Err(BagError::Proof)
        ));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>, place in 0..80_usize, bit in 0..8_u32) {
            roots::<1>(&bytes).ok();
            let mut bytes = Boc::encode_pair((cell(5), cell(4)));
            if let Some(byte) = bytes.get_mut(place) {
                *byte ^= 1 << bit;
            }
            roots::<2>(&bytes).ok();
        }
    }
}
