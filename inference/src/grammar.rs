//! Answers that must have a form: which tokens may come next.
//!
//! A form is a grammar over bytes. Before each choice, the tokens that no text of
//! that form begins with are taken away; nothing else about the choice changes. The
//! library counts its steps, so a grammar that is too costly ends its own answer. An
//! answer that may call tools is any text, up to where a call begins.
//!
//! Where an answer must be JSON, and in every call, that is written with at most one
//! space after a comma or a colon, and a number has at most 18 digits in a row, an
//! exponent 2: a small model might never end otherwise.

mod form;
mod numbers;

use std::fmt;
use std::sync::Arc;

use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};

pub(crate) use self::form::{Form, apart, literal, loosely};
use self::numbers::Numbers;
use crate::error::{EngineError, RequestError};
use crate::schema::SchemaError;
use crate::tokens::Tokens;

/// Makes grammars for the tokens of one model.
pub(crate) struct Grammars {
    factory: ParserFactory,
    ends: Vec<u32>,
}

impl Grammars {
    /// `ends` are the tokens that end an answer.
    pub(crate) fn new(tokens: &Tokens, ends: &[u32]) -> Option<Self> {
        let words = tokens.words();
        let (end, size) = (*ends.first()?, u32::try_from(words.len()).ok()?);
        let ends: Vec<_> = ends.iter().copied().filter(|end| *end < size).collect();
        let trie = TokTrie::from(&TokRxInfo::new(size, end), &words);
        let trie = trie.with_eos_tokens(&ends);
        let environment: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let mut factory = ParserFactory::new_simple(&environment).ok()?;
        factory.quiet();
        *factory.limits_mut() = ParserLimits {
            max_grammar_size: 100_000,
            max_lexer_states: 10_000,
            verbose_errors: false,
            ..ParserLimits::default()
        };
        Some(Self { factory, ends })
    }

    /// Compiles what [`Form`] has put together.
    pub(crate) fn compile(&self, form: Form) -> Result<Grammar, RequestError> {
        let free = form.is_free();
        let parser = self
            .factory
            .create_parser(TopLevelGrammar::from_lark(form.lark));
        let refused = || RequestError::Schema {
            parameter: form.parameter,
            source: SchemaError::Costly,
        };
        // Its message may quote the schema.
        let parser = parser.map_err(|_| refused())?;
        let mut matcher = Matcher::new(Ok(parser));
        if matcher.compute_mask().is_err() {
            return Err(refused());
        }
        // All of any other form is JSON, which may have the marker in its strings.
        let marker = if free { form.marker } else { "" };
        Ok(Grammar {
            matcher,
            environment: self.factory.tok_env().clone(),
            ends: self.ends.clone(),
            free,
            numbers: Numbers::after(marker),
        })
    }
}

impl fmt::Debug for Grammars {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Grammars")
    }
}

/// A grammar, and how far an answer has come in it.
pub(crate) struct Grammar {
    matcher: Matcher,
    environment: TokEnv,
    ends: Vec<u32>,
    /// Whether it may be any text, but for calls in it.
    free: bool,
    numbers: Numbers,
}

impl Clone for Grammar {
    /// One that shares nothing: the steps of one answer count for no other.
    fn clone(&self) -> Self {
        Self {
            matcher: self.matcher.deep_clone(),
            environment: self.environment.clone(),
            ends: self.ends.clone(),
            free: self.free,
            numbers: self.numbers,
        }
    }
}

impl fmt::Debug for Grammar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Grammar")
    }
}

impl Grammar {
    /// Takes away the tokens that may not come next.
    pub(crate) fn mask(&mut self, logits: &mut [f32]) -> Result<(), EngineError> {
        let mask = self.matcher.compute_mask();
        let mask = mask.map_err(|_| EngineError::Constraint)?;
        let trie = self.environment.tok_trie();
        // A text may end anywhere, and a call nowhere before its end.
        let in_text = self.free && self.matcher.is_accepting().unwrap_or(false);
        // In a text anything fits; and unless something does, everything may come.
        let fits = |token: u32| in_text || self.numbers.fit(trie.token(token));
        let some_fit = mask.iter().any(fits);
        for (token, logit) in (0_u32..).zip(logits) {
            let known = usize::try_from(token).is_ok_and(|token| token < mask.len());
            if !known || !mask.is_allowed(token) || some_fit && !fits(token) {
                *logit = f32::NEG_INFINITY;
            }
        }
        Ok(())
    }

