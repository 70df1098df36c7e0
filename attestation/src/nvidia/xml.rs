//! The XML that reference manifests are written in, and no more of XML.
//!
//! Elements, attributes, namespaces, text, the five entities and characters by their
//! number, in UTF-8. Refused, since a signed manifest needs none of them and each has
//! been a way to read a document differently than it was hashed: document types,
//! other entities, processing instructions, comments, CDATA, `xml:` attributes.
//!
//! Sizes, depth and numbers of attributes are limited, so that every step is linear.
//!
//! Source: Extensible Markup Language 1.0, fifth edition; Namespaces in XML 1.0.

use alloc::borrow::Cow;
use alloc::string::String;
use alloc::vec::Vec;

/// An element with all that is in it.
#[derive(Clone, Debug)]
pub(super) struct Element<'a> {
    pub(super) name: Name<'a>,
    /// Namespaces declared here: prefix, URI.
    pub(super) declarations: Vec<(&'a str, &'a str)>,
    pub(super) attributes: Vec<Attribute<'a>>,
    pub(super) children: Vec<Node<'a>>,
}

/// What an element contains.
#[derive(Clone, Debug)]
pub(super) enum Node<'a> {
    Element(Element<'a>),
    /// Without references and with line feeds as the only line ends.
    Text(Cow<'a, str>),
}

/// A name, and the namespace that its prefix stands for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Name<'a> {
    pub(super) namespace: &'a str,
    pub(super) prefix: &'a str,
    pub(super) local: &'a str,
}

impl Name<'_> {
    /// Prefixes are for the reader only.
    pub(super) fn is(&self, namespace: &str, local: &str) -> bool {
        self.namespace == namespace && self.local == local
    }
}

/// An attribute that declares no namespace.
#[derive(Clone, Debug)]
pub(super) struct Attribute<'a> {
    pub(super) name: Name<'a>,
    pub(super) value: Cow<'a, str>,
}

impl<'a> Element<'a> {
    /// Reads one document.
    pub(super) fn parse(document: &'a [u8]) -> Result<Self, XmlError> {
        let text = match str::from_utf8(document) {
            Ok(text) if text.len() <= MAX_LEN => text,
            Ok(_) => return Err(fault("more than 256 KiB", MAX_LEN)),
            Err(error) => return Err(fault("bytes that are no UTF-8", error.valid_up_to())),
        };
        let mut parser = Parser {
            whole: text,
            rest: text,
            scope: Vec::new(),
        };
        parser.xml_declaration()?;
        parser.spaces();
        let root = parser.element(0)?;
        parser.spaces();
        match parser.rest.is_empty() {
            true => Ok(root),
            false => Err(parser.fault("something after the root element")),
        }
    }

    /// Value of the attribute of this name that has no namespace.
    pub(super) fn attribute(&self, local: &str) -> Option<&str> {
        self.attributes
            .iter()
            .find(|attribute| attribute.name.is("", local))
            .map(|attribute| &*attribute.value)
    }

    /// The elements in it, between which only white space may stand.
    pub(super) fn elements(&self) -> Option<Vec<&Self>> {
        let mut elements = Vec::new();
        for child in &self.children {
            match child {
                Node::Element(element) => elements.push(element),
                Node::Text(text) if text.chars().all(is_space) => {}
                Node::Text(_) => return None,
            }
        }
        Some(elements)
    }

    /// The text in it, beside which nothing may stand.
    pub(super) fn text(&self) -> Option<&str> {
        match &*self.children {
            [] => Some(""),
            [Node::Text(text)] => Some(text),
            _ => None,
        }
    }
}

/// Where a document is not of that kind.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{what} at offset {offset}")]
pub struct XmlError {
    /// What stands there.
    pub what: &'static str,
    /// Bytes before it.
    pub offset: usize,
}

struct Parser<'a> {
    whole: &'a str,
    rest: &'a str,
    /// Declarations of the elements that are open, innermost last.
    scope: Vec<(&'a str, &'a str)>,
}

impl<'a> Parser<'a> {
    /// `<?xml version="1.0" encoding="UTF-8"?>`, which need not be there.
    fn xml_declaration(&mut self) -> Result<(), XmlError> {
        let Some(rest) = self.rest.strip_prefix("<?xml ") else {
            return Ok(());
        };
        let (inside, after) = rest
            .split_once("?>")
            .filter(|(inside, _)| inside.len() < MAX_DECLARATION)
            .ok_or_else(|| self.fault("an XML declaration without an end"))?;
        let plain: String = inside.replace('\'', "\"").to_ascii_lowercase();
        let known = ["version=\"1.0\"", "version=\"1.0\" encoding=\"utf-8\""];
        if !known.contains(&plain.trim_end()) {
            return Err(self.fault("an XML declaration of another version or encoding"));
        }
        self.rest = after;
        Ok(())
    }

