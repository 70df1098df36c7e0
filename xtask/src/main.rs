//! Builds, runs and checks the image.

use std::num::NonZero;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use xtask::image::debs::Source;
use xtask::image::{self, Builder, Profile};
use xtask::place::Place;
use xtask::progress::Progress;

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
    let Command::Image {
        mirror,
        debs,
        jobs,
        checkout,
        quiet,
        command,
    } = arguments.command;
    let progress = Progress::new(quiet);
    let mut builder = Builder::here(&progress)?;
    builder.source = Source {
        folder: debs,
        mirrors: mirror,
    };
    if let Some(checkout) = checkout {
        builder.place = Place::of(&checkout)?;
    }
    builder.jobs = jobs.unwrap_or(builder.jobs);
    match command {
        ImageCommand::Build { profile } => {
            let artefacts = builder.build(profile)?;
            println!("{}", artefacts.folder.display());
        }
        ImageCommand::Lock => {
            image::renew::renew(&builder.place, &builder.source.mirrors, &progress)?;
        }
        ImageCommand::Tools => println!("{}", builder.tools()?.path("").display()),
    }
    Ok(())
}

/// Everything that is not the product itself.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make and check the image.
    Image {
        /// Root of a Debian archive, instead of those that apt knows; may be repeated.
        #[arg(long, global = true, value_name = "URL")]
        mirror: Vec<String>,
        /// Folder of package files, asked before any mirror.
        #[arg(long, global = true, value_name = "DIR")]
        debs: Option<PathBuf>,
        /// Compilers at the same time, instead of one for each core.
        #[arg(long, global = true, value_name = "N")]
        jobs: Option<NonZero<usize>>,
        /// Checkout to build instead of this one.
        #[arg(long, global = true, value_name = "DIR")]
        checkout: Option<PathBuf>,
        /// Plain lines instead of moving ones.
        #[arg(long, global = true)]
        quiet: bool,
        #[command(subcommand)]
        command: ImageCommand,
    },
}

#[derive(Debug, Subcommand)]
enum ImageCommand {
    /// Make every artefact under target/image.
    Build {
        /// `base` or `debug`.
        #[arg(long, default_value = "base")]
        profile: Profile,
    },
    /// Ask apt what the named packages are today, and write image/packages.lock.
    Lock,
    /// Download and unpack the tools tree, and print where it is.
    Tools,
}
