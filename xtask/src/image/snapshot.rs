//! Debian's snapshot archive: every file that an archive of Debian ever held.
//!
//! `/mr/binary/NAME/VERSION/binfiles?fileinfo=1` names the SHA-1 of each file of a
//! package, and `/file/SHA1` is that file. Neither answer is trusted: the lock's
//! SHA-256 decides. Source: the machine-readable interface that the service documents.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::debs::{Request, fetch};
use super::lock::Package;
use crate::host::Mirror;
use crate::place::{read, remove};

/// Asks the archive for every package; gives apt's reasons where one did not come.
pub fn download(archive: &Mirror, packages: &[&Package], cache: &Path) -> Result<Vec<String>> {
    let folder = cache.join("snapshot");
    remove(&folder)?;
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("cannot make {}", folder.display()))?;
    let index = |package: &Package| folder.join(package.file());
    let questions: Vec<Request> = packages
        .iter()
        .map(|package| Request {
            url: archive.url(&format!(
                "mr/binary/{}/{}/binfiles?fileinfo=1",
                package.name, package.version
            )),
            target: index(package),
            sha256: None,
        })
        .collect();
    let mut reasons = fetch(&questions)?;
    let mut files = Vec::new();
    for package in packages {
        let Ok(answer) = read(&index(package)) else {
            continue;
        };
        match sha1(&answer, package) {
            Some(sha1) => files.push(Request {
                url: archive.url(&format!("file/{sha1}")),
                target: cache.join(package.file()),
                sha256: Some(package.sha256.clone()),
            }),
            None => reasons.push(format!("the snapshot archive names no {}", package.file())),
        }
    }
    remove(&folder)?;
    reasons.extend(fetch(&files)?);
    Ok(reasons)
}

/// The SHA-1 under which the archive keeps this very file.
fn sha1(answer: &[u8], package: &Package) -> Option<String> {
    let files: BinFiles = serde_json::from_slice(answer).ok()?;
    files.fileinfo.into_iter().find_map(|(sha1, places)| {
        let is_hash = sha1.len() == 40 && sha1.bytes().all(|byte| byte.is_ascii_hexdigit());
        let here = places
            .iter()
            .any(|place| place.name == package.file() && place.size == package.size);
        (is_hash && here).then_some(sha1)
    })
}

/// What is read of the answer.
#[derive(Deserialize)]
struct BinFiles {
    fileinfo: BTreeMap<String, Vec<Place>>,
}

/// Where a file once was.
#[derive(Deserialize)]
struct Place {
    name: String,
    size: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::net::TcpListener;
    use std::thread;

    use attestation::register::Digest256;
    use serde_json::json;

    use crate::host::APT_HELPER;
    use crate::image::debs::{Debs, Source};
    use crate::place::{Place, read_text};
    use crate::progress::Progress;

    const SHA1: &str = "0123456789abcdef0123456789abcdef01234567";
    const DEB: &str = "a package";

    #[test]
    fn what_the_mirror_dropped_comes_from_the_snapshot_archive() {
        let Some(archive) = Archive::serve(DEB) else {
            return;
        };
        let (_guard, place) = place();
        archive.obtain(&place).unwrap();
        assert_eq!(read_text(&place.debs.join(FILE)).unwrap(), DEB);
        // Once fetched, nobody is asked again.
        drop(archive);
        let nobody = Archive("http://127.0.0.1:9".into());
        nobody.obtain(&place).unwrap();
    }

    #[test]
    fn other_bytes_than_the_locked_ones_are_refused() {
        let Some(archive) = Archive::serve("b package") else {
            return;
        };
        let (_guard, place) = place();
        let error = archive.obtain(&place).unwrap_err().to_string();
        assert!(
            error.starts_with("no mirror has libx++ 1:2.0~rc1+b1 with the locked hash"),
            "{error}"
        );
        assert!(!place.debs.join(FILE).exists());
    }

    #[test]
    fn only_a_file_of_the_same_name_and_size_is_asked_for() {
        let package = package();
        let answer = |hash: &str, name: &str, size: usize| {
            let info = json!({"fileinfo": {hash: [{"name": name, "size": size}]}});
            sha1(info.to_string().as_bytes(), &package)
        };
        assert_eq!(answer(SHA1, FILE, DEB.len()).as_deref(), Some(SHA1));
        assert_eq!(answer(SHA1, "other.deb", DEB.len()), None);
        assert_eq!(answer(SHA1, FILE, 1), None);
        assert_eq!(answer("../../file", FILE, DEB.len()), None);
        assert_eq!(sha1(b"<html>", &package), None);
    }

    const FILE: &str = "libx++_2.0~rc1+b1_amd64.deb";

    fn package() -> Package {
        let sha256 = Digest256::of(DEB.as_bytes());
        let size = DEB.len();
        format!("root libx++ 1:2.0~rc1+b1 amd64 {size} {sha256} pool/main/libx/{FILE}")
            .parse()
            .unwrap()
    }

    fn place() -> (tempfile::TempDir, Place) {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::of(dir.path()).unwrap();
        (dir, place)
    }

    /// Root of a mirror that has nothing, and of a snapshot archive that has one file.
    struct Archive(String);

    impl Archive {
        fn serve(content: &'static str) -> Option<Self> {
            if !Path::new(APT_HELPER).exists() {
                assert!(std::env::var_os("CI").is_none(), "no apt");
                eprintln!("skipped: no apt");
                return None;
            }
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let root = format!("http://{}", listener.local_addr().unwrap());
            thread::spawn(move || {
                for stream in listener.incoming() {
                    let mut stream = stream.unwrap();
                    thread::spawn(move || {
                        let reader = BufReader::new(stream.try_clone().unwrap());
                        let requests = reader.lines().map_while(Result::ok);
                        for line in requests.filter(|line| line.starts_with("GET ")) {
                            let path = line.split(' ').nth(1).unwrap();
                            stream.write_all(&answer(path, content)).unwrap();
                        }
                    });
                }
            });
            Some(Self(root))
        }

        fn obtain(&self, place: &Place) -> Result<Debs> {
            let source = Source {
                mirrors: vec![format!("{}/debian", self.0)],
                snapshot: Some(format!("{}/", self.0)),
                ..Source::default()
            };
            let package = package();
            Debs::obtain(place, [&package].into_iter(), &source, &Progress::new(true))
        }
    }

    fn answer(path: &str, content: &str) -> Vec<u8> {
        let info = json!({"fileinfo": {SHA1: [{
            "archive_name": "debian",
            "first_seen": "20250101T000000Z",
            "name": FILE,
            "path": "/pool/main/libx",
            "size": DEB.len(),
        }]}});
        let (status, body) = match path {
            "/mr/binary/libx%2b%2b/1:2.0%7erc1%2bb1/binfiles?fileinfo=1" => {
                ("200 OK", info.to_string())
            }
            path if path == format!("/file/{SHA1}") => ("200 OK", content.to_owned()),
            _ => ("404 Not Found", String::new()),
        };
        let length = body.len();
        format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n{body}").into_bytes()
    }
}
