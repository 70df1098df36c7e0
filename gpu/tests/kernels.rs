//! Every kernel on the double, beside what it means in f64; and what a device refuses.

#![expect(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "numbers of a test"
)]

use gpu::kernels::{Attention, Choose, Gate, Heads, Norm, Parts, Place, Sequences};
use gpu::{Arg, Buffer, Crossings, Device, Double, Format, Launch, Matrix, Product, Room, Rows};

/// Numbers between -1 and 1.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        ((self.0 >> 40) as f32) / 8_388_608.0 - 1.0
    }

    fn floats(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.next()).collect()
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count)
            .map(|_| (self.next() * 128.0) as i32 as u8)
            .collect()
    }
}

fn up(device: &mut Double, bytes: &[u8]) -> Buffer {
    let buffer = device.allocate(bytes.len()).unwrap();
    device.upload(buffer, bytes).unwrap();
    buffer
}

fn up_floats(device: &mut Double, numbers: &[f32]) -> Buffer {
    let bytes: Vec<u8> = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
    up(device, &bytes)
}

fn up_words(device: &mut Double, words: &[u32]) -> Buffer {
    let bytes: Vec<u8> = words.iter().flat_map(|x| x.to_le_bytes()).collect();
    up(device, &bytes)
}

fn floats(device: &mut Double, buffer: Buffer) -> Vec<f32> {
    words(device, buffer)
        .into_iter()
        .map(f32::from_bits)
        .collect()
}

fn words(device: &mut Double, buffer: Buffer) -> Vec<u32> {
    let mut bytes = vec![0; buffer.bytes()];
    device.download(buffer, &mut bytes).unwrap();
    let words = bytes.as_chunks().0.iter();
    words.map(|word| u32::from_le_bytes(*word)).collect()
}

fn close(found: &[f32], expected: impl IntoIterator<Item = f64>, tolerance: f64) {
    let mut count = 0;
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        let difference = (f64::from(*found) - expected).abs();
        assert!(
            difference <= tolerance,
            "{index}: {found} is not {expected}"
        );
        count += 1;
    }
    assert_eq!(count, found.len());
}

#[test]
fn a_norm_is_the_root_of_the_mean_square_and_may_choose_its_rows_and_add() {
    let (mut device, mut chance) = (Double::default(), Chance(1));
    for width in [1, 31, 192, 257] {
        let (x, weight) = (chance.floats(3 * width), chance.floats(width));
        let before = chance.floats(2 * width);
        let y = up_floats(&mut device, &before);
        let norm = Norm {
            x: up_floats(&mut device, &x),
            weight: up_floats(&mut device, &weight),
            y,
            sources: up_words(&mut device, &[2, 0]),
            rows: 2,
            width,
            epsilon: 1e-6,
            add: true,
        };
        norm.run(&mut device).unwrap();
        let expected = [2, 0].into_iter().flat_map(|row| {
            let row = &x[row * width..][..width];
            let square: f64 = row.iter().map(|x| f64::from(*x).powi(2)).sum();
            let scale = 1.0 / (square / width as f64 + 1e-6).sqrt();
            row.iter()
                .zip(&weight)
                .map(move |(x, w)| f64::from(*x) * scale * f64::from(*w))
        });
        let sums = expected
            .zip(&before)
            .map(|(x, before)| x + f64::from(*before));
        let found = floats(&mut device, y);
        close(&found, sums.collect::<Vec<_>>(), 1e-5);
    }
}

#[test]
fn gates_open_as_silu_and_gelu_do() {
    let (mut device, mut chance) = (Double::default(), Chance(2));
    let (rows, width) = (3, 144);
    let x: Vec<f32> = chance
        .floats(rows * width * 2)
        .iter()
        .map(|x| x * 20.0)
        .collect();
    for gelu in [false, true] {
        let y = device.allocate(rows * width * 4).unwrap();
        let gate = Gate {
            x: up_floats(&mut device, &x),
            y,
            rows,
            width,
            gelu,
        };
        gate.run(&mut device).unwrap();
        let expected = x.chunks(2 * width).flat_map(|row| {
            let (gate, up) = row.split_at(width);
            let pairs = gate.iter().zip(up).map(move |(x, up)| {
                let x = f64::from(*x);
                let steep = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
                let opened = match gelu {
                    true => x * (1.0 + steep.tanh()) / 2.0,
                    false => x / (1.0 + (-x).exp()),
                };
                opened * f64::from(*up)
            });
            pairs.collect::<Vec<_>>()
        });
        let found = floats(&mut device, y);
        close(&found, expected, 1e-4);
    }
}

