//! Builds the image twice under different circumstances, compares every byte, and looks inside.
//!
//! The second build has another path, umask, time zone, language, number of
//! jobs and time of day. It takes the downloaded packages from the first and
//! nothing else, unless told to reuse the kernel.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use super::{Artefacts, Builder, Manifest, Profile};
use crate::place::{copy, files, list, read, read_text, remove};
use crate::tools::Tools;

/// Checks one profile and says what it found, one `name value` a line.
///
/// What differs or does not belong into an image is the error.
pub fn check(builder: &Builder, profile: Profile, skip_kernel: bool) -> Result<()> {
    let first = builder.build(profile)?;
    let tools = builder.tools()?;
    let second = build_elsewhere(builder, profile, skip_kernel)?;
    let mut faults = Vec::new();

    let trees = [&first, &second].map(|artefacts| extract(&tools, artefacts));
    let [tree, other] = trees;
    let (tree, other) = (tree?, other?);
    for path in list(&first.folder)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let (left, right) = (read(&path)?, read(&second.folder.join(&*name))?);
        println!("{name} {} bytes, {}", left.len(), same(left == right));
        if left != right {
            faults.push(format!("{name} differs: {}", difference(&left, &right)));
        }
    }
    faults.extend(compare(&tree, &other)?);
    if skip_kernel {
        println!("skipped the second build of the kernel");
    }

    let manifest = serde_json::from_str::<Manifest>(&read_text(&first.manifest)?)
        .context("manifest of the first build")?;
    faults.extend(judge(profile, &manifest, &tree)?);
    verify(&tools, &first)?;
    println!("verity as veritysetup computes it");
    remove(&tree)?;
    remove(&other)?;
    if !faults.is_empty() {
        bail!("the image is not as it must be:\n  {}", faults.join("\n  "));
    }
    Ok(())
}

fn build_elsewhere(builder: &Builder, profile: Profile, skip_kernel: bool) -> Result<Artefacts> {
    let checkout = builder.place.out.join("check/another place");
    builder.place.copy_to(&checkout)?;
    let out = checkout.join("target/image");
    if skip_kernel {
        for folder in list(&builder.place.out.join("cache"))? {
            let name = folder.file_name().unwrap_or_default();
            if name.to_string_lossy().starts_with("kernel-") {
                for file in files(&folder)? {
                    let inside = file.strip_prefix(&folder).unwrap_or(&file);
                    copy(&file, &out.join("cache").join(name).join(inside))?;
                }
            }
        }
    }

    let step = builder.progress.step(format!("build {profile} once more"));
    let jobs = builder.jobs.get().saturating_sub(1).max(1);
    let program = std::env::current_exe().context("cannot find this program")?;
    let built = Command::new("/bin/sh")
        .args(["-c", "umask 077 && exec \"$@\"", "sh"])
        .arg(program)
        .args(["image", "build", "--quiet", "--profile", profile.name()])
        .args(["--jobs", &jobs.to_string()])
        .arg("--checkout")
        .arg(&checkout)
        .arg("--debs")
        .arg(&builder.place.debs)
        .env("LANG", "tr_TR.UTF-8")
        .env("LC_ALL", "tr_TR.UTF-8")
        .env("TZ", "Pacific/Apia")
        .env_remove("CARGO_TARGET_DIR")
        .output()
        .context("cannot start the second build")?;
    ensure!(
        built.status.success(),
        "the second build failed: {}",
        String::from_utf8_lossy(&built.stderr).trim(),
    );
    step.done("built");
    Ok(Artefacts::at(out.join(profile.name())))
}

/// The files that the root image really holds.
fn extract(tools: &Tools, artefacts: &Artefacts) -> Result<PathBuf> {
    let tree = artefacts.folder.with_extension("tree");
    remove(&tree)?;
    fs::create_dir_all(&tree).with_context(|| format!("cannot make {}", tree.display()))?;
    let mut sandbox = tools.sandbox();
    sandbox
        .read_only(&artefacts.root, "/root.img")
        .writable(&tree, "/tree");
    let extracted = sandbox
        .command("fsck.erofs")
        .args([
            "--extract=/tree",
            "--force",
            "--preserve-perms",
            "/root.img",
        ])
        .output()
        .context("cannot start fsck.erofs")?;
    ensure!(
        extracted.status.success(),
        "cannot extract {}: {}",
        artefacts.root.display(),
        String::from_utf8_lossy(&extracted.stderr).trim(),
    );
    Ok(tree)
}

