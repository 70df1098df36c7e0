// Headless Chromium that visits one page.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** Visits `url` until `shown` is settled, which is what comes back. */
export async function visit(url, shown, signal) {
    const home = mkdtempSync(join(tmpdir(), "chromium-"));
    // As root, and in a container, its sandbox cannot start; it visits only ourselves.
    const flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"];
    const args = [...flags, "--remote-debugging-port=0", `--user-data-dir=${home}`, url];
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
