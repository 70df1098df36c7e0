//! The double of a device, on the processor.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{CStr, CString, c_char, c_void};

use crate::device::{Arg, Buffer, Crossings, Device, Error, Halves, Kind, Launch, Work};

/// Runs the kernels one thread of a block after another, and checks every access to its
/// memory.
#[derive(Debug, Default)]
pub struct Double {
    /// By address. Numbers of f32, half or whole, are none at first.
    memory: BTreeMap<u64, Vec<Line>>,
    /// Whether blocks and threads run from the last to the first.
    backwards: bool,
    /// Launches that succeed before nothing does any more, if it is to break.
    whole_for: Option<usize>,
    crossings: Crossings,
    /// What was launched under a key.
    kept: HashMap<u64, Vec<Kept>>,
    /// What is being launched under one, and not done yet.
    keeping: Option<Vec<Kept>>,
}

/// A launch to do again.
#[derive(Clone, Debug)]
enum Kept {
    Launch {
        kernel: &'static str,
        grid: [usize; 3],
        arguments: Vec<Arg>,
    },
    Multiply(Halves),
}

/// What memory begins at a multiple of.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(256))]
struct Line([u8; 256]);

unsafe extern "C" {
    fn gpu_double_launch(
        name: *const c_char,
        grid: *const [u32; 3],
        threads: u32,
        arguments: *mut *mut c_void,
        sizes: *const u32,
        count: u32,
        backwards: bool,
    ) -> *const c_char;
}

impl Double {
    /// The same device, whose blocks and threads run in the opposite order.
    #[must_use]
    pub fn backwards() -> Self {
        Self {
            backwards: true,
            ..Self::default()
        }
    }

    /// A device that breaks after so many launches, for good.
    #[must_use]
    pub fn breaking_after(launches: usize) -> Self {
        Self {
            whole_for: Some(launches),
            ..Self::default()
        }
    }

    /// The bytes of a buffer, if it is inside one of the device's.
    fn bytes(&mut self, buffer: Buffer) -> Result<&mut [u8], Error> {
        let out = Error::Bounds {
            found: buffer.bytes(),
            expected: 0,
        };
        if buffer.bytes == 0 {
            return Ok(&mut []);
        }
        let before = self.memory.range_mut(..=buffer.at).next_back();
        let Some((start, lines)) = before else {
            return Err(out);
        };
        let offset = buffer.at.checked_sub(*start);
        let offset = offset.and_then(|offset| usize::try_from(offset).ok());
        // SAFETY: a line is its bytes, and all of them are initialised.
        let (_, bytes, _) = unsafe { lines.align_to_mut::<u8>() };
        let inside = offset.and_then(|offset| bytes.get_mut(offset..)?.get_mut(..buffer.bytes()));
        inside.ok_or(out)
    }

    /// While launches are kept, nothing else can be done; nor once it is broken.
    fn check(&self, doing: &'static str) -> Result<(), Error> {
        let source = match (&self.keeping, self.whole_for) {
            (Some(_), _) => "launches are being kept".into(),
            (None, Some(0)) => "the double is broken".into(),
            (None, _) => return Ok(()),
        };
        Err(Error::Driver { doing, source })
    }

    fn halves(&mut self, kind: Kind, buffer: Buffer, count: usize) -> Result<Vec<f32>, Error> {
        let (halves, _) = self.bytes(buffer)?.as_chunks();
        let halves = halves.iter().take(count).map(|half| {
            let half = u16::from_le_bytes(*half);
            match kind {
                Kind::Bf16 => f32::from_bits(u32::from(half) << 16),
                Kind::F16 => of_half(half),
            }
        });
        Ok(halves.collect())
    }
}

impl Device for Double {
    fn allocate(&mut self, bytes: usize) -> Result<Buffer, Error> {
        self.check("allocate")?;
        let line = Line([0xff; 256]);
        let mut lines = vec![line; bytes.div_ceil(256)];
        if bytes == 0 {
            return Ok(Buffer::EMPTY);
        }
        // Kernels write through this address; a vector may move while they can.
        let at = lines.as_mut_ptr().expose_provenance();
        let at = u64::try_from(at).unwrap_or(u64::MAX);
        self.memory.insert(at, lines);
        Ok(Buffer {
            at,
            bytes: u64::try_from(bytes).unwrap_or(u64::MAX),
        })
    }

    fn upload(&mut self, to: Buffer, bytes: &[u8]) -> Result<(), Error> {
        self.check("upload")?;
        self.crossings.count_up();
        let to = to.part(0, bytes.len())?;
        self.bytes(to)?.copy_from_slice(bytes);
        Ok(())
    }

