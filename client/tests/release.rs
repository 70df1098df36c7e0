//! `cocoon release`, as builders and their users call it.

mod folder;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use folder::{artefacts, exit, stderr, stdout};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

#[test]
fn two_builders_sign_and_a_verifier_asks_for_both() {
    let Some(story) = Story::new("signed") else {
        return;
    };
    story.builder("alice");
    assert_eq!(story.verify(2).0, 2, "more than there are");
    story.builder("bob");
    let (code, text) = story.verify(2);
    assert_eq!(code, 0, "{text}");
    assert!(text.ends_with("signed by 2 of 2\n"), "{text}");
    for name in ["manifest", "provenance", "CoRIM"] {
        assert!(
            text.contains(&format!("alice signed the {name}\n")),
            "{text}"
        );
    }

    // OpenSSL reads key and signature.
    let signature: serde_json::Value =
        serde_json::from_slice(&fs::read(story.signature("alice", "sig.json")).unwrap()).unwrap();
    let base64 = signature["signature"].as_str().unwrap();
    fs::write(story.path("alice.base64"), format!("{base64}\n")).unwrap();
    let script = "openssl base64 -d -A -in alice.base64 -out alice.der && \
                  openssl dgst -sha256 -verify alice.pub -signature alice.der release.json";
    let openssl = Command::new("sh")
        .args(["-c", script])
        .current_dir(&story.folder)
        .output();
    assert_eq!(stdout(&openssl.unwrap()), "Verified OK\n");

    // Somebody changes the release, or puts words into a builder's mouth.
    let release = story.path("release.json");
    let text = fs::read_to_string(&release).unwrap();
    fs::write(&release, text.replace("\"libc6 2.41\"", "\"libc6 2.42\"")).unwrap();
    let (code, said) = story.verify(1);
    assert_eq!(code, 1);
    assert!(
        said.contains("manifest by alice: the signature is for the manifest with SHA-256 "),
        "{said}"
    );
    fs::write(&release, text).unwrap();
    fs::copy(
        story.signature("alice", "dsse.json"),
        story.signature("bob", "sig.json"),
    )
    .unwrap();
    assert_eq!(story.verify(2).0, 1);
    assert_eq!(story.verify(1).0, 0);
}

#[test]
fn making_again_gives_the_same_bytes() {
    let Some(story) = Story::new("again") else {
        return;
    };
    let names = [
        "release.json",
        "release.corim",
        "release.cdx.json",
        "release.provenance.json",
    ];
    let read = || names.map(|name| fs::read(story.path(name)).unwrap());
    let first = read();
    story.make();
    assert_eq!(read(), first);
}

#[test]
fn what_is_not_this_release_is_not_signed() {
    let Some(story) = Story::new("unsigned") else {
        return;
    };
    story.keygen("alice");
    let corim = fs::read(story.path("release.corim")).unwrap();
    fs::write(story.path("release.corim"), b"\xa0").unwrap();
    let (code, said) = story.sign("alice");
    assert_eq!(code, 2);
    assert!(
        said.contains("release.corim is not the CoRIM of this manifest"),
        "{said}"
    );
    fs::write(story.path("release.corim"), corim).unwrap();

    let key = story.path("alice.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let (code, said) = story.sign("alice");
    assert_eq!(code, 2);
    assert!(said.contains("has mode 644, expected 600"), "{said}");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();

    let release = story.path("release.json");
    let text = fs::read_to_string(&release).unwrap();
    fs::write(&release, text.replace("\"libc6 2.41\"", "\"libc6 2.42\"")).unwrap();
    let (code, said) = story.sign("alice");
    assert_eq!(code, 2);
    assert!(
        said.contains("provenance does not speak of release.json"),
        "{said}"
    );
}

/// A release in a folder of its own.
struct Story {
    folder: PathBuf,
}

impl Story {
    fn new(name: &str) -> Option<Self> {
        let folder = artefacts(name)?;
        for old in [
            "release.signatures",
            "builders.toml",
            "alice.key",
            "bob.key",
        ] {
            let old = folder.join(old);
            drop(fs::remove_dir_all(&old).or_else(|_| fs::remove_file(&old)));
        }
        fs::write(folder.join("builders.toml"), "version = 1\n").unwrap();
        let story = Self { folder };
        story.make();
        Some(story)
    }

    fn make(&self) {
        let made = self.cocoon(&[
            "release make --artefacts . --config demo.toml --out release.json --commit",
            COMMIT,
        ]);
        assert_eq!(exit(&made), 0, "{made:?}");
    }

    fn builder(&self, name: &str) {
        self.keygen(name);
        let (code, said) = self.sign(name);
        assert_eq!(code, 0, "{said}");
        let file = self.path("builders.toml");
        let key = fs::read_to_string(self.path(&format!("{name}.pub"))).unwrap();
        let entry = format!(
            "[[builder]]\nname = \"{name}\"\nkey = \"\"\"\n{key}\"\"\"\n\
             valid_from = \"2026-01-01T00:00:00Z\"\nvalid_until = \"2099-01-01T00:00:00Z\"\n"
        );
        fs::write(&file, fs::read_to_string(&file).unwrap() + &entry).unwrap();
    }

    fn keygen(&self, name: &str) {
        let made = self.cocoon(&[&format!("release keygen --out {name}.key")]);
        assert_eq!(exit(&made), 0, "{made:?}");
        fs::write(self.path(&format!("{name}.pub")), stdout(&made)).unwrap();
    }

    fn sign(&self, name: &str) -> (i32, String) {
        let command = format!("release sign --release release.json --key {name}.key");
        let signed = self.cocoon(&[&command]);
        if exit(&signed) == 0 {
            fs::write(self.path(&format!("{name}.files")), stdout(&signed)).unwrap();
        }
        (exit(&signed), stderr(&signed))
    }

    /// A file that `name` signed.
    fn signature(&self, name: &str, suffix: &str) -> PathBuf {
        let files = fs::read_to_string(self.path(&format!("{name}.files"))).unwrap();
        let file = files.lines().find(|line| line.ends_with(suffix)).unwrap();
        self.folder.join(file)
    }

    fn verify(&self, threshold: u32) -> (i32, String) {
        let mut command = format!(
            "release verify --release release.json --keys builders.toml --threshold {threshold} \
             --at 1790000000 --signature"
        );
        let mut files: Vec<_> = fs::read_dir(self.path("release.signatures"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        files.sort();
        for file in files {
            command += &format!(" release.signatures/{file}");
        }
        let verified = self.cocoon(&[&command]);
        (exit(&verified), stdout(&verified) + &stderr(&verified))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Runs the program in the folder, with words that hold no space.
    fn cocoon(&self, words: &[&str]) -> std::process::Output {
        let words = words.iter().flat_map(|words| words.split(' '));
        Command::new(env!("CARGO_BIN_EXE_cocoon"))
            .args(words)
            .current_dir(Path::new(&self.folder))
            .output()
            .unwrap()
    }
}
