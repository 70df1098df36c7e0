//! What Intel says of the level of a platform, its TDX module or quoting enclave.

use core::fmt;

/// Up to date, or what is missing for that.
#[derive(
    Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, serde::Deserialize, serde::Serialize,
)]
pub enum TcbStatus {
    /// Nothing is missing.
    UpToDate,
    /// Software in the TD has to mitigate something.
    SWHardeningNeeded,
    /// The host's firmware has to be configured otherwise.
    ConfigurationNeeded,
    /// Both of these.
    ConfigurationAndSWHardeningNeeded,
    /// The host was updated under the running TD: relaunching makes it current.
    TDRelaunchAdvised,
    /// The same, and the host's configuration is lacking.
    TDRelaunchAdvisedConfigurationNeeded,
    /// Known weaknesses are not fixed.
    OutOfDate,
    /// The same, and the host's configuration is lacking.
    OutOfDateConfigurationNeeded,
    /// Signatures of this level prove nothing any more.
    Revoked,
}

impl TcbStatus {
    /// All that is missing by either of two.
    ///
    /// Intel lowers a platform's status by an enclave or module that is out of
    /// date or revoked; here everything that a part lacks, the whole lacks.
    ///
    /// Source: Intel SGX-TDX-DCAP Quote Verification Library, "convergeTcbStatus".
    #[must_use]
    pub(super) const fn and(self, other: Self) -> Self {
        let (a, b) = (self.missing(), other.missing());
        match (
            a.trust || b.trust,
            a.update || b.update,
            a.configuration || b.configuration,
            a.hardening || b.hardening,
        ) {
            (true, ..) => Self::Revoked,
            (_, true, true, _) => Self::OutOfDateConfigurationNeeded,
            (_, true, false, _) => Self::OutOfDate,
            (_, _, true, true) => Self::ConfigurationAndSWHardeningNeeded,
            (_, _, true, false) => Self::ConfigurationNeeded,
            (_, _, false, true) => Self::SWHardeningNeeded,
            (_, _, false, false) => Self::UpToDate,
        }
    }

    /// The status of a TD that was launched at `self` and runs on a host that is
    /// at `current` by now.
    ///
    /// Source: Intel SGX-TDX-DCAP Quote Verification Library, "checkForRelaunch".
    #[must_use]
    pub(super) const fn after_update(self, current: Self) -> Self {
        let (launch, now) = (self.missing(), current.missing());
        if now.trust {
            return Self::Revoked;
        }
        match launch.update && !now.update {
            true if launch.configuration || now.configuration => {
                Self::TDRelaunchAdvisedConfigurationNeeded
            }
            true => Self::TDRelaunchAdvised,
            false => self,
        }
    }

    const fn missing(self) -> Missing {
        let (update, configuration, hardening) = match self {
            Self::UpToDate | Self::Revoked => (false, false, false),
            Self::SWHardeningNeeded => (false, false, true),
            Self::ConfigurationNeeded => (false, true, false),
            Self::ConfigurationAndSWHardeningNeeded => (false, true, true),
            Self::OutOfDate | Self::TDRelaunchAdvised => (true, false, false),
            Self::OutOfDateConfigurationNeeded | Self::TDRelaunchAdvisedConfigurationNeeded => {
                (true, true, false)
            }
        };
        Missing {
            trust: matches!(self, Self::Revoked),
            update,
            configuration,
            hardening,
        }
    }
}

impl fmt::Display for TcbStatus {
    /// Intel's spelling.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What a status says is missing.
struct Missing {
    trust: bool,
    update: bool,
    configuration: bool,
    hardening: bool,
}

#[cfg(test)]
mod tests {
    use super::TcbStatus::{self, *};

    #[test]
    fn a_part_that_is_out_of_date_or_revoked_lowers_the_whole_as_intel_says() {
        for (platform, part, expected) in [
            (UpToDate, UpToDate, UpToDate),
            (UpToDate, OutOfDate, OutOfDate),
            (SWHardeningNeeded, OutOfDate, OutOfDate),
            (ConfigurationNeeded, OutOfDate, OutOfDateConfigurationNeeded),
            (
                ConfigurationAndSWHardeningNeeded,
                OutOfDate,
                OutOfDateConfigurationNeeded,
            ),
            (OutOfDate, UpToDate, OutOfDate),
            (
                OutOfDateConfigurationNeeded,
                OutOfDate,
                OutOfDateConfigurationNeeded,
            ),
            (SWHardeningNeeded, UpToDate, SWHardeningNeeded),
            (UpToDate, Revoked, Revoked),
            (Revoked, UpToDate, Revoked),
            (UpToDate, ConfigurationNeeded, ConfigurationNeeded),
            (
                SWHardeningNeeded,
                ConfigurationNeeded,
                ConfigurationAndSWHardeningNeeded,
            ),
        ] {
            assert_eq!(platform.and(part), expected, "{platform} and {part}");
        }
    }

    #[test]
    fn relaunch_is_advised_only_where_it_helps() {
        for (launch, current, expected) in [
            (OutOfDate, UpToDate, TDRelaunchAdvised),
            (OutOfDate, SWHardeningNeeded, TDRelaunchAdvised),
            (
                OutOfDate,
                ConfigurationNeeded,
                TDRelaunchAdvisedConfigurationNeeded,
            ),
            (
                OutOfDateConfigurationNeeded,
                UpToDate,
                TDRelaunchAdvisedConfigurationNeeded,
            ),
            (OutOfDate, OutOfDate, OutOfDate),
            (OutOfDate, OutOfDateConfigurationNeeded, OutOfDate),
            (UpToDate, OutOfDate, UpToDate),
            (UpToDate, UpToDate, UpToDate),
            (UpToDate, Revoked, Revoked),
            (SWHardeningNeeded, UpToDate, SWHardeningNeeded),
        ] {
            assert_eq!(
                launch.after_update(current),
                expected,
                "{launch}, {current}"
            );
        }
    }

    #[test]
    fn the_text_form_is_intels() {
        let text = serde_json::to_string(&TDRelaunchAdvisedConfigurationNeeded).unwrap();
        assert_eq!(text, "\"TDRelaunchAdvisedConfigurationNeeded\"");
        assert!(serde_json::from_str::<TcbStatus>("\"Fine\"").is_err());
    }
}
