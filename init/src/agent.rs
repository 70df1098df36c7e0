//! How the agent is started: what it is told, and nothing else.

use crate::config;
use crate::disk::MODELS;
use crate::platform::{self, Platform};

/// The command line.
#[derive(Clone, Debug)]
pub(crate) struct Agent {
    /// Options and their values.
    pub(crate) arguments: Vec<String>,
}

impl Agent {
    /// For a machine that proves itself this way.
    pub(crate) fn new(platform: Platform) -> Self {
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
        Self {
            arguments: arguments.concat().into_iter().map(String::from).collect(),
        }
    }

    /// In the verity root.
    pub(crate) const PROGRAM: &str = "/usr/bin/agent";
    /// Both user and group.
    pub(crate) const USER: u32 = 1000;
}