    fn element(&mut self, depth: usize) -> Result<Element<'a>, XmlError> {
        if depth == MAX_DEPTH {
            return Err(self.fault("an element inside of too many others"));
        }
        if !self.take("<") {
            return Err(self.fault("something that is no element"));
        }
        if self.rest.starts_with(['!', '?']) {
            return Err(self.fault("a document type, comment, CDATA or instruction"));
        }
        let tag = self.name()?;
        let outside = self.scope.len();
        let (attributes, empty) = self.attributes()?;
        let declarations = self.scope.get(outside..).unwrap_or_default().to_vec();
        let name = self.resolve_element(tag)?;
        let attributes = self.resolve_attributes(attributes)?;
        let children = match empty {
            true => Vec::new(),
            false => self.content(tag, depth)?,
        };
        self.scope.truncate(outside);
        Ok(Element {
            name,
            declarations,
            attributes,
            children,
        })
    }

    /// The rest of a start tag, and whether it is an end tag too. Declarations go into
    /// the scope at once, for they count for the element that has them.
    fn attributes(&mut self) -> Result<(Vec<RawAttribute<'a>>, bool), XmlError> {
        let (mut attributes, outside) = (Vec::new(), self.scope.len());
        loop {
            let spaced = self.spaces();
            if self.take("/>") {
                return Ok((attributes, true));
            }
            if self.take(">") {
                return Ok((attributes, false));
            }
            if !spaced {
                return Err(self.fault("no space before an attribute"));
            }
            let here = self.scope.len().saturating_sub(outside);
            if attributes.len().saturating_add(here) == MAX_ATTRIBUTES {
                return Err(self.fault("one attribute too many"));
            }
            let name = self.name()?;
            self.spaces();
            if !self.take("=") {
                return Err(self.fault("an attribute without a value"));
            }
            self.spaces();
            let raw = self.quoted()?;
            match name {
                ("", "xmlns") => self.declare("", raw, outside)?,
                ("xmlns", prefix) => self.declare(prefix, raw, outside)?,
                ("xml", _) => return Err(self.fault("an attribute of XML itself")),
                _ => attributes.push((name, self.decode(raw, true)?)),
            }
        }
    }

    fn declare(&mut self, prefix: &'a str, uri: &'a str, outside: usize) -> Result<(), XmlError> {
        // Taking a prefix back is for version 1.1.
        let undeclared = uri.is_empty() && !prefix.is_empty();
        let reserved = matches!(prefix, "xml" | "xmlns") || RESERVED.contains(&uri);
        let plain = uri
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b'&');
        if undeclared || reserved || !plain {
            return Err(self.fault("a namespace that cannot be declared"));
        }
        let here = self.scope.get(outside..).unwrap_or_default();
        if here.len() == MAX_NAMESPACES {
            return Err(self.fault("one namespace too many"));
        }
        if here.iter().any(|(other, _)| *other == prefix) {
            return Err(self.fault("a namespace declared twice"));
        }
        self.scope.push((prefix, uri));
        Ok(())
    }

    fn content(&mut self, tag: RawName<'a>, depth: usize) -> Result<Vec<Node<'a>>, XmlError> {
        let mut children = Vec::new();
        loop {
            let end = self.rest.find('<').unwrap_or(self.rest.len());
            let (text, rest) = self.rest.split_at(end);
            if !text.is_empty() {
                let text = self.decode(text, false)?;
                children.push(Node::Text(text));
            }
            self.rest = rest;
            if self.take("</") {
                let same = self.name()? == tag;
                self.spaces();
                return match same && self.take(">") {
                    true => Ok(children),
                    false => Err(self.fault("the end of another element")),
                };
            }
            children.push(Node::Element(self.element(depth.saturating_add(1))?));
        }
    }

    fn resolve_element(&self, (prefix, local): RawName<'a>) -> Result<Name<'a>, XmlError> {
        let namespace = match self.namespace(prefix) {
            Some(namespace) => namespace,
            None if prefix.is_empty() => "",
            None => return Err(self.fault("a prefix that nobody declared")),
        };
        Ok(Name {
            namespace,
            prefix,
            local,
        })
    }

    /// An attribute without a prefix is in no namespace.
    fn resolve_attributes(
        &self,
        raw: Vec<RawAttribute<'a>>,
    ) -> Result<Vec<Attribute<'a>>, XmlError> {
        let mut attributes: Vec<Attribute<'a>> = Vec::with_capacity(raw.len());
        for ((prefix, local), value) in raw {
            let name = match prefix {
                "" => Name {
                    namespace: "",
                    prefix,
                    local,
                },
                _ => self.resolve_element((prefix, local))?,
            };
            let twice = |other: &Attribute<'_>| other.name.is(name.namespace, local);
            if attributes.iter().any(twice) {
                return Err(self.fault("an attribute that occurs twice"));
            }
            attributes.push(Attribute { name, value });
        }
        Ok(attributes)
    }

    fn namespace(&self, prefix: &str) -> Option<&'a str> {
        let mut innermost = self.scope.iter().rev();
        innermost
            .find(|(other, _)| *other == prefix)
            .map(|(_, uri)| *uri)
    }

    /// `prefix:local`, or `local` alone.
    fn name(&mut self) -> Result<RawName<'a>, XmlError> {
        let mut name = ("", self.part()?);
        if self.take(":") {
            name = (name.1, self.part()?);
        }
        Ok(name)
    }

    fn part(&mut self) -> Result<&'a str, XmlError> {
        let inside = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        let first = |c: char| c.is_ascii_alphabetic() || c == '_';
        let end = self.rest.find(|c| !inside(c)).unwrap_or(self.rest.len());
        let (part, rest) = self.rest.split_at(end);
        if !part.starts_with(first) || part.len() > MAX_NAME {
            return Err(self.fault("something that is no name"));
        }
        self.rest = rest;
        Ok(part)
    }

    fn quoted(&mut self) -> Result<&'a str, XmlError> {
        let Some(quote @ ('"' | '\'')) = self.rest.chars().next() else {
            return Err(self.fault("a value without quotes"));
        };
        let (value, rest) = self
            .rest
            .get(1..)
            .and_then(|rest| rest.split_once(quote))
            .filter(|(value, _)| !value.contains('<'))
            .ok_or_else(|| self.fault("a value without an end"))?;
        self.rest = rest;
        Ok(value)
    }

    /// Replaces references, and normalises line ends (section 2.11) and the white space
    /// of attributes (section 3.3.3).
    fn decode(&self, raw: &'a str, attribute: bool) -> Result<Cow<'a, str>, XmlError> {
        if raw.contains("]]>") || !raw.chars().all(is_char) {
            return Err(self.fault("characters that may not stand there"));
        }
        let special: &[char] = match attribute {
            true => &['&', '\r', '\n', '\t'],
            false => &['&', '\r'],
        };
        if !raw.contains(special) {
            return Ok(Cow::Borrowed(raw));
        }
        let (mut text, mut rest) = (String::with_capacity(raw.len()), raw);
        while let Some(at) = rest.find(special) {
            let (before, after) = rest.split_at(at);
            text.push_str(before);
            rest = match after.strip_prefix('&') {
                Some(reference) => {
                    let (inside, after) = reference
                        .split_once(';')
                        .ok_or_else(|| self.fault("a reference without an end"))?;
                    text.push(
                        referred(inside)
                            .ok_or_else(|| self.fault("a reference to something else"))?,
                    );
                    after
                }
                None => {
                    text.push(if attribute { ' ' } else { '\n' });
                    let single = after.strip_prefix("\r\n");
                    single.or_else(|| after.get(1..)).unwrap_or_default()
                }
            };
        }
        text.push_str(rest);
        Ok(Cow::Owned(text))
    }

    /// Whether there was white space, now behind us.
    fn spaces(&mut self) -> bool {
        let rest = self.rest.trim_start_matches(is_space);
        let some = rest.len() < self.rest.len();
        self.rest = rest;
        some
    }

    fn take(&mut self, expected: &str) -> bool {
        let rest = self.rest.strip_prefix(expected);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    const fn fault(&self, what: &'static str) -> XmlError {
        fault(what, self.whole.len().saturating_sub(self.rest.len()))
    }
}

/// Prefix and local name.
type RawName<'a> = (&'a str, &'a str);
type RawAttribute<'a> = (RawName<'a>, Cow<'a, str>);

const fn fault(what: &'static str, offset: usize) -> XmlError {
    XmlError { what, offset }
}

/// The five entities (section 4.6), and characters by number (section 4.1).
fn referred(inside: &str) -> Option<char> {
    let number = |digits: &str, radix| {
        let plain = digits.len() <= 6 && digits.bytes().all(|byte| byte.is_ascii_alphanumeric());
        let number = u32::from_str_radix(digits, radix).ok().filter(|_| plain)?;
        char::from_u32(number).filter(|c| is_char(*c))
    };
    match inside {
        "amp" => Some('&'),
        "apos" => Some('\''),
        "gt" => Some('>'),
        "lt" => Some('<'),
        "quot" => Some('"'),
        _ => match inside.strip_prefix("#x") {
            Some(digits) => number(digits, 16),
            None => number(inside.strip_prefix('#')?, 10),
        },
    }
}

const fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n')
}

/// Section 2.2.
const fn is_char(c: char) -> bool {
    is_space(c) || (c >= ' ' && c != '\u{fffe}' && c != '\u{ffff}')
}

/// A manifest has about 20 KiB.
const MAX_LEN: usize = 256 * 1024;
/// A signature's transforms are at depth five.
const MAX_DEPTH: usize = 8;
/// The root declares three.
const MAX_NAMESPACES: usize = 8;
/// A resource has six, and one for each alternative, of which four were seen.
const MAX_ATTRIBUTES: usize = 64;
const MAX_NAME: usize = 64;
const MAX_DECLARATION: usize = 64;
/// Bound to `xml` and `xmlns` for good.
const RESERVED: [&str; 2] = [
    "http://www.w3.org/XML/1998/namespace",
    "http://www.w3.org/2000/xmlns/",
];