/// A matrix as a file has it: scales are sane, the rest is anything.
fn rows_of(chance: &mut Chance, format: Format, [outputs, inputs]: [usize; 2]) -> Vec<u8> {
    let half = 0x2c00_u16.to_le_bytes();
    let (numbers, bytes, scales): (_, _, &[usize]) = match format {
        Format::F32 => {
            let floats = chance.floats(outputs * inputs);
            return floats.iter().flat_map(|x| x.to_le_bytes()).collect();
        }
        Format::Bf16 => {
            let floats = chance.floats(outputs * inputs);
            let upper = |x: &f32| [x.to_le_bytes()[2], x.to_le_bytes()[3]];
            return floats.iter().flat_map(upper).collect();
        }
        // Exponents of sane halves.
        Format::F16 => (1, 2, &[]),
        Format::Q8_0 => (32, 34, &[0]),
        Format::Q4K => (256, 144, &[0, 2]),
        Format::Q6K => (256, 210, &[208]),
    };
    let mut rows = chance.bytes(outputs * inputs / numbers * bytes);
    for block in rows.chunks_mut(bytes) {
        for scale in scales {
            block[*scale..scale + 2].copy_from_slice(&half);
        }
        if format == Format::F16 {
            block[1] &= 0xbb;
        }
    }
    rows
}

const FORMATS: [Format; 6] = [
    Format::F32,
    Format::F16,
    Format::Bf16,
    Format::Q8_0,
    Format::Q4K,
    Format::Q6K,
];

#[test]
fn a_product_is_that_of_the_rows_that_are_embedded_and_the_same_bits_in_any_company() {
    let mut chance = Chance(3);
    for format in FORMATS {
        let (rows, outputs, inputs) = (19, 37, 512);
        let bytes = rows_of(&mut chance, format, [outputs, inputs]);
        let (x, bias) = (chance.floats(rows * inputs), chance.floats(outputs));
        let multiply = |device: &mut Double, first: usize, count: usize, exact| {
            let matrix = Matrix::upload(device, format, [outputs, inputs], &bytes).unwrap();
            let room = Room::new(device, rows, inputs, matrix.halves()).unwrap();
            let x = up_floats(device, &x[first * inputs..][..count * inputs]);
            let y = up_floats(device, &vec![9.0; count * 48]);
            let mut rows = Rows::new(x, count, inputs, &room).unwrap();
            let product = Product {
                bias: up_floats(device, &bias),
                y,
                stride: 48,
                offset: 5,
                add: false,
                exact,
            };
            matrix.multiply(device, &mut rows, &product).unwrap();
            floats(device, y)
        };
        let mut device = Double::default();
        let whole = multiply(&mut device, 0, rows, true);
        let mut pieces = Vec::new();
        for (first, count) in [(0, 1), (1, 2), (3, 3), (6, 5), (11, 8)] {
            pieces.extend(multiply(&mut device, first, count, true));
        }
        assert_eq!(whole, pieces, "{format:?}");
        let backwards = multiply(&mut Double::backwards(), 0, rows, true);
        assert_eq!(whole, backwards, "{format:?}");

        let matrix = Matrix::upload(&mut device, format, [outputs, inputs], &bytes).unwrap();
        let tokens: Vec<u32> = (0..outputs as u32).collect();
        let tokens = up_words(&mut device, &tokens);
        let weights = device.allocate(outputs * inputs * 4).unwrap();
        matrix
            .embed(&mut device, tokens, outputs, 1.0, weights)
            .unwrap();
        let weights = floats(&mut device, weights);
        let expected: Vec<f64> = (0..rows * 48)
            .map(|at| {
                let (row, column) = (at / 48, at % 48);
                let Some(output) = column.checked_sub(5).filter(|output| *output < outputs) else {
                    return 9.0;
                };
                let x = x[row * inputs..][..inputs].iter();
                let dot = x.zip(&weights[output * inputs..][..inputs]);
                dot.map(|(x, w)| f64::from(*x) * f64::from(*w)).sum::<f64>()
                    + f64::from(bias[output])
            })
            .collect();
        let most = expected.iter().fold(0.0, |most: f64, x| most.max(x.abs()));
        // Rows of quantised products have seven bits; halves have eleven, or eight.
        let exact = match format {
            Format::Q8_0 | Format::Q4K | Format::Q6K => 1e-2,
            _ => 1e-6,
        };
        close(&whole, expected.iter().copied(), most * exact);
        let library = multiply(&mut device, 0, rows, false);
        close(&library, expected, most * 1e-2);
    }
}

