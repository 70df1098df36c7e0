//! Builds the image twice under different circumstances, compares every byte, and looks inside.
//!
//! The second build has another path, umask, time zone, language, number of
//! jobs and time of day. It takes the downloaded packages from the first and
//! nothing else, unless told to reuse the kernel.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use super::explain::explain;
use super::inside::unpack;
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

    for path in list(&first.folder)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let content = read(&path)?;
        let same = fs::read(second.folder.join(&*name)).is_ok_and(|other| other == content);
        let same = if same { "identical" } else { "DIFFERENT" };
        println!("{name} {} bytes, {same}", content.len());
    }
    let scratch = builder.place.out.join("check/differences");
    faults.extend(explain(&tools, &first.folder, &second.folder, &scratch)?);
    if skip_kernel {
        println!("skipped the second build of the kernel");
    }

    let manifest = serde_json::from_str::<Manifest>(&read_text(&first.manifest)?)
        .context("manifest of the first build")?;
    let tree = builder.place.out.join("check/tree");
    remove(&tree)?;
    unpack(&tools, &first.root, &tree)?;
    faults.extend(judge(profile, &manifest, &tree)?);
    remove(&tree)?;
    verify(&tools, &first)?;
    println!("verity as veritysetup computes it");
    if !faults.is_empty() {
        bail!("the image is not as it must be:\n  {}", faults.join("\n  "));
    }
    Ok(())
}

fn build_elsewhere(builder: &Builder, profile: Profile, skip_kernel: bool) -> Result<Artefacts> {
    let checkout = builder
        .place
        .out
        .join(format!("check/another place, {profile}"));
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
    let jobs = builder.jobs.saturating_add(1);
    // This very program, whatever has been built in its place since it was started.
    let program = format!("/proc/{}/exe", std::process::id());
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
    ("cuda", &["/libcublas", "/libcurand"]),
    ("driver", &["/libcuda.", "/libnvidia-"]),
    ("ours", &["usr/bin/agent", "usr/bin/gpus"]),
];

fn mode(path: &Path) -> Result<u32> {
    let metadata = path
        .symlink_metadata()
        .with_context(|| format!("cannot read {}", path.display()))?;
    Ok(metadata.permissions().mode() & 0o7777)
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
    use crate::place::write;
    use attestation::register::Digest256;
    use measurements::materials::Materials;

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
            materials: Materials {
                profile: "base".into(),
                packages_lock: Digest256::ZERO,
                cargo_lock: Digest256::ZERO,
                rust: String::new(),
                parts: Vec::new(),
            },
        }
    }
}
