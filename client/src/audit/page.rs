//! The audit as one page: no script, nothing to load, readable in print.

use anyhow::Context;
use attestation::appraisal::{Check, Verdict};
use attestation::register::{Digest256, Digest384, TdRegisters};
use minijinja::value::Serde;
use minijinja::{Environment, UndefinedBehavior, Value};
use serde::Serialize;

use super::Audit;
use super::chain::Chain;
use crate::release::verify::Line;

/// The page's text.
pub fn page(audit: &Audit, chain: &Chain) -> anyhow::Result<String> {
    let mut templates = Environment::new();
    templates.set_undefined_behavior(UndefinedBehavior::Strict);
    templates.add_filter("excerpt", excerpt);
    templates.add_filter("lines", lines);
    templates.add_filter("short", short);
    // By the end of its name, everything that is filled in is escaped.
    let template = ("page.html", include_str!("page.html"));
    templates
        .add_template(template.0, template.1)
        .context("the template is damaged")?;
    let view = View {
        version: &audit.stated.release.version,
        digest: audit.stated.digest,
        verdict: audit.verdict(),
        headline: audit.headline(),
        differences: audit.differences.len(),
        checks: &audit.checks,
        signatures: &audit.signatures,
        chain,
        shapes: shapes(audit),
    };
    let template = templates.get_template(template.0);
    template
        .and_then(|template| template.render(Value::from(Serde(&view))))
        .context("the page cannot be written")
}

/// Everything that the page says.
#[derive(Serialize)]
struct View<'a> {
    version: &'a str,
    digest: Digest256,
    verdict: Verdict,
    headline: &'static str,
    differences: usize,
    checks: &'a [Check],
    signatures: &'a [Line],
    chain: &'a Chain,
    shapes: Vec<Shape<'a>>,
}

/// Registers of one shape.
#[derive(Serialize)]
struct Shape<'a> {
    name: &'a str,
    vcpus: u16,
    gib: u32,
    gpus: u8,
    mrtd: Register,
    rtmr0: Register,
    rtmr1: Register,
    rtmr2: Register,
}

/// A value as stated, and whether it follows from what was built.
#[derive(Serialize)]
struct Register {
    value: Digest384,
    differs: bool,
}

fn shapes(audit: &Audit) -> Vec<Shape<'_>> {
    let shapes = audit.stated.release.shapes.iter();
    shapes
        .map(|shape| {
            let rebuilt = audit.rebuilt.release.shape(&shape.name).ok();
            let register = |of: fn(&TdRegisters) -> Digest384| Register {
                value: of(&shape.tdx),
                differs: rebuilt.map(|shape| of(&shape.tdx)) != Some(of(&shape.tdx)),
            };
            Shape {
                name: &shape.name,
                vcpus: shape.vcpus,
                gib: shape.memory_mib / 1024,
                gpus: shape.gpus,
                mrtd: register(|tdx| tdx.mrtd),
                rtmr0: register(|tdx| tdx.rtmr0),
                rtmr1: register(|tdx| tdx.rtmr1),
                rtmr2: register(|tdx| tdx.rtmr2),
            }
        })
        .collect()
}

/// Cuts hex digits into lines of so many.
fn lines(text: &str, width: usize) -> Vec<String> {
    let lines = text.as_bytes().chunks(width.max(1));
    lines
        .map(|line| String::from_utf8_lossy(line).into_owned())
        .collect()
}

/// As much as fits into a card, from where the text is another than `other`.
fn excerpt(text: &str, other: &str) -> String {
    let pairs = text.chars().zip(other.chars());
    let common = pairs.take_while(|(a, b)| a == b).count();
    let fits = text.chars().count() <= CARD || text == other || common < CARD / 2;
    match fits {
        true => short(text, CARD),
        false => {
            let rest = text.chars().skip(common.saturating_sub(CARD / 3));
            short(&format!("…{}", rest.collect::<String>()), CARD)
        }
    }
}

/// The first so many characters.
fn short(text: &str, width: usize) -> String {
    match text.char_indices().nth(width) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or(text)),
        None => text.to_owned(),
    }
}

/// Characters in a line of a card.
const CARD: usize = 35;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_shows_where_texts_part() {
        let (a, b) = (
            "console=ttyS0 random.trust_bootloader=off",
            "console=ttyS0 random.trust_bootloader=off x",
        );
        assert_eq!(excerpt("short", "other"), "short");
        assert_eq!(excerpt(b, a), "…tloader=off x");
        assert_eq!(excerpt(a, a), "console=ttyS0 random.trust_bootload…");
        assert_eq!(
            excerpt(&"a".repeat(64), &"b".repeat(64)),
            format!("{}…", "a".repeat(35))
        );
    }
}
