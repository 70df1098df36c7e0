// A client of the network: asks a scheduler for a worker, verifies that worker, seals
// each request to it, and opens what it answers. The scheduler, and whoever else is on
// the way, is trusted with nothing: it may refuse or cut, and that is noticed.
import { Binding, Peer } from "./attestation.js";
import { CocoonError } from "./error.js";
import { base64, bytes } from "./purse.js";

export { CocoonError } from "./error.js";
export { Purse, importKey, indexedDb, memory } from "./purse.js";

export class CocoonClient {
    #options;
    #peers = new Map();
    #purse;
    #reconciled = 0;
    #shunned = new Map();
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
            silence: 180_000,
            tries: 3,
            fresh: 600,
            maxAnswer: 64 << 20,
            now: () => Date.now() / 1000,
            fetch: (...request) => globalThis.fetch(...request),
            settled: () => {},
            verified: () => {},
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
        const late = new AbortController();
        const over = setTimeout(() => late.abort(LATE), this.#options.deadline);
        const signal = AbortSignal.any([request.signal, late.signal]);
        const path = pathname + search;
        const asked = { request, path, body, signal, ...(await read(request, body)) };
        try {
            return await this.#begin(asked);
        } finally {
            // One that has begun is ended by its worker.
            clearTimeout(over);
        }
    }

