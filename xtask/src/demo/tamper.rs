//! Each link of the chain, broken once: what gives it away?

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use session::client::{ChallengeError, ConnectError};
use session::server::Worker;
use tests::adversary;
use tests::pci::Gpu;
use tests::quote::{DEBUG, TdState};
use tests::td::Td;
use tokio::io::duplex;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use crate::cocoon::Verified;
use crate::image::Artefacts;
use crate::place::{read, write};
use crate::vm::{Boot, Vm};

use super::chat;
use super::report::{Refusal, Report};
use super::stage::{self, Stage, Unpublished};

/// All of them; a row for each.
pub(super) fn all(stage: &Stage, debug: &Unpublished, report: &mut Report) -> Result<()> {
    let mut rows = corrupted(stage)?;
    rows.extend(other_boots(stage, &debug.image)?);
    rows.extend(hostile_table(stage)?);
    rows.extend(other_peers(stage, &debug.release)?);
    rows.push(debug_td()?);
    report.refusals.extend(rows);
    Ok(())
}

/// A disk that differs in one byte: the kernel stops.
fn corrupted(stage: &Stage) -> Result<Vec<Refusal>> {
    let mut root = stage.boot("flipped-root")?;
    root.artefacts.root = flipped(&root.artefacts.root, &stage.folder.join("flipped-root.img"))?;
    let mut model = stage.boot("flipped-model")?;
    if let Some(disk) = model.models.first_mut() {
        disk.path = flipped(&disk.path, &stage.folder.join("flipped-model.img"))?;
    }
    [
        ("root disk, one byte", root),
        ("model disk, one byte", model),
    ]
    .into_iter()
    .map(|(tampering, boot)| {
        let step = stage.progress.step(tampering);
        let vm = Vm::start(&stage.tools, &stage.authority, &boot)?;
        let found = vm.console().wait_for("is corrupted", stage::BOOT)?;
        let served = vm
            .console()
            .lines()
            .iter()
            .any(|line| line.text.contains(stage::READY));
        step.done("stopped");
        Ok(Refusal {
            tampering: tampering.into(),
            refused: !served,
            by: "dm-verity, under the measured root hash".into(),
            expected: "blocks that hash to it".into(),
            found: found.text,
        })
    })
    .collect()
}

/// An image or a configuration that was not published: it boots, and is refused.
fn other_boots(stage: &Stage, debug: &Artefacts) -> Result<Vec<Refusal>> {
    let mut line = stage.boot("other-command-line")?;
    line.artefacts.command_line = other_command_line(stage)?;

    let mut kernel = stage.boot("other-kernel")?;
    let bytes = restamped(read(&kernel.artefacts.kernel)?)?;
    kernel.artefacts.kernel = written(stage, "other-vmlinuz", &bytes)?;

    let mut config = stage.boot("other-configuration")?;
    config.measured += "# one line more\n";

    let shell = Boot {
        artefacts: debug.clone(),
        ..stage.boot("debug")?
    };
    let boots = [
        ("another command line", "pcr9", "rtmr2", line),
        ("another kernel", "pcr4", "rtmr1", kernel),
        ("another configuration", "pcr8", "mrconfigid", config),
        ("the debug profile", "pcr9", "rtmr2", shell),
    ];
    let mut rows = Vec::new();
    for (tampering, pcr, register, boot) in boots {
        let step = stage.progress.step(tampering);
        let vm = stage.serve(&boot)?;
        let verified = stage.verify(vm.address())?;
        rows.push(refusal(tampering, &[pcr, register], &verified));
        if boot.artefacts.folder == debug.folder {
            rows.push(at_the_gateway(stage, vm.address())?);
        }
        step.done(verified.verdict);
    }
    Ok(rows)
}

/// One word more than is published.
pub(super) fn other_command_line(stage: &Stage) -> Result<PathBuf> {
    let text = stage.base.command_line()? + " cocoon.evil=1";
    written(stage, "other-cmdline", text.as_bytes())
}

/// A table with a program in it, beside those of QEMU: measured, and powerless.
fn hostile_table(stage: &Stage) -> Result<[Refusal; 2]> {
    let mut boot = stage.boot("another-acpi-table")?;
    boot.table = Some(written(stage, "hostile.aml", HOSTILE_TABLE)?);
    let tampering = "another ACPI table";
    let step = stage.progress.step(tampering);
    let vm = stage.serve(&boot)?;
    let verified = stage.verify(vm.address())?;
    let lines = vm.console().lines();
    let said = |text: &str| lines.iter().find(|line| line.text.contains(text));
    let (refused, wrote) = (said("tables name memory"), said("AML WROTE MEMORY"));
    step.done(verified.verdict.as_str());
    let program = Refusal {
        tampering: "a program in it that writes memory".into(),
        refused: refused.is_some() && wrote.is_none(),
        by: "the kernel, whatever was measured".into(),
        expected: "no memory but the TPM's registers".into(),
        found: wrote
            .or(refused)
            .map(|line| line.text.clone())
            .unwrap_or_default(),
    };
    Ok([refusal(tampering, &["pcr1", "rtmr0"], &verified), program])
}

/// Devices with the identity of a GPU: the machine does not start with one that does not work.
pub(super) fn gpus(stage: &Stage) -> Result<Vec<Refusal>> {
    [
        (
            "a device that says it is a GPU",
            Gpu::Impostor,
            "cannot load ",
        ),
        ("a GPU that does not start", Gpu::Dead, " does not start"),
    ]
    .into_iter()
    .map(|(tampering, gpu, reason)| {
        let step = stage.progress.step(tampering);
        let boot = Boot {
            gpu: Some(gpu),
            ..stage.boot("other-gpu")?
        };
        let mut vm = Vm::start(&stage.tools, &stage.authority, &boot)?;
        let found = vm.console().wait_for("init: step ", stage::BOOT)?.text;
        vm.wait(stage::BOOT)?;
        step.done("powered off");
        let failed = found.contains("load GPU driver failed") && found.contains(reason);
        Ok(Refusal {
            tampering: tampering.into(),
            refused: failed,
            by: "the driver, and so init".into(),
            expected: "a GPU that starts, or none".into(),
            found,
        })
    })
    .collect()
}

