//! Finds the calls of tools in an answer, across the pieces in which it comes.
//!
//! Text is passed on as soon as it cannot begin a call, arguments as they come. What
//! begins like a call and is none, or is of no tool that there is, was text after all.

use crate::stop::overlap;
use crate::tools::Style;

/// What a piece of an answer comes to.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Part {
    /// Text that is no call.
    Text(String),
    /// A call of the tool of this name begins.
    Call(String),
    /// More of the arguments of the call that began last.
    Arguments(String),
}

/// Where in an answer we are.
#[derive(Debug)]
pub(crate) struct Calls {
    style: &'static Style,
    /// Names of the tools.
    tools: Vec<String>,
    state: State,
    /// What has come and is not settled.
    held: String,
    /// Whether there has been a call.
    pub(crate) called: bool,
    /// Whether there has been text.
    spoken: bool,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// Outside a call.
    Text,
    /// Up to the arguments.
    Head,
    /// In the arguments.
    Arguments(Json),
    /// After the arguments.
    Tail,
}

impl Calls {
    pub(crate) fn new(style: &'static Style, tools: Vec<String>) -> Self {
        Self {
            style,
            tools,
            state: State::Text,
            held: String::new(),
            called: false,
            spoken: false,
        }
    }

    /// Takes the next piece.
    pub(crate) fn push(&mut self, piece: &str) -> Vec<Part> {
        self.held.push_str(piece);
        let mut parts = Vec::new();
        while self.advance(&mut parts) {}
        parts
    }

    /// What was held back in vain.
    pub(crate) fn finish(&mut self) -> Vec<Part> {
        let held = std::mem::take(&mut self.held);
        let mut parts = Vec::new();
        match self.state {
            State::Text if self.called && held.trim().is_empty() => {}
            State::Text | State::Head => self.say(held, &mut parts),
            State::Arguments(_) | State::Tail => {}
        }
        parts
    }

    /// Settles something of what is held; whether there may be more to settle.
    fn advance(&mut self, parts: &mut Vec<Part>) -> bool {
        match self.state {
            State::Text => self.text(parts),
            State::Head => self.head(parts),
            State::Arguments(json) => self.arguments(json, parts),
            State::Tail => match loosely(&self.held, self.style.after_arguments) {
                Err(Mismatch::SoFar) => false,
                found => {
                    self.held.drain(..found.unwrap_or(0));
                    self.state = State::Text;
                    true
                }
            },
        }
    }

    fn text(&mut self, parts: &mut Vec<Part>) -> bool {
        if self.called && !self.style.close.is_empty() {
            match loosely(&self.held, self.style.close) {
                Err(Mismatch::SoFar) => return false,
                found => drop(self.held.drain(..found.unwrap_or(0))),
            }
        }
        let marker = self.marker();
        let (at, found) = match self.held.find(marker) {
            _ if marker.is_empty() => match self.held.trim_start().starts_with('{') {
                true if !self.spoken && !self.called => (0, true),
                _ => (self.held.len(), false),
            },
            Some(at) => (at, true),
            None => {
                let begun = overlap(&self.held, marker);
                (self.held.len().saturating_sub(begun), false)
            }
        };
        // White space around calls is no text.
        let text = self.held.get(..at).unwrap_or_default();
        let is_blank = text.trim().is_empty();
        let around = is_blank && (self.called || !self.spoken);
        if around && !found {
            return false;
        }
        let text: String = self.held.drain(..at).collect();
        if !around {
            self.say(text, parts);
        }
        if found {
            self.state = State::Head;
        }
        found
    }