#[test]
fn numbers_in_blocks_are_those_of_the_format() {
    // One block each: every number and scale differs from its neighbours.
    let bytes: Vec<u8> = (0..210_u32).map(|i| (i * 37 + 11) as u8).collect();
    let mut device = Double::default();
    let mut embed = |format, block: &[u8], inputs| {
        let matrix = Matrix::upload(&mut device, format, [1, inputs], block).unwrap();
        let token = up_words(&mut device, &[0]);
        let y = device.allocate(inputs * 4).unwrap();
        matrix.embed(&mut device, token, 1, 1.0, y).unwrap();
        floats(&mut device, y)
    };
    let one = [0x00, 0x3c];
    let q8 = embed(Format::Q8_0, &[&one[..], &bytes[..32]].concat(), 32);
    close(
        &q8,
        bytes[..32].iter().map(|byte| f64::from(*byte as i8)),
        0.0,
    );

    let q4 = embed(Format::Q4K, &[&one[..], &one, &bytes[4..144]].concat(), 256);
    let expected = (0..256).map(|i| {
        let (part, scales) = (i / 32, &bytes[4..16]);
        let (scale, min) = match part {
            0..4 => (scales[part] & 63, scales[part + 4] & 63),
            _ => (
                scales[part + 4] & 15 | scales[part - 4] >> 6 << 4,
                scales[part + 4] >> 4 | scales[part] >> 6 << 4,
            ),
        };
        let byte = bytes[16 + part / 2 * 32 + i % 32];
        let q = if part % 2 == 0 { byte & 15 } else { byte >> 4 };
        f64::from(scale) * f64::from(q) - f64::from(min)
    });
    close(&q4, expected, 0.0);

    let q6 = embed(Format::Q6K, &[&bytes[..208], &one].concat(), 256);
    let expected = (0..256).map(|i| {
        let (half, within) = (i / 128, i % 128);
        let low = bytes[half * 64 + within % 64] >> (within / 64 * 4) & 15;
        let high = bytes[128 + half * 32 + within % 32] >> (within / 32 * 2) & 3;
        let scale = bytes[192 + i / 16] as i8;
        f64::from(scale) * (f64::from(low | high << 4) - 32.0)
    });
    close(&q6, expected, 0.0);
}

/// A layer of attention, alone: rows of sequences, turned by nothing.
struct Layer {
    device: Double,
    heads: Heads,
    pages: u32,
}

impl Layer {
    fn new(mut device: Double, queries: usize, heads: usize, width: usize) -> Self {
        let mut heads = Heads {
            memory: Buffer::EMPTY,
            queries,
            heads,
            width,
            layer: 1,
            layers: 2,
        };
        heads.memory = device.allocate(heads.page_bytes().unwrap() * 24).unwrap();
        Self {
            device,
            heads,
            pages: 0,
        }
    }

    /// Pages for so many positions, in an order that is none.
    fn pages(&mut self, positions: usize) -> Vec<u32> {
        let count = positions.div_ceil(Heads::PAGE) as u32;
        self.pages += count;
        (self.pages - count..self.pages)
            .map(|page| page * 7 % 24)
            .collect()
    }

