//! Tools, and how each family of models calls them.
//!
//! | Family | A call, as the model writes it |
//! |---|---|
//! | Hermes, Qwen | `<tool_call>\n{"name": "f", "arguments": {...}}\n</tool_call>` |
//! | Llama 3 | `{"name": "f", "parameters": {...}}`, and nothing before it |
//! | DeepSeek | `<｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n` and a block of JSON, in a frame |
//!
//! Which one it is, the chat template tells: it shows earlier calls in that form.

use std::fmt;

use serde_json::{Map, Value, json};

use crate::error::RequestError;
use crate::grammar::{Form, apart, literal, loosely};

/// What a model may call.
#[derive(Clone, Default)]
pub struct Tools {
    /// In the order in which they are shown to the model.
    pub list: Vec<Tool>,
    /// Whether it must.
    pub choice: ToolChoice,
    /// Whether one answer may have several calls, where the answer must have one.
    pub parallel: bool,
}

/// A function of the application.
#[derive(Clone)]
pub struct Tool {
    /// Letters, digits, `_` and `-`.
    pub name: String,
    /// For the model.
    pub description: Option<String>,
    /// JSON schema of its arguments; any object if there is none.
    pub parameters: Option<Value>,
    /// Whether a schema that no grammar can be made of is refused. Otherwise the model
    /// is shown it, and may call with any object.
    pub strict: bool,
}

/// Whether an answer has to be a call.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum ToolChoice {
    /// As the model likes; but a call of one of the tools that it begins is one.
    #[default]
    Auto,
    /// At least one call, of any tool.
    Required,
    /// A call of this tool.
    Named(String),
}

impl fmt::Debug for Tools {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tools({})", self.list.len())
    }
}

impl fmt::Debug for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tool")
    }
}

impl Tools {
    /// Checks what does not depend on the model.
    pub(crate) fn check(&self) -> Result<(), RequestError> {
        let out_of_range = |parameter, found: String, expected| {
            Err(RequestError::OutOfRange {
                parameter,
                found,
                expected,
            })
        };
        if self.list.len() > MAX_TOOLS {
            return out_of_range("tools", self.list.len().to_string(), "at most 128");
        }
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
        let is_name = |name: &str| (1..=64).contains(&name.len()) && name.chars().all(allowed);
        if !self.list.iter().all(|tool| is_name(&tool.name)) {
            let expected = "1 to 64 letters, digits, _ and -";
            return out_of_range("tools", "a tool with another name".into(), expected);
        }
        let exists = match &self.choice {
            ToolChoice::Auto => true,
            ToolChoice::Required => !self.list.is_empty(),
            ToolChoice::Named(name) => self.list.iter().any(|tool| tool.name == *name),
        };
        match exists {
            true => Ok(()),
            false => out_of_range("tool_choice", "no tool".into(), "one of the tools"),
        }
    }

    /// The same without the schemas that need not be followed, if there are any.
    pub(crate) fn lenient(&self) -> Option<Self> {
        let mut tools = self.clone();
        let lenient = tools.list.iter_mut().filter(|tool| !tool.strict);
        let loosened = lenient.filter_map(|tool| tool.parameters.take()).count();
        (loosened > 0).then_some(tools)
    }

    /// What templates are written for: the tools as OpenAI lists them.
    pub(crate) fn shown(&self) -> Vec<Value> {
        let shown = self.list.iter().map(|tool| {
            let mut function = Map::new();
            function.insert("name".into(), json!(tool.name));
            if let Some(description) = &tool.description {
                function.insert("description".into(), json!(description));
            }
            let empty = || json!({"type": "object", "properties": {}});
            let parameters = tool.parameters.clone().unwrap_or_else(empty);
            function.insert("parameters".into(), parameters);
            json!({"type": "function", "function": function})
        });
        shown.collect()
    }
}

/// How one family writes a call. White space may differ from this in what a model says.
#[derive(Debug, PartialEq)]
pub(crate) struct Style {
    /// Before the first call.
    pub(crate) open: &'static str,
    pub(crate) before_name: &'static str,
    pub(crate) after_name: &'static str,
    pub(crate) after_arguments: &'static str,
    /// Between two calls; `None` if there is only one.
    pub(crate) between: Option<&'static str>,
    /// After the last call.
    pub(crate) close: &'static str,
    /// What begins a call within text; empty if only a whole answer is one.
    pub(crate) marker: &'static str,
}

