//! The matrix product of a layer, a row at a time.
//!
//! A row of the result depends on its own row of input alone, down to the bit: how
//! many others there are and how many threads work change nothing. The library's
//! product chooses its order of additions by the number of rows, and is slower up to
//! a hundred of them.

use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor, bail};
use rayon::iter::{IndexedParallelIterator as _, ParallelIterator as _};
use rayon::slice::{ParallelSlice as _, ParallelSliceMut as _};

/// A matrix `[outputs, inputs]`, packed in the order in which it is read: in blocks
/// of [`BLOCK`] outputs, one input after the other. Zeros fill up the last block.
#[derive(Debug)]
pub(super) struct Product {
    packed: Vec<[f32; BLOCK]>,
    outputs: usize,
    inputs: usize,
}

impl Product {
    pub(super) fn new(weight: &Tensor) -> candle_core::Result<Self> {
        let (outputs, inputs) = weight.dims2()?;
        let numbers = weight.flatten_all()?.to_vec1::<f32>()?;
        let blocks = outputs.div_ceil(BLOCK);
        let mut packed = vec![[0.0; BLOCK]; blocks.saturating_mul(inputs)];
        let rows = numbers.chunks(inputs.saturating_mul(BLOCK));
        for (block, rows) in packed.chunks_mut(inputs).zip(rows) {
            for (lane, row) in rows.chunks(inputs).enumerate() {
                let column = block.iter_mut().filter_map(|outputs| outputs.get_mut(lane));
                column.zip(row).for_each(|(place, number)| *place = *number);
            }
        }
        Ok(Self {
            packed,
            outputs,
            inputs,
        })
    }

    /// One row of the result for each row of `x`.
    pub(super) fn apply(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        x.apply_op1_no_bwd(self)
    }

    fn multiply(&self, x: &[f32]) -> Vec<f32> {
        let rows = x.len().checked_div(self.inputs).unwrap_or(0).max(1);
        let blocks = self.packed.par_chunks_exact(self.inputs);
        // By blocks first, so that each is read once, by one thread.
        let mut results = vec![[0.0; BLOCK]; blocks.len().saturating_mul(rows)];
        let work = self.inputs.saturating_mul(rows);
        blocks
            .zip(results.par_chunks_exact_mut(rows))
            .with_min_len(WORTH_A_THREAD.div_ceil(work.max(1)))
            .for_each(|(block, results)| {
                for (x, result) in x.chunks_exact(self.inputs).zip(results) {
                    sum(block, x, result);
                }
            });

        let mut y = Vec::with_capacity(results.len().saturating_mul(BLOCK));
        for row in 0..rows {
            let end = y.len().saturating_add(self.outputs);
            for part in results.iter().skip(row).step_by(rows) {
                y.extend_from_slice(part);
            }
            y.truncate(end);
        }
        y
    }
}

/// One row of input times a block. The sums lie side by side, which the compiler
/// turns into vector instructions; each is taken in the order of the inputs.
fn sum(block: &[[f32; BLOCK]], x: &[f32], result: &mut [f32; BLOCK]) {
    let mut sums = [0.0; BLOCK];
    for (x, weights) in x.iter().zip(block) {
        for (sum, weight) in sums.iter_mut().zip(weights) {
            *sum += x * weight;
        }
    }
    *result = sums;
}

impl CustomOp1 for Product {
    fn name(&self) -> &'static str {
        "product"
    }

    fn cpu_fwd(
        &self,
        storage: &CpuStorage,
        layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (rows, inputs) = layout.shape().dims2()?;
        let range = layout.contiguous_offsets();
        let x = range.and_then(|(start, end)| storage.as_slice::<f32>().ok()?.get(start..end));
        match x {
            Some(x) if inputs == self.inputs => {
                let shape = Shape::from((rows, self.outputs));
                Ok((CpuStorage::F32(self.multiply(x)), shape))
            }
            _ => bail!(
                "rows of {inputs} numbers, expected {} in order",
                self.inputs
            ),
        }
    }
}

const BLOCK: usize = 32;

/// Steps below which a second thread costs more than it brings: some 10 µs.
const WORTH_A_THREAD: usize = 4096;

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "numbers of a test")]
mod tests {
    use super::*;
    use candle_core::Device;

    /// Made-up numbers between -1 and 1.
    fn numbers(rows: usize, columns: usize) -> Tensor {
        let count = u32::try_from(rows * columns).unwrap();
        let number = |i| (f64::from(i) * 0.618).sin();
        let numbers: Vec<f64> = (0..count).map(number).collect();
        let tensor = Tensor::from_vec(numbers, (rows, columns), &Device::Cpu).unwrap();
        tensor.to_dtype(candle_core::DType::F32).unwrap()
    }

    #[test]
    fn it_is_the_product_for_every_size() {
        for (rows, inputs, outputs) in [(1, 8, 4), (3, 7, 65), (5, 200, 33), (2, 1, 1), (9, 64, 64)]
        {
            let (x, weight) = (numbers(rows, inputs), numbers(outputs, inputs));
            let found = Product::new(&weight).unwrap().apply(&x).unwrap();
            let expected = x.matmul(&weight.t().unwrap()).unwrap();
            let difference = found.sub(&expected).unwrap().abs().unwrap();
            let most = difference.max_all().unwrap().to_scalar::<f32>().unwrap();
            assert!(most < 1e-4, "{rows} {inputs} {outputs}: {most}");
        }
    }

    #[test]
    fn a_row_gives_the_same_bits_alone_and_with_many_threads() {
        let product = Product::new(&numbers(512, 300)).unwrap();
        let x = numbers(40, 300);
        let all = product.apply(&x).unwrap().to_vec2::<f32>().unwrap();
        for threads in [1, 4] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            let again = pool.build().unwrap().install(|| product.apply(&x).unwrap());
            assert_eq!(again.to_vec2::<f32>().unwrap(), all);
        }
        let row = product.apply(&x.narrow(0, 17, 1).unwrap()).unwrap();
        assert_eq!(row.to_vec2::<f32>().unwrap(), all[17..18]);
    }

    #[test]
    fn rows_of_another_width_are_refused() {
        let error = Product::new(&numbers(4, 8)).unwrap().apply(&numbers(1, 9));
        let message = error.unwrap_err().to_string();
        assert!(
            message.contains("rows of 9 numbers, expected 8 in order"),
            "{message}"
        );
    }
}
