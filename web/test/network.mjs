// A scheduler and two emulated workers, and the package under their made-up root.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";
import { visit } from "./chromium.mjs";

const { CI, COCOON_NETWORK, COCOON_DOUBLE } = process.env;

if (COCOON_NETWORK === undefined && CI !== undefined) {
    throw new Error("CI needs COCOON_NETWORK and COCOON_DOUBLE");
}

/** For node:test: why a test cannot run, or `false`. */
export const skip = COCOON_NETWORK === undefined ? "skipped: no network" : false;

/** Where the package lies that takes another root. */
export const double = COCOON_DOUBLE;

/** The same package, loaded. */
export const load = (name) => import(pathToFileURL(`${COCOON_DOUBLE}/${name}`));

/** Starts it: where it is, what it reports, and how to end it. */
export async function start(...args) {
    const network = spawn(COCOON_NETWORK, args, { stdio: ["pipe", "pipe", "inherit"] });
    const [line] = await once(createInterface(network.stdout), "line");
    const stop = () => {
        network.stdin.end();
        return once(network, "exit");
    };
    return { ...JSON.parse(line), stop };
}

/** Runs a script in a page of Chromium's, with the package under `package/` and `given` as
 * `given.json`: what it posts to `told`. */
export async function run(script, given, signal) {
    let told;
    const shown = new Promise((resolve) => (told = resolve));
    const server = createServer(async (request, response) => {
        const type = (name) => response.setHeader("content-type", name);
        if (request.method === "POST") {
            told(Buffer.concat(await request.toArray()).toString());
            response.end();
        } else if (request.url === "/") {
            type("text/html");
            response.end(`<!doctype html><script type="module">${script}</script>`);
        } else if (request.url === "/given.json") {
            response.end(JSON.stringify(given));
        } else if (/^\/package\/[\w-]+\.(js|wasm)$/.test(request.url)) {
            type(request.url.endsWith("js") ? "text/javascript" : "application/wasm");
            response.end(readFileSync(COCOON_DOUBLE + request.url.slice("/package".length)));
        } else {
            response.writeHead(404).end();
        }
    });
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    try {
        return await visit(`http://127.0.0.1:${server.address().port}/`, shown, signal);
    } finally {
        server.close();
    }
}
