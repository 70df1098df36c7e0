//! The whole chain, once: build, predict, boot, verify, chat; then tamper with
//! each link and be refused.

mod chain;
pub(crate) mod chat;
mod private;
mod report;
mod secret;
mod service;
mod stage;
mod tamper;

use std::time::Instant;

use anyhow::{Result, ensure};
use measurements::shape::Platform;

use crate::image::{Builder, Profile};
use crate::vm::Vm;
use crate::vm::console::Line;

use self::report::{Boot, Report};
use self::stage::Stage;

/// Runs it, prints a table, and writes `target/demo/report.json`.
pub fn run(builder: &Builder) -> Result<()> {
    let mut report = Report::default();
    let stage = Stage::set(builder, Profile::Base, &mut report)?;
    let debug = stage.unpublished(builder)?;
    println!("{}", stage.platform_in_words());
    genuine(&stage, &mut report)?;
    report.refusals.push(private::run(builder, &stage)?);
    report.seconds_to_trusted = Some(service::run(&stage)?);
    tamper::all(&stage, &debug, &mut report)?;
    report.chain = chain::run(builder)?;
    report.write(&stage.folder.join("report.json"))?;
    print!("{report}");
    report.refused()
}

/// Publishes, attests, pays and is paid on a local chain; prints what it costs.
pub fn on_chain(builder: &Builder) -> Result<()> {
    for row in chain::run(builder)? {
        println!("{row}");
    }
    Ok(())
}

/// The nvidia profile where there is no GPU: the kernel takes its driver, it says so, and
/// answers on the processor; and devices that are no GPU, or a dead one, end the boot.
pub fn without_gpu(builder: &Builder) -> Result<()> {
    let mut report = Report::default();
    let stage = Stage::set(builder, Profile::Nvidia, &mut report)?;
    println!("{}", stage.platform_in_words());
    let console = genuine(&stage, &mut report)?;
    for expected in NO_GPU {
        let said = console.iter().any(|line| line.text.contains(expected));
        ensure!(said, "the console does not say: {expected}");
    }
    report.refusals = tamper::gpus(&stage)?;
    print!("{report}");
    report.refused()
}

/// The driver was loaded from the verity root and found nothing; then the kernel was locked.
const NO_GPU: [&str; 4] = [
    r#"LoadPin: kernel-module pinned obj="/usr/lib/modules/nvidia.ko""#,
    "NVRM: No NVIDIA GPU found.",
    "Kernel is locked down from securityfs",
    "init: no GPU",
];

/// The published image, as it is: verified, and then used.
///
/// Gives what the console showed.
fn genuine(stage: &Stage, report: &mut Report) -> Result<Vec<Line>> {
    let step = stage.progress.step("boot the published image");
    let boot = stage.boot("genuine")?;
    let mut vm = Vm::start(&stage.tools, &stage.authority, &boot)?;
    let init = vm.console().wait_for("init: ", stage::BOOT)?;
    vm.console().wait_for(stage::READY, stage::BOOT)?;
    let proof = stage.verify(vm.address())?;
    ensure!(
        proof.verdict == "trusted",
        "the published image was not trusted: {:?}",
        proof.failed().collect::<Vec<_>>()
    );
    report.timing = proof.timing;

    let gateway = stage.gateway(vm.address())?;
    let chat = chat::recite(&gateway.base)?;
    report.boot = Some(Boot {
        seconds_to_pid1: init.time.as_secs_f64(),
        seconds_to_first_answer: chat.first_token.duration_since(vm.started()).as_secs_f64(),
    });
    report.chat = Some(chat.figures());
    report.embedding_ms = Some(chat::embed(&gateway.base)?);
    report.agent_memory_mib = stage::agent_memory(&vm);
    if boot.platform == Platform::Vtpm {
        let memory = u64::from(boot.shape.memory.mib) << 20;
        report.seconds_to_forget = Some(secret::forgotten(&vm, memory, gateway)?);
    }
    let ended = Instant::now();
    vm.press_power_button()?;
    vm.wait(stage::BOOT)?;
    report.seconds_to_power_off = Some(ended.elapsed().as_secs_f64());
    step.done("verified, answered, forgot what it was told, powered off");
    Ok(vm.console().lines())
}
