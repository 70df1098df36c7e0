//! A sealed request on its way to a worker, and the answer on its way back.
//!
//! Both are passed on as they come: what one side does not take, the other does not send.
//! A worker that breaks off ends both. A client that goes away ends the request; the answer
//! is read on for a while, unseen, for whoever could leave before the settlement would not
//! pay. Hashes of what passed are compared with the worker's receipt,
//! which is in clear behind the last chunk of an answer.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use attestation::register::Digest256;
use axum::BoxError;
use axum::body::{Body, HttpBody};
use bytes::Bytes;
use futures_util::stream;
use hyper::body::{Frame, SizeHint};
use hyper::{StatusCode, Uri};
use sealed::{ChunkError, MAX_REQUEST, Transcript};
use tokio::select;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Sleep, sleep, timeout};

use crate::directory::Outcome;

/// A request's body, hashed as it passes.
#[derive(Debug)]
pub struct Upload {
    body: Body,
    passed: Passed,
    pieces: Pieces,
    left: usize,
    stall: Pin<Box<Sleep>>,
}

/// What has passed of an upload; nothing once it was cut.
#[derive(Clone, Debug)]
pub struct Passed {
    transcript: Arc<Mutex<Option<Transcript>>>,
    started: Instant,
}

impl Passed {
    /// Who is to blame for breaking off: the worker, if it had all of the request or could not
    /// have been waiting for it. Asked once.
    pub fn blame(&self) -> Blame {
        let is_early = self.started.elapsed() < PATIENCE;
        match self.lock().take().map(Transcript::end) {
            Some(Ok((hash, _))) => Blame::Worker(Some(hash)),
            Some(Err(_)) if is_early => Blame::Worker(None),
            _ => Blame::Client,
        }
    }

    /// The hash of a request that passed whole, once.
    pub fn whole(&self) -> Option<Digest256> {
        let passed = self.lock().take()?;
        passed.end().ok().map(|(hash, _)| hash)
    }

    fn push(&self, bytes: &Bytes) -> Result<(), ChunkError> {
        self.lock()
            .as_mut()
            .map_or(Ok(()), |passed| passed.push(bytes))
    }

    fn lock(&self) -> MutexGuard<'_, Option<Transcript>> {
        let transcript = self.transcript.lock();
        transcript.unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who broke off.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Blame {
    /// Whoever did not send all of the request.
    Client,
    /// With the hash of the request, if it passed whole.
    Worker(Option<Digest256>),
}

impl Upload {
    /// Also gives what will have passed.
    #[must_use]
    pub fn new(body: Body) -> (Self, Passed) {
        let passed = Passed {
            transcript: Arc::new(Mutex::new(Some(Transcript::request()))),
            started: Instant::now(),
        };
        let upload = Self {
            body,
            passed: passed.clone(),
            pieces: Pieces::default(),
            left: MAX_REQUEST,
            stall: Box::pin(sleep(STALL)),
        };
        (upload, passed)
    }

