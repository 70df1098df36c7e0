//! `POST /network/requests`: what is known of a sealed request is checked in clear, then
//! it is opened and given to the API, as if its client had asked that.
//!
//! The API that it gets serves the envelope's model only: a request for another one is
//! one for a model that is not there. What is paid for bounds the engine ([`Bounds`]).

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use contracts::voucher::cost;
use inference::Bounds;
use sealed::{Envelope, Header, RequestHead};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout_at};
use tower::ServiceExt as _;
use tycho_types::cell::HashBytes;

use super::answer::{Answer, GRACE, Job};
use super::intake::{self, Broken, Intake};
use super::refusal::Refusal;
use super::{Desk, purse};
use crate::api::unix_time;
use crate::receipts::Ledger;

pub(super) async fn create(State(desk): State<Desk>, request: Request) -> Response {
    match answer(desk, request).await {
        Ok(answer) => answer.into_response(),
        Err(refusal) => refusal.into_response(),
    }
}

async fn answer(desk: Desk, request: Request) -> Result<Answer, Refusal> {
    let (head, body) = request.into_parts();
    let network = Arc::clone(&desk.network);
    let clear = header(&head.headers, ENVELOPE)?;
    let clear = clear.ok_or(Refusal::Header { name: ENVELOPE })?;
    let envelope = Envelope::parse(&clear)?;
    if network.stop.is_cancelled() {
        return Err(Refusal::Draining);
    }
    if envelope.worker != network.id {
        let worker = envelope.worker.to_string();
        return Err(Refusal::Key { worker });
    }
    let model = network.models.get(&envelope.model).ok_or(Refusal::Model)?;
    if model.is_full() {
        return Err(Refusal::Full);
    }
    let until = Instant::now().checked_add(time(&envelope));
    let until = until.ok_or(Refusal::Late)?;
    let reservation = reserve(&desk, &head.headers, &envelope)?;
    // From here on whoever asks is told that it may still be answered.
    let under_way = desk.link.settlements.begin(envelope.id);
    let under_way = under_way.ok_or(Refusal::Replayed)?;

    let mut intake = Intake::new(body);
    let start = within(until, intake.start()).await?;
    // Last of what is checked in clear: it counts once, and what was refused before may
    // be mended and sent again.
    if !network.seen.first(&[&start, &envelope.id[..]].concat()) {
        return Err(Refusal::Replayed);
    }
    let (opener, responder) = network.worker.open(&clear, &start)?;
    intake.open(opener);
    let first = within(until, intake.next()).await?.unwrap_or_default();
    let head = RequestHead::parse(&first)?;

    let bounds = Bounds {
        tokens: usize::try_from(envelope.limit.min(u32::MAX.into())).unwrap_or(usize::MAX),
        until: until
            .checked_sub(margin(&envelope))
            .unwrap_or(until)
            .into_std(),
    };
    let ask = desk.link.ask(&envelope.model);
    let job = Job {
        root: model.root(),
        intake: Arc::new(Mutex::new(intake)),
        ledger: Ledger::within(bounds, reservation.as_ref().map(|_| ask)),
        desk,
        envelope,
        until,
        reservation,
        under_way,
    };
    let request = inner(&head, &job)?;
    let said = timeout_at(
        until.checked_add(GRACE).unwrap_or(until),
        model.api.clone().oneshot(request),
    )
    .await;
    let response = match said {
        Ok(Ok(response)) => response,
        Err(_) => Refusal::Slow.into_response(),
    };
    Answer::new(job, responder, response).map_err(|_| Refusal::Fault)
}

/// What the client has of it, within what anybody has.
fn time(envelope: &Envelope) -> Duration {
    Duration::from_millis(envelope.deadline_ms.into()).min(LONGEST)
}

/// So much sooner the engine ends an answer, that its end is signed and taken in time.
fn margin(envelope: &Envelope) -> Duration {
    let part = time(envelope).checked_div(4).unwrap_or_default();
    part.min(MARGIN)
}

