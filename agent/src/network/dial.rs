//! Connections to schedulers, which this worker opens: its host needs no open port. On
//! each the worker is the TLS server all the same, and shows what it is first.

use std::io;
use std::time::Duration;

use axum::Router;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::Desk;
use crate::serve;

/// Serves one scheduler until the network stops, and comes back when it is lost.
pub(super) async fn keep(desk: Desk, api: Router) {
    let address = desk.link.scheduler.address.clone();
    let connection = || async {
        match serve(&desk, &address, api.clone()).await {
            Ok(()) => tracing::info!("connection to scheduler {address} ended"),
            Err(error) => tracing::warn!("no connection to scheduler {address}: {error:#}"),
        }
    };
    again(&desk.network.stop, connection).await;
}

/// One connection after another, with pauses that grow until one is steady.
async fn again<F: Future<Output = ()>>(
    stop: &CancellationToken,
    mut connection: impl FnMut() -> F,
) {
    let mut failures = 0;
    while !stop.is_cancelled() {
        let began = Instant::now();
        connection().await;
        if began.elapsed() >= STEADY {
            failures = 0;
        }
        let random = getrandom::u32().unwrap_or_default();
        tokio::select! {
            () = sleep(pause(failures, random)) => {}
            () = stop.cancelled() => {}
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

/// After so long a scheduler that is lost is not one that refuses: it has read offers.
const STEADY: Duration = Duration::from_secs(10);

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

    /// How long after the first each connection began, where they last so many seconds.
    async fn begun(lasting: &[u64]) -> Vec<Duration> {
        let (stop, first) = (CancellationToken::new(), Instant::now());
        let (mut begun, mut lasting) = (Vec::new(), lasting.iter());
        again(&stop, || {
            begun.push(first.elapsed());
            let seconds = lasting.next();
            let stop = stop.clone();
            async move {
                match seconds {
                    Some(seconds) => sleep(Duration::from_secs(*seconds)).await,
                    None => stop.cancel(),
                }
            }
        })
        .await;
        begun
    }

    #[tokio::test(start_paused = true)]
    async fn a_scheduler_that_is_started_again_soon_has_its_workers_at_once() {
        // Away for long, there for a while, and started anew.
        let begun = begun(&[0, 0, 0, 0, 0, 0, 0, 0, 10]).await;
        let [.., before, after] = &begun[..] else {
            panic!("{begun:?}");
        };
        let pause = after.saturating_sub(before.saturating_add(Duration::from_secs(10)));
        assert!(pause <= FIRST, "{pause:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_scheduler_that_takes_connections_and_drops_them_is_dialled_ever_less() {
        for lasting in [0, 9] {
            let begun = begun(&[lasting; 120]).await;
            let hour = begun.iter().take_while(|at| at.as_secs() < 3600).count();
            assert!(hour < 120, "{hour} in an hour");
            let first = begun.iter().take_while(|at| at.as_secs() < 1).count();
            assert!(first <= 2, "{first} in a second");
        }
    }
}
