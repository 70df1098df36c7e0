// Verification of one real TDX quote in node, beside the verifiers that npm has, in one
// process on one core. `cargo xtask web bench`; needs the recorded vectors.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { Collateral, verifyTdx } from "@cocoon/attestation";
import * as pure from "@phala/dcap-qvl";
import * as wasm from "@phala/dcap-qvl-web";
import { GENUINE, collateral, read, skip } from "../test/vectors.mjs";

if (skip) {
    console.log(skip);
    process.exit();
}

const { at } = GENUINE;
const [quote, files] = [read(GENUINE.quote), collateral(GENUINE.collateral)];
const theirs = JSON.parse(read(`${GENUINE.collateral}/dcap_qvl_collateral.json`));
const theirWasm = createRequire(import.meta.url).resolve("@phala/dcap-qvl-web/dcap-qvl-web_bg.wasm");
wasm.initSync({ module: readFileSync(theirWasm) });

const prepared = Collateral.verify(files, quote, at);
const cases = [
    ["@phala/dcap-qvl-web (wasm)", () => wasm.js_verify(quote, theirs, BigInt(at)).status],
    ["@phala/dcap-qvl (JavaScript)", () => pure.verify(quote, theirs, at).status],
    ["full verification", () => verifyTdx(quote, files, {}, at).tcb_status],
    [
        "prepared collateral",
        () => Collateral.verify(files, quote, at),
        (fresh) => fresh.verifyQuote(quote, at).claims.tcb_status,
    ],
    [
        "prepared collateral, known platform",
        () => prepared,
        (known) => known.verifyQuote(quote, at).claims.tcb_status,
    ],
].map(([name, ...steps]) => ({ name, steps, best: Infinity }));

// In turns, so that whatever else runs on this machine disturbs all of them alike.
for (let round = 0; round < 200; round += 1) {
    for (const one of cases) {
        const [prepare, timed] = one.steps.length === 2 ? one.steps : [() => {}, one.steps[0]];
        const argument = prepare();
        const start = performance.now();
        const status = timed(argument);
        one.best = Math.min(one.best, performance.now() - start);
        if (status !== "UpToDate") {
            throw new Error(`${one.name} says ${status}`);
        }
    }
}

const [web, javascript, ...ours] = cases;
for (const { name, best } of ours) {
    const times = (other) => `${(other.best / best).toFixed(1)}x ${other.name}`;
    console.log(
        `${name}: ${best.toFixed(2)} ms, ${Math.floor(1000 / best)} a second,`,
        `${times(web)} (${web.best.toFixed(2)} ms),`,
        `${times(javascript)} (${javascript.best.toFixed(2)} ms)`,
    );
}
