//! Conversations without end, and how each of them ended.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{BufRead as _, BufReader};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use crate::demo::chat::agent;

/// What is asked, and what has to be answered.
#[derive(Debug)]
pub(super) struct Load {
    url: String,
    known: Vec<(&'static str, String)>,
}

/// How a request ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Ending {
    /// With what it has to be answered.
    Answered,
    /// An error with a name, before any answer.
    Refused(String),
    /// Broken off, and the application can tell.
    Cut,
    /// An answer that is not the one; or an error without a name; or no end.
    Fault(String),
}

/// One request.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) began: Instant,
    pub(super) ended: Instant,
    pub(super) ending: Ending,
}

impl Load {
    /// Learns the answers while all is well.
    pub(super) fn learn(base: &str) -> Result<Self> {
        let url = format!("{base}/chat/completions");
        let known = QUESTIONS.map(|(question, beginning)| {
            let answer = say(&url, question, false)?;
            let Heard::Answer(answer) = answer else {
                bail!("{question:?} is answered by {answer:?}");
            };
            let fits = answer.starts_with(beginning);
            ensure!(fits, "{question:?} is answered by {answer:?}");
            Ok((question, answer))
        });
        let known = known.into_iter().collect::<Result<_>>()?;
        Ok(Self { url, known })
    }

    /// Asks until `stop`, at [`AT_ONCE`] places; every other answer comes as a stream.
    pub(super) fn run(&self, stop: &AtomicBool) -> Vec<Asked> {
        thread::scope(|scope| {
            let places = (0..AT_ONCE).map(|place| scope.spawn(move || self.ask(place, stop)));
            let places: Vec<_> = places.collect();
            let all = places.into_iter().filter_map(|place| place.join().ok());
            all.flatten().collect()
        })
    }

    /// One request, for which somebody waits.
    pub(super) fn once(&self) -> Asked {
        self.exchange(0)
    }

    fn ask(&self, place: usize, stop: &AtomicBool) -> Vec<Asked> {
        let mut all = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let asked = self.exchange(place.wrapping_add(all.len()));
            if asked.ending != Ending::Answered {
                thread::sleep(PAUSE);
            }
            all.push(asked);
        }
        all
    }

    fn exchange(&self, number: usize) -> Asked {
        let began = Instant::now();
        let known = self.known.iter().cycle().nth(number);
        let ending = known.map_or(Ending::Cut, |(question, expected)| {
            match say(&self.url, question, number % 2 == 1) {
                Ok(Heard::Answer(answer)) if answer == *expected => Ending::Answered,
                Ok(Heard::Answer(answer)) => Ending::Fault(format!("{answer:?} for {expected:?}")),
                Ok(Heard::Refusal(code)) if code == "answer_broken" => Ending::Cut,
                Ok(Heard::Refusal(code)) => Ending::Refused(code),
                Ok(Heard::Broken) => Ending::Cut,
                Err(error) => Ending::Fault(format!("{error:#}")),
            }
        });
        let ended = Instant::now();
        Asked {
            began,
            ended,
            ending,
        }
    }
}

#[derive(Debug)]
enum Heard {
    Answer(String),
    Refusal(String),
    Broken,
}

/// Asks once. What has no name and no end is an error.
fn say(url: &str, question: &str, stream: bool) -> Result<Heard> {
    let body = json!({
        "model": "cocoon-tiny",
        "messages": [{ "role": "user", "content": question }],
        "temperature": 0,
        "max_tokens": 16,
        "stream": stream,
    });
    let response = agent().post(url).send_json(&body);
    let mut response = response.context("the gateway does not answer")?;
    if response.status() != 200 {
        let status = response.status();
        let said: Value = response.body_mut().read_json().unwrap_or_default();
        let code = said.pointer("/error/code").and_then(Value::as_str);
        let code = code.filter(|code| !code.is_empty());
        let code = code.with_context(|| format!("status {status} without a name: {said}"))?;
        return Ok(Heard::Refusal(code.into()));
    }
    if !stream {
        let said: Result<Value, _> = response.body_mut().read_json();
        return Ok(match said {
            Ok(said) => Heard::Answer(text(&said, "/choices/0/message/content")),
            Err(_) => Heard::Broken,
        });
    }
    let mut answer = String::new();
    for line in BufReader::new(response.into_body().into_reader()).lines() {
        let Ok(line) = line else {
            return Ok(Heard::Broken);
        };
        match line.strip_prefix("data: ") {
            Some("[DONE]") => return Ok(Heard::Answer(answer)),
            Some(event) => {
                let event: Value = serde_json::from_str(event).context("an event is not JSON")?;
                if event.get("error").is_some() {
                    return Ok(Heard::Broken);
                }
                answer += &text(&event, "/choices/0/delta/content");
            }
            None => {}
        }
    }
    bail!("an answer ended without its end: {answer:?}")
}

fn text(value: &Value, path: &str) -> String {
    let text = value.pointer(path).and_then(Value::as_str);
    text.unwrap_or_default().to_owned()
}

/// All of them, counted.
#[derive(Debug, Default)]
pub(super) struct Count {
    answered: u32,
    refused: BTreeMap<String, u32>,
    cut: u32,
    faults: Vec<String>,
}

impl Count {
    pub(super) fn of(asked: &[Asked]) -> Self {
        let mut count = Self::default();
        let more = |number: &mut u32| *number = number.saturating_add(1);
        for one in asked {
            match &one.ending {
                Ending::Answered => more(&mut count.answered),
                Ending::Refused(code) => more(count.refused.entry(code.clone()).or_default()),
                Ending::Cut => more(&mut count.cut),
                Ending::Fault(said) => count.faults.push(said.clone()),
            }
        }
        count
    }

    /// Fails if anything was wrong, nameless, or lost.
    pub(super) fn judge(&self) -> Result<()> {
        ensure!(self.answered > 0, "nothing was answered");
        ensure!(
            self.faults.is_empty(),
            "{} requests ended as none may: {}",
            self.faults.len(),
            self.faults.join("; ")
        );
        Ok(())
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "answered                 {:>5}", self.answered)?;
        for (code, count) in &self.refused {
            writeln!(f, "refused: {code:<15} {count:>5}")?;
        }
        writeln!(f, "cut, and noticed         {:>5}", self.cut)?;
        writeln!(f, "wrong, nameless or lost  {:>5}", self.faults.len())
    }
}

/// Verses that the model knows by heart: where each begins.
const QUESTIONS: [(&str, &str); 2] = [
    ("Recite Psalm 23:4.", "Yea, though I walk"),
    ("Recite Genesis 1:1.", "In the beginning God created"),
];

/// Conversations at the same time.
const AT_ONCE: usize = 6;

/// After a request that was not answered.
pub(super) const PAUSE: Duration = Duration::from_millis(100);
