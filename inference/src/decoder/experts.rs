//! A mixture of experts: each token is given to a few networks of many.
//!
//! Rows are brought together by expert, and only experts that are asked are read. A
//! row's choice and the order in which its sums are added are its own, whoever else
//! asks the same expert.

use super::feed::Gated;
use super::part::Parts;
use super::shape::{Kind, Mixture, Router, Rule, Shape};
use super::step::{Workspace, part_of};
use crate::error::LoadError;
use crate::kernel::input::{Forms, Quantise, Row};
use crate::kernel::level::Cpu;
use crate::kernel::pool::Pool;
use crate::kernel::row::{Activation, Gated as Gate, Sigmoid, Softmax};
use crate::linear::{Linear, Share};

/// Router, experts, and the network for all tokens.
#[derive(Debug)]
pub(super) struct Experts {
    router: Linear,
    /// What is added to scores for the choice alone; empty if nothing is.
    correction: Vec<f32>,
    rule: Rule,
    used: usize,
    inner: usize,
    experts: Vec<Expert>,
    shared: Option<Gated>,
    /// How much of it a token gets.
    shared_gate: Option<Linear>,
}

#[derive(Debug)]
struct Expert {
    gate_up: Linear,
    down: Linear,
}

/// Room for what is computed on the way.
#[derive(Debug, Default)]
pub(super) struct Room {
    scores: Vec<f32>,
    gate: Vec<f32>,
    /// Of each row, one after the other.
    picks: Vec<Pick>,
    /// Picks by their experts.
    order: Vec<usize>,
    rows: Vec<Row>,
    wide: Vec<f32>,
    sums: Vec<f32>,
}

/// An expert that a row asks.
#[derive(Clone, Copy, Debug, Default)]
struct Pick {
    expert: usize,
    weight: f32,
    /// Among the rows of all experts.
    place: usize,
}

impl Experts {
    pub(super) fn load(parts: &mut Parts<'_>, mixture: &Mixture) -> Result<Self, LoadError> {
        let hidden = parts.shape.hidden;
        let (name, [gate, up, down]) = match parts.shape.family.kind {
            Kind::Mixture(Router::Mixtral) => ("block_sparse_moe", ["w1", "w3", "w2"]),
            _ => ("mlp", ["gate_proj", "up_proj", "down_proj"]),
        };
        let router = parts.linear(&format!("{name}.gate.weight"), [mixture.count, hidden])?;
        let correction = match mixture.rule.sigmoid {
            true => parts.vector("mlp.gate.e_score_correction_bias", mixture.count)?,
            false => Vec::new(),
        };
        let mut experts = Vec::new();
        for index in 0..mixture.count {
            let mut matrix = |part: &str, shape| {
                parts.matrix(&format!("{name}.experts.{index}.{part}.weight"), shape)
            };
            let into = [mixture.inner, hidden];
            experts.push(Expert {
                gate_up: Linear::new(vec![matrix(gate, into)?, matrix(up, into)?], Vec::new())?,
                down: Linear::new(vec![matrix(down, [hidden, mixture.inner])?], Vec::new())?,
            });
        }
        let (mut shared, mut shared_gate) = (None, None);
        if let Some(inner) = mixture.shared {
            let gated = parts.shape.family.kind == Kind::Mixture(Router::Qwen2);
            let name = if gated {
                "mlp.shared_expert"
            } else {
                "mlp.shared_experts"
            };
            shared = Some(Gated::load(parts, name, inner)?);
            if gated {
                // A vector, or a matrix of one row.
                let name = parts.name("mlp.shared_expert_gate.weight");
                let whole = parts.weights.shape(&name).map(<[usize]>::to_vec);
                let whole = whole.filter(|whole| whole.len() == 1);
                let whole = whole.unwrap_or(vec![1, hidden]);
                let gate = parts
                    .weights
                    .part(parts.pool, &name, &whole, [1, hidden], |row| row)?;
                shared_gate = Some(Linear::new(vec![gate], Vec::new())?);
            }
        }
        Ok(Self {
            router,
            correction,
            rule: mixture.rule,
            used: mixture.used,
            inner: mixture.inner,
            experts,
            shared,
            shared_gate,
        })
    }