    /// Takes the token that was chosen.
    pub(crate) fn accept(&mut self, token: u32) -> Result<(), EngineError> {
        if self.ends.contains(&token) {
            return Ok(());
        }
        let bytes = self.environment.tok_trie().token(token);
        self.numbers.push(bytes);
        let accepted = self.matcher.consume_token(token);
        accepted.map_err(|_| EngineError::Constraint)
    }

    /// Whether nothing more can come.
    pub(crate) fn is_over(&self) -> bool {
        self.matcher.is_stopped()
    }
}

#[cfg(test)]
mod tests {
    use super::numbers::MAX_DIGITS;
    use super::*;
    use crate::calls::{Calls, Part};
    use crate::model_dir::ModelDir;
    use crate::request::Format;
    use crate::tools::tests::STYLES;
    use crate::tools::{Style, Tool, ToolChoice, Tools};
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn grammars() -> (Tokens, Grammars) {
        let tokens = Tokens::load(&ModelDir::new(&crate::self_test::tiny()), 3072).unwrap();
        let grammars = Grammars::new(&tokens, &[0, 2]).unwrap();
        (tokens, grammars)
    }

    fn compile(grammars: &Grammars, schema: &Value) -> Result<Grammar, RequestError> {
        let mut form = Form::new("response_format", None);
        let json = form.json(schema)?;
        grammars.compile(form.start(&json))
    }

    /// What a model writes that prefers the tokens with the largest hash.
    fn write(
        tokens: &Tokens,
        mut grammar: Grammar,
        salt: u32,
    ) -> Result<(String, bool), EngineError> {
        let mut bytes = Vec::new();
        for _ in 0..400 {
            let mut logits: Vec<f32> = (0..3072_u32)
                .map(|token| {
                    f32::from(
                        u16::try_from((token ^ salt).wrapping_mul(0x9e37_79b9) >> 16).unwrap(),
                    )
                })
                .collect();
            grammar.mask(&mut logits)?;
            let order = |a: &(u32, f32), b: &(u32, f32)| a.1.total_cmp(&b.1);
            let (token, logit) = (0..).zip(logits).max_by(order).unwrap();
            assert!(logit.is_finite());
            grammar.accept(token)?;
            if [0, 2].contains(&token) {
                return Ok((String::from_utf8(bytes).unwrap(), true));
            }
            bytes.extend_from_slice(tokens.bytes(token));
            if grammar.is_over() {
                return Ok((String::from_utf8(bytes).unwrap(), true));
            }
        }
        Ok((String::from_utf8_lossy(&bytes).into_owned(), false))
    }

