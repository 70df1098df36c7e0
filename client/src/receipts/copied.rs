//! A body that is kept as it passes.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::{Body, Bytes, HttpBody};
use hyper::body::{Frame, SizeHint};

type End = Box<dyn FnOnce(Bytes) + Send>;

/// A body, and who gets a copy when all of it has passed; nobody if it breaks off.
pub(crate) struct Copied {
    body: Body,
    copy: Vec<u8>,
    end: Option<End>,
}

impl Copied {
    pub(crate) fn new(body: Body, end: impl FnOnce(Bytes) + Send + 'static) -> Self {
        Self {
            body,
            copy: Vec::new(),
            end: Some(Box::new(end)),
        }
    }
}

impl HttpBody for Copied {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(bytes) = frame.data_ref() {
                    self.copy.extend_from_slice(bytes);
                }
            }
            Some(Err(_)) => self.end = None,
            None => {}
        }
        let over = frame.is_none() || self.body.is_end_stream();
        if over && let Some(end) = self.end.take() {
            end(std::mem::take(&mut self.copy).into());
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.end.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl fmt::Debug for Copied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Copied").finish_non_exhaustive()
    }
}
