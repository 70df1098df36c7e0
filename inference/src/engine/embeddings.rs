//! Engines that embed.

use std::sync::Arc;

use futures_channel::oneshot;
use zeroize::Zeroizing;

use super::{Engine, Kind, Limits, Loaded, Task, check_room, enqueue, run};
use crate::answer::{Embeddings as Vectors, Pending};
use crate::bert::Bert;
use crate::embedder::{self, Job};
use crate::error::{LoadError, RequestError};
use crate::kernel::pool::Pool;
use crate::model_dir::ModelDir;
use crate::queue::Queue;
use crate::request::Tenant;
use crate::tokens::Tokens;
use crate::witness::Witness;

/// What its requests need.
pub(super) struct Embedding {
    pub(super) tokens: Tokens,
    pub(super) queue: Arc<Queue<Job>>,
}

impl Embedding {
    pub(super) fn load(
        mut pool: Pool,
        dir: &ModelDir,
        limits: &Limits,
    ) -> Result<Loaded, LoadError> {
        let model = Bert::load(&mut pool, dir)?;
        let tokens = Tokens::load(dir, model.vocabulary())?;
        Ok(Loaded {
            architecture: Bert::ARCHITECTURE,
            tally: model.tally().clone(),
            context: model.context(),
            kind: Kind::Embedding(Box::new(Self {
                tokens,
                queue: run(limits.queue, move |jobs| {
                    embedder::run(&model, &mut pool, jobs);
                })?,
            })),
        })
    }
}

impl Engine {
    /// Queues texts of a stranger to embed; all or none.
    pub fn embed(&self, texts: &[String]) -> Result<Pending<Vectors>, RequestError> {
        self.embed_before(Tenant::new(), None, texts)
    }

    /// As [`Self::embed`], for a tenant; the witness hears of each text.
    pub fn embed_before(
        &self,
        tenant: Tenant,
        witness: Option<Witness>,
        texts: &[String],
    ) -> Result<Pending<Vectors>, RequestError> {
        self.embed_each(tenant, witness, texts, |tokens, text| {
            self.check_context(tokens.at_least(text.len()), Some(0))?;
            match text.is_empty() {
                true => Err(RequestError::Empty { parameter: "input" }),
                false => tokens.encode(text),
            }
        })
    }

    /// The same for texts that are tokens of this model already, without those that
    /// frame a text.
    pub fn embed_tokens_before(
        &self,
        tenant: Tenant,
        witness: Option<Witness>,
        texts: &[Vec<u32>],
    ) -> Result<Pending<Vectors>, RequestError> {
        let parameter = "input";
        self.embed_each(tenant, witness, texts, |tokens, ids| {
            match (ids.is_empty(), tokens.know(ids)) {
                (true, _) => Err(RequestError::Empty { parameter }),
                (_, false) => Err(RequestError::UnknownToken { parameter }),
                _ => tokens.frame(ids),
            }
        })
    }

    fn embed_each<T>(
        &self,
        tenant: Tenant,
        witness: Option<Witness>,
        texts: &[T],
        encode: impl Fn(&Tokens, &T) -> Result<Vec<u32>, RequestError>,
    ) -> Result<Pending<Vectors>, RequestError> {
        let Kind::Embedding(model) = &self.kind else {
            return Err(self.wrong_task(Task::Embedding));
        };
        if texts.is_empty() {
            return Err(RequestError::Empty { parameter: "input" });
        }
        check_room(&model.queue, &tenant)?;
        let texts = texts.iter().map(|text| {
            let tokens = Zeroizing::new(encode(&model.tokens, text)?);
            self.check_context(tokens.len(), Some(0))?;
            Ok(tokens)
        });
        let texts: Vec<_> = texts.collect::<Result<_, _>>()?;
        if let Some(witness) = &witness {
            witness.allow_texts(texts.iter().map(|text| text.len()).sum())?;
        }
        let (result, pending) = oneshot::channel();
        let job = Job {
            texts,
            vectors: Vec::new(),
            deadline: Witness::deadline(witness.as_ref(), self.limits.time),
            witness,
            result,
        };
        enqueue(&model.queue, tenant, job)?;
        Ok(Pending { result: pending })
    }
}
