// The example page in headless Chromium, served on loopback: verdicts on a real quote.
import assert from "node:assert/strict";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { extname } from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { visit } from "./chromium.mjs";
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
function shows(folder, signal) {
    const query = `evidence=${folder}/&at=${GENUINE.at}`;
    const url = `http://127.0.0.1:${server.address().port}/page.html?${query}`;
    return visit(url, new Promise((resolve) => (told = resolve)), signal);
}

const options = { skip, timeout: 120_000 };

test("a real quote verifies in Chromium", options, async ({ signal }) => {
    const shown = await shows("evidence", signal);
    assert.match(shown, /Intel's hardware vouches for it: UpToDate/);
    assert.match(shown, /mrtd\s+7357a10d2e2724df/);
});

test("a forged one does not", options, async ({ signal }) => {
    assert.match(await shows("forged", signal), /Refused: quote-signature: /);
});
