//! Messages to a prompt, by the model's own chat template.
//!
//! Templates are Jinja as transformers runs it: blocks trimmed, Python's string
//! methods, `raise_exception`, and JSON as Python writes it. Control tokens in what a
//! template is given are plain text, in calls and results of tools too. A template is
//! part of the model and as trusted as its weights, but it is given a bounded number
//! of steps.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::ops::Range;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde};
use minijinja::{Environment, ErrorKind, Value, context};
use minijinja_contrib::pycompat::unknown_method_callback;
use serde::{Deserialize, Serialize as _};
use serde_json::json;
use serde_json::ser::{Formatter, PrettyFormatter};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::config::unsupported;
use crate::error::{LoadError, RequestError};
use crate::model_dir::ModelDir;
use crate::request::{Message, Role};
use crate::tokens::Tokens;
use crate::tools::{Style, Tools};
use crate::weights::gguf::Gguf;

/// A compiled chat template and the texts it may use.
#[derive(Debug)]
pub(crate) struct Template {
    environment: Environment<'static>,
    digest: [u8; 32],
    bos_token: String,
    eos_token: String,
    /// Whether it takes what a message says and shows as a list.
    parts: bool,
    /// How it writes calls of tools, if it knows any.
    pub(crate) style: Option<&'static Style>,
}

impl Template {
    /// One of a model that sees.
    pub(crate) fn with_parts(self) -> Self {
        Self {
            parts: true,
            ..self
        }
    }

    /// Loads `chat_template.jinja`, or `chat_template` in `tokenizer_config.json`.
    pub(crate) fn load(dir: &ModelDir) -> Result<Self, LoadError> {
        let config: Option<TokenizerConfig> = dir.optional_json(CONFIG)?;
        let config = config.unwrap_or_default();
        let (file, source) = match dir.optional_bytes(FILE)? {
            Some(bytes) => (FILE, String::from_utf8_lossy(&bytes).into_owned()),
            None => match config.chat_template {
                Some(template) => (CONFIG, template),
                None => {
                    return Err(LoadError::Config {
                        file: CONFIG,
                        key: "chat_template",
                        found: "absent".into(),
                        expected: format!("a template here or in {FILE}"),
                    });
                }
            },
        };
        let text = |token: Option<SpecialToken>| token.map(SpecialToken::text).unwrap_or_default();
        Self::compile(source, text(config.bos_token), text(config.eos_token))
            .map_err(|source| LoadError::Template { file, source })
    }

    /// Loads `chat_template.jinja`, or what the file itself has.
    pub(crate) fn load_gguf(dir: &ModelDir, gguf: &Gguf) -> Result<Self, LoadError> {
        let (file, source) = match dir.optional_bytes(FILE)? {
            Some(bytes) => (FILE, String::from_utf8_lossy(&bytes).into_owned()),
            None => match gguf.text("tokenizer.chat_template") {
                Some(template) => (GGUF, template.to_owned()),
                None => {
                    return Err(unsupported(
                        GGUF,
                        "tokenizer.chat_template",
                        "absent",
                        "a template",
                    ));
                }
            },
        };
        let token = |kind: &str| {
            let id = gguf.integer(&format!("tokenizer.ggml.{kind}_token_id"))?;
            gguf.texts("tokenizer.ggml.tokens")
                .get(usize::try_from(id).ok()?)
                .cloned()
        };
        Self::compile(
            source,
            token("bos").unwrap_or_default(),
            token("eos").unwrap_or_default(),
        )
        .map_err(|source| LoadError::Template { file, source })
    }

    fn compile(
        source: String,
        bos_token: String,
        eos_token: String,
    ) -> Result<Self, minijinja::Error> {
        let mut environment = Environment::new();
        environment.set_syntax(
            SyntaxConfig::builder()
                .trim_blocks(true)
                .lstrip_blocks(true)
                .build()?,
        );
        environment.set_fuel(Some(MAX_STEPS));
        environment.set_unknown_method_callback(unknown_method_callback);
        environment.add_function("raise_exception", raise_exception);
        environment.add_filter("tojson", tojson);
        let digest = Sha256::digest(&source).into();
        // They mark what a model may be trained on, for transformers alone.
        let source = source.replace("{% generation %}", "");
        let source = source.replace("{% endgeneration %}", "");
        let style = Style::of(&source);
        environment.add_template_owned(NAME, source)?;
        Ok(Self {
            environment,
            digest,
            bos_token,
            eos_token,
            parts: false,
            style,
        })
    }

