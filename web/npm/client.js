// A client of the network: asks a scheduler for a worker, verifies that worker, seals
// each request to it, and opens what it answers. The scheduler, and whoever else is on
// the way, is trusted with nothing: it may refuse or cut, and that is noticed.
import { Binding, Peer } from "./attestation.js";

export class CocoonClient {
    #options;
    #peers = new Map();
    #tenant;

    /** See client.d.ts. */
    constructor(options) {
        if (!options?.scheduler || !options.policy || !(options.maxPrice >= 0)) {
            throw new TypeError("a client needs scheduler, policy and maxPrice");
        }
        const secret = options.secret ?? random(32);
        this.#options = {
            answerTokens: 4096,
            deadline: 120_000,
            tries: 3,
            fresh: 600,
            now: () => Date.now() / 1000,
            fetch: (...request) => globalThis.fetch(...request),
            settled: () => {},
            voucher: async () => undefined,
            ...options,
            scheduler: `${options.scheduler}`.replace(/\/+$/, ""),
            secret,
        };
        this.#tenant = mac(secret, "tenant");
        this.fetch = this.fetch.bind(this);
    }

    /** As the platform's own, for the path of any URL: an answer, or why there is none. */
    async fetch(input, init) {
        const request = new Request(input, init);
        const { pathname, search } = new URL(request.url);
        if (request.method === "GET" && pathname.endsWith("/v1/models")) {
            return this.#models(request.signal);
        }
        const body = new Uint8Array(await request.arrayBuffer());
        const asked = { request, path: pathname + search, body, ...read(body) };
        const except = [];
        for (let left = this.#options.tries; ; left -= 1) {
            try {
                return await this.#attempt(asked, except);
            } catch (error) {
                if (!(error instanceof NextWorker)) {
                    throw error;
                }
                if (left <= 1) {
                    throw error.cause;
                }
                except.push(error.worker);
                asked.last = error.cause;
            }
        }
    }

    /** One worker: its answer, the scheduler's own refusal, or a reason to ask another. */
    async #attempt(asked, except) {
        const { body, model } = asked;
        const { signal } = asked.request;
        const { maxPrice, deadline, secret, voucher } = this.#options;
        const limit = this.#limit(asked);
        const wanted = await this.#ask("assignments", signal, {
            headers: { "content-type": "application/json" },
            body: JSON.stringify({
                model,
                limit,
                max_price: maxPrice,
                deadline_ms: deadline,
                affinity: await mac(secret, asked.beginning),
                except,
            }),
        });
        if (!wanted.ok && asked.last !== undefined) {
            throw asked.last; // It says more than that nobody else is left.
        }
        if (!wanted.ok) {
            return wanted;
        }
        const assignment = await wanted.json();
        const { worker, price } = assignment;
        if (!(price <= maxPrice)) {
            throw new CocoonError("price", `the scheduler wants ${price}, agreed are at most ${maxPrice}`);
        }
        const peer = await this.#peer(assignment, signal);
        const conversation = peer.seal(
            {
                model,
                limit,
                price,
                deadline_ms: deadline,
                method: asked.request.method,
                path: asked.path,
                headers: [...asked.request.headers].filter(([name]) => HEADERS.includes(name)),
                tenant: await this.#tenant,
            },
            body,
            random(80),
        );
        const envelope = base64url(conversation.envelope);
        const paid = await voucher({ worker, price, limit });
        const headers = {
            "content-type": "application/cocoon-sealed",
            "cocoon-envelope": envelope,
            ...(paid === undefined ? {} : { "cocoon-voucher": paid }),
        };
        const sealed = conversation.request();
        const answer = await this.#ask("requests", signal, { headers, body: sealed }).catch(
            next(worker, signal),
        );
        if (!answer.ok) {
            const { error } = (await answer.clone().json().catch(() => null)) ?? {};
            if (ELSEWHERE.includes(error?.code)) {
                throw new NextWorker(worker, new CocoonError(error.code, error.message));
            }
            return answer;
        }
        return open(answer.body.getReader(), conversation, this.#options).catch(
            next(worker, signal),
        );
    }

    /** The worker of an assignment, once its evidence satisfies the policy. */
    async #peer({ worker, keyset }, signal) {
        const { now, fresh, policy } = this.#options;
        const known = this.#peers.get(worker);
        if (known?.keyset === keyset && now() < known.until) {
            return known.peer;
        }
        const nonce = random(32);
        const response = await this.#ask(`workers/${worker}/evidence`, signal, {
            headers: { "content-type": "application/cbor" },
            body: Binding.challenge(nonce),
        }).catch(next(worker, signal));
        const answer = new Uint8Array(await response.arrayBuffer());
        if (!response.ok) {
            throw new NextWorker(worker, new CocoonError("evidence", "no evidence to be had"));
        }
        try {
            const peer = Peer.judge(policy, keyset, nonce, answer, now());
            if (peer.id !== worker) {
                throw new CocoonError("worker", `the keys are of ${peer.id}, not of ${worker}`);
            }
            const until = Math.min(now() + fresh, peer.notAfter);
            this.#peers.set(worker, { peer, keyset, until });
            return peer;
        } catch (error) {
            throw new NextWorker(worker, error);
        }
    }

    #ask(path, signal, init) {
        const { fetch, scheduler } = this.#options;
        return fetch(`${scheduler}/network/v1/${path}`, { method: "POST", signal, ...init });
    }

    async #models(signal) {
        const { fetch, scheduler } = this.#options;
        const response = await fetch(`${scheduler}/network/v1/models`, { signal });
        if (!response.ok) {
            return response;
        }
        const { models } = await response.json();
        const data = models.map(({ name }) => ({ id: name, object: "model", owned_by: "cocoon" }));
        return Response.json({ object: "list", data });
    }

    /** Tokens that the request can cost at most: no token is shorter than a byte. */
    #limit({ body, most, images }) {
        const answer = most ?? this.#options.answerTokens;
        return body.length + 1024 + 4096 * images + answer;
    }
}

