//! The kernels that are no products, by name.

use crate::device::{Arg, Buffer, Device, Error, Launch};

/// Rows divided by the root of their mean square.
#[derive(Clone, Copy, Debug)]
pub struct Norm {
    /// Rows of `width`.
    pub x: Buffer,
    /// A row.
    pub weight: Buffer,
    /// Rows of `width`; may be `x`.
    pub y: Buffer,
    /// Which row of `x` each of `y` is made from; empty if they are the same.
    pub sources: Buffer,
    /// Of `y`.
    pub rows: usize,
    /// Numbers in a row.
    pub width: usize,
    /// What is added to the mean.
    pub epsilon: f32,
    /// Whether the result is added to `y`.
    pub add: bool,
}

impl Norm {
    /// Does it.
    pub fn run(&self, device: &mut dyn Device) -> Result<(), Error> {
        device.launch(&Launch {
            kernel: "rms_norm",
            grid: [self.rows, 1, 1],
            arguments: &[
                Arg::Buffer(self.x),
                Arg::Buffer(self.weight),
                Arg::Buffer(self.y),
                Arg::Buffer(self.sources),
                number(self.width)?,
                Arg::F32(self.epsilon),
                number(usize::from(self.add))?,
            ],
        })
    }
}

/// `y = activation(gate) * up`, of rows that hold `gate` and then `up`.
#[derive(Clone, Copy, Debug)]
pub struct Gate {
    /// Rows of twice `width`.
    pub x: Buffer,
    /// Rows of `width`.
    pub y: Buffer,
    /// How many.
    pub rows: usize,
    /// Numbers in a row of `y`.
    pub width: usize,
    /// GELU, by its tangent; or SiLU.
    pub gelu: bool,
}

impl Gate {
    /// Does it.
    pub fn run(&self, device: &mut dyn Device) -> Result<(), Error> {
        device.launch(&Launch {
            kernel: "gate",
            grid: [self.width.div_ceil(128), self.rows, 1],
            arguments: &[
                Arg::Buffer(self.x),
                Arg::Buffer(self.y),
                number(self.width)?,
                number(usize::from(self.gelu))?,
            ],
        })
    }
}

/// Where the rows of a step stand, and what they see.
#[derive(Clone, Copy, Debug)]
pub struct Sequences {
    /// Rows of the step.
    pub rows: usize,
    /// Of each row; `u32::MAX` for one that only fills the batch up.
    pub positions: Buffer,
    /// Of each row, where in `pages` those of its sequence begin.
    pub tables: Buffer,
    /// Pages, in the order of a sequence.
    pub pages: Buffer,
}

/// The heads of a layer, and the memory of all keys and values.
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    /// Halves: `[page][layer][keys, values][head][position][width]`.
    pub memory: Buffer,
    /// Heads of queries.
    pub queries: usize,
    /// Heads of keys and values.
    pub heads: usize,
    /// Numbers in a head: a multiple of 16, at most [`Self::WIDEST`].
    pub width: usize,
    /// Which layer.
    pub layer: usize,
    /// How many there are.
    pub layers: usize,
}

impl Heads {
    /// The widest head.
    pub const WIDEST: usize = 256;

    /// Positions in a page.
    pub const PAGE: usize = 32;

    /// Positions in a part of [`Attention`].
    pub const SPLIT: usize = 128;

    /// Bytes of a page.
    pub fn page_bytes(&self) -> Result<usize, Error> {
        size(&[self.layers, 2, self.heads, Self::PAGE, self.width, 2])
    }

    /// Queries of a group that a block answers: the most that divide it, up to eight.
    fn block(&self) -> usize {
        let group = self.queries.checked_div(self.heads).unwrap_or(1).max(1);
        let divides = |block: &usize| group.is_multiple_of(*block);
        (1..=8).rev().find(divides).unwrap_or(1)
    }

    fn check(&self) -> Result<(), Error> {
        let fits = (16..=Self::WIDEST).contains(&self.width) && self.width.is_multiple_of(16);
        match fits {
            true => Ok(()),
            false => Err(Error::Size {
                what: "the width of a head",
                found: self.width,
                expected: "a multiple of 16 up to 256",
            }),
        }
    }
}

/// Turns queries and keys, and puts keys and values into their pages.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Rows of queries, keys and values; queries are scaled there.
    pub qkv: Buffer,
    /// Weights of the norms of a head; empty if there are none.
    pub q_norm: Buffer,
    /// The same, of keys.
    pub k_norm: Buffer,
    /// Of half a head, for each row.
    pub cosines: Buffer,
    /// The same.
    pub sines: Buffer,
    /// What queries are multiplied with.
    pub scale: f32,
    /// Of the norms.
    pub epsilon: f32,
}

