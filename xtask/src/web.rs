//! The verifier as an npm package: made, tried, and timed.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use wasm_bindgen_cli_support::Bindgen;

use crate::cocoon::{Cocoon, build_doubles, cargo_command, target};
use crate::host;
use crate::image::Builder;
use crate::place::{Place, copy, files, list, read, read_text, remove};

/// Makes the package, and says where it is.
pub fn build(builder: &Builder) -> Result<PathBuf> {
    host::need(&[("gzip", "gzip")])?;
    let step = builder.progress.step("build the npm package");
    let folder = package(&builder.place, builder.jobs.get(), Root::Intel)?;
    let wasm = folder.join("attestation_bg.wasm");
    let (raw, packed) = (read(&wasm)?.len(), gzipped(&wasm)?);
    ensure!(
        packed <= MAX_GZIPPED,
        "the verifier is {packed} bytes gzipped, at most {MAX_GZIPPED} are wanted"
    );
    step.done(format!("wasm is {raw} bytes, {packed} gzipped"));
    Ok(folder)
}

/// Builds it twice, and tries it in TypeScript, node and Chromium.
pub fn test(builder: &Builder) -> Result<()> {
    host::need(&NEEDED)?;
    let folder = build(builder)?;
    build_elsewhere(builder, &folder)?;
    build_doubles(&builder.place, &builder.progress, &[])?;
    let network = target(&builder.place).join("debug/sealed-network");
    let step = builder.progress.step("build the package for doubles");
    let double = package(&builder.place, builder.jobs.get(), Root::Any)?;
    step.done("built");
    let cocoon = Cocoon::shipped(&builder.place, &builder.progress)?;
    let step = builder.progress.step("the npm package");
    let web = builder.place.source.join("web");
    npm(&web, &["ci"], &[])?;
    npm(&web, &["run", "types"], &[])?;
    // Its reports and the program's have to be the same.
    let environment = [
        ("COCOON", cocoon.path().as_os_str()),
        ("COCOON_DOUBLE", double.as_os_str()),
        ("COCOON_NETWORK", network.as_os_str()),
    ];
    npm(&web, &["test"], &environment)?;
    step.done("typed, and tried in node and Chromium");
    Ok(())
}

/// Compares its speed with what else is on npm.
pub fn bench(builder: &Builder) -> Result<()> {
    host::need(&NEEDED)?;
    build(builder)?;
    let web = builder.place.source.join("web");
    npm(&web, &["ci"], &[])?;
    npm(&web.join("bench"), &["ci"], &[])?;
    npm(&web.join("bench"), &["start"], &[])
}

/// What a browser has to load, at most.
const MAX_GZIPPED: usize = 1_000_000;

/// What the tests and the benchmark run.
pub const NEEDED: [(&str, &str); 4] = [
    ("node", "nodejs"),
    ("npm", "npm"),
    ("chromium", "chromium"),
    ("python3", "python3"),
];

/// Whom a package believes.
#[derive(Clone, Copy)]
enum Root {
    Intel,
    /// Whatever root it is given: for doubles.
    Any,
}

/// Compiles `web`, and puts the glue and what is written by hand beside it.
fn package(place: &Place, jobs: usize, root: Root) -> Result<PathBuf> {
    let (name, features) = match root {
        Root::Intel => ("attestation", ""),
        Root::Any => ("double", "test-root"),
    };
    let out = place.source.join("target/web");
    let (target, folder) = (out.join("cargo"), out.join(name));
    let home = host::cargo_home()?;
    let mut cargo = cargo_command(place);
    cargo
        .args(["build", "--locked", "--quiet", "--package", "web"])
        .args(["--target", TARGET, "--profile", "web"])
        .args(["--features", features])
        .args(["--jobs", &jobs.to_string()])
        .env("CARGO_TARGET_DIR", &target)
        // Where a machine keeps its crates is in every message of a panic. Randomness is
        // an argument: nothing in there can ask for it.
        .env(
            "RUSTFLAGS",
            format!(
                "--remap-path-prefix={}=/cargo --cfg getrandom_backend=\"unsupported\"",
                home.display()
            ),
        );
    quietly(&mut cargo)?;

    remove(&folder)?;
    Bindgen::new()
        .input_path(target.join(TARGET).join("web/web.wasm"))
        .out_name("attestation")
        .web(true)
        .context("a package for browsers")?
        .typescript(true)
        .remove_name_section(true)
        .remove_producers_section(true)
        .generate(&folder)
        .context("cannot make the glue of the package")?;
    let mut shipped = list(&place.source.join("web/npm"))?;
    shipped.extend(LICENCES.map(|name| place.source.join(name)));
    for file in shipped {
        copy(&file, &folder.join(file.file_name().unwrap_or_default()))?;
    }
    let version = format!("\"version\": \"{}\"", env!("CARGO_PKG_VERSION"));
    ensure!(
        read_text(&folder.join("package.json"))?.contains(&version),
        "web/npm/package.json lacks {version}"
    );
    Ok(folder)
}

const LICENCES: [&str; 2] = ["LICENSE-APACHE", "LICENSE-MIT"];

const TARGET: &str = "wasm32-unknown-unknown";

/// Another checkout, another number of jobs, nothing compiled before: the same bytes.
fn build_elsewhere(builder: &Builder, first: &Path) -> Result<()> {
    let step = builder.progress.step("build the npm package once more");
    let checkout = builder.place.source.join("target/web/another place");
    builder.place.copy_to(&checkout)?;
    let jobs = builder.jobs.get().saturating_add(1);
    let second = package(&Place::of(&checkout)?, jobs, Root::Intel)?;
    let contents = |folder: &Path| -> Result<Vec<_>> {
        let files = files(folder)?.into_iter();
        files
            .map(|file| Ok((file.strip_prefix(folder)?.to_owned(), read(&file)?)))
            .collect()
    };
    let (first, second) = (contents(first)?, contents(&second)?);
    let other = first.iter().zip(&second).find(|(one, other)| one != other);
    ensure!(
        first.len() == second.len() && other.is_none(),
        "the npm package is another one when it is built again: {:?}",
        other.map(|((name, _), _)| name)
    );
    remove(&checkout)?;
    step.done("the same bytes");
    Ok(())
}

fn gzipped(path: &Path) -> Result<usize> {
    let output = Command::new("gzip")
        .args(["-9", "--no-name", "--stdout"])
        .arg(path)
        .output()
        .context("cannot start gzip")?;
    ensure!(output.status.success(), "gzip failed");
    Ok(output.stdout.len())
}

/// Runs npm where the user sees what it says.
fn npm(folder: &Path, arguments: &[&str], environment: &[(&str, &OsStr)]) -> Result<()> {
    let status = Command::new("npm")
        .arg("--silent")
        .args(arguments)
        .envs(environment.iter().copied())
        .current_dir(folder)
        .status()
        .context("cannot start npm")?;
    ensure!(
        status.success(),
        "npm {} failed in {}",
        arguments.join(" "),
        folder.display()
    );
    Ok(())
}

/// Runs a command whose output is shown only if it fails.
fn quietly(command: &mut Command) -> Result<()> {
    let output = command.output().context("cannot start cargo")?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}