    /** Worker after worker, until an answer begins. */
    async #begin(asked) {
        const { now } = this.#options;
        const except = [...this.#shunned].filter(([, until]) => now() < until).map(([id]) => id);
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
                if (error.worker !== undefined) {
                    except.push(error.worker);
                }
                asked.last = error.cause;
            }
        }
    }

    /** One worker: its answer, the scheduler's own refusal, or a reason to ask another. */
    async #attempt(asked, except) {
        const { body, model, signal } = asked;
        const { maxPrice, deadline, secret } = this.#options;
        const purse = await this.#payer(signal);
        const most = this.#most(asked);
        const limit = most.prompt + most.answer;
        const pass = purse === undefined ? {} : { "cocoon-pass": await purse.pass() };
        const wanted = await this.#ask("assignments", signal, {
            headers: { "content-type": "application/json", ...pass },
            body: JSON.stringify({
                model,
                limit,
                max_price: maxPrice,
                deadline_ms: deadline,
                affinity: await mac(secret, asked.beginning),
                except: except.slice(-MAX_EXCEPT),
            }),
        });
        if (!wanted.ok && asked.last !== undefined) {
            throw asked.last; // It says more than that nobody else is left.
        }
        if (!wanted.ok) {
            return wanted;
        }
        const assignment = await json(wanted);
        const { worker, price } = assignment;
        if (!(price <= maxPrice)) {
            throw new CocoonError("price", `the scheduler wants ${price}, agreed are at most ${maxPrice}`);
        }
        if (except.includes(worker)) {
            throw new CocoonError("worker", `the scheduler chose worker ${worker} again`);
        }
        const peer = await this.#peer(assignment, signal);
        const id = random(16);
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
            new Uint8Array([...id, ...random(64)]),
        );
        const envelope = base64(conversation.envelope);
        const deal = new Deal(purse, id, most);
        const seconds = deadline / 1000 + READ_ON;
        const paid = await purse?.reserve(deal.id, conversation.agreed, seconds);
        const headers = {
            "content-type": "application/cocoon-sealed",
            "cocoon-envelope": envelope,
            ...pass,
            ...(paid === undefined ? {} : { "cocoon-voucher": paid }),
        };
        const sealed = conversation.request();
        const answer = await this.#ask("requests", signal, { headers, body: sealed }).catch(
            async (error) => {
                await deal.doubt();
                return next(worker, signal)(error);
            },
        );
        if (answer.body === null) {
            await deal.doubt();
            next(worker, signal)(new CocoonError("scheduler", "the scheduler says nothing"));
        }
        if (!answer.ok) {
            return this.#refused(answer, worker, deal, paid);
        }
        const lied = () => this.#shunned.set(worker, this.#options.now() + SHUNNED);
        const options = { ...this.#options, lied };
        return open(new Answer(answer, conversation, deal, options)).catch(next(worker, signal));
    }

    /** What is said in clear before anything of an answer: nothing was done, unless it was
     * done before, or nobody can tell. */
    async #refused(answer, worker, deal, paid) {
        const text = await bounded(answer, MAX_DOCUMENT).catch(async (error) => {
            await deal.doubt();
            throw new NextWorker(worker, error);
        });
        const { error } = parsed(text) ?? {};
        await (UNCERTAIN.includes(error?.code) ? deal.doubt() : deal.release());
        const why = new CocoonError(error?.code, error?.message);
        // A worker's own refusal says nothing of our Channel: only a scheduler's has both.
        if (error?.code === "not_covered" && isCounted(error)) {
            if (await deal.purse?.refused(paid, error)) {
                throw new NextWorker(undefined, why);
            }
        } else if (ELSEWHERE.includes(error?.code)) {
            throw new NextWorker(worker, why);
        }
        return new Response(text, { status: answer.status, headers: answer.headers });
    }

    /** What the scheduler is paid from; nothing where it asks for nothing. */
    async #payer(signal) {
        const { fetch, purse, scheduler } = this.#options;
        if (purse === undefined) {
            return undefined;
        }
        if (this.#purse === undefined) {
            const answer = await fetch(`${scheduler}/network/v1/terms`, { signal });
            const terms = answer.ok ? await json(answer) : {};
            if (!terms.free && !purse.pays(terms)) {
                const message = `the channel does not pay ${terms.payee}, as the scheduler asks`;
                throw new CocoonError("channel", message);
            }
            this.#purse = terms.free ? null : purse;
        }
        const { now } = this.#options;
        if (this.#purse !== null && now() - this.#reconciled > READ_ON) {
            this.#reconciled = now();
            // The next request may sign for less once it is known; this one does not wait.
            this.reconcile().catch(() => {});
        }
        return this.#purse ?? undefined;
    }

    /** Asks how requests ended that are in doubt, if there are any. */
    async reconcile() {
        const signal = AbortSignal.timeout(DOCUMENT);
        const purse = await this.#payer(signal);
        const { voucher, requests = [] } = (await purse?.inDoubt()) ?? {};
        for (let from = 0; from < requests.length; from += MAX_ASKED) {
            const asked = requests.slice(from, from + MAX_ASKED);
            const headers = {
                "content-type": "application/octet-stream",
                "cocoon-pass": await purse.pass(),
                "cocoon-requests": asked.join(),
            };
            const answer = await this.#ask("vouchers", signal, { headers, body: bytes(voucher) });
            const told = answer.ok ? await json(answer) : undefined;
            if (!isCounted(told) || typeof told.requests !== "object" || told.requests === null) {
                return;
            }
            await purse.told(asked, told);
        }
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
        if (!response.ok) {
            throw new NextWorker(worker, new CocoonError("evidence", "no evidence to be had"));
        }
        try {
            const answer = await bounded(response, MAX_DOCUMENT);
            const peer = Peer.judge(policy, keyset, nonce, answer, now());
            if (peer.id !== worker) {
                throw new CocoonError("worker", `the keys are of ${peer.id}, not of ${worker}`);
            }
            const until = Math.min(now() + fresh, peer.notAfter);
            this.#peers.set(worker, { peer, keyset, until });
            this.#options.verified({ worker, checks: peer.checks });
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
        const { models } = await json(response);
        const data = models.map(({ name }) => ({ id: name, object: "model", owned_by: "cocoon" }));
        return Response.json({ object: "list", data });
    }

    /** Tokens that there can be at most: no token is shorter than a byte. */
    #most({ body, answer, images }) {
        const most = {
            prompt: body.length + TEMPLATE + IMAGE * images,
            answer: answer ?? this.#options.answerTokens,
        };
        if (!isAmount(most.prompt + most.answer)) {
            throw new CocoonError("body", "a request for more tokens than can be counted");
        }
        return most;
    }
}

/** Somebody else may answer: nothing was handed to the caller yet. */
class NextWorker extends Error {
    constructor(worker, cause) {
        super("another worker may do", { cause });
        this.worker = worker;
    }
}

/** What `fetch` rejects with where no answer began in time. */
const LATE = new CocoonError("deadline_exceeded", "no answer began before the deadline");

const next = (worker, signal) => (error) => {
    throw signal.aborted || error instanceof NextWorker ? error : new NextWorker(worker, error);
};

/** One request's money. */
class Deal {
    #most;

    constructor(purse, id, most) {
        this.purse = purse;
        this.#most = most;
        this.id = Array.from(id, (byte) => byte.toString(16).padStart(2, "0")).join("");
    }