impl Place {
    /// Does it.
    pub fn run(
        &self,
        device: &mut dyn Device,
        sequences: &Sequences,
        heads: &Heads,
    ) -> Result<(), Error> {
        heads.check()?;
        let all = heads.queries.saturating_add(heads.heads.saturating_mul(2));
        device.launch(&Launch {
            kernel: "place",
            grid: [sequences.rows, all.div_ceil(4), 1],
            arguments: &[
                Arg::Buffer(self.qkv),
                Arg::Buffer(self.q_norm),
                Arg::Buffer(self.k_norm),
                Arg::Buffer(self.cosines),
                Arg::Buffer(self.sines),
                Arg::Buffer(sequences.positions),
                Arg::Buffer(sequences.tables),
                Arg::Buffer(sequences.pages),
                Arg::Buffer(heads.memory),
                number(heads.queries)?,
                number(heads.heads)?,
                number(heads.width)?,
                number(heads.layer)?,
                number(heads.layers)?,
                Arg::F32(self.scale),
                Arg::F32(self.epsilon),
            ],
        })
    }
}

/// Lets queries attend.
#[derive(Clone, Copy, Debug)]
pub struct Attention {
    /// As [`Place`] leaves them.
    pub qkv: Buffer,
    /// A sum of values for each query.
    pub y: Buffer,
    /// Positions that a row sees: its own and those before it.
    pub window: usize,
    /// Parts of the longest sequence, for which there is room; none if one block is to
    /// do all parts of a row.
    pub parts: Option<Parts>,
}

/// Room for parts of attention that are yet to be merged.
#[derive(Clone, Copy, Debug)]
pub struct Parts {
    /// For each row.
    pub count: usize,
    /// Sums of values: `[row][part][query][width]`.
    pub values: Buffer,
    /// Two numbers for each of them.
    pub sums: Buffer,
}

impl Attention {
    /// Does it.
    pub fn run(
        &self,
        device: &mut dyn Device,
        sequences: &Sequences,
        heads: &Heads,
    ) -> Result<(), Error> {
        heads.check()?;
        let window = number(self.window.min(1 << 30))?;
        let groups = heads.queries.div_ceil(heads.block());
        let whole = [
            number(heads.queries)?,
            number(heads.heads)?,
            number(heads.width)?,
            number(heads.block())?,
            number(heads.layer)?,
            number(heads.layers)?,
            window,
        ];
        let mut arguments = vec![
            Arg::Buffer(self.qkv),
            Arg::Buffer(heads.memory),
            Arg::Buffer(sequences.positions),
            Arg::Buffer(sequences.tables),
            Arg::Buffer(sequences.pages),
        ];
        let Some(parts) = self.parts else {
            arguments.push(Arg::Buffer(self.y));
            arguments.extend(whole);
            return device.launch(&Launch {
                kernel: "attend",
                grid: [sequences.rows, groups, 1],
                arguments: &arguments,
            });
        };
        let (values, sums) = (Arg::Buffer(parts.values), Arg::Buffer(parts.sums));
        arguments.extend([values, sums]);
        arguments.extend(whole);
        device.launch(&Launch {
            kernel: "attend_parts",
            grid: [sequences.rows, groups, parts.count],
            arguments: &arguments,
        })?;
        device.launch(&Launch {
            kernel: "merge",
            grid: [sequences.rows, heads.queries, 1],
            arguments: &[
                values,
                sums,
                Arg::Buffer(sequences.positions),
                Arg::Buffer(self.y),
                number(heads.queries)?,
                number(heads.width)?,
                number(parts.count)?,
                window,
            ],
        })
    }
}

/// The likeliest tokens of rows of logits.
#[derive(Clone, Copy, Debug)]
pub struct Choose {
    /// Rows of `width`.
    pub logits: Buffer,
    /// For each row `count` logits, the largest first.
    pub best: Buffer,
    /// Whose they are.
    pub tokens: Buffer,
    /// How many rows.
    pub rows: usize,
    /// Numbers in a row.
    pub width: usize,
    /// At most `width`.
    pub count: usize,
}

impl Choose {
    /// Does it.
    pub fn run(&self, device: &mut dyn Device) -> Result<(), Error> {
        device.launch(&Launch {
            kernel: "choose",
            grid: [self.rows, 1, 1],
            arguments: &[
                Arg::Buffer(self.logits),
                Arg::Buffer(self.best),
                Arg::Buffer(self.tokens),
                number(self.width)?,
                number(self.count)?,
            ],
        })
    }
}

/// A size as an argument.
pub(crate) fn number(size: usize) -> Result<Arg, Error> {
    let number = u32::try_from(size).map_err(|_| too_large(size))?;
    Ok(Arg::U32(number))
}

/// The product of sides.
pub(crate) fn size(sides: &[usize]) -> Result<usize, Error> {
    let product = sides
        .iter()
        .try_fold(1_usize, |product, side| product.checked_mul(*side));
    product.ok_or_else(|| too_large(usize::MAX))
}

fn too_large(found: usize) -> Error {
    Error::Size {
        what: "a size",
        found,
        expected: "at most 2^32 - 1",
    }
}
