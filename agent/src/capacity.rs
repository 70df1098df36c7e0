//! What the models of this machine take on, by its memory and its processors.

use std::io;
use std::path::Path;

use inference::Limits;

/// A machine before it has loaded its models.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    /// Bytes of memory that can be had.
    pub available: u64,
    /// Bytes that the models take of it.
    pub weights: u64,
    /// How many models there are.
    pub models: usize,
    /// Cards to compute on, whose memory is not looked at.
    pub gpus: u32,
    /// Processors to compute on.
    pub cores: usize,
}

impl Machine {
    /// The limits of each model. Keys and values have half of what the weights leave:
    /// the rest is for requests, and for what is in between while a step is computed.
    #[must_use]
    pub fn limits(self) -> Limits {
        let Self {
            available,
            weights,
            models,
            gpus,
            cores,
        } = self;
        let shares = u64::try_from(models).unwrap_or(u64::MAX).max(1);
        let free = available.saturating_sub(weights) >> 1;
        let batch = cores.saturating_mul(4).clamp(16, 64);
        Limits {
            batch,
            queue: batch.saturating_mul(4),
            memory: match gpus {
                0 => free.checked_div(shares).unwrap_or(0).max(LEAST),
                _ => Limits::default().memory,
            },
            ..Limits::default()
        }
    }
}

/// Bytes of the files in a folder, and in those in it.
pub fn size(folder: &Path) -> io::Result<u64> {
    let mut total = 0_u64;
    for entry in folder.read_dir()? {
        let path = entry?.path();
        let own = match path.is_dir() {
            true => size(&path)?,
            false => path.metadata()?.len(),
        };
        total = total.saturating_add(own);
    }
    Ok(total)
}

/// With less no conversation of any length can be had.
const LEAST: u64 = 64 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn models_share_half_of_what_their_weights_leave() {
        let machine = Machine {
            available: 64 * GIB,
            weights: 16 * GIB,
            models: 2,
            gpus: 0,
            cores: 8,
        };
        let Limits {
            batch,
            queue,
            memory,
            ..
        } = machine.limits();
        assert_eq!((batch, queue, memory), (32, 128, 12 * GIB));
        let small = Machine {
            available: GIB,
            weights: 2 * GIB,
            cores: 1,
            ..machine
        };
        assert_eq!((small.limits().batch, small.limits().memory), (16, LEAST));
        let large = Machine {
            cores: 192,
            gpus: 1,
            ..machine
        };
        assert_eq!((large.limits().batch, large.limits().memory), (64, GIB));
    }

    #[test]
    fn files_are_counted_in_folders_of_any_depth() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("unet")).unwrap();
        std::fs::write(folder.path().join("a"), [0; 5]).unwrap();
        std::fs::write(folder.path().join("unet/b"), [0; 7]).unwrap();
        assert_eq!(size(folder.path()).unwrap(), 12);
    }
}
