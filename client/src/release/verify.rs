//! Whether enough builders signed a release.
//!
//! Who the builders are and how many it takes is the verifier's choice. A builder
//! counts once, by a signature over the manifest. What a known builder signed must
//! be this release in every file that is given; strangers' files are passed over.

use std::collections::BTreeSet;
use std::num::NonZero;

use attestation::appraisal::Verdict;
use attestation::time::UnixTime;
use serde::Serialize;

use super::builders::Builders;
use super::documents::Manifest;
use super::signature::{Signature, Subject};

/// Judges signature files, each with its name, at a moment.
///
/// More builders asked for than there are is an error of whoever asks.
pub fn verify(
    manifest: &Manifest,
    files: &[(String, Vec<u8>)],
    builders: &Builders,
    threshold: NonZero<usize>,
    at: UnixTime,
) -> Result<Approval, TooFewBuilders> {
    let known = builders.count();
    if threshold.get() > known {
        return Err(TooFewBuilders { threshold, known });
    }
    let mut signed_by = BTreeSet::new();
    let signatures = files
        .iter()
        .map(|(file, bytes)| {
            let (outcome, text) = judge(manifest, bytes, builders, at, &mut signed_by);
            Line {
                file: file.clone(),
                outcome,
                text,
            }
        })
        .collect();
    Ok(Approval {
        signatures,
        signed_by: signed_by.into_iter().collect(),
        threshold,
    })
}

fn judge(
    manifest: &Manifest,
    bytes: &[u8],
    builders: &Builders,
    at: UnixTime,
    signed_by: &mut BTreeSet<String>,
) -> (Outcome, String) {
    let signature = match Signature::parse(bytes) {
        Ok(signature) => signature,
        Err(error) => return (Outcome::Refused, error.to_string()),
    };
    let Some(builder) = builders.of(signature.key) else {
        return (
            Outcome::Ignored,
            format!("key {} is nobody's", signature.key),
        );
    };
    let (name, subject) = (&builder.name, signature.subject());
    if let Err(error) = builder.valid.check(at) {
        return (Outcome::Ignored, format!("key of {name}: {error}"));
    }
    if let Err(error) = signature.check(&builder.key, manifest) {
        return (Outcome::Refused, format!("{subject} by {name}: {error}"));
    }
    match subject {
        Subject::Manifest if !signed_by.insert(name.clone()) => (
            Outcome::Ignored,
            format!("{name} signed the {subject} before"),
        ),
        Subject::Manifest => (Outcome::Counts, format!("{name} signed the {subject}")),
        Subject::Provenance | Subject::Corim => {
            (Outcome::Agrees, format!("{name} signed the {subject}"))
        }
    }
}

/// How a release stands.
#[derive(Clone, Debug, Serialize)]
pub struct Approval {
    /// File by file.
    pub signatures: Vec<Line>,
    /// Builders that count.
    pub signed_by: Vec<String>,
    /// How many it takes.
    pub threshold: NonZero<usize>,
}

impl Approval {
    /// Enough builders, and nobody known who signed something else.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let refused = |line: &Line| line.outcome == Outcome::Refused;
        let enough = self.signed_by.len() >= self.threshold.get();
        match enough && !self.signatures.iter().any(refused) {
            true => Verdict::Trusted,
            false => Verdict::Rejected,
        }
    }
}

/// How one file stands.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// Its name.
    pub file: String,
    /// What came of it.
    pub outcome: Outcome,
    /// In words.
    pub text: String,
}

/// What came of a signature file.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// One builder more.
    Counts,
    /// Right, and not what is counted.
    Agrees,
    /// Not by anyone who counts, or a second time.
    Ignored,
    /// Not what it claims to be: the release is refused.
    Refused,
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Counts | Self::Agrees => "ok",
            Self::Ignored => "--",
            Self::Refused => "NO",
        })
    }
}

/// The threshold can never be met.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("threshold is {threshold}, expected at most the {known} builders that are known")]
pub struct TooFewBuilders {
    threshold: NonZero<usize>,
    known: usize,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::release::builders::tests::file;
    use crate::release::key::SigningKey;
    use crate::release::provenance::tests::{manifest, statement};
    use crate::release::signature;
    use measurements::release::Release;

    const NOW: UnixTime = UnixTime(1500);

    /// Two builders, and a stranger.
    struct Story {
        manifest: Manifest,
        keys: [SigningKey; 3],
        builders: Builders,
    }

    impl Story {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let keys = ["alice", "bob", "mallory"]
                .map(|name| SigningKey::generate(&dir.path().join(name)).unwrap());
            let [alice, bob, _] = &keys;
            let builders = file(&[("alice", alice.public()), ("bob", bob.public())]);
            Self {
                manifest: manifest(),
                builders: Builders::parse(&builders).unwrap(),
                keys,
            }
        }

        fn signed(&self, by: usize) -> (String, Vec<u8>) {
            let file = signature::manifest(&self.keys[by], &self.manifest).unwrap();
            (by.to_string(), file)
        }

