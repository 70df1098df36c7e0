//! What the contracts' exit codes mean: the sources say it, beside each code.

/// The name of a contract's exit code, and what its source says of it.
#[must_use]
pub fn meaning(code: i32) -> Option<(&'static str, String)> {
    SOURCES.iter().find_map(|source| find(source, code))
}

/// In `enum ...Error { // What it means. \n Name = 100 ... }`.
fn find(source: &'static str, code: i32) -> Option<(&'static str, String)> {
    let mut within = false;
    let mut comment = String::new();
    for line in source.lines().map(str::trim) {
        let code_here = line
            .split_once(" = ")
            .filter(|(_, number)| within && number.parse() == Ok(code));
        if let Some((name, _)) = code_here {
            return Some((name, comment.trim().into()));
        }
        match line.strip_prefix("//") {
            Some(text) => comment += text,
            None => comment.clear(),
        }
        if let Some(name) = line.strip_prefix("enum ") {
            within = name.starts_with("Evidence ") || name.ends_with("Error {");
        }
        within &= line != "}";
    }
    None
}

const SOURCES: &[&str] = &[
    include_str!("../tolk/app-types.tolk"),
    include_str!("../tolk/app-types.tolk"),
    include_str!("../tolk/channel-types.tolk"),
    include_str!("../tolk/collateral-types.tolk"),
    include_str!("../tolk/evidence.tolk"),
    include_str!("../tolk/market-types.tolk"),
    include_str!("../tolk/market-types.tolk"),
    include_str!("../tolk/node-types.tolk"),
    include_str!("../tolk/registry-types.tolk"),
];

#[cfg(test)]
mod tests {
    use super::*;

    use crate::channel::Refusal;

    #[test]
    fn codes_have_the_names_and_words_of_their_sources() {
        let (name, text) = meaning(121).unwrap();
        assert_eq!(name, "Stale");
        assert_eq!(
            text,
            "The claim's block is not one that the chain remembers."
        );
        assert_eq!(meaning(Refusal::Target.exit_code()).unwrap().0, "Target");
        assert_eq!(meaning(141).unwrap().0, "Older");
        assert_eq!(meaning(170).unwrap().0, "Build");
        assert!(meaning(100).is_some());
        // Of an enum that is no error, and of nothing.
        assert_eq!(meaning(16), None);
        assert_eq!(meaning(99), None);
    }
}
