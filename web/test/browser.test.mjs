// The example page in headless Chromium, served on loopback: verdicts on a real quote.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { extname, join } from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { GENUINE, collateral, read, skip } from "./vectors.mjs";

const file = (name) => readFileSync(fileURLToPath(new URL(name, import.meta.url)));

/** Runs the page, and tells us what it shows when it is done. */
const TELL = `
    import("./page.mjs")
        .then(() => document.body.innerText, String)
        .then((body) => fetch("told", { method: "POST", body }));
`;

const TYPES = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".wasm": "application/wasm",
};

/** What is served, by path. */
function content(path, evidence) {
    const [, kind, name] = /^\/(?:(evidence|forged|attestation)\/)?([\w.-]+)$/.exec(path) ?? [];
    switch (kind) {
        case "evidence":
            return evidence[name];
        case "forged":
            return evidence[name].map((byte, at) => (name === "quote.bin" && at === 100 ? byte ^ 1 : byte));
        case "attestation":
            return file(`../../target/web/attestation/${name}`);
    }
    switch (name) {
        case "tell.mjs":
            return TELL;
        case "page.html":
            return file("../examples/page.html").toString().replace("page.mjs", "tell.mjs");
        default:
            return file(`../examples/${name}`);
    }
}

let server;
let told;

before(() => {
    if (skip) {
        return;
    }
    const evidence = { "quote.bin": read(GENUINE.quote), ...collateral(GENUINE.collateral) };
    server = createServer(async (request, response) => {
        const { pathname } = new URL(request.url, "http://localhost");
        if (request.method === "POST") {
            told(Buffer.concat(await request.toArray()).toString());
            response.end();
            return;
        }
        response.setHeader("content-type", TYPES[extname(pathname)] ?? "application/octet-stream");
        response.end(content(pathname, evidence));
    });
    server.listen(0, "127.0.0.1");
    return once(server, "listening");
});

after(() => server?.close());

/** What the page shows of the evidence in a folder. */
async function visit(folder, signal) {
    const home = mkdtempSync(join(tmpdir(), "chromium-"));
    const query = `evidence=${folder}/&at=${GENUINE.at}`;
    const url = `http://127.0.0.1:${server.address().port}/page.html?${query}`;
    // As root, and in a container, its sandbox cannot start; it visits only ourselves.
    const flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"];
    const args = [...flags, "--remote-debugging-port=0", `--user-data-dir=${home}`, url];
    const shown = new Promise((resolve) => (told = resolve));
    const chromium = spawn("chromium", args, { signal, detached: true, stdio: "ignore" });
    const ended = once(chromium, "exit");
    try {
        return await Promise.race([
            shown,
            ended.then(([code]) => assert.fail(`chromium ended with ${code}`)),
        ]);
    } finally {
        // With all its helpers, which would go on writing to its home.
        try {
            process.kill(-chromium.pid, "SIGKILL");
        } catch {
            // None is left.
        }
        await ended;
        rmSync(home, { recursive: true, maxRetries: 20 });
    }
}

const options = { skip, timeout: 120_000 };

test("a real quote verifies in Chromium", options, async ({ signal }) => {
    const shown = await visit("evidence", signal);
    assert.match(shown, /Intel's hardware vouches for it: UpToDate/);
    assert.match(shown, /mrtd\s+7357a10d2e2724df/);
});

test("a forged one does not", options, async ({ signal }) => {
    assert.match(await visit("forged", signal), /Refused: quote-signature: /);
});
