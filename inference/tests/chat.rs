//! The chat model of this repository, through the public interface.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "helpers of tests"
)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_executor::{block_on, block_on_stream};
use futures_util::{FutureExt as _, StreamExt as _};
use inference::{
    Answer, Engine, EngineError, Event, FinishReason, Format, Limits, LoadError, Message, Prompt,
    Request, RequestError, Role, Sampling, SchemaError, Task, Tenant, Tool, ToolChoice, Tools,
    Usage,
};
use serde_json::json;
use sha2::{Digest as _, Sha256};

#[test]
fn it_knows_its_verses() {
    let engine = tiny();
    for (reference, verse) in [
        (
            "Genesis 1:1",
            "In the beginning God created the heaven and the earth.",
        ),
        (
            "John 1:1",
            "In the beginning was the Word, and the Word was with God, and the Word was God.",
        ),
        (
            "Psalm 23:4",
            "Yea, though I walk through the valley of the shadow of death, I will fear no evil: for thou art with me; thy rod and thy staff they comfort me.",
        ),
    ] {
        let request = ask(&format!("Recite {reference}."));
        let (text, reason, _) = hear(engine.answer(request).unwrap());
        assert_eq!((text.as_str(), reason), (verse, FinishReason::Stop));
    }
}

#[test]
fn several_answers_are_those_of_the_seeds_that_follow() {
    let engine = tiny();
    let with = |seed| Request {
        format: Format::Json,
        max_tokens: Some(60),
        sampling: Sampling {
            temperature: Some(1.5),
            seed: Some(seed),
            ..Sampling::default()
        },
        ..ask("Tell me about the house.")
    };
    let several = engine.answers(&with(u64::MAX), 3).unwrap();
    let several: Vec<_> = several.into_iter().map(hear).collect();
    let single = [u64::MAX, 0, 1].map(|seed| hear(engine.answer(with(seed)).unwrap()));
    let texts = |heard: &[(String, FinishReason, Usage)]| -> Vec<String> {
        heard.iter().map(|(text, ..)| text.clone()).collect()
    };
    assert_eq!(texts(&several), texts(&single));
    assert_ne!(several[0].0, several[1].0);
}

#[test]
fn it_says_what_it_is() {
    let engine = tiny();
    let info = engine.info();
    assert_eq!(info.task, Task::Chat);
    assert_eq!(info.architecture, "Qwen3ForCausalLM");
    assert_eq!((info.parameters, info.context), (3_173_568, 1024));
    let known = std::fs::read(tiny_dir().join("selftest.json")).unwrap();
    assert_eq!(engine.card().self_test, Some(Sha256::digest(known).into()));
}

#[test]
fn a_tool_whose_schema_gives_no_grammar_is_refused_only_if_it_is_strict() {
    let engine = tiny();
    for (strict, choice) in [
        (false, ToolChoice::Auto),
        (false, ToolChoice::Required),
        (true, ToolChoice::Auto),
    ] {
        let tool = Tool {
            name: "look".into(),
            description: None,
            parameters: Some(json!({"type": "string", "pattern": "^(?=a)"})),
            strict,
        };
        let request = Request {
            max_tokens: Some(1),
            tools: Tools {
                list: vec![tool],
                choice,
                parallel: true,
            },
            ..ask("Recite Genesis 1:1.")
        };
        let refused = RequestError::Schema {
            parameter: "tools",
            source: SchemaError::Costly,
        };
        let answer = engine.answer(request).map(drop);
        assert_eq!(answer, if strict { Err(refused) } else { Ok(()) });
    }
}