/** Why a request was not sent, or an answer not taken. */
export class CocoonError extends Error {
    name = "CocoonError";

    constructor(code, message) {
        super(message);
        this.code = code;
    }
}

/** Somebody else may answer: nothing was handed to the caller yet. */
class NextWorker extends Error {
    constructor(worker, cause) {
        super("another worker may do", { cause });
        this.worker = worker;
    }
}

const next = (worker, signal) => (error) => {
    throw signal.aborted || error instanceof NextWorker ? error : new NextWorker(worker, error);
};

/** Resolves with the head; the rest is a stream. */
async function open(reader, conversation, { settled }) {
    let first = new Uint8Array();
    while (conversation.head === null) {
        const { done, value } = await reader.read();
        if (done) {
            conversation.end();
            throw new CocoonError("answer", "the answer has no head");
        }
        first = conversation.push(value);
    }
    const { status, headers } = conversation.head;
    const body = new ReadableStream({
        start: (stream) => first.length > 0 && stream.enqueue(first),
        async pull(stream) {
            for (;;) {
                const { done, value } = await reader.read();
                if (done) {
                    settled(conversation.end());
                    return stream.close();
                }
                const opened = conversation.push(value);
                if (opened.length > 0) {
                    return stream.enqueue(opened);
                }
            }
        },
        cancel(reason) {
            conversation.free();
            return reader.cancel(reason);
        },
    });
    return new Response(BODILESS.includes(status) ? null : body, { status, headers: [...headers] });
}

/** What of a request decides where it goes and what it may cost. */
function read(body) {
    let asked;
    try {
        asked = JSON.parse(new TextDecoder().decode(body));
    } catch {
        throw new CocoonError("body", "a request needs a body of JSON with a model");
    }
    const { model, messages, prompt, input, max_tokens, max_completion_tokens, n = 1 } = asked;
    if (typeof model !== "string") {
        throw new CocoonError("body", "a request needs a model");
    }
    const most = max_completion_tokens ?? max_tokens;
    const parts = Array.isArray(messages) ? messages.flatMap(({ content }) => content) : [];
    return {
        model,
        most: most === undefined ? undefined : n * most,
        images: parts.filter((part) => part?.type === "image_url").length,
        beginning: JSON.stringify(messages?.slice(0, 2) ?? prompt ?? input ?? ""),
    };
}

async function mac(secret, text) {
    const hmac = { name: "HMAC", hash: "SHA-256" };
    const key = await crypto.subtle.importKey("raw", secret, hmac, false, ["sign"]);
    const code = await crypto.subtle.sign("HMAC", key, new TextEncoder().encode(text));
    return Array.from(new Uint8Array(code), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

const random = (length) => crypto.getRandomValues(new Uint8Array(length));

const base64url = (bytes) =>
    btoa(String.fromCharCode(...bytes))
        .replaceAll("+", "-")
        .replaceAll("/", "_")
        .replaceAll("=", "");

const HEADERS = ["accept", "content-type", "x-receipt-opening"];
const ELSEWHERE = ["draining", "full", "not_covered", "not_my_key", "replayed", "worker_gone"];
const BODILESS = [204, 205, 304];