/// Has Debian's own tool compute the hash tree.
fn verify(tools: &Tools, artefacts: &Artefacts) -> Result<()> {
    let verity = artefacts.verity()?;
    let mut sandbox = tools.sandbox();
    sandbox.read_only(&artefacts.root, "/root.img");
    let verified = sandbox
        .command("veritysetup")
        .args(["verify", "/root.img", "/root.img"])
        .arg(verity.root_hash.to_string())
        .arg(format!("--hash-offset={}", verity.hash_offset()))
        .output()
        .context("cannot start veritysetup")?;
    ensure!(
        verified.status.success(),
        "veritysetup refuses the root: {}",
        String::from_utf8_lossy(&verified.stderr).trim(),
    );
    Ok(())
}

/// File by file, what differs between two roots.
fn compare(left: &Path, right: &Path) -> Result<Vec<String>> {
    let mut faults = Vec::new();
    let names = |root: &Path| -> Result<Vec<PathBuf>> {
        let inside = |path: PathBuf| path.strip_prefix(root).map(Into::into);
        let found = files(root)?
            .into_iter()
            .map(inside)
            .collect::<Result<_, _>>();
        found.context("name of a file in the root")
    };
    let (lefts, rights) = (names(left)?, names(right)?);
    for name in lefts.iter().filter(|name| !rights.contains(name)) {
        faults.push(format!("/{} is in the first root only", name.display()));
    }
    for name in rights.iter().filter(|name| !lefts.contains(name)) {
        faults.push(format!("/{} is in the second root only", name.display()));
    }
    for name in lefts.iter().filter(|name| rights.contains(name)) {
        let (left, right) = (left.join(name), right.join(name));
        if mode(&left)? != mode(&right)? {
            faults.push(format!("/{} has another mode", name.display()));
        }
        if fs::read_link(&left).ok() != fs::read_link(&right).ok() {
            faults.push(format!("/{} leads elsewhere", name.display()));
        } else if !left.is_symlink() {
            let (left, right) = (read(&left)?, read(&right)?);
            if left != right {
                let difference = difference(&left, &right);
                faults.push(format!("/{} differs: {difference}", name.display()));
            }
        }
    }
    Ok(faults)
}

/// What an image must not be, as far as this one is it.
fn judge(profile: Profile, manifest: &Manifest, tree: &Path) -> Result<Vec<String>> {
    let mut faults = Vec::new();
    let packages = manifest.packages.len();
    let size: u64 = manifest
        .artefacts
        .iter()
        .map(|artefact| artefact.size)
        .sum();
    println!("packages {packages}\nsize {size} bytes");
    let (max_packages, max_size) = limits(profile);
    if packages > max_packages {
        faults.push(format!(
            "{packages} packages, at most {max_packages} wanted"
        ));
    }
    if size > max_size {
        faults.push(format!("{size} bytes boot, at most {max_size} wanted"));
    }
    let (mut programs, mut set_uid) = (Vec::new(), 0_usize);
    for path in files(tree)? {
        let name = path.strip_prefix(tree).unwrap_or(&path).display();
        if path.is_symlink() {
            continue;
        }
        let mode = mode(&path)?;
        set_uid = set_uid.saturating_add(usize::from(mode & 0o6000 != 0));
        if mode & 0o7022 != 0 {
            faults.push(format!("/{name} has mode {mode:o}"));
        }
        if read(&path)?.starts_with(b"#!") {
            faults.push(format!("/{name} is a script"));
        }
        if !name.to_string().starts_with("usr/lib/x86_64-linux-gnu/") && mode & 0o111 != 0 {
            programs.push(format!("/{name}"));
        }
    }
    println!("programs {}\nset-uid {set_uid}", programs.join(" "));
    for (part, size) in parts(tree)? {
        println!("{part} {size} bytes");
    }
    let expected: &[&str] = match profile {
        Profile::Base => &["/usr/bin/agent"],
        Profile::Debug => &["/usr/bin/agent", "/usr/bin/busybox"],
        Profile::Nvidia => &["/usr/bin/agent", "/usr/bin/agent-cuda", "/usr/bin/gpus"],
    };
    if programs != expected {
        faults.push(format!("programs are {programs:?}, expected {expected:?}"));
    }
    Ok(faults)
}

