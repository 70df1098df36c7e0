//! Images and sounds as clients send them: files of bytes that nobody vouches for.
//!
//! What is read is bounded before room is made for it, in pixels and in seconds;
//! nothing of it is in an error or in a `Debug` form, and what is decoded is wiped when
//! it is dropped.

#![forbid(unsafe_code)]

mod audio;
mod image;

pub use self::audio::{Audio, AudioError};
pub use self::image::{Image, ImageError, Pixels};