impl Style {
    /// The style of a chat template, if it has tools at all.
    pub(crate) fn of(template: &str) -> Option<&'static Self> {
        if !template.contains("tool") {
            return None;
        }
        if template.contains("<tool_call>") {
            return Some(&HERMES);
        }
        if template.contains(DEEPSEEK.open) {
            return Some(&DEEPSEEK);
        }
        (template.contains("\"parameters\"") && template.contains("ipython")).then_some(&LLAMA)
    }

    /// A rule for answers that are calls.
    pub(crate) fn calls(&self, tools: &Tools, form: &mut Form) -> Result<String, RequestError> {
        let write = if self.marker.is_empty() {
            apart
        } else {
            literal
        };
        self.calls_after("", write, tools, form)
    }

    /// A rule for answers that may have calls; what begins as one of a tool is one to its
    /// end.
    pub(crate) fn answers(&self, tools: &Tools, form: &mut Form) -> Result<String, RequestError> {
        form.any_text();
        if self.marker.is_empty() {
            // Once it names a tool, white space could go on for ever.
            let rest = self.after_name.strip_prefix('"').unwrap_or_default();
            let begun = |head: &str| loosely(r"\s*", head.strip_suffix(rest).unwrap_or(head));
            let head = |head: &str| format!(r"/{}{}\s?/", begun(head), loosely(r"\s?", rest));
            let calls = self.calls_after("", head, tools, form)?;
            let begun = tools
                .list
                .iter()
                .map(|tool| begun(&[self.before_name, &tool.name, "\""].concat()));
            let begun: Vec<_> = begun.collect();
            let text = form.pattern(&format!("TEXT & ~/({})(?s:.*)/", begun.join("|")));
            return Ok(format!("{calls} | {text}"));
        }
        let calls = self.calls_after(self.marker, literal, tools, form)?;
        let begun = form.shortest(&format!("/(?s:.*)/ {}", literal(self.marker)));
        Ok(match tools.parallel && self.open.is_empty() {
            true => format!("({begun} {calls})* TEXT"),
            false => format!("TEXT | {begun} {calls}"),
        })
    }

    /// A rule for calls of which the `marker` has been said; what comes before arguments
    /// is written as `write` has it.
    fn calls_after(
        &self,
        marker: &str,
        write: impl Fn(&str) -> String,
        tools: &Tools,
        form: &mut Form,
    ) -> Result<String, RequestError> {
        // It begins either all of them or each.
        let framed = self.open.strip_prefix(marker);
        let before_name = match framed {
            Some(_) => self.before_name,
            None => self.before_name.strip_prefix(marker).unwrap_or_default(),
        };
        let named = |tool: &&Tool| match &tools.choice {
            ToolChoice::Named(name) => tool.name == *name,
            _ => true,
        };
        let mut calls = Vec::new();
        for tool in tools.list.iter().filter(named) {
            let arguments = form.arguments(tool)?;
            let head = [before_name, &tool.name, self.after_name].concat();
            let tail = literal(self.after_arguments);
            calls.push(form.rule(&format!("{} {arguments} {tail}", write(&head))));
        }
        let call = form.rule(&calls.join(" | "));
        let one_named = matches!(tools.choice, ToolChoice::Named(_));
        let more = match self.between {
            Some(between) if tools.parallel && !one_named && framed.is_some() => {
                format!("({} {call}){{0,{MORE_CALLS}}}", literal(between))
            }
            _ => String::new(),
        };
        let quoted = |text: &str| match text.is_empty() {
            true => String::new(),
            false => literal(text),
        };
        let (open, close) = (quoted(framed.unwrap_or_default()), quoted(self.close));
        Ok(form.rule(&format!("{open} {call} {more} {close}")))
    }
}

const HERMES: Style = Style {
    open: "",
    before_name: "<tool_call>\n{\"name\": \"",
    after_name: "\", \"arguments\": ",
    after_arguments: "}\n</tool_call>",
    between: Some("\n"),
    close: "",
    marker: "<tool_call>",
};

const LLAMA: Style = Style {
    open: "",
    before_name: "{\"name\": \"",
    after_name: "\", \"parameters\": ",
    after_arguments: "}",
    between: None,
    close: "",
    marker: "",
};

const DEEPSEEK: Style = Style {
    open: "<｜tool▁calls▁begin｜>",
    before_name: "<｜tool▁call▁begin｜>function<｜tool▁sep｜>",
    after_name: "\n```json\n",
    after_arguments: "\n```<｜tool▁call▁end｜>",
    between: Some("\n"),
    close: "<｜tool▁calls▁end｜>",
    marker: "<｜tool▁calls▁begin｜>",
};

/// As many as OpenAI takes.
const MAX_TOOLS: usize = 128;

/// Calls after the first, in an answer that must call.
const MORE_CALLS: usize = 7;

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) const STYLES: [&Style; 3] = [&HERMES, &LLAMA, &DEEPSEEK];

    #[test]
    fn the_template_tells_the_style() {
        for (template, style) in [
            ("{{ messages }}", None),
            ("{% if tools %}<tool_call>{% endif %}", Some(&HERMES)),
            ("{{ '<｜tool▁calls▁begin｜>' }}", Some(&DEEPSEEK)),
            (
                "{% if tools %}Environment: ipython {\"name\": f, \"parameters\": d}{% endif %}",
                Some(&LLAMA),
            ),
        ] {
            assert_eq!(Style::of(template), style);
        }
    }

    #[test]
    fn tools_that_cannot_be_called_are_refused() {
        let tool = |name: &str| Tool {
            name: name.into(),
            description: None,
            parameters: None,
            strict: false,
        };
        let tools = |list, choice| Tools {
            list,
            choice,
            parallel: false,
        };
        for (tools, message) in [
            (
                tools(vec![tool("a b")], ToolChoice::Auto),
                "tools is a tool with another name, expected 1 to 64 letters, digits, _ and -",
            ),
            (
                tools(vec![tool("a"); 129], ToolChoice::Auto),
                "tools is 129, expected at most 128",
            ),
            (
                tools(Vec::new(), ToolChoice::Required),
                "tool_choice is no tool, expected one of the tools",
            ),
            (
                tools(vec![tool("a")], ToolChoice::Named("b".into())),
                "tool_choice is no tool, expected one of the tools",
            ),
        ] {
            assert_eq!(tools.check().unwrap_err().to_string(), message);
        }
    }
}
