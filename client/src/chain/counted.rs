//! What shall count: builds, configurations and models, named by files.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use attestation::config::Measured;
use attestation::register::Digest256;
use attestation::tdx::Quote;
use clap::Subcommand;
use contracts::cells::{Bytes, Moment};
use contracts::registry::{
    Build, Change, Configuration, Model, Published, build_key, configuration_key,
};
use tycho_types::cell::HashBytes;

use crate::artefacts::read;
use crate::release::load;

/// A change that lets more in, or less.
#[derive(Clone, Debug, Subcommand)]
pub(super) enum Counted {
    /// A build of the image, in one shape of machine.
    Build {
        /// The release manifest.
        #[arg(long, value_name = "FILE")]
        release: PathBuf,
        /// The shape in it.
        #[arg(long)]
        shape: String,
        /// Of the release; the policy may demand a least one.
        #[arg(long)]
        number: u32,
    },
    /// A measured configuration; it names one model at least, and the first one counts.
    Configuration {
        /// The configuration.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// A build as a machine proves it that you have checked by other means.
    BuildOfQuote {
        /// The machine's quote.
        #[arg(long, value_name = "FILE")]
        quote: PathBuf,
        /// Of the release.
        #[arg(long)]
        number: u32,
    },
    /// A configuration as a machine proves it that you have checked by other means.
    ConfigurationOfQuote {
        /// The machine's quote.
        #[arg(long, value_name = "FILE")]
        quote: PathBuf,
        /// Root hash of the model that it names.
        #[arg(long, value_name = "HEX")]
        model: Digest256,
    },
    /// A model.
    Model {
        /// Root hash of its verity disk.
        #[arg(long, value_name = "HEX")]
        root: Digest256,
        /// At most 14 letters.
        #[arg(long)]
        name: String,
        /// Which price it has.
        #[arg(long)]
        price_class: u8,
    },
    /// A build ends, now.
    EndBuild {
        /// As the registry knows it.
        #[arg(long, value_name = "HEX")]
        build: Digest256,
    },
}

impl Counted {
    /// As the registry hears it.
    pub(super) fn change(&self) -> Result<Change> {
        Ok(match self {
            Self::Build {
                release,
                shape,
                number,
            } => {
                let manifest = Digest256::of(&read(release)?);
                let release = load(release)?;
                Change::PutBuild {
                    build: build_key(&release.shape(shape)?.tdx),
                    record: build(HashBytes(*manifest.as_bytes()), *number),
                }
            }
            Self::Configuration { config } => {
                let bytes = read(config)?;
                let measured = Measured::parse(&bytes).context("not a configuration")?;
                let model = measured.models.first().context("it names no model")?;
                Change::PutConfiguration {
                    configuration: configuration_key(&Measured::digest(&bytes)),
                    record: configuration(HashBytes(*model.verity.root_hash.as_bytes())),
                }
            }
            Self::BuildOfQuote { quote, number } => {
                let bytes = read(quote)?;
                let quote = Quote::parse(&bytes).context("not a quote")?;
                Change::PutBuild {
                    build: build_key(&quote.unverified_body().registers),
                    record: build(HashBytes::ZERO, *number),
                }
            }
            Self::ConfigurationOfQuote { quote, model } => {
                let bytes = read(quote)?;
                let quote = Quote::parse(&bytes).context("not a quote")?;
                Change::PutConfiguration {
                    configuration: configuration_key(&quote.unverified_body().mrconfigid),
                    record: configuration(HashBytes(*model.as_bytes())),
                }
            }
            Self::Model {
                root,
                name,
                price_class,
            } => Change::PutModel {
                model: HashBytes(*root.as_bytes()),
                record: Model {
                    name: letters(name)?,
                    price_class: *price_class,
                },
            },
            Self::EndBuild { build } => Change::EndBuild {
                build: HashBytes(*build.as_bytes()),
                until: Moment(u64::from(super::now()?)),
            },
        })
    }
}

/// What a registry begins with.
pub(super) fn published(changes: &[Change]) -> Result<Published> {
    let mut published = Published::default();
    for change in changes {
        match change {
            Change::PutBuild { build, record } => drop(published.builds.set(build, record)?),
            Change::PutConfiguration {
                configuration,
                record,
            } => drop(published.configurations.set(configuration, record)?),
            Change::PutModel { model, record } => drop(published.models.set(model, record)?),
            _ => anyhow::bail!("a registry cannot begin with that"),
        }
    }
    Ok(published)
}

fn build(manifest: HashBytes, version: u32) -> Build {
    Build {
        manifest,
        version,
        roles: 1,
        until: Moment::FOREVER,
    }
}

fn configuration(model: HashBytes) -> Configuration {
    Configuration {
        model,
        until: Moment::FOREVER,
    }
}

/// A name in a field.
pub(super) fn letters<const N: usize>(name: &str) -> Result<Bytes<N>> {
    let mut bytes = [0; N];
    let room = bytes.get_mut(..name.len()).filter(|_| name.is_ascii());
    let room = room.with_context(|| format!("{name} is not at most {N} letters"))?;
    room.copy_from_slice(name.as_bytes());
    ensure!(!name.is_empty(), "a name without letters");
    Ok(Bytes(bytes))
}