    #[test]
    fn whatever_the_model_prefers_the_schema_is_followed() {
        let (tokens, grammars) = grammars();
        let schema = json!({
            "type": "object",
            "properties": {
                "count": {"type": "integer"},
                "size": {"type": "number"},
                "kind": {"enum": ["größer", "b"]},
                "flags": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3},
                "next": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/leaf"}]},
            },
            "required": ["count", "size", "kind", "flags", "next"],
            "$defs": {"leaf": {"type": "object", "properties": {"name": {"type": "string", "maxLength": 8}}, "required": ["name"]}},
        });
        for salt in 0..40 {
            let grammar = compile(&grammars, &schema).unwrap();
            let (text, ended) = write(&tokens, grammar, salt).unwrap();
            assert!(ended, "{text}");
            let value: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}"));
            let keys: Vec<_> = value.as_object().unwrap().keys().collect();
            assert_eq!(keys, ["count", "size", "kind", "flags", "next"]);
            assert!(["größer", "b"].contains(&value["kind"].as_str().unwrap()));
        }
    }

    #[test]
    fn a_number_ends_though_the_model_would_go_on() {
        let (tokens, grammars) = grammars();
        let mut grammar = compile(&grammars, &json!({"type": "number"})).unwrap();
        let nine = *tokens.encode_prompt("9").unwrap().first().unwrap();
        for _ in 0..MAX_DIGITS {
            let mut logits = vec![0.0; 3072];
            grammar.mask(&mut logits).unwrap();
            assert!(logits[usize::try_from(nine).unwrap()].is_finite());
            grammar.accept(nine).unwrap();
        }
        let mut logits = vec![0.0; 3072];
        grammar.mask(&mut logits).unwrap();
        assert!(logits[usize::try_from(nine).unwrap()].is_infinite());
        assert!(logits[0].is_finite() && logits[2].is_finite());
    }

    /// A form for answers that may call one tool, in one way of calling it.
    fn may_call(style: &Style, format: &Format, parallel: bool) -> Form {
        let tool = Tool {
            name: "look".into(),
            description: None,
            parameters: Some(json!({
                "type": "object",
                "properties": {"at": {"enum": ["sea", "sky"]}, "now": {"type": "integer"}},
                "required": ["at", "now"],
            })),
            strict: true,
        };
        let tools = Tools {
            list: vec![tool],
            choice: ToolChoice::Auto,
            parallel,
        };
        Form::of(format, &tools, Some(style)).unwrap().unwrap()
    }

    /// Has it say a text.
    fn say(tokens: &Tokens, grammar: &mut Grammar, text: &str) -> Result<(), EngineError> {
        for token in &*tokens.encode_prompt(text).unwrap() {
            let mut logits = vec![0.0; 3072];
            grammar.mask(&mut logits)?;
            if logits[usize::try_from(*token).unwrap()].is_infinite() {
                return Err(EngineError::Constraint);
            }
            grammar.accept(*token)?;
        }
        Ok(())
    }

    #[test]
    fn a_call_that_begins_follows_its_schema_to_the_end() {
        let (tokens, grammars) = grammars();
        for (style, parallel, salt) in STYLES
            .into_iter()
            .flat_map(|style| [(style, false), (style, true)])
            .flat_map(|(style, parallel)| (0..10).map(move |salt| (style, parallel, salt)))
        {
            let mut grammar = grammars
                .compile(may_call(style, &Format::Text, parallel))
                .unwrap();
            let begun = [style.open, style.before_name].concat();
            let (spoken, begun) = match style.marker {
                "" => (String::new(), begun + "look\""),
                marker => (
                    format!("It is 7 \"or\" so. {marker}"),
                    begun.replace(marker, ""),
                ),
            };
            say(&tokens, &mut grammar, &spoken).unwrap();
            assert!(style.marker.is_empty() || say(&tokens, &mut grammar.clone(), "{no").is_err());
            say(&tokens, &mut grammar, &begun).unwrap();
            let (said, _) = write(&tokens, grammar, salt).unwrap();
            let mut calls = Calls::new(style, vec!["look".into()]);
            let parts = calls.push(&[spoken, begun, said].concat());
            let call = parts.iter().position(|part| matches!(part, Part::Call(_)));
            let call = &parts[call.unwrap()..];
            assert_eq!(call[0], Part::Call("look".into()));
            let Part::Arguments(arguments) = &call[1] else {
                panic!("{call:?}")
            };
            let value: Value = serde_json::from_str(arguments).unwrap();
            assert!(["sea", "sky"].contains(&value["at"].as_str().unwrap()));
            assert!(value["now"].is_i64(), "{value}");
        }
    }

    #[test]
    fn before_a_call_anything_may_be_said() {
        let (tokens, grammars) = grammars();
        for (style, parallel) in STYLES
            .into_iter()
            .flat_map(|style| [(style, false), (style, true)])
        {
            let mut grammar = grammars
                .compile(may_call(style, &Format::Text, parallel))
                .unwrap();
            for text in [
                "{\"names\": 1234567890123456789012345",
                "{\"name\": \"Alice\", \"age\": 1234567890123456789012345, \"look\": \"look\"}",
                "{\"name\": \"looks\", \"parameters\": 7}",
                "}\n<tool <tool_cal> \u{fc}\n\n{\"name\": {\"no\"}",
            ] {
                say(&tokens, &mut grammar, text).unwrap();
            }
            let mut logits = vec![0.0; 3072];
            grammar.mask(&mut logits).unwrap();
            assert!(logits[0].is_finite() && logits[2].is_finite(), "it may end");
        }
    }

    #[test]
    fn json_that_names_no_tool_is_no_call_however_it_is_spaced() {
        let (tokens, grammars) = grammars();
        let llama = STYLES[1];
        for (text, is_call) in [
            ("{\"name\": \"Alice\"", false),
            ("{\"name\":\"lookout\"", false),
            ("\n { \"name\" :\"loo\"", false),
            ("{\"name\": \"look\"", true),
            ("{\"name\":\"look\"", true),
            ("\n { \"name\" :\"look\"", true),
        ] {
            let form = may_call(llama, &Format::Text, true);
            let mut grammar = grammars.compile(form).unwrap();
            say(&tokens, &mut grammar, text).unwrap();
            let other = say(&tokens, &mut grammar.clone(), ", \"age\": 3} is it.");
            assert_eq!(other.is_err(), is_call, "{text}");
            let call = ", \"parameters\": {\"at\": \"sea\", \"now\": 1}}";
            say(&tokens, &mut grammar, call).unwrap();
            let more = say(&tokens, &mut grammar, " and more");
            assert_eq!(more.is_err(), is_call, "{text}");
        }
    }

    #[test]
    fn an_answer_in_json_may_be_a_call_instead() {
        let (tokens, grammars) = grammars();
        for style in STYLES {
            let call = [style.open, style.before_name, "look", style.after_name].concat();
            for text in [
                "{\"answer\": [1, \"a\"]}",
                "{\"name\": \"Alice\", \"age\": 7}",
                &call,
            ] {
                let form = may_call(style, &Format::Json, true);
                let mut grammar = grammars.compile(form).unwrap();
                say(&tokens, &mut grammar, text).unwrap_or_else(|_| panic!("{style:?} {text}"));
            }
        }
    }

    #[test]
    fn a_number_in_a_call_within_text_ends_and_one_in_its_strings_may_go_on() {
        let (tokens, grammars) = grammars();
        let digits = "9".repeat(MAX_DIGITS);
        for style in STYLES {
            let said = ["I \"said ", &digits, "99 ", style.marker].concat();
            let said = if style.marker.is_empty() { "" } else { &said };
            let begun = [style.open, style.before_name, "look", style.after_name].concat();
            let begun = begun.replacen(style.marker, "", 1);
            let form = may_call(style, &Format::Text, true);
            let mut grammar = grammars.compile(form).unwrap();
            say(&tokens, &mut grammar, &[said, &begun].concat()).unwrap();
            say(&tokens, &mut grammar, "{\"at\": \"sea\", \"now\": ").unwrap();
            say(&tokens, &mut grammar, &digits).unwrap();
            assert!(
                say(&tokens, &mut grammar.clone(), "9").is_err(),
                "{style:?}"
            );
            say(&tokens, &mut grammar, "}").unwrap();
        }
    }

    #[test]
    fn of_a_schema_that_cannot_be_followed_any_object_is_left_unless_it_must_be() {
        let (tokens, grammars) = grammars();
        let mut tool = Tool {
            name: "look".into(),
            description: None,
            parameters: Some(json!({"type": "object", "not": {}})),
            strict: false,
        };
        let form = |tool: &Tool| {
            let tools = Tools {
                list: vec![tool.clone()],
                ..Tools::default()
            };
            Form::of(&Format::Text, &tools, Some(STYLES[0]))
        };
        let mut grammar = grammars.compile(form(&tool).unwrap().unwrap()).unwrap();
        let begun = "<tool_call>\n{\"name\": \"look\", \"arguments\": ";
        say(&tokens, &mut grammar, begun).unwrap();
        assert!(say(&tokens, &mut grammar.clone(), "7").is_err());
        say(&tokens, &mut grammar, "{\"what\": [7]}").unwrap();
        tool.strict = true;
        assert_eq!(
            form(&tool).map(drop).unwrap_err(),
            RequestError::Schema {
                parameter: "tools",
                source: SchemaError::Unsupported {
                    keyword: "not".into()
                },
            }
        );
    }

    #[test]
    fn after_the_only_call_there_is_no_other() {
        let (tokens, grammars) = grammars();
        let arguments = r#"{"at": "sea", "now": 1}"#;
        for style in STYLES {
            let call = [style.before_name, "look", style.after_name, arguments];
            let call = [&call.concat(), style.after_arguments].concat();
            let first = [style.open, &call].concat();
            for parallel in [false, true] {
                let mut grammar = grammars
                    .compile(may_call(style, &Format::Text, parallel))
                    .unwrap();
                say(&tokens, &mut grammar, &first).unwrap();
                let next = [style.between.unwrap_or_default(), &call].concat();
                let more = say(&tokens, &mut grammar, &next).is_ok();
                assert_eq!(more, parallel && style.between.is_some());
            }
        }
    }

    #[test]
    fn a_schema_that_nothing_follows_is_refused() {
        let (_, grammars) = grammars();
        let endless = json!({"anyOf": [{"$ref": "#"}]});
        let error = compile(&grammars, &endless).unwrap_err();
        let source = SchemaError::Costly;
        let parameter = "response_format";
        assert_eq!(error, RequestError::Schema { parameter, source });
    }

    #[test]
    fn a_hostile_schema_ends_its_own_answer_at_most() {
        let (tokens, grammars) = grammars();
        let wide: serde_json::Map<_, _> = (0..2000)
            .map(|index| {
                (
                    format!("p{index}"),
                    json!({"type": "string", "pattern": "^(a|b)*c{50}$"}),
                )
            })
            .collect();
        for schema in [
            json!({"type": "string", "pattern": "(((((a{99}){99}){99}){99}){99})"}),
            json!({"type": "string", "pattern": "^(a?){99}(b?){99}(.*c.*){30}$"}),
            json!({"type": "object", "properties": wide}),
        ] {
            match compile(&grammars, &schema) {
                Err(error) => assert!(matches!(error, RequestError::Schema { .. })),
                Ok(grammar) => {
                    let written = write(&tokens, grammar, 7);
                    assert!(matches!(written, Ok(_) | Err(EngineError::Constraint)));
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn no_schema_makes_it_panic(schema in schemas()) {
            let (tokens, grammars) = grammars();
            if let Ok(grammar) = compile(&grammars, &schema) {
                // Too many steps are an error of its own.
                write(&tokens, grammar, 7).unwrap_or_default();
            }
        }
    }

    /// Small schemas with keywords at the wrong places and odd values.
    fn schemas() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(json!({"type": "string", "minLength": 3, "maxLength": 2})),
            Just(json!({"type": ["integer", "null"], "minimum": 5, "maximum": 1})),
            Just(json!({"enum": [1, "x", null, {"é": [1.5e300]}]})),
            Just(json!({"const": "\u{0}\u{ffff}é\"\\"})),
            Just(json!({"$ref": "#"})),
            Just(json!({"format": "date-time"})),
            Just(json!(false)),
            "\\PC{0,8}".prop_map(|pattern| json!({"type": "string", "pattern": pattern})),
            (-1e9..1e9, -1e9..1e9)
                .prop_map(|(a, b)| json!({"type": "number", "minimum": a, "exclusiveMaximum": b})),
        ];
        leaf.prop_recursive(3, 12, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 1..4)
                    .prop_map(|any| json!({"anyOf": any})),
                (inner.clone(), 0..4_u32, 0..4_u32).prop_map(|(items, least, most)| json!({
                    "type": "array", "items": items, "minItems": least, "maxItems": most,
                })),
                (inner.clone(), inner, "\\PC{0,3}").prop_map(|(a, b, name)| json!({
                    "type": "object", "properties": {"a": a, (name): b}, "required": ["z", "a"],
                })),
            ]
        })
    }
}
