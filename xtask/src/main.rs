//! Builds, runs and checks the image.

use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use std::{io, thread};

use anyhow::{Result, ensure};
use clap::{Parser, Subcommand};

use client::host::accelerator::Accelerator;
use client::host::tpm::Authority;
use measurements::shape::{SHAPES, Shape};
use xtask::image::debs::Source;
use xtask::image::explain::explain;
use xtask::image::{self, Artefacts, Builder, Profile};
use xtask::place::{Place, read_text};
use xtask::progress::Progress;
use xtask::up::Through;
use xtask::vm::acpi;
use xtask::vm::{Boot, Vm};
use xtask::{contracts, demo, fuzz, test, up, web};

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<()> {
    let progress = Progress::new(arguments.quiet);
    let mut builder = Builder::here(&progress)?;
    builder.source = Source {
        folder: arguments.debs,
        mirrors: arguments.mirror,
        snapshot: arguments.snapshot,
    };
    builder.jobs = arguments.jobs.unwrap_or(builder.jobs);
    match arguments.command {
        Command::Contracts { command } => match command {
            ContractsCommand::Build => contracts::build(&builder),
            ContractsCommand::Cover => contracts::cover(&builder),
            ContractsCommand::Mutate { options } => contracts::mutate(&builder, &options),
            ContractsCommand::Test => contracts::test(&builder),
        },
        Command::Demo { chain: true, .. } => demo::on_chain(&builder),
        Command::Demo { nvidia: true, .. } => demo::without_gpu(&builder),
        Command::Demo { .. } => demo::run(&builder),
        Command::Fuzz { minutes, target } => fuzz::run(&builder, target.as_deref(), minutes),
        Command::Image { checkout, command } => {
            if let Some(checkout) = checkout {
                builder.place = Place::of(&checkout)?;
            }
            image(&builder, command)
        }
        Command::Test => test::run(&builder),
        Command::Up {
            chaos: Some(seconds),
            seed,
            ..
        } => up::chaos(&builder, seconds, seed),
        Command::Up { network: false, .. } => up::run(&builder, Through::Session),
        Command::Up { network: true, .. } => up::run(&builder, Through::Scheduler),
        Command::Web { command } => match command {
            WebCommand::Build => {
                web::build(&builder).map(|folder| println!("{}", folder.display()))
            }
            WebCommand::Test => web::test(&builder),
            WebCommand::Bench => web::bench(&builder),
        },
    }
}

fn image(builder: &Builder, command: ImageCommand) -> Result<()> {
    match command {
        ImageCommand::Build { profile } => {
            let artefacts = builder.build(profile)?;
            println!("{}", artefacts.folder.display());
        }
        ImageCommand::Boot {
            profile,
            measured,
            unmeasured,
        } => boot(builder, profile, &measured, &unmeasured)?,
        ImageCommand::Check {
            profile,
            skip_kernel,
        } => image::check::check(builder, profile, skip_kernel)?,
        ImageCommand::Compare { first, second } => {
            let scratch = builder.place.out.join("check/differences");
            let found = explain(&builder.tools()?, &first, &second, &scratch)?;
            found.iter().for_each(|line| println!("{line}"));
            ensure!(found.is_empty(), "the two are not the same");
        }
        ImageCommand::Lock => {
            let mirrors = &builder.source.mirrors;
            for change in image::renew::renew(&builder.place, mirrors, &builder.progress)? {
                println!("{change}");
            }
        }
        ImageCommand::Shapes => {
            let shapes: Vec<_> = SHAPES.iter().collect();
            let differing = acpi::differing(&builder.tools()?, &shapes, &builder.progress)?;
            ensure!(
                differing.is_empty(),
                "QEMU's tables differ for {differing:?}"
            );
        }
        ImageCommand::Tools => println!("{}", builder.tools()?.path("").display()),
    }
    Ok(())
}

fn boot(builder: &Builder, profile: Profile, measured: &Path, unmeasured: &Path) -> Result<()> {
    let tools = builder.tools()?;
    let out = &builder.place.out;
    let accelerator = Accelerator::probe(&tools)?;
    let boot = Boot {
        shape: Shape::named("small")?,
        platform: accelerator.platform(),
        accelerator,
        artefacts: Artefacts::at(out.join(profile.name())),
        models: Vec::new(),
        measured: read_text(measured)?,
        unmeasured: read_text(unmeasured)?,
        port: 8443,
        table: None,
        gpu: None,
        log: out.join("console.log"),
    };
    let mut vm = Vm::start(&tools, &Authority::at(&out.join("authority"))?, &boot)?;
    eprintln!("{accelerator}, guest port 8443 at {}", vm.address());
    let mut keyboard = vm.keyboard()?;
    thread::spawn(move || io::copy(&mut io::stdin(), &mut keyboard));
    let mut shown = 0_usize;
    while vm.console().is_open() {
        let lines = vm.console().wait_beyond(shown);
        for line in lines.iter().skip(shown) {
            println!("[{:8.3}] {}", line.time.as_secs_f32(), line.text);
        }
        shown = lines.len();
    }
    vm.wait(Duration::from_secs(10))?;
    Ok(())
}