    /// What the next call begins with: the frame is opened once.
    fn marker(&self) -> &'static str {
        let first_line = self.style.before_name.lines().next();
        match self.called {
            true if !self.style.marker.is_empty() => first_line.unwrap_or_default(),
            _ => self.style.marker,
        }
    }

    fn head(&mut self, parts: &mut Vec<Part>) -> bool {
        match self.find_head() {
            Ok((name, end)) => {
                self.held.drain(..end);
                self.called = true;
                self.state = State::Arguments(Json::default());
                parts.push(Part::Call(name));
                true
            }
            Err(Mismatch::SoFar) if self.held.len() < MAX_HEAD => false,
            Err(_) => {
                // The marker is passed on, so that it is not found again.
                let marker = self.marker().len();
                let text: String = self.held.drain(..marker).collect();
                self.spoken = true;
                self.state = State::Text;
                self.say(text, parts);
                true
            }
        }
    }

    /// The name of the tool, and where its arguments begin.
    fn find_head(&self) -> Result<(String, usize), Mismatch> {
        let Style {
            open,
            before_name,
            after_name,
            ..
        } = self.style;
        let mut left = self.held.as_str();
        if !self.called {
            left = rest(left, loosely(left, open)?);
        }
        left = rest(left, loosely(left, before_name)?);
        let Some((name, after)) = left
            .find(['"', '\n'])
            .and_then(|end| left.split_at_checked(end))
        else {
            let may_be = self.tools.iter().any(|tool| tool.starts_with(left));
            return Err(if may_be {
                Mismatch::SoFar
            } else {
                Mismatch::ForGood
            });
        };
        if !self.tools.iter().any(|tool| tool == name) {
            return Err(Mismatch::ForGood);
        }
        left = rest(after, loosely(after, after_name)?);
        match left.chars().next() {
            None => Err(Mismatch::SoFar),
            Some('{') => Ok((name.into(), self.held.len().saturating_sub(left.len()))),
            Some(_) => Err(Mismatch::ForGood),
        }
    }

    fn arguments(&mut self, mut json: Json, parts: &mut Vec<Part>) -> bool {
        let end = json.end(&self.held);
        let more = end.unwrap_or(self.held.len());
        let more: String = self.held.drain(..more).collect();
        if !more.is_empty() {
            parts.push(Part::Arguments(more));
        }
        self.state = match end {
            Some(_) => State::Tail,
            None => State::Arguments(json),
        };
        end.is_some()
    }

    fn say(&mut self, text: String, parts: &mut Vec<Part>) {
        if !text.is_empty() {
            self.spoken = true;
            parts.push(Part::Text(text));
        }
    }
}

/// How a text is not what it should be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Mismatch {
    /// It can still become that.
    SoFar,
    /// It is something else.
    ForGood,
}

/// Where `expected` ends in `text`, and the white space after it: white space does
/// not matter.
fn loosely(text: &str, expected: &str) -> Result<usize, Mismatch> {
    let mut expected = expected.chars().filter(|c| !c.is_whitespace());
    let mut next = expected.next();
    for (at, found) in text.char_indices() {
        match next {
            _ if found.is_whitespace() => {}
            None => return Ok(at),
            Some(c) if c == found => next = expected.next(),
            Some(_) => return Err(Mismatch::ForGood),
        }
    }
    match next {
        None => Ok(text.len()),
        Some(_) => Err(Mismatch::SoFar),
    }
}

fn rest(text: &str, at: usize) -> &str {
    text.get(at..).unwrap_or_default()
}

/// How deep in a JSON object we are.
#[derive(Clone, Copy, Debug, Default)]
struct Json {
    depth: usize,
    in_string: bool,
    escaped: bool,
}

impl Json {
    /// Where the object ends, if it does in `text`.
    fn end(&mut self, text: &str) -> Option<usize> {
        for (at, byte) in text.bytes().enumerate() {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' if self.in_string => self.escaped = true,
                b'"' => self.in_string = !self.in_string,
                b'{' | b'[' if !self.in_string => self.depth = self.depth.saturating_add(1),
                b'}' | b']' if !self.in_string => {
                    self.depth = self.depth.saturating_sub(1);
                    if self.depth == 0 {
                        return Some(at.saturating_add(1));
                    }
                }
                _ => {}
            }
        }
        None
    }
}

