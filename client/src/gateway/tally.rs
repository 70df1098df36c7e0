//! A body whose tokens are counted as it passes.
//!
//! They are what the answer says of its usage; a stream that says nothing counts one for
//! each event.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::{Body, HttpBody};
use hyper::body::{Bytes, Frame, SizeHint};

use super::bill::Bill;

/// Tells what passed when it ends, or breaks off.
pub(super) struct Tally {
    body: Body,
    bill: Arc<Bill>,
    events: u64,
    tail: Vec<u8>,
}

impl Tally {
    pub(super) fn new(body: Body, bill: Arc<Bill>) -> Self {
        Self {
            body,
            bill,
            events: 0,
            tail: Vec::new(),
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
        let tokens = total_tokens(&self.tail).unwrap_or(self.events);
        self.bill.passed(tokens);
    }
}

const EVENT: &[u8] = b"data: {";

const TOTAL: &[u8] = b"\"total_tokens\":";

const TAIL: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    use axum::body::to_bytes;
    use axum::http::Method;

    use crate::gateway::metrics::Metrics;

    async fn told(text: &'static str, settled: Option<u64>) -> String {
        let metrics = Metrics::default();
        let bill = Bill::new(metrics.clone(), Method::POST, "/".into());
        let bill = Arc::new(bill);
        if let Some(tokens) = settled {
            bill.pays(tokens);
        }
        let body = Body::new(Tally::new(text.into(), bill));
        assert_eq!(to_bytes(body, 1 << 20).await.unwrap(), text);
        let shown = metrics.show();
        let line = shown.lines().find(|line| line.contains("tokens_total{"));
        line.unwrap().rsplit_once(' ').unwrap().1.to_owned()
    }

    #[tokio::test]
    async fn an_answer_takes_what_it_says() {
        let answer = r#"{"usage":{"prompt_tokens":5,"total_tokens": 12}}"#;
        assert_eq!(told(answer, None).await, "12");
        let stream = "data: {}\n\ndata: {}\n\ndata: [DONE]\n\n";
        assert_eq!(told(stream, None).await, "2");
        let settled = told(answer, Some(40)).await;
        assert_eq!(settled, "40", "a settlement knows better");
    }
}
