// From a verified quote to a trusted TD: by its own registers, by a release, in a session.
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { Binding, Collateral, Evidence, Policy, Trusted } from "@cocoon/attestation";
import { encode } from "./cbor.mjs";
import { GENUINE, collateral, read, skip } from "./vectors.mjs";

const RELEASE = readFileSync(
    new URL("../../measurements/releases/current.json", import.meta.url),
    "utf8",
);
const { at } = GENUINE;

/** The recorded quote as evidence, with the policy that takes its TD. */
function recorded() {
    const [quote, files] = [read(GENUINE.quote), collateral(GENUINE.collateral)];
    const verified = Collateral.verify(files, quote, at).verifyQuote(quote, at);
    const { registers, report_data } = verified.claims;
    const { mrtd, rtmr0, rtmr1, rtmr2, rtmr3, mrconfigid, mrowner, mrownerconfig } = registers;
    const identity = {
        builds: [{ mrtd, rtmr0, rtmr1, rtmr2, rtmr3 }],
        mrconfigid: [mrconfigid],
        mrowner: [mrowner],
        mrownerconfig: [mrownerconfig],
    };
    const reportData = Buffer.from(report_data, "hex");
    return { quote, files, verified, identity, reportData };
}

/** Names of the comparisons that stand in the way. */
function failed(judge) {
    try {
        judge();
    } catch (error) {
        assert.equal(error.code, "rejected", error);
        return error.checks.filter((check) => !check.passed).map((check) => check.name);
    }
    return [];
}

test("the TD that a policy describes is trusted", { skip }, () => {
    const { verified, identity, reportData } = recorded();
    const trusted = verified.appraise(Policy.of({ identity }), reportData);
    assert(trusted instanceof Trusted);
    assert(trusted.checks.length > 20 && trusted.checks.every((check) => check.passed));
});

test("every difference is named", { skip }, () => {
    const { verified, identity, reportData } = recorded();
    const other = "11".repeat(48);
    const differs = (change, data = reportData) =>
        failed(() => verified.appraise(Policy.of({ identity: { ...identity, ...change } }), data));
    assert.deepEqual(differs({ mrconfigid: [other] }), ["mrconfigid"]);
    assert.deepEqual(differs({ builds: [{ ...identity.builds[0], rtmr2: other }] }), ["rtmr2"]);
    assert.deepEqual(differs({ builds: [] }), ["mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3"]);
    assert.deepEqual(differs({}, new Uint8Array(64)), ["report-data"]);
});

test("a TD of another image is not of the published release", { skip }, () => {
    const { verified, reportData } = recorded();
    const differences = failed(() => verified.appraise(Policy.ofRelease(RELEASE, {}), reportData));
    assert(differences.includes("rtmr1") && differences.includes("rtmr2"), differences);
});

test("a release that contradicts itself, or is none, is refused", () => {
    const release = (text) => () => Policy.ofRelease(text, {});
    assert.throws(release("{}"), { code: "release" });
    const changed = JSON.parse(RELEASE);
    changed.shapes.push(changed.shapes[0]);
    assert.throws(release(JSON.stringify(changed)), { code: "release" });
    assert.throws(() => Policy.of({ identity: { builds: [] } }), { code: "policy" });
    assert.throws(() => Policy.ofRelease(RELEASE, { smt: "no" }), { code: "policy" });
});

test("evidence counts for its own session only", { skip }, () => {
    const { quote, files, identity } = recorded();
    const policy = Policy.of({ identity });
    const binding = (byte) =>
        new Binding(new Uint8Array(91), new Uint8Array(64), new Uint8Array(32).fill(byte));
    const judge = (log, state) => {
        const evidence = Evidence.decode(bundle(quote, files, log, state));
        return failed(() => policy.judge(evidence, binding(1), at));
    };
    // Nothing but REPORTDATA is wrong: it was recorded in somebody else's session.
    assert.deepEqual(judge("log", "log"), ["report-data"]);
    assert.deepEqual(judge("another log", "log"), ["event-log", "report-data"]);
});

