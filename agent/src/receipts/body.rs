//! A body that is hashed as it passes.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use attestation::aci::Hash;
use attestation::register::Digest256;
use axum::body::{Body, Bytes};
use hyper::body::{Frame, SizeHint};
use sha2::{Digest as _, Sha256};

/// What has passed so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Passed(Arc<Mutex<Sha256>>);

impl Passed {
    pub(super) fn hash(&self) -> Hash {
        let hash = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Hash(Digest256::from_bytes(hash.clone().finalize().into()))
    }

    fn add(&self, bytes: &[u8]) {
        let mut hash = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        hash.update(bytes);
    }
}

/// Told what the hash of a whole body is.
type End = Box<dyn FnOnce(Hash) + Send>;

/// A body and who is told when it has passed; nobody if it breaks off.
pub(super) struct Watched {
    body: Body,
    passed: Passed,
    end: Option<End>,
}

impl Watched {
    /// For somebody who looks when they like.
    pub(super) fn new(body: Body) -> (Self, Passed) {
        let passed = Passed::default();
        let watched = Self {
            body,
            passed: passed.clone(),
            end: None,
        };
        (watched, passed)
    }

    /// For somebody who is told at the end, before the last bytes leave.
    pub(super) fn until(body: Body, end: impl FnOnce(Hash) + Send + 'static) -> Self {
        Self {
            end: Some(Box::new(end)),
            ..Self::new(body).0
        }
    }
}

impl hyper::body::Body for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        let over = match &frame {
            Some(Ok(frame)) => {
                if let Some(bytes) = frame.data_ref() {
                    self.passed.add(bytes);
                }
                // Then nobody asks for another frame.
                self.body.is_end_stream()
            }
            Some(Err(_)) => {
                self.end = None;
                false
            }
            None => true,
        };
        if over && let Some(end) = self.end.take() {
            end(self.passed.hash());
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        // An empty body is over before it is asked for, and its end has to be told.
        self.end.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl fmt::Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::HttpBody as _;
    use futures_util::stream;
    use http_body_util::BodyExt as _;

    async fn told(body: Body) -> (Option<Hash>, Vec<u8>, SizeHint) {
        let told = Arc::new(Mutex::new(None));
        let place = Arc::clone(&told);
        let watched = Watched::until(body, move |hash| *place.lock().unwrap() = Some(hash));
        let size = watched.size_hint();
        let mut body = Body::new(watched);
        let mut bytes = Vec::new();
        // As a server does it: no further than the body says that there is something.
        while !body.is_end_stream() {
            match body.frame().await {
                Some(Ok(frame)) => bytes.extend(frame.into_data().unwrap()),
                _ => break,
            }
        }
        (told.lock().unwrap().take(), bytes, size)
    }

    #[tokio::test]
    async fn the_end_is_told_once_all_has_passed() {
        let parts = ["data: a\n\n", "data: [DONE]\n\n"].map(Ok::<_, axum::Error>);
        let (hash, bytes, _) = told(Body::from_stream(stream::iter(parts))).await;
        assert_eq!(bytes, b"data: a\n\ndata: [DONE]\n\n");
        assert_eq!(hash, Some(Hash::of(&bytes)));
        for text in ["", "whole"] {
            let (hash, _, size) = told(Body::from(text)).await;
            assert_eq!(hash, Some(Hash::of(text.as_bytes())));
            assert_eq!(size.exact(), Some(u64::try_from(text.len()).unwrap()));
        }
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_has_no_end() {
        let parts = [Ok("a"), Err(axum::Error::new("gone"))];
        let (hash, ..) = told(Body::from_stream(stream::iter(parts))).await;
        assert_eq!(hash, None);
    }
}
