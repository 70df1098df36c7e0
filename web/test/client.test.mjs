// Sealed requests through a scheduler that is trusted with nothing: in node and Chromium.
import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { build } from "esbuild";
import OpenAI from "openai";
import * as shipped from "@cocoon/attestation";
import { CocoonClient as ShippedClient } from "@cocoon/attestation/client";
import { double, load, run, skip, start } from "./network.mjs";

let network;
let other;
let CocoonClient;
let wasm;

before(async () => {
    if (!skip) {
        [network, other] = await Promise.all([start(), start("--other-build")]);
        [{ CocoonClient }, wasm] = await Promise.all([load("client-node.js"), load("node.js")]);
    }
});

after(() => Promise.all([network?.stop(), other?.stop()]));

const policy = ({ identity, root }) => wasm.Policy.of({ identity }).under(Buffer.from(root, "hex"));

/** A client, and what it was told of each answer's cost. */
function connect(options = {}, to = network) {
    const told = [];
    const settled = (cost) => told.push(cost);
    const client = new CocoonClient({
        scheduler: to.url,
        policy: policy(to),
        maxPrice: 10,
        settled,
        ...options,
    });
    return { client, told };
}

const PROMPT = "keep this between us";

const ask = (client, model, more = {}) =>
    client.fetch("https://network.invalid/v1/chat/completions", {
        method: "POST",
        headers: { "content-type": "application/json", authorization: "Bearer nobody" },
        body: JSON.stringify({ model, messages: [{ role: "user", content: PROMPT }], ...more }),
    });

const SETTLED = { prompt_tokens: 5, completion_tokens: 2, price: 5, cost: 0 };

test("a verified worker answers, and the scheduler sees no word of it", { skip }, async () => {
    const { client, told } = connect();
    const answer = await ask(client, "tiny");
    assert.equal(answer.status, 200);
    assert.equal(answer.headers.get("content-type"), "application/json");
    const { choices } = await answer.json();
    assert.equal(choices[0].message.content, PROMPT);
    assert.deepEqual(told, [SETTLED]);
    const heard = Buffer.from(await (await fetch(`${network.url}/heard`)).arrayBuffer());
    assert(heard.length > 1000);
    for (const word of ["between", "messages", "chat/completions", "nobody"]) {
        assert(!heard.includes(word), word);
    }
});

test("the openai package streams through it, and lists models", { skip }, async () => {
    const { client, told } = connect();
    const baseURL = "https://network.invalid/v1";
    const openai = new OpenAI({ apiKey: "none", baseURL, fetch: client.fetch });
    const messages = [{ role: "user", content: PROMPT }];
    const stream = await openai.chat.completions.create({ model: "tiny", messages, stream: true });
    const words = [];
    for await (const { choices } of stream) {
        words.push(choices[0].delta.content);
    }
    assert.deepEqual(words, ["keep ", "this ", "between ", "us"]);
    assert.deepEqual(told, [SETTLED]);
    const { data } = await openai.models.list();
    assert.deepEqual(data.map(({ id }) => id), ["tiny"]);
});

for (const model of ["gone", "silent"]) {
    test(`before its first byte a worker that is ${model} is replaced`, { skip }, async () => {
        const { client, told } = connect();
        const { choices } = await (await ask(client, model)).json();
        assert.equal(choices[0].message.content, PROMPT);
        assert.equal(told.length, 1);
        const impatient = connect({ tries: 1 }).client;
        await assert.rejects(ask(impatient, model), {
            code: model === "gone" ? "worker_gone" : "answer",
        });
    });
}

for (const model of ["cut", "forged"]) {
    test(`an answer that was ${model} is no answer`, { skip }, async () => {
        const { client, told } = connect();
        const read = async () => (await ask(client, model, { stream: true })).text();
        await assert.rejects(read, { name: "AttestationError", code: "answer" });
        assert.deepEqual(told, []);
    });
}

test("a price that was not agreed to is refused, before and after", { skip }, async () => {
    const { client, told } = connect();
    await assert.rejects(ask(client, "greedy"), { code: "price" });
    const dear = (await ask(client, "dear")).text();
    const message = "the receipt says 6 nanotons a million tokens, agreed were 5";
    await assert.rejects(dear, { code: "settlement", message });
    assert.deepEqual(told, []);
});

