//! Passing devices on to VMs: IOMMU and VFIO.

use super::Finding;
use crate::host::server::Server;

pub(super) fn check(server: &Server) -> Vec<Finding> {
    [iommu(server), vfio(server)].into()
}

fn iommu(server: &Server) -> Finding {
    match server.names("/sys/class/iommu").len() {
        0 => Finding::fail(
            "iommu",
            "none: /sys/class/iommu is empty",
            "turn on VT-d in the BIOS setup, and add intel_iommu=on to the kernel's command line",
            "systemctl reboot --firmware-setup",
        ),
        count => Finding::ok("iommu", format!("{count} units")),
    }
}

fn vfio(server: &Server) -> Finding {
    if !server.has("/sys/module/vfio_pci") {
        let command = "modprobe vfio-pci && echo vfio-pci > /etc/modules-load.d/vfio.conf";
        return Finding::fail("vfio", "vfio-pci is not loaded", "load it", command);
    }
    match (server.has(IOMMUFD), server.opens(IOMMUFD)) {
        (true, true) => Finding::ok("vfio", "vfio-pci and iommufd"),
        (true, false) => Finding::fail(
            "vfio",
            "/dev/iommu is closed to this user",
            "install the rules that open it to group kvm",
            "cocoon host unit --install",
        ),
        (false, _) => Finding::fail(
            "vfio",
            "there is no /dev/iommu",
            "boot a kernel with CONFIG_IOMMUFD and CONFIG_VFIO_DEVICE_CDEV, and load it",
            "modprobe iommufd",
        ),
    }
}

const IOMMUFD: &str = "/dev/iommu";

#[cfg(test)]
mod tests {
    use super::super::tests::found;
    use crate::host::server::tests::Double;

    #[test]
    fn vfio_must_be_loaded_and_open() {
        let double = Double::ready();
        double
            .state()
            .locked
            .borrow_mut()
            .insert("dev/iommu".into());
        assert_eq!(
            found(&double, "vfio").found,
            "/dev/iommu is closed to this user"
        );
        double.without("dev/iommu");
        assert_eq!(found(&double, "vfio").found, "there is no /dev/iommu");
        double.without("sys/module/vfio_pci");
        assert_eq!(found(&double, "vfio").found, "vfio-pci is not loaded");
    }
}
