//! Where two builds differ: which file inside which artefact, and how.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::inside::unpack;
use crate::place::{list, read, remove};
use crate::tools::Tools;

/// Compares two folders of artefacts; what differs is unpacked under `scratch` to find it.
///
/// Nothing is said of artefacts that are the same, and something of each that is not.
pub fn explain(tools: &Tools, left: &Path, right: &Path, scratch: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for name in names(left, right, list)? {
        let (first, second) = (left.join(&name), right.join(&name));
        if let Some(only) = only_one(&first, &second) {
            found.push(format!("{} is in {only}", name.display()));
            continue;
        }
        let (a, b) = (read(&first)?, read(&second)?);
        if a == b {
            continue;
        }
        found.push(format!(
            "{} differs: {}",
            name.display(),
            difference(&a, &b)
        ));
        let trees = [(&first, "first"), (&second, "second")].map(|(artefact, side)| {
            let tree = scratch.join(side);
            remove(&tree)
                .and_then(|()| unpack(tools, artefact, &tree))
                .map(|()| tree)
        });
        match trees {
            [Ok(first), Ok(second)] => {
                let mut inside = compare(&first, &second)?;
                if inside.is_empty() && !entries(&first)?.is_empty() {
                    inside.push("no file inside differs".into());
                }
                found.extend(
                    inside
                        .iter()
                        .map(|line| format!("{}: {line}", name.display())),
                );
                remove(&first)?;
                remove(&second)?;
            }
            [Err(error), _] | [_, Err(error)] => found.push(format!("{error:#}")),
        }
    }
    Ok(found)
}

/// File by file, what differs between two trees.
fn compare(left: &Path, right: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for name in names(left, right, entries)? {
        let (first, second) = (left.join(&name), right.join(&name));
        let name = format!("/{}", name.display());
        if let Some(only) = only_one(&first, &second) {
            found.push(format!("{name} is in {only}"));
            continue;
        }
        let (a, b) = (Entry::read(&first)?, Entry::read(&second)?);
        let mut field = |what: &str, differs: bool, a: &str, b: &str| {
            if differs {
                found.push(format!("{name} has {what} {a} and {b}"));
            }
        };
        field(
            "mode",
            a.mode != b.mode,
            &format!("{:o}", a.mode),
            &format!("{:o}", b.mode),
        );
        field(
            "owner",
            a.owner != b.owner,
            &format!("{:?}", a.owner),
            &format!("{:?}", b.owner),
        );
        field(
            "mtime",
            a.mtime != b.mtime,
            &a.mtime.to_string(),
            &b.mtime.to_string(),
        );
        if a.content != b.content {
            found.push(format!(
                "{name} differs: {}",
                difference(&a.content, &b.content)
            ));
        }
    }
    Ok(found)
}

/// What an image says about a file.
struct Entry {
    /// With the bits for its type.
    mode: u32,
    owner: (u32, u32),
    /// Seconds.
    mtime: i64,
    /// Of a link, where it leads.
    content: Vec<u8>,
}

impl Entry {
    fn read(path: &Path) -> Result<Self> {
        let metadata = path
            .symlink_metadata()
            .with_context(|| format!("cannot read {}", path.display()))?;
        let content = match fs::read_link(path) {
            Ok(target) => target.into_os_string().into_encoded_bytes(),
            Err(_) if metadata.is_file() => read(path)?,
            Err(_) => Vec::new(),
        };
        Ok(Self {
            mode: metadata.permissions().mode(),
            owner: (metadata.uid(), metadata.gid()),
            mtime: metadata.mtime(),
            content,
        })
    }
}

/// How two contents differ: by a line where they are text, by an offset where not.
fn difference(left: &[u8], right: &[u8]) -> String {
    if let (Some(left), Some(right)) = (text(left), text(right)) {
        let (mut lefts, mut rights) = (left.lines(), right.lines());
        for number in 1_usize.. {
            match (lefts.next(), rights.next()) {
                (None, None) => break,
                (a, b) if a == b => {}
                (a, b) => {
                    let [a, b] = [a, b].map(|line| line.unwrap_or("(end)"));
                    return format!("line {number} is {a:?} and {b:?}");
                }
            }
        }
    }
    let pairs = || left.iter().zip(right).enumerate();
    let differing = || pairs().filter(|(_, (l, r))| l != r);
    let shorter = left.len().min(right.len());
    let first = differing().next().map_or(shorter, |(offset, _)| offset);
    let count = match left.len() == right.len() {
        true => format!("{} bytes", differing().count()),
        false => format!("{} and {} bytes", left.len(), right.len()),
    };
    format!("{count}, the first difference at offset {first:#x}")
}

