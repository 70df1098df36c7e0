//! A decoder whose weights, keys and values are on a device, and which computes there:
//! those with heads of keys and values and without experts. What it computes is what
//! `step.rs` does; in a step one copy goes to the device and one comes back.
//!
//! Weights are packed for the processor first, and go over a layer at a time: while a
//! model is loaded this machine has room for it, too.

mod model;
mod plan;
mod room;

use std::sync::Arc;

use gpu::{Device, Error};

use self::model::Model;
use self::plan::Plan;
use self::room::Room;
use super::rope::{Angles, Frequencies};
use super::step::Span;
use super::{Attend, Decoder, Feed};
use crate::kernel::matrix::Matrix;
use crate::memory::Memory;

/// What a step may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Most {
    /// Rows in it.
    pub(crate) rows: usize,
    /// Sequences in it.
    pub(crate) spans: usize,
    /// Whether no bit of a row may depend on what else is in it.
    pub(crate) exact: bool,
}

/// The device, and what is there.
#[derive(Debug)]
pub(super) struct OnDevice {
    device: Box<dyn Device>,
    model: Model,
    room: Room,
    frequencies: Vec<Frequencies>,
    most: Most,
    /// Whether it has failed for good.
    lost: bool,
}

impl Decoder {
    /// Whether it can compute on a device.
    pub(crate) fn can_move(&self) -> bool {
        let heads = self.shape.heads;
        let query = heads.query.saturating_mul(heads.width);
        let layers = self.layers.iter();
        let widths = [self.shape.hidden, self.shape.inner, query];
        heads.width <= gpu::kernels::Heads::WIDEST
            && layers
                .map(|layer| (&layer.attend, &layer.feed))
                .all(|parts| matches!(parts, (Attend::Heads(_), Feed::All(_))))
            && widths
                .iter()
                .all(|width| width.is_multiple_of(gpu::Matrix::INPUTS))
    }

    /// Moves its weights to a device, and what `memory` has pages for.
    pub(crate) fn move_to(
        &mut self,
        mut device: Box<dyn Device>,
        memory: &mut Memory,
        most: Most,
    ) -> Result<(), Error> {
        let model = Model::upload(self, device.as_mut(), memory.limit())?;
        let room = Room::new(device.as_mut(), &self.shape, &model, most, memory.limit())?;
        self.embedding = Arc::new(Matrix::none());
        self.head.leave();
        memory.leave_here();
        self.device = Some(Box::new(OnDevice {
            device,
            model,
            room,
            frequencies: self.frequencies.clone(),
            most,
            lost: false,
        }));
        Ok(())
    }

    /// Wipes the pages on its device that `memory` has given up; those that it cannot
    /// wipe remain, and the next step fails.
    pub(crate) fn wipe(&mut self, memory: &mut Memory) {
        if let Some(device) = &mut self.device {
            drop(device.wipe(memory));
        }
    }

    /// Wipes what the last step left on its device; the next step fails if it cannot.
    pub(crate) fn clear(&mut self) {
        if let Some(OnDevice { device, room, .. }) = self.device.as_deref_mut() {
            room.clear(device.as_mut());
        }
    }

    /// What a page on its device holds.
    #[cfg(test)]
    pub(crate) fn page(&mut self, page: usize) -> Vec<u8> {
        let on = self.device.as_deref_mut().unwrap();
        let page = on.model.page(page).unwrap();
        let mut bytes = vec![0; page.bytes()];
        on.device.download(page, &mut bytes).unwrap();
        bytes
    }

    /// Copies to its device and from it, so far.
    #[cfg(test)]
    pub(crate) fn crossings(&self) -> gpu::Crossings {
        let device = self.device.as_ref();
        device
            .map(|device| device.device.crossings())
            .unwrap_or_default()
    }
}

impl OnDevice {
    /// Whether there will be no other step.
    pub(super) fn is_lost(&self) -> bool {
        self.lost || self.room.is_stained()
    }

    /// Reads the spans; puts the logits of those that want them into `logits`.
    pub(super) fn forward(
        &mut self,
        memory: &mut Memory,
        batch: &[Span<'_>],
        angles: &mut Vec<Angles>,
        logits: &mut Vec<f32>,
    ) -> Result<(), Error> {
        let done = self.step(memory, batch, angles, logits);
        self.lost |= done.as_ref().is_err_and(Error::loses_device);
        done
    }

    fn step(
        &mut self,
        memory: &mut Memory,
        batch: &[Span<'_>],
        angles: &mut Vec<Angles>,
        logits: &mut Vec<f32>,
    ) -> Result<(), Error> {
        self.wipe(memory)?;
        angles.resize_with(self.frequencies.len(), Angles::default);
        for (angles, frequencies) in angles.iter_mut().zip(&self.frequencies) {
            let positions = batch
                .iter()
                .flat_map(|span| (span.position..).take(span.tokens.len()));
            angles.fill(frequencies, positions);
        }
        let plan = Plan::new(batch, self.most, angles);
        let (device, model, room) = (self.device.as_mut(), &self.model, &mut self.room);
        room.check(&plan, batch)?;
        device.upload(room.step, &plan.pack(batch, angles))?;
        match plan.key() {
            Some(key) => device.repeat(key, &mut |device| model.run(device, room, &plan))?,
            None => model.run(device, room, &plan)?,
        }
        let mut found = vec![0; room.result_bytes(&plan)?];
        device.download(room.result, &mut found)?;
        plan.unpack(&found, room, logits);
        Ok(())
    }

    fn wipe(&mut self, memory: &mut Memory) -> Result<(), Error> {
        let pages = memory.wipe_elsewhere();
        while let Some(page) = pages.last() {
            self.device.zero(self.model.page(*page)?)?;
            pages.pop();
        }
        Ok(())
    }
}
