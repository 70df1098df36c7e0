//! A sealed answer as it comes: opened, hashed, and at its end settled.

use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::http::{HeaderName, HeaderValue, StatusCode, response};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use sealed::{ChunkError, HeadError, Response as Opener, ResponseHead, Transcript};
use tokio::time::timeout;

use super::agreed::SettlementError;
use super::deal::{Deal, Paid};
use crate::gateway::tally::total_tokens;

/// An answer that has begun: its head came, and something of its body, under the key of the
/// worker. Dropped before it is settled, it is in doubt what it cost.
#[derive(Debug)]
pub(super) struct Answer {
    stream: Stream,
    ready: Vec<u8>,
    tail: Vec<u8>,
    deal: Deal,
    begun: Instant,
    patience: Duration,
}

impl Answer {
    /// Waits for the first bytes, for so long; the last ones come in that time too.
    pub(super) async fn begin(
        body: Incoming,
        opener: Opener,
        deal: Deal,
        patience: Duration,
    ) -> Result<(response::Parts, Self), AnswerError> {
        let mut stream = Stream {
            body,
            opener,
            transcript: Transcript::response(),
        };
        let begun = Instant::now();
        let (head, ready) = timeout(patience, stream.begin())
            .await
            .unwrap_or(Err(AnswerError::Late))?;
        let answer = Self {
            stream,
            ready,
            tail: Vec::new(),
            deal,
            begun,
            patience,
        };
        Ok((head, answer))
    }

    /// How long an application may take with what has come.
    pub(super) fn left(&self) -> Duration {
        let most = self.patience.saturating_add(LATE);
        most.saturating_sub(self.begun.elapsed())
    }

    pub(super) const fn deal(&self) -> &Deal {
        &self.deal
    }

    /// The next bytes of the body; None at its authenticated end.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, AnswerError> {
        let mut bytes = std::mem::take(&mut self.ready);
        while bytes.is_empty() {
            let next = timeout(IDLE, self.stream.next()).await;
            match next.map_err(|_| AnswerError::Late)?? {
                Some(chunks) => bytes = chunks.concat(),
                None => return Ok(None),
            }
        }
        self.tail.extend_from_slice(&bytes);
        let extra = self.tail.len().saturating_sub(TAIL);
        self.tail.drain(..extra);
        Ok(Some(bytes.into()))
    }

    /// Nobody reads it any more. It costs the same to its end, which a scheduler awaits for
    /// as long if we do not.
    pub(super) async fn read_on(mut self) -> Result<Paid, AnswerError> {
        let end = async {
            while self.next().await?.is_some() {}
            self.settle().await
        };
        timeout(READ_ON, end)
            .await
            .unwrap_or(Err(AnswerError::Left))
    }

    /// After the end: what it took.
    pub(super) async fn settle(self) -> Result<Paid, AnswerError> {
        let said = total_tokens(&self.tail);
        let settlement = self.stream.opener.end();
        let hash = self.stream.transcript.end();
        match (settlement, hash) {
            (Ok(settlement), Ok((hash, _))) => {
                let settled = self.deal.settle(&settlement, hash, said).await;
                settled.map_err(AnswerError::Settlement)
            }
            (Err(error), _) | (_, Err(error)) => Err(AnswerError::Chunk(error)),
        }
    }
}

#[derive(Debug)]
struct Stream {
    body: Incoming,
    opener: Opener,
    transcript: Transcript,
}

impl Stream {
    /// The head, and what is not empty of the body, unless all of it is.
    async fn begin(&mut self) -> Result<(response::Parts, Vec<u8>), AnswerError> {
        let (head, mut ready) = self.head().await?;
        while ready.is_empty()
            && let Some(chunks) = self.next().await?
        {
            ready = chunks.concat();
        }
        Ok((head, ready))
    }

    async fn head(&mut self) -> Result<(response::Parts, Vec<u8>), AnswerError> {
        loop {
            let chunks = self.next().await?;
            let chunks = chunks.ok_or(AnswerError::Chunk(ChunkError::Truncated { chunk: 0 }))?;
            let mut chunks = chunks.into_iter();
            if let Some(head) = chunks.next() {
                let head = ResponseHead::parse(&head).map_err(AnswerError::Head)?;
                return Ok((parts(&head)?, chunks.flatten().collect()));
            }
        }
    }

    /// What the next piece of the stream completes, which may be nothing.
    async fn next(&mut self) -> Result<Option<Vec<Vec<u8>>>, AnswerError> {
        loop {
            let Some(frame) = self.body.frame().await else {
                return Ok(None);
            };
            let frame = frame.map_err(AnswerError::Broken)?;
            let Some(bytes) = frame.data_ref() else {
                continue;
            };
            self.transcript.push(bytes).map_err(AnswerError::Chunk)?;
            return self
                .opener
                .push(bytes)
                .map(Some)
                .map_err(AnswerError::Chunk);
        }
    }
}

fn parts(head: &ResponseHead) -> Result<response::Parts, AnswerError> {
    let status = StatusCode::from_u16(head.status).map_err(|_| AnswerError::Status(head.status))?;
    let (mut parts, ()) = axum::http::Response::new(()).into_parts();
    parts.status = status;
    for sealed::Header(name, value) in &head.headers {
        let name = HeaderName::try_from(name).map_err(|_| AnswerError::Status(head.status))?;
        let value = HeaderValue::try_from(value).map_err(|_| AnswerError::Status(head.status))?;
        parts.headers.append(name, value);
    }
    Ok(parts)
}

/// Between two pieces of an answer: a long prompt takes its time.
const IDLE: Duration = Duration::from_secs(180);

/// After the deadline, for what was on its way.
const LATE: Duration = Duration::from_secs(2);

/// For an answer that nobody reads.
const READ_ON: Duration = Duration::from_secs(20);

/// What an answer says of its usage stands at its end.
const TAIL: usize = 4096;

/// Why an answer is none, or not the whole of one.
#[derive(Debug, thiserror::Error)]
pub(super) enum AnswerError {
    #[error("the answer broke off")]
    Broken(#[source] hyper::Error),
    #[error("the answer was changed on its way")]
    Chunk(#[source] ChunkError),
    #[error("the answer has no head")]
    Head(#[source] HeadError),
    #[error("the answer takes too long")]
    Late,
    #[error("the application left")]
    Left,
    #[error("the answer is too long")]
    Long,
    #[error("the answer is not settled as agreed")]
    Settlement(#[source] SettlementError),
    #[error("the answer's head, of status {0}, is none of HTTP's")]
    Status(u16),
}

impl AnswerError {
    /// No accident brings this about.
    pub(super) const fn is_lie(&self) -> bool {
        matches!(
            self,
            Self::Settlement(_) | Self::Chunk(ChunkError::Forged { .. })
        )
    }
}
