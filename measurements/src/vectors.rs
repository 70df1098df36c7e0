//! Where tests find recorded evidence that is not in this repository.

use std::env;
use std::eprintln;
use std::fs;
use std::path::PathBuf;
use std::vec::Vec;

/// A file under `boot/`, or `None` where the vectors are absent.
pub(crate) fn read(path: &str) -> Option<Vec<u8>> {
    let root = env::var_os("COCOON_VECTORS").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/vectors"),
        PathBuf::from,
    );
    if root.is_dir() {
        return Some(fs::read(root.join("boot").join(path)).unwrap());
    }
    assert!(env::var_os("CI").is_none(), "no vectors at {root:?}");
    eprintln!("skipped: no vectors");
    None
}

/// The firmware of a distribution package, unpacked.
pub(crate) fn firmware(package: &str) -> Option<Vec<u8>> {
    let packed = read(&std::format!("distro-ovmf/OVMF-{package}.fd.xz"))?;
    let mut stream = lzma_rust2::XzStream::new(false);
    let mut file = std::vec![0; 4 << 20];
    let result = stream
        .process(&packed, &mut file, lzma_rust2::Action::Finish)
        .unwrap();
    assert_eq!(result.bytes_produced, file.len());
    Some(file)
}
