// A chat for Telegram's Mini Apps. This page verifies a worker and seals each question to
// it: neither the server that the page came from nor the scheduler reads one.
import { CocoonClient, Purse, importKey, indexedDb } from "./package/client-web.js";
import { policy } from "./policy.js";

const at = (id) => document.getElementById(id);
const wallet = indexedDb("mini-app");
const messages = [];
let client;
let cost = 0;
let isAsking = false;
let model;

async function connect() {
    const { scheduler, maxPrice } = await (await fetch("network.json")).json();
    let paying;
    await wallet.update((kept) => (paying = kept));
    const purse =
        paying && new Purse({ ...paying, store: indexedDb(paying.channel.channel) });
    return new CocoonClient({ scheduler, policy, maxPrice, purse, settled, verified });
}

function verified({ worker, checks }) {
    at("trust").textContent = "✓ verified";
    const lines = [{ name: "worker", found: worker, passed: true }, ...checks];
    at("proof").replaceChildren(
        ...lines.map(({ name, found, passed }) => {
            const line = document.createElement("li");
            line.textContent = `${passed ? "✓" : "✗"} ${name}: ${found}`;
            return line;
        }),
    );
}

function settled(signed) {
    cost += signed?.cost ?? 0;
    at("cost").textContent = `${cost} nanotons so far`;
}

async function call(path, body) {
    const json = { "content-type": "application/json" };
    const request = body && { method: "POST", headers: json, body: JSON.stringify(body) };
    const response = await client.fetch(path, request);
    if (response.ok) return response;
    const problem = await response.json().catch(() => null);
    throw new Error(problem?.error?.message ?? problem?.error?.code ?? `status ${response.status}`);
}

/** The channel that pays, and the file of its key. */
async function pay(files) {
    const texts = await Promise.all([...files].map((file) => file.text()));
    const channel = texts.find((text) => text.trimStart().startsWith("{"));
    const key = texts.find((text) => text !== channel);
    if (!channel || !key) throw new Error("choose channel.json and the file of its key");
    const kept = { channel: JSON.parse(channel), key: await importKey(key) };
    await wallet.update(() => kept);
    client = await connect();
    at("cost").textContent = "this channel pays";
}

function add(text, kind) {
    at("hint")?.remove();
    const turn = document.createElement("div");
    turn.className = kind;
    turn.textContent = text;
    at("said").append(turn);
    turn.scrollIntoView();
    return turn;
}

async function ask(content) {
    messages.push({ role: "user", content });
    add(content, "user");
    const turn = add("…", "assistant");
    let answer = "";
    let rest = "";
    try {
        const body = { model, messages, stream: true, max_completion_tokens: 512 };
        const response = await call("/v1/chat/completions", body);
        for await (const part of response.body.pipeThrough(new TextDecoderStream())) {
            const lines = (rest + part).split("\n");
            rest = lines.pop();
            for (const line of lines.filter((line) => line.startsWith("data: {"))) {
                answer += JSON.parse(line.slice(6)).choices?.[0]?.delta?.content ?? "";
            }
            turn.textContent = answer || "…";
            turn.scrollIntoView({ block: "end" });
        }
        messages.push({ role: "assistant", content: answer });
        turn.classList.add("whole");
    } catch (error) {
        messages.pop();
        turn.textContent = error.message;
        turn.classList.add("failed");
    }
}

at("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    const content = at("text").value.trim();
    // One at a time: each follows the answer to the last.
    if (!content || !model || isAsking) return;
    at("text").value = "";
    isAsking = true;
    ask(content).finally(() => (isAsking = false));
});
at("trust").addEventListener("click", () => at("checks").showModal());
at("close").addEventListener("click", () => at("checks").close());
at("channel").addEventListener("change", ({ target }) =>
    pay(target.files).catch((error) => (at("cost").textContent = error.message)),
);

try {
    client = await connect();
    model = (await (await call("/v1/models")).json()).data[0].id;
    at("trust").textContent = "nobody asked yet";
} catch (error) {
    at("trust").textContent = "not reachable";
    add(error.message, "failed");
}
