//! Speed of a chat model: `bench DIR [END] [PREFILL] [DECODE]` prints one line of JSON.
//! `END` is the token that ends answers, which then does not come; `PREFILL` and `DECODE`
//! are how many streams read and answer at once, as in `1,8,64`.
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
    let mut streams = |default: &str| -> Result<Vec<usize>, _> {
        let list = args.next().unwrap_or_else(|| default.into());
        list.split(',').map(str::parse).collect()
    };
    let (prefill, decode) = (streams("1")?, streams("1,8,32")?);
    let start = Instant::now();
    let limits = Limits {
        batch: 64,
        ..Limits::default()
    };
    let engine = Engine::load_with(&dir, limits)?;
    let load = start.elapsed();

    let bench = Bench { engine, end };
    // Wakes threads and touches memory.
    bench.run(1, 64, 8)?;
    print!(r#"{{"load_ms": {}"#, load.as_millis());
    for streams in prefill {
        let run = bench.run(streams, PROMPT, 1)?;
        let rate = per_second(streams.saturating_mul(run.prompt), run.first);
        print!(r#", "prefill_{streams}": {rate:.1}"#);
    }
    for streams in decode {
        let run = bench.run(streams, 16, TOKENS)?;
        let rate = per_second(streams.saturating_mul(TOKENS.saturating_sub(1)), run.rest);
        print!(r#", "decode_{streams}": {rate:.1}"#);
    }
    println!(r#", "resident_mb": {}}}"#, resident_mb());
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
const TOKENS: usize = 64;
