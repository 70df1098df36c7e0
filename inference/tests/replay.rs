//! An answer is made again from what its witness heard.

#![allow(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "helpers of tests"
)]

use std::path::{Path, PathBuf};
use std::{fs, sync::LazyLock};

use futures_executor::block_on_stream;
use inference::{
    Difference, Engine, Event, Executed, FinishReason, Format, Message, Prompt, Replay,
    ReplayError, Request, Role, Sampling, Tool, Tools, Witness,
};

#[test]
fn a_witness_hears_what_was_read_said_and_counted() {
    let executed = answer(Sampling::default(), 9);
    let usage = executed.usage;
    assert_eq!(
        (executed.prompt.len(), executed.answer.len()),
        (usage.prompt, usage.completion)
    );
    assert_eq!((executed.index, executed.max_tokens), (0, 9));
    assert_eq!(executed.reason, Some(FinishReason::Length));
    assert!(executed.own_seed);
    assert_eq!(executed.sampling.temperature, Some(1.0));
    assert!(!format!("{executed:?}").contains("prompt: ["));
    let own = answer(
        Sampling {
            seed: Some(3),
            ..Sampling::default()
        },
        9,
    );
    assert_eq!((own.own_seed, own.sampling.seed), (false, Some(3)));
}

#[test]
fn answers_of_one_witness_are_told_apart() {
    let witness = Witness::default();
    let asked = |max_tokens| Request {
        witness: Some(witness.clone()),
        ..ask(max_tokens)
    };
    let answers = [7, 5, 3].map(|max_tokens| TINY.answer(asked(max_tokens)).unwrap());
    for answer in answers {
        block_on_stream(answer).for_each(|event| drop(event.unwrap()));
    }
    let told: Vec<_> = witness
        .take()
        .iter()
        .map(|one| (one.index, one.max_tokens))
        .collect();
    assert_eq!(told, [(0, 7), (1, 5), (2, 3)]);
    assert!(witness.take().is_empty());
}

#[test]
fn every_answer_is_made_again() {
    let penalties = Sampling {
        temperature: Some(0.9),
        top_p: Some(0.95),
        top_k: Some(50),
        repetition_penalty: Some(1.1),
        presence_penalty: Some(0.2),
        frequency_penalty: Some(0.1),
        logit_bias: [(7, -3.0)].into(),
        ..Sampling::default()
    };
    let greedy = Sampling {
        temperature: Some(0.0),
        ..Sampling::default()
    };
    for (sampling, tokens) in [
        (Sampling::default(), 1),
        (Sampling::default(), 64),
        (Sampling::default(), 65),
        (penalties, 200),
        (greedy, 200),
    ] {
        assert_eq!(
            TINY.replay(again(&answer(sampling, tokens))).unwrap(),
            None,
            "{tokens}"
        );
    }
}

#[test]
fn an_answer_of_a_form_is_made_again_under_that_form() {
    let schema = serde_json::json!({"type": "array", "items": {"type": "boolean"}, "maxItems": 9});
    let witness = Witness::default();
    let request = Request {
        format: Format::Schema(schema),
        witness: Some(witness.clone()),
        ..ask(60)
    };
    block_on_stream(TINY.answer(request).unwrap()).for_each(|event| drop(event.unwrap()));
    let executed = witness.take().pop().unwrap();
    assert_eq!(TINY.replay(again(&executed)).unwrap(), None);
    let changes: [fn(&mut Replay); 2] = [
        |replay| replay.form = None,
        |replay| replay.form = Some("start: \"yes\"".into()),
    ];
    for change in changes {
        let mut replay = again(&executed);
        change(&mut replay);
        assert!(TINY.replay(replay).unwrap().is_some());
    }
    let nonsense = Replay {
        form: Some("start: (".into()),
        ..again(&executed)
    };
    let error = TINY.replay(nonsense).unwrap_err();
    assert!(matches!(error, ReplayError::Request(_)), "{error}");
}

#[test]
fn json_that_names_what_begins_a_call_is_made_again() {
    let schema = serde_json::json!({
        "type": "object",
        "properties": {"tag": {"const": "<tool_call>"}, "count": {"type": "integer"}},
        "required": ["tag", "count"],
    });
    let tool = Tool {
        name: "look".into(),
        description: None,
        parameters: None,
        strict: false,
    };
    for list in [Vec::new(), vec![tool]] {
        let witness = Witness::default();
        let request = Request {
            format: Format::Schema(schema.clone()),
            tools: Tools {
                list,
                ..Tools::default()
            },
            sampling: Sampling {
                // A number would go on, and a call not come.
                logit_bias: [(NINE, 100.0), (LESS, -100.0)].into(),
                ..Sampling::default()
            },
            witness: Some(witness.clone()),
            ..ask(200)
        };
        block_on_stream(TINY.answer(request).unwrap()).for_each(|event| drop(event.unwrap()));
        let executed = witness.take().pop().unwrap();
        let said = TINY.text(&executed.answer).unwrap();
        assert!(said.contains("<tool_call>"), "{}", *said);
        assert_eq!(said.matches('9').count(), 18, "{}", *said);
        assert_eq!(TINY.replay(again(&executed)).unwrap(), None);
    }
}