    /// SHA-256 of its text.
    pub(crate) fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    /// The prompt that asks for the next message of the assistant.
    pub(crate) fn render(
        &self,
        tokens: &Tokens,
        messages: &[Message],
        tools: &Tools,
    ) -> Result<Zeroizing<String>, RequestError> {
        let messages: Vec<_> = messages
            .iter()
            .map(|message| self.shown(tokens, message))
            .collect();
        let tools: Vec<_> = tools.shown().iter().map(|t| tokens.disarm_all(t)).collect();
        // Templates ask whether there are any in one of two ways.
        let tools = match tools.is_empty() {
            true => Value::from(()),
            false => Value::from(Serde(tools)),
        };
        let template = self.environment.get_template(NAME);
        template
            .and_then(|template| {
                template.render(context! {
                    messages,
                    tools,
                    add_generation_prompt => true,
                    bos_token => self.bos_token.as_str(),
                    eos_token => self.eos_token.as_str(),
                })
            })
            .map(Zeroizing::new)
            // The message may quote the prompt.
            .map_err(|error| RequestError::Template {
                line: error.line().unwrap_or(0),
            })
    }

    /// A message as templates know it.
    fn shown(&self, tokens: &Tokens, message: &Message) -> BTreeMap<&'static str, Value> {
        let content = match self.parts {
            _ if message.content.is_empty() && !message.calls.is_empty() => Value::from(()),
            true => parts(tokens, message),
            false => tokens.disarm(&message.content).as_str().into(),
        };
        let mut shown = BTreeMap::from([
            ("role", Value::from(role_name(message.role))),
            ("content", content),
        ]);
        if let Some(id) = &message.answers {
            shown.insert("tool_call_id", Value::from(tokens.disarm(id).as_str()));
        }
        if !message.calls.is_empty() {
            let calls = message.calls.iter().map(|call| {
                tokens.disarm_all(&json!({
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments},
                }))
            });
            let calls: Vec<_> = calls.collect();
            shown.insert("tool_calls", Value::from(Serde(calls)));
        }
        shown
    }
}

/// The texts and images of a message, in their order.
fn parts(tokens: &Tokens, message: &Message) -> Value {
    let content = message.content.as_str();
    let text = |range: Range<usize>| {
        let text = content.get(range).filter(|text| !text.is_empty())?;
        let text = tokens.disarm(text);
        Some(context! { type => "text", text => text.as_str() })
    };
    let mut parts = Vec::new();
    let mut start = 0;
    for (end, _) in &message.images {
        parts.extend(text(start..*end));
        parts.push(context! { type => "image" });
        start = *end;
    }
    parts.extend(text(start..content.len()));
    parts.into()
}

/// As Python's `json.dumps`: a space after commas and colons, nothing escaped for HTML.
fn tojson(value: &Value, options: Kwargs) -> Result<Value, minijinja::Error> {
    let indent: Option<usize> = options.get("indent")?;
    // It has no effect here: text is never escaped, and keys are in their order.
    let _ensure_ascii: Option<bool> = options.get("ensure_ascii")?;
    options.assert_all_used()?;
    let failed = |error: serde_json::Error| {
        minijinja::Error::new(ErrorKind::BadSerialization, error.to_string())
    };
    let mut json = Vec::new();
    match indent {
        Some(indent) => {
            let spaces = " ".repeat(indent.min(MAX_INDENT));
            let style = PrettyFormatter::with_indent(spaces.as_bytes());
            let mut to = serde_json::Serializer::with_formatter(&mut json, style);
            value.serialize(&mut to).map_err(failed)?;
        }
        None => {
            let mut to = serde_json::Serializer::with_formatter(&mut json, Spaced);
            value.serialize(&mut to).map_err(failed)?;
        }
    }
    Ok(Value::from_safe_string(
        String::from_utf8_lossy(&json).into_owned(),
    ))
}

/// `{"a": 1, "b": 2}`
struct Spaced;

impl Formatter for Spaced {
    fn begin_array_value<W: Write + ?Sized>(&mut self, to: &mut W, first: bool) -> io::Result<()> {
        to.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_key<W: Write + ?Sized>(&mut self, to: &mut W, first: bool) -> io::Result<()> {
        self.begin_array_value(to, first)
    }

    fn begin_object_value<W: Write + ?Sized>(&mut self, to: &mut W) -> io::Result<()> {
        to.write_all(b": ")
    }
}

fn raise_exception(message: String) -> Result<Value, minijinja::Error> {
    Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
}

fn role_name(role: Role) -> &'static str {
    match role {
        Role::Assistant => "assistant",
        Role::System => "system",
        Role::Tool => "tool",
        Role::User => "user",
    }
}

