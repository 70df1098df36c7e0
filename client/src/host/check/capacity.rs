//! Room for VMs: memory, locked memory, huge pages, disk.

use std::path::Path;

use measurements::shape::{SHAPES, Shape};

use super::Finding;
use crate::host::gpu::Gpu;
use crate::host::server::Server;

pub(super) fn check(server: &Server, folder: &Path) -> Vec<Finding> {
    let mut findings = Vec::from([memory(server)]);
    if !Gpu::all(server).is_empty() {
        findings.push(locked_memory(server));
    }
    findings.extend([huge_pages(server), disk(server, folder)]);
    findings
}

/// Why a VM of `shape` cannot be run now.
pub(in crate::host) fn trouble(server: &Server, shape: &Shape) -> Option<String> {
    let available = mib(server, "MemAvailable");
    let (name, wanted) = (shape.name, shape.memory.mib >> 10);
    (!fits(shape, available)).then(|| {
        let found = available >> 10;
        format!("{found} GiB of memory are available, but shape {name} has {wanted}")
    })
}

fn fits(shape: &Shape, available_mib: u64) -> bool {
    u64::from(shape.memory.mib).saturating_add(OVERHEAD_MIB) <= available_mib
}

fn memory(server: &Server) -> Finding {
    let available = mib(server, "MemAvailable");
    let fitting = SHAPES.iter().filter(|shape| fits(shape, available));
    let found = format!("{} GiB are available", available >> 10);
    match fitting.map(|shape| shape.memory.mib >> 10).max() {
        Some(most) => Finding::ok("memory", format!("{found}: shapes of up to {most} GiB")),
        None => Finding::fail("memory", found, "no shape fits: free some", "free --gibi"),
    }
}

/// A VM with a device that reads its memory keeps all of it in place.
fn locked_memory(server: &Server) -> Finding {
    let limits = server.text("/proc/self/limits").unwrap_or_default();
    let limit = limits.lines().find_map(|line| {
        let values = line.strip_prefix("Max locked memory")?;
        values.split_whitespace().next().map(ToOwned::to_owned)
    });
    match limit.as_deref() {
        Some("unlimited") => Finding::ok("memlock", "unlimited"),
        limit => Finding::warn(
            "memlock",
            format!("{} bytes, expected unlimited", limit.unwrap_or("unknown")),
            "a VM with a GPU locks all its memory: run it as the systemd unit, or as root",
            "cocoon host unit --install",
        ),
    }
}

/// Memory of a TD comes from guest_memfd, which takes no reserved huge pages.
fn huge_pages(server: &Server) -> Finding {
    let reserved = mib(server, "Hugetlb") >> 10;
    if reserved > 0 {
        return Finding::warn(
            "huge-pages",
            format!("{reserved} GiB are reserved, and no TD can use them"),
            "give them back",
            "sysctl vm.nr_hugepages=0",
        );
    }
    let transparent = server.text("/sys/kernel/mm/transparent_hugepage/enabled");
    match transparent.as_deref() {
        Some(modes) if modes.contains("[always]") || modes.contains("[madvise]") => {
            Finding::ok("huge-pages", "transparent")
        }
        _ => Finding::warn(
            "huge-pages",
            "no transparent ones",
            "turn them on: memory that devices share with VMs is faster",
            "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled",
        ),
    }
}

fn disk(server: &Server, folder: &Path) -> Finding {
    let folder_name = folder.display();
    match server.free_disk(folder).map(|bytes| bytes >> 30) {
        Some(free) if free >= DISK_GIB => {
            Finding::ok("disk", format!("{free} GiB are free at {folder_name}"))
        }
        Some(free) => Finding::fail(
            "disk",
            format!("{free} GiB are free at {folder_name}, expected {DISK_GIB}"),
            "free some, or name another folder with --disk",
            &format!("du --max-depth=1 --human-readable {folder_name}"),
        ),
        None => Finding::unknown(
            "disk",
            format!("cannot tell the space at {folder_name}"),
            "name another folder with --disk",
            "df",
        ),
    }
}

/// A number of /proc/meminfo.
fn mib(server: &Server, key: &str) -> u64 {
    let value = server.field("/proc/meminfo", key).unwrap_or_default();
    let kib = value
        .strip_suffix(" kB")
        .and_then(|kib| kib.parse::<u64>().ok());
    kib.unwrap_or_default() >> 10
}

/// What QEMU takes beside the memory of the guest.
const OVERHEAD_MIB: u64 = 512;
/// An image and the smallest model that is worth a GPU.
const DISK_GIB: u64 = 20;

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::super::tests::found;
    use super::*;
    use crate::host::server::tests::{Double, H100};

    #[test]
    fn the_memory_of_the_shapes_that_fit_is_told() {
        let double = Double::ready();
        assert_eq!(
            found(&double, "memory").found,
            "991 GiB are available: shapes of up to 512 GiB"
        );
        double.file("proc/meminfo", "MemAvailable:   4000000 kB\n");
        assert_eq!(
            found(&double, "memory").found,
            "3 GiB are available: shapes of up to 2 GiB"
        );
        double.file("proc/meminfo", "MemAvailable:   2000000 kB\n");
        assert_eq!(found(&double, "memory").level, Level::Fail);
    }

    #[test]
    fn locked_memory_matters_for_gpus_alone() {
        let double = Double::ready();
        double.file(
            "proc/self/limits",
            "Max locked memory         8388608              8388608              bytes\n",
        );
        assert_eq!(
            found(&double, "memlock").found,
            "8388608 bytes, expected unlimited"
        );
        double.without(&format!("sys/bus/pci/devices/{H100}"));
        let findings = check(&double.server(), Path::new("/"));
        assert!(findings.iter().all(|found| found.name != "memlock"));
    }

    #[test]
    fn reserved_huge_pages_are_lost_and_transparent_ones_welcome() {
        let double = Double::ready();
        double.file(
            "sys/kernel/mm/transparent_hugepage/enabled",
            "always madvise [never]\n",
        );
        assert_eq!(found(&double, "huge-pages").found, "no transparent ones");
        double.file(
            "proc/meminfo",
            "MemAvailable:   1040000000 kB\nHugetlb:        67108864 kB\n",
        );
        assert_eq!(
            found(&double, "huge-pages").found,
            "64 GiB are reserved, and no TD can use them"
        );
    }
}
