// Requests that are paid for: what is signed, what is kept, and what a lie changes.
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { CHANNEL, KEY } from "./channel.mjs";
import { load, run, skip, start } from "./network.mjs";

let network;
let free;
let folder;
let wasm;
let package_;

before(async () => {
    if (!skip) {
        folder = mkdtempSync(join(tmpdir(), "purse-"));
        [network, free] = await Promise.all([start("--paid"), start()]);
        [package_, wasm] = await Promise.all([load("client-node.js"), load("node.js")]);
    }
});

after(async () => {
    await Promise.all([network?.stop(), free?.stop()]);
    folder && rmSync(folder, { recursive: true });
});

/** Of one answer: seven tokens. */
const COST = 14;

const purse = (options) => new package_.Purse({ channel: CHANNEL, key: `${KEY}\n`, ...options });

function connect(paying, options = {}, to = network) {
    const policy = wasm.Policy.of({ identity: to.identity }).under(Buffer.from(to.root, "hex"));
    const maxPrice = 2_000_000;
    const scheduler = to.url;
    return new package_.CocoonClient({ scheduler, policy, maxPrice, purse: paying, ...options });
}

const ask = (client, model, more = {}) =>
    client.fetch("https://network.invalid/v1/chat/completions", {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify({ model, messages: [{ role: "user", content: "a b" }], ...more }),
    });

const agreed = (limit, price = 1_000_000) => ({
    limit,
    price,
    request: "00".repeat(32),
    receipt_key: "00".repeat(32),
});

/** What the scheduler counts by now: nothing is forgotten between tests. */
const counted = async () => {
    const asking = purse();
    const voucher = await asking.reserve("00", agreed(1), 0);
    const request = {
        method: "POST",
        headers: { "cocoon-pass": await asking.pass() },
        body: Buffer.from(voucher, "base64url"),
    };
    const answer = await fetch(`${network.url}/network/v1/vouchers`, request);
    return (await answer.json()).spent;
};

/** A purse that knows what was spent before. */
async function knowing(options) {
    const spent = await counted();
    const state = { voucher: null, spent, tokens: 0, held: 0, reserved: {}, doubts: {} };
    const store = options?.store ?? package_.memory();
    await store.update(() => state);
    return purse({ ...options, store });
}

test("a pass is what a scheduler reads", { skip }, async () => {
    const channel = { ...CHANNEL, channel: `0:${"07".repeat(32)}`, global_id: -777 };
    const shown = purse({ channel, key: "01".repeat(32), now: () => 1_800_000_000 });
    // As `scheduler/src/pass.rs` has it.
    const signature =
        "8sO8RbMpydBgSKfLrp8JmWxEQCHHGDpP901R6gkjWGv0cx8jgZyjKQeS26j3cXq5MpIk0ZtGRJZNSmCuOFxeCg";
    assert.equal(await shown.pass(), `${channel.channel}.1800000300.${signature}`);
});

test("an answer is paid for, and no more than it", { skip }, async () => {
    const paying = await knowing();
    const before = (await paying.balance()).spent;
    const client = connect(paying);
    assert.equal((await ask(client, "tiny")).status, 200);
    const text = await (await ask(client, "tiny", { stream: true })).text();
    assert.match(text, /\[DONE\]/);
    const whole = await (await ask(client, "tiny")).json();
    assert.equal(whole.choices[0].message.content, "a b");
    const { spent, tokens } = await paying.balance();
    // The body of the first was never read.
    assert.equal(spent - before, 2 * COST);
    assert.equal(tokens, 14);
});

test("a worker that refuses costs nothing, one that is cut what the scheduler counts", { skip }, async () => {
    const paying = await knowing();
    const before = (await paying.balance()).spent;
    const client = connect(paying);
    await (await ask(client, "gone")).text();
    assert.equal((await paying.balance()).spent - before, COST);
    await assert.rejects(async () => (await ask(client, "cut", { stream: true })).text());
    const { spent, reserved } = await paying.balance();
    assert.deepEqual([spent - before, reserved], [COST, 0]);
    assert.notEqual(await paying.inDoubt(), undefined);
    await client.reconcile();
    assert.equal((await paying.balance()).spent - before, 2 * COST);
    assert.equal(await paying.inDoubt(), undefined);
});

