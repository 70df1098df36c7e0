//! How the agent is started: what it is told, and nothing else.

use crate::config;
use crate::disk::MODELS;
use crate::platform::{self, Platform};

/// The command line.
#[derive(Clone, Debug)]
pub(crate) struct Agent {
    /// In the verity root.
    pub(crate) program: &'static str,
    /// Options and their values.
    pub(crate) arguments: Vec<String>,
}

impl Agent {
    /// For a machine that proves itself this way and computes on so many GPUs.
    pub(crate) fn new(platform: Platform, gpus: usize) -> Self {
        let tpm = format!("device:{}", platform::TPM_RESOURCE_MANAGER);
        let evidence = match platform {
            Platform::Tdx => ["tdx", "--tsm-report", platform::TSM_REPORT],
            Platform::Vtpm => ["vtpm", "--tpm", &tpm],
        };
        let [platform, device, path] = evidence;
        let arguments = [
            ["--measured", config::MEASURED],
            ["--unmeasured", config::UNMEASURED],
            ["--models", MODELS],
            ["--event-log", platform::EVENT_LOG],
            ["--platform", platform],
            [device, path],
        ];
        let mut arguments: Vec<String> = arguments.concat().into_iter().map(String::from).collect();
        let program = match gpus {
            0 => "/usr/bin/agent",
            _ => {
                arguments.extend(["--gpus".into(), gpus.to_string()]);
                "/usr/bin/agent-cuda"
            }
        };
        Self { program, arguments }
    }

    /// Both user and group.
    pub(crate) const USER: u32 = 1000;
}