/// What the root is made of, uncompressed.
fn parts(tree: &Path) -> Result<BTreeMap<&'static str, u64>> {
    let mut parts = BTreeMap::new();
    for path in files(tree)?.iter().filter(|path| !path.is_symlink()) {
        let name = path.strip_prefix(tree).unwrap_or(path).to_string_lossy();
        let part = PARTS
            .iter()
            .find_map(|(part, of)| of.iter().any(|of| name.contains(of)).then_some(*part));
        let size = path.metadata().map_or(0, |found| found.len());
        let sum: &mut u64 = parts.entry(part.unwrap_or("other")).or_default();
        *sum = sum.saturating_add(size);
    }
    Ok(parts)
}

/// The first that a path has a piece of.
const PARTS: [(&str, &[&str]); 5] = [
    ("modules", &["usr/lib/modules/"]),
    ("firmware", &["usr/lib/firmware/"]),
    ("cuda", &["/libcublas", "/libcudart", "/libcurand"]),
    ("driver", &["/libcuda.", "/libnvidia-"]),
    ("ours", &["usr/bin/agent", "usr/bin/gpus"]),
];

fn mode(path: &Path) -> Result<u32> {
    let metadata = path
        .symlink_metadata()
        .with_context(|| format!("cannot read {}", path.display()))?;
    Ok(metadata.permissions().mode() & 0o7777)
}

fn difference(left: &[u8], right: &[u8]) -> String {
    if left.len() != right.len() {
        return format!("{} and {} bytes", left.len(), right.len());
    }
    let differing = || {
        left.iter()
            .zip(right)
            .enumerate()
            .filter(|(_, (l, r))| l != r)
    };
    let first = differing().next().map_or(0, |(offset, _)| offset);
    format!(
        "{} bytes, the first at offset {first:#x}",
        differing().count()
    )
}

const fn same(same: bool) -> &'static str {
    match same {
        true => "identical",
        false => "DIFFERENT",
    }
}

/// Packages in the root, and bytes of all that boots.
const fn limits(profile: Profile) -> (usize, u64) {
    match profile {
        Profile::Base | Profile::Debug => (20, 60_000_000),
        Profile::Nvidia => (25, 600_000_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::place::link;
    use crate::place::write;

    #[test]
    fn a_difference_is_explained_file_by_file() {
        let dir = tempfile::tempdir().unwrap();
        let (left, right) = (dir.path().join("left"), dir.path().join("right"));
        for (root, content) in [(&left, "one"), (&right, "two")] {
            write(&root.join("same"), "x").unwrap();
            write(&root.join("etc/text"), content).unwrap();
            write(&root.join("mode"), "x").unwrap();
            link(Path::new(content), &root.join("link")).unwrap();
            write(&root.join(content), "").unwrap();
        }
        fs::set_permissions(left.join("mode"), fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(
            compare(&left, &right).unwrap(),
            [
                "/one is in the first root only",
                "/two is in the second root only",
                "/etc/text differs: 3 bytes, the first at offset 0x0",
                "/link leads elsewhere",
                "/mode has another mode",
            ],
        );
        assert_eq!(compare(&left, &left).unwrap(), [""; 0]);
    }

    #[test]
    fn what_does_not_belong_is_found() {
        let tree = tempfile::tempdir().unwrap();
        let file = |name: &str, mode, content: &str| {
            let path = tree.path().join(name);
            write(&path, content).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        file("usr/bin/agent", 0o755, "\x7fELF");
        file("usr/lib/x86_64-linux-gnu/libc.so.6", 0o755, "\x7fELF");
        let found =
            |packages, size| judge(Profile::Base, &manifest(packages, size), tree.path()).unwrap();
        assert_eq!(found(11, 50_000_000), [""; 0]);
        file("usr/bin/su", 0o4755, "\x7fELF");
        file("etc/rc", 0o644, "#!/bin/sh");
        assert_eq!(
            found(21, 60_000_001),
            [
                "21 packages, at most 20 wanted",
                "60000001 bytes boot, at most 60000000 wanted",
                "/etc/rc is a script",
                "/usr/bin/su has mode 4755",
                "programs are [\"/usr/bin/agent\", \"/usr/bin/su\"], expected [\"/usr/bin/agent\"]",
            ],
        );
    }

    fn manifest(packages: usize, size: u64) -> Manifest {
        let verity = format!("sha256:{0}:{0}:1", "0".repeat(64));
        Manifest {
            profile: "base".into(),
            command_line: String::new(),
            verity: verity.parse().unwrap(),
            artefacts: vec![super::super::Artefact {
                name: "root.img".into(),
                size,
                sha256: String::new(),
            }],
            packages: vec!["libc6 1".into(); packages],
        }
    }
}
