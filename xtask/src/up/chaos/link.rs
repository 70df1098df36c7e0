//! A way between two parts that can be cut and slowed.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::sleep;

/// Passes bytes on for as long as the runtime lives.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) address: SocketAddr,
    weather: watch::Sender<Weather>,
}

/// What happens to bytes on their way.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Weather {
    Fair,
    /// Each piece takes so long.
    Slow(Duration),
    /// Connections end, and so do new ones.
    Cut,
}

impl Link {
    /// To `target`, whether or not anybody is there yet.
    pub(super) fn to(target: SocketAddr, runtime: &Handle) -> Result<Self> {
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"));
        let listener = listener.context("no port for a link")?;
        let address = listener.local_addr().context("no address of a link")?;
        let (weather, forecast) = watch::channel(Weather::Fair);
        runtime.spawn(async move {
            // A connection that cannot be taken is as good as cut.
            while let Ok((near, _)) = listener.accept().await {
                let forecast = forecast.clone();
                tokio::spawn(async move {
                    if *forecast.borrow() != Weather::Cut
                        && let Ok(far) = TcpStream::connect(target).await
                    {
                        join(near, far, forecast).await;
                    }
                });
            }
        });
        Ok(Self { address, weather })
    }

    pub(super) fn set(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }
}

/// Until either side ends, or the link is cut.
async fn join(near: TcpStream, far: TcpStream, mut forecast: watch::Receiver<Weather>) {
    let now = forecast.clone();
    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
    tokio::select! {
        () = pass(near_in, far_out, &now) => {}
        () = pass(far_in, near_out, &now) => {}
        _ = forecast.wait_for(|weather| *weather == Weather::Cut) => {}
    }
}

async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    weather: &watch::Receiver<Weather>,
) {
    let mut buffer = vec![0; 16 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        let slow = *weather.borrow();
        if let Weather::Slow(pause) = slow {
            sleep(pause).await;
        }
        let piece = buffer.get(..count).unwrap_or_default();
        if to.write_all(piece).await.is_err() {
            return;
        }
    }
}