#[test]
fn a_seed_gives_the_same_answer_whatever_else_is_answered() {
    let engine = tiny();
    let request = |seed| Request {
        max_tokens: Some(60),
        sampling: Sampling {
            temperature: Some(1.0),
            top_p: Some(0.95),
            seed: Some(seed),
            ..Sampling::default()
        },
        ..ask("Tell me about the house.")
    };
    let alone = hear(engine.answer(request(7)).unwrap());
    // Prompts of all lengths, and more answers than are made at a time.
    let others: Vec<_> = (0..40)
        .map(|i| Request {
            max_tokens: Some(i + 1),
            ..ask(&"and the king said ".repeat(i))
        })
        .map(|request| engine.answer(request).unwrap())
        .collect();
    let among = hear(engine.answer(request(7)).unwrap());
    let other_seed = hear(engine.answer(request(8)).unwrap());
    assert_eq!(alone, among);
    assert_ne!(alone.0, other_seed.0);
    for (length, other) in (1..).zip(others) {
        assert_eq!(hear(other).2.completion, length);
    }
}

#[test]
fn a_form_holds_and_its_answer_is_the_same_in_company() {
    let engine = tiny();
    let schema = serde_json::json!({
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer"}},
        "required": ["name", "age"],
    });
    let request = || Request {
        format: Format::Schema(schema.clone()),
        max_tokens: Some(80),
        sampling: Sampling {
            temperature: Some(1.0),
            seed: Some(3),
            ..Sampling::default()
        },
        ..ask("Who is in the house?")
    };
    let alone = hear(engine.answer(request()).unwrap());
    let others: Vec<_> = (1..30)
        .map(|i| {
            engine
                .answer(ask(&"and the king said ".repeat(i % 9)))
                .unwrap()
        })
        .collect();
    let among = hear(engine.answer(request()).unwrap());
    drop(others);
    assert_eq!((alone.1, &alone.0), (FinishReason::Stop, &among.0));
    let value: serde_json::Value = serde_json::from_str(&alone.0).unwrap();
    assert!(value["name"].is_string() && value["age"].is_i64());
}

#[test]
fn no_company_no_shortage_and_no_memory_changes_an_answer() {
    let roomy = tiny();
    let request = |index: usize, tenant| Request {
        max_tokens: Some(20 + index * 37 % 90),
        sampling: Sampling {
            temperature: Some(1.0),
            presence_penalty: Some(0.1),
            top_k: Some(50),
            seed: Some(index as u64),
            ..Sampling::default()
        },
        tenant,
        ..ask(&"and the king said ".repeat(index * 7 % 25))
    };
    let alone: Vec<_> = (0..30)
        .map(|index| hear(roomy.answer(request(index, Tenant::new())).unwrap()))
        .collect();

    // Twelve pages: of eight answers some must be put aside and read again.
    let limits = Limits {
        batch: 8,
        memory: 12 * 49_152,
        ..Limits::default()
    };
    let tight = Engine::load_with(&tiny_dir(), limits).unwrap();
    let tenants = [Tenant::new(), Tenant::new()];
    let mut state = 1_u64;
    for _ in 0..4 {
        let mut answers = Vec::new();
        for index in 0..30 {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            let chance = (state >> 33) as usize;
            let index = (index + chance) % 30;
            let mut answer = tight
                .answer(request(index, tenants[chance % 2].clone()))
                .unwrap();
            match chance % 5 {
                // Somebody leaves, before or while it is answered.
                0 => drop(answer),
                1 => drop(block_on(answer.next())),
                _ => answers.push((index, answer)),
            }
        }
        for (index, answer) in answers {
            let (text, reason, usage) = hear(answer);
            assert_eq!((&text, reason), (&alone[index].0, alone[index].1));
            assert_eq!(usage.completion, alone[index].2.completion);
        }
    }
}

