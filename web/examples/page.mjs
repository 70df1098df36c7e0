// Judges the quote under `?evidence=FOLDER` at `&at=UNIX`, and shows every claim.
import { Collateral } from "./attestation/index.js";

const FILES = [
    "tcb_info.json",
    "tcb_info_issuer_chain.pem",
    "td_qe_identity.json",
    "td_qe_identity_issuer_chain.pem",
    "pck_platform_crl.der",
    "pck_crl_issuer_chain.pem",
    "root_ca_crl.der",
];

const query = new URLSearchParams(location.search);
const at = Number(query.get("at") ?? Date.now() / 1000);
const verdict = document.querySelector("#verdict");

async function get(name) {
    const response = await fetch(new URL(name, new URL(query.get("evidence"), location.href)));
    if (!response.ok) {
        throw new Error(`${name}: ${response.status}`);
    }
    return new Uint8Array(await response.arrayBuffer());
}

function row(name, value) {
    const cells = document.querySelector("#checks").insertRow();
    cells.insertCell().textContent = name;
    cells.insertCell().textContent = value;
}

try {
    const quote = await get("quote.bin");
    const files = Object.fromEntries(
        await Promise.all(FILES.map(async (name) => [name, await get(name)])),
    );
    const { claims } = Collateral.verify(files, quote, at).verifyQuote(quote, at);
    verdict.className = "trusted";
    verdict.textContent = `Intel's hardware vouches for it: ${claims.tcb_status}`;
    Object.entries(claims.registers).forEach(([name, value]) => row(name, value));
    row("report data", claims.report_data);
    row("platform", claims.platform.ppid);
} catch (error) {
    verdict.className = "rejected";
    verdict.textContent = `Refused: ${error.code ?? error.name}: ${error.message}`;
}
