//! Where clients and workers connect: sockets of one's own, or those that were handed in.
//!
//! Sockets that were handed in are shared: two processes may listen on them, and a
//! connection waits until one takes it. So the next process can serve before this one
//! ends, and none is lost between them. (With `SO_REUSEPORT` each process has a queue of
//! its own, and what is in it when the process ends is lost.)
//!
//! Source: sd_listen_fds(3); the socket of clients comes first, then that of workers.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, bail};
use listenfd::ListenFd;
use tokio::net::TcpListener;

/// Both of them.
#[derive(Debug)]
pub(super) struct Sockets {
    pub(super) clients: TcpListener,
    pub(super) workers: TcpListener,
    /// Whether somebody else listens on them too, sooner or later.
    pub(super) are_shared: bool,
}

impl Sockets {
    /// Those that were handed in; without them, at these addresses.
    pub(super) async fn open(clients: SocketAddr, workers: SocketAddr) -> Result<Self> {
        let mut handed = ListenFd::from_env();
        match handed.len() {
            0 => Ok(Self {
                workers: listen(workers).await?,
                clients: listen(clients).await?,
                are_shared: false,
            }),
            2 => Ok(Self {
                clients: take(&mut handed, 0)?,
                workers: take(&mut handed, 1)?,
                are_shared: true,
            }),
            count => bail!("{count} sockets were handed in, expected 2: for clients and workers"),
        }
    }
}

fn take(handed: &mut ListenFd, index: usize) -> Result<TcpListener> {
    let listener = handed.take_tcp_listener(index);
    let listener = listener.with_context(|| format!("socket {index} does not listen on TCP"))?;
    let listener = listener.with_context(|| format!("socket {index} was taken before"))?;
    listener.set_nonblocking(true)?;
    Ok(TcpListener::from_std(listener)?)
}

/// At that address.
pub(super) async fn listen(address: SocketAddr) -> Result<TcpListener> {
    let listener = TcpListener::bind(address).await;
    listener.with_context(|| format!("cannot listen on {address}"))
}
