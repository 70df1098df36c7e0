//! An answer once more, on this machine.

use std::path::Path;

use anyhow::{Context, anyhow, ensure};
use attestation::aci::{Hash, Opening, Receipt, Settings};
use attestation::appraisal::Check;
use inference::{Difference, Engine, Limits, LoadError, Quantise, Replay, Sampling};

/// Reads each answer with its prompt, and compares token by token.
///
/// It shows that this model, given that prompt, answers so; that the prompt is the
/// template's for the request is for a person to see.
pub(super) fn run(
    model: &Path,
    receipt: &Receipt,
    opening: &Opening,
) -> anyhow::Result<Vec<Check>> {
    let executed = receipt.executed().context("nothing was executed")?;
    let engine = load(model, executed.model.quant.as_deref())
        .with_context(|| format!("{} is no model", model.display()))?;
    let card = engine.card();
    let mut checks = Vec::new();
    for (name, said, found) in [
        ("tokenizer", executed.model.tokenizer, card.tokenizer),
        ("chat-template", executed.model.chat_template, card.template),
        ("manifest", executed.model.manifest, card.manifest),
    ] {
        let found = found.map(Hash::from);
        let text = |hash: Option<Hash>| hash.map_or("none".into(), |hash| hash.to_string());
        checks.push(Check::new(name, text(said), text(found), said == found));
    }
    for (index, (run, output)) in opening
        .forwarded
        .runs
        .iter()
        .zip(&opening.outputs)
        .enumerate()
    {
        ensure!(
            run.images == 0,
            "answer {index} is about images, which are not kept"
        );
        let settings = run
            .settings
            .as_ref()
            .context("an answer without settings")?;
        let difference = engine.replay(Replay {
            prompt: run.prompt.clone().into(),
            answer: output.clone().into(),
            form: run.form.clone(),
            sampling: sampling(settings)?,
        })?;
        let expected = format!("answer {index}: {} tokens chosen again", output.len());
        let found = difference.map_or(expected.clone(), |difference| {
            let Difference {
                index: place,
                found,
                expected,
            } = difference;
            format!("answer {index}, token {place}: {found}, where this machine chooses {expected}")
        });
        checks.push(Check::new("replay", expected, found, difference.is_none()));
    }
    Ok(checks)
}

/// As it is stored or, where the receipt says so, quantised.
fn load(model: &Path, quant: Option<&str>) -> Result<Engine, LoadError> {
    let engine = Engine::load(model)?;
    let format = engine.card().format.as_ref();
    let stored = format.is_some_and(|format| Some(format.to_lowercase().as_str()) == quant);
    match quant.and_then(|quant| quant.parse::<Quantise>().ok()) {
        Some(quantise) if !stored => {
            drop(engine);
            let limits = Limits {
                quantise: Some(quantise),
                ..Limits::default()
            };
            Engine::load_with(model, limits)
        }
        _ => Ok(engine),
    }
}

fn sampling(settings: &Settings) -> anyhow::Result<Sampling> {
    let number = |text: &str| text.parse().map_err(|_| anyhow!("{text:?} is no number"));
    let biases = settings.logit_bias.iter().map(|(token, bias)| {
        let token = token
            .parse()
            .map_err(|_| anyhow!("{token:?} is no token"))?;
        Ok((token, number(bias)?))
    });
    Ok(Sampling {
        temperature: Some(number(&settings.temperature)?),
        top_p: Some(number(&settings.top_p)?),
        top_k: Some(usize::try_from(settings.top_k)?),
        min_p: Some(number(&settings.min_p)?),
        repetition_penalty: Some(number(&settings.repetition_penalty)?),
        presence_penalty: Some(number(&settings.presence_penalty)?),
        frequency_penalty: Some(number(&settings.frequency_penalty)?),
        logit_bias: biases.collect::<anyhow::Result<_>>()?,
        seed: Some(settings.seed.parse().context("the seed is no number")?),
    })
}
