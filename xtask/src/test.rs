//! Everything that has to pass, in the order of what fails soonest.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};

use crate::cocoon::{Cocoon, SHIPPED, cargo, cargo_command};
use crate::demo::{self, chat};
use crate::image::{self, Builder, Profile};
use crate::up::{Through, Up, check_chaos};
use crate::{clients, contracts, dashboard, host, models, web};

/// Runs all of it; the first failure ends it.
pub fn run(builder: &Builder) -> Result<()> {
    host::need(&[&NEEDED[..], &web::NEEDED, &clients::NEEDED].concat())?;
    models::prepare(&builder.place, &builder.progress)?;
    contracts::prepare(&builder.place, &builder.progress)?;
    for (name, arguments) in STATIC {
        stream(builder, name, arguments)?;
    }
    deny(builder)?;
    // One of the tests compares the published release with what this source builds to.
    builder.build(Profile::Base)?;
    stream(builder, "tests", &TESTS)?;
    contracts::test(builder)?;
    processes(builder)?;
    check_chaos(builder)?;
    roots(builder)?;
    web::test(builder)?;
    demo::run(builder)?;
    // The published kernel was built elsewhere: there is a second build of it.
    image::check::check(builder, Profile::Base, true)
}

/// What looks at the source alone.
const STATIC: [(&str, &[&str]); 3] = [
    ("format", &["fmt", "--all", "--check"]),
    (
        "lints",
        &[
            "clippy",
            "--locked",
            "--workspace",
            "--all-targets",
            "--features",
            "agent/nvidia",
            "--",
            "-Dwarnings",
        ],
    ),
    (
        "documentation",
        &["doc", "--locked", "--workspace", "--no-deps"],
    ),
];

/// Leaves the programs that [`processes`] runs.
const TESTS: [&str; 6] = [
    "test",
    "--locked",
    "--no-fail-fast",
    "--workspace",
    "--features",
    "agent/nvidia,client/test-root",
];

/// Runs cargo with its output where the user sees it.
fn stream(builder: &Builder, name: &str, arguments: &[&str]) -> Result<()> {
    let step = builder.progress.step(name);
    let status = cargo_command(&builder.place)
        .args(arguments)
        .env("RUSTDOCFLAGS", "-Dwarnings")
        .status()
        .context("cannot start cargo")?;
    ensure!(status.success(), "cargo {} failed", arguments.join(" "));
    step.done("passed");
    Ok(())
}

/// Licences, sources and bans of the dependency tree.
fn deny(builder: &Builder) -> Result<()> {
    if host::find("cargo-deny").is_none() {
        let step = builder.progress.step("install cargo-deny");
        cargo(&builder.place, &["install", "--locked", "cargo-deny"])?;
        step.done("installed");
    }
    let step = builder.progress.step("dependencies");
    let check = ["deny", "check", "bans", "licenses", "sources"];
    cargo(&builder.place, &check)?;
    step.done("as deny.toml allows");
    Ok(())
}

/// A shipped client has Intel's root and no way to another.
fn roots(builder: &Builder) -> Result<()> {
    let step = builder.progress.step("roots of the shipped client");
    let cocoon = Cocoon::shipped(&builder.place, &builder.progress)?;
    let test_root = ["build", "--locked", "--features", "test-root"];
    let refused = cargo(&builder.place, &[&test_root[..], &SHIPPED].concat())
        .err()
        .context("a release build of the client was made with feature test-root")?;
    ensure!(
        format!("{refused:#}").contains("it has no place in a release build"),
        "the release build failed for another reason: {refused:#}"
    );
    let help = cocoon.run(["verify", "--help"])?;
    ensure!(
        !help.contains("test-root"),
        "the shipped client takes a root"
    );
    let Some(vectors) = vectors(builder)? else {
        step.done("skipped: no vectors");
        return Ok(());
    };
    let judge = |quote: &str, collateral: &str, at: &str| {
        let (quote, collateral) = (vectors.join(quote), vectors.join(collateral));
        cocoon.judge(&quote, &collateral, at)
    };
    let made_up = judge(
        "tdx/synthetic/ok-v4/quote.bin",
        "tdx/synthetic/ok-v4",
        "1793534400",
    )?;
    ensure!(made_up == 1, "the shipped client trusts a made-up root");
    let genuine = judge(
        GENUINE,
        "tdx/collateral/2025-06-19_b0c06f000000",
        "1751624191",
    )?;
    ensure!(genuine == 0, "the shipped client refuses a genuine quote");
    step.done("Intel's, and no other");
    Ok(())
}

/// Emulated TD, agent and gateway as processes, and with a scheduler between: an
/// application is served if all is as published, and refused by name if not.
fn processes(builder: &Builder) -> Result<()> {
    let step = builder.progress.step("emulated TD, agent and gateway");
    let up = Up::start(builder, Through::Scheduler, None)?;
    clients::api(builder, &up)?;
    clients::page(builder, &up, "network")?;
    let mut counts = up.counts()?;
    ensure!(up.paid()? > 0, "the conversations cost nothing");
    up.check_shown()?;
    drop(up);
    let up = Up::start(builder, Through::Session, None)?;
    chat::recite(&up.gateway.base)?;
    chat::embed(&up.gateway.base)?;
    clients::test(builder, &up)?;
    counts.extend(up.counts()?);
    drop(up);
    dashboard::check(builder, &counts)?;
    for (fault, check) in FAULTS {
        let up = Up::start(builder, Through::Session, Some(fault))?;
        let (status, code, message) = chat::refused(&up.gateway.base)?;
        ensure!(
            status == 502 && code == "worker_not_trusted" && message.contains(check),
            "an emulated TD with fault {fault}: {status} {code}: {message}"
        );
    }
    step.done(format!("served, and {} faults refused", FAULTS.len()));
    Ok(())
}

/// What `emulated-td` can have wrong, and the check that finds it.
const FAULTS: [(&str, &str); 6] = [
    ("debug", "td-debug"),
    ("expired", "collateral"),
    ("other-build", "rtmr1"),
    ("other-config", "mrconfigid"),
    ("out-of-date", "tcb-status"),
    ("revoked", "revoked"),
];

/// Recorded evidence lies beside the checkout; CI must have it.
fn vectors(builder: &Builder) -> Result<Option<PathBuf>> {
    let path = std::env::var_os("COCOON_VECTORS").map_or_else(
        || builder.place.source.join("../shared/vectors"),
        PathBuf::from,
    );
    ensure!(
        path.is_dir() || std::env::var_os("CI").is_none(),
        "there are no vectors at {}",
        path.display()
    );
    Ok(path.is_dir().then_some(path))
}

/// Of a real machine, up to date when it was made.
const GENUINE: &str = "tdx/Phala-Network__dcap-qvl/f1c85033_v4_sample-tdx_quote.quote.bin";

/// What the workspace's tests run, and what the agent links.
const NEEDED: [(&str, &str); 10] = [
    ("g++", "g++"),
    ("gcc", "gcc"),
    ("nats-server", "nats-server"),
    ("pkg-config", "pkg-config"),
    ("promtool", "prometheus"),
    ("/usr/lib/postgresql/15/bin/postgres", "postgresql-15"),
    ("swtpm", "swtpm"),
    ("swtpm_setup", "swtpm-tools"),
    ("/usr/include/tss2/tss2_esys.h", "libtss2-dev"),
    ("xz", "xz-utils"),
];