test("what was signed is what the answer says, and no more than there can be", { skip }, async () => {
    for (const [model, more, message] of [
        ["miscounted", {}, "the worker signed for 7 tokens, and the answer says 9"],
        ["tiny", { max_tokens: 1 }, "the receipt counts 2 tokens of answer, and there can be 1"],
        ["padded", {}, /^the receipt counts 3000 tokens of prompt, and there can be 1\d{3}$/],
    ]) {
        const { client, told } = connect();
        const asked = async () => (await ask(client, model, more)).text();
        await assert.rejects(asked, { code: "settlement", message }, model);
        assert.deepEqual(told, []);
    }
});

test("a worker that lied is left alone for a while", { skip }, async () => {
    let time = Date.now() / 1000;
    const { client } = connect({ now: () => time, fresh: 1000 });
    const lies = async () => (await ask(client, "miscounted")).text();
    await assert.rejects(lies, { code: "settlement" });
    await assert.rejects(lies, { code: "settlement" }, "the other one");
    assert.equal((await ask(client, "tiny")).status, 503, "nobody else is left");
    time += 601;
    assert.equal((await ask(client, "tiny")).status, 200);
});

test("an answer that falls silent is given up", { skip, timeout: 60_000 }, async () => {
    const stopping = async (url, init) => {
        const answer = await fetch(url, init);
        if (!`${url}`.endsWith("/requests")) {
            return answer;
        }
        const begun = (await answer.arrayBuffer()).slice(0, 300);
        return new Response(new ReadableStream({ start: (stream) => stream.enqueue(new Uint8Array(begun)) }));
    };
    const { client, told } = connect({ fetch: stopping, silence: 200, tries: 1 });
    const read = async () => (await ask(client, "tiny", { stream: true })).text();
    await assert.rejects(read, { code: "silent", message: "nothing more of the answer came in 200 ms" });
    assert.deepEqual(told, []);
});

test("what a request may cost is what the gateway reckons", { skip }, async () => {
    const table = new URL("../../client/tests/asked.json", import.meta.url);
    for (const { body, answer, images } of JSON.parse(readFileSync(table, "utf8"))) {
        let limit;
        const hearing = (url, init) => {
            limit = `${url}`.endsWith("/assignments") ? JSON.parse(init.body).limit : limit;
            return Response.json({}, { status: 503 });
        };
        const { client } = connect({ fetch: hearing, answerTokens: 777 });
        const asked = client.fetch("https://a.invalid/v1/x", { method: "POST", body });
        if (answer === "refused") {
            await assert.rejects(asked, { code: "body" }, body);
        } else {
            await asked;
            const prompt = Buffer.byteLength(body) + 1024 + 4096 * images;
            assert.equal(limit, prompt + (answer ?? 777), body);
        }
    }
});

/** Names of what stands in the way. */
async function refused(attempt) {
    const error = await attempt.then(() => assert.fail("answered"), (error) => error);
    assert.equal(error.code, "rejected", error);
    return error.checks.filter(({ passed }) => !passed).map(({ name }) => name);
}

test("nothing is sealed to keys that the evidence is not about", { skip }, async () => {
    assert.deepEqual(await refused(ask(connect().client, "swapped")), ["report-data"]);
});

test("nothing is sealed to another build", { skip }, async () => {
    assert.deepEqual(await refused(ask(connect({}, other).client, "tiny")), ["rtmr1"]);
});

test("the package as it is published knows no root but Intel's", { skip }, async () => {
    assert.equal(shipped.Policy.prototype.under, undefined);
    const { url: scheduler, identity } = network;
    const policy = shipped.Policy.of({ identity });
    const client = new ShippedClient({ scheduler, policy, maxPrice: 10 });
    assert.deepEqual(await refused(ask(client, "tiny")), ["collateral"]);
});

test("what the scheduler refuses comes as its answer", { skip }, async () => {
    const answer = await ask(connect().client, "unknown");
    assert.equal(answer.status, 404);
    assert.equal((await answer.json()).error.code, "model_not_found");
});

test("evidence is asked for once in a while, not for each request", { skip }, async () => {
    let [time, proofs] = [Date.now() / 1000, 0];
    const counting = (url, init) => {
        proofs += `${url}`.endsWith("/evidence") ? 1 : 0;
        return fetch(url, init);
    };
    const { client } = connect({ fetch: counting, now: () => time });
    const after = async (seconds) => {
        time += seconds;
        await (await ask(client, "tiny")).text();
        return proofs;
    };
    assert.deepEqual([await after(0), await after(599), await after(2)], [1, 1, 2]);
});