    /// Reads rows of queries, keys and values at positions of sequences with pages.
    fn run(
        &mut self,
        rows: &[(u32, &[u32], &[f32])],
        window: usize,
        splits: Option<usize>,
    ) -> Vec<f32> {
        let Heads { queries, width, .. } = self.heads;
        let device = &mut self.device;
        let (mut pages, mut tables, mut positions, mut qkv) = (vec![], vec![], vec![], vec![]);
        for (position, own, row) in rows {
            tables.push(pages.len() as u32);
            pages.extend_from_slice(own);
            positions.push(*position);
            qkv.extend_from_slice(row);
        }
        let sequences = Sequences {
            rows: rows.len(),
            positions: up_words(device, &positions),
            tables: up_words(device, &tables),
            pages: up_words(device, &pages),
        };
        let half = rows.len() * width / 2;
        let qkv = up_floats(device, &qkv);
        let place = Place {
            qkv,
            q_norm: Buffer::EMPTY,
            k_norm: Buffer::EMPTY,
            cosines: up_floats(device, &vec![1.0; half]),
            sines: up_floats(device, &vec![0.0; half]),
            scale: 0.25,
            epsilon: 1e-6,
        };
        place.run(device, &sequences, &self.heads).unwrap();
        let y = device.allocate(rows.len() * queries * width * 4).unwrap();
        let parts = splits.map(|count| Parts {
            count,
            values: device
                .allocate(rows.len() * count * queries * width * 4)
                .unwrap(),
            sums: device.allocate(rows.len() * count * queries * 8).unwrap(),
        });
        let attention = Attention {
            qkv,
            y,
            window,
            parts,
        };
        attention.run(device, &sequences, &self.heads).unwrap();
        floats(device, y)
    }
}

#[test]
fn attention_is_a_softmax_over_what_a_row_sees_in_any_pieces_and_parts() {
    for (queries, heads, width, window) in [
        (3, 1, 64, usize::MAX),
        (4, 2, 16, 40),
        (14, 2, 32, 129),
        (2, 2, 256, usize::MAX),
        (9, 1, 48, 300),
    ] {
        let mut chance = Chance(4);
        let count = 300;
        let all = (queries + 2 * heads) * width;
        let numbers = chance.floats(count * all);
        let row = |position: usize| &numbers[position * all..][..all];
        let mut whole = Layer::new(Double::default(), queries, heads, width);
        let pages = whole.pages(count);
        let rows: Vec<_> = (0..count)
            .map(|at| (at as u32, &pages[..], row(at)))
            .collect();
        let found = whole.run(&rows, window, None);

        let half = |x: f32| f64::from(x);
        for at in [0_usize, 1, 31, 32, 127, 128, 200, 299] {
            for query in 0..queries {
                let head = query / (queries / heads);
                let key = |position: usize| &row(position)[(queries + head) * width..][..width];
                let value =
                    |position: usize| &row(position)[(queries + heads + head) * width..][..width];
                let seen = (at + 1).saturating_sub(window)..at + 1;
                let scores: Vec<f64> = seen
                    .clone()
                    .map(|position| {
                        let q = &row(at)[query * width..][..width];
                        let dot = q.iter().zip(key(position));
                        (dot.map(|(a, b)| half(*a) * half(*b)).sum::<f64>() * 0.25).exp()
                    })
                    .collect();
                let total: f64 = scores.iter().sum();
                let expected = (0..width).map(|i| {
                    let values = seen.clone().zip(&scores);
                    values
                        .map(|(p, score)| half(value(p)[i]) * score)
                        .sum::<f64>()
                        / total
                });
                let start = (at * queries + query) * width;
                // Keys and values are halves.
                close(&found[start..start + width], expected, 2e-3);
            }
        }

        // In pieces, in company, in parts, and backwards.
        for device in [Double::default(), Double::backwards()] {
            let mut pieces = Layer::new(device, queries, heads, width);
            let (own, other) = (pieces.pages(count), pieces.pages(200));
            let mut read = Vec::new();
            for (first, last, splits) in [(0, 1, Some(1)), (1, 140, None), (140, 299, Some(7))] {
                let rows = (first..last).map(|at| (at as u32, &own[..], row(at)));
                let nobody = (u32::MAX, &[][..], row(0));
                let company =
                    (first..last.min(200)).map(|at| (at as u32, &other[..], row(count - 1 - at)));
                let rows: Vec<_> = rows.chain([nobody]).chain(company).collect();
                let found = pieces.run(&rows, window, splits);
                read.extend_from_slice(&found[..(last - first) * queries * width]);
            }
            read.extend(pieces.run(&[(299, &own, row(299))], window, Some(3)));
            assert!(read == found, "{queries} {heads} {width} {window}");
        }
    }
}