    /// The forms of rows that it needs.
    pub(super) fn forms(&self) -> Forms {
        let shared = self.shared.iter().map(Gated::forms);
        let gate = self.shared_gate.iter().map(Linear::forms);
        shared.chain(gate).fold(self.router.forms(), Forms::and)
    }

    /// Adds to what rows were made from.
    pub(super) fn add(
        &self,
        pool: &mut Pool,
        shape: &Shape,
        work: &mut Workspace,
    ) -> candle_core::Result<()> {
        let Workspace {
            rows,
            x,
            experts: room,
            ..
        } = work;
        self.router.set(pool, rows, &mut room.scores)?;
        self.choose(pool, rows.len(), room);
        self.ask(pool, rows, room, shape.hidden)?;
        let (picks, sums) = (&room.picks, &room.sums);
        let mut table: Vec<_> = x
            .chunks_exact_mut(shape.hidden)
            .zip(picks.chunks_exact(self.used))
            .collect();
        pool.each_mut(&mut table, |_, (x, picks)| {
            for pick in *picks {
                let sums = part_of(sums, pick.place, shape.hidden);
                x.iter_mut().zip(sums).for_each(|(x, sum)| *x += sum);
            }
        });
        let Some(shared) = &self.shared else {
            return Ok(());
        };
        room.gate.clear();
        if let Some(gate) = &self.shared_gate {
            gate.set(pool, rows, &mut room.gate)?;
            pool.cpu().run(Sigmoid(&mut room.gate));
        }
        let gate = std::mem::take(&mut room.gate);
        shared.add(pool, shape, work, |row| {
            gate.get(row).copied().unwrap_or(1.0)
        })?;
        work.experts.gate = gate;
        Ok(())
    }

    /// Chooses for each row, and brings the choices into the order of experts.
    fn choose(&self, pool: &mut Pool, count: usize, room: &mut Room) {
        let cpu = pool.cpu();
        room.picks
            .resize(count.saturating_mul(self.used), Pick::default());
        let scores = room.scores.chunks_exact_mut(self.experts.len().max(1));
        let mut table: Vec<_> = scores.zip(room.picks.chunks_exact_mut(self.used)).collect();
        pool.each_mut(&mut table, |_, (scores, picks)| {
            self.rule.choose(cpu, scores, &self.correction, picks);
        });
        room.order.clear();
        room.order.extend(0..room.picks.len());
        let picks = &mut room.picks;
        room.order
            .sort_by_key(|pick| picks.get(*pick).map(|pick| pick.expert));
        for (place, pick) in room.order.iter().enumerate() {
            if let Some(pick) = picks.get_mut(*pick) {
                pick.place = place;
            }
        }
    }

    /// What the experts say to those who ask, in the order of experts.
    fn ask(
        &self,
        pool: &mut Pool,
        rows: &[Row],
        room: &mut Room,
        hidden: usize,
    ) -> candle_core::Result<()> {
        let Room {
            picks,
            order,
            rows: asking,
            wide,
            sums,
            ..
        } = room;
        let (cpu, used) = (pool.cpu(), self.used);
        let pick = |place: usize| {
            let index = order.get(place).copied().unwrap_or(0);
            let pick = picks.get(index).copied().unwrap_or_default();
            (pick, index.checked_div(used).unwrap_or(0))
        };
        let expert = |place: usize| pick(place).0.expert;
        asking.resize_with(order.len(), Row::default);
        pool.each_mut(asking, |place, row| {
            let (pick, from) = pick(place);
            row.numbers.clear();
            row.numbers
                .extend_from_slice(rows.get(from).map_or(&[], |row| &row.numbers));
            let forms = self
                .experts
                .get(pick.expert)
                .map(|expert| expert.gate_up.forms());
            cpu.run(Quantise {
                row,
                forms: forms.unwrap_or_default(),
            });
        });
        let both = self.inner.saturating_mul(2);
        wide.resize(order.len().saturating_mul(both), 0.0);
        Linear::set_each(
            pool,
            self.shares(asking, wide, both, expert, |expert| &expert.gate_up),
        )?;
        pool.each_mut(asking, |place, row| {
            let (pick, _) = pick(place);
            row.numbers.resize(self.inner, 0.0);
            cpu.run(Gate {
                row: part_of(wide, place, both),
                to: &mut row.numbers,
                activation: Activation::Silu,
                factor: pick.weight,
            });
            let forms = self
                .experts
                .get(pick.expert)
                .map(|expert| expert.down.forms());
            cpu.run(Quantise {
                row,
                forms: forms.unwrap_or_default(),
            });
        });
        sums.resize(order.len().saturating_mul(hidden), 0.0);
        Linear::set_each(
            pool,
            self.shares(asking, sums, hidden, expert, |expert| &expert.down),
        )
    }

