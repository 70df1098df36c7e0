// The example for node, run as a reader would.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { GENUINE, path, skip } from "./vectors.mjs";

const EXAMPLE = fileURLToPath(new URL("../examples/verify-a-quote.mjs", import.meta.url));

const run = (...args) =>
    spawnSync(process.execPath, [EXAMPLE, path(GENUINE.quote), path(GENUINE.collateral), ...args], {
        encoding: "utf8",
    });

test("the example trusts a genuine quote", { skip }, () => {
    const { status, stdout, stderr } = run(`${GENUINE.at}`);
    assert.equal(status, 0, stderr);
    assert.match(stdout, /platform is UpToDate\ntrusted: \d+ checks passed\n$/);
});

test("the example refuses collateral of another day", { skip }, () => {
    const { status, stderr } = run("1800000000");
    assert.equal(status, 1);
    assert.match(stderr, /^\S+-expired: /);
});