fn text(content: &[u8]) -> Option<&str> {
    let text = str::from_utf8(content).ok()?;
    (!text.contains('\0')).then_some(text)
}

/// Every path below either folder, relative to it.
fn names(
    left: &Path,
    right: &Path,
    list: impl Fn(&Path) -> Result<Vec<PathBuf>>,
) -> Result<BTreeSet<PathBuf>> {
    let mut names = BTreeSet::new();
    for folder in [left, right] {
        for path in list(folder)? {
            names.insert(path.strip_prefix(folder).unwrap_or(&path).into());
        }
    }
    Ok(names)
}

/// Files, links and folders below `root`.
fn entries(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in list(root)? {
        if entry.is_dir() && !entry.is_symlink() {
            found.extend(entries(&entry)?);
        }
        found.push(entry);
    }
    Ok(found)
}

fn only_one(first: &Path, second: &Path) -> Option<&'static str> {
    let there = |path: &Path| path.symlink_metadata().is_ok();
    match (there(first), there(second)) {
        (true, false) => Some("the first only"),
        (false, true) => Some("the second only"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::initrd::{Member, archive};
    use crate::image::root::seal;
    use crate::image::{Builder, lock::Lock};
    use crate::place::{Place, write};
    use crate::progress::Progress;

    #[test]
    fn a_difference_is_explained_file_by_file() {
        let dir = tempfile::tempdir().unwrap();
        let (left, right) = (dir.path().join("left"), dir.path().join("right"));
        tree(&left, "one", 0o600, 7);
        tree(&right, "two", 0o644, 8);
        assert_eq!(compare(&left, &right).unwrap(), TREE);
        assert_eq!(compare(&left, &left).unwrap(), [""; 0]);
    }

    #[test]
    fn contents_differ_by_line_or_by_offset() {
        assert_eq!(difference(b"a\nb", b"a\nc"), r#"line 2 is "b" and "c""#);
        assert_eq!(difference(b"a", b"a\nb"), r#"line 2 is "(end)" and "b""#);
        let offset = "2 bytes, the first difference at offset 0x1";
        assert_eq!(difference(b"\xff\0\0\0", b"\xff\x01\0\x01"), offset);
        let longer = "1 and 2 bytes, the first difference at offset 0x1";
        assert_eq!(difference(b"\xff", b"\xff\0"), longer);
        assert_eq!(
            difference(b"a", b"a\n"),
            "1 and 2 bytes, the first difference at offset 0x1"
        );
    }

    #[test]
    fn the_file_inside_an_image_is_named() {
        let Some(tools) = tools() else { return };
        let dir = tempfile::tempdir().unwrap();
        let folders = ["left", "right"].map(|name| dir.path().join(name));
        for (folder, content, mode, mtime) in [
            (&folders[0], "one", 0o600, 7),
            (&folders[1], "two", 0o644, 8),
        ] {
            tree(&dir.path().join("tree"), content, mode, mtime);
            write(&folder.join("root.img"), root(&tools, dir.path())).unwrap();
            remove(&dir.path().join("tree")).unwrap();
            let members = [Member {
                name: "init",
                mode,
                content: content.as_bytes(),
            }];
            write(&folder.join("initrd"), archive(&members).unwrap()).unwrap();
            write(&folder.join("vmlinuz"), kernel(&tools, dir.path(), mtime)).unwrap();
            write(&folder.join("cmdline"), format!("console={content}")).unwrap();
        }
        let [left, right] = &folders;
        let found = explain(&tools, left, right, dir.path()).unwrap();
        let of = |name: &str| -> Vec<&str> {
            let lines = found.iter().filter_map(|line| line.strip_prefix(name));
            lines.filter_map(|line| line.strip_prefix(": ")).collect()
        };
        assert_eq!(of("root.img"), TREE);
        assert_eq!(
            of("initrd"),
            [
                "/init has mode 100600 and 100644",
                r#"/init differs: line 1 is "one" and "two""#
            ],
        );
        let section = "/sections/.rodata differs: 1 bytes, the first difference at offset 0x0";
        assert!(of("vmlinuz").contains(&section), "{found:#?}");
        let line = r#"cmdline differs: line 1 is "console=one" and "console=two""#;
        assert!(found.iter().any(|found| found == line), "{found:#?}");
        assert_eq!(explain(&tools, left, left, dir.path()).unwrap(), [""; 0]);
    }

    #[test]
    fn an_image_that_cannot_be_opened_is_still_said_to_differ() {
        let Some(tools) = tools() else { return };
        let dir = tempfile::tempdir().unwrap();
        let folders = ["left", "right"].map(|name| dir.path().join(name));
        for folder in &folders {
            write(&folder.join("vmlinuz"), folder.to_str().unwrap()).unwrap();
        }
        write(&folders[0].join("extra"), "").unwrap();
        let found = explain(&tools, &folders[0], &folders[1], dir.path()).unwrap();
        let [extra, differs, why] = &found[..] else {
            panic!("{found:#?}")
        };
        assert_eq!(extra, "extra is in the first only");
        assert!(differs.starts_with("vmlinuz differs: "), "{differs}");
        assert!(why.ends_with("the header names no payload"), "{why}");
    }

    const TREE: [&str; 6] = [
        r#"/etc/text differs: line 1 is "one" and "two""#,
        r#"/link differs: line 1 is "one" and "two""#,
        "/mode has mode 100600 and 100644",
        "/one is in the first only",
        "/time has mtime 7 and 8",
        "/two is in the second only",
    ];

    /// Everything in it has the same time, apart from one file.
    fn tree(root: &Path, content: &str, mode: u32, mtime: u64) {
        write(&root.join("same"), "x").unwrap();
        write(&root.join("etc/text"), content).unwrap();
        write(&root.join("mode"), "x").unwrap();
        write(&root.join("time"), "x").unwrap();
        write(&root.join(content), "").unwrap();
        std::os::unix::fs::symlink(content, root.join("link")).unwrap();
        fs::set_permissions(root.join("mode"), fs::Permissions::from_mode(mode)).unwrap();
        let touch = |path: &Path, time: &str| {
            let touch = [
                "-exec",
                "touch",
                "--no-dereference",
                "--date",
                time,
                "{}",
                "+",
            ];
            let mut find = std::process::Command::new("find");
            find.arg(path);
            succeed(find, &touch);
        };
        touch(root, "@1");
        touch(&root.join("time"), &format!("@{mtime}"));
    }

    fn root(tools: &Tools, dir: &Path) -> Vec<u8> {
        let mut sandbox = tools.sandbox();
        let command = sandbox.writable(dir, "/dir").command("mkfs.erofs");
        succeed(command, &["--quiet", "-zzstd", "/dir/erofs", "/dir/tree"]);
        seal(read(&dir.join("erofs")).unwrap()).unwrap().0
    }

    /// A boot sector, a setup sector and a packed program; `number` is in its read-only data.
    fn kernel(tools: &Tools, dir: &Path, number: u64) -> Vec<u8> {
        let mut program = read(&tools.path("usr/bin/true")).unwrap();
        let readelf = tools
            .sandbox()
            .command("readelf")
            .args(["-SW", "/usr/bin/true"])
            .output();
        let sections = String::from_utf8(readelf.unwrap().stdout).unwrap();
        let line = sections.lines().find(|line| line.contains(" .rodata "));
        let fields: Vec<&str> = line.unwrap().split_whitespace().collect();
        let mut fields = fields.iter().skip_while(|field| **field != "PROGBITS");
        let at = usize::from_str_radix(fields.nth(2).unwrap(), 16).unwrap();
        program[at] = u8::try_from(number).unwrap();
        write(&dir.join("program"), &program).unwrap();
        let mut sandbox = tools.sandbox();
        let command = sandbox.writable(dir, "/dir").command("zstd");
        succeed(command, &["--quiet", "--force", "/dir/program"]);
        let mut payload = read(&dir.join("program.zst")).unwrap();
        payload.extend([0; 4]);
        let mut file = vec![0; 1024];
        file[0x1f1] = 1;
        file[0x24c..0x250].copy_from_slice(&u32::try_from(payload.len()).unwrap().to_le_bytes());
        file.extend(payload);
        file
    }

    fn succeed(mut command: std::process::Command, arguments: &[&str]) {
        let output = command.args(arguments).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    /// The locked tools, if this checkout has built an image.
    fn tools() -> Option<Tools> {
        let place = Place::here().unwrap();
        Lock::read(&place).unwrap();
        if !place.out.join("base/manifest.json").is_file() {
            assert!(
                std::env::var_os("CI").is_none(),
                "no image at {:?}",
                place.out
            );
            eprintln!("skipped: no image");
            return None;
        }
        Some(
            Builder::here(&Progress::new(true))
                .unwrap()
                .tools()
                .unwrap(),
        )
    }
}
