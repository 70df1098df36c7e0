// Recorded TDX quotes, judged in wasm as everywhere else.
import assert from "node:assert/strict";
import { test } from "node:test";
import { Collateral, verifyLog, verifyTdx } from "@cocoon/attestation";
import { cocoon, noCocoon } from "./command-line.mjs";
import { GENUINE, collateral, path, read, skip, table } from "./vectors.mjs";

const SYNTHETIC_AT = 1_793_534_400;
const { at } = GENUINE;

test("real quotes are judged as by dcap-qvl", { skip }, () => {
    const rows = table("tdx/ORACLE.csv");
    assert(rows.length > 30);
    for (const row of rows) {
        const files = collateral(`tdx/collateral/${row.collateral}`);
        const report = verifyTdx(read(`tdx/${row.file}`), files, {}, Number(row.verify_at_unix));
        const upToDate = row.dcap_qvl === "UpToDate";
        assert.equal(report.verdict === "trusted", upToDate, `${row.quote} with ${row.collateral}`);
        if (!row.dcap_qvl.startsWith("ERR")) {
            assert.equal(report.tcb_status, row.dcap_qvl);
            assert.deepEqual(report.advisories, row.advisories.split(" ").filter(Boolean).sort());
        }
    }
});

test("reports are those of the command line", { skip: skip || noCocoon }, () => {
    for (const row of table("tdx/ORACLE.csv")) {
        const folder = `tdx/collateral/${row.collateral}`;
        const [quote, at] = [`tdx/${row.file}`, Number(row.verify_at_unix)];
        const files = ["--quote", path(quote), "--collateral", path(folder)];
        assert.deepEqual(
            verifyTdx(read(quote), collateral(folder), {}, at),
            cocoon("tdx", ...files, "--at", row.verify_at_unix),
            `${row.quote} with ${row.collateral}`,
        );
    }
});

test("there is no root but Intel's", { skip }, () => {
    const cases = table("tdx/synthetic/ORACLE.csv");
    assert(cases.length > 80);
    for (const { case: name } of cases) {
        const folder = `tdx/synthetic/${name}`;
        const report = verifyTdx(read(`${folder}/quote.bin`), collateral(folder), {}, SYNTHETIC_AT);
        assert.equal(report.verdict, "rejected", name);
        if (name.startsWith("ok-")) {
            assert.equal(report.reasons[0].code, "root-crl-signature", name);
        }
    }
});

test("prepared collateral shows when it holds, and holds only then", { skip }, () => {
    const [quote, files] = [read(GENUINE.quote), collateral(GENUINE.collateral)];
    const prepared = Collateral.verify(files, quote, at);
    const { from, until } = prepared.validity;
    assert(from <= at && at <= until);
    for (const within of [from, at, until, until + 0.9]) {
        assert.equal(prepared.verifyQuote(quote, within).claims.tcb_status, "UpToDate");
    }
    const outside = [
        [from - 1, "collateral-not-yet-valid"],
        [until + 1, "collateral-expired"],
        // Milliseconds, by mistake.
        [at * 1000, "collateral-expired"],
    ];
    for (const [time, code] of outside) {
        assert.throws(() => prepared.verifyQuote(quote, time), { name: "AttestationError", code });
    }
});

test("claims and report agree", { skip }, () => {
    const [quote, files] = [read(GENUINE.quote), collateral(GENUINE.collateral)];
    const { claims } = Collateral.verify(files, quote, at).verifyQuote(quote, at);
    const report = verifyTdx(quote, files, {}, at);
    assert.deepEqual(claims.registers, report.registers);
    assert.deepEqual(claims.advisories, report.advisories);
    assert.equal(claims.platform.fmspc, "90c06f000000");
});

test("no byte of a quote can change", { skip }, () => {
    const [quote, files] = [read(GENUINE.quote), collateral(GENUINE.collateral)];
    const prepared = Collateral.verify(files, quote, at);
    for (let index = 0; index < quote.length; index += 97) {
        quote[index] ^= 1;
        assert.throws(() => prepared.verifyQuote(quote, at), { name: "AttestationError" }, `${index}`);
        quote[index] ^= 1;
    }
    assert.equal(prepared.verifyQuote(quote, at).claims.tcb_status, "UpToDate");
});

test("what is not an argument is refused with a code", { skip }, () => {
    const [quote, files] = [read(GENUINE.quote), collateral(GENUINE.collateral)];
    const { "root_ca_crl.der": _, ...missing } = files;
    const refused = (code, message, judge) =>
        assert.throws(judge, { name: "AttestationError", code, message });
    refused("collateral-files", "root_ca_crl.der is missing", () =>
        Collateral.verify(missing, quote, at));
    refused("collateral-files", /neither a string nor a Uint8Array/, () =>
        Collateral.verify({ ...files, "tcb_info.json": {} }, quote, at));
    refused("quote-truncated", /./, () => Collateral.verify(files, quote.subarray(0, 40), at));
    for (const time of [NaN, Infinity, -1, undefined]) {
        refused("time", /not a time/, () => verifyTdx(quote, files, {}, time));
    }
    refused("policy", /unknown field `status`/, () =>
        verifyTdx(quote, files, { platform: { status: ["OutOfDate"] } }, at));
    refused("policy", "not a policy", () => verifyTdx(quote, files, undefined, at));
});

test("a policy for the platform is that of the command line", { skip }, () => {
    const [quote, files] = [read(GENUINE.quote), collateral(GENUINE.collateral)];
    const codes = (platform) =>
        verifyTdx(quote, files, { platform }, at).reasons.map((reason) => reason.code);
    assert.deepEqual(codes({ smt: false, fmspc: ["90c06f000000"] }), ["smt"]);
    assert.deepEqual(codes({ statuses: [], ppid: [] }), ["tcb-status", "ppid"]);
});

test("a log is worth what the quote beside it proves", { skip }, () => {
    const folder = "boot/google+go-tdx-guest";
    const ccel = read(`${folder}/ccel_data.dat`);
    const beside = verifyLog(ccel, read(`${folder}/cos-113-tdx-quote.dat`));
    assert.equal(beside.verdict, "trusted");
    const { verdict, registers } = verifyLog(ccel);
    assert.equal(verdict, "undecided");
    assert.deepEqual(registers, beside.registers);
});

test("events are told only of a log that replays to a verified quote", { skip }, () => {
    const ccel = read("boot/google+go-tdx-guest/ccel_data.dat");
    const verify = (quote, folder, at) => {
        const bytes = read(quote);
        return Collateral.verify(collateral(folder), bytes, at).verifyQuote(bytes, at);
    };
    const row = table("tdx/ORACLE.csv").find((row) => row.quote === "00b2526a");
    const folder = `tdx/collateral/${row.collateral}`;
    const own = verify(`tdx/${row.file}`, folder, Number(row.verify_at_unix));
    const events = own.replay(ccel);
    assert.equal(events.length, 43);
    assert(events.some((event) => event.register === "RTMR1" && event.digest.length === 96));
    const other = verify(GENUINE.quote, GENUINE.collateral, at);
    const code = "log-quote";
    assert.throws(() => other.replay(ccel), { code, message: /^RTMR0 is / });
});