    /** What was signed has to be what the answer says of itself, where it does, and no more
     * than there can have been. */
    check({ prompt_tokens, completion_tokens }, said) {
        const signed = prompt_tokens + completion_tokens;
        if (said !== undefined && said !== signed) {
            const message = `the worker signed for ${signed} tokens, and the answer says ${said}`;
            throw new CocoonError("settlement", message);
        }
        for (const [what, found, most] of [
            ["prompt", prompt_tokens, this.#most.prompt],
            ["answer", completion_tokens, this.#most.answer],
        ]) {
            if (found > most) {
                const message = `the receipt counts ${found} tokens of ${what}, and there can be ${most}`;
                throw new CocoonError("settlement", message);
            }
        }
    }

    /** A worker signed for it; if nothing came, the scheduler may know of something. */
    settle(settled) {
        const { prompt_tokens, completion_tokens } = settled ?? {};
        return settled === null
            ? this.doubt()
            : this.purse?.settle(this.id, prompt_tokens + completion_tokens);
    }

    release() {
        return this.purse?.release(this.id);
    }

    doubt() {
        return this.purse?.doubt(this.id);
    }
}

/** A sealed answer as it comes: opened, and at its end settled. */
class Answer {
    head = null;
    #conversation;
    #deal;
    #left;
    #lied;
    #reader;
    #settled;
    #silence;
    #tail = "";

    constructor({ body }, conversation, deal, { lied, maxAnswer, settled, silence }) {
        this.#reader = body.getReader();
        this.#conversation = conversation;
        this.#deal = deal;
        this.#left = maxAnswer;
        this.#lied = lied;
        this.#settled = settled;
        this.#silence = silence;
    }

    /** More of the body; nothing once it is over and settled. */
    async next() {
        try {
            for (;;) {
                const { done, value } = await this.#piece();
                if (done) {
                    const settled = this.#conversation.end();
                    settled && this.#deal.check(settled, totalTokens(this.#tail));
                    await this.#deal.settle(settled);
                    this.#settled(settled);
                    return undefined;
                }
                const opened = this.#conversation.push(value);
                this.head ??= this.#conversation.head;
                this.#left -= opened.length;
                if (this.#left < 0) {
                    throw new CocoonError("answer", "the answer is too long");
                }
                if (opened.length > 0) {
                    this.#tail = (this.#tail + decoded(opened.slice(-TAIL))).slice(-TAIL);
                    return opened;
                }
            }
        } catch (error) {
            this.#reader.cancel().catch(() => {});
            // Whoever cut it, or passed on what is no settlement for us, may know more.
            await this.#deal.doubt();
            if (error.code === "settlement") {
                this.#lied();
            }
            throw error;
        }
    }

    /** What comes next, if anything does in time. */
    async #piece() {
        let over;
        const silent = new Promise((_, reject) => {
            const message = `nothing more of the answer came in ${this.#silence} ms`;
            const late = () => reject(new CocoonError("silent", message));
            over = setTimeout(late, this.#silence);
        });
        try {
            return await Promise.race([this.#reader.read(), silent]);
        } finally {
            clearTimeout(over);
        }
    }

    /** Nobody reads it any more: to its settlement, as a scheduler would without us. */
    async readOn(reason) {
        const over = setTimeout(() => this.#reader.cancel(reason), READ_ON * 1000);
        try {
            while ((await this.next()) !== undefined);
        } catch {
            // It is in doubt.
        } finally {
            clearTimeout(over);
        }
    }
}

/** Resolves with the head; the rest is a stream. */
async function open(answer) {
    const first = await answer.next();
    if (answer.head === null) {
        throw new CocoonError("answer", "the answer has no head");
    }
    const { status, headers } = answer.head;
    const give = (stream, bytes) => (bytes === undefined ? stream.close() : stream.enqueue(bytes));
    const body = new ReadableStream({
        start: (stream) => give(stream, first),
        pull: async (stream) => give(stream, await answer.next()),
        cancel: (reason) => void answer.readOn(reason),
    });
    return new Response(BODILESS.includes(status) ? null : body, { status, headers: [...headers] });
}

/** What of a request decides where it goes and what it may cost. */
async function read(request, body) {
    const kind = request.headers.get("content-type") ?? "";
    if (kind.startsWith("multipart/form-data")) {
        const form = new Response(body, { headers: { "content-type": kind } }).formData();
        const model = (await form.catch(() => undefined))?.get("model");
        return { ...named(model), answer: undefined, images: 0, beginning: "" };
    }
    const asked = parsed(body);
    if (typeof asked !== "object" || asked === null) {
        throw new CocoonError("body", "a request needs a body of JSON, or a form, with a model");
    }
    const [n = 1, ...limits] = COUNTS.map((name) => count(asked, name));
    const most = limits.find((limit) => limit !== undefined);
    return {
        ...named(asked.model),
        answer: most === undefined ? undefined : most * n * prompts(asked.prompt),
        // Pictures have tokens that no text of theirs shows.
        images: decoded(body).split("image_url").length - 1,
        beginning: beginning(asked),
    };
}

/** A number that a request may leave out. */
function count(asked, name) {
    const value = asked[name] ?? undefined;
    if (value !== undefined && !isAmount(value)) {
        throw new CocoonError("body", `${name} is no count`);
    }
    return value;
}

/** How many a prompt is: a list of numbers is the tokens of one. */
function prompts(prompt) {
    const isList = Array.isArray(prompt) && (typeof prompt[0] === "string" || Array.isArray(prompt[0]));
    return isList ? prompt.length : 1;
}

/** What does not change as a conversation grows: all up to the first words of its user. */
function beginning({ messages, instructions, input, prompt }) {
    const said = Array.isArray(messages) ? messages : [];
    const user = said.findIndex((message) => message?.role === "user");
    const texts = [instructions, first(input), first(prompt)];
    return JSON.stringify([
        said.slice(0, user < 0 ? said.length : user + 1),
        // A text may go on growing at its end.
        ...texts.map((text) => JSON.stringify(text)?.slice(0, BEGINNING)),
    ]);
}

const first = (value) => (Array.isArray(value) ? value[0] : value);

/** The last total that an answer says: in JSON, a text's own quotes are escaped. */
function totalTokens(text) {
    const [, ...totals] = text.split('"total_tokens":');
    const digits = /^\s*(\d+)/.exec(totals.at(-1) ?? "");
    return digits === null ? undefined : Number(digits[1]);
}

function named(model) {
    if (typeof model !== "string") {
        throw new CocoonError("body", "a request needs a model");
    }
    return { model };
}

/** All of a body that is no answer of a model's. */
async function bounded(response, most) {
    const pieces = [];
    let length = 0;
    const reader = response.body.getReader();
    for (;;) {
        const { done, value } = await reader.read();
        if (done) {
            return new Uint8Array(await new Blob(pieces).arrayBuffer());
        }
        length += value.length;
        if (length > most) {
            reader.cancel().catch(() => {});
            throw new CocoonError("scheduler", `the scheduler says more than ${most} bytes`);
        }
        pieces.push(value);
    }
}

async function json(response) {
    const value = parsed(await bounded(response, MAX_DOCUMENT));
    if (typeof value !== "object" || value === null) {
        throw new CocoonError("scheduler", "the scheduler's answer is no JSON");
    }
    return value;
}

function parsed(bytes) {
    try {
        return JSON.parse(decoded(bytes));
    } catch {
        return undefined;
    }
}

const decoded = (bytes) => new TextDecoder().decode(bytes);

const isCounted = (said) => [said?.spent, said?.reserved].every(isAmount);

const isAmount = (value) => Number.isSafeInteger(value) && value >= 0;

async function mac(secret, text) {
    const hmac = { name: "HMAC", hash: "SHA-256" };
    const key = await crypto.subtle.importKey("raw", secret, hmac, false, ["sign"]);
    const code = await crypto.subtle.sign("HMAC", key, new TextEncoder().encode(text));
    return Array.from(new Uint8Array(code), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

const random = (length) => crypto.getRandomValues(new Uint8Array(length));

/** Seconds to read on where nobody listens; a scheduler does for as long. */
const READ_ON = 20;
const MAX_DOCUMENT = 1 << 20;
/** Milliseconds for what is no answer of a model's: a quote takes a second. */
const DOCUMENT = 90_000;
/** Requests that a scheduler is asked about at a time. */
const MAX_ASKED = 64;
/** Refusals of a request that may have been taken before. */
const UNCERTAIN = ["replayed", "unavailable", "worker_lost"];
const HEADERS = ["accept", "content-type", "x-receipt-opening"];
const ELSEWHERE = [
    "draining",
    "full",
    "not_covered",
    "not_my_key",
    "replayed",
    "worker_gone",
    "worker_lost",
];
/** How many answers a request wants, and of how many tokens: the first that it names. */
const COUNTS = ["n", "max_completion_tokens", "max_tokens", "max_output_tokens"];
/** What a chat's template may add to what is asked. */
const TEMPLATE = 1024;
/** More tokens than any picture becomes. */
const IMAGE = 4096;
/** Of a text, what its conversation is known by. */
const BEGINNING = 256;
/** What an answer says of its usage stands at its end. */
const TAIL = 4096;
/** As many workers as a scheduler reads. */
const MAX_EXCEPT = 16;
/** Seconds for which a worker is left alone that lied. */
const SHUNNED = 600;
const BODILESS = [204, 205, 304];