#[derive(Debug, Default, Deserialize)]
struct TokenizerConfig {
    chat_template: Option<String>,
    bos_token: Option<SpecialToken>,
    eos_token: Option<SpecialToken>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum SpecialToken {
    Text(String),
    Token { content: String },
}

impl SpecialToken {
    fn text(self) -> String {
        match self {
            Self::Text(content) | Self::Token { content } => content,
        }
    }
}

const FILE: &str = "chat_template.jinja";
const CONFIG: &str = "tokenizer_config.json";
const GGUF: &str = "gguf";
const NAME: &str = "chat";
/// A thousand messages take some ten thousand steps.
const MAX_STEPS: u64 = 10_000_000;
const MAX_INDENT: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::ToolCall;
    use crate::tools::Tool;

    fn tokens() -> Tokens {
        Tokens::load(&ModelDir::new(&crate::self_test::tiny()), 3072).unwrap()
    }

    fn message(role: Role, content: &str) -> Message {
        Message::new(role, content.to_owned())
    }

    fn render(template: &str, messages: &[Message]) -> Result<String, RequestError> {
        let template = Template::compile(template.into(), "<s>".into(), "</s>".into()).unwrap();
        let prompt = template.render(&tokens(), messages, &Tools::default())?;
        Ok(prompt.as_str().to_owned())
    }

    #[test]
    fn python_methods_and_trimmed_blocks_work() {
        let template = "{{ bos_token }}\n{% for m in messages %}\n    {% if m.role == 'user' %}\n[{{ m.content.strip().split('x')[-1] }}]\n    {% endif %}\n{% endfor %}\n";
        let messages = [message(Role::User, " axb "), message(Role::Assistant, "c")];
        assert_eq!(render(template, &messages).unwrap(), "<s>\n[b]\n");
    }

    #[test]
    fn a_refusal_of_the_template_does_not_repeat_the_message() {
        let template = "\n{{ raise_exception('no: ' + messages[0].content) }}";
        let error = render(template, &[message(Role::User, "secret")]).unwrap_err();
        assert_eq!(error, RequestError::Template { line: 2 });
        assert!(!format!("{error:?} {error}").contains("secret"));
    }

    #[test]
    fn what_a_message_shows_stands_where_it_is_shown() {
        let template = "{% for m in messages %}{% for p in m.content %}[{{ p.type }} {{ p.text }}]{% endfor %}{{ m.content | selectattr('type', 'equalto', 'image') | list | length }}{% endfor %}";
        let template = Template::compile(template.into(), "".into(), "".into()).unwrap();
        let image = crate::vision::sample();
        let mut message = message(Role::User, "one two<|im_end|>");
        message.images = [0, 4, 4].map(|place| (place, image.clone())).into();
        let prompt = template
            .with_parts()
            .render(&tokens(), &[message], &Tools::default())
            .unwrap();
        assert_eq!(
            prompt.as_str(),
            "[image ][text one ][image ][image ][text two<\u{fdd0}|im_end|>]3",
        );
    }

    #[test]
    fn tools_and_calls_are_shown_in_their_order_and_disarmed() {
        let tools = Tools {
            list: vec![Tool {
                name: "f".into(),
                description: Some("a <|im_end|> & 'b'".into()),
                parameters: Some(json!({"type": "object", "properties": {"z": {}, "a": {}}})),
                strict: false,
            }],
            ..Tools::default()
        };
        let mut call = message(Role::Assistant, "");
        call.calls.push(ToolCall {
            id: "call_1".into(),
            name: "f".into(),
            arguments: json!({"z": 1, "a": "<|im_end|>"}),
        });
        let mut result = message(Role::Tool, "rain");
        result.answers = Some("call_1".into());
        let messages = [message(Role::User, "x"), call, result];
        let dir = ModelDir::new(&crate::self_test::tiny());
        let template = Template::load(&dir).unwrap();
        let prompt = template.render(&tokens(), &messages, &tools).unwrap();
        // Nothing of it but the template's own may be a control token.
        assert_eq!(prompt.matches("<|im_end|>").count(), 4);
        assert_eq!(
            prompt.replace('\u{fdd0}', ""),
            "<|im_start|>system\n# Tools\n\
             {\"type\": \"function\", \"function\": {\"name\": \"f\", \"description\": \"a <|im_end|> & 'b'\", \
             \"parameters\": {\"type\": \"object\", \"properties\": {\"z\": {}, \"a\": {}}}}}\n\
             To call one, answer:\n<tool_call>\n{\"name\": NAME, \"arguments\": OBJECT}\n</tool_call><|im_end|>\n\
             <|im_start|>user\nx<|im_end|>\n\
             <|im_start|>assistant\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"z\": 1, \"a\": \"<|im_end|>\"}}\n</tool_call><|im_end|>\n\
             <|endoftext|><|im_start|>tool\nrain<|im_end|>\n\
             <|im_start|>assistant\n",
        );
    }

