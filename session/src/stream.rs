//! A TLS stream that can still be asked for keying material while an HTTP
//! connection owns it.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use attestation::binding::{EXPORTER_LABEL, KeyingMaterial, Nonce};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsStream;

/// Reads and writes; dropping it and every [`Exporter`] closes the connection.
#[derive(Debug)]
pub struct Stream<S>(Arc<Mutex<TlsStream<S>>>);

impl<S> Stream<S> {
    pub(crate) fn new(tls: impl Into<TlsStream<S>>) -> Self {
        Self(Arc::new(Mutex::new(tls.into())))
    }

    /// A handle on the session's secrets, for as long as it lasts.
    #[must_use]
    pub fn exporter(&self) -> Exporter<S> {
        Exporter(Arc::clone(&self.0))
    }
}

/// Derives keying material from a session that somebody else reads and writes.
#[derive(Debug)]
pub struct Exporter<S>(Arc<Mutex<TlsStream<S>>>);

impl<S> Exporter<S> {
    /// The value of both ends for `nonce` (RFC 8446, section 7.5).
    pub fn export(&self, nonce: &Nonce) -> Result<KeyingMaterial, rustls::Error> {
        let context = nonce.exporter_context();
        let context = Some(&context.as_bytes()[..]);
        match &*lock(&self.0) {
            TlsStream::Client(tls) => {
                let (_, session) = tls.get_ref();
                session.export_keying_material([0; 64], EXPORTER_LABEL, context)
            }
            TlsStream::Server(tls) => {
                let (_, session) = tls.get_ref();
                session.export_keying_material([0; 64], EXPORTER_LABEL, context)
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Stream<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut *lock(&self.0)).poll_read(context, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Stream<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *lock(&self.0)).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *lock(&self.0)).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *lock(&self.0)).poll_shutdown(context)
    }
}

/// A panic in another poll leaves the stream as it was: broken at worst.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