#[test]
fn the_first_other_token_is_named() {
    let executed = answer(Sampling::default(), 100);
    for index in [0, 63, 64, 99] {
        let mut replay = again(&executed);
        let expected = replay.answer[index];
        let found = (expected + 1) % 3000;
        replay.answer[index] = found;
        let difference = TINY.replay(replay).unwrap();
        assert_eq!(
            difference,
            Some(Difference {
                index,
                found,
                expected
            })
        );
    }
}

#[test]
fn another_seed_setting_or_prompt_is_noticed() {
    let executed = answer(Sampling::default(), 100);
    let changes: [fn(&mut Replay); 3] = [
        |replay| replay.sampling.seed = replay.sampling.seed.map(|seed| seed ^ 1),
        |replay| replay.sampling.temperature = Some(0.5),
        |replay| replay.prompt[4] ^= 1,
    ];
    for change in changes {
        let mut replay = again(&executed);
        change(&mut replay);
        assert!(TINY.replay(replay).unwrap().is_some());
    }
}

#[test]
fn other_weights_are_noticed() {
    let dir = tempfile::tempdir().unwrap();
    for file in fs::read_dir(tiny()).unwrap().map(Result::unwrap) {
        fs::copy(file.path(), dir.path().join(file.file_name())).unwrap();
    }
    fs::remove_file(dir.path().join("selftest.json")).unwrap();
    let weights = dir.path().join("model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let last = bytes.len() - 4096;
    bytes[last..].fill(0x3c);
    fs::write(&weights, bytes).unwrap();
    let other = Engine::load(dir.path()).unwrap();
    let replay = again(&answer(Sampling::default(), 100));
    assert!(other.replay(replay).unwrap().is_some());
}

#[test]
fn what_cannot_have_been_answered_is_refused() {
    let replay = again(&answer(Sampling::default(), 2));
    let error = |change: fn(&mut Replay)| {
        let mut replay = replay.clone();
        change(&mut replay);
        TINY.replay(replay).unwrap_err()
    };
    assert!(matches!(
        error(|replay| replay.sampling.seed = None),
        ReplayError::NoSeed
    ));
    assert!(matches!(
        error(|replay| replay.answer[1] = 3072),
        ReplayError::Token {
            found: 3072,
            vocabulary: 3072
        }
    ));
    let changes: [fn(&mut Replay); 3] = [
        |replay| replay.prompt.clear(),
        |replay| replay.answer.resize(5000, 0),
        |replay| replay.sampling.temperature = Some(f64::NAN),
    ];
    for change in changes {
        assert!(matches!(error(change), ReplayError::Request(_)));
    }
}

/// The tokens `9` and `<`.
const NINE: u32 = 27;
const LESS: u32 = 30;

static TINY: LazyLock<Engine> = LazyLock::new(|| Engine::load(&tiny()).unwrap());

fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/cocoon-tiny")
}

fn ask(max_tokens: usize) -> Request {
    Request {
        prompt: Prompt::Chat(vec![Message::new(
            Role::User,
            "Tell me about the house.".to_owned(),
        )]),
        max_tokens: Some(max_tokens),
        ..Request::default()
    }
}

/// What was executed for an answer of so many tokens; its end is not chosen.
fn answer(mut sampling: Sampling, max_tokens: usize) -> Executed {
    sampling.temperature.get_or_insert(1.0);
    sampling.logit_bias.extend([(0, -100.0), (2, -100.0)]);
    let witness = Witness::default();
    let request = Request {
        sampling,
        witness: Some(witness.clone()),
        ..ask(max_tokens)
    };
    block_on_stream(TINY.answer(request).unwrap()).for_each(|event: Result<Event, _>| {
        event.unwrap();
    });
    witness.take().pop().unwrap()
}

fn again(executed: &Executed) -> Replay {
    Replay {
        prompt: executed.prompt.clone(),
        answer: executed.answer.clone(),
        form: executed.form.as_deref().cloned(),
        sampling: executed.sampling.clone(),
    }
}
