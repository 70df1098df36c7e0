//! `cocoon model`: models as disks that one root hash stands for, and their keys.
//!
//! A pack is a file system with its dm-verity tree behind it. The root hash goes into a
//! measured configuration; the guest's kernel refuses every other content.

use std::num::NonZero;
use std::path::PathBuf;
use std::thread;

use anyhow::{Context as _, Result};
use attestation::appraisal::Verdict;
use attestation::register::Digest256;
use attestation::verity::Verity;
use clap::{Args, Subcommand};

use self::key::{KeyFile, ModelKey};
use self::keyserver::KeyserverArgs;
use self::manifest::Version;
use self::open::{Expected, Pack};
use self::pack::Folder;

pub mod erofs;
pub mod key;
pub mod keyserver;
pub mod manifest;
pub mod open;
pub mod pack;
mod tree;

/// What to do with a model.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a pack of a folder: the same bytes on every machine.
    ///
    /// Files whose names begin with a dot are left out.
    Pack(PackArgs),
    /// Say what a pack claims to be, without hashing it.
    Inspect(InspectArgs),
    /// Give keys of private models to machines that prove what they run.
    ///
    /// The release says which builds and configurations: a machine gets the key of a model
    /// that its configuration names, with this key and this server. Prints the `server` for
    /// configurations, then one JSON object for each request.
    Keyserver(Box<KeyserverArgs>),
    /// Hash a pack, or the pack that a folder would make, and compare.
    ///
    /// Exits with 0 when it is the one, 1 when not, 2 when it could not tell.
    Verify(VerifyArgs),
}

/// From what, and to where.
#[derive(Args, Debug)]
pub struct PackArgs {
    /// Folder in the layout of the Hugging Face hub, or with a GGUF file.
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Name of the model, PUBLISHER/MODEL for example, instead of the folder's.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// The publisher's version.
    #[arg(long, value_name = "TEXT", default_value = "main")]
    revision: String,
    /// Where the pack goes, a new file; DIR.pack without it.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Encrypt it under a new key.
    #[arg(long, requires = "key_out")]
    encrypt: bool,
    /// Where the key goes, a new file.
    #[arg(long, value_name = "FILE", requires = "encrypt")]
    key_out: Option<PathBuf>,
    #[command(flatten)]
    threads: Threads,
}

/// Which pack.
#[derive(Args, Debug)]
pub struct InspectArgs {
    /// The pack.
    #[arg(value_name = "FILE")]
    pack: PathBuf,
    /// Its key, if it is encrypted.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
}

/// Which pack, and what it should be.
#[derive(Args, Debug)]
pub struct VerifyArgs {
    /// The pack, or a folder to make it from.
    #[arg(value_name = "FILE|DIR")]
    path: PathBuf,
    /// ROOT, NAME@REVISION:ROOT (for a folder), or sha256:ROOT:SALT:BLOCKS.
    #[arg(long, value_name = "HASH")]
    root: Expected,
    /// Its key, if it is encrypted.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    #[command(flatten)]
    threads: Threads,
}

#[derive(Args, Clone, Copy, Debug)]
struct Threads {
    /// How many, instead of one for each processor.
    #[arg(long, value_name = "N")]
    threads: Option<NonZero<usize>>,
}

impl Threads {
    fn count(self) -> NonZero<usize> {
        let all = || thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN);
        self.threads.unwrap_or_else(all)
    }
}

/// Does it; a service runs until `shutdown`.
pub async fn run(command: Command, shutdown: impl Future<Output = ()>) -> Result<Verdict> {
    match command {
        Command::Keyserver(args) => {
            args.run(shutdown).await?;
            Ok(Verdict::Trusted)
        }
        Command::Pack(args) => args.run(),
        Command::Inspect(args) => args.run(),
        Command::Verify(args) => args.run(),
    }
}

impl PackArgs {
    fn run(&self) -> Result<Verdict> {
        let folder = self.folder.canonicalize();
        let folder = folder.with_context(|| format!("cannot find {}", self.folder.display()))?;
        let own = || folder.file_name()?.to_str().map(ToOwned::to_owned);
        let name = self.name.clone().or_else(own).context("say --name")?;
        let version = Version::new(&name, &self.revision)?;
        let out = self
            .out
            .clone()
            .unwrap_or_else(|| folder.with_extension("pack"));

        let folder = Folder::read(&folder, version.clone(), self.threads.count())?;
        let key = self.encrypt.then(ModelKey::generate).transpose()?;
        let verity = folder.write(&out, key.as_ref())?;
        if let (Some(key), Some(path)) = (key, &self.key_out) {
            let (model, root) = (version.to_string(), verity.root_hash);
            println!("key       {}", key.digest());
            KeyFile { model, root, key }.write(path)?;
        }
        show(
            &version,
            Digest256::of(&folder.manifest().to_json()),
            &verity,
        );
        Ok(Verdict::Trusted)
    }
}

impl InspectArgs {
    fn run(&self) -> Result<Verdict> {
        let key = read(self.key.as_ref())?;
        let named = || format!("{} is refused", self.pack.display());
        let pack = Pack::open(&self.pack, key.as_ref()).with_context(named)?;
        match &pack.content {
            Some(content) => {
                show(&content.manifest.version()?, content.digest, &pack.claimed);
                println!("{}", serde_json::to_string_pretty(&content.manifest)?);
            }
            None => println!("verity    {}\nencrypted, or no pack", pack.claimed),
        }
        eprintln!("cocoon: nothing was hashed: `cocoon model verify` does");
        Ok(Verdict::Trusted)
    }
}

impl VerifyArgs {
    fn run(&self) -> Result<Verdict> {
        let found = if self.path.is_dir() {
            self.folder()?
        } else {
            let key = read(self.key.as_ref())?;
            self.pack(key.as_ref())
        };
        match found {
            Ok(verity) => {
                println!("verity    {verity}");
                Ok(Verdict::Trusted)
            }
            Err(refusal) => {
                println!("refused   {refusal:#}");
                Ok(Verdict::Rejected)
            }
        }
    }

    /// What is outside is whether it could be told, what is inside whether it is the one.
    fn folder(&self) -> Result<Result<Verity>> {
        let Expected::Root(Some(version), _) = &self.root else {
            anyhow::bail!("a folder has no name: say --root NAME@REVISION:ROOT");
        };
        let folder = Folder::read(&self.path, version.clone(), self.threads.count())?;
        let verity = folder.verity()?;
        Ok(self.root.check(&verity, Some(version)).map(|()| verity))
    }

    fn pack(&self, key: Option<&ModelKey>) -> Result<Verity> {
        let pack = Pack::open(&self.path, key)?;
        let verity = pack.verify(self.threads.count())?;
        let content = pack.content.as_ref();
        let version = content.map(|c| c.manifest.version()).transpose()?;
        self.root.check(&verity, version.as_ref())?;
        Ok(verity)
    }
}

fn read(key: Option<&PathBuf>) -> Result<Option<ModelKey>> {
    key.map(|path| Ok(KeyFile::read(path)?.key)).transpose()
}

fn show(version: &Version, manifest: Digest256, verity: &Verity) {
    println!("model     {version}:{}", verity.root_hash);
    println!("manifest  {manifest}");
    println!("verity    {verity}");
}