test("the bytes are those that Rust writes, both ways", { skip }, async () => {
    const text = readFileSync(new URL("../../sealed/tests/golden.txt", import.meta.url), "utf8");
    const golden = Object.fromEntries(text.trim().split("\n").map((line) => line.split(" ")));
    const post = (path, headers, body) =>
        fetch(`${network.url}/network/v1/${path}`, { method: "POST", headers, body });
    const asked = { model: "tiny", limit: 1, max_price: 5, deadline_ms: 1, affinity: null };
    const assigned = await post("assignments", {}, JSON.stringify(asked));
    const { worker, keyset } = await assigned.json();
    const nonce = new Uint8Array(32);
    const proof = await post(`workers/${worker}/evidence`, {}, wasm.Binding.challenge(nonce));
    const answer = new Uint8Array(await proof.arrayBuffer());
    const peer = wasm.Peer.judge(policy(network), keyset, nonce, answer, Date.now() / 1000);
    const request = {
        model: "tiny",
        limit: 4096,
        price: 2_000_000,
        deadline_ms: 30_000,
        method: "POST",
        path: "/v1/chat/completions",
        headers: [["content-type", "application/json"]],
        tenant: "03".repeat(32),
    };
    const body = Buffer.from('{"model":"tiny","messages":[]}');
    const random = Buffer.concat([Buffer.alloc(16, 9), Buffer.alloc(64, 1)]);
    const conversation = peer.seal(request, body, random);
    const hex = (bytes) => Buffer.from(bytes).toString("hex");
    assert.equal(hex(conversation.envelope), golden.envelope);
    assert.equal(hex(conversation.request()), golden.request);
    assert.equal(Buffer.from(conversation.push(Buffer.from(golden.response, "hex"))).toString(), "data");
    assert.deepEqual(conversation.head, {
        status: 200,
        headers: [["content-type", "text/event-stream"]],
    });
    assert.throws(() => conversation.end(), { code: "settlement" });
});

const PAGE = `
    const { url, identity, root } = await (await fetch("given.json")).json();
    const tell = (body) => fetch("told", { method: "POST", body });
    try {
        const { Policy } = await import("./package/index.js");
        const { CocoonClient } = await import("./package/client-web.js");
        const bytes = Uint8Array.from(root.match(/../g), (digits) => parseInt(digits, 16));
        const costs = [];
        const client = new CocoonClient({
            scheduler: url,
            policy: Policy.of({ identity }).under(bytes),
            maxPrice: 10,
            settled: (cost) => costs.push(cost),
        });
        const messages = [{ role: "user", content: "from a page" }];
        const answer = await client.fetch("/v1/chat/completions", {
            method: "POST",
            headers: { "content-type": "application/json" },
            body: JSON.stringify({ model: "gone", messages, stream: true }),
        });
        await tell((await answer.text()) + JSON.stringify(costs));
    } catch (error) {
        await tell(String(error));
    }
`;

async function converses(page, signal) {
    const { url, identity, root } = network;
    const text = await run(page, { url, identity, root }, signal);
    assert.match(text, /"content":"from "[^]*"content":"page"[^]*\[DONE\]/);
    assert(text.endsWith(JSON.stringify([SETTLED])), text);
}

test("a page in Chromium does the same", { skip, timeout: 120_000 }, ({ signal }) => converses(PAGE, signal));

test("so does one that a bundler made", { skip, timeout: 120_000 }, async ({ signal }) => {
    const folder = mkdtempSync(join(tmpdir(), "bundle-"));
    const outfile = join(double, "bundle.js");
    try {
        mkdirSync(join(folder, "node_modules/@cocoon"), { recursive: true });
        symlinkSync(double, join(folder, "node_modules/@cocoon/attestation"));
        const names = ["@cocoon/attestation", "@cocoon/attestation/client"];
        const contents = names.map((name) => `export * from "${name}";`).join("");
        const stdin = { contents, resolveDir: folder };
        await build({ stdin, outfile, bundle: true, format: "esm", target: "es2022" });
        await converses(PAGE.replace(/package\/[\w-]+\.js/g, "package/bundle.js"), signal);
    } finally {
        rmSync(folder, { recursive: true });
        rmSync(outfile, { force: true });
    }
});
