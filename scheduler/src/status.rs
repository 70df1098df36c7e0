//! `GET /status`: a page for people, without script and without anything from elsewhere.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::metrics::Ending;
use crate::scheduler::Scheduler;

/// What is there now, and what was since the start.
pub(crate) fn page(scheduler: &Scheduler) -> String {
    let mut html = String::from(HEAD);
    // Writing to a string does not fail.
    body(&mut html, scheduler).unwrap_or_default();
    html
}

fn body(html: &mut String, scheduler: &Scheduler) -> std::fmt::Result {
    let workers = scheduler.workers.all();
    let (tokens, nanotons) = scheduler.metrics.paid();
    writeln!(
        html,
        "<p>{} verified workers. {} answers, {tokens} tokens, {nanotons} nanotons since the start. \
         {} clients wait.</p>",
        workers.len(),
        scheduler.metrics.count(Ending::Settled),
        scheduler.now().waiting,
    )?;

    writeln!(
        html,
        "<h2>Models</h2><table><tr>{}</tr>",
        heads(&[
            "model",
            "workers",
            "open",
            "free places",
            "price, nanotons for a million tokens",
        ])
    )?;
    let models: BTreeMap<String, [String; 4]> = scheduler.desk().look(|directory| {
        let models = directory.models().map(|model| {
            let price = model.least.map_or("-".into(), |least| least.to_string());
            let (workers, open, free) = (model.workers, model.open, model.free);
            let row = [
                workers.to_string(),
                open.to_string(),
                free.to_string(),
                price,
            ];
            (model.name.to_owned(), row)
        });
        models.collect()
    });
    for (name, row) in models {
        writeln!(html, "<tr><td>{}</td>{}</tr>", escaped(&name), cells(&row))?;
    }

    writeln!(
        html,
        "</table><h2>Workers</h2><table><tr>{}</tr>",
        heads(&[
            "worker",
            "linked",
            "keyset",
            "model",
            "places",
            "free",
            "tokens a second",
            "asks for",
        ])
    )?;
    let shown = workers.into_iter().collect::<BTreeMap<_, _>>();
    for (id, worker) in shown.iter().take(MAX_SHOWN) {
        let linked = match worker.requests {
            Some(_) => "here",
            None => "elsewhere",
        };
        for model in &worker.offer.models {
            let row = [
                id.to_string(),
                linked.into(),
                worker.keyset.digest().to_string(),
                escaped(&model.name),
                model.slots.to_string(),
                model.free.to_string(),
                model.tokens_per_second.to_string(),
                model.ask.to_string(),
            ];
            writeln!(html, "<tr>{}</tr>", cells(&row))?;
        }
    }
    writeln!(html, "</table>")
}

fn heads(names: &[&str]) -> String {
    names
        .iter()
        .map(|name| format!("<th>{name}</th>"))
        .collect()
}

fn cells(row: &[String]) -> String {
    row.iter().map(|cell| format!("<td>{cell}</td>")).collect()
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

const MAX_SHOWN: usize = 500;

const HEAD: &str = "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\">\
<meta http-equiv=\"refresh\" content=\"10\"><title>Scheduler</title><style>\
body{font:15px/1.5 system-ui,sans-serif;margin:2rem;max-width:75rem}\
table{border-collapse:collapse}td,th{border:1px solid #bbb;padding:.2rem .6rem;\
text-align:left;word-break:break-all}</style><h1>Scheduler</h1>\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workers_words_are_no_markup() {
        assert_eq!(escaped("<b>&\"</b>"), "&lt;b&gt;&amp;\"&lt;/b&gt;");
    }
}
