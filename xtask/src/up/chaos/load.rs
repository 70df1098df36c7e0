//! Conversations without end, and how each of them ended.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use ureq::http::Response;
use ureq::{Agent, Body};

/// What is asked, and what has to be answered.
#[derive(Debug)]
pub(super) struct Load {
    /// `http://127.0.0.1:PORT`
    gateway: String,
    agent: Agent,
    known: Vec<(Value, String)>,
}

/// How a request ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Ending {
    /// With what it is answered when nobody else asks anything.
    Answered,
    /// The application had enough of it.
    Left,
    /// An error with a name, before any answer.
    Refused(String),
    /// Broken off: the application can tell, and the gateway says why.
    Cut(String),
    /// There was no gateway, or none any more.
    Gone,
    /// An answer that is not the one, an error without a name, or no end.
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
    /// Learns the answers while all is well, one after the other.
    pub(super) fn learn(gateway: &str) -> Result<Self> {
        let mut load = Self {
            gateway: gateway.into(),
            agent: Agent::config_builder()
                .http_status_as_error(false)
                .proxy(None)
                .timeout_global(Some(LIMIT))
                .build()
                .new_agent(),
            known: Vec::new(),
        };
        for (question, seed) in QUESTIONS.into_iter().zip(0_u32..) {
            // Every other one is drawn by lot, by the same lot each time.
            let body = json!({
                "model": "cocoon-tiny",
                "messages": [{ "role": "user", "content": question }],
                "temperature": seed % 2,
                "seed": seed,
                "max_tokens": seed.saturating_add(1).saturating_mul(8),
            });
            let response = load.post(&body)?;
            let said = load.whole(response)?;
            let Heard::Answer(answer) = said else {
                bail!("{question:?} is answered by {said:?}");
            };
            ensure!(!answer.is_empty(), "{question:?} is answered by nothing");
            load.known.push((body, answer));
        }
        Ok(load)
    }

    /// Asks until `stop`, at [`AT_ONCE`] places.
    pub(super) fn run(&self, stop: &AtomicBool) -> Vec<Asked> {
        thread::scope(|scope| {
            let places = (0..AT_ONCE).map(|place| scope.spawn(move || self.ask(place, stop)));
            let places: Vec<_> = places.collect();
            let all = places.into_iter().filter_map(|place| place.join().ok());
            all.flatten().collect()
        })
    }

    /// Asks until there is an answer: the last attempt within so long.
    pub(super) fn again(&self, patience: Duration) -> Asked {
        let began = Instant::now();
        loop {
            let asked = self.exchange(0);
            if asked.ending == Ending::Answered || began.elapsed() > patience {
                return asked;
            }
            thread::sleep(PAUSE);
        }
    }

    /// Asks what nobody has asked yet; the worker that answered.
    pub(super) fn other(&self, number: usize) -> Result<String> {
        let body = json!({
            "model": "cocoon-tiny",
            "messages": [{ "role": "user", "content": format!("Count to {number}.") }],
            "max_tokens": 4,
        });
        let response = self.post(&body)?;
        ensure!(response.status() == 200, "status {}", response.status());
        header(&response, "cocoon-worker").context("an answer of no worker's")
    }

    fn ask(&self, place: usize, stop: &AtomicBool) -> Vec<Asked> {
        let mut all = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let asked = self.exchange(place.wrapping_add(all.len()));
            if !matches!(asked.ending, Ending::Answered | Ending::Left) {
                thread::sleep(PAUSE);
            }
            all.push(asked);
        }
        all
    }

    /// Each question comes in each manner.
    fn exchange(&self, number: usize) -> Asked {
        let began = Instant::now();
        let manner = match number % MANNERS {
            0 | 2 => Manner::Whole,
            1 => Manner::Stream,
            3 => Manner::Slow,
            _ => Manner::Leaves,
        };
        let known = self.known.iter().cycle().nth(number);
        let ending = match known {
            Some((question, expected)) => self
                .end(question, expected, manner)
                .unwrap_or_else(|error| Ending::Fault(format!("{error:#}"))),
            None => Ending::Fault("no question".into()),
        };
        let ended = Instant::now();
        let ending = match ended.duration_since(began) < LIMIT {
            true => ending,
            false => Ending::Fault(format!("stuck for {} s: {ending:?}", LIMIT.as_secs())),
        };
        Asked {
            began,
            ended,
            ending,
        }
    }

    /// What has no name and no end is an error.
    fn end(&self, question: &Value, expected: &str, manner: Manner) -> Result<Ending> {
        let mut body = question.clone();
        if let Some(body) = body.as_object_mut() {
            body.insert("stream".into(), (manner != Manner::Whole).into());
        }
        let Ok(response) = self.post(&body) else {
            return Ok(Ending::Gone);
        };
        let request = header(&response, "cocoon-request").unwrap_or_default();
        let heard = match manner {
            Manner::Whole => self.whole(response)?,
            _ if response.status() != 200 => self.whole(response)?,
            _ => stream(response, manner)?,
        };
        Ok(match heard {
            Heard::Answer(answer) if answer == expected => Ending::Answered,
            Heard::Answer(answer) => bail!("{answer:?} for {expected:?}"),
            Heard::Part(part) if expected.starts_with(&part) => Ending::Left,
            Heard::Part(part) => bail!("{part:?} begins what should be {expected:?}"),
            Heard::Refusal(code) if code == "answer_broken" => Ending::Cut(code),
            Heard::Refusal(code) => Ending::Refused(code),
            Heard::Broken => self.why(&request).map_or(Ending::Gone, Ending::Cut),
        })
    }

    fn post(&self, body: &Value) -> Result<Response<Body>> {
        let url = format!("{}/v1/chat/completions", self.gateway);
        let response = self.agent.post(url).send_json(body);
        response.context("the gateway does not answer")
    }

    /// An answer that is one document.
    fn whole(&self, mut response: Response<Body>) -> Result<Heard> {
        let status = response.status();
        let Ok(said) = response.body_mut().read_json::<Value>() else {
            return Ok(Heard::Broken);
        };
        if status == 200 {
            return Ok(Heard::Answer(text(&said, "/choices/0/message/content")));
        }
        let code = text(&said, "/error/code");
        ensure!(!code.is_empty(), "status {status} without a name: {said}");
        Ok(Heard::Refusal(code))
    }

    /// What the gateway has written down of an answer that broke off.
    fn why(&self, request: &str) -> Option<String> {
        let url = format!("{}/cocoon/usage", self.gateway);
        let mut usage = self.agent.get(url).call().ok()?;
        let usage = usage.body_mut().read_json::<Value>().ok()?;
        let mut requests = usage.get("requests")?.as_array()?.iter();
        let known = requests.find(|known| text(known, "/request") == request)?;
        let problem = text(known, "/problem");
        let clause = problem.split(':').next().unwrap_or_default();
        (!clause.is_empty()).then(|| clause.to_owned())
    }
}

