//! Threads that share the steps of one computation.
//!
//! A step has parts, and whoever is free takes the next one. Between steps helpers
//! spin for a moment and then sleep: a step of a model takes some microseconds,
//! less than it takes to wake a thread. Nothing is decided by who does which part.

use std::num::NonZero;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::{hint, io, ptr};

use super::level::Cpu;

/// The thread that owns it, and its helpers, which end with it.
#[derive(Debug)]
pub(crate) struct Pool {
    cpu: Cpu,
    step: Arc<Step>,
    helpers: Vec<JoinHandle<()>>,
}

impl Pool {
    /// As many threads as there are processors, but one for what is `small`.
    pub(crate) fn new(small: bool) -> io::Result<Self> {
        let all = thread::available_parallelism().map_or(1, NonZero::get);
        Self::with(if small { 1 } else { all }, Cpu::detect())
    }

    /// With this many threads, the caller's included.
    pub(crate) fn with(threads: usize, cpu: Cpu) -> io::Result<Self> {
        let step = Arc::new(Step::default());
        let helpers = (1..threads).map(|index| {
            let step = Arc::clone(&step);
            let name = format!("engine-{index}");
            thread::Builder::new().name(name).spawn(move || step.help())
        });
        Ok(Self {
            cpu,
            helpers: helpers.collect::<Result<_, _>>()?,
            step,
        })
    }

    pub(crate) fn threads(&self) -> usize {
        self.helpers.len().saturating_add(1)
    }

    /// What kernels are run with.
    pub(crate) fn cpu(&self) -> Cpu {
        self.cpu
    }

    /// Does `work` for each number below `count`, once.
    pub(crate) fn each(&mut self, count: usize, work: impl Fn(usize) + Sync) {
        if self.helpers.is_empty() || count < 2 {
            (0..count).for_each(work);
        } else {
            self.step.run(count, &work);
        }
    }

    /// Does `work` for each item, once.
    pub(crate) fn each_mut<T: Send>(
        &mut self,
        items: &mut [T],
        work: impl Fn(usize, &mut T) + Sync,
    ) {
        let grid = Grid::new(items);
        self.each(grid.length, |index| {
            // SAFETY: each index comes once, so no two of these overlap.
            if let [item] = unsafe { grid.part(index..index.saturating_add(1)) } {
                work(index, item);
            }
        });
    }

    /// Does `work` for blocks of columns of tables, each with rows of its width; it
    /// is given the number of the table and the first of its columns.
    pub(crate) fn columns<'a>(
        &mut self,
        tables: impl Iterator<Item = (&'a mut [f32], usize)>,
        block: usize,
        work: impl Fn(usize, usize, Columns<'_>) + Sync,
    ) {
        let grids: Vec<_> = tables
            .map(|(table, width)| (Grid::new(table), width))
            .collect();
        let blocks = |(index, (_, width)): (usize, &(_, usize))| {
            (0..*width)
                .step_by(block.max(1))
                .map(move |first| (index, first))
        };
        let blocks: Vec<_> = grids.iter().enumerate().flat_map(blocks).collect();
        self.each(blocks.len(), |part| {
            let Some((table, first)) = blocks.get(part).copied() else {
                return;
            };
            if let Some((grid, width)) = grids.get(table) {
                // Each block comes once: no two of these overlap.
                let columns = Columns {
                    grid,
                    width: *width,
                    columns: first..first.saturating_add(block).min(*width),
                };
                work(table, first, columns);
            }
        });
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.step.over.store(true, Ordering::SeqCst);
        self.step.wake();
        for helper in self.helpers.drain(..) {
            // One that panicked has said so.
            drop(helper.join());
        }
    }
}

/// Some columns of a table, which nobody else has.
#[derive(Debug)]
pub(crate) struct Columns<'a> {
    grid: &'a Grid<'a, f32>,
    width: usize,
    columns: Range<usize>,
}

