//! `cocoon release` and `cocoon audit`, as builders and auditors call them.

#![expect(clippy::unwrap_used, reason = "helpers of tests, on made-up files")]

mod folder;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use folder::{artefacts, exit, kernel, stderr, stdout};

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

    // A client takes the release only so; nobody answers at port 9.
    let trust = |threshold: u32| {
        let files = story.signature("alice", "sig.json");
        let file = files.file_name().unwrap().to_str().unwrap();
        let command = format!(
            "verify https://127.0.0.1:9 --release release.json --keys builders.toml \
             --keys-at 1790000000 --threshold {threshold} --signature release.signatures/{file}"
        );
        let said = stderr(&story.cocoon(&[&command]));
        said.contains("is signed by 1 of the 2 builders that have to; ")
    };
    assert!(trust(2));
    assert!(!trust(1));

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

#[test]
fn an_audit_says_what_is_not_as_published_and_draws_it() {
    let Some(story) = Story::new("audit") else {
        return;
    };
    story.builder("alice");
    let audit = |artefacts: &str| {
        let id = story.signature("alice", "sig.json");
        let command = format!(
            "audit release.json --artefacts {artefacts} --keys builders.toml --threshold 1 \
             --keys-at 1790000000 --html audit.html --shape gpu8 --signature release.signatures/{}",
            id.file_name().unwrap().to_str().unwrap()
        );
        let audited = story.cocoon(&[&command]);
        let page = fs::read_to_string(story.path("audit.html")).unwrap();
        (exit(&audited), stdout(&audited), page)
    };
    let (code, text, page) = audit(".");
    assert_eq!(code, 0, "{text}");
    assert!(
        text.ends_with("trusted: the release is what was built\n"),
        "{text}"
    );
    for check in [
        "manifest",
        "tdx-registers",
        "corim",
        "sbom",
        "provenance",
        "signatures",
    ] {
        assert!(text.contains(&format!("ok {check}: ")), "{text}");
    }
    assert!(page.contains("Trusted: the release is what was built"));
    assert!(!page.contains("≠"), "nothing is marked");
    // Nothing is loaded, nothing runs.
    for word in ["<script", "src=", "@import", "http://", "https://"] {
        assert!(!page.contains(word), "{word}");
    }

    let other = story.path("other");
    fs::create_dir_all(&other).unwrap();
    for name in ["OVMF.fd", "initrd", "root.img", "manifest.json"] {
        fs::copy(story.path(name), other.join(name)).unwrap();
    }
    let mut kernel = kernel();
    kernel.push(1);
    fs::write(other.join("vmlinuz"), kernel).unwrap();
    fs::write(other.join("cmdline"), "console=ttyS0 <script>").unwrap();
    let (code, text, page) = audit("other");
    assert_eq!(code, 1, "{text}");
    let wrong: Vec<_> = text
        .lines()
        .filter_map(|line| line.strip_prefix("NO ")?.split(':').next())
        .collect();
    assert_eq!(
        wrong,
        [
            "manifest",
            "vmlinuz",
            "command-line",
            "tdx-registers",
            "vtpm-registers"
        ]
    );
    assert!(
        text.ends_with("rejected: the release is not what was built\n"),
        "{text}"
    );
    let marked = |class: &str| {
        page.matches(&format!("<g class=\"{class} differs\""))
            .count()
    };
    assert_eq!(
        (marked("given"), marked("event"), marked("register")),
        (2, 2, 2)
    );
    assert!(page.contains("shape gpu8-v64-m512g"));
    assert!(!page.contains("<script"), "what is filled in is escaped");

    // Bytes of the disk that its measured hash does not vouch for.
    let disk = fs::read(story.path("root.img")).unwrap();
    fs::write(other.join("root.img"), [&[1], &disk[1..]].concat()).unwrap();
    for name in ["vmlinuz", "cmdline"] {
        fs::copy(story.path(name), other.join(name)).unwrap();
    }
    let (code, text, page) = audit("other");
    assert_eq!(code, 1, "{text}");
    let refused = "NO root-disk: root disk has root hash ";
    assert!(text.contains(refused), "{text}");
    assert!(text.contains("ok tdx-registers: "), "{text}");
    assert_eq!(page.matches("<g class=\"given differs\"").count(), 1);

    fs::write(story.path("release.cdx.json"), "{}").unwrap();
    fs::write(story.path("release.corim"), b"\xa0").unwrap();
    let (code, text, _) = audit(".");
    assert_eq!(code, 1);
    for refused in [
        "NO corim: other bytes, expected the same\n",
        "NO sbom: bomFormat is CycloneDX, expected absent\n",
    ] {
        assert!(text.contains(refused), "{text}");
    }
    assert!(text.contains("ok provenance: "), "{text}");
    let last = "rejected: the files are as published, but not what is said about them\n";
    assert!(text.ends_with(last), "{text}");
}

#[test]
fn an_audit_builds_the_commit_that_the_provenance_names() {
    let Some(story) = Story::new("rebuilt") else {
        return;
    };
    // A source whose build gives the artefacts, and whose next commit does not.
    let script = format!(
        "rm -rf source && mkdir -p source/.cargo && cp {files} source/ && cd source && \
         printf '[alias]\nxtask = \"run --quiet --\"\n' > .cargo/config.toml && \
         printf '[package]\nname = \"xtask\"\nedition = \"2024\"\n[workspace]\n' > Cargo.toml && \
         mkdir src && cp ../build.rs src/main.rs && printf target > .gitignore && \
         git init --quiet && git add --all && \
         git -c user.name=a -c user.email=a@b commit --quiet --message one && \
         git rev-parse HEAD > ../commit && printf other > cmdline && \
         git -c user.name=a -c user.email=a@b commit --quiet --all --message two",
        files = "OVMF.fd vmlinuz initrd root.img cmdline manifest.json"
    );
    let build = r#"fn main() {
        let out = std::path::Path::new("target/image/base");
        std::fs::create_dir_all(out).unwrap();
        for name in ["OVMF.fd", "vmlinuz", "initrd", "root.img", "cmdline", "manifest.json"] {
            std::fs::copy(name, out.join(name)).unwrap();
        }
    }"#;
    fs::write(story.path("build.rs"), build).unwrap();
    let made = Command::new("sh")
        .args(["-c", &script])
        .current_dir(&story.folder)
        .output();
    let made = made.unwrap();
    assert!(made.status.success(), "{made:?}");
    let commit = fs::read_to_string(story.path("commit")).unwrap();
    let make = "release make --artefacts . --config demo.toml --out release.json --commit";
    assert_eq!(exit(&story.cocoon(&[make, commit.trim()])), 0);
    let audited = story.cocoon(&["audit release.json --source source"]);
    assert_eq!(exit(&audited), 0, "{audited:?}");

    // Without provenance it is the newest commit that counts.
    fs::remove_file(story.path("release.provenance.json")).unwrap();
    let audited = story.cocoon(&["audit release.json --source source --json"]);
    assert_eq!(exit(&audited), 1, "{audited:?}");
    let report: serde_json::Value = serde_json::from_str(&stdout(&audited)).unwrap();
    assert_eq!(report["verdict"], "rejected");
    assert_eq!(report["checks"][5]["found"], "other");
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
             --keys-at 1790000000 --signature"
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
