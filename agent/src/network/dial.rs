//! Connections to schedulers, which this worker opens: its host needs no open port. On
//! each the worker is the TLS server all the same, and shows what it is first.

use std::io;
use std::time::{Duration, Instant};

use axum::Router;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::Desk;
use crate::serve;

/// Serves one scheduler until the network stops, and comes back when it is lost.
pub(super) async fn keep(desk: Desk, api: Router) {
    let address = desk.link.scheduler.address.clone();
    let mut failures = 0;
    while !desk.network.stop.is_cancelled() {
        let began = Instant::now();
        match serve(&desk, &address, api.clone()).await {
            Ok(()) => tracing::info!("connection to scheduler {address} ended"),
            Err(error) => tracing::warn!("no connection to scheduler {address}: {error:#}"),
        }
        if began.elapsed() > STEADY {
            failures = 0;
        }
        let random = getrandom::u32().unwrap_or_default();
        tokio::select! {
            () = sleep(pause(failures, random)) => {}
            () = desk.network.stop.cancelled() => {}
        }
        failures = failures.saturating_add(1);
    }
}

async fn serve(desk: &Desk, address: &str, api: Router) -> anyhow::Result<()> {
    let stop = &desk.network.stop;
    let tcp = tokio::select! {
        tcp = timeout(CONNECT, TcpStream::connect(address)) => tcp,
        () = stop.cancelled() => return Ok(()),
    };
    let tcp = tcp.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
    let worker = desk.network.worker.clone();
    let mut http = serve::http(MAX_STREAMS);
    // Together never more than the connection takes: an upload that nobody reads does not
    // hold up the others.
    http.initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(MAX_STREAMS.saturating_mul(STREAM_WINDOW));
    serve::connection(tcp, worker, api, http, stop.child_token()).await
}

/// Twice as long each time, up to a minute; of that, some part of the later half, so that
/// those who lost a scheduler at once do not come back at once.
fn pause(failures: u32, random: u32) -> Duration {
    let most = FIRST.saturating_mul(1 << failures.min(7)).min(LONGEST);
    let half = most.checked_div(2).unwrap_or(most);
    let part = u64::try_from(half.as_millis()).unwrap_or(u64::MAX);
    let part = part.saturating_mul(random.into()) >> u32::BITS;
    half.saturating_add(Duration::from_millis(part))
}

const CONNECT: Duration = Duration::from_secs(10);
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);

/// After so long a scheduler that is lost is not one that refuses.
const STEADY: Duration = Duration::from_secs(60);

/// Requests under way for one scheduler.
const MAX_STREAMS: u32 = 1024;

/// Bytes of a request that may be on their way, or lie here unread.
const STREAM_WINDOW: u32 = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_minute_and_differ() {
        let bounds = |failures| [0, u32::MAX].map(|random| pause(failures, random).as_millis());
        assert_eq!(bounds(0), [500, 999]);
        assert_eq!(bounds(1), [1000, 1999]);
        assert_eq!(bounds(5), [16_000, 31_999]);
        assert_eq!(bounds(6), [30_000, 59_999]);
        assert_eq!(bounds(u32::MAX), [30_000, 59_999]);
    }
}