impl Columns<'_> {
    /// Their part of a row; nothing beyond the last one.
    pub(crate) fn row(&mut self, row: usize) -> &mut [f32] {
        let start = row.saturating_mul(self.width);
        let part = start.saturating_add(self.columns.start)..start.saturating_add(self.columns.end);
        // SAFETY: `Pool::columns` gives each column to one of these alone, which is
        // borrowed for as long as the part is.
        unsafe { self.grid.part(part) }
    }
}

/// Items that are given out in parts.
#[derive(Debug)]
struct Grid<'a, T> {
    first: *mut T,
    length: usize,
    items: std::marker::PhantomData<&'a mut [T]>,
}

// SAFETY: what it gives out is `&mut [T]`, which may go to other threads if `T` may.
unsafe impl<T: Send> Sync for Grid<'_, T> {}

impl<'a, T> Grid<'a, T> {
    fn new(items: &'a mut [T]) -> Self {
        Self {
            first: items.as_mut_ptr(),
            length: items.len(),
            items: std::marker::PhantomData,
        }
    }

    /// Items of a range, none if it is not inside.
    ///
    /// # Safety
    ///
    /// No other part that is still in use may overlap.
    #[expect(clippy::mut_from_ref, reason = "the caller sees to that")]
    unsafe fn part(&self, range: Range<usize>) -> &mut [T] {
        match range.end <= self.length && range.start <= range.end {
            // SAFETY: inside the slice that `new` took, and not overlapping.
            true => unsafe {
                std::slice::from_raw_parts_mut(self.first.add(range.start), range.len())
            },
            false => &mut [],
        }
    }
}

/// What helpers wait for.
#[derive(Debug, Default)]
struct Step {
    /// Odd while parts of a step may be taken; one more at each change.
    epoch: AtomicUsize,
    /// A `Job`, while the epoch is odd.
    job: AtomicPtr<()>,
    /// The next part.
    next: AtomicUsize,
    /// Helpers that may be at work on one.
    inside: AtomicUsize,
    /// Helpers that must be woken.
    asleep: AtomicUsize,
    over: AtomicBool,
    bed: Mutex<()>,
    bell: Condvar,
}

/// A step, on the stack of the thread that runs it.
struct Job<'a> {
    count: usize,
    work: &'a (dyn Fn(usize) + Sync),
}

impl Step {
    /// Runs a step, with the helpers that come in time.
    fn run(&self, count: usize, work: &(dyn Fn(usize) + Sync)) {
        let job = Job { count, work };
        self.next.store(0, Ordering::Relaxed);
        self.job
            .store((&raw const job).cast_mut().cast(), Ordering::Relaxed);
        self.epoch.fetch_add(1, Ordering::SeqCst);
        // Even if a part panics nobody may be left with the job.
        let _close = Close(self);
        if self.asleep.load(Ordering::SeqCst) > 0 {
            self.wake();
        }
        self.take(&job);
    }

    /// Does parts until none is left.
    fn take(&self, job: &Job<'_>) {
        loop {
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            if index >= job.count {
                return;
            }
            (job.work)(index);
        }
    }

    fn help(&self) {
        let mut seen = 0;
        while !self.over.load(Ordering::SeqCst) {
            let epoch = self.epoch.load(Ordering::SeqCst);
            if epoch == seen || epoch.is_multiple_of(2) {
                self.wait(epoch);
                continue;
            }
            seen = epoch;
            self.inside.fetch_add(1, Ordering::SeqCst);
            let _leave = Leave(&self.inside);
            // Whoever ends a step changes the epoch first and then looks who is
            // inside; so either this sees the change, or that sees this.
            if self.epoch.load(Ordering::SeqCst) == epoch {
                let job: *const Job<'_> = self.job.load(Ordering::Relaxed).cast();
                // SAFETY: by the above `run` waits for this helper before the job
                // goes, and it was there before the epoch became odd.
                self.take(unsafe { &*job });
            }
        }
    }