    fn pass(&mut self, bytes: &Bytes) -> Result<(), RelayError> {
        self.pieces.count(bytes)?;
        let left = self.left.checked_sub(bytes.len());
        self.left = left.ok_or(RelayError::LongRequest)?;
        self.passed.push(bytes).map_err(RelayError::Request)
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Bytes>, RelayError>> {
        let Poll::Ready(bytes) = data(&mut self.body, context).map_err(RelayError::Client)? else {
            ready!(self.stall.as_mut().poll(context));
            return Poll::Ready(Err(RelayError::Stalled));
        };
        if let Some(bytes) = &bytes {
            self.stall.set(sleep(STALL));
            self.pass(bytes)?;
        }
        Poll::Ready(Ok(bytes))
    }
}

impl HttpBody for Upload {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let passed = ready!(self.poll(context));
        if passed.is_err() {
            drop(self.passed.lock().take());
        }
        Poll::Ready(
            passed
                .map_err(Into::into)
                .transpose()
                .map(|bytes| bytes.map(Frame::data)),
        )
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// What an answer is to whoever passes it on.
pub(crate) struct Download {
    pub(crate) body: Body,
    pub(crate) request: Passed,
    /// When the request began, and how long it may take from then on.
    pub(crate) started: Instant,
    pub(crate) deadline: Duration,
    /// Once nobody listens it is read on for so long.
    pub(crate) patience: Duration,
    pub(crate) close: Close,
}

impl Download {
    /// Passes it, followed to its end by a task of its own: a client that takes nothing asks
    /// for nothing, and holds up neither the deadline nor the settlement.
    pub(crate) fn pass(self) -> Body {
        let (to, bytes) = mpsc::channel(1);
        let (tell, end) = oneshot::channel();
        let left = self.deadline.saturating_sub(self.started.elapsed());
        let passage = Passage {
            body: self.body,
            answer: Transcript::response(),
            ended: None,
            pieces: Pieces::default(),
            request: self.request,
            started: self.started,
            first: None,
            deadline: Box::pin(sleep(left)),
            patience: self.patience,
            close: self.close,
        };
        tokio::spawn(async move {
            let said = passage.pass(to).await;
            // Who has left needs to know nothing.
            drop(tell.send(said));
        });
        Body::from_stream(stream::unfold(Some((bytes, end)), async |taken| {
            let (mut bytes, end) = taken?;
            if let Some(next) = bytes.recv().await {
                return Some((Ok(next), Some((bytes, end))));
            }
            match end.await {
                Ok(Ok(())) => None,
                Ok(Err(said)) => Some((Err(said), None)),
                Err(error) => Some((Err(error.to_string()), None)),
            }
        }))
    }
}

/// An answer that has not ended.
struct Passage {
    body: Body,
    answer: Transcript,
    ended: Option<(Digest256, Vec<u8>)>,
    pieces: Pieces,
    request: Passed,
    started: Instant,
    first: Option<Duration>,
    deadline: Pin<Box<Sleep>>,
    patience: Duration,
    close: Close,
}

impl Passage {
    /// The next bytes; none once the last chunk and what follows it have passed.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Bytes>, RelayError>> {
        if self.deadline.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(RelayError::Late));
        }
        let bytes = ready!(data(&mut self.body, context)).map_err(RelayError::Broken)?;
        let started = self.started;
        self.first.get_or_insert_with(|| started.elapsed());
        if let Some(bytes) = &bytes {
            self.pieces.count(bytes)?;
        }
        let passed = match &bytes {
            Some(bytes) => self.answer.push(bytes),
            None => std::mem::replace(&mut self.answer, Transcript::response())
                .end()
                .map(|ended| self.ended = Some(ended)),
        };
        passed.map_err(RelayError::Answer)?;
        Poll::Ready(Ok(bytes))
    }

    /// Ends, or says how it broke off, only once its fate has been dealt with: who reads to
    /// the end finds its payment settled, or nothing reserved any more.
    async fn pass(mut self, to: mpsc::Sender<Bytes>) -> Result<(), String> {
        let broken = loop {
            let next = select! {
                next = poll_fn(|context| self.poll(context)) => next,
                () = to.closed() => return self.read_on().await,
            };
            let bytes = match next {
                Ok(Some(bytes)) => bytes,
                Ok(None) => return closed(self.end()).await,
                Err(error) => break error,
            };
            select! {
                taken = to.send(bytes) => if taken.is_err() {
                    return self.read_on().await;
                },
                () = &mut self.deadline => break RelayError::Late,
            }
        };
        let said = broken.to_string();
        match broken {
            RelayError::Late => self.read_late().await?,
            broken => closed(self.fail(broken)).await?,
        }
        Err(said)
    }

    /// Nobody listens any more.
    async fn read_on(mut self) -> Result<(), String> {
        let patience = self.patience;
        match timeout(patience, self.read()).await {
            Ok(Ok(())) => closed(self.end()).await,
            Ok(Err(RelayError::Late)) => self.read_late().await,
            Ok(Err(error)) => closed(self.fail(error)).await,
            Err(_) => closed((self.close)(Fate::Left)).await,
        }
    }

    /// What was made in time is still on its way, and nobody waits for it.
    async fn read_late(mut self) -> Result<(), String> {
        self.deadline.set(sleep(LATE));
        match self.read().await {
            Ok(()) => closed(self.end()).await,
            Err(error) => closed(self.fail(error)).await,
        }
    }

    async fn read(&mut self) -> Result<(), RelayError> {
        while poll_fn(|context| self.poll(context)).await?.is_some() {}
        Ok(())
    }

    fn fail(self, error: RelayError) -> JoinHandle<()> {
        (self.close)(match self.request.blame() {
            Blame::Worker(request) => Fate::Failed(error, request),
            Blame::Client => Fate::Left,
        })
    }

    /// After the last bytes.
    fn end(self) -> JoinHandle<()> {
        let Some((response, settlement)) = self.ended else {
            return (self.close)(Fate::Left);
        };
        (self.close)(Fate::Ended(Ended {
            request: self.request.whole(),
            response,
            settlement,
            first: self.first.unwrap_or_default(),
        }))
    }
}

/// Waits until a fate has been dealt with.
async fn closed(close: JoinHandle<()>) -> Result<(), String> {
    let closed = close.await;
    closed.map_err(|error| {
        tracing::error!("cannot settle: {error}");
        error.to_string()
    })
}

