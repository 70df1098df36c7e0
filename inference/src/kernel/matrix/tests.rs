//! Products of every format, against sums in f64.

#![expect(clippy::as_conversions, reason = "numbers of a test")]

use super::super::input::Quantise;
use super::*;

const FORMATS: [Format; 7] = [
    Format::Bf16,
    Format::F8,
    Format::F16,
    Format::F32,
    Format::Q4K,
    Format::Q6K,
    Format::Q8_0,
];

/// Bytes of a row, whatever its format makes of them, but for scales that are none.
fn bytes(format: Format, seed: usize, row: &mut [u8]) {
    let mut state = seed as u64 + 1;
    for byte in row.iter_mut() {
        state = state
            .wrapping_mul(0x5851_f42d_4c95_7f2d)
            .wrapping_add(0x1405_7b7e_f767_814f);
        *byte = (state >> 56) as u8;
    }
    let (_, size) = format.block();
    for block in row.chunks_mut(size) {
        // A half between 2^-15 and 2^-7 in size, or a number between 1 and 2.
        match format {
            Format::Q8_0 => block[1] &= 0x9f,
            Format::Q4K => {
                block[1] &= 0x9f;
                block[3] &= 0x9f;
            }
            Format::Q6K => block[209] &= 0x9f,
            Format::F16 => block[1] = block[1] & 0x83 | 0x3c,
            Format::Bf16 => (block[0], block[1]) = (block[0] | 0x80, 0x3f),
            Format::F32 => (block[2], block[3]) = (block[2] | 0x80, 0x3f),
            Format::F8 => {
                (block[2], block[3]) = (block[2] | 0x80, 0x3f);
                let numbers = block[4..].iter_mut();
                numbers.for_each(|x| *x &= if f8::is_number(*x) { 0xff } else { 0xfe });
            }
        }
    }
}

fn matrix(format: Format, shape: [usize; 2]) -> Matrix {
    let mut pool = Pool::with(2, Cpu::detect()).unwrap();
    let read = |row, to: &mut [u8]| {
        bytes(format, row, to);
        Ok::<_, ()>(())
    };
    Matrix::pack(&mut pool, format, shape, read).unwrap()
}

fn rows(cpu: Cpu, matrix: &Matrix, count: usize) -> Vec<Row> {
    let number = |row: usize, i: usize| ((i * 7919 + row * 104_729) as f32 * 0.618).sin();
    let row = |row| {
        let mut row = Row {
            numbers: (0..matrix.inputs()).map(|i| number(row, i)).collect(),
            ..Row::default()
        };
        cpu.run(Quantise {
            forms: matrix.forms(),
            row: &mut row,
        });
        row
    };
    (0..count).map(row).collect()
}

fn product(cpu: Cpu, threads: usize, matrix: &Matrix, rows: &[Row]) -> Vec<f32> {
    let mut pool = Pool::with(threads, cpu).unwrap();
    let mut y = vec![0.0; rows.len() * matrix.outputs()];
    let table = [(y.as_mut_slice(), matrix.outputs())];
    pool.columns(table.into_iter(), 32, |_, first, mut columns| {
        let outputs = first..(first + 32).min(matrix.outputs());
        matrix.multiply(cpu, rows, outputs, &mut columns, 0, Then::Set(&[]));
    });
    y
}

#[test]
fn products_are_those_of_the_unpacked_rows() {
    for format in FORMATS {
        let cpu = Cpu::detect();
        let matrix = matrix(format, [37, 512]);
        let rows = rows(cpu, &matrix, 15);
        let found = product(cpu, 1, &matrix, &rows);
        let mut weights = vec![0.0; 512];
        for output in 0..37 {
            matrix.row(output, &mut weights);
            for (index, row) in rows.iter().enumerate() {
                // What the row is after it was quantised.
                let numbers: Vec<f64> = match (matrix.forms().by_32, matrix.forms().by_256) {
                    (true, _) => back(&row.by_32, 32),
                    (_, true) => back(&row.by_256, 256),
                    _ => row.numbers.iter().map(|x| f64::from(*x)).collect(),
                };
                let terms = numbers.iter().zip(&weights).map(|(x, w)| x * f64::from(*w));
                let (sum, size) =
                    terms.fold((0.0, 0.0), |(sum, size), x| (sum + x, size + x.abs()));
                let error = (f64::from(found[index * 37 + output]) - sum).abs() / size;
                assert!(error < 1e-6, "{format:?} {output} {index}: {error}");
            }
        }
    }
}

