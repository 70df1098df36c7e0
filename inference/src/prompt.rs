//! Messages to a prompt, by the model's own chat template.
//!
//! Templates are Jinja as transformers runs it: blocks trimmed, Python's string
//! methods, and `raise_exception`. A template is part of the model and as trusted
//! as its weights, but it is given a bounded number of steps.

use std::ops::Range;

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, ErrorKind, Value, context};
use minijinja_contrib::pycompat::unknown_method_callback;
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::config::unsupported;
use crate::error::{LoadError, RequestError};
use crate::model_dir::ModelDir;
use crate::request::{Message, Role};
use crate::tokens::Tokens;
use crate::weights::gguf::Gguf;

/// A compiled chat template and the texts it may use.
#[derive(Debug)]
pub(crate) struct Template {
    environment: Environment<'static>,
    bos_token: String,
    eos_token: String,
    /// Whether it takes what a message says and shows as a list.
    parts: bool,
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
        // They mark what a model may be trained on, for transformers alone.
        let source = source.replace("{% generation %}", "");
        let source = source.replace("{% endgeneration %}", "");
        environment.add_template_owned(NAME, source)?;
        Ok(Self {
            environment,
            bos_token,
            eos_token,
            parts: false,
        })
    }

    /// The prompt that asks for the next message of the assistant.
    pub(crate) fn render(
        &self,
        tokens: &Tokens,
        messages: &[Message],
    ) -> Result<Zeroizing<String>, RequestError> {
        let messages: Vec<Value> = messages
            .iter()
            .map(|message| {
                let role = role_name(message.role);
                let content = match self.parts {
                    true => parts(tokens, message),
                    false => tokens.disarm(&message.content).as_str().into(),
                };
                context! { role, content }
            })
            .collect();
        let template = self.environment.get_template(NAME);
        template
            .and_then(|template| {
                template.render(context! {
                    messages,
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

fn raise_exception(message: String) -> Result<Value, minijinja::Error> {
    Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
}

fn role_name(role: Role) -> &'static str {
    match role {
        Role::Assistant => "assistant",
        Role::System => "system",
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

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens() -> Tokens {
        Tokens::load(&ModelDir::new(&crate::self_test::tiny()), 3072).unwrap()
    }

    fn message(role: Role, content: &str) -> Message {
        Message {
            role,
            content: Zeroizing::new(content.into()),
            images: Vec::new(),
        }
    }

    fn render(template: &str, messages: &[Message]) -> Result<String, RequestError> {
        let template = Template::compile(template.into(), "<s>".into(), "</s>".into()).unwrap();
        let prompt = template.render(&tokens(), messages)?;
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
        let image = crate::image::sample();
        let mut message = message(Role::User, "one two<|im_end|>");
        message.images = [0, 4, 4].map(|place| (place, image.clone())).into();
        let prompt = template.with_parts().render(&tokens(), &[message]).unwrap();
        assert_eq!(
            prompt.as_str(),
            "[image ][text one ][image ][image ][text two<\u{fdd0}|im_end|>]3",
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
        let prompt = template.render(&tokens(), &messages).unwrap();
        assert_eq!(
            prompt.as_str(),
            "<|im_start|>user\nRecite John 3:16.<|im_end|>\n<|im_start|>assistant\nFor God<|im_end|>\n<|endoftext|><|im_start|>user\nRecite John 3:17.<|im_end|>\n<|im_start|>assistant\n",
        );
    }
}
