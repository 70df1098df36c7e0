//! A private model: encrypted on the host's disk, opened only in the published machine,
//! by a key that its owner gives to that machine, and to no other.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead as _, BufReader, Lines};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdout, Stdio};

use anyhow::{Context as _, Result, ensure};
use attestation::register::Digest256;
use attestation::verity::Verity;
use client::host::vm::ModelDisk;
use client::model::key::KeyFile;
use client::model::open::Pack;
use client::release::key::SigningKey;
use serde_json::Value;

use super::report::Refusal;
use super::stage::{self, Stage, publish, trust};
use super::{chat, tamper};
use crate::image::Builder;
use crate::models;
use crate::place::{remove, write};
use crate::vm::{self, Vm};

/// Packs, publishes, gives the key, and has the machine answer; then another asks for it.
pub(super) fn run(builder: &Builder, stage: &Stage) -> Result<Refusal> {
    let step = stage.progress.step("boot with a private model");
    let folder = stage.folder.join("private");
    remove(&folder)?;
    let keys = folder.join("keys");
    fs::create_dir_all(&keys).with_context(|| format!("cannot make {}", keys.display()))?;
    let identity = SigningKey::generate(&folder.join("identity.pem"))?;
    let disk = pack(builder, stage, &folder)?;
    let key = KeyFile::read(&keys.join("model.key"))?.key.digest();
    let verity = Pack::open(&disk.path, None)?.claimed;
    let measured = measured(&disk.name, &verity, key, identity.public().id());
    let config = folder.join("private.toml");
    write(&config, &measured)?;
    let release = publish(
        &stage.cocoon,
        &stage.base,
        &config,
        &folder.join("release.json"),
    )?;

    let root = stage.authority.issuer_certificate();
    let trust = trust(&release, &root, stage.accelerator);
    let mut keyserver = Keyserver::start(stage, &folder, &trust)?;
    // QEMU's user network has this host's loopback there.
    let port = keyserver.address.port();
    let network = stage::UNMEASURED.replace(
        "\n[network]",
        &format!("keyserver = \"10.0.2.2:{port}\"\n\n[network]"),
    );
    let boot = vm::Boot {
        models: [disk].into(),
        measured,
        unmeasured: network,
        ..stage.boot("private")?
    };
    let mut vm = stage.serve(&boot)?;
    let said = keyserver.next()?;
    ensure!(
        said.contains("\"event\":\"released\""),
        "the key server says {said}"
    );
    let gateway = stage.cocoon.gateway(vm.address(), &trust)?;
    chat::recite(&gateway.base)?;
    vm.press_power_button()?;
    vm.wait(stage::BOOT)?;
    step.done("the key was given to it, and it answered");
    other_machine(stage, &mut keyserver, &boot)
}

/// The same disk and configuration, booted with another command line.
fn other_machine(stage: &Stage, server: &mut Keyserver, boot: &vm::Boot) -> Result<Refusal> {
    let tampering = "a model key for another build";
    let step = stage.progress.step(tampering);
    let mut other = vm::Boot {
        log: stage.folder.join("other-private.console"),
        ..boot.clone()
    };
    other.artefacts.command_line = tamper::other_command_line(stage)?;
    let mut vm = Vm::start(&stage.tools, &stage.authority, &other)?;
    let end = vm.console().wait_for("init: step ", stage::BOOT)?.text;
    vm.wait(stage::BOOT)?;
    let said: Value = serde_json::from_str(&server.next()?).context("the key server's log")?;
    let word = |name| said.get(name).and_then(Value::as_str).unwrap_or_default();
    let found = word("what");
    step.done("powered off without it");
    Ok(Refusal {
        tampering: tampering.into(),
        refused: word("event") == "refused"
            && ["pcr9", "rtmr2"].iter().any(|name| found.contains(name))
            && end.contains("fetch model keys failed"),
        by: "the owner's key server, and so init".into(),
        expected: "a machine that the owner accepts".into(),
        found: found.into(),
    })
}

/// The first of our models, encrypted.
fn pack(builder: &Builder, stage: &Stage, folder: &Path) -> Result<ModelDisk> {
    let model = models::prepare(&builder.place, &builder.progress)?;
    let model = model.into_iter().next().context("we have a model")?;
    let (path, key) = (folder.join("pack"), folder.join("keys/model.key"));
    stage.cocoon.run([
        "model".as_ref(),
        "pack".as_ref(),
        model.path.as_os_str(),
        "--out".as_ref(),
        path.as_os_str(),
        "--encrypt".as_ref(),
        "--key-out".as_ref(),
        key.as_os_str(),
    ])?;
    let name = model.name.into();
    Ok(ModelDisk { name, path })
}

fn measured(name: &str, verity: &Verity, key: Digest256, server: Digest256) -> String {
    format!(
        "version = 1\nrole = \"worker\"\n\n[[model]]\nname = \"{name}\"\nverity = \"{verity}\"\n\
         key = {{ sha256 = \"{key}\", server = \"{server}\" }}\n"
    )
}

/// The owner's service, which ends with this.
struct Keyserver {
    child: Child,
    output: Lines<BufReader<ChildStdout>>,
    address: SocketAddr,
}

impl Keyserver {
    fn start(stage: &Stage, folder: &Path, trust: &[&OsStr]) -> Result<Self> {
        let (keys, identity) = (folder.join("keys"), folder.join("identity.pem"));
        let fixed = [
            "model".as_ref(),
            "keyserver".as_ref(),
            "--listen".as_ref(),
            "127.0.0.1:0".as_ref(),
            "--model-keys".as_ref(),
            keys.as_os_str(),
            "--identity".as_ref(),
            identity.as_os_str(),
        ];
        let mut child = stage
            .cocoon
            .command(fixed.iter().chain(trust))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start the key server")?;
        let output = child
            .stdout
            .take()
            .context("the key server has no output")?;
        let mut server = Self {
            child,
            output: BufReader::new(output).lines(),
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
        };
        let said = server.next()?;
        let address = said
            .strip_prefix("keyserver ")
            .and_then(|text| text.parse().ok());
        server.address = address.with_context(|| format!("the key server says {said}"))?;
        server.next()?;
        Ok(server)
    }

    /// What it says next.
    fn next(&mut self) -> Result<String> {
        let line = self.output.next().context("the key server ended")?;
        line.context("cannot read what the key server says")
    }
}

impl Drop for Keyserver {
    fn drop(&mut self) {
        if self.child.kill().is_ok() {
            // Nothing is left to do with the status of what was killed.
            drop(self.child.wait());
        }
    }
}
