//! The page: no script, nothing from elsewhere, and its policy says so to the browser.

use std::fmt::{self, Write as _};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use sha2::{Digest as _, Sha256};

use super::{Channels, Status};
use crate::books::now;
use crate::onchain::{Block, Word};

/// Content Security Policy, level 3: this style, and nothing else.
pub(crate) fn policy() -> String {
    let style = BASE64_STANDARD.encode(Sha256::digest(STYLE));
    format!(
        "default-src 'none'; style-src 'sha256-{style}'; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'"
    )
}

pub(crate) fn page(status: &Status) -> String {
    let mut html = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Scheduler</title>\
         <meta name=\"viewport\" content=\"width=device-width\">\
         <meta http-equiv=\"refresh\" content=\"10\"><style>{STYLE}</style><main>\n"
    );
    // Writing to a string does not fail.
    status.write(&mut html).unwrap_or_default();
    html.push_str("</main>\n");
    html
}

impl Status {
    fn write(&self, html: &mut String) -> fmt::Result {
        let state = match self.draining {
            true => "takes nothing new",
            false => "serves",
        };
        writeln!(html, "<h1>Scheduler <small>{state}</small></h1><dl>")?;
        let number = |count: usize| digits(u64::try_from(count).unwrap_or(u64::MAX));
        let ended = |name: &str| self.requests.ended.get(name).copied().unwrap_or_default();
        for (name, value) in [
            ("verified workers", number(self.verified)),
            ("requests under way", digits(self.requests.open)),
            ("answers", digits(ended("settled"))),
            ("tokens", digits(self.tokens)),
            ("nanotons", digits(self.nanotons)),
            ("fee, in thousandths", digits(self.fee.into())),
        ] {
            writeln!(html, "<div><dt>{name}</dt><dd>{value}</dd></div>")?;
        }
        writeln!(
            html,
            "</dl><p>Counted since the start. It sees who asks for which model and how much, never what.</p>"
        )?;

        let rows = self.models.iter().map(|(name, model)| {
            let price = model.price.map_or("–".into(), digits);
            [
                escaped(name),
                number(model.workers),
                digits(model.free),
                price,
                code(model.root.as_deref().unwrap_or("–")),
            ]
        });
        let heads = [
            "model",
            "workers",
            "free places",
            "price, nanotons for a million tokens",
            "files",
        ];
        table(html, "Models", heads, rows)?;

        let rows = self.markets.iter().map(|market| {
            [
                format!("{}<br>{}", escaped(&market.gpu), code(&market.address)),
                code(&market.model),
                digits(market.price),
                digits(market.used.workers.into()),
                digits(market.used.tokens),
                digits(market.used.amount),
                market.last.as_ref().map_or("–".into(), |last| {
                    let (tokens, amount) = (last.used.tokens, last.used.amount);
                    format!("{} for {}", digits(tokens), digits(amount))
                }),
                proved(market.block),
            ]
        });
        let heads = [
            "GPU",
            "files",
            "price, nanotons for a million tokens",
            "attested workers",
            "tokens, this hour",
            "nanotons, this hour",
            "tokens, the hour before",
            "proved",
        ];
        if !self.markets.is_empty() {
            table(html, "Markets", heads, rows)?;
        }

        if let Some(money) = &self.money {
            let row = |name: &str, sums: &Channels| {
                [
                    name.to_owned(),
                    sums.count.to_string(),
                    digits(sums.balance),
                    digits(sums.claimed),
                    digits(sums.signed),
                    digits(sums.spent),
                    digits(sums.reserved),
                    sums.seen.map_or("–".into(), ago),
                ]
            };
            let rows = [
                row("from clients", &money.earned),
                row("to workers", &money.paid),
            ];
            let heads = [
                "nanotons",
                "channels",
                "on the chain",
                "paid by it",
                "signed for",
                "shown by receipts",
                "reserved",
                "chain seen",
            ];
            table(html, "Money", heads, rows)?;
        }

        let rows = self.builds.iter().map(|build| {
            let registers = build.registers.iter();
            let registers = registers.map(|(name, value)| format!("{name} {}", code(value)));
            [
                build.workers.to_string(),
                word(&build.registry),
                registers.collect::<Vec<_>>().join("<br>"),
            ]
        });
        table(
            html,
            "Builds that workers proved to run",
            ["workers", "by a Registry", "registers"],
            rows,
        )?;

        let rows = self.workers.iter().flat_map(|(id, worker)| {
            worker.models.iter().map(move |model| {
                let state = match (worker.here, worker.draining) {
                    (_, true) => "draining",
                    (true, _) => "here",
                    (false, _) => "elsewhere",
                };
                [
                    code(&id.to_string()),
                    state.into(),
                    word(&worker.node),
                    worker.standing.to_string(),
                    escaped(&model.name),
                    format!("{} of {}", model.free, model.slots),
                    digits(model.tokens_per_second.into()),
                    digits(model.ask),
                ]
            })
        });
        let heads = [
            "worker",
            "linked",
            "attested on the chain",
            "standing, of 1000",
            "model",
            "free",
            "tokens a second",
            "asks",
        ];
        table(html, "Workers", heads, rows)
    }
}

