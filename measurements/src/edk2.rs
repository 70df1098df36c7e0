//! Releases of edk2, as far as what is measured differs between them.

use core::fmt;
use core::str::FromStr;

use crate::load_options::Spelling;

/// A stable release by its year and month: 202502 is edk2-stable202502.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Edk2(u32);

impl Edk2 {
    /// Of the firmware that we publish.
    pub const CURRENT: Self = Self(202_502);

    /// Whether it prefers QEMU's untouched copy of the kernel.
    #[must_use]
    pub fn takes_kernel_file(self) -> bool {
        self >= Self(202_502)
    }

    /// Where it names the initrd.
    #[must_use]
    pub fn spelling(self) -> Spelling {
        match self >= Self(202_508) {
            true => Spelling::Before,
            false => Spelling::After,
        }
    }
}

impl FromStr for Edk2 {
    type Err = Edk2Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.len() == 6 && text.bytes().all(|byte| byte.is_ascii_digit());
        let month = text.parse().ok().filter(|_| digits);
        month.map(Self).ok_or(Edk2Error)
    }
}

impl fmt::Display for Edk2 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Not a release.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("not a stable release of edk2, expected year and month such as 202502")]
pub struct Edk2Error;

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn later_releases_spell_otherwise() {
        let release = |text: &str| text.parse::<Edk2>().unwrap();
        assert_eq!(release("202502"), Edk2::CURRENT);
        assert_eq!(release("202505").spelling(), Spelling::After);
        assert_eq!(release("202508").spelling(), Spelling::Before);
        assert!(!release("202411").takes_kernel_file());
        assert!(release("202502").takes_kernel_file());
    }

    #[test]
    fn only_year_and_month_are_a_release() {
        for text in ["", "2025", "2025021", "+20250", "stable"] {
            let error = text.parse::<Edk2>().unwrap_err();
            assert_eq!(
                error.to_string(),
                "not a stable release of edk2, expected year and month such as 202502"
            );
        }
    }
}
