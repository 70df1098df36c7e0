//! Loads what answers: a decoder, its tokens and its template.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use super::super::{Kind, Limits, Loaded, run, threads};
use super::Chat;
use crate::activity::Counters;
use crate::config::{FILE, unsupported};
#[cfg(feature = "cuda")]
use crate::decoder::Most;
use crate::decoder::{Decoder, Family, Shape};
use crate::error::LoadError;
use crate::generation::{Defaults, Generation, Ids};
use crate::kernel::pool::Pool;
use crate::memory::Memory;
use crate::model_dir::ModelDir;
use crate::prompt::Template;
#[cfg(feature = "cuda")]
use crate::replay::WANTED;
#[cfg(feature = "cuda")]
use crate::scheduler::STEP;
use crate::scheduler::{Accounts, Scheduler};
use crate::tokens::Tokens;
use crate::vision::{Llava, LlavaConfig, Placeholder};
use crate::weights::Weights;
use crate::weights::gguf::Gguf;

impl Chat {
    /// As the Hugging Face hub lays a model out.
    pub(in crate::engine) fn load(
        pool: Pool,
        dir: &ModelDir,
        family: &'static Family,
        end: Option<Ids>,
        limits: &Limits,
    ) -> Result<Loaded, LoadError> {
        let shape = Shape::of_config(family, dir.json(FILE)?)?;
        let generation = Generation::load(dir)?;
        let parts = Parts {
            tokens: Tokens::load(dir, shape.vocabulary)?,
            shape,
            weights: Weights::open(dir)?,
            template: Template::load(dir)?,
            ends: generation.ends.or(end),
            defaults: generation.defaults,
            tower: None,
        };
        parts.start(pool, limits)
    }

    /// A decoder with a tower.
    pub(in crate::engine) fn load_seeing(
        mut pool: Pool,
        dir: &ModelDir,
        limits: &Limits,
    ) -> Result<Loaded, LoadError> {
        let config: LlavaConfig = dir.json(FILE)?;
        let shape = config.shape()?;
        let tokens = Tokens::load(dir, shape.vocabulary)?;
        if !tokens.is_control(config.image_token_index) {
            let (found, expected) = (config.image_token_index, "a control token");
            return Err(unsupported(FILE, "image_token_index", found, expected));
        }
        let mut weights = Weights::open(dir)?;
        let tower = Llava::load(&mut pool, dir, &config, &mut weights)?;
        let generation = Generation::load(dir)?;
        let parts = Parts {
            shape,
            weights,
            tokens,
            template: Template::load(dir)?.with_parts(),
            ends: generation.ends.or(config.ends()),
            defaults: generation.defaults,
            tower: Some((tower.placeholder(&config), tower)),
        };
        parts.start(pool, limits)
    }

    /// As llama.cpp has it: all in one file.
    pub(in crate::engine) fn load_gguf(
        pool: Pool,
        dir: &ModelDir,
        path: PathBuf,
        limits: &Limits,
    ) -> Result<Loaded, LoadError> {
        if let Some(found) = limits.quantise {
            let of = "GGUF";
            return Err(LoadError::Quantise { found, of });
        }
        let mut gguf = Gguf::open(path)?;
        let shape = Shape::of_gguf(&gguf)?;
        let end = gguf.integer("tokenizer.ggml.eos_token_id");
        let end = end.and_then(|end| u32::try_from(end).ok()).map(Ids::One);
        let generation = Generation::load(dir)?;
        let template = Template::load_gguf(dir, &gguf)?;
        let parts = Parts {
            tokens: Tokens::load_gguf(dir, &mut gguf, shape.vocabulary)?,
            shape,
            weights: gguf.weights,
            template,
            ends: generation.ends.or(end),
            defaults: generation.defaults,
            tower: None,
        };
        parts.start(pool, limits)
    }
}

/// What the files of a chat model come to, before the weights are read.
struct Parts {
    shape: Shape,
    weights: Weights,
    tokens: Tokens,
    template: Template,
    defaults: Defaults,
    /// Tokens that end an answer.
    ends: Option<Ids>,
    /// What sees, and what stands for what is seen.
    tower: Option<(Placeholder, Llava)>,
}

impl Parts {
    fn start(mut self, mut pool: Pool, limits: &Limits) -> Result<Loaded, LoadError> {
        self.weights.quantise = limits.quantise;
        let ends: Vec<u32> = match self.ends {
            Some(ends) => ends.into(),
            None => {
                let expected = "a token here or in generation_config.json";
                return Err(unsupported(FILE, "eos_token_id", "absent", expected));
            }
        };
        #[cfg_attr(not(feature = "cuda"), expect(unused_mut, reason = "pages stay here"))]
        let mut memory = Memory::new(self.shape.heads, self.shape.layers, limits.memory);
        let context = self.shape.context.min(memory.capacity());
        let architecture = match &self.tower {
            Some(_) => Llava::ARCHITECTURE,
            None => self.shape.family.architecture,
        };
        #[cfg_attr(
            not(feature = "cuda"),
            expect(unused_mut, reason = "weights stay here")
        )]
        let mut model = Decoder::load(&mut pool, self.shape, self.weights)?;
        #[cfg(feature = "cuda")]
        if self.tower.is_none() && model.can_move() {
            move_to_card(&mut model, &mut memory, limits)?;
        } else if limits.exact {
            return Err(LoadError::Exact);
        }
        let tally = model.tally().clone();
        if tally.parameters < SMALL {
            pool = threads(true)?;
        }
        let counters = Arc::<Counters>::default();
        let tokens = Arc::new(self.tokens);
        let (placeholder, tower) = self.tower.unzip();
        let scheduler = Scheduler {
            model,
            tower,
            pool,
            memory,
            tokens: Arc::clone(&tokens),
            ends: ends.clone(),
            batch: limits.batch.max(1),
            counters: Arc::clone(&counters),
            begun: 0,
            accounts: Accounts::default(),
        };
        let queue = run(limits.queue, move |jobs| scheduler.run(jobs))?;
        Ok(Loaded {
            architecture,
            tally,
            context,
            kind: Kind::Chat(Box::new(Chat {
                tokens,
                template: self.template,
                placeholder,
                defaults: self.defaults,
                ends,
                grammars: OnceLock::new(),
                counters,
                queue,
            })),
        })
    }
}

/// What a tower sees is put among the rows of a step here, and not on a card.
#[cfg(feature = "cuda")]
fn move_to_card(
    model: &mut Decoder,
    memory: &mut Memory,
    limits: &Limits,
) -> Result<(), LoadError> {
    let most = Most {
        rows: limits.batch.max(STEP),
        spans: limits.batch.max(WANTED),
        exact: limits.exact,
    };
    let card = gpu::Cuda::open();
    let moved = card.and_then(|card| model.move_to(Box::new(card), memory, most));
    moved.map_err(|source| LoadError::Card { source })
}

/// Below this, waiting for other threads takes longer than their help saves.
const SMALL: u64 = 10_000_000;
