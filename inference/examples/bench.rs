//! Speed of a chat model: `bench DIR [END]` prints one line of JSON. `END` is the
//! token that ends answers, which then does not come.
//!
//! All through the public interface, so with tokenizer, sampling and channels.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use futures_executor::block_on;
use futures_util::StreamExt as _;
use futures_util::future::join_all;
use inference::{Answer, Engine, Event, Limits, Message, Prompt, Request, Role, Sampling};

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let dir = PathBuf::from(args.next().unwrap_or_default());
    let end = args.next().and_then(|end| end.parse().ok());
    let start = Instant::now();
    let limits = Limits {
        batch: 32,
        ..Limits::default()
    };
    let engine = Engine::load_with(&dir, limits)?;
    let load = start.elapsed();

    let bench = Bench { engine, end };
    // Wakes threads and touches memory.
    bench.run(1, 64, 8)?;
    let prefill = bench.run(1, PROMPT, 1)?;
    let rate = |streams: usize, tokens: usize| -> anyhow::Result<f64> {
        let run = bench.run(streams, 16, tokens)?;
        let later = streams.saturating_mul(tokens.saturating_sub(1));
        Ok(per_second(later, run.rest))
    };
    println!(
        r#"{{"load_ms": {}, "prefill": {:.1}, "decode_1": {:.1}, "decode_8": {:.1}, "decode_32": {:.1}, "resident_mb": {}}}"#,
        load.as_millis(),
        per_second(prefill.prompt, prefill.first),
        rate(1, 64)?,
        rate(8, 64)?,
        rate(32, 64)?,
        resident_mb(),
    );
    Ok(())
}

struct Bench {
    engine: Engine,
    end: Option<u32>,
}

struct Run {
    /// Tokens of a prompt.
    prompt: usize,
    /// Until all have said their first token, and from then to the end.
    first: Duration,
    rest: Duration,
}

impl Bench {
    /// Answers of `tokens` tokens to prompts of about `prompt`, side by side.
    fn run(&self, streams: usize, prompt: usize, tokens: usize) -> anyhow::Result<Run> {
        let start = Instant::now();
        let answers = (0..streams).map(|_| {
            self.engine.answer(Request {
                prompt: Prompt::Chat(vec![Message::new(Role::User, "a".repeat(prompt))]),
                max_tokens: Some(tokens),
                sampling: Sampling {
                    temperature: Some(0.0),
                    logit_bias: self.end.map(|end| (end, -100.0)).into_iter().collect(),
                    ..Sampling::default()
                },
                ..Request::default()
            })
        });
        let answers: Vec<_> = answers.collect::<Result<_, _>>()?;
        let heard = block_on(join_all(
            answers.into_iter().map(|answer| hear(answer, start)),
        ));
        let heard = heard.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
        let first = heard
            .iter()
            .map(|(_, first, _)| *first)
            .max()
            .unwrap_or_default();
        let end = heard
            .iter()
            .map(|(_, _, end)| *end)
            .max()
            .unwrap_or_default();
        Ok(Run {
            prompt: heard.first().map_or(0, |(prompt, ..)| *prompt),
            first,
            rest: end.saturating_sub(first),
        })
    }
}

/// Tokens of the prompt, and when the first and the last text came.
async fn hear(mut answer: Answer, start: Instant) -> anyhow::Result<(usize, Duration, Duration)> {
    let mut first = None;
    while let Some(event) = answer.next().await {
        let now = start.elapsed();
        match event? {
            Event::Text { .. } | Event::Call(_) | Event::Arguments(_) => {
                first = first.or(Some(now))
            }
            Event::Finish { usage, .. } => return Ok((usage.prompt, first.unwrap_or(now), now)),
        }
    }
    anyhow::bail!("an answer without an end")
}

fn per_second(count: usize, time: Duration) -> f64 {
    u32::try_from(count).map_or(0.0, f64::from) / time.as_secs_f64()
}

/// The most memory that the process has had.
fn resident_mb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) >> 10
}

const PROMPT: usize = 512;