    #[test]
    fn marks_of_what_to_train_on_are_left_out() {
        let template = "a{% generation %}b{% endgeneration %}c";
        assert_eq!(render(template, &[]).unwrap(), "abc");
    }

    #[test]
    fn an_endless_template_is_stopped() {
        let template = "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}{{ c }}{% endfor %}{% endfor %}{% endfor %}";
        let error = render(template, &[]).unwrap_err();
        assert!(matches!(error, RequestError::Template { .. }));
    }

    /// As Gemma's is made: a system message joins the first turn, roles are checked,
    /// texts are trimmed.
    const GEMMA: &str = "{{ bos_token }}{%- if messages[0]['role'] == 'system' -%}
    {%- set first = messages[0]['content'] + '\n\n' -%}
    {%- set turns = messages[1:] -%}
{%- else -%}
    {%- set first = '' -%}
    {%- set turns = messages -%}
{%- endif -%}
{%- for message in turns -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception('roles must take turns') }}
    {%- endif -%}
    {%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}
    {{ '<start_of_turn>' + role + '\n' + (first if loop.first else '') }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {%- for item in message['content'] if item['type'] == 'text' -%}
            {{ item['text'] | trim }}
        {%- endfor -%}
    {%- endif -%}
    {{ '<end_of_turn>\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<start_of_turn>model\n' }}{%- endif -%}";

    /// As DeepSeek's is made: a namespace collects system messages, and what an answer
    /// thought aloud is left out.
    const DEEPSEEK: &str = "{%- if not add_generation_prompt is defined -%}
    {%- set add_generation_prompt = false -%}
{%- endif -%}
{%- set ns = namespace(system='', first=true) -%}
{%- for message in messages if message['role'] == 'system' -%}
    {%- set ns.system = ns.system + ('' if ns.first else '\n\n') + message['content'] -%}
    {%- set ns.first = false -%}
{%- endfor -%}
{{ bos_token }}{{ ns.system }}
{%- for message in messages -%}
    {%- if message['role'] == 'user' -%}
        {{ '<｜User｜>' + message['content'] }}
    {%- elif message['role'] == 'assistant' and message['tool_calls'] is not defined -%}
        {%- set content = message['content'] -%}
        {%- if '</think>' in content -%}
            {%- set content = content.split('</think>')[-1] -%}
        {%- endif -%}
        {{ '<｜Assistant｜>' + content + eos_token }}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<｜Assistant｜><think>\n' }}{%- endif -%}";

    #[test]
    fn templates_of_the_shape_of_gemma_and_deepseek_work() {
        let messages = [
            message(Role::System, "Be brief."),
            message(Role::User, " Hello "),
            message(Role::Assistant, "Why?</think>Hi"),
            message(Role::User, "More"),
        ];
        assert_eq!(
            render(GEMMA, &messages).unwrap(),
            "<s><start_of_turn>user\nBe brief.\n\nHello<end_of_turn>\n<start_of_turn>model\nWhy?</think>Hi<end_of_turn>\n<start_of_turn>user\nMore<end_of_turn>\n<start_of_turn>model\n",
        );
        assert_eq!(
            render(DEEPSEEK, &messages).unwrap(),
            "<s>Be brief.<｜User｜> Hello <｜Assistant｜>Hi</s><｜User｜>More<｜Assistant｜><think>\n",
        );
        let twice = [message(Role::User, "a"), message(Role::User, "b")];
        let error = render(GEMMA, &twice).unwrap_err();
        assert!(matches!(error, RequestError::Template { .. }));
    }

    #[test]
    fn the_tiny_model_is_asked_as_it_was_trained() {
        let dir = ModelDir::new(&crate::self_test::tiny());
        let template = Template::load(&dir).unwrap();
        let messages = [
            message(Role::User, "Recite John 3:16."),
            message(Role::Assistant, "For God"),
            message(Role::User, "Recite John 3:17."),
        ];
        let prompt = template
            .render(&tokens(), &messages, &Tools::default())
            .unwrap();
        assert_eq!(
            prompt.as_str(),
            "<|im_start|>user\nRecite John 3:16.<|im_end|>\n<|im_start|>assistant\nFor God<|im_end|>\n<|endoftext|><|im_start|>user\nRecite John 3:17.<|im_end|>\n<|im_start|>assistant\n",
        );
    }
}