test("a path that leads nowhere is refused", { skip }, () => {
    const { quote, files, identity } = recorded();
    const evidence = Evidence.decode(bundle(quote, files, "log", "log", [1, 1, new Uint8Array(0)]));
    const session = new Binding(new Uint8Array(91), new Uint8Array(64), new Uint8Array(32));
    assert.throws(() => Policy.of({ identity }).judge(evidence, session, at), { code: "path" });
});

test("a worker that shows nothing, or a TPM, is no TD", () => {
    const answer = (value) => () => Evidence.decode(encode(value));
    const message = "the worker is busy with other attestations";
    assert.throws(answer([2, [[0, []]]]), { code: "refused", message });
    const endorsement = new Map([[0, Buffer.alloc(1)], [1, []], [2, Buffer.alloc(1)]]);
    assert.throws(answer([1, [endorsement]]), { code: "platform" });
});

test("a bundle has one encoding", { skip }, () => {
    const { quote, files } = recorded();
    const bytes = bundle(quote, files, "log", "log");
    assert(Evidence.decode(bytes) instanceof Evidence);
    for (const other of [bytes.subarray(1), bytes.subarray(0, -1), Buffer.concat([bytes, bytes])]) {
        assert.throws(() => Evidence.decode(other), { name: "AttestationError", code: "evidence" });
    }
});

test("a session has parts of fixed widths", () => {
    assert.equal(Binding.alpn, "cocoon/1");
    assert.equal(Binding.exporterLabel, "EXPORTER-cocoon-attest-v1");
    const nonce = new Uint8Array(32).fill(7);
    const context = createHash("sha384").update(nonce).update("cocoon/1worker").digest();
    assert.deepEqual(Buffer.from(Binding.exporterContext(nonce)), context);
    assert.deepEqual(Buffer.from(Binding.challenge(nonce)), encode([0, [nonce]]));
    const message = "nonce has 31 bytes, expected 32";
    assert.throws(() => Binding.exporterContext(nonce.subarray(1)), { code: "length", message });
    const short = () => new Binding(nonce, nonce, nonce);
    assert.throws(short, { message: "keying material has 32 bytes, expected 64" });
});

/** Evidence as a worker sends it to a client that waits alone (attestation/src/protocol.rs). */
function bundle(quote, files, log, stated, path = [0, 1, new Uint8Array(0)]) {
    const state = new Map([
        [268, Buffer.alloc(32)],
        [-65537, createHash("sha384").update(stated).digest()],
        [-65539, Buffer.alloc(32)],
    ]);
    const chain = files["tcb_info_issuer_chain.pem"].toString();
    const endorsements = new Map([
        [0, files["tcb_info.json"].toString()],
        [1, chain],
        [2, files["td_qe_identity.json"].toString()],
        [3, (files["td_qe_identity_issuer_chain.pem"] ?? chain).toString()],
        [4, files["pck_platform_crl.der"]],
        [5, files["pck_crl_issuer_chain.pem"].toString()],
        [6, files["root_ca_crl.der"]],
    ]);
    const report = new Map([["outblob", quote], ["provider", "tdx_guest"]]);
    const [evidence, endorsement] = [4, 2];
    const tsm = "application/vnd.veraison.tsm-report+cbor; provider=tdx_guest";
    const pcs = "application/vnd.cocoon.tdx-collateral+cbor";
    const evidences = new Map([
        ["state", ["application/eat-ucs+cbor", encode(state), evidence]],
        ["__cmwc_t", "2.25.37728540531151115750611228536303127301"],
        ["platform", [tsm, encode(report), evidence]],
        ["event-log", ["application/vnd.cocoon.event-log", Buffer.from(log), evidence]],
        ["collateral", [pcs, encode(endorsements), endorsement]],
    ]);
    return encode([0, [evidences, path]]);
}
