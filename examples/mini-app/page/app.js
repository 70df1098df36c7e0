// A chat for Telegram's Mini Apps; initData goes along with every request.
const telegram = globalThis.Telegram?.WebApp;
const headers = {
    authorization: `tma ${telegram?.initData || location.hash.slice(1)}`,
    "content-type": "application/json",
};
const at = (id) => document.getElementById(id);
const messages = [];
let model;

async function call(path, body) {
    const method = body ? "POST" : "GET";
    const response = await fetch(path, { method, headers, body: body && JSON.stringify(body) });
    if (response.ok) return response;
    const problem = await response.json().catch(() => null);
    throw new Error(problem?.error?.message ?? `status ${response.status}`);
}

async function showTrust() {
    const told = await (await call("/cocoon/trust")).json();
    const checks = (told.workers ?? [told]).flatMap((worker) => worker.checks);
    at("trust").textContent = checks.length ? "✓ verified" : "nobody asked yet";
    const lines = checks.map(({ name, found, passed }) => {
        const line = document.createElement("li");
        line.textContent = `${passed ? "✓" : "✗"} ${name}: ${found}`;
        return line;
    });
    at("checks").querySelector("ul").replaceChildren(...lines);
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
        await showTrust();
    } catch (error) {
        messages.pop();
        turn.textContent = error.message;
    }
}

at("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    const content = at("text").value.trim();
    at("text").value = "";
    if (content) ask(content);
});
at("trust").addEventListener("click", () => at("checks").showModal());
at("checks").querySelector("button").addEventListener("click", () => at("checks").close());

telegram?.ready();
telegram?.expand();
try {
    model = (await (await call("/v1/models")).json()).data[0].id;
    await showTrust();
} catch (error) {
    at("trust").textContent = "not reachable";
    add(error.message, "assistant");
}