/// The numbers that a quantised row stands for.
fn back(row: &super::super::input::Quantised, block: usize) -> Vec<f64> {
    let bytes = row.words.iter().flat_map(|word| word.to_le_bytes());
    let scales = row
        .scales
        .iter()
        .flat_map(|scale| std::iter::repeat_n(*scale, block));
    bytes
        .zip(scales)
        .map(|(q, scale)| f64::from(q as i8) * f64::from(scale))
        .collect()
}

#[test]
fn a_quantised_row_is_near_the_row() {
    let cpu = Cpu::detect();
    for format in [Format::Q4K, Format::Q8_0] {
        let matrix = matrix(format, [16, 512]);
        let row = &rows(cpu, &matrix, 1)[0];
        let near = match format {
            Format::Q8_0 => back(&row.by_32, 32),
            _ => back(&row.by_256, 256),
        };
        for (near, x) in near.iter().zip(&row.numbers) {
            assert!((near - f64::from(*x)).abs() < 0.5 / 127.0 + 1e-6);
        }
    }
}

#[test]
fn a_row_gives_the_same_bits_alone_in_any_thread_on_any_level() {
    for format in FORMATS {
        let matrix = matrix(format, [75, 512]);
        let all = rows(Cpu::PORTABLE, &matrix, 15);
        let expected = product(Cpu::PORTABLE, 1, &matrix, &all);
        for cpu in Cpu::all() {
            let again = rows(cpu, &matrix, 15);
            let bits = |y: Vec<f32>| y.into_iter().map(f32::to_bits).collect::<Vec<_>>();
            assert!(
                bits(product(cpu, 3, &matrix, &again)) == bits(expected.clone()),
                "{format:?} {cpu:?}"
            );
            for (row, expected) in again.chunks(1).zip(expected.chunks(75)) {
                assert!(
                    product(cpu, 1, &matrix, row) == expected,
                    "{format:?} {cpu:?}"
                );
            }
        }
    }
}

#[test]
fn what_is_not_a_number_stays_one() {
    for format in FORMATS {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let matrix = matrix(format, [16, 256]);
            let mut row = Row {
                numbers: vec![1.0; 256],
                ..Row::default()
            };
            row.numbers[77] = bad;
            for cpu in Cpu::all() {
                cpu.run(Quantise {
                    forms: matrix.forms(),
                    row: &mut row,
                });
                let y = product(cpu, 1, &matrix, std::slice::from_ref(&row));
                assert!(y.iter().all(|y| !y.is_finite()), "{format:?} {bad}");
            }
        }
    }
}

#[test]
fn blocks_mean_what_they_mean_to_ggml() {
    /// Made by reference/quants.py.
    const REFERENCE: &str = include_str!("../../../reference/quants.json");

    let cases: serde_json::Value = serde_json::from_str(REFERENCE).unwrap();
    for (name, format) in [
        ("Q8_0", Format::Q8_0),
        ("Q4_K", Format::Q4K),
        ("Q6_K", Format::Q6K),
    ] {
        let hex = cases[name]["block"].as_str().unwrap();
        let block: Vec<u8> = (0..hex.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
            .collect();
        let expected = cases[name]["numbers"].as_array().unwrap();
        let mut pool = Pool::with(1, Cpu::detect()).unwrap();
        let read = |_, to: &mut [u8]| {
            to.copy_from_slice(&block);
            Ok::<_, ()>(())
        };
        let matrix = Matrix::pack(&mut pool, format, [18, expected.len()], read).unwrap();
        let mut found = vec![0.0; expected.len()];
        matrix.row(17, &mut found);
        for (found, expected) in found.iter().zip(expected) {
            let difference = f64::from(*found) - expected.as_f64().unwrap();
            assert!(difference.abs() < 2e-6, "{name}: {found} is not {expected}");
        }
    }
}

#[test]
fn rows_come_out_as_the_file_had_them() {
    for format in FORMATS {
        let (found, written) = matrix(format, [37, 512]).file();
        let mut expected = vec![0; written.len()];
        let rows = expected.chunks_mut(format.row_bytes(512).unwrap());
        assert_eq!(rows.len(), 37);
        rows.enumerate()
            .for_each(|(row, to)| bytes(format, row, to));
        assert_eq!((found, written), (format, expected));
    }
}