fn table<const N: usize>(
    html: &mut String,
    title: &str,
    heads: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> fmt::Result {
    writeln!(html, "<h2>{title}</h2><div class=\"wide\"><table><tr>")?;
    heads
        .iter()
        .try_for_each(|head| write!(html, "<th>{head}</th>"))?;
    html.push_str("</tr>\n");
    for row in rows {
        html.push_str("<tr>");
        row.iter()
            .try_for_each(|cell| write!(html, "<td>{cell}</td>"))?;
        html.push_str("</tr>\n");
    }
    html.push_str("</table></div>\n");
    Ok(())
}

/// What the chain says.
fn word(word: &Word) -> String {
    match word {
        Word::Unknown => "unknown".into(),
        Word::No { block } => format!("no<br>{}", proved(*block)),
        Word::Counts { by, until, block } => {
            let until = until.map_or("until further notice".into(), |until| {
                let left = until.saturating_sub(now().into()) / 3600;
                format!("for {left} h more")
            });
            format!("{until}<br>{}<br>{}", code(by), proved(*block))
        }
    }
}

fn proved(block: Block) -> String {
    format!(
        "by block {}, {}",
        digits(block.seqno.into()),
        ago(block.made)
    )
}

fn ago(made: u32) -> String {
    format!("{} s ago", digits(now().saturating_sub(made).into()))
}

/// In groups of three.
fn digits(number: u64) -> String {
    let digits = number.to_string();
    let groups = digits.as_bytes().rchunks(3).rev();
    let groups = groups.map(|group| String::from_utf8_lossy(group));
    groups.collect::<Vec<_>>().join("\u{202f}")
}

fn code(text: &str) -> String {
    format!("<code>{}</code>", escaped(text))
}

/// Names are the workers' own words.
fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            _ => escaped.push(character),
        }
    }
    escaped
}

const STYLE: &str = ":root{color-scheme:light dark;--line:#8884;--soft:#8881}\
body{font:15px/1.5 system-ui,sans-serif;margin:0}\
main{max-width:72rem;margin:auto;padding:1.5rem}\
h1{font-size:1.5rem}h1 small{font-weight:400;font-size:1rem;opacity:.7}\
h2{font-size:1.1rem;margin:2rem 0 .5rem}\
dl{display:flex;flex-wrap:wrap;gap:.75rem;margin:0}\
dl div{background:var(--soft);border-radius:.5rem;padding:.6rem 1rem;min-width:8rem}\
dt{font-size:.8rem;opacity:.75}dd{margin:0;font-size:1.4rem;font-variant-numeric:tabular-nums}\
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}\
td,th{border-bottom:1px solid var(--line);padding:.35rem .6rem;text-align:left;vertical-align:top}\
th{font-size:.8rem;font-weight:600;opacity:.75}code{font-size:.8rem;overflow-wrap:anywhere}";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workers_words_are_no_markup() {
        assert_eq!(escaped("<b>&\"</b>"), "&lt;b&gt;&amp;\"&lt;/b&gt;");
    }

    #[test]
    fn long_numbers_are_grouped() {
        let grouped = [0, 999, 1000, 12_345_678].map(digits);
        assert_eq!(
            grouped,
            ["0", "999", "1\u{202f}000", "12\u{202f}345\u{202f}678"]
        );
    }
}
