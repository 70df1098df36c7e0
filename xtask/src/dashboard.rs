//! The dashboard for Grafana and the alerts for Prometheus, against what the programs
//! export: a panel that asks for what nobody counts shows nothing, and nobody notices.
//!
//! Grafana itself is not run; its schema is that of version 39 of the dashboard's JSON.

use std::collections::BTreeSet;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use crate::image::Builder;
use crate::place::{read, write};

/// Compares both with scrapes of all programs.
pub(crate) fn check(builder: &Builder, scrapes: &[String]) -> Result<()> {
    let step = builder.progress.step("dashboard and alerts");
    let folder = builder.place.source.join("scheduler");
    let exported: BTreeSet<_> = scrapes.iter().flat_map(|text| exported(text)).collect();
    let dashboard = read(&folder.join("grafana/cocoon.json"))?;
    let dashboard: Dashboard = serde_json::from_slice(&dashboard).context("no dashboard")?;
    let queries = dashboard.queries()?;
    let alerts = String::from_utf8(read(&folder.join("prometheus/alerts.yml"))?)?;
    for text in queries.iter().map(String::as_str).chain([&*alerts]) {
        for name in asked(text) {
            ensure!(exported.contains(name), "nobody exports {name}: {text}");
        }
    }
    let rules = folder.join("prometheus");
    promtool(&rules, &["check", "rules", "alerts.yml"])?;
    promtool(&rules, &["test", "rules", "alerts.test.yml"])?;
    // It knows no other way to look at a query by itself.
    let scratch = tempfile::tempdir().context("no folder for queries")?;
    let mut text = String::from("groups:\n- name: dashboard\n  rules:\n");
    for query in &queries {
        let query = query.replace("$__rate_interval", "5m");
        text += &format!(
            "  - {{ record: query, expr: {} }}\n",
            serde_json::to_string(&query)?
        );
    }
    write(&scratch.path().join("queries.yml"), text)?;
    promtool(
        scratch.path(),
        &["check", "rules", "--lint=none", "queries.yml"],
    )?;
    step.done(format!("{} queries", queries.len()));
    Ok(())
}

fn promtool(folder: &std::path::Path, arguments: &[&str]) -> Result<()> {
    let output = Command::new("promtool")
        .current_dir(folder)
        .args(arguments)
        .output();
    let output = output.context("cannot start promtool")?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    ensure!(
        output.status.success(),
        "promtool {}: {said}",
        arguments.join(" ")
    );
    Ok(())
}

/// Names of the samples that are there, or would be once something is counted.
fn exported(text: &str) -> impl Iterator<Item = String> {
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    types.flat_map(|line| match line.split_once(' ') {
        Some((name, "histogram")) => ["bucket", "count", "sum"]
            .map(|part| format!("{name}_{part}"))
            .to_vec(),
        Some((name, _)) => vec![name.into()],
        None => Vec::new(),
    })
}

/// Names of ours in a query.
fn asked(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split(|character: char| !character.is_ascii_lowercase() && character != '_');
    words.filter(|word| word.starts_with("cocoon_"))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Dashboard {
    schema_version: u32,
    title: String,
    uid: String,
    panels: Vec<Panel>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Panel {
    id: u32,
    r#type: String,
    title: String,
    grid_pos: Place,
    #[serde(default)]
    targets: Vec<Target>,
}

/// Of a grid 24 wide.
#[derive(Deserialize)]
struct Place {
    x: u32,
    y: u32,
    w: u32,
    h: u32,
}

#[derive(Deserialize)]
struct Target {
    expr: String,
}

impl Dashboard {
    fn queries(&self) -> Result<Vec<String>> {
        ensure!(self.schema_version == 39, "schema {}", self.schema_version);
        ensure!(!self.title.is_empty() && !self.uid.is_empty(), "no name");
        let mut cells = BTreeSet::new();
        let mut ids = BTreeSet::new();
        let mut queries = Vec::new();
        for panel in &self.panels {
            let title = &panel.title;
            ensure!(ids.insert(panel.id), "panel {title:?} has another's number");
            let place = &panel.grid_pos;
            for x in place.x..place.x.saturating_add(place.w) {
                for y in place.y..place.y.saturating_add(place.h) {
                    ensure!(
                        x < 24 && cells.insert((x, y)),
                        "panel {title:?} has no room"
                    );
                }
            }
            match &*panel.r#type {
                "row" => ensure!(panel.targets.is_empty(), "row {title:?} has queries"),
                "stat" | "timeseries" => ensure!(!panel.targets.is_empty(), "{title:?} is empty"),
                kind => anyhow::bail!("panel {title:?} is a {kind}"),
            }
            queries.extend(panel.targets.iter().map(|target| target.expr.clone()));
        }
        Ok(queries)
    }
}