test("a voucher follows that covers what the scheduler counts, as far as there is doubt", { skip }, async () => {
    const paying = await knowing();
    const client = connect(paying);
    await assert.rejects(async () => (await ask(client, "cut", { stream: true })).text());
    // It reconciled when it began, and does not again so soon: this is by the refusal.
    await (await ask(client, "tiny", { max_tokens: 5000 })).text();
    const { spent, reserved } = await paying.balance();
    assert.equal(spent + reserved, await counted(), "it is held");
    await client.reconcile();
    assert.equal((await paying.balance()).spent, await counted());
    const forgetful = connect(purse());
    const refused = await ask(forgetful, "tiny");
    assert.equal(refused.status, 402);
    assert.equal((await refused.json()).error.code, "not_covered");
});

test("an answer that is not read to its end is settled all the same", { skip, timeout: 60_000 }, async () => {
    const paying = await knowing();
    const before = (await paying.balance()).spent;
    const answer = await ask(connect(paying), "tiny", { stream: true });
    await answer.body.cancel();
    while ((await paying.balance()).reserved > 0) {
        await new Promise((resolve) => setTimeout(resolve, 10));
    }
    const { spent, reserved } = await paying.balance();
    assert.deepEqual([spent - before, reserved], [COST, 0]);
});

test("nothing that was kept is forgotten when a program starts again", { skip }, async () => {
    const path = join(folder, "state");
    const store = package_.file(path);
    const first = await knowing({ store });
    const voucher = await first.reserve("aa", agreed(1000), -1);
    // What was under way is in doubt, and the voucher is the same or a higher one.
    const second = purse({ store: package_.file(path) });
    assert.deepEqual(await second.inDoubt(), { voucher, requests: ["aa"] });
    const next = await second.reserve("bb", agreed(10), 60);
    assert.equal(next, voucher, "it still covers");
});

test("each doubt ends by its own receipt, also while others are under way", { skip }, async () => {
    const paying = await knowing();
    const before = (await paying.balance()).spent;
    await paying.reserve("busy", agreed(1000), 60);
    await paying.reserve("unknown", agreed(1000), 60);
    await paying.doubt("unknown");
    const client = connect(paying);
    await assert.rejects(async () => (await ask(client, "cut", { stream: true })).text());
    assert.equal((await paying.inDoubt()).requests.length, 2);
    await client.reconcile();
    assert.deepEqual((await paying.inDoubt()).requests, ["unknown"]);
    const { spent, reserved } = await paying.balance();
    assert.deepEqual([spent - before, reserved], [COST, 1000]);
    // What was not asked about does not end, and none by what nobody signed.
    const told = { spent, reserved: 0, requests: { unknown: { stage: "settled", settlement: "AA" } } };
    await paying.told([], { ...told, requests: { unknown: { stage: "released" } } });
    await paying.told(["unknown"], told);
    await paying.told(["unknown"], { ...told, requests: { unknown: { stage: "open" } } });
    assert.deepEqual((await paying.inDoubt()).requests, ["unknown"]);
    await paying.told(["unknown"], { ...told, requests: { unknown: { stage: "released" } } });
    assert.equal(await paying.inDoubt(), undefined);
});

test("a request that another page gave up is settled by its own page", { skip }, async () => {
    let now = 1000;
    const store = package_.memory();
    const [one, other] = [1, 2].map(() => purse({ store, now: () => now }));
    await one.reserve("slow", agreed(100), 60);
    await one.reserve("lost", agreed(100), 60);
    now += 61;
    assert.deepEqual((await other.inDoubt()).requests, ["slow", "lost"]);
    await one.settle("slow", 7);
    assert.deepEqual((await other.inDoubt()).requests, ["lost"]);
    assert.equal((await other.balance()).spent, 7);
    // Nobody takes it up any more, whoever never heard of it.
    const nothing = { spent: 7, reserved: 0, requests: {} };
    await other.told(["lost"], nothing);
    assert.deepEqual((await other.inDoubt()).requests, ["lost"]);
    now += 301;
    await other.told(["lost"], nothing);
    assert.equal(await other.inDoubt(), undefined);
});

