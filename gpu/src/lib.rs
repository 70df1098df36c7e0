//! What a decoder computes on an NVIDIA GPU: kernels in CUDA C++ (`kernels/`), and
//! devices that run them.
//!
//! A [`Device`] is a card (`Cuda`, feature `cuda`), or its double (`Double`, feature
//! `double`): the same files, compiled for the processor, where every access to the
//! device's memory is checked against its bounds, memory begins as numbers that are
//! none, and threads can be run in another order. Kernels fuse and order their additions
//! by themselves, so both give the same bits; what the card's library multiplies
//! ([`Device::multiply`]) they need not.
//!
//! In confidential-computing mode the driver encrypts what crosses the bus, and each
//! crossing waits for the one before: [`Crossings`] counts them.
//!
//! All `unsafe` of this crate is in `cuda` and `double`: they hand addresses to kernels.

#[cfg(feature = "cuda")]
#[expect(
    unsafe_code,
    reason = "calls the driver, and hands addresses to kernels"
)]
mod cuda;
mod device;
#[cfg(feature = "double")]
#[expect(unsafe_code, reason = "calls C++, and hands addresses to kernels")]
mod double;
pub mod kernels;
mod matrix;

#[cfg(feature = "cuda")]
pub use cuda::Cuda;
pub use device::{Arg, Buffer, Crossings, Device, Error, Halves, Kind, Launch, Work};
#[cfg(feature = "double")]
pub use double::Double;
pub use matrix::{Format, Matrix, Product, Room, Rows};
