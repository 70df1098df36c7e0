//! What was checked, and how it came out: the part that people and scripts read.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::error::Error;
use core::fmt;

/// One comparison of a claim with a policy.
#[derive(Clone, Debug, Eq, PartialEq, serde::Serialize)]
pub struct Check {
    /// Stable name, also the code of the reason when it fails.
    pub name: &'static str,
    /// What the policy takes.
    pub expected: String,
    /// What the evidence says.
    pub found: String,
    /// Whether the two agree.
    pub passed: bool,
}

impl Check {
    /// Records a comparison.
    pub fn new(
        name: &'static str,
        expected: impl fmt::Display,
        found: impl fmt::Display,
        passed: bool,
    ) -> Self {
        Self {
            name,
            expected: expected.to_string(),
            found: found.to_string(),
            passed,
        }
    }

    /// Why this check stands in the way, if it does.
    #[must_use]
    pub fn reason(&self) -> Option<Reason> {
        (!self.passed).then(|| Reason {
            code: self.name.into(),
            expected: self.expected.clone(),
            found: self.found.clone(),
        })
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sign, name) = (if self.passed { "ok" } else { "NO" }, self.name);
        write!(f, "{sign} {name}: {}", self.found)?;
        match self.passed {
            true => Ok(()),
            false => write!(f, ", expected {}", self.expected),
        }
    }
}

/// Evidence that a policy does not take.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Rejection {
    /// Every comparison, those that passed too; the last may be where it ended.
    pub checks: Vec<Check>,
}

/// The checks, if every one has passed.
pub(crate) fn all_passed(checks: Vec<Check>) -> Result<Vec<Check>, Rejection> {
    match checks.iter().all(|check| check.passed) {
        true => Ok(checks),
        false => Err(Rejection { checks }),
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut failed = self.checks.iter().filter(|check| !check.passed).peekable();
        while let Some(check) = failed.next() {
            let Check {
                name,
                expected,
                found,
                ..
            } = check;
            write!(f, "{name}: expected {expected}, found {found}")?;
            if failed.peek().is_some() {
                f.write_str("; ")?;
            }
        }
        Ok(())
    }
}

impl Error for Rejection {}

/// Why evidence was not trusted.
#[derive(Clone, Debug, Eq, PartialEq, serde::Serialize)]
pub struct Reason {
    /// Stable, for scripts.
    pub code: String,
    /// What would have been accepted.
    pub expected: String,
    /// What there was.
    pub found: String,
}

/// How it ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Everything agrees.
    Trusted,
    /// Something does not.
    Rejected,
    /// The inputs do not suffice to tell.
    Undecided,
}

impl Verdict {
    /// Exit code of a program that ends with this verdict.
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Trusted => 0,
            Self::Rejected => 1,
            Self::Undecided => 2,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Trusted => "trusted",
            Self::Rejected => "rejected",
            Self::Undecided => "undecided",
        })
    }
}

/// An error with all its causes, `what: because: because`.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text.push_str(": ");
        text.push_str(&next.to_string());
        cause = next.source();
    }
    text
}