test("a voucher that another request has raised meanwhile is sent again", { skip }, async () => {
    const paying = purse();
    const sent = await paying.reserve("aa", agreed(10), 60);
    const counted = { spent: 0, reserved: 10 };
    assert.equal(await paying.refused(sent, counted), false);
    await paying.reserve("bb", agreed(10), 60);
    assert.equal(await paying.refused(sent, counted), true);
});

test("all that were refused at once are covered the next time", { skip }, async () => {
    const paying = purse();
    await paying.reserve("lost", agreed(1000), 60);
    await paying.doubt("lost");
    const sent = [];
    for (const id of ["aa", "bb", "cc"]) {
        sent.push([id, await paying.reserve(id, agreed(100), 60)]);
    }
    // It has admitted none of them.
    for (const [id, voucher] of sent) {
        await paying.release(id);
        assert.equal(await paying.refused(voucher, { spent: 0, reserved: 1000 }), true);
        await paying.reserve(id, agreed(100), 60);
        assert.equal((await paying.balance()).reserved, 1300, "each has its place beside what was lost");
    }
});

test("what is held does not fall for requests that a scheduler has not seen", { skip }, async () => {
    const paying = purse();
    await paying.reserve("lost", agreed(1000), 60);
    await paying.doubt("lost");
    const counted = { spent: 0, reserved: 1000 };
    const sent = await paying.reserve("first", agreed(100), 60);
    await paying.release("first");
    assert.equal(await paying.refused(sent, counted), true);
    await paying.reserve("second", agreed(100), 60);
    assert.equal(await paying.refused(sent, counted), true);
    assert.equal((await paying.balance()).reserved, 1100, "both of it");
});

test("an answer that does not begin in time is given up, and is in doubt", { skip }, async () => {
    const paying = await knowing();
    const silent = (url, init) =>
        !String(url).endsWith("/requests")
            ? fetch(url, init)
            : new Promise((_, reject) =>
                  init.signal.addEventListener("abort", () => reject(init.signal.reason)),
              );
    const client = connect(paying, { deadline: 500, fetch: silent });
    await assert.rejects(ask(client, "tiny"), { code: "deadline_exceeded" });
    assert.equal((await paying.inDoubt()).requests.length, 1);
});

test("a request that was refused as sent twice is in doubt", { skip }, async () => {
    const paying = await knowing();
    let refuse = true;
    const twice = async (url, init) => {
        if (!String(url).endsWith("/requests") || !refuse) {
            return fetch(url, init);
        }
        refuse = false;
        return Response.json({ error: { code: "replayed" } }, { status: 409 });
    };
    await (await ask(connect(paying, { fetch: twice }), "tiny")).text();
    assert.equal((await paying.inDoubt()).requests.length, 1);
});

test("no more is signed than deposit, budget and time allow", { skip }, async () => {
    const poor = purse({ budget: 5 });
    await assert.rejects(ask(connect(poor), "tiny"), {
        code: "not_covered",
        message: /^the request may cost \d+ nanotons, and 5 are left$/,
    });
    const old = purse({ now: () => CHANNEL.until });
    await assert.rejects(old.reserve("aa", agreed(1), 1), { code: "channel" });
    const abroad = new package_.Purse({ channel: { ...CHANNEL, global_id: -239 }, key: KEY });
    await assert.rejects(ask(connect(abroad), "tiny"), { code: "channel" });
    const wrong = purse({ key: "07" });
    await assert.rejects(wrong.reserve("aa", agreed(1), 1), { code: "channel" });
});

test("where the network is free no purse is opened", { skip }, async () => {
    const paying = purse();
    await (await ask(connect(paying, {}, free), "tiny")).text();
    assert.deepEqual(await paying.balance(), {
        spent: 0,
        reserved: 0,
        budget: CHANNEL.deposit,
        tokens: 0,
    });
});