    fn download(&mut self, from: Buffer, bytes: &mut [u8]) -> Result<(), Error> {
        self.check("download")?;
        self.crossings.count_down();
        let from = from.part(0, bytes.len())?;
        bytes.copy_from_slice(self.bytes(from)?);
        Ok(())
    }

    fn zero(&mut self, what: Buffer) -> Result<(), Error> {
        self.check("zero")?;
        self.bytes(what)?.fill(0);
        Ok(())
    }

    fn launch(&mut self, launch: &Launch<'_>) -> Result<(), Error> {
        let Some(grid) = launch.blocks()? else {
            return Ok(());
        };
        if let Some(keeping) = &mut self.keeping {
            keeping.push(Kept::Launch {
                kernel: launch.kernel,
                grid: launch.grid,
                arguments: launch.arguments.to_vec(),
            });
            return Ok(());
        }
        self.check("launch a kernel")?;
        self.whole_for = self.whole_for.map(|left| left.saturating_sub(1));
        let mut arguments = launch.arguments.to_vec();
        let mut places = Vec::new();
        let mut sizes = Vec::new();
        for argument in &mut arguments {
            let (place, size): (*mut c_void, u32) = match argument {
                Arg::Buffer(buffer) => {
                    self.bytes(*buffer)?;
                    ((&raw mut *buffer).cast(), 16)
                }
                Arg::F32(number) => ((&raw mut *number).cast(), 4),
                Arg::U32(number) => ((&raw mut *number).cast(), 4),
            };
            places.push(place);
            sizes.push(size);
        }
        let name = CString::new(launch.kernel).map_err(|_| launch.refused("no name"))?;
        // SAFETY: the other side finds the kernel by its name and looks whether its
        // arguments have these sizes; every buffer is inside this device's memory, and
        // slices look at their bounds. `self` is borrowed: nobody else has the memory.
        let said = unsafe {
            gpu_double_launch(
                name.as_ptr(),
                &raw const grid,
                Launch::THREADS,
                places.as_mut_ptr(),
                sizes.as_ptr(),
                u32::try_from(sizes.len()).unwrap_or(u32::MAX),
                self.backwards,
            )
        };
        if said.is_null() {
            return Ok(());
        }
        // SAFETY: it is a text of that thread, until its next launch.
        let said = unsafe { CStr::from_ptr(said) };
        Err(launch.refused(said.to_string_lossy()))
    }

    fn multiply(&mut self, halves: &Halves) -> Result<(), Error> {
        if let Some(keeping) = &mut self.keeping {
            keeping.push(Kept::Multiply(*halves));
            return Ok(());
        }
        self.check("multiply")?;
        halves.check()?;
        let Halves {
            kind,
            rows,
            inputs,
            outputs,
            stride,
            ..
        } = *halves;
        let weights = self.halves(kind, halves.weights, outputs.saturating_mul(inputs))?;
        let x = self.halves(kind, halves.x, rows.saturating_mul(inputs))?;
        let (y, _) = self.bytes(halves.y)?.as_chunks_mut::<4>();
        for (x, y) in x
            .chunks_exact(inputs.max(1))
            .zip(y.chunks_mut(stride.max(1)))
        {
            for (weights, y) in weights.chunks_exact(inputs.max(1)).zip(y) {
                let sum: f32 = x.iter().zip(weights).map(|(x, w)| x * w).sum();
                let before = match halves.add {
                    true => f32::from_le_bytes(*y),
                    false => 0.0,
                };
                *y = (before + sum).to_le_bytes();
            }
        }
        Ok(())
    }

    /// As a card does it: at first launches are only kept, and then what is kept is done,
    /// whatever `work` would do.
    fn repeat(&mut self, key: u64, work: Work<'_>) -> Result<(), Error> {
        if !self.kept.contains_key(&key) {
            self.keeping = Some(Vec::new());
            let done = work(self);
            let kept = self.keeping.take().unwrap_or_default();
            done?;
            self.kept.insert(key, kept);
        }
        for kept in self.kept.get(&key).cloned().unwrap_or_default() {
            match kept {
                Kept::Launch {
                    kernel,
                    grid,
                    arguments,
                } => self.launch(&Launch {
                    kernel,
                    grid,
                    arguments: &arguments,
                })?,
                Kept::Multiply(halves) => self.multiply(&halves)?,
            }
        }
        Ok(())
    }

    fn crossings(&self) -> Crossings {
        self.crossings
    }
}

fn of_half(half: u16) -> f32 {
    let sign = u32::from(half & 0x8000) << 16;
    let rest = u32::from(half & 0x7fff) << 13;
    let number = match rest >= 0x7c00 << 13 {
        true => f32::from_bits(0x7f80_0000 | rest),
        // The exponents differ by 112.
        false => f32::from_bits(rest) * f32::from_bits((127 + 112) << 23),
    };
    f32::from_bits(sign | number.to_bits())
}