/// Everything that is not the product itself.
#[derive(Debug, Parser)]
struct Arguments {
    /// Root of a Debian archive, instead of those that apt knows; may be repeated.
    #[arg(long, global = true, value_name = "URL")]
    mirror: Vec<String>,
    /// Folder of package files, asked before any mirror.
    #[arg(long, global = true, value_name = "DIR")]
    debs: Option<PathBuf>,
    /// Root of Debian's snapshot archive, asked for what no mirror has any more.
    #[arg(long, global = true, value_name = "URL")]
    snapshot: Option<String>,
    /// Compilers at the same time, instead of one for each core.
    #[arg(long, global = true, value_name = "N")]
    jobs: Option<NonZero<usize>>,
    /// Plain lines instead of moving ones.
    #[arg(long, global = true)]
    quiet: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The contracts on TON.
    Contracts {
        #[command(subcommand)]
        command: ContractsCommand,
    },
    /// The whole chain once: build, predict, boot, verify, chat; then tamper and be refused.
    Demo {
        /// The nvidia profile instead, here where it finds no GPU, and nothing tampered with.
        #[arg(long, conflicts_with = "chain")]
        nvidia: bool,
        /// Only what happens on TON, here a local chain.
        #[arg(long)]
        chain: bool,
    },
    /// Every reader of foreign bytes under libFuzzer; needs a nightly toolchain.
    Fuzz {
        /// For each reader.
        #[arg(long, default_value_t = 1, value_name = "N")]
        minutes: u32,
        /// One reader, instead of all.
        target: Option<String>,
    },
    /// Make and check the image.
    Image {
        /// Checkout to build instead of this one.
        #[arg(long, global = true, value_name = "DIR")]
        checkout: Option<PathBuf>,
        #[command(subcommand)]
        command: ImageCommand,
    },
    /// Everything that has to pass, as CI runs it.
    Test,
    /// An emulated TD, an agent and a gateway on loopback, until Ctrl-C.
    Up {
        /// Three workers, and a scheduler between them and the gateway.
        #[arg(long)]
        network: bool,
        /// Kill, stop, drain and cut off parts of it for so long, and count what comes of it.
        #[arg(long, value_name = "SECONDS", requires = "network")]
        chaos: Option<u32>,
        /// Another order of disturbances.
        #[arg(long, value_name = "N", default_value_t = 1, requires = "chaos")]
        seed: u64,
    },
    /// The verifier as an npm package.
    Web {
        #[command(subcommand)]
        command: WebCommand,
    },
}

#[derive(Debug, Subcommand)]
enum WebCommand {
    /// Make target/web/attestation.
    Build,
    /// Build it twice, and try it in TypeScript, node and Chromium.
    Test,
    /// Compare its speed with another verifier's, in node.
    Bench,
}

#[derive(Debug, Subcommand)]
enum ContractsCommand {
    /// Compile them all to contracts/compiled.
    Build,
    /// Show which lines of them the tests reach.
    Cover,
    /// Change them in one place at a time, and see whether a test notices.
    Mutate {
        /// For contracts/tools/mutate.js: --minutes N --jobs N --file NAME --every N
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        options: Vec<String>,
    },
    /// Run the suite in jest.
    Test,
}

#[derive(Debug, Subcommand)]
enum ImageCommand {
    /// Make every artefact under target/image.
    Build {
        /// `base`, `debug` or `nvidia`.
        #[arg(long, default_value = "base")]
        profile: Profile,
    },
    /// Build twice under different circumstances, compare every byte and look inside.
    Check {
        /// `base`, `debug` or `nvidia`.
        #[arg(long, default_value = "base")]
        profile: Profile,
        /// Reuse the kernel of the first build: minutes faster, and says so.
        #[arg(long)]
        skip_kernel: bool,
    },
    /// Say in which file, inside which artefact, two builds differ.
    Compare {
        /// Folder of artefacts.
        first: PathBuf,
        /// Another one.
        second: PathBuf,
    },
    /// Run what was built until it ends; this terminal is its console.
    Boot {
        /// `base`, `debug` or `nvidia`.
        #[arg(long, default_value = "base")]
        profile: Profile,
        /// The configuration that is part of the identity.
        measured: PathBuf,
        /// The configuration that is not.
        unmeasured: PathBuf,
    },
    /// Ask apt what the named packages are today, write image/packages.lock, and say what changed.
    Lock,
    /// Compare the ACPI tables that are predicted with those of QEMU, for every shape.
    Shapes,
    /// Download and unpack the tools tree, and print where it is.
    Tools,
}
