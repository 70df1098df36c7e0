//! Canonical XML 1.1 without comments, of what [`xml`](super::xml) reads.
//!
//! The bytes that a signature is over. `xml:` attributes, where versions 1.0 and 1.1
//! differ, do not get this far.
//!
//! Source: Canonical XML Version 1.1, sections 2.3 and 2.4.

use alloc::vec::Vec;

use super::xml::{Attribute, Element, Node};

/// A whole document less one child of its root: the enveloped-signature transform
/// (XML Signature, section 6.6.4), then canonical form.
pub(super) fn canonical_without(root: &Element<'_>, left_out: &Element<'_>) -> Vec<u8> {
    let mut writer = Writer {
        left_out: Some(left_out),
        ..Writer::default()
    };
    writer.element(root, &root.declarations);
    writer.out
}

/// The last element of a path from the root, with the namespaces that it inherits.
pub(super) fn canonical_within(path: &[&Element<'_>]) -> Vec<u8> {
    let mut inherited: Vec<(&str, &str)> = Vec::new();
    for declaration in path.iter().flat_map(|element| &element.declarations) {
        inherited.retain(|(prefix, _)| *prefix != declaration.0);
        inherited.push(*declaration);
    }
    let mut writer = Writer::default();
    if let Some(element) = path.last() {
        writer.element(element, &inherited);
    }
    writer.out
}

#[derive(Default)]
struct Writer<'t> {
    out: Vec<u8>,
    left_out: Option<&'t Element<'t>>,
    /// Declarations written for the elements that are open, innermost last.
    written: Vec<(&'t str, &'t str)>,
}

impl<'t> Writer<'t> {
    fn element(&mut self, element: &'t Element<'t>, declarations: &[(&'t str, &'t str)]) {
        let outside = self.written.len();
        self.push("<");
        self.tag(element);
        let mut declarations = declarations.to_vec();
        declarations.sort_unstable();
        for (prefix, uri) in declarations {
            self.declaration(prefix, uri);
        }
        let mut attributes: Vec<&Attribute<'_>> = element.attributes.iter().collect();
        attributes
            .sort_unstable_by_key(|attribute| (attribute.name.namespace, attribute.name.local));
        for Attribute { name, value } in attributes {
            self.push(" ");
            self.name(name.prefix, name.local);
            self.push("=\"");
            self.escaped(value, &ATTRIBUTE);
            self.push("\"");
        }
        self.push(">");
        for child in &element.children {
            match child {
                Node::Text(text) => self.escaped(text, &TEXT),
                Node::Element(child) => {
                    if !self
                        .left_out
                        .is_some_and(|other| core::ptr::eq(other, child))
                    {
                        self.element(child, &child.declarations);
                    }
                }
            }
        }
        self.push("</");
        self.tag(element);
        self.push(">");
        self.written.truncate(outside);
    }

    /// Unless the elements around it say the same already.
    fn declaration(&mut self, prefix: &'t str, uri: &'t str) {
        let mut innermost = self.written.iter().rev();
        let outer = innermost.find(|(other, _)| *other == prefix);
        if outer.map_or("", |(_, uri)| *uri) == uri {
            return;
        }
        self.push(" ");
        match prefix {
            "" => self.push("xmlns"),
            _ => self.name("xmlns", prefix),
        }
        self.push("=\"");
        self.escaped(uri, &ATTRIBUTE);
        self.push("\"");
        self.written.push((prefix, uri));
    }

    fn tag(&mut self, element: &Element<'_>) {
        self.name(element.name.prefix, element.name.local);
    }

    fn name(&mut self, prefix: &str, local: &str) {
        if !prefix.is_empty() {
            self.push(prefix);
            self.push(":");
        }
        self.push(local);
    }

    fn escaped(&mut self, text: &str, escapes: &[(char, &str)]) {
        let mut rest = text;
        let special = |c| escapes.iter().any(|(special, _)| *special == c);
        while let Some((before, found)) =
            rest.find(special).and_then(|at| rest.split_at_checked(at))
        {
            self.push(before);
            for (character, escape) in escapes {
                if let Some(after) = found.strip_prefix(*character) {
                    self.push(escape);
                    rest = after;
                    break;
                }
            }
        }
        self.push(rest);
    }

    fn push(&mut self, text: &str) {
        self.out.extend_from_slice(text.as_bytes());
    }
}

const TEXT: [(char, &str); 4] = [
    ('&', "&amp;"),
    ('<', "&lt;"),
    ('>', "&gt;"),
    ('\r', "&#xD;"),
];

const ATTRIBUTE: [(char, &str); 6] = [
    ('&', "&amp;"),
    ('<', "&lt;"),
    ('"', "&quot;"),
    ('\t', "&#x9;"),
    ('\n', "&#xA;"),
    ('\r', "&#xD;"),
];
