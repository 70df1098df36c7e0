//! Small things of cells that the crate of cells does not have.

use tycho_types::cell::{
    Cell, CellBuilder, CellContext, CellDataBuilder, CellSlice, HashBytes, Load, Store,
};
use tycho_types::dict::{DictKey, LoadDictKey, StoreDictKey};
use tycho_types::error::Error;

/// A field or dictionary key of `N` bytes.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Bytes<const N: usize>(pub [u8; N]);

impl<const N: usize> Bytes<N> {
    /// Of numbers, whose first bytes may have no place in the field.
    pub(crate) fn of_end(bytes: &[u8]) -> Option<Self> {
        let mut field = [0; N];
        let skip = bytes.len().checked_sub(N);
        match skip {
            Some(skip) => {
                let (head, tail) = bytes.split_at_checked(skip)?;
                head.iter().all(|byte| *byte == 0).then_some(())?;
                field.copy_from_slice(tail);
            }
            None => {
                let start = N.checked_sub(bytes.len())?;
                field.get_mut(start..)?.copy_from_slice(bytes);
            }
        }
        Some(Self(field))
    }
}

impl<const N: usize> Store for Bytes<N> {
    fn store_into(&self, builder: &mut CellBuilder, _: &dyn CellContext) -> Result<(), Error> {
        builder.store_raw(&self.0, <Self as DictKey>::BITS)
    }
}

impl<'a, const N: usize> Load<'a> for Bytes<N> {
    fn load_from(slice: &mut CellSlice<'a>) -> Result<Self, Error> {
        let mut bytes = [0; N];
        slice.load_raw(&mut bytes, <Self as DictKey>::BITS)?;
        Ok(Self(bytes))
    }
}

impl<const N: usize> DictKey for Bytes<N> {
    #[allow(
        clippy::as_conversions,
        clippy::arithmetic_side_effects,
        reason = "evaluated when compiled, for fields of a cell, which has 127 bytes"
    )]
    const BITS: u16 = N as u16 * 8;
}

impl<const N: usize> StoreDictKey for Bytes<N> {
    fn store_into_data(&self, data: &mut CellDataBuilder) -> Result<(), Error> {
        data.store_raw(&self.0, Self::BITS)
    }
}

impl<const N: usize> LoadDictKey for Bytes<N> {
    fn load_from_data(data: &CellDataBuilder) -> Option<Self> {
        let bytes = data.raw_data().get(..N)?;
        bytes.try_into().ok().map(Self)
    }
}

/// A moment, in 40 bits of seconds since 1970.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Moment(pub u64);

impl Moment {
    /// The last one that can be written.
    pub const FOREVER: Self = Self(0xff_ffff_ffff);
}

impl Store for Moment {
    fn store_into(&self, builder: &mut CellBuilder, _: &dyn CellContext) -> Result<(), Error> {
        match *self <= Self::FOREVER {
            true => builder.store_uint(self.0, 40),
            false => Err(Error::IntOverflow),
        }
    }
}

impl<'a> Load<'a> for Moment {
    fn load_from(slice: &mut CellSlice<'a>) -> Result<Self, Error> {
        slice.load_uint(40).map(Self)
    }
}

/// All bytes that a cell still has.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Rest(pub Vec<u8>);

impl Store for Rest {
    fn store_into(&self, builder: &mut CellBuilder, _: &dyn CellContext) -> Result<(), Error> {
        let bits = self.0.len().checked_mul(8).ok_or(Error::CellOverflow)?;
        builder.store_raw(
            &self.0,
            u16::try_from(bits).map_err(|_| Error::CellOverflow)?,
        )
    }
}

impl<'a> Load<'a> for Rest {
    fn load_from(slice: &mut CellSlice<'a>) -> Result<Self, Error> {
        let bits = slice.size_bits();
        if !bits.is_multiple_of(8) {
            return Err(Error::InvalidData);
        }
        let mut bytes = vec![0; usize::from(bits / 8)];
        slice.load_raw(&mut bytes, bits)?;
        Ok(Self(bytes))
    }
}

/// Cells that each hold a piece and refer to the next.
pub(crate) fn chain(pieces: &[&[u8]]) -> Result<Cell, Error> {
    let mut next: Option<Cell> = None;
    for piece in pieces.iter().rev() {
        let mut builder = CellBuilder::new();
        let bits = piece.len().checked_mul(8).ok_or(Error::CellOverflow)?;
        let bits = u16::try_from(bits).map_err(|_| Error::CellOverflow)?;
        builder.store_raw(piece, bits)?;
        if let Some(next) = next {
            builder.store_reference(next)?;
        }
        next = Some(builder.build()?);
    }
    Ok(next.unwrap_or_default())
}

/// A number of 256 bits.
pub(crate) fn number(bytes: &[u8]) -> Option<HashBytes> {
    Bytes::<32>::of_end(bytes).map(|Bytes(bytes)| HashBytes(bytes))
}
