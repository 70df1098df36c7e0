//! One message: its length, then CBOR.

use std::io;

use attestation::cbor::{self, CborError};
use attestation::protocol::{FrameTooLong, frame_len};
use minicbor::{Decode, Encode};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Reads one message of at most `max` bytes.
pub async fn read<S, T>(stream: &mut S, max: usize) -> Result<T, FrameError>
where
    S: AsyncRead + Unpin,
    T: for<'b> Decode<'b, ()> + Encode<()>,
{
    let mut header = [0; 4];
    stream
        .read_exact(&mut header)
        .await
        .map_err(FrameError::Io)?;
    let len = frame_len(header, max).map_err(FrameError::TooLong)?;
    let mut bytes = Vec::new();
    // Grows with what arrives, not with what was announced.
    let mut message = stream.take(u64::try_from(len).unwrap_or(u64::MAX));
    let arrived = message
        .read_to_end(&mut bytes)
        .await
        .map_err(FrameError::Io)?;
    match arrived == len {
        true => cbor::decode(&bytes).map_err(FrameError::Malformed),
        false => Err(FrameError::Io(io::ErrorKind::UnexpectedEof.into())),
    }
}

/// Writes one message.
pub async fn write<S, T>(stream: &mut S, message: &T) -> Result<(), FrameError>
where
    S: AsyncWrite + Unpin,
    T: Encode<()>,
{
    let bytes = cbor::encode(message);
    let len = u32::try_from(bytes.len()).map_err(|_| {
        FrameError::TooLong(FrameTooLong {
            len: u32::MAX,
            max: bytes.len(),
        })
    })?;
    let frame = [&len.to_be_bytes()[..], &bytes].concat();
    stream.write_all(&frame).await.map_err(FrameError::Io)?;
    stream.flush().await.map_err(FrameError::Io)
}

/// Why no message came or went.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The connection.
    #[error("the connection broke inside a message")]
    Io(#[source] io::Error),
    /// Bytes that are no message.
    #[error("the peer sent no message of this protocol")]
    Malformed(#[source] CborError),
    /// Over the limit.
    #[error("the peer's message is too long")]
    TooLong(#[source] FrameTooLong),
}
