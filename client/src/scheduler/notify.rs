//! Tells systemd how far the service is.
//!
//! Source: sd_notify(3).

use std::env;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use anyhow::{Context as _, Result};

/// It serves.
pub(super) const READY: &str = "READY=1";

/// It serves what is under way, and nothing new.
pub(super) const STOPPING: &str = "STOPPING=1";

/// Says so to whoever started this process and listens.
pub(super) fn tell(state: &str) -> Result<()> {
    let Some(socket) = env::var_os("NOTIFY_SOCKET") else {
        return Ok(());
    };
    let address = match socket.as_bytes().split_first() {
        Some((b'@', name)) => SocketAddr::from_abstract_name(name),
        _ => SocketAddr::from_pathname(&socket),
    };
    let sent = address
        .and_then(|address| UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address));
    sent.map(drop)
        .context("cannot tell systemd how far the service is")
}