/// The longest name, and what is around it.
const MAX_HEAD: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::tests::STYLES;
    use proptest::prelude::*;

    /// What an answer comes to if it comes in pieces of `step` characters.
    fn parse(style: &'static Style, answer: &str, step: usize) -> (String, Vec<(String, String)>) {
        let tools = ["get_it", "b", "f"].map(String::from);
        let mut calls = Calls::new(style, tools.into());
        let chars: Vec<_> = answer.chars().collect();
        let mut parts: Vec<_> = chars
            .chunks(step)
            .flat_map(|piece| calls.push(&piece.iter().collect::<String>()))
            .collect();
        parts.extend(calls.finish());
        let (mut text, mut found) = (String::new(), Vec::<(String, String)>::new());
        for part in parts {
            match part {
                Part::Text(more) => text += &more,
                Part::Call(name) => found.push((name, String::new())),
                Part::Arguments(more) => found.last_mut().unwrap().1 += &more,
            }
        }
        (text, found)
    }

    fn call(style: &Style, name: &str, arguments: &str) -> String {
        [
            style.before_name,
            name,
            style.after_name,
            arguments,
            style.after_arguments,
        ]
        .concat()
    }

    #[test]
    fn calls_are_found_in_every_style_and_every_piecing() {
        let arguments = [r#"{"a": "} \" {", "b": [{}]}"#, "{}"];
        for style in STYLES {
            let first = call(style, "get_it", arguments[0]);
            let answer = match style.between {
                Some(between) => [
                    style.open,
                    &first,
                    between,
                    &call(style, "b", arguments[1]),
                    style.close,
                ]
                .concat(),
                None => first,
            };
            for step in 1..answer.chars().count() {
                let (text, calls) = parse(style, &answer, step);
                assert_eq!(text, "", "{style:?} {step}");
                assert_eq!(calls[0], ("get_it".into(), arguments[0].into()));
                assert_eq!(calls.len(), if style.between.is_some() { 2 } else { 1 });
            }
        }
    }

    #[test]
    fn text_before_a_call_stays_and_white_space_does_not_matter() {
        let answer = "Let me see. <tool_call>{\"name\":\"f\",\"arguments\":{\"x\":1}}</tool_call>";
        for step in [1, 5, 100] {
            let (text, calls) = parse(STYLES[0], answer, step);
            assert_eq!(text, "Let me see. ");
            assert_eq!(calls, [("f".into(), "{\"x\":1}".into())]);
        }
    }

    #[test]
    fn what_only_looks_like_a_call_is_text() {
        for answer in [
            "<tool_call>\nhello",
            "a <tool_cal",
            "<tool_call>{\"name\": \"f\", \"arguments\": 7}</tool_call>",
            "{\"name\": 7}",
            "{\"name\": \"Alice\"}",
            "{\"name\": \"fern\", \"parameters\": {}}",
            "<tool_call>{\"name\": \"g\", \"arguments\": {}}</tool_call>",
            "{\"answer\": 42} and more",
            "",
        ] {
            for style in STYLES {
                for step in [1, 3, 100] {
                    assert_eq!(parse(style, answer, step), (answer.to_owned(), Vec::new()));
                }
            }
        }
    }

    #[test]
    fn text_is_not_held_back_once_it_names_no_tool() {
        let mut calls = Calls::new(STYLES[1], vec!["look".into(), "alter".into()]);
        assert_eq!(calls.push("{\"name\": \""), []);
        assert_eq!(calls.push("al"), []);
        let text = "{\"name\": \"alice";
        assert_eq!(calls.push("ice"), [Part::Text(text.into())]);
    }

    #[test]
    fn arguments_that_were_cut_off_are_passed_on() {
        let (text, calls) = parse(
            STYLES[0],
            "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a",
            4,
        );
        assert_eq!(
            (text.as_str(), calls),
            ("", vec![("f".into(), "{\"a".into())])
        );
    }

    proptest! {
        #[test]
        fn an_answer_without_a_call_is_unchanged(answer in "[<>{}\"a-z_ \n]{0,60}", step in 1..9_usize) {
            prop_assume!(!answer.contains("arguments"));
            for style in STYLES {
                prop_assert_eq!(parse(style, &answer, step).0, answer.clone());
            }
        }
    }
}
