//! For a machine with a card: whether it gives the bits that its double gives, and what
//! share of its memory's speed products reach.
//!
//! `cargo run --release -p gpu --features cuda,double --example card`

#![expect(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::cast_precision_loss,
    clippy::indexing_slicing,
    reason = "numbers of a benchmark"
)]

use std::time::Instant;

use anyhow::{Result, ensure};
use gpu::kernels::{Attention, Choose, Gate, Heads, Norm, Place, Sequences};
use gpu::{Buffer, Cuda, Device, Double, Format, Matrix, Product, Room, Rows};

fn main() -> Result<()> {
    let mut card = Cuda::open()?;
    for format in FORMATS {
        let here = layer(&mut Double::default(), format)?;
        let there = layer(&mut card, format)?;
        ensure!(
            here == there,
            "{format:?}: the card gives other bits than its double"
        );
        println!(
            "{format:?}: {} bytes, the same bits as the double",
            here.len()
        );
    }
    for format in FORMATS {
        for (rows, exact) in [(1, true), (8, true), (64, true), (64, false), (512, false)] {
            speed(&mut card, format, rows, exact)?;
        }
    }
    Ok(())
}

const FORMATS: [Format; 6] = [
    Format::F32,
    Format::F16,
    Format::Bf16,
    Format::Q8_0,
    Format::Q4K,
    Format::Q6K,
];

/// Every kernel once, on rows of one sequence: what the last ones leave.
fn layer(device: &mut dyn Device, format: Format) -> Result<Vec<u8>> {
    const ROWS: usize = 150;
    const HIDDEN: usize = 256;
    let mut heads = Heads {
        memory: Buffer::EMPTY,
        queries: 4,
        heads: 2,
        width: 64,
        layer: 0,
        layers: 1,
    };
    let bytes = heads.page_bytes()?;
    heads.memory = device.allocate(bytes.saturating_mul(5))?;
    let matrix = Matrix::upload(device, format, [512, HIDDEN], &weights(format, 512, HIDDEN))?;
    let room = Room::new(device, ROWS, HIDDEN, matrix.halves())?;
    let words = |device: &mut dyn Device, words: &mut dyn Iterator<Item = u32>| -> Result<Buffer> {
        let bytes: Vec<u8> = words.flat_map(u32::to_le_bytes).collect();
        let buffer = device.allocate(bytes.len())?;
        device.upload(buffer, &bytes)?;
        Ok(buffer)
    };
    let tokens = words(device, &mut (0..150).map(|token| token * 3 % 512))?;
    let sequences = Sequences {
        rows: ROWS,
        positions: words(device, &mut (0..150))?,
        tables: words(device, &mut (0..150).map(|_| 0))?,
        pages: words(device, &mut (0..5).rev())?,
    };
    let ones = words(
        device,
        &mut (0..9600).map(|i| (0.5 + i as f32 / 9600.0).to_bits()),
    )?;
    let [x, normed, attended] = [(); 3].map(|()| device.allocate(ROWS * HIDDEN * 4));
    let (x, normed, attended) = (x?, normed?, attended?);
    let wide = device.allocate(ROWS * 512 * 4)?;
    matrix.embed(device, tokens, ROWS, 0.5, x)?;
    let norm = Norm {
        x,
        weight: ones,
        y: normed,
        sources: Buffer::EMPTY,
        rows: ROWS,
        width: HIDDEN,
        epsilon: 1e-6,
        add: false,
    };
    norm.run(device)?;
    let product = Product {
        bias: Buffer::EMPTY,
        y: wide,
        stride: 512,
        offset: 0,
        add: false,
        exact: true,
    };
    matrix.multiply(
        device,
        &mut Rows::new(normed, ROWS, HIDDEN, &room)?,
        &product,
    )?;
    let place = Place {
        qkv: wide,
        q_norm: ones,
        k_norm: ones,
        cosines: ones,
        sines: ones,
        scale: 0.125,
        epsilon: 1e-6,
    };
    place.run(device, &sequences, &heads)?;
    let attention = Attention {
        qkv: wide,
        y: attended,
        window: 100,
        parts: None,
    };
    attention.run(device, &sequences, &heads)?;
    let gate = Gate {
        x: wide,
        y: normed,
        rows: ROWS,
        width: HIDDEN,
        gelu: true,
    };
    gate.run(device)?;
    let result = device.allocate(ROWS * 8 * 8)?;
    let half = ROWS * 8 * 4;
    let choose = Choose {
        logits: normed,
        best: result.part(0, half)?,
        tokens: result.part(half, half)?,
        rows: ROWS,
        width: HIDDEN,
        count: 8,
    };
    choose.run(device)?;
    let mut found = Vec::new();
    for buffer in [attended, normed, result] {
        let mut bytes = vec![0; buffer.bytes()];
        device.download(buffer, &mut bytes)?;
        found.extend(bytes);
    }
    Ok(found)
}

/// The matrix of a feed-forward network of an 8B model, for so many rows.
fn speed(card: &mut Cuda, format: Format, rows: usize, exact: bool) -> Result<()> {
    let (outputs, inputs) = (14336, 4096);
    let weights = weights(format, outputs, inputs);
    let matrix = Matrix::upload(card, format, [outputs, inputs], &weights)?;
    let room = Room::new(card, rows, inputs, matrix.halves())?;
    let [x, y] = [inputs, outputs].map(|width| card.allocate(rows * width * 4));
    let (x, y) = (x?, y?);
    card.zero(x)?;
    let product = Product {
        bias: Buffer::EMPTY,
        y,
        stride: outputs,
        offset: 0,
        add: false,
        exact,
    };
    let mut wait = [0; 4];
    let mut seconds = f64::INFINITY;
    for _ in 0..5 {
        card.download(y, &mut wait)?;
        let start = Instant::now();
        for _ in 0..50 {
            matrix.multiply(card, &mut Rows::new(x, rows, inputs, &room)?, &product)?;
        }
        card.download(y, &mut wait)?;
        seconds = seconds.min(start.elapsed().as_secs_f64() / 50.0);
    }
    let rate = weights.len() as f64 / seconds / 1e9;
    let way = if exact { "in order" } else { "by the library" };
    // 3350 GB/s: an H100 SXM, by its data sheet.
    println!(
        "{format:?}, {rows} rows {way}: {:.1} us, {rate:.0} GB/s of weights, {:.2} of an H100's",
        seconds * 1e6,
        rate / 3350.0
    );
    Ok(())
}

/// Rows as a file has them, whose scales are sane.
fn weights(format: Format, outputs: usize, inputs: usize) -> Vec<u8> {
    let (numbers, bytes, scales): (usize, usize, &[usize]) = match format {
        Format::F32 => (1, 4, &[2]),
        Format::F16 | Format::Bf16 => (1, 2, &[0]),
        Format::Q8_0 => (32, 34, &[0]),
        Format::Q4K => (256, 144, &[0, 2]),
        Format::Q6K => (256, 210, &[208]),
    };
    let mut state = 1_u64;
    let mut rows = vec![0; outputs * inputs / numbers * bytes];
    for block in rows.chunks_mut(bytes) {
        for byte in block.iter_mut() {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            *byte = (state >> 56) as u8;
        }
        for scale in scales {
            block[scale + 1] = block[scale + 1] & 0x83 | 0x3c;
        }
    }
    rows
}
