//! A TON on loopback, and people with coins there, who say `cocoon chain …`.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::cocoon::{Cocoon, target};
use crate::place::{Place, write};
use crate::up::Process;

/// Both end with this: the chain, and what is in its folder means nothing to another.
#[derive(Debug)]
pub(crate) struct Town {
    cocoon: Cocoon,
    folder: PathBuf,
    people: Vec<Person>,
    _chain: Process,
}

#[derive(Debug)]
struct Person {
    key: String,
    wallet: String,
}

impl Town {
    /// Where clients find the network's description.
    pub(crate) const NETWORK: &str = "network";

    /// `people` are files of keys to be made, whose wallets have coins. All was built.
    pub(crate) fn start(place: &Place, folder: &Path, people: &[&str]) -> Result<Self> {
        for (name, byte) in people.iter().zip(1..) {
            write(&folder.join(name), hex::encode([byte; 32]))?;
        }
        let mut chain = Command::new(target(place).join("debug/local-chain"));
        chain
            .current_dir(folder)
            .args(["--file", "chain", "--network", Self::NETWORK])
            .args(people.iter().flat_map(|name| ["--wallet", name]))
            .stdout(Stdio::piped());
        let mut chain = Process::start("the local chain", chain)?;
        let mut next = |prefix: &str| -> Result<String> {
            let line = chain.line()?;
            let found = line.trim_end().strip_prefix(prefix).map(str::to_owned);
            found.with_context(|| format!("the chain says {line}"))
        };
        let people = people.iter().map(|name| {
            Ok(Person {
                key: (*name).into(),
                wallet: next("wallet ")?,
            })
        });
        let people = people.collect::<Result<_>>()?;
        next("ready")?;
        Ok(Self {
            cocoon: Cocoon::with_test_root(place),
            folder: folder.into(),
            people,
            _chain: chain,
        })
    }

    /// Somebody's, by number.
    pub(crate) fn wallet(&self, person: usize) -> Result<&str> {
        Ok(&self.person(person)?.wallet)
    }

    /// What somebody says has to succeed; what it prints.
    pub(crate) fn call(&self, person: usize, command: &str) -> Result<String> {
        let output = self.output(person, command)?;
        let said = String::from_utf8(output.stdout).context("cocoon does not print text")?;
        ensure!(
            output.status.success(),
            "cocoon chain {command} failed: {said}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(said)
    }

    /// The same, whatever comes of it.
    pub(crate) fn output(&self, person: usize, command: &str) -> Result<Output> {
        let output = self.command(person, command)?.output();
        output.context("cannot start cocoon")
    }

    /// What somebody is about to say.
    pub(crate) fn command(&self, person: usize, command: &str) -> Result<Command> {
        let Person { key, wallet } = self.person(person)?;
        let who = ["chain", "--network", Self::NETWORK];
        let who = who.into_iter().chain(["--key", key, "--wallet", wallet]);
        let words = who.chain(command.split_whitespace());
        let mut command = self.cocoon.command(words.map(OsStr::new));
        command.current_dir(&self.folder);
        Ok(command)
    }

    /// Where the contract is that something said makes.
    pub(crate) fn made(said: &str) -> Result<String> {
        let line = said.lines().next().unwrap_or_default();
        let address = line.rsplit(' ').next().unwrap_or_default();
        ensure!(address.starts_with("0:"), "cocoon made nothing: {said}");
        Ok(address.into())
    }

    fn person(&self, person: usize) -> Result<&Person> {
        self.people.get(person).context("nobody has this number")
    }
}