/// An answer on its way to another scheduler, on a connection that others share.
pub(crate) struct Sieve {
    body: Body,
    pieces: Pieces,
}

impl Sieve {
    /// Lets through what may pass.
    pub(crate) fn new(body: Body) -> Self {
        Self {
            body,
            pieces: Pieces::default(),
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Bytes>, RelayError>> {
        let bytes = ready!(data(&mut self.body, context)).map_err(RelayError::Broken)?;
        if let Some(bytes) = &bytes {
            self.pieces.count(bytes)?;
        }
        Poll::Ready(Ok(bytes))
    }
}

impl HttpBody for Sieve {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let passed = ready!(self.poll(context)).map_err(BoxError::from);
        Poll::Ready(passed.map(|bytes| bytes.map(Frame::data)).transpose())
    }
}

/// What became of an answer, told once.
#[derive(Debug)]
pub enum Fate {
    /// It came whole; what followed its last chunk has yet to be checked.
    Ended(Ended),
    /// The worker is to blame: it broke off, or sent what is no answer. With the hash of the
    /// sealed request, if it passed whole.
    Failed(RelayError, Option<Digest256>),
    /// The client went away, or cut its request.
    Left,
}

/// What there is to compare with a receipt.
#[derive(Debug)]
pub struct Ended {
    /// Hash of the sealed request, if it passed whole.
    pub request: Option<Digest256>,
    /// Hash of the sealed answer.
    pub response: Digest256,
    /// As the worker says.
    pub settlement: Vec<u8>,
    /// From the request to the first byte.
    pub first: Duration,
}

/// Is told. What it starts goes on when the answer's reader is gone.
pub type Close = Box<dyn FnOnce(Fate) -> JoinHandle<()> + Send>;

/// The next bytes of a body; trailers end it. Empty pieces do not pass: HTTP/2 allows few
/// on a connection, which others share.
fn data(body: &mut Body, context: &mut Context<'_>) -> Poll<Result<Option<Bytes>, axum::Error>> {
    loop {
        let frame = ready!(Pin::new(&mut *body).poll_frame(context)).transpose()?;
        let bytes = frame.and_then(|frame| frame.into_data().ok());
        if bytes.as_ref().is_none_or(|bytes| !bytes.is_empty()) {
            return Poll::Ready(Ok(bytes));
        }
    }
}

/// How a stream is cut. Many small pieces cost more than they carry, and whoever gets them
/// may end the connection, which others share.
#[derive(Clone, Copy, Debug, Default)]
struct Pieces {
    small: u32,
    large: u32,
}

impl Pieces {
    fn count(&mut self, bytes: &Bytes) -> Result<(), RelayError> {
        let count = match bytes.len() {
            ..SMALL => &mut self.small,
            _ => &mut self.large,
        };
        *count = count.saturating_add(1);
        // A chunk may be cut in two wherever it passes.
        let allowed = self.large.saturating_mul(2).saturating_add(FEW);
        match self.small <= allowed {
            true => Ok(()),
            false => Err(RelayError::Ragged { found: self.small }),
        }
    }
}

/// No sealed chunk is as short.
const SMALL: usize = 256;

const FEW: u32 = 16;

/// `path` at a worker; HTTP/2 wants a name before it.
pub fn of_worker(path: &str) -> Uri {
    let mut parts = hyper::http::uri::Parts::default();
    parts.scheme = Some(hyper::http::uri::Scheme::HTTP);
    parts.authority = Some(hyper::http::uri::Authority::from_static(
        "worker.cocoon.invalid",
    ));
    parts.path_and_query = path.parse().ok();
    Uri::from_parts(parts).unwrap_or_default()
}

/// No worker that is in order has waited for so long for the rest of a request.
const PATIENCE: Duration = Duration::from_secs(5);

/// Between two pieces of a request.
const STALL: Duration = Duration::from_secs(30);

/// For what comes after the deadline: a worker ends its answer then, and signs for it.
pub(crate) const LATE: Duration = Duration::from_secs(2);

/// For what comes after the client has left.
pub(crate) const READ_ON: Duration = Duration::from_secs(20);

/// Where a worker is asked, and where it proves itself.
pub(crate) const REQUESTS: &str = "/network/requests";
pub(crate) const PROOFS: &str = "/network/evidence";

/// Where it says what a request came to, by its identifier.
pub(crate) const SETTLEMENTS: &str = "/network/settlements/";

/// What a request's headers are called.
pub(crate) const ENVELOPE: &str = "cocoon-envelope";
pub(crate) const VOUCHER: &str = "cocoon-voucher";

/// What it says of a worker that it answered so, in clear.
pub(crate) fn refusal(status: StatusCode) -> Outcome {
    match status {
        StatusCode::TOO_MANY_REQUESTS => Outcome::Full,
        // It says that it is about to go.
        StatusCode::SERVICE_UNAVAILABLE => Outcome::Abandoned,
        status if status.is_client_error() => Outcome::Abandoned,
        _ => Outcome::Failed,
    }
}

/// Why a request or its answer passes no further.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// Not a sealed answer.
    #[error("the worker sent no sealed answer")]
    Answer(#[source] ChunkError),
    /// The connection to it.
    #[error("the worker broke off")]
    Broken(#[source] axum::Error),
    /// The connection from it.
    #[error("the client broke off")]
    Client(#[source] axum::Error),
    /// The deadline.
    #[error("the deadline has passed")]
    Late,
    /// More than is passed on.
    #[error("a sealed request of more than {MAX_REQUEST} bytes")]
    LongRequest,
    /// Cut too small.
    #[error("{found} pieces of less than {SMALL} bytes")]
    Ragged {
        /// Until then.
        found: u32,
    },
    /// Not a sealed request.
    #[error("no sealed request")]
    Request(#[source] ChunkError),
    /// A place is kept, and nothing comes for it.
    #[error("nothing of the request for {} s", STALL.as_secs())]
    Stalled,
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects, reason = "a panic is a failure")]
mod tests {
    use super::*;

    use futures_util::{FutureExt as _, StreamExt as _};
    use http_body_util::BodyExt as _;
    use sealed::{MAX_CHUNK, START};

    /// A request of so many chunks; nobody here opens it.
    fn request(chunks: usize) -> Body {
        let chunk = move |number| {
            let last = u32::from(number + 1 == chunks) << 31;
            let header = u32::try_from(MAX_CHUNK).unwrap() | last;
            [&header.to_be_bytes()[..], &[0; MAX_CHUNK]].concat()
        };
        let pieces = std::iter::once(vec![0; START]).chain((0..chunks).map(chunk));
        Body::from_stream(stream::iter(pieces.map(Ok::<_, BoxError>)))
    }

    /// An answer of so many chunks, each of which takes so long.
    fn response(chunks: usize, pause: Duration) -> Body {
        let chunk = move |number| async move {
            sleep(pause).await;
            let last = u32::from(number + 1 == chunks) << 31;
            let header = u32::try_from(MAX_CHUNK).unwrap() | last;
            Ok::<_, BoxError>([&header.to_be_bytes()[..], &[0; MAX_CHUNK]].concat())
        };
        let salt = stream::iter([Ok(vec![0; 32])]);
        Body::from_stream(salt.chain(stream::iter(0..chunks).then(chunk)))
    }

    /// Passes it with ten seconds of time, and says what becomes of it.
    fn pass(body: Body) -> (Body, oneshot::Receiver<Fate>) {
        let (tell, fate) = oneshot::channel();
        let (upload, request) = Upload::new(request(1));
        let answer = Download {
            body,
            request,
            started: Instant::now(),
            deadline: Duration::from_secs(10),
            patience: Duration::ZERO,
            close: Box::new(|fate| {
                drop(tell.send(fate));
                tokio::spawn(upload.collect().map(drop))
            }),
        };
        (answer.pass(), fate)
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_made_in_time_is_settled_though_its_client_takes_nothing() {
        let (idle, fate) = pass(response(40, Duration::from_millis(1)));
        let fate = timeout(Duration::from_secs(60), fate).await.unwrap();
        assert!(matches!(fate, Ok(Fate::Ended(_))));
        assert!(idle.collect().await.is_err(), "it has not all of it");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_made_after_its_time_is_late() {
        let second = Duration::from_secs(1);
        let (taken, fate) = pass(response(14, second));
        let said = taken.collect().await.unwrap_err().to_string();
        assert_eq!(said, "the deadline has passed");
        assert!(matches!(fate.await, Ok(Fate::Failed(RelayError::Late, _))));
        let (taken, fate) = pass(response(9, second));
        assert_eq!(
            taken.collect().await.unwrap().to_bytes().len(),
            32 + 9 * (4 + MAX_CHUNK)
        );
        assert!(matches!(fate.await, Ok(Fate::Ended(_))));
    }

    #[tokio::test]
    async fn no_more_passes_than_a_worker_hashes_and_who_sends_it_is_to_blame() {
        let most = MAX_REQUEST / (MAX_CHUNK + 4);
        let (upload, passed) = Upload::new(request(most));
        upload.collect().await.unwrap();
        assert!(matches!(passed.blame(), Blame::Worker(Some(_))));
        let (upload, passed) = Upload::new(request(most + 1));
        let refused = upload.collect().await.unwrap_err().to_string();
        assert_eq!(refused, "a sealed request of more than 33554432 bytes");
        assert_eq!(passed.blame(), Blame::Client);
    }
}
