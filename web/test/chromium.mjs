// Headless Chromium that visits one page, and does there what a person would.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** Visits `url` until `shown` is settled, which is what comes back. */
export const visit = (url, shown, signal) => open(["--remote-debugging-port=0", url], signal, () => shown);

/** Visits `url` for as long as `acts` takes, with a {@link Page} to act on. */
export const use = (url, acts, signal) =>
    open(["--remote-debugging-pipe", "about:blank"], signal, async (chromium) => {
        const page = new Page(chromium);
        await page.open(url);
        return acts(page);
    });

async function open(more, signal, acts) {
    const home = mkdtempSync(join(tmpdir(), "chromium-"));
    // As root, and in a container, its sandbox cannot start; it visits only ourselves.
    const flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"];
    const args = [...flags, `--user-data-dir=${home}`, ...more];
    const stdio = ["ignore", "ignore", "ignore", "pipe", "pipe"];
    const chromium = spawn("chromium", args, { signal, detached: true, stdio });
    const ended = once(chromium, "exit");
    try {
        return await Promise.race([
            acts(chromium),
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

/** A page, by the DevTools protocol: JSON over a pipe, each message ended by a zero. */
class Page {
    #asked = new Map();
    #out;
    #session;

    constructor({ stdio: [, , , out, into] }) {
        this.#out = out;
        let rest = "";
        into.setEncoding("utf8").on("data", (text) => {
            const messages = (rest + text).split("\0");
            rest = messages.pop();
            for (const { id, result, error } of messages.map((message) => JSON.parse(message))) {
                const asked = this.#asked.get(id);
                error ? asked?.reject(new Error(error.message)) : asked?.resolve(result);
            }
        });
    }

    async open(url) {
        const { targetId } = await this.send("Target.createTarget", { url });
        const attached = await this.send("Target.attachToTarget", { targetId, flatten: true });
        this.#session = attached.sessionId;
        const size = { width: 390, height: 720, deviceScaleFactor: 2, mobile: true };
        await this.send("Emulation.setDeviceMetricsOverride", size);
    }

    send(method, params = {}) {
        const id = this.#asked.size + 1;
        this.#out.write(`${JSON.stringify({ id, method, params, sessionId: this.#session })}\0`);
        return new Promise((resolve, reject) => this.#asked.set(id, { resolve, reject }));
    }

    /** What an expression is, or is resolved to, in the page. */
    async evaluate(expression) {
        const how = { expression, awaitPromise: true, returnByValue: true };
        const { result, exceptionDetails } = await this.send("Runtime.evaluate", how);
        assert.equal(exceptionDetails, undefined, exceptionDetails?.exception?.description);
        return result.value;
    }

    /** The first value of an expression that says something; while a page goes and the next
     * one comes, there is none. */
    async wait(expression) {
        for (;;) {
            const value = await this.evaluate(expression).catch((error) => {
                if (!GONE.test(error.message)) {
                    throw error;
                }
            });
            if (value) {
                return value;
            }
            await new Promise((resolve) => setTimeout(resolve, 50));
        }
    }

    async choose(selector, files) {
        const { root } = await this.send("DOM.getDocument");
        const { nodeId } = await this.send("DOM.querySelector", { nodeId: root.nodeId, selector });
        await this.send("DOM.setFileInputFiles", { nodeId, files });
    }

    /** As a PNG. */
    async picture() {
        const { data } = await this.send("Page.captureScreenshot");
        return Buffer.from(data, "base64");
    }
}

/** How the DevTools protocol says that a page went away under an expression. */
const GONE = /context (was destroyed|with specified id)|Inspected target navigated|Cannot find (default execution )?context/;
