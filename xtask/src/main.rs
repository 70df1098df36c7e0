//! Builds, runs and checks the image.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use xtask::image::{self, debs::Source};
use xtask::place::Place;
use xtask::progress::Progress;
use xtask::tools;

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
    let place = Place::here()?;
    match arguments.command {
        Command::Image {
            mirror,
            debs,
            quiet,
            command,
        } => {
            let progress = Progress::new(quiet);
            let source = Source {
                folder: debs,
                mirrors: mirror,
            };
            match command {
                ImageCommand::Lock => image::renew::renew(&place, &source.mirrors, progress),
                ImageCommand::Tools => {
                    let lock = image::lock::Lock::read(&place)?;
                    let t = tools::Tools::prepare(&place, &lock, &source, progress)?;
                    println!("{}", t.path("").display());
                    Ok(())
                }
            }
        }
    }
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
        /// Plain lines instead of moving ones.
        #[arg(long, global = true)]
        quiet: bool,
        #[command(subcommand)]
        command: ImageCommand,
    },
}

#[derive(Debug, Subcommand)]
enum ImageCommand {
    /// Ask apt what the named packages are today, and write image/packages.lock.
    Lock,
    /// Tools.
    Tools,
}
