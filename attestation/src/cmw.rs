//! A message with its media type: how evidence of several kinds travels as one.
//!
//! ```text
//! record      [ media type, message, indicator ]
//! collection  { "__cmwc_t": type of the collection, label: record, ... }
//! ```
//!
//! The wrapper protects nothing; what it holds is signed, or bound by a signature.
//!
//! Source: RFC 9999 (RATS Conceptual Message Wrapper), sections 3.1 and 3.3.

use minicbor::decode::{self, Decoder};
use minicbor::encode::{self, Encoder, Write};

/// Label of a collection's type, which is no message.
pub(crate) const COLLECTION_TYPE: &str = "__cmwc_t";

/// What a record holds: the same for every record of one label.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Form {
    media_type: &'static str,
    indicator: u32,
}

impl Form {
    /// What the attester says of itself.
    pub(crate) const fn evidence(media_type: &'static str) -> Self {
        Self {
            media_type,
            indicator: 1 << 2,
        }
    }

    /// What others have signed about it.
    pub(crate) const fn endorsements(media_type: &'static str) -> Self {
        Self {
            media_type,
            indicator: 1 << 1,
        }
    }

    /// Writes `message` as a record.
    pub(crate) fn write<W: Write>(
        &self,
        to: &mut Encoder<W>,
        message: &[u8],
    ) -> Result<(), encode::Error<W::Error>> {
        to.array(3)?.str(self.media_type)?.bytes(message)?;
        to.u32(self.indicator)?.ok()
    }

    /// Reads the message of a record of this form.
    pub(crate) fn read<'b>(&self, from: &mut Decoder<'b>) -> Result<&'b [u8], decode::Error> {
        let at = from.position();
        let refused = |what| Err(decode::Error::message(what).at(at));
        if from.array()? != Some(3) {
            return refused("no record of three");
        }
        if from.str()? != self.media_type {
            return refused("another media type");
        }
        let message = from.bytes()?;
        match from.u32()? == self.indicator {
            true => Ok(message),
            false => refused("another indicator"),
        }
    }
}
