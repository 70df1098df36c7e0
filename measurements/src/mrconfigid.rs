//! MRCONFIGID: what the launcher declares about a TD before it starts.
//!
//! The TDX module only stores it. It means something because init reads it
//! back and refuses a measured configuration of another digest.

use attestation::config::Measured;
use attestation::register::Digest384;

/// MRCONFIGID of a TD that runs with this measured configuration file.
#[must_use]
pub fn mrconfigid(config: &[u8]) -> Digest384 {
    Measured::digest(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_sha384_of_the_exact_bytes() {
        assert_eq!(
            mrconfigid(b"version = 1\n"),
            Digest384::of(b"version = 1\n")
        );
        assert_ne!(mrconfigid(b"version = 1\n"), mrconfigid(b"version = 1"));
    }
}
