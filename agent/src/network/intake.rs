//! A sealed request as it comes in: hashed whole, opened chunk by chunk, and read no
//! faster than whoever it is for takes it.

use std::sync::Arc;

use axum::body::{Body, BodyDataStream, Bytes};
use futures_util::{StreamExt as _, stream};
use sealed::{ChunkError, MAX_REQUEST, Opener, START};
use sha2::{Digest as _, Sha256};
use tokio::sync::Mutex;

pub(super) struct Intake {
    stream: BodyDataStream,
    hash: Sha256,
    size: usize,
    /// What came and is not opened yet.
    ahead: Bytes,
    opener: Option<Opener>,
}

impl Intake {
    pub(super) fn new(body: Body) -> Self {
        Self {
            stream: body.into_data_stream(),
            hash: Sha256::new(),
            size: 0,
            ahead: Bytes::new(),
            opener: None,
        }
    }

    /// The bytes before the first chunk; fewer if there are no more.
    pub(super) async fn start(&mut self) -> Result<Vec<u8>, Broken> {
        let mut start = Vec::with_capacity(START);
        while start.len() < START {
            let Some(mut bytes) = self.receive().await? else {
                break;
            };
            let part = bytes.len().min(START.saturating_sub(start.len()));
            start.extend_from_slice(&bytes.split_to(part));
            self.ahead = bytes;
        }
        Ok(start)
    }

    /// From now on there are chunks.
    pub(super) fn open(&mut self, opener: Opener) {
        self.opener = Some(opener);
    }

    /// What the next chunk held; nothing after the last one, at which the request ends.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<u8>>, Broken> {
        let mut chunk = Vec::new();
        while let Some(opener) = &mut self.opener {
            let mut ahead = &self.ahead[..];
            let is_whole = opener.open(&mut ahead, &mut chunk)?;
            self.ahead = self.ahead.slice_ref(ahead);
            if is_whole {
                return Ok(Some(chunk));
            }
            match self.receive().await? {
                Some(bytes) => self.ahead = bytes,
                None => self.opener.take().map_or(Ok(()), Opener::end)?,
            }
        }
        Ok(None)
    }

    /// Hash of all that was sent, which is awaited; of what came, if it breaks off.
    pub(super) async fn hash(&mut self) -> [u8; 32] {
        while let Ok(Some(_)) = self.receive().await {}
        self.hash.clone().finalize().into()
    }

    async fn receive(&mut self) -> Result<Option<Bytes>, Broken> {
        let Some(bytes) = self.stream.next().await else {
            return Ok(None);
        };
        let bytes = bytes.map_err(|_| Broken::Gone)?;
        self.hash.update(&bytes);
        self.size = self.size.saturating_add(bytes.len());
        match self.size <= MAX_REQUEST {
            true => Ok(Some(bytes)),
            false => Err(Broken::Long),
        }
    }
}

/// The rest of it, as the body of the request that was sealed.
pub(super) fn body(intake: &Arc<Mutex<Intake>>) -> Body {
    let chunks = stream::unfold(Arc::clone(intake), |intake| async {
        let next = intake.lock().await.next().await;
        Some((next.transpose()?, intake))
    });
    Body::from_stream(chunks)
}

/// Why no more of a request comes.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error("a chunk is refused")]
    Chunk(#[from] ChunkError),
    #[error("whoever sent it is gone")]
    Gone,
    #[error("more than {MAX_REQUEST} bytes")]
    Long,
}

#[cfg(test)]
mod tests {
    use super::*;
    use sealed::{SecretKey, seal};

    fn sealed() -> (SecretKey, Vec<u8>) {
        let key = SecretKey::from_seed([1; 32]).unwrap();
        let (mut bytes, mut sealer, _) = seal(&key.public(), b"e", [2; 64]).unwrap();
        sealer.chunk(b"head", &mut bytes).unwrap();
        sealer.last(b"body", &mut bytes).unwrap();
        (key, bytes)
    }

    async fn read(
        key: &SecretKey,
        bytes: &[u8],
        piece: usize,
    ) -> (Result<Vec<u8>, Broken>, [u8; 32]) {
        let pieces: Vec<_> = bytes.chunks(piece).map(<[u8]>::to_vec).collect();
        let pieces = pieces.into_iter().map(Ok::<_, axum::Error>);
        let mut intake = Intake::new(Body::from_stream(stream::iter(pieces)));
        let start = intake.start().await.unwrap();
        let (opener, _) = key.open(b"e", &start).unwrap();
        let mut read = Vec::new();
        let result = async {
            intake.open(opener);
            while let Some(chunk) = intake.next().await? {
                read.extend(chunk);
            }
            Ok(read)
        };
        let result = result.await;
        (result, intake.hash().await)
    }

    #[tokio::test]
    async fn a_request_is_opened_and_hashed_in_pieces_of_any_size() {
        let (key, bytes) = sealed();
        for piece in [1, 7, START, START + 1, bytes.len()] {
            let (result, hash) = read(&key, &bytes, piece).await;
            assert_eq!(result.unwrap(), b"headbody", "{piece}");
            assert_eq!(hash, <[u8; 32]>::from(Sha256::digest(&bytes)));
        }
    }

    #[tokio::test]
    async fn ten_thousand_tiny_chunks_and_an_empty_last_one_are_one_body() {
        let key = SecretKey::from_seed([1; 32]).unwrap();
        let (mut bytes, mut sealer, _) = seal(&key.public(), b"e", [2; 64]).unwrap();
        for _ in 0..10_000 {
            sealer.chunk(b"x", &mut bytes).unwrap();
        }
        sealer.last(b"", &mut bytes).unwrap();
        let (result, hash) = read(&key, &bytes, 16 << 10).await;
        assert_eq!(result.unwrap(), [b'x'; 10_000]);
        assert_eq!(hash, <[u8; 32]>::from(Sha256::digest(&bytes)));
    }

    #[tokio::test]
    async fn half_a_request_ends_in_an_error() {
        let (key, bytes) = sealed();
        for length in [START, START + 3, bytes.len() - 1] {
            let (result, _) = read(&key, &bytes[..length], 64).await;
            let truncated = matches!(result, Err(Broken::Chunk(ChunkError::Truncated { .. })));
            assert!(truncated, "{length}");
        }
    }

    #[tokio::test]
    async fn nobody_reads_a_request_without_end() {
        let endless = stream::repeat_with(|| Ok::<_, axum::Error>(vec![0; 1 << 20]));
        let mut intake = Intake::new(Body::from_stream(endless));
        intake.start().await.unwrap();
        while let Ok(Some(_)) = intake.receive().await {}
        assert!(intake.size > MAX_REQUEST);
    }
}