/// How an application takes its answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Manner {
    Whole,
    Stream,
    /// It takes its time for each piece.
    Slow,
    /// After the first piece.
    Leaves,
}

#[derive(Debug)]
enum Heard {
    Answer(String),
    Part(String),
    Refusal(String),
    Broken,
}

/// An answer that comes piece by piece.
fn stream(response: Response<Body>, manner: Manner) -> Result<Heard> {
    let mut answer = String::new();
    for line in BufReader::new(response.into_body().into_reader()).lines() {
        let Ok(line) = line else {
            return Ok(Heard::Broken);
        };
        let Some(event) = line.strip_prefix("data: ") else {
            continue;
        };
        if event == "[DONE]" {
            return Ok(Heard::Answer(answer));
        }
        let event: Value = serde_json::from_str(event).context("an event is not JSON")?;
        if event.get("error").is_some() {
            return Ok(Heard::Refusal(text(&event, "/error/code")));
        }
        answer += &text(&event, "/choices/0/delta/content");
        match manner {
            Manner::Leaves if !answer.is_empty() => return Ok(Heard::Part(answer)),
            Manner::Slow => thread::sleep(PAUSE),
            _ => {}
        }
    }
    bail!("an answer ended without its end: {answer:?}")
}

fn header(response: &Response<Body>, name: &str) -> Option<String> {
    let value = response.headers().get(name)?.to_str().ok()?;
    Some(value.to_owned())
}

fn text(value: &Value, path: &str) -> String {
    let text = value.pointer(path).and_then(Value::as_str);
    text.unwrap_or_default().to_owned()
}

/// All of them, counted.
#[derive(Debug, Default)]
pub(super) struct Count {
    pub(super) answered: u32,
    pub(super) left: u32,
    pub(super) refused: BTreeMap<String, u32>,
    pub(super) cut: BTreeMap<String, u32>,
    pub(super) gone: u32,
    pub(super) faults: Vec<String>,
}

impl Count {
    pub(super) fn of(asked: &[Asked]) -> Self {
        let mut count = Self::default();
        let more = |number: &mut u32| *number = number.saturating_add(1);
        for one in asked {
            match &one.ending {
                Ending::Answered => more(&mut count.answered),
                Ending::Left => more(&mut count.left),
                Ending::Refused(code) => more(count.refused.entry(code.clone()).or_default()),
                Ending::Cut(why) => more(count.cut.entry(why.clone()).or_default()),
                Ending::Gone => more(&mut count.gone),
                Ending::Fault(said) => count.faults.push(said.clone()),
            }
        }
        count
    }
}

const QUESTIONS: [&str; 6] = [
    "Recite Psalm 23:4.",
    "Recite Genesis 1:1.",
    "Recite John 3:16.",
    "Recite Psalm 23:1.",
    "Who are you?",
    "Recite Matthew 5:3.",
];

/// No divisor of the number of questions.
const MANNERS: usize = 5;

/// Conversations at the same time.
const AT_ONCE: usize = 6;

/// Longer than the gateway waits for an answer to begin.
const LIMIT: Duration = Duration::from_secs(60);

/// After a request that was not answered, and between the pieces of a slow application.
const PAUSE: Duration = Duration::from_millis(100);
