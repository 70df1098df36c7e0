//! Bodies of JSON: each whole within a time, and all within one room, so that those
//! who begin and do not end, or send what grows when it is parsed, hold little.

use std::time::Duration;

use axum::body::Body;
use futures_util::StreamExt as _;
use inference::Tenant;
use serde_json::{Map, Value};
use tokio::time::timeout;

use super::cost::Cost;
use super::error::ApiError;
use super::room::{Held, Room};

/// An object, and what it takes of the room until that is dropped.
pub(super) async fn read(
    body: Body,
    room: &'static Room,
    tenant: &Tenant,
) -> Result<(Map<String, Value>, Held), ApiError> {
    let mut held = room.hold(tenant);
    let bytes = timeout(TIME, whole(body, &mut held)).await;
    let bytes = bytes.map_err(|_| ApiError::request_timeout())??;
    // The library's message may quote the body.
    let broken = |error: serde_json::Error| {
        ApiError::not_json(format!(
            "The body is not a JSON object: see line {}, column {}.",
            error.line(),
            error.column(),
        ))
    };
    let Cost(cost) = serde_json::from_slice(&bytes).map_err(broken)?;
    if charge(bytes.len()).saturating_add(cost) > room.share {
        return Err(ApiError::too_many_values());
    }
    held.take(cost)?;
    Ok((serde_json::from_slice(&bytes).map_err(broken)?, held))
}

/// For all bodies that are being read or understood, in bytes.
pub(super) static ROOM: Room = Room::new(256 << 20, 128 << 20);

async fn whole(body: Body, held: &mut Held) -> Result<Vec<u8>, ApiError> {
    let mut bytes = Vec::new();
    let mut stream = body.into_data_stream();
    while let Some(piece) = stream.next().await {
        let piece = piece.map_err(|_| ApiError::not_json("The body could not be read."))?;
        if bytes.len().saturating_add(piece.len()) > MAX {
            return Err(ApiError::too_large(MAX));
        }
        held.take(charge(piece.len()))?;
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

/// What so many bytes take while what holds them doubles.
fn charge(bytes: usize) -> usize {
    bytes.saturating_mul(3)
}

/// Room for the longest list of texts that an embedder takes, and for 3 MiB of images.
const MAX: usize = 4 << 20;

/// For a whole body: less than half a megabit a second for the longest.
const TIME: Duration = Duration::from_secs(90);

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Bytes;
    use axum::http::StatusCode;
    use axum::response::IntoResponse as _;
    use futures_util::future::join_all;
    use futures_util::stream;

    const SHARE: usize = 32 << 10;

    fn room() -> &'static Room {
        Box::leak(Box::new(Room::new(2 * SHARE, SHARE)))
    }

    /// So many bytes, and then nothing.
    fn stalled(bytes: usize) -> Body {
        let piece = Ok::<_, axum::Error>(Bytes::from(vec![b' '; bytes]));
        Body::from_stream(stream::iter([piece]).chain(stream::pending()))
    }

    async fn status(body: Body, room: &'static Room, tenant: &Tenant) -> StatusCode {
        match read(body, room, tenant).await {
            Ok(_) => StatusCode::OK,
            Err(error) => error.into_response().status(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn bodies_that_do_not_end_leave_room_to_others_and_then_leave() {
        let (room, hostile) = (room(), Tenant::new());
        let bodies = (0..300).map(|_| status(stalled(SHARE / 300), room, &hostile));
        let other = async {
            let body = Body::from(format!("{{\"a\":\"{}\"}}", "x".repeat(SHARE / 16)));
            (
                status(body, room, &Tenant::new()).await,
                tokio::time::Instant::now(),
            )
        };
        let begun = tokio::time::Instant::now();
        let (answers, (other, when)) = tokio::join!(join_all(bodies), other);
        assert_eq!((other, when), (StatusCode::OK, begun));
        let of = |status| answers.iter().filter(|answer| **answer == status).count();
        assert_eq!(of(StatusCode::REQUEST_TIMEOUT), 100);
        assert_eq!(of(StatusCode::TOO_MANY_REQUESTS), 200);
        let body = Body::from("{}");
        assert_eq!(status(body, room, &hostile).await, StatusCode::OK);
    }

    #[tokio::test]
    async fn what_grows_when_it_is_parsed_takes_room_for_that() {
        let (room, tenant) = (room(), Tenant::new());
        let lists = |count| Body::from(format!("{{\"a\":[{}[]]}}", "[],".repeat(count)));
        let many = status(lists(SHARE / 100), room, &tenant).await;
        assert_eq!(many, StatusCode::PAYLOAD_TOO_LARGE);

        let few = read(lists(SHARE / 400), room, &tenant).await.unwrap();
        let more = status(lists(SHARE / 400), room, &tenant).await;
        assert_eq!(more, StatusCode::TOO_MANY_REQUESTS);
        drop(few);
        let more = status(lists(SHARE / 400), room, &tenant).await;
        assert_eq!(more, StatusCode::OK);
    }

    #[tokio::test]
    async fn a_body_without_end_is_refused_at_its_limit() {
        let piece = || Ok::<_, axum::Error>(Bytes::from(vec![b' '; 1 << 20]));
        let endless = Body::from_stream(stream::repeat_with(piece));
        let refused = status(endless, &ROOM, &Tenant::new()).await;
        assert_eq!(refused, StatusCode::PAYLOAD_TOO_LARGE);
    }
}
