// The gateway's own page in headless Chromium, before one worker or before a network that is
// paid.
//
// Usage: playground.mjs BASE_URL MODEL QUESTION ANSWER FOLDER. Leaves screenshots in the
// folder; the last line says how many checks passed.
import assert from "node:assert/strict";
import { join } from "node:path";
import { chromium } from "playwright-core";

const [base, model, question, answer, folder] = process.argv.slice(2);
const url = new URL("/", base).href;
const { paid } = await (await fetch(new URL("/cocoon/usage", url))).json();

// As root, and in a container, its sandbox cannot start; it visits only ourselves.
const browser = await chromium.launch({
    executablePath: "/usr/bin/chromium",
    args: ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"],
});
// What the page was told last: as whose answer, and of the Channel.
let asked, usage;
const complaints = [];
const strangers = [];

async function open(options) {
    const page = await browser.newPage(options);
    page.setDefaultTimeout(60_000);
    page.on("console", (message) => message.type() === "error" && complaints.push(message.text()));
    page.on("pageerror", (error) => complaints.push(String(error)));
    page.on("request", (request) => {
        const other = request.url();
        if (!other.startsWith(url) && !other.startsWith("data:")) strangers.push(other);
    });
    page.on("response", (response) => {
        asked = response.headers()["cocoon-request"] ?? asked;
        if (response.url().endsWith("/cocoon/usage")) usage = response.json();
    });
    await page.goto(url);
    return page;
}

/** What the last answer cost is said under it, and what is left of the Channel beside it. */
async function costs(page) {
    const told = await page.textContent("#cost");
    if (!paid) {
        assert.match(told, /pays nothing/);
        return;
    }
    const { requests, spent, reserved, budget } = await usage;
    const { worker, tokens, cost, price } = requests.find(({ request }) => request === asked);
    assert.ok(cost > 0 && cost === Math.floor((tokens * price) / 1_000_000));
    const note = await page.locator(".note").last().textContent();
    const said = `receipt checked${tokens} tokens${cost.toLocaleString("en")} nanotonsworker ${worker.slice(0, 8)}…`;
    assert.ok(note.startsWith(said), note);
    const left = ((budget - spent - reserved) / 1e9).toLocaleString("en", { maximumFractionDigits: 9 });
    assert.ok(told.includes(`Left${left} TON of ${budget / 1e9} TON`), told);
    assert.match(await page.textContent("#trust"), new RegExp(`worker ${worker.slice(0, 8)}`));
}

const checks = {
    async "a question is answered, by whom it was verified"() {
        const page = await open({ viewport: { width: 1280, height: 800 } });
        await page.selectOption("#model", model);
        await page.fill("#text", question);
        await page.press("#text", "Enter");
        await page.locator(".note").first().waitFor();
        assert.equal(await page.locator(".turn").nth(1).textContent(), answer);
        assert.match(await page.textContent("#badge"), /verified worker/);
        const rows = page.locator("#trust tr");
        assert.ok((await rows.count()) > 5);
        assert.equal(await page.locator("#trust tr.no").count(), 0);
        assert.match(await page.textContent("#trust"), /(\d+) of \1 checks passed/);
        assert.match(await rows.first().textContent(), /^✓mrtd[0-9a-f]{96}$/);
        await costs(page);
        await page.screenshot({ path: join(folder, "playground.png") });
        await page.close();
    },

    async "it is the same in the dark and on a telephone"() {
        for (const [name, options] of [
            ["dark", { viewport: { width: 1280, height: 800 }, colorScheme: "dark" }],
            ["narrow", { viewport: { width: 390, height: 844 }, deviceScaleFactor: 2 }],
        ]) {
            const page = await open(options);
            await page.selectOption("#model", model);
            await page.fill("#text", question);
            await page.click("#send");
            await page.locator(".note").first().waitFor();
            const wide = await page.evaluate(() => document.documentElement.scrollWidth);
            assert.ok(wide <= options.viewport.width, `${wide} pixels wide`);
            await page.screenshot({ path: join(folder, `playground-${name}.png`) });
            await page.close();
        }
    },

    async "a refusal says why and what to do, and what was asked can be sent again"() {
        const page = await open();
        for (const [status, code, message, headers, advice] of [
            [402, "purse_empty", "1 nanoton is left: raise --budget", {}, ""],
            [429, "full", "no worker is free", { "retry-after": "7" }, "Try again in 7 s."],
            [502, "worker_not_trusted", "rtmr1 differs", {}, "Nothing was sent to it."],
        ]) {
            const refusal = { status, headers, json: { error: { code, message } } };
            await page.route("**/v1/chat/completions", (route) => route.fulfill(refusal));
            if (code === "purse_empty") await page.fill("#text", "Is anybody there?");
            await page.click("#send");
            const shown = page.locator(".turn.failed", { hasText: message });
            await shown.waitFor();
            const text = await shown.textContent();
            assert.ok(text.startsWith(message + advice) && (advice || text === message), text);
            assert.equal(await page.inputValue("#text"), "Is anybody there?");
        }
        assert.equal(await page.locator(".note, .going").count(), 0);
        await page.screenshot({ path: join(folder, "playground-refused.png") });
        await page.close();
        // A browser complains of each.
        assert.equal(complaints.splice(0).filter((line) => !/status of 4|status of 5/.test(line)).length, 0);
    },

    async "what a model says is shown and never run"() {
        const page = await open();
        await page.route("**/v1/chat/completions", (route) =>
            route.fulfill({
                contentType: "text/event-stream",
                body: `data: ${JSON.stringify({ choices: [{ delta: { content: "<img src=x onerror=alert(1)>" } }] })}\n\n`,
            }),
        );
        page.on("dialog", () => assert.fail("a script of the model's ran"));
        await page.fill("#text", "anything");
        await page.click("#send");
        await page.locator(".note").first().waitFor();
        assert.equal(await page.locator(".turn img").count(), 0);
        assert.match(await page.locator(".turn").nth(1).textContent(), /^<img/);
        await page.close();
    },

    async "nobody else is asked, and nothing complains"() {
        assert.deepEqual(strangers, []);
        assert.deepEqual(complaints, []);
    },
};

let passed = 0;
for (const [name, check] of Object.entries(checks)) {
    try {
        await check();
        passed += 1;
        console.log(`ok      ${name}`);
    } catch (error) {
        console.log(`FAILED  ${name}\n${error.stack}`);
    }
}
await browser.close();
const all = Object.keys(checks).length;
console.log(`${passed} of ${all}`);
process.exit(passed === all ? 0 : 1);
