//! Weights on a device, and their products with rows.

use crate::device::{Arg, Buffer, Device, Error, Halves, Kind, Launch};
use crate::kernels::{number, size};

/// How a file holds the numbers of a row.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Format {
    /// IEEE's, of four bytes.
    F32,
    /// Halves.
    F16,
    /// Upper halves of f32.
    Bf16,
    /// Blocks of 32 numbers and their scale.
    Q8_0,
    /// Blocks of 256 numbers of four bits.
    Q4K,
    /// Blocks of 256 numbers of six bits.
    Q6K,
}

/// A matrix `[outputs][inputs]`, laid out as `kernels/weight.cuh` has it.
#[derive(Clone, Copy, Debug)]
pub struct Matrix {
    format: Format,
    outputs: usize,
    inputs: usize,
    bytes: Buffer,
    scales: Buffer,
}

/// Rows of f32 to multiply, and the form that they have been brought into.
#[derive(Debug)]
pub struct Rows<'a> {
    numbers: Buffer,
    count: usize,
    width: usize,
    room: &'a Room,
    form: Option<Form>,
}

/// What rows are multiplied as, if not as they are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Form {
    /// Bytes, with a scale for so many.
    Quantised(usize),
    Halves(Kind),
}

/// Room for other forms of the rows of a step, and of a matrix.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    rows: Buffer,
    scales: Buffer,
    weights: Buffer,
}

/// What becomes of a product.
#[derive(Clone, Copy, Debug)]
pub struct Product {
    /// What is added to each row; empty if there is nothing.
    pub bias: Buffer,
    /// f32, `[rows][stride]`.
    pub y: Buffer,
    /// Numbers from one row to the next.
    pub stride: usize,
    /// The first of a row that the product is for.
    pub offset: usize,
    /// Whether it is added to what is there; then there is no bias.
    pub add: bool,
    /// Whether a row's bits may not depend on how many rows there are. If they may, more
    /// than [`Self::FEW`] rows are multiplied by the library, as halves.
    pub exact: bool,
}

impl Product {
    /// Rows that one pass over the weights is for.
    pub const FEW: usize = 8;
}

impl Format {
    /// Numbers in a block, and its bytes in a file.
    fn block(self) -> (usize, usize) {
        match self {
            Self::F32 => (1, 4),
            Self::F16 | Self::Bf16 => (1, 2),
            Self::Q8_0 => (32, 34),
            Self::Q4K => (256, 144),
            Self::Q6K => (256, 210),
        }
    }

    fn quantised(self) -> Option<usize> {
        match self {
            Self::F32 | Self::F16 | Self::Bf16 => None,
            Self::Q8_0 => Some(32),
            Self::Q4K | Self::Q6K => Some(256),
        }
    }

    /// What the library multiplies it as.
    fn kind(self) -> Kind {
        match self {
            Self::Bf16 => Kind::Bf16,
            _ => Kind::F16,
        }
    }

    fn embed(self) -> &'static str {
        match self {
            Self::F32 => "embed_f32",
            Self::F16 => "embed_f16",
            Self::Bf16 => "embed_bf16",
            Self::Q8_0 => "embed_q8_0",
            Self::Q4K => "embed_q4_k",
            Self::Q6K => "embed_q6_k",
        }
    }

    /// What brings it into halves, if it is not.
    fn narrow(self) -> Option<&'static str> {
        match self {
            Self::F16 | Self::Bf16 => None,
            Self::F32 => Some("narrow_f32"),
            Self::Q8_0 => Some("narrow_q8_0"),
            Self::Q4K => Some("narrow_q4_k"),
            Self::Q6K => Some("narrow_q6_k"),
        }
    }

    /// The product with so many rows at a time.
    fn product(self, rows: usize) -> (&'static str, usize) {
        let names = match self {
            Self::F32 => [
                "product_f32_1",
                "product_f32_2",
                "product_f32_4",
                "product_f32_8",
            ],
            Self::F16 => [
                "product_f16_1",
                "product_f16_2",
                "product_f16_4",
                "product_f16_8",
            ],
            Self::Bf16 => [
                "product_bf16_1",
                "product_bf16_2",
                "product_bf16_4",
                "product_bf16_8",
            ],
            Self::Q8_0 => [
                "product_q8_0_1",
                "product_q8_0_2",
                "product_q8_0_4",
                "product_q8_0_8",
            ],
            Self::Q4K => [
                "product_q4_k_1",
                "product_q4_k_2",
                "product_q4_k_4",
                "product_q4_k_8",
            ],
            Self::Q6K => [
                "product_q6_k_1",
                "product_q6_k_2",
                "product_q6_k_4",
                "product_q6_k_8",
            ],
        };
        let [one, two, four, eight] = names;
        match rows {
            0 | 1 => (one, 1),
            2 => (two, 2),
            3 | 4 => (four, 4),
            _ => (eight, 8),
        }
    }
}