        fn verify(&self, files: &[(String, Vec<u8>)], at: UnixTime) -> (Verdict, Vec<String>) {
            let two = NonZero::new(2).unwrap();
            let approval = verify(&self.manifest, files, &self.builders, two, at).unwrap();
            let line = |line: &Line| format!("{} {}", line.outcome, line.text);
            (
                approval.verdict(),
                approval.signatures.iter().map(line).collect(),
            )
        }
    }

    #[test]
    fn as_many_builders_as_asked_for_are_enough() {
        let story = Story::new();
        let (verdict, lines) = story.verify(&[story.signed(0), story.signed(1)], NOW);
        assert_eq!(verdict, Verdict::Trusted);
        assert_eq!(
            lines,
            ["ok alice signed the manifest", "ok bob signed the manifest"]
        );
    }

    #[test]
    fn one_builder_does_not_count_twice() {
        let story = Story::new();
        let (verdict, lines) = story.verify(&[story.signed(0), story.signed(0)], NOW);
        assert_eq!(verdict, Verdict::Rejected);
        assert_eq!(lines[1], "-- alice signed the manifest before");
    }

    #[test]
    fn a_stranger_is_passed_over() {
        let story = Story::new();
        let (verdict, lines) = story.verify(&[story.signed(0), story.signed(2)], NOW);
        assert_eq!(verdict, Verdict::Rejected);
        let id = story.keys[2].public().id();
        assert_eq!(lines[1], format!("-- key {id} is nobody's"));
        let all = [story.signed(0), story.signed(2), story.signed(1)];
        assert_eq!(story.verify(&all, NOW).0, Verdict::Trusted);
    }

    #[test]
    fn a_key_counts_within_its_window_only() {
        let story = Story::new();
        let files = [story.signed(0), story.signed(1)];
        for (at, verdict) in [
            (999, Verdict::Rejected),
            (1000, Verdict::Trusted),
            (2000, Verdict::Trusted),
            (2001, Verdict::Rejected),
        ] {
            let (found, lines) = story.verify(&files, UnixTime(at));
            assert_eq!(found, verdict, "{lines:?}");
            let ignored = lines[0].starts_with("-- key of alice: ");
            assert_eq!(ignored, verdict == Verdict::Rejected, "{lines:?}");
        }
    }

    #[test]
    fn a_changed_manifest_is_refused() {
        let mut story = Story::new();
        let files = [story.signed(0), story.signed(1)];
        let text = story.manifest.text.replacen("0.1.0", "0.1.1", 1);
        let release = Release::parse(text.as_bytes()).unwrap();
        story.manifest = Manifest::of(release).unwrap();
        let (verdict, lines) = story.verify(&files, NOW);
        assert_eq!(verdict, Verdict::Rejected);
        assert!(
            lines[0].starts_with("NO manifest by alice: the signature is for "),
            "{lines:?}"
        );
    }

    #[test]
    fn a_known_builder_who_signed_something_else_spoils_it() {
        let story = Story::new();
        let mut files = vec![story.signed(0), story.signed(1)];
        let elsewhere = statement(&story.manifest).replacen("release.json", "other.json", 1);
        let elsewhere = signature::provenance(&story.keys[0], elsewhere.as_bytes()).unwrap();
        files.push(("provenance".into(), elsewhere));
        let (verdict, lines) = story.verify(&files, NOW);
        assert_eq!(verdict, Verdict::Rejected);
        assert!(
            lines[2].starts_with("NO provenance by alice: "),
            "{lines:?}"
        );
    }

    #[test]
    fn provenance_and_corim_do_not_replace_a_signature_over_the_manifest() {
        let story = Story::new();
        let [alice, bob, _] = &story.keys;
        let statement = statement(&story.manifest);
        let files = [
            story.signed(0),
            (
                "p".into(),
                signature::provenance(bob, statement.as_bytes()).unwrap(),
            ),
            (
                "c".into(),
                signature::corim(alice, &story.manifest).unwrap(),
            ),
        ];
        let (verdict, lines) = story.verify(&files, NOW);
        assert_eq!(verdict, Verdict::Rejected);
        assert_eq!(
            lines[1..],
            ["ok bob signed the provenance", "ok alice signed the CoRIM"]
        );
    }

    #[test]
    fn a_file_that_is_no_signature_is_refused() {
        let story = Story::new();
        let files = [
            story.signed(0),
            story.signed(1),
            ("x".into(), b"{}".to_vec()),
        ];
        let (verdict, lines) = story.verify(&files, NOW);
        assert_eq!(verdict, Verdict::Rejected);
        assert!(lines[2].starts_with("NO no signature file"), "{lines:?}");
    }

    #[test]
    fn a_threshold_that_cannot_be_met_is_an_error() {
        let story = Story::new();
        let three = NonZero::new(3).unwrap();
        let error = verify(&story.manifest, &[], &story.builders, three, NOW).unwrap_err();
        assert_eq!(
            error.to_string(),
            "threshold is 3, expected at most the 2 builders that are known"
        );
    }
}
