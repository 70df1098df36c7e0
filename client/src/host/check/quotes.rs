//! Who signs quotes for the TDs of this server: SGX, Intel's QGS, and a PCCS.
//!
//! A service that listens may still fail; only a quote shows that it works.
//! Source: Intel TDX Enabling Guide, "Infrastructure Setup".

use super::Finding;
use crate::host::server::{Endpoint, Server};
use crate::host::{QGS_PORT, QGS_SOCKET};

pub(super) fn check(server: &Server, pccs_url: Option<&str>) -> Vec<Finding> {
    [sgx(server), qgs(server), pccs(server, pccs_url)].into()
}

fn sgx(server: &Server) -> Finding {
    match server.has("/dev/sgx_enclave") {
        true => Finding::ok("sgx", "for the quoting enclave"),
        false => Finding::fail(
            "sgx",
            "there is no /dev/sgx_enclave, and quotes are signed in an enclave",
            "turn on SGX in the BIOS setup",
            "systemctl reboot --firmware-setup",
        ),
    }
}

fn qgs(server: &Server) -> Finding {
    let configured = server.field("/etc/qgs.conf", "port");
    let port = configured.and_then(|port| port.parse().ok());
    let places = [
        Endpoint::Vsock(port.unwrap_or(QGS_PORT)),
        Endpoint::Unix(QGS_SOCKET.into()),
    ];
    match places.iter().find(|place| server.reaches(place)) {
        Some(Endpoint::Vsock(port)) if *port != QGS_PORT => Finding::warn(
            "qgs",
            format!("listens on vsock port {port}"),
            &format!("tell `cocoon host run`, or give it port {QGS_PORT}"),
            &format!("cocoon host run --qgs vsock:{port}"),
        ),
        Some(place @ Endpoint::Unix(path)) => Finding::warn(
            "qgs",
            format!("listens on {place}"),
            "tell `cocoon host run`",
            &format!("cocoon host run --qgs unix:{}", path.display()),
        ),
        Some(place) => Finding::ok("qgs", format!("listens on {place}")),
        None => Finding::fail(
            "qgs",
            format!("nobody listens on {} or {}", places[0], places[1]),
            "install Intel's quote generation service from its DCAP packages, and load the \
             vsock of this machine to itself",
            "apt-get install tdx-qgs libsgx-dcap-default-qpl && modprobe vsock_loopback && \
             systemctl enable --now qgsd",
        ),
    }
}

fn pccs(server: &Server, url: Option<&str>) -> Finding {
    let Some(url) = url.map(ToOwned::to_owned).or_else(|| configured(server)) else {
        return Finding::fail(
            "pccs",
            format!("{QCNL} names no pccs_url"),
            "write the URL of a PCCS there, or of Intel's own service",
            "editor /etc/sgx_default_qcnl.conf",
        );
    };
    let Some(address) = address(&url) else {
        let remedy = "write it as https://HOST:PORT/sgx/certification/v4/";
        return Finding::fail(
            "pccs",
            format!("{url:?} is no URL"),
            remedy,
            "editor /etc/sgx_default_qcnl.conf",
        );
    };
    match server.reaches(&Endpoint::Tcp(address.clone())) {
        true => Finding::ok("pccs", format!("{address} answers")),
        false => Finding::fail(
            "pccs",
            format!("{address} does not answer"),
            "start it, or name another in /etc/sgx_default_qcnl.conf and restart qgsd",
            "systemctl enable --now pccs",
        ),
    }
}

/// The first `"pccs_url": "…"` that is not behind `//`: the file is JSON with comments.
fn configured(server: &Server) -> Option<String> {
    let text = server.text(QCNL)?;
    text.lines().find_map(|line| {
        let rest = line.trim_start().strip_prefix("\"pccs_url\"")?;
        let value = rest.trim_start().strip_prefix(':')?.trim_start();
        let (url, _) = value.strip_prefix('"')?.split_once('"')?;
        Some(url.to_owned())
    })
}

/// Host and port of a URL.
fn address(url: &str) -> Option<String> {
    let (port, rest) = match url.split_once("://")? {
        ("https", rest) => (443, rest),
        ("http", rest) => (80, rest),
        _ => return None,
    };
    let host = rest.split('/').next().filter(|host| !host.is_empty())?;
    let after_address = host.rsplit(']').next()?;
    Some(match after_address.contains(':') {
        true => host.into(),
        false => format!("{host}:{port}"),
    })
}

const QCNL: &str = "/etc/sgx_default_qcnl.conf";

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::super::tests::found;
    use super::*;
    use crate::host::server::tests::Double;

    #[test]
    fn quotes_need_sgx() {
        let double = Double::ready();
        double.without("dev/sgx_enclave");
        assert_eq!(found(&double, "sgx").level, Level::Fail);
    }

    #[test]
    fn another_place_of_the_qgs_has_to_be_told() {
        let double = Double::ready();
        double.state().listening.borrow_mut().clear();
        double.listens(Endpoint::Unix(QGS_SOCKET.into()));
        let remedy = found(&double, "qgs").remedy.unwrap();
        assert_eq!(
            remedy.command,
            format!("cocoon host run --qgs unix:{QGS_SOCKET}")
        );
        double.file("etc/qgs.conf", "port = 4051\n");
        double.listens(Endpoint::Vsock(4051));
        let remedy = found(&double, "qgs").remedy.unwrap();
        assert_eq!(remedy.command, "cocoon host run --qgs vsock:4051");
    }

    #[test]
    fn the_pccs_is_named_and_answers() {
        let double = Double::ready();
        assert_eq!(found(&double, "pccs").found, "localhost:8081 answers");
        double.file(
            "etc/sgx_default_qcnl.conf",
            "{\"pccs_url\": \"https://pccs.example/v4/\"}",
        );
        assert_eq!(found(&double, "pccs").level, Level::Fail);
        double.file(
            "etc/sgx_default_qcnl.conf",
            "{\n \"pccs_url\" : \"https://pccs.example/v4/\"}",
        );
        assert_eq!(
            found(&double, "pccs").found,
            "pccs.example:443 does not answer"
        );
        double.file("etc/sgx_default_qcnl.conf", "{\n\"pccs_url\": \"pccs\"}");
        assert_eq!(found(&double, "pccs").found, "\"pccs\" is no URL");
        double.without("etc/sgx_default_qcnl.conf");
        assert_eq!(
            found(&double, "pccs").found,
            format!("{QCNL} names no pccs_url")
        );
    }

    #[test]
    fn a_url_has_a_host_and_perhaps_a_port() {
        for (url, expected) in [
            ("https://a", Some("a:443")),
            ("http://a/b:1", Some("a:80")),
            ("https://a:1/b", Some("a:1")),
            ("https://[::1]/b", Some("[::1]:443")),
            ("https://[::1]:2/b", Some("[::1]:2")),
            ("https:///b", None),
            ("ftp://a", None),
            ("a:1", None),
        ] {
            assert_eq!(address(url).as_deref(), expected, "{url}");
        }
    }
}
