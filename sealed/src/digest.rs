//! Digests in CBOR: strings of bytes.

use attestation::register::Digest256;
use minicbor::bytes::ByteArray;
use minicbor::decode::{Decode as _, Decoder, Error};
use minicbor::encode::{self, Encoder, Write};

pub(crate) fn encode<C, W: Write>(
    digest: &Digest256,
    to: &mut Encoder<W>,
    _: &mut C,
) -> Result<(), encode::Error<W::Error>> {
    to.bytes(digest.as_bytes()).map(drop)
}

pub(crate) fn decode<C>(from: &mut Decoder<'_>, context: &mut C) -> Result<Digest256, Error> {
    let bytes = ByteArray::<32>::decode(from, context)?;
    Ok(Digest256::from_bytes(bytes.into()))
}
