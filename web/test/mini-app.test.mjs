// The Mini App as it is served, in Chromium: a chat that is verified, sealed and paid for in
// the page itself.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { use } from "./chromium.mjs";
import { CHANNEL, KEY } from "./channel.mjs";
import { double, skip, start } from "./network.mjs";

const source = fileURLToPath(new URL("../../examples/mini-app/", import.meta.url));
/** Where pictures of it go. */
const pictures = fileURLToPath(new URL("../../target/web/pictures", import.meta.url));
const THEME = encodeURIComponent(JSON.stringify({ bg_color: "#10202f", text_color: "#f0f0f0" }));

let folder;
before(() => (folder = mkdtempSync(join(tmpdir(), "mini-app-"))));
after(() => rmSync(folder, { recursive: true }));

/** Serves it for a network whose machines are emulated; where, and how to end it. */
async function serve(network) {
    const page = mkdtempSync(join(folder, "page-"));
    cpSync(join(source, "page"), page, { recursive: true });
    // The one thing that differs: whom it believes.
    const root = `Uint8Array.from(${JSON.stringify([...Buffer.from(network.root, "hex")])})`;
    const policy = `Policy.of({ identity: ${JSON.stringify(network.identity)} }).under(${root})`;
    const told = `import { Policy } from "./package/index.js";\nexport const policy = ${policy};`;
    writeFileSync(join(page, "policy.js"), told);
    const env = {
        ...process.env,
        COCOON_MAX_PRICE: "2000000",
        COCOON_PACKAGE: double,
        COCOON_PAGE: page,
        COCOON_RELEASE: join(page, "index.html"),
        COCOON_SCHEDULER: network.url,
        PORT: "0",
    };
    const stdio = ["ignore", "pipe", "inherit"];
    const server = spawn("python3", [join(source, "server.py")], { env, stdio });
    const [line] = await once(createInterface(server.stdout), "line");
    const stop = async () => {
        server.kill();
        await once(server, "exit");
        await network.stop();
    };
    return { url: `${line.split(" ")[1]}/#tgWebAppThemeParams=${THEME}`, stop };
}

const SAY = (text) => `
    document.getElementById("text").value = ${JSON.stringify(text)};
    document.getElementById("ask").requestSubmit();`;
const LAST = (kind) => `document.querySelector("main > div.${kind}:last-child")?.textContent`;

test("a page chats with a worker that it verified, and pays it", { skip, timeout: 120_000 }, async ({ signal }) => {
    const app = await serve(await start("--paid"));
    const [channel, key] = ["channel.json", "voucher.key"].map((name) => join(folder, name));
    writeFileSync(channel, JSON.stringify(CHANNEL));
    writeFileSync(key, `${KEY}\n`);
    mkdirSync(pictures, { recursive: true });
    const acts = async (page) => {
        await page.wait(`document.getElementById("trust")?.textContent === "nobody asked yet"`);
        await page.choose("#channel", [channel, key]);
        await page.wait(`document.getElementById("cost").textContent === "this channel pays"`);
        for (const text of ["Good morning from Telegram.", "And once more."]) {
            // What is said before the answer waits in its field.
            await page.evaluate(SAY(text) + SAY("too soon"));
            // The double repeats what it was asked first.
            await page.wait(`document.querySelectorAll("main > .whole").length > ${text[0] === "A" ? 1 : 0}`);
            assert.equal(await page.evaluate(LAST("whole")), "Good morning from Telegram.");
        }
        assert.equal(await page.evaluate(`document.getElementById("trust").textContent`), "✓ verified");
        const cost = await page.evaluate(`document.getElementById("cost").textContent`);
        assert.equal(cost, "28 nanotons so far");
        assert.match(await page.evaluate(`document.getElementById("proof").textContent`), /✓ mrtd/);
        const colour = "getComputedStyle(document.body).backgroundColor";
        assert.equal(await page.evaluate(colour), "rgb(16, 32, 47)", "as Telegram says");
        writeFileSync(join(pictures, "mini-app.png"), await page.picture());
        await page.evaluate(`document.getElementById("trust").click()`);
        writeFileSync(join(pictures, "mini-app-proof.png"), await page.picture());
        // The channel, and what it has spent, are there when the page is opened again.
        await page.send("Page.reload");
        await page.wait(`document.getElementById("hint") && document.getElementById("trust")?.textContent === "nobody asked yet"`);
        await page.evaluate(SAY("again"));
        await page.wait(LAST("whole"));
    };
    await use(app.url, acts, signal).finally(app.stop);
});

test("nothing is said to a machine of another build", { skip, timeout: 120_000 }, async ({ signal }) => {
    const network = await start("--other-build");
    const app = await serve(network);
    const acts = async (page) => {
        await page.wait(`document.getElementById("trust")?.textContent === "nobody asked yet"`);
        await page.evaluate(SAY("nobody may read this"));
        assert.match(await page.wait(LAST("failed")), /rtmr1/);
        const heard = await fetch(`${network.url}/heard`);
        assert.equal((await heard.arrayBuffer()).byteLength, 0);
    };
    await use(app.url, acts, signal).finally(app.stop);
});
