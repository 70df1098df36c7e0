//! Bodies of JSON: each whole within a time, and all within one room, so that those
//! who begin and do not end, or send what grows when it is parsed, hold little.

use std::time::Duration;

use axum::body::Body;
use futures_util::StreamExt as _;
use inference::RequestError;
use serde_json::{Map, Value};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use super::error::ApiError;

/// An object, and what it takes of the room until that is dropped.
pub(super) async fn read(
    body: Body,
    room: &'static Semaphore,
) -> Result<(Map<String, Value>, SemaphorePermit<'static>), ApiError> {
    let whole = timeout(TIME, whole(body, room)).await;
    let (bytes, mut taken) = whole.map_err(|_| ApiError::request_timeout())??;
    taken.merge(take(room, parsed(&bytes))?);
    let map = serde_json::from_slice(&bytes).map_err(|error| {
        // The library's message may quote the body.
        ApiError::not_json(format!(
            "The body is not a JSON object: see line {}, column {}.",
            error.line(),
            error.column(),
        ))
    })?;
    Ok((map, taken))
}

/// For all bodies that are being read or understood.
pub(super) static ROOM: Semaphore = Semaphore::const_new(256 << 20);

async fn whole(
    body: Body,
    room: &'static Semaphore,
) -> Result<(Vec<u8>, SemaphorePermit<'static>), ApiError> {
    let (mut bytes, mut taken) = (Vec::new(), take(room, 0)?);
    let mut stream = body.into_data_stream();
    while let Some(piece) = stream.next().await {
        let piece = piece.map_err(|_| ApiError::not_json("The body could not be read."))?;
        if bytes.len().saturating_add(piece.len()) > MAX {
            return Err(ApiError::too_large(MAX));
        }
        taken.merge(take(room, piece.len())?);
        bytes.extend_from_slice(&piece);
    }
    Ok((bytes, taken))
}

/// Nobody waits here: those who wait with half a body would wait for each other.
fn take(room: &'static Semaphore, bytes: usize) -> Result<SemaphorePermit<'static>, ApiError> {
    let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
    let taken = room.try_acquire_many(bytes);
    taken.map_err(|_| {
        let retry_after = Duration::from_secs(1);
        RequestError::Busy { retry_after }.into()
    })
}

/// What its values take in memory at most, beside its strings.
fn parsed(bytes: &[u8]) -> usize {
    let begins = |byte: &&u8| matches!(byte, b',' | b':' | b'[' | b'{');
    let values = bytes.iter().filter(begins).count();
    values.saturating_mul(size_of::<Value>())
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

    const ROOM: usize = 64 << 10;

    fn room() -> &'static Semaphore {
        Box::leak(Box::new(Semaphore::new(ROOM)))
    }

    /// So many bytes, and then nothing.
    fn stalled(bytes: usize) -> Body {
        let piece = Ok::<_, axum::Error>(Bytes::from(vec![b' '; bytes]));
        Body::from_stream(stream::iter([piece]).chain(stream::pending()))
    }

    async fn status(body: Body, room: &'static Semaphore) -> StatusCode {
        match read(body, room).await {
            Ok(_) => StatusCode::OK,
            Err(error) => error.into_response().status(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn bodies_that_do_not_end_leave_when_their_time_is_over() {
        let room = room();
        let bodies = (0..300).map(|_| status(stalled(ROOM / 100), room));
        let answers = join_all(bodies).await;
        let of = |status| answers.iter().filter(|answer| **answer == status).count();
        assert_eq!(of(StatusCode::REQUEST_TIMEOUT), 100);
        assert_eq!(of(StatusCode::TOO_MANY_REQUESTS), 200);
        assert_eq!(room.available_permits(), ROOM);
        assert_eq!(status(Body::from("{}"), room).await, StatusCode::OK);
    }

    #[tokio::test]
    async fn what_grows_when_it_is_parsed_takes_room_for_that() {
        let room = room();
        let many = format!("{{\"a\":[{}[]]}}", "[],".repeat(ROOM / size_of::<Value>()));
        assert!(many.len() < ROOM);
        let refused = status(Body::from(many), room).await;
        assert_eq!(refused, StatusCode::TOO_MANY_REQUESTS);

        let few = read(Body::from(r#"{"a":[[],[]]}"#), room).await.unwrap();
        assert!(room.available_permits() < ROOM - 4 * size_of::<Value>());
        drop(few);
        assert_eq!(room.available_permits(), ROOM);
    }

    #[tokio::test]
    async fn a_body_without_end_is_refused_at_its_limit() {
        let room = Box::leak(Box::new(Semaphore::new(2 * MAX)));
        let piece = || Ok::<_, axum::Error>(Bytes::from(vec![b' '; 1 << 20]));
        let endless = Body::from_stream(stream::repeat_with(piece));
        assert_eq!(status(endless, room).await, StatusCode::PAYLOAD_TOO_LARGE);
    }
}
