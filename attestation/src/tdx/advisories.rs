//! The advisories of one level: names of texts by Intel about weaknesses.

use alloc::string::String;
use core::fmt;

use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// Names, each with a line feed behind it, which no name has: JSON would need an
/// escape for it, and names with escapes are refused. One piece of memory for all.
#[derive(Clone, Debug, Default)]
pub(super) struct Advisories(String);

impl Advisories {
    pub(super) fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.lines()
    }
}

impl<'de> Deserialize<'de> for Advisories {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_seq(Names)
    }
}

/// Ten like INTEL-SA-00615.
const USUAL: usize = 150;

struct Names;

impl<'de> Visitor<'de> for Names {
    type Value = Advisories;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("names of advisories")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Advisories, A::Error> {
        let mut names = String::with_capacity(USUAL);
        while let Some(name) = from.next_element::<&str>()? {
            names.push_str(name);
            names.push('\n');
        }
        Ok(Advisories(names))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    #[test]
    fn names_are_kept_in_their_order_and_apart() {
        let advisories: Advisories = serde_json::from_str(r#"["B-2", "A-1", ""]"#).unwrap();
        assert_eq!(advisories.iter().collect::<Vec<_>>(), ["B-2", "A-1", ""]);
        assert_eq!(Advisories::default().iter().count(), 0);
    }

    #[test]
    fn no_name_can_pass_for_two() {
        for names in [
            r#"["A\nB"]"#,
            "[\"A\nB\"]",
            r#"["A\u000aB"]"#,
            r#""A""#,
            "[1]",
        ] {
            assert!(
                serde_json::from_str::<Advisories>(names).is_err(),
                "{names}"
            );
        }
    }
}
