//! What runs kernels.

use std::fmt::Debug;

/// Memory of its own, and kernels that work on it one after another.
///
/// What is allocated stays until the device is dropped. Buffers of another device are
/// refused by the double and misread by a card.
pub trait Device: Debug + Send {
    /// Some memory, of unknown content, at a multiple of 256 bytes.
    fn allocate(&mut self, bytes: usize) -> Result<Buffer, Error>;

    /// Copies to the beginning of a buffer: a crossing.
    fn upload(&mut self, to: Buffer, bytes: &[u8]) -> Result<(), Error>;

    /// Copies the beginning of a buffer, once all work before is done: a crossing.
    fn download(&mut self, from: Buffer, bytes: &mut [u8]) -> Result<(), Error>;

    /// Fills a buffer with zeros, before anything that is asked for later. Nothing crosses.
    fn zero(&mut self, what: Buffer) -> Result<(), Error>;

    /// Runs a kernel, in blocks of [`Launch::THREADS`] threads.
    fn launch(&mut self, launch: &Launch<'_>) -> Result<(), Error>;

    /// The product of halves, in an order that the library chooses.
    fn multiply(&mut self, halves: &Halves) -> Result<(), Error>;

    /// Does `work`, which only launches. A device may keep what it did under `key`, and
    /// do that the next time: `work` must do the same for the same key.
    fn repeat(&mut self, key: u64, work: Work<'_>) -> Result<(), Error>;

    /// How often anything has crossed the bus.
    fn crossings(&self) -> Crossings;
}

/// What [`Device::repeat`] repeats.
pub type Work<'a> = &'a mut dyn FnMut(&mut dyn Device) -> Result<(), Error>;

/// Some memory of a device.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct Buffer {
    pub(crate) at: u64,
    pub(crate) bytes: u64,
}

impl Buffer {
    /// Nothing.
    pub const EMPTY: Self = Self { at: 0, bytes: 0 };

    /// Its size.
    #[must_use]
    pub fn bytes(self) -> usize {
        usize::try_from(self.bytes).unwrap_or(usize::MAX)
    }

    /// Some of it, where it has that.
    pub fn part(self, start: usize, bytes: usize) -> Result<Self, Error> {
        let out = || Error::Bounds {
            found: start.saturating_add(bytes),
            expected: self.bytes(),
        };
        let end = start.checked_add(bytes).ok_or_else(out)?;
        let inside = end <= self.bytes();
        let start = u64::try_from(start).ok().filter(|_| inside);
        let at = start.and_then(|start| self.at.checked_add(start));
        Ok(Self {
            at: at.ok_or_else(out)?,
            bytes: u64::try_from(bytes).map_err(|_| out())?,
        })
    }
}

/// A kernel, its grid and its arguments.
#[derive(Clone, Copy, Debug)]
pub struct Launch<'a> {
    /// As in `kernels/`.
    pub kernel: &'static str,
    /// Blocks in each direction.
    pub grid: [usize; 3],
    /// In the order of the kernel's.
    pub arguments: &'a [Arg],
}

impl Launch<'_> {
    /// Threads in a block.
    pub const THREADS: u32 = 128;
}

#[cfg(any(feature = "cuda", feature = "double"))]
impl Launch<'_> {
    /// The grid as the driver takes it; nothing if it has no blocks.
    pub(crate) fn blocks(&self) -> Result<Option<[u32; 3]>, Error> {
        let mut blocks = [0; 3];
        // Only the first side may be longer than 2^16 - 1.
        for ((block, side), most) in blocks
            .iter_mut()
            .zip(self.grid)
            .zip([i32::MAX, 65535, 65535])
        {
            let side = i32::try_from(side).ok().filter(|side| *side <= most);
            *block = side
                .ok_or_else(|| {
                    self.refused(format!("a grid of {:?} blocks is too large", self.grid))
                })?
                .cast_unsigned();
        }
        Ok((!blocks.contains(&0)).then_some(blocks))
    }

    pub(crate) fn refused(&self, what: impl Into<String>) -> Error {
        Error::Kernel {
            kernel: self.kernel,
            what: what.into(),
        }
    }
}

/// An argument of a kernel.
#[derive(Clone, Copy, Debug)]
pub enum Arg {
    /// A slice of the device's memory.
    Buffer(Buffer),
    /// A float.
    F32(f32),
    /// A number.
    U32(u32),
}

/// y = x W^T, or y += x W^T, of halves into f32.
#[derive(Clone, Copy, Debug)]
pub struct Halves {
    /// Which kind both are.
    pub kind: Kind,
    /// W, `[outputs][inputs]`.
    pub weights: Buffer,
    /// x, `[rows][inputs]`.
    pub x: Buffer,
    /// y, `[rows][stride]`, from a number of the row on.
    pub y: Buffer,
    /// Rows of x and y.
    pub rows: usize,
    /// Numbers in a row of x.
    pub inputs: usize,
    /// Rows of W.
    pub outputs: usize,
    /// Numbers from one row of y to the next.
    pub stride: usize,
    /// Whether the product is added to what is there.
    pub add: bool,
}

#[cfg(any(feature = "cuda", feature = "double"))]
impl Halves {
    /// Refuses what is not inside its buffers.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let weights = crate::kernels::size(&[self.outputs, self.inputs, 2])?;
        self.weights.part(0, weights)?;
        self.x
            .part(0, crate::kernels::size(&[self.rows, self.inputs, 2])?)?;
        let last = crate::kernels::size(&[self.rows.saturating_sub(1), self.stride])?;
        let end = crate::kernels::size(&[last.saturating_add(self.outputs), 4])?;
        self.y.part(0, end)?;
        Ok(())
    }
}

/// Two ways to keep a number in two bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// The upper half of an f32.
    Bf16,
    /// IEEE's.
    F16,
}

/// How often anything has crossed the bus.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Crossings {
    /// Copies to the device.
    pub up: u64,
    /// Copies from it.
    pub down: u64,
}

impl Crossings {
    #[cfg(any(feature = "cuda", feature = "double"))]
    pub(crate) fn count_up(&mut self) {
        self.up = self.up.saturating_add(1);
    }

    #[cfg(any(feature = "cuda", feature = "double"))]
    pub(crate) fn count_down(&mut self) {
        self.down = self.down.saturating_add(1);
    }
}

impl Error {
    /// Whether the device may do nothing right any more: after an error of the driver or
    /// of a kernel, a card gives the same one for everything. All else was refused before
    /// it began.
    #[must_use]
    pub fn loses_device(&self) -> bool {
        matches!(self, Self::Driver { .. } | Self::Kernel { .. })
    }
}

/// Why a device did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Something beyond the end of a buffer.
    #[error("byte {found} of a buffer of {expected}")]
    Bounds {
        /// Where it would have ended.
        found: usize,
        /// Where the buffer ends.
        expected: usize,
    },
    /// The driver or a library of it failed.
    #[error("cannot {doing}")]
    Driver {
        /// What was being done.
        doing: &'static str,
        /// What it said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A kernel failed, or cannot be run so.
    #[error("kernel {kernel}: {what}")]
    Kernel {
        /// Which.
        kernel: &'static str,
        /// What it did, or was to do.
        what: String,
    },
    /// A size that kernels cannot divide, or that is too large for them.
    #[error("{what} is {found}, expected {expected}")]
    Size {
        /// Of what.
        what: &'static str,
        /// As asked for.
        found: usize,
        /// What kernels can do.
        expected: &'static str,
    },
}