#[test]
fn heads_are_normalised_and_turned() {
    let (mut device, mut chance) = (Double::default(), Chance(5));
    let width = 32;
    let (qkv, weight, angle) = (
        chance.floats(4 * width),
        chance.floats(width),
        chance.floats(16),
    );
    let cosines: Vec<f32> = angle.iter().map(|x| x.cos()).collect();
    let sines: Vec<f32> = angle.iter().map(|x| x.sin()).collect();
    let mut heads = Heads {
        memory: Buffer::EMPTY,
        queries: 2,
        heads: 1,
        width,
        layer: 0,
        layers: 1,
    };
    heads.memory = device.allocate(heads.page_bytes().unwrap()).unwrap();
    let rows = up_floats(&mut device, &qkv);
    let place = Place {
        qkv: rows,
        q_norm: up_floats(&mut device, &weight),
        k_norm: up_floats(&mut device, &weight),
        cosines: up_floats(&mut device, &cosines),
        sines: up_floats(&mut device, &sines),
        scale: 0.5,
        epsilon: 1e-6,
    };
    let sequences = Sequences {
        rows: 1,
        positions: up_words(&mut device, &[3]),
        tables: up_words(&mut device, &[0]),
        pages: up_words(&mut device, &[0]),
    };
    place.run(&mut device, &sequences, &heads).unwrap();
    let turned = |head: usize, scale: f64| {
        let head = &qkv[head * width..][..width];
        let square: f64 = head.iter().map(|x| f64::from(*x).powi(2)).sum();
        let norm = 1.0 / (square / width as f64 + 1e-6).sqrt();
        let x: Vec<f64> = head
            .iter()
            .zip(&weight)
            .map(|(x, w)| f64::from(x * w) * norm * scale)
            .collect();
        let pairs = (0..width).map(|i| {
            let (cosine, sine) = (f64::from(cosines[i % 16]), f64::from(sines[i % 16]));
            match i < 16 {
                true => x[i] * cosine - x[i + 16] * sine,
                false => x[i] * cosine + x[i - 16] * sine,
            }
        });
        pairs.collect::<Vec<_>>()
    };
    let found = floats(&mut device, rows);
    close(&found[..32], turned(0, 0.5), 1e-6);
    close(&found[32..64], turned(1, 0.5), 1e-6);
    let page = heads.memory;
    let memory = words(&mut device, page);
    let half = |word: u32, side: usize| {
        let bits = (word >> (16 * side)) as u16;
        let magnitude = f32::from_bits(u32::from(bits & 0x7fff) << 13) * 2_f32.powi(112);
        if bits & 0x8000 == 0 {
            magnitude
        } else {
            -magnitude
        }
    };
    let slot = |at: usize| -> Vec<f32> {
        (0..width)
            .map(|i| half(memory[(at * width + i) / 2], i % 2))
            .collect()
    };
    close(&slot(3), turned(2, 1.0), 2e-3);
    close(&slot(32 + 3), qkv[96..].iter().map(|x| f64::from(*x)), 1e-3);
}

#[test]
fn the_likeliest_come_first_and_of_equals_the_first() {
    let mut device = Double::default();
    let width = 300;
    let mut logits = vec![0.0; 3 * width];
    (logits[7], logits[250], logits[3]) = (5.0, 5.0, 4.0);
    (logits[width], logits[2 * width - 1]) = (f32::NAN, 1.0);
    logits[2 * width..].fill(f32::NEG_INFINITY);
    let [best, tokens] = [(); 2].map(|()| device.allocate(3 * 4 * 4).unwrap());
    let choose = Choose {
        logits: up_floats(&mut device, &logits),
        best,
        tokens,
        rows: 3,
        width,
        count: 4,
    };
    choose.run(&mut device).unwrap();
    let (best, tokens) = (floats(&mut device, best), words(&mut device, tokens));
    assert_eq!(tokens[..4], [7, 250, 3, 0]);
    assert_eq!(best[..4], [5.0, 5.0, 4.0, 0.0]);
    assert!(best[4..8].iter().all(|logit| logit.is_nan()));
    assert!(best[8..].iter().all(|logit| *logit == f32::NEG_INFINITY));
}