test("a key of WebCrypto's signs too, and need not be known", { skip }, async () => {
    const pair = await crypto.subtle.generateKey("Ed25519", false, ["sign", "verify"]);
    const paying = purse({ key: pair.privateKey });
    const voucher = Buffer.from(await paying.reserve("aa", agreed(1), 1), "base64url");
    assert(voucher.length > 100);
});

test("a form is sealed as it is", { skip }, async () => {
    const form = new FormData();
    form.set("model", "tiny");
    form.set("file", new Blob(["RIFF sounds"], { type: "audio/wav" }), "a.wav");
    const client = connect(undefined, {}, free);
    const url = "https://network.invalid/v1/audio/transcriptions";
    const answer = await client.fetch(url, { method: "POST", body: form });
    const { id, choices } = await answer.json();
    assert.equal(id, "/v1/audio/transcriptions");
    assert.match(choices[0].message.content, /name="file"[^]*RIFF sounds/);
    form.delete("model");
    await assert.rejects(client.fetch(url, { method: "POST", body: form }), { code: "body" });
});

test("what a scheduler says is taken up to a bound", { skip }, async () => {
    const endless = (path) => async (url, init) => {
        if (!String(url).endsWith(path)) {
            return fetch(url, init);
        }
        const pull = (stream) => stream.enqueue(new Uint8Array(1 << 16));
        return new Response(new ReadableStream({ pull }));
    };
    for (const path of ["assignments", "evidence", "models"]) {
        const client = connect(undefined, { fetch: endless(path), tries: 1 }, free);
        const asked = path === "models" ? client.fetch("https://a.invalid/v1/models") : ask(client, "tiny");
        await assert.rejects(asked, { code: "scheduler" }, path);
    }
    const short = connect(undefined, { maxAnswer: 10, tries: 1 }, free);
    await assert.rejects(async () => (await ask(short, "tiny", { stream: true })).text(), {
        message: "the answer is too long",
    });
});

const PAGE = `
    const { url, identity, root, channel, key, spent } = await (await fetch("given.json")).json();
    const tell = (body) => fetch("told", { method: "POST", body });
    try {
        const { Policy } = await import("./package/index.js");
        const { CocoonClient, Purse, indexedDb } = await import("./package/client-web.js");
        const bytes = Uint8Array.from(root.match(/../g), (digits) => parseInt(digits, 16));
        const policy = Policy.of({ identity }).under(bytes);
        const before = { voucher: null, spent, tokens: 0, held: 0, reserved: {}, doubts: {} };
        await indexedDb("channel").update(() => before);
        // Two pages of one origin, and one that is left and comes again.
        const purses = [1, 2].map(() => new Purse({ channel, key, store: indexedDb("channel") }));
        const messages = [{ role: "user", content: "from a page" }];
        const body = JSON.stringify({ model: "tiny", messages, stream: true });
        const request = { method: "POST", headers: { "content-type": "application/json" }, body };
        const texts = purses.concat(purses).map(async (purse) => {
            const client = new CocoonClient({ scheduler: url, policy, maxPrice: 2_000_000, purse });
            const answer = await client.fetch("/v1/chat/completions", request);
            return answer.text();
        });
        const ends = (await Promise.all(texts)).map((text) => text.includes("[DONE]"));
        const again = new Purse({ channel, key, store: indexedDb("channel") });
        const { spent: now, reserved } = await again.balance();
        await tell(JSON.stringify({ ends, spent: now - spent, reserved }));
    } catch (error) {
        await tell(String(error.stack ?? error));
    }
`;

test("pages of one origin pay from one purse in Chromium", { skip, timeout: 120_000 }, async ({ signal }) => {
    const { url, identity, root } = network;
    const given = { url, identity, root, channel: CHANNEL, key: KEY, spent: await counted() };
    const told = JSON.parse(await run(PAGE, given, signal));
    assert.deepEqual(told, { ends: [true, true, true, true], spent: 4 * COST, reserved: 0 });
});