impl Matrix {
    /// Copies rows as a file has them, one after the other, in one crossing or two.
    pub fn upload(
        device: &mut dyn Device,
        format: Format,
        [outputs, inputs]: [usize; 2],
        rows: &[u8],
    ) -> Result<Self, Error> {
        let (numbers, bytes) = format.block();
        if !inputs.is_multiple_of(numbers.max(Self::INPUTS)) {
            return Err(Error::Size {
                what: "the width of a matrix",
                found: inputs,
                expected: "a multiple of 32, and of the numbers in a block",
            });
        }
        let blocks = size(&[outputs, inputs])?.checked_div(numbers).unwrap_or(0);
        if size(&[blocks, bytes])? != rows.len() {
            return Err(Error::Size {
                what: "the size of a matrix in bytes",
                found: rows.len(),
                expected: "that of its shape",
            });
        }
        let mut up = |bytes: &[u8]| {
            let buffer = device.allocate(bytes.len())?;
            device.upload(buffer, bytes)?;
            Ok::<_, Error>(buffer)
        };
        let (bytes, scales) = match format {
            Format::Q8_0 => {
                let (mut numbers, mut scales) = (Vec::new(), Vec::new());
                for (scale, block) in rows
                    .chunks_exact(bytes)
                    .filter_map(|b| b.split_at_checked(2))
                {
                    scales.extend_from_slice(scale);
                    numbers.extend_from_slice(block);
                }
                (up(&numbers)?, up(&scales)?)
            }
            Format::Q6K => {
                let mut padded = Vec::with_capacity(size(&[blocks, 224])?);
                for block in rows.chunks_exact(bytes) {
                    padded.extend_from_slice(block);
                    padded.extend_from_slice(&[0; 14]);
                }
                (up(&padded)?, Buffer::EMPTY)
            }
            _ => (up(rows)?, Buffer::EMPTY),
        };
        Ok(Self {
            format,
            outputs,
            inputs,
            bytes,
            scales,
        })
    }

    /// What the width of a matrix is a multiple of.
    pub const INPUTS: usize = 32;

    /// Its rows.
    #[must_use]
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Bytes of a [`Room`]'s weights that it needs where products need not be exact.
    #[must_use]
    pub fn halves(&self) -> usize {
        match self.format.narrow() {
            Some(_) => self.outputs.saturating_mul(self.inputs).saturating_mul(2),
            None => 0,
        }
    }

    /// The rows that tokens name, times `scale`, as f32 in `y`.
    pub fn embed(
        &self,
        device: &mut dyn Device,
        tokens: Buffer,
        count: usize,
        scale: f32,
        y: Buffer,
    ) -> Result<(), Error> {
        device.launch(&Launch {
            kernel: self.format.embed(),
            grid: [count, 1, 1],
            arguments: &[
                Arg::Buffer(self.bytes),
                Arg::Buffer(self.scales),
                Arg::Buffer(tokens),
                Arg::Buffer(y),
                number(self.inputs)?,
                Arg::F32(scale),
            ],
        })
    }

    /// The product with each of `rows`.
    pub fn multiply(
        &self,
        device: &mut dyn Device,
        rows: &mut Rows<'_>,
        product: &Product,
    ) -> Result<(), Error> {
        if rows.width != self.inputs {
            return Err(Error::Size {
                what: "the width of rows to multiply",
                found: rows.width,
                expected: "that of the matrix",
            });
        }
        let end = product.offset.saturating_add(self.outputs);
        let last = size(&[rows.count.saturating_sub(1), product.stride])?;
        let needed = size(&[last.saturating_add(end), 4])?;
        product
            .y
            .part(0, if rows.count == 0 { 0 } else { needed })?;
        match product.exact || rows.count <= Product::FEW {
            true => self.in_order(device, rows, product),
            false => self.by_library(device, rows, product),
        }
    }