    /// Returns when the epoch may have changed.
    fn wait(&self, epoch: usize) {
        for _ in 0..SPINS {
            if self.epoch.load(Ordering::Relaxed) != epoch {
                return;
            }
            hint::spin_loop();
        }
        self.asleep.fetch_add(1, Ordering::SeqCst);
        let mut bed = self.bed.lock().unwrap_or_else(PoisonError::into_inner);
        while self.epoch.load(Ordering::SeqCst) == epoch && !self.over.load(Ordering::SeqCst) {
            bed = self.bell.wait(bed).unwrap_or_else(PoisonError::into_inner);
        }
        drop(bed);
        self.asleep.fetch_sub(1, Ordering::SeqCst);
    }

    fn wake(&self) {
        // Whoever is about to sleep holds the lock until it hears the bell.
        drop(self.bed.lock().unwrap_or_else(PoisonError::into_inner));
        self.bell.notify_all();
    }
}

/// Ends a step when dropped.
struct Close<'a>(&'a Step);

impl Drop for Close<'_> {
    fn drop(&mut self) {
        self.0.epoch.fetch_add(1, Ordering::SeqCst);
        let mut spins = 0_u32;
        while self.0.inside.load(Ordering::SeqCst) > 0 {
            spins = spins.saturating_add(1);
            match spins > SPINS {
                true => thread::yield_now(),
                false => hint::spin_loop(),
            }
        }
        self.0.job.store(ptr::null_mut(), Ordering::Relaxed);
    }
}

/// Says that a helper is out when dropped.
struct Leave<'a>(&'a AtomicUsize);

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Some hundred microseconds.
const SPINS: u32 = 5_000;

#[cfg(test)]
#[expect(clippy::as_conversions, reason = "numbers of a test")]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_done_once_however_many_help() {
        for threads in [1, 2, 7] {
            let mut pool = Pool::with(threads, Cpu::detect()).unwrap();
            for count in [0, 1, 2, 1000] {
                let mut items = vec![0; count];
                pool.each_mut(&mut items, |index, item| *item += index + 1);
                assert!(items.iter().copied().eq(1..=count));
            }
        }
    }

    #[test]
    fn steps_follow_one_another_without_end() {
        let mut pool = Pool::with(4, Cpu::detect()).unwrap();
        let mut items = vec![0_u32; 16];
        for round in 1..20_000 {
            pool.each_mut(&mut items, |_, item| *item += 1);
            assert_eq!(items, [round; 16]);
        }
    }

    #[test]
    fn columns_are_those_of_the_table() {
        let mut pool = Pool::with(3, Cpu::detect()).unwrap();
        let (mut wide, mut narrow) = ([0.0; 21], [0.0; 4]);
        let tables = [(wide.as_mut_slice(), 7), (narrow.as_mut_slice(), 2)];
        pool.columns(tables.into_iter(), 3, |table, first, mut columns| {
            for row in 0..4 {
                for (index, number) in (first..).zip(columns.row(row)) {
                    *number += (100 * table + 10 * row + index) as f32;
                }
            }
        });
        for (index, number) in wide.into_iter().enumerate() {
            assert_eq!(number, (10 * (index / 7) + index % 7) as f32);
        }
        assert_eq!(narrow, [100.0, 101.0, 110.0, 111.0]);
    }

    #[test]
    fn a_panic_of_a_part_reaches_the_caller_and_the_pool_lives() {
        let mut pool = Pool::with(2, Cpu::detect()).unwrap();
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            pool.each(2, |_| {
                if thread::current().name() != Some("engine-1") {
                    panic!("a part fails");
                }
            });
        }));
        // The helper may have taken both.
        drop(done);
        let mut items = [0; 8];
        pool.each_mut(&mut items, |_, item| *item = 1);
        assert_eq!(items, [1; 8]);
    }
}