#[test]
fn what_reaches_beyond_a_buffer_is_refused() {
    let mut device = Double::default();
    let small = up_floats(&mut device, &[1.0; 64]);
    let norm = |x, y, weight, rows| Norm {
        x,
        weight,
        y,
        sources: Buffer::EMPTY,
        rows,
        width: 64,
        epsilon: 0.0,
        add: false,
    };
    norm(small, small, small, 1).run(&mut device).unwrap();
    let error = norm(small, small, small, 2).run(&mut device).unwrap_err();
    assert_eq!(
        error.to_string(),
        "kernel rms_norm: byte 260 of a slice of 256"
    );
    let short = small.part(4, 252).unwrap();
    let error = norm(small, short, small, 1).run(&mut device).unwrap_err();
    assert_eq!(
        error.to_string(),
        "kernel rms_norm: byte 256 of a slice of 252"
    );
    assert!(small.part(1, 256).is_err());
    assert!(device.upload(short, &[0; 253]).is_err());
    assert!(device.download(Buffer::EMPTY, &mut [0]).is_err());
    // Of another device.
    assert!(Double::default().upload(small, &[0]).is_err());
    // The device still works.
    norm(small, small, small, 1).run(&mut device).unwrap();
}

#[test]
fn a_token_that_is_none_and_memory_that_was_never_written_are_found() {
    let mut device = Double::default();
    let rows: Vec<u8> = [1.0_f32; 64].iter().flat_map(|x| x.to_le_bytes()).collect();
    let matrix = Matrix::upload(&mut device, Format::F32, [2, 32], &rows).unwrap();
    let y = device.allocate(128).unwrap();
    let token = up_words(&mut device, &[2]);
    let error = matrix.embed(&mut device, token, 1, 1.0, y).unwrap_err();
    assert_eq!(
        error.to_string(),
        "kernel embed_f32: byte 260 of a slice of 256"
    );
    assert!(floats(&mut device, y).iter().all(|x| x.is_nan()));
}

#[test]
fn launches_that_no_kernel_has_are_refused() {
    let mut device = Double::default();
    let mut launch = |kernel, grid, arguments: &[Arg]| {
        let launch = Launch {
            kernel,
            grid,
            arguments,
        };
        device.launch(&launch).map_err(|error| error.to_string())
    };
    let number = Arg::U32(1);
    let refused = |text: &str| Err(text.to_owned());
    assert_eq!(
        launch("nothing", [1, 1, 1], &[]),
        refused("kernel nothing: there is no such kernel")
    );
    assert_eq!(
        launch("gate", [1, 1, 1], &[number; 4]),
        refused("kernel gate: the kernel has other arguments")
    );
    assert_eq!(
        launch("gate", [1, 65536, 1], &[]),
        refused("kernel gate: a grid of [1, 65536, 1] blocks is too large")
    );
    assert_eq!(launch("gate", [0, 1, 1], &[]), Ok(()));
}

#[test]
fn matrices_of_other_sizes_than_their_bytes_are_refused() {
    let mut device = Double::default();
    for (format, shape, bytes) in [
        (Format::F32, [1, 32], 127),
        (Format::F32, [1, 33], 132),
        (Format::Q8_0, [1, 16], 17),
        (Format::Q4K, [1, 128], 72),
        (Format::Q6K, [2, 256], 210),
        (Format::Bf16, [usize::MAX, 32], 64),
    ] {
        assert!(Matrix::upload(&mut device, format, shape, &vec![0; bytes]).is_err());
    }
    assert_eq!(device.crossings(), Crossings::default());
}

#[test]
fn what_is_repeated_is_what_was_kept_and_reads_memory_as_it_is_then() {
    let mut device = Double::default();
    let [x, y] = [(); 2].map(|()| up_floats(&mut device, &[1.0; 64]));
    let gate = Gate {
        x,
        y,
        rows: 1,
        width: 32,
        gelu: false,
    };
    device.repeat(1, &mut |device| gate.run(device)).unwrap();
    let before = floats(&mut device, y);
    device.upload(x, &[0; 256]).unwrap();
    device.repeat(1, &mut |_| panic!("it was kept")).unwrap();
    assert_eq!(floats(&mut device, y)[..32], [0.0; 32]);
    assert_ne!(before[0], 0.0);
    let crossing = device.repeat(2, &mut |device| device.upload(x, &[0]));
    assert!(crossing.is_err());
}