    fn in_order(
        &self,
        device: &mut dyn Device,
        rows: &mut Rows<'_>,
        product: &Product,
    ) -> Result<(), Error> {
        if let Some(block) = self.format.quantised() {
            rows.bring(device, Form::Quantised(block))?;
        }
        let (kernel, at_once) = self.format.product(rows.count);
        let outputs = self.outputs.div_ceil(Self::OUTPUTS);
        device.launch(&Launch {
            kernel,
            grid: [rows.count.div_ceil(at_once), outputs, 1],
            arguments: &[
                Arg::Buffer(self.bytes),
                Arg::Buffer(self.scales),
                Arg::Buffer(rows.numbers),
                Arg::Buffer(rows.room.rows),
                Arg::Buffer(rows.room.scales),
                Arg::Buffer(product.bias),
                Arg::Buffer(product.y),
                number(rows.count)?,
                number(self.inputs)?,
                number(self.outputs)?,
                number(product.stride)?,
                number(product.offset)?,
                number(usize::from(product.add))?,
            ],
        })
    }

    /// Outputs that a block of a product has.
    const OUTPUTS: usize = 16;

    fn by_library(
        &self,
        device: &mut dyn Device,
        rows: &mut Rows<'_>,
        product: &Product,
    ) -> Result<(), Error> {
        let kind = self.format.kind();
        rows.bring(device, Form::Halves(kind))?;
        let mut weights = self.bytes;
        if let Some(kernel) = self.format.narrow() {
            weights = rows.room.weights.part(0, self.halves())?;
            device.launch(&Launch {
                kernel,
                grid: [self.outputs, columns(self.inputs), 1],
                arguments: &[
                    Arg::Buffer(self.bytes),
                    Arg::Buffer(self.scales),
                    Arg::Buffer(weights),
                    number(self.inputs)?,
                ],
            })?;
        }
        let biased = product.bias.bytes() > 0;
        if biased {
            device.launch(&Launch {
                kernel: "spread",
                grid: [rows.count, columns(self.outputs), 1],
                arguments: &[
                    Arg::Buffer(product.bias),
                    Arg::Buffer(product.y),
                    number(self.outputs)?,
                    number(product.stride)?,
                    number(product.offset)?,
                ],
            })?;
        }
        let start = size(&[product.offset, 4])?;
        let after = product.y.bytes().saturating_sub(start);
        device.multiply(&Halves {
            kind,
            weights,
            x: rows.room.rows,
            y: product.y.part(start, after)?,
            rows: rows.count,
            inputs: self.inputs,
            outputs: self.outputs,
            stride: product.stride,
            add: product.add || biased,
        })
    }
}

impl<'a> Rows<'a> {
    /// f32, `[count][width]`.
    pub fn new(numbers: Buffer, count: usize, width: usize, room: &'a Room) -> Result<Self, Error> {
        Ok(Self {
            numbers: numbers.part(0, size(&[count, width, 4])?)?,
            count,
            width,
            room,
            form: None,
        })
    }

    fn bring(&mut self, device: &mut dyn Device, form: Form) -> Result<(), Error> {
        if self.form == Some(form) {
            return Ok(());
        }
        let (x, y, width) = (
            Arg::Buffer(self.numbers),
            Arg::Buffer(self.room.rows),
            number(self.width)?,
        );
        match form {
            Form::Quantised(block) => device.launch(&Launch {
                kernel: if block == 32 {
                    "quantise_32"
                } else {
                    "quantise_256"
                },
                grid: [self.count, self.width.div_ceil(block.saturating_mul(4)), 1],
                arguments: &[x, y, Arg::Buffer(self.room.scales), width],
            })?,
            Form::Halves(kind) => device.launch(&Launch {
                kernel: "narrow_rows",
                grid: [self.count, columns(self.width), 1],
                arguments: &[x, y, width, number(usize::from(kind == Kind::Bf16))?],
            })?,
        }
        self.form = Some(form);
        Ok(())
    }
}

impl Room {
    /// For `rows` of at most `width` numbers, and matrices that need `halves` bytes.
    pub fn new(
        device: &mut dyn Device,
        rows: usize,
        width: usize,
        halves: usize,
    ) -> Result<Self, Error> {
        Ok(Self {
            rows: device.allocate(size(&[rows, width, 2])?)?,
            scales: device.allocate(size(&[rows, width.div_ceil(32), 4])?)?,
            weights: device.allocate(halves)?,
        })
    }
}

impl Room {
    /// What may hold forms of rows.
    #[must_use]
    pub fn of_rows(&self) -> [Buffer; 2] {
        [self.rows, self.scales]
    }
}

/// Blocks for a row of numbers, one for each thread.
fn columns(width: usize) -> usize {
    width.div_ceil(128)
}