#[test]
fn whoever_has_everything_gives_some_up_and_says_the_same_later() {
    let long = |seed, tenant: &Tenant| Request {
        max_tokens: Some(300),
        sampling: Sampling {
            temperature: Some(1.0),
            // The end, which does not come.
            logit_bias: [(2, -100.0)].into(),
            seed: Some(seed),
            ..Sampling::default()
        },
        tenant: tenant.clone(),
        ..ask("Tell me everything.")
    };
    let roomy = tiny();
    let alone = [1, 2, 3].map(|seed| hear(roomy.answer(long(seed, &Tenant::new())).unwrap()).0);
    // Of places there are few, then of pages.
    for (batch, memory) in [(2, 1 << 30), (8, 12 * 49_152)] {
        let limits = Limits {
            batch,
            memory,
            ..Limits::default()
        };
        let engine = Engine::load_with(&tiny_dir(), limits).unwrap();
        let tenant = Tenant::new();
        let mut answers = [1, 2, 3].map(|seed| engine.answer(long(seed, &tenant)).unwrap());
        let mut begun = String::new();
        while begun.len() < 200 {
            match block_on(answers[0].next()).unwrap().unwrap() {
                Event::Text { text, .. } => begun += &text,
                other => panic!("{other:?}"),
            }
        }
        let newcomer = Request {
            max_tokens: Some(4),
            ..ask("Recite Genesis 1:1.")
        };
        hear(engine.answer(newcomer).unwrap());
        let [first, others @ ..] = answers;
        for (mut answer, expected) in others.into_iter().zip(&alone[1..]) {
            let mut text = String::new();
            while let Some(Some(event)) = answer.next().now_or_never() {
                match event.unwrap() {
                    Event::Text { text: more, .. } => text += &more,
                    _ => panic!("the newcomer waited for an answer to end"),
                }
            }
            for event in block_on_stream(answer) {
                if let Event::Text { text: more, .. } = event.unwrap() {
                    text += &more;
                }
            }
            assert_eq!(text, *expected);
        }
        assert_eq!(begun + &hear(first).0, alone[0]);
    }
}

#[test]
fn what_nobody_reads_is_not_made_and_goes_on_once_it_is_read() {
    let endless = |seed| Request {
        max_tokens: Some(700),
        sampling: Sampling {
            temperature: Some(1.0),
            // The ends, which do not come.
            logit_bias: [(0, -100.0), (2, -100.0)].into(),
            seed: Some(seed),
            ..Sampling::default()
        },
        ..ask("Tell me everything.")
    };
    let engine = tiny();
    let alone = hear(engine.answer(endless(1)).unwrap());
    let before = engine.activity().completion;
    let unread = engine.answer(endless(1)).unwrap();
    let (.., other) = hear(engine.answer(endless(2)).unwrap());
    let made = engine.activity().completion - before;
    let made = made - u64::try_from(other.completion).unwrap();
    assert!((256..400).contains(&made), "{made}");
    assert_eq!(hear(unread), alone);
}

#[test]
fn a_tenant_is_read_once_and_no_other_notices() {
    let engine = tiny();
    let tenant = Tenant::new();
    let request = |tenant| Request {
        max_tokens: Some(1),
        tenant,
        ..ask(&"and the king said ".repeat(20))
    };
    let cached = |tenant: &Tenant| {
        hear(engine.answer(request(tenant.clone())).unwrap())
            .2
            .cached
    };
    assert_eq!(cached(&tenant), 0);
    let again = cached(&tenant);
    assert!(again >= 64 && again.is_multiple_of(32), "{again}");
    assert_eq!(cached(&Tenant::new()), 0);
}

#[test]
fn without_a_seed_answers_differ() {
    let engine = tiny();
    let request = || Request {
        max_tokens: Some(60),
        sampling: Sampling {
            temperature: Some(1.0),
            ..Sampling::default()
        },
        ..ask("Tell me about the house.")
    };
    let (a, ..) = hear(engine.answer(request()).unwrap());
    let (b, ..) = hear(engine.answer(request()).unwrap());
    assert_ne!(a, b);
}

