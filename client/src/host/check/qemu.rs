//! The program that runs VMs: its release is in the registers.

use measurements::qemu;
use measurements::release::Qemu;
use measurements::shape::Platform;

use super::{Finding, Level};
use crate::host::server::Server;

/// Why a VM of a release cannot be run by `program`.
pub(in crate::host) fn trouble(
    server: &Server,
    program: &str,
    platform: Platform,
    release: &Qemu,
) -> Option<String> {
    if release.machine != qemu::MACHINE {
        let (found, own) = (&release.machine, qemu::MACHINE);
        return Some(format!(
            "the release has machine {found}, and this program knows {own} alone"
        ));
    }
    let finding = look(server, program, platform, &release.version);
    let remedy = finding.remedy.filter(|_| finding.level != Level::Ok)?;
    Some(format!(
        "QEMU: {}; {}: {}",
        finding.found, remedy.remedy, remedy.command
    ))
}

pub(super) fn check(server: &Server, program: &str) -> Finding {
    look(server, program, Platform::Tdx, qemu::VERSION)
}

fn look(server: &Server, program: &str, platform: Platform, wanted: &str) -> Finding {
    let said = server.run(program, &["--version"]);
    let version = said.as_deref().and_then(version);
    let Some((text, numbers)) = version else {
        return Finding::fail(
            "qemu",
            format!("{program} does not tell its version"),
            "install it, or name another with --qemu",
            INSTALL,
        );
    };
    if numbers < OLDEST {
        let found = format!("{text}, expected {wanted}");
        return Finding::fail("qemu", found, "install a newer one", INSTALL);
    }
    let objects = || {
        server
            .run(program, &["-object", "help"])
            .unwrap_or_default()
    };
    let knows_tdx = || objects().lines().any(|object| object.trim() == "tdx-guest");
    if platform == Platform::Tdx && !knows_tdx() {
        let found = format!("{text}, built without TDX");
        return Finding::fail("qemu", found, "install one with TDX", INSTALL);
    }
    let rest = text.strip_prefix(wanted);
    match rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.')) {
        true => Finding::ok("qemu", text),
        false => Finding::warn(
            "qemu",
            format!("{text}, the registers were computed for {wanted}"),
            "install that one, unless another release names yours",
            INSTALL,
        ),
    }
}

/// As it is written, and as numbers.
fn version(said: &str) -> Option<(&str, (u32, u32))> {
    let rest = said.trim_start().strip_prefix("QEMU emulator version ")?;
    let text = rest.split([' ', '\n']).next()?;
    let mut numbers = text.split('.').map(|number| number.parse().ok());
    Some((text, (numbers.next()??, numbers.next()??)))
}

/// The first that hands a kernel over to a TD as it is.
const OLDEST: (u32, u32) = (10, 2);
const INSTALL: &str = "apt-get install -t trixie-backports qemu-system-x86";

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::super::tests::found;
    use super::*;
    use crate::host::server::tests::Double;

    #[test]
    fn its_release_must_be_the_one_that_was_computed_for() {
        for (said, level) in [
            ("QEMU emulator version 11.1.0", Level::Ok),
            ("QEMU emulator version 11.1\n", Level::Ok),
            ("QEMU emulator version 11.10.0", Level::Warn),
            ("QEMU emulator version 10.2.1 (x)", Level::Warn),
            ("QEMU emulator version 9.2.0", Level::Fail),
            ("something else", Level::Fail),
        ] {
            let double = Double::ready();
            double.says("qemu-system-x86_64 --version", said);
            assert_eq!(found(&double, "qemu").level, level, "{said}");
        }
    }

    #[test]
    fn a_release_wants_its_own() {
        let double = Double::ready();
        let trouble = |machine: &str, version: &str, platform| {
            let qemu = Qemu {
                machine: machine.into(),
                version: version.into(),
            };
            trouble(&double.server(), "qemu-system-x86_64", platform, &qemu)
        };
        assert_eq!(trouble(qemu::MACHINE, "11.1", Platform::Tdx), None);
        let newer = trouble(qemu::MACHINE, "11.2", Platform::Tdx).unwrap();
        assert!(newer.starts_with("QEMU: 11.1.3, the registers were computed for 11.2; "));
        let other = trouble("pc-q35-9.0", "9.0", Platform::Tdx).unwrap();
        assert!(other.starts_with("the release has machine pc-q35-9.0"));
        double.says("qemu-system-x86_64 -object help", "none");
        assert_eq!(trouble(qemu::MACHINE, "11.1", Platform::Vtpm), None);
        assert!(trouble(qemu::MACHINE, "11.1", Platform::Tdx).is_some());
    }

    #[test]
    fn it_must_know_tdx() {
        let double = Double::ready();
        double.says(
            "qemu-system-x86_64 -object help",
            "List:\n  not-tdx-guest\n",
        );
        assert_eq!(found(&double, "qemu").found, "11.1.3, built without TDX");
    }

    #[test]
    fn versions_are_read_as_numbers() {
        assert_eq!(
            version("QEMU emulator version 11.1.3 (Debian)"),
            Some(("11.1.3", (11, 1)))
        );
        for text in [
            "",
            "QEMU",
            "QEMU emulator version",
            "QEMU emulator version x.1",
        ] {
            assert_eq!(version(text), None, "{text}");
        }
    }
}