/// Sets aside what the request costs at most: at what is asked for here, since what its client
/// pays beyond that is the scheduler's.
fn reserve(
    desk: &Desk,
    headers: &HeaderMap,
    envelope: &Envelope,
) -> Result<Option<purse::Reservation>, Refusal> {
    let Envelope {
        model,
        limit,
        price,
        ..
    } = envelope;
    let (price, ask) = (*price, desk.link.ask(model));
    if price < ask {
        return Err(Refusal::BelowAsk { price, ask });
    }
    let Some(purse) = &desk.link.purse else {
        return Ok(None);
    };
    let voucher = header(headers, VOUCHER)?;
    let voucher = voucher.map(|boc| purse::decode(&boc).ok_or(Refusal::Voucher));
    let cost = cost(*limit, ask).ok_or(Refusal::Sum)?;
    let now = u32::try_from(unix_time()).unwrap_or(u32::MAX);
    let reservation = purse.reserve(voucher.transpose()?.as_ref(), cost, now)?;
    Ok(Some(reservation))
}

/// What was sealed, for the API.
fn inner(head: &RequestHead, job: &Job) -> Result<Request, Refusal> {
    let known = job.desk.network.tenants.of(&head.tenant);
    let mut request = Request::builder()
        .method(head.method.as_str())
        .uri(head.path.as_str())
        .extension(known.tenant)
        .extension(known.shelf)
        .extension(job.ledger.clone());
    for Header(name, value) in &head.headers {
        request = request.header(name, value);
    }
    let request = request.body(intake::body(&job.intake));
    request.map_err(|_| Refusal::Unspeakable)
}

async fn within<T>(
    until: Instant,
    read: impl Future<Output = Result<T, Broken>>,
) -> Result<T, Refusal> {
    match timeout_at(until, read).await {
        Ok(Ok(read)) => Ok(read),
        Ok(Err(Broken::Chunk(error))) => Err(error.into()),
        Ok(Err(Broken::Gone | Broken::Long)) | Err(_) => Err(Refusal::Late),
    }
}

fn header(headers: &HeaderMap, name: &'static str) -> Result<Option<Vec<u8>>, Refusal> {
    let value = headers.get(name);
    let bytes = value.map(|value| BASE64_URL_SAFE_NO_PAD.decode(value.as_bytes()));
    bytes.transpose().map_err(|_| Refusal::Header { name })
}

/// A model's root hash as receipts have it; zero for one that came from no disk.
pub(super) fn root(hex: Option<&str>) -> HashBytes {
    let mut root = [0; 32];
    let decoded = hex.map(|text| hex::decode_to_slice(text, &mut root));
    match decoded {
        Some(Ok(())) => HashBytes(root),
        _ => HashBytes::ZERO,
    }
}

const ENVELOPE: &str = "cocoon-envelope";
const VOUCHER: &str = "cocoon-voucher";

/// Of short times it is a quarter.
const MARGIN: Duration = Duration::from_secs(2);

/// As long as a scheduler waits for an answer.
const LONGEST: Duration = Duration::from_secs(1800);

#[cfg(test)]
mod tests {
    use super::*;
    use attestation::register::Digest256;
    use sealed::SizeClass;

    #[test]
    fn no_request_is_kept_for_weeks() {
        let of = |deadline_ms| Envelope {
            worker: Digest256::ZERO,
            model: "m".into(),
            id: [0; 16],
            limit: 1,
            price: 0,
            deadline_ms,
            class: SizeClass::Small,
        };
        assert_eq!(time(&of(1500)), Duration::from_millis(1500));
        assert_eq!(time(&of(u32::MAX)), LONGEST);
        assert_eq!(margin(&of(1500)), Duration::from_millis(375));
        assert_eq!(margin(&of(60_000)), MARGIN);
    }
}