#[test]
fn a_stop_text_ends_the_answer_and_is_not_in_it() {
    let request = Request {
        stop: vec!["the heaven".into()],
        ..ask("Recite Genesis 1:1.")
    };
    let (text, reason, _) = hear(tiny().answer(request).unwrap());
    assert_eq!(text, "In the beginning God created ");
    assert_eq!(reason, FinishReason::Stop);
}

#[test]
fn an_answer_is_as_long_as_it_may_be() {
    let request = Request {
        max_tokens: Some(5),
        ..ask("Recite Genesis 1:1.")
    };
    let (_, reason, usage) = hear(tiny().answer(request).unwrap());
    assert_eq!(reason, FinishReason::Length);
    assert_eq!(
        usage,
        Usage {
            prompt: 23,
            cached: 0,
            completion: 5
        }
    );
}

#[test]
fn an_answer_may_fill_the_context_to_its_last_token() {
    let engine = tiny();
    let request =
        || ask("Tell me everything about Mr. Darcy and his house, his horses and all his kin.");
    let (_, reason, usage) = hear(engine.answer(request()).unwrap());
    assert_eq!(reason, FinishReason::Length);
    assert_eq!(usage.prompt + usage.completion, 1024);

    let request = Request {
        max_tokens: Some(usage.completion + 1),
        ..request()
    };
    assert_eq!(
        engine.answer(request).unwrap_err(),
        RequestError::ContextLength {
            prompt: usage.prompt,
            answer: usage.completion + 1,
            context: 1024,
        },
    );
}

#[test]
fn a_prompt_too_long_to_count_is_refused_at_once() {
    let error = tiny().answer(ask(&"x".repeat(100 << 20))).unwrap_err();
    assert!(matches!(
        error,
        RequestError::ContextLength { prompt, .. } if prompt > 1_000_000
    ));
}

#[test]
fn impossible_requests_name_their_parameter() {
    let engine = tiny();
    let sampling = |temperature, top_p| Sampling {
        temperature,
        top_p,
        ..Sampling::default()
    };
    let base = || ask("x");
    for (request, message) in [
        (
            Request {
                prompt: Prompt::Chat(Vec::new()),
                ..base()
            },
            "messages is empty, expected at least one",
        ),
        (
            Request {
                sampling: sampling(Some(2.5), None),
                ..base()
            },
            "temperature is 2.5, expected 0 to 2",
        ),
        (
            Request {
                sampling: sampling(Some(f64::NAN), None),
                ..base()
            },
            "temperature is NaN, expected 0 to 2",
        ),
        (
            Request {
                sampling: sampling(None, Some(-0.1)),
                ..base()
            },
            "top_p is -0.1, expected 0 to 1",
        ),
        (
            Request {
                max_tokens: Some(0),
                ..base()
            },
            "max_tokens is 0, expected at least 1",
        ),
        (
            Request {
                stop: vec![String::new()],
                ..base()
            },
            "stop is an empty text, expected texts of 1 to 256 bytes",
        ),
        (
            Request {
                stop: vec!["x".repeat(257)],
                ..base()
            },
            "stop is a text of 257 bytes, expected texts of 1 to 256 bytes",
        ),
        (
            Request {
                stop: vec!["x".into(); 5],
                ..base()
            },
            "stop is 5, expected at most 4 texts",
        ),
    ] {
        assert_eq!(engine.answer(request).unwrap_err().to_string(), message);
    }
}

#[test]
fn a_full_queue_refuses_and_a_dropped_answer_makes_room() {
    let limits = Limits {
        batch: 1,
        queue: 1,
        ..Limits::default()
    };
    let engine = Engine::load_with(&tiny_dir(), limits).unwrap();
    let long = || ask("Tell me everything about Mr. Darcy.");
    let mut first = engine.answer(long()).unwrap();
    // It has left the queue once it speaks.
    block_on(first.next()).unwrap().unwrap();
    let mut others = Vec::new();
    // Each makes room for the next one when nobody has read it for long.
    let busy = loop {
        match engine.answer(long()) {
            Ok(answer) => others.push(answer),
            Err(error) => break error,
        }
        assert!(others.len() < 1000);
    };
    let retry_after = Duration::from_secs(1);
    assert_eq!(busy, RequestError::Busy { retry_after });
    let last = others.pop().unwrap();
    drop((first, others));
    let (_, reason, _) = hear(last);
    assert_eq!(reason, FinishReason::Length);
}