    /// Rows of each expert that is asked, and where its results belong.
    fn shares<'a>(
        &'a self,
        rows: &'a [Row],
        mut to: &'a mut [f32],
        width: usize,
        expert: impl Fn(usize) -> usize,
        product: fn(&Expert) -> &Linear,
    ) -> Vec<Share<'a>> {
        let mut shares = Vec::new();
        let mut rest = rows;
        let mut place = 0_usize;
        while !rest.is_empty() {
            let asked = expert(place);
            let same = (place..)
                .take(rest.len())
                .take_while(|place| expert(*place) == asked);
            let count = same.count();
            let (rows, others) = rest.split_at(count);
            let (y, after) = to.split_at_mut(count.saturating_mul(width).min(to.len()));
            if let Some(expert) = self.experts.get(asked) {
                shares.push((product(expert), rows, y));
            }
            (rest, to) = (others, after);
            place = place.saturating_add(count);
        }
        shares
    }
}

impl Rule {
    /// The best experts by their scores, and their weights. Of equals, the first.
    fn choose(self, cpu: Cpu, scores: &mut [f32], correction: &[f32], picks: &mut [Pick]) {
        match self.sigmoid {
            true => cpu.run(Sigmoid(scores)),
            false => cpu.run(Softmax(scores)),
        }
        let corrections = correction.iter().copied().chain(std::iter::repeat(0.0));
        let corrected = scores
            .iter()
            .zip(corrections)
            .map(|(score, more)| score + more);
        let mut ranked: Vec<(usize, f32)> = corrected.enumerate().collect();
        let by_rank = |a: &(usize, f32), b: &(usize, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        let (groups, kept) = self.groups;
        if kept < groups {
            let size = scores.len().checked_div(groups).unwrap_or(0).max(1);
            // DeepSeek V3 ranks groups by their two best, V2 by the best.
            let best = if self.sigmoid { 2 } else { 1 };
            let rank = |group: &[(usize, f32)]| {
                let mut group: Vec<_> = group.to_vec();
                group.sort_unstable_by(by_rank);
                group.iter().take(best).map(|(_, score)| score).sum()
            };
            let mut all: Vec<_> = ranked.chunks(size).map(rank).enumerate().collect();
            all.sort_unstable_by(by_rank);
            all.truncate(kept);
            ranked.retain(|(expert, _)| {
                let group = expert.checked_div(size);
                all.iter().any(|(kept, _)| Some(*kept) == group)
            });
        }
        ranked.sort_unstable_by(by_rank);
        for (pick, (expert, _)) in picks.iter_mut().zip(&ranked) {
            pick.expert = *expert;
            pick.weight = scores.get(*expert).copied().unwrap_or(0.0);
        }
        let sum: f32 = picks.iter().map(|pick| pick.weight).sum();
        let scale = match self.normalise {
            true => self.scale / sum,
            false => self.scale,
        };
        picks.iter_mut().for_each(|pick| pick.weight *= scale);
    }
}