/// An application asks through the gateway; the peer is not what was published.
fn at_the_gateway(stage: &Stage, worker: SocketAddr) -> Result<Refusal> {
    let gateway = stage.gateway(worker)?;
    let (status, code, _) = chat::refused(&gateway.base)?;
    Ok(Refusal {
        tampering: "an unverified peer at the gateway".into(),
        refused: status == 502 && code == "worker_not_trusted",
        by: "the gateway, before it sends anything".into(),
        expected: "a worker that satisfies the policy".into(),
        found: format!("{status} {code}"),
    })
}

/// A genuine worker, and somebody between it and the client.
fn other_peers(stage: &Stage, other_release: &Path) -> Result<Vec<Refusal>> {
    let step = stage.progress.step("relay, replay, unknown build");
    let vm = stage.serve(&stage.boot("relayed")?)?;
    let runtime = Runtime::new().context("cannot start the runtime")?;
    let middle = runtime
        .block_on(TcpListener::bind("127.0.0.1:0"))
        .context("cannot listen on loopback")?;
    let address = middle.local_addr().context("no local address")?;
    let genuine = vm.address();
    let adversary = runtime.spawn(async move {
        let recorded = adversary::relay(&middle, genuine).await?;
        adversary::replay(&middle, &recorded).await
    });
    let quote = ["tpm-quote", "report-data"];
    let relayed = refusal(
        "evidence of another session",
        &quote,
        &stage.verify(address)?,
    );
    let replayed = refusal("evidence replayed", &quote, &stage.verify(address)?);
    runtime
        .block_on(adversary)
        .context("the adversary panicked")?
        .context("the adversary failed")?;
    let verified = stage.verify_by(other_release, genuine)?;
    let unknown = refusal(
        "a build that is not published",
        &["pcr9", "rtmr2"],
        &verified,
    );
    step.done("refused");
    Ok(vec![relayed, replayed, unknown])
}

/// A TD whose host may read it: emulated, since a TPM knows no such thing.
fn debug_td() -> Result<Refusal> {
    let runtime = Runtime::new().context("cannot start the runtime")?;
    let refused = runtime.block_on(async {
        let mut state = TdState::new(Td::REGISTERS, Td::MRCONFIGID);
        state.attributes |= DEBUG;
        let worker = Worker::start(Arc::new(Td::in_state(state))).await?;
        let (client, server) = duplex(1 << 20);
        let served = tokio::spawn(async move { worker.accept(server).await.map(drop) });
        let refused = session::client::connect(client, &Td::new().policy()).await;
        served.await??;
        anyhow::Ok(refused)
    })?;
    let rejection = match refused {
        Err(ConnectError::Challenge(ChallengeError::Rejected(rejection))) => rejection,
        Err(other) => return Err(other).context("the emulated TD was not judged"),
        Ok(_) => bail!("a TD in debug mode was trusted"),
    };
    let failed = rejection.checks.iter().find(|check| !check.passed);
    let failed = failed.context("a rejection without a reason")?;
    Ok(Refusal {
        tampering: "a TD in debug mode (emulated)".into(),
        refused: failed.name == "td-debug",
        by: failed.name.into(),
        expected: failed.expected.clone(),
        found: failed.found.clone(),
    })
}

/// A row: refused only if one of `names` is among what differs.
fn refusal(tampering: &str, names: &[&str], verified: &Verified) -> Refusal {
    let given_away = verified
        .failed()
        .find(|check| names.contains(&&*check.name));
    let (by, expected, found) = match given_away {
        Some(check) => (
            check.name.clone(),
            check.expected.clone(),
            check.found.clone(),
        ),
        None => {
            let all: Vec<_> = verified.failed().map(|check| check.name.as_str()).collect();
            (String::new(), names.join(" or "), all.join(", "))
        }
    };
    Refusal {
        tampering: tampering.into(),
        refused: verified.verdict == "rejected" && !by.is_empty(),
        by,
        expected,
        found,
    }
}

/// A copy in which the first data block differs in one bit.
fn flipped(disk: &Path, to: &Path) -> Result<PathBuf> {
    let mut bytes = read(disk)?;
    let byte = bytes.get_mut(SUPERBLOCK).context("a disk without data")?;
    *byte ^= 1;
    write(to, bytes)?;
    Ok(to.into())
}

fn written(stage: &Stage, name: &str, bytes: &[u8]) -> Result<PathBuf> {
    let path = stage.folder.join(name);
    write(&path, bytes)?;
    Ok(path)
}

/// Another build date in the kernel's PE header: nothing that runs reads it.
fn restamped(mut kernel: Vec<u8>) -> Result<Vec<u8>> {
    let offset = kernel
        .get(0x3c..0x40)
        .and_then(|bytes| bytes.as_array::<4>());
    let pe = usize::try_from(u32::from_le_bytes(*offset.context("no kernel")?))?;
    let stamp = pe.checked_add(8).context("no PE header")?;
    let byte = kernel.get_mut(stamp).context("no PE header")?;
    *byte ^= 1;
    Ok(kernel)
}

/// Where erofs has its superblock.
const SUPERBLOCK: usize = 1024;
/// What `hostile.asl` says.
const HOSTILE_TABLE: &[u8] = include_bytes!("hostile.aml");