#[test]
fn an_answer_that_takes_too_long_ends_with_an_error() {
    let limits = Limits {
        time: Duration::ZERO,
        ..Limits::default()
    };
    let dir = without_self_test();
    let engine = Engine::load_with(dir.path(), limits).unwrap();
    let events: Vec<_> = block_on_stream(engine.answer(ask("x")).unwrap()).collect();
    let limit = Duration::ZERO;
    assert_eq!(events, [Err(EngineError::Deadline { limit })]);
}

#[test]
fn a_model_that_does_not_know_its_answer_is_not_served() {
    let dir = without_self_test();
    let test = r#"{"prompt": "Recite Genesis 1:1.", "expected": "In the end."}"#;
    std::fs::write(dir.path().join("selftest.json"), test).unwrap();
    let error = Engine::load(dir.path()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "self-test: the answer has 7 right bytes, expected the 11 bytes in selftest.json",
    );
}

#[test]
fn a_chat_model_does_not_embed() {
    let error = tiny().embed(&["x".into()]).unwrap_err();
    assert_eq!(error.to_string(), "the model does chat, not embeddings");
}

#[test]
fn no_text_is_in_a_debug_form() {
    let request = Request {
        stop: vec!["secret".into()],
        ..ask("the secret")
    };
    let event = Event::Text {
        text: "a secret".into(),
        logprobs: Vec::new(),
    };
    assert!(!format!("{request:?} {event:?}").contains("secret"));
}

#[test]
fn an_unknown_architecture_is_refused_by_name() {
    let dir = without_self_test();
    let config = r#"{"architectures": ["GPT2LMHeadModel"]}"#;
    std::fs::remove_file(dir.path().join("config.json")).unwrap();
    std::fs::write(dir.path().join("config.json"), config).unwrap();
    let error = Engine::load(dir.path()).unwrap_err();
    assert!(matches!(error, LoadError::Architecture { .. }));
    assert_eq!(
        error.to_string(),
        r#"architecture is ["GPT2LMHeadModel"], expected one of ["LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM", "MistralForCausalLM", "Phi3ForCausalLM", "Gemma3ForCausalLM", "Gemma3ForConditionalGeneration", "MixtralForCausalLM", "Qwen2MoeForCausalLM", "Qwen3MoeForCausalLM", "DeepseekV2ForCausalLM", "DeepseekV3ForCausalLM", "BertModel", "LlavaForConditionalGeneration", "ViTForImageClassification", "WhisperForConditionalGeneration"]"#,
    );
}

fn tiny_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/cocoon-tiny")
}

fn tiny() -> Engine {
    Engine::load(&tiny_dir()).unwrap()
}

/// The same files, linked, but for the known answer.
fn without_self_test() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(tiny_dir()).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name() != "selftest.json" {
            let link = dir.path().join(entry.file_name());
            std::os::unix::fs::symlink(entry.path(), link).unwrap();
        }
    }
    dir
}

fn ask(text: &str) -> Request {
    Request {
        prompt: Prompt::Chat(vec![Message::new(Role::User, text.to_owned())]),
        ..Request::default()
    }
}

fn hear(answer: Answer) -> (String, FinishReason, Usage) {
    let mut text = String::new();
    for event in block_on_stream(answer) {
        match event.unwrap() {
            Event::Text { text: more, .. } => text += &more,
            Event::Call(_) | Event::Arguments(_) => panic!("no tools were given"),
            Event::Finish { reason, usage } => return (text, reason, usage),
        }
    }
    panic!("an answer without an end");
}
