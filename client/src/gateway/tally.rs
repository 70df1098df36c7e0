//! A body whose tokens are counted as it passes.
//!
//! Who asked through the network knows them from the settlement. Else they are what the
//! answer says of its usage; a stream that says nothing counts one for each event.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use axum::body::{Body, HttpBody};
use hyper::body::{Bytes, Frame, SizeHint};

/// What an answer took, once it is known.
#[derive(Clone, Debug, Default)]
pub(crate) struct Took(pub(crate) Arc<OnceLock<u64>>);

type End = Box<dyn FnOnce(u64) + Send>;

/// Tells what passed when it ends, or breaks off.
pub(crate) struct Tally {
    body: Body,
    took: Option<Took>,
    events: u64,
    tail: Vec<u8>,
    end: Option<End>,
}

impl Tally {
    pub(crate) fn new(
        body: Body,
        took: Option<Took>,
        end: impl FnOnce(u64) + Send + 'static,
    ) -> Self {
        Self {
            body,
            took,
            events: 0,
            tail: Vec::new(),
            end: Some(Box::new(end)),
        }
    }

    fn passed(&mut self, bytes: &[u8]) {
        // An event across two frames counts for nothing: agents write them whole.
        let starts = bytes.windows(EVENT.len()).filter(|at| *at == EVENT).count();
        let starts = u64::try_from(starts).unwrap_or_default();
        self.events = self.events.saturating_add(starts);
        self.tail.extend_from_slice(bytes);
        let extra = self.tail.len().saturating_sub(TAIL);
        self.tail.drain(..extra);
    }

    fn tokens(&self) -> u64 {
        match &self.took {
            Some(took) => took.0.get().copied().unwrap_or_default(),
            None => total_tokens(&self.tail).unwrap_or(self.events),
        }
    }
}

/// The last total that an answer says: in JSON, a text's own quotes are escaped.
pub(crate) fn total_tokens(text: &[u8]) -> Option<u64> {
    let at = text.windows(TOTAL.len()).rposition(|at| at == TOTAL)?;
    let digits = text.get(at.checked_add(TOTAL.len())?..)?;
    let digits = digits.trim_ascii_start();
    let end = digits.iter().position(|byte| !byte.is_ascii_digit());
    let digits = digits.get(..end.unwrap_or(digits.len()))?;
    str::from_utf8(digits).ok()?.parse().ok()
}

impl HttpBody for Tally {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(bytes) = frame.data_ref()
        {
            self.passed(bytes);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        if let Some(end) = self.end.take() {
            end(self.tokens());
        }
    }
}

impl fmt::Debug for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tally").finish_non_exhaustive()
    }
}

const EVENT: &[u8] = b"data: {";

const TOTAL: &[u8] = b"\"total_tokens\":";

const TAIL: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    use axum::body::to_bytes;
    use std::sync::mpsc;

    async fn told(text: &'static str, took: Option<Took>) -> u64 {
        let (tell, told) = mpsc::channel();
        let body = Tally::new(text.into(), took, move |tokens| tell.send(tokens).unwrap());
        assert_eq!(to_bytes(Body::new(body), 1 << 20).await.unwrap(), text);
        told.recv().unwrap()
    }

    #[tokio::test]
    async fn an_answer_takes_what_it_says() {
        let answer = r#"{"usage":{"prompt_tokens":5,"total_tokens": 12}}"#;
        assert_eq!(told(answer, None).await, 12);
        let stream = "data: {}\n\ndata: {}\n\ndata: [DONE]\n\n";
        assert_eq!(told(stream, None).await, 2);
        let took = Took::default();
        took.0.set(40).unwrap();
        assert_eq!(
            told(answer, Some(took)).await,
            40,
            "a settlement knows better"
        );
    }
}
