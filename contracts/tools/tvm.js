// The reference TVM for tests that are not written in JavaScript: one request a line
// on standard input, one answer a line on standard output, both JSON.
//
// Cells travel as bags of cells in base64, amounts as decimal text. Wallets are named;
// each has a million coins. A request that fails is answered with {"error": ...}.

const fs = require('node:fs');
const path = require('node:path');
const readline = require('node:readline');
const { Address, Cell, beginCell, contractAddress, parseTuple, serializeTuple } = require('@ton/core');
const { Blockchain, Executor, createShardAccount } = require('@ton/sandbox');
const { follow } = require('./follow');
const { config2026 } = require('./network');

const cell = (base64) => Cell.fromBase64(base64);
const text = (value) => value.toBoc().toString('base64');
const raw = (address) => address?.toRawString() ?? null;

let chain;
let executor;
let configuration;
// What each transaction of the chain was made from, until somebody is told.
const witnessed = [];

const REQUESTS = {
    // A new world at a time, with the masterchain blocks that contracts can see.
    async start({ now, blocks }) {
        executor ??= await follow(await Executor.create());
        chain = await Blockchain.create({ config: config2026(), executor: witness });
        chain.now = now;
        chain.prevBlocks = blocks && seenBlocks(blocks);
        return {};
    },

    async time({ now, blocks }) {
        chain.now = now;
        if (blocks) chain.prevBlocks = seenBlocks(blocks);
        return {};
    },

    async wallet({ name }) {
        return { address: raw((await chain.treasury(name)).address) };
    },

    // A message from a named wallet, and all that follows from it.
    async send({ wallet, to, value, body, init, bounce = true }) {
        const sender = await chain.treasury(wallet);
        let state = init && { code: cell(init.code), data: cell(init.data) };
        if (state && await mutate(state)) {
            to = contractAddress(0, state).toRawString();
            state = undefined;
        }
        const { transactions } = await sender.send({
            to: to ? Address.parse(to) : contractAddress(0, state),
            value: BigInt(value),
            body: body ? cell(body) : beginCell().endCell(),
            init: state,
            bounce,
        });
        return { transactions: transactions.map(summary), ran: witnessed.splice(0) };
    },

    // A message whose sender is whoever the request says, as no wallet could.
    async forge({ from, to, value, body }) {
        const { transactions } = await chain.sendMessage({
            info: {
                type: 'internal', ihrDisabled: true, bounce: true, bounced: false,
                src: Address.parse(from), dest: Address.parse(to),
                value: { coins: BigInt(value) }, ihrFee: 0n, forwardFee: 0n, createdAt: 0, createdLt: 0n,
            },
            body: cell(body),
        });
        return { transactions: transactions.map(summary), ran: witnessed.splice(0) };
    },

    async get({ address, method, stack, gas }) {
        const result = await chain.runGetMethod(
            Address.parse(address), method, parseTuple(cell(stack)),
            { gasLimit: BigInt(gas ?? 100_000_000) },
        ).catch((error) => {
            if (error.exitCode === undefined) throw error;
            return { exitCode: error.exitCode, gasUsed: error.gasUsed ?? 0n, stack: [] };
        });
        return {
            exit: result.exitCode,
            gas: Number(result.gasUsed),
            stack: text(serializeTuple(result.stack)),
        };
    },

    // The configuration with the prices of 2026, and the code of wallet v5 (revision 1), for
    // a chain that is kept elsewhere.
    async genesis() {
        const { WalletContractV5R1 } = require('@ton/ton');
        const wallet = WalletContractV5R1.create({ publicKey: Buffer.alloc(32), workchain: 0 });
        return { config: text(config2026()), wallet: text(wallet.init.code) };
    },

    async configure({ config }) {
        executor ??= await Executor.create();
        configuration = config;
        return {};
    },

    // One transaction on an account that the caller keeps, or why there is none.
    async transact({ account, message, now, lt, blocks }) {
        const { result } = await executor.runTransaction({
            config: configuration,
            libs: null,
            verbosity: 'short',
            shardAccount: account,
            message: cell(message),
            now,
            lt: BigInt(lt),
            randomSeed: null,
            ignoreChksig: false,
            debugEnabled: false,
            prevBlocksInfo: {
                lastMcBlocks: blocks.last.map(blockId),
                prevKeyBlock: blockId(blocks.key),
                lastMcBlocks100: blocks.hundreds.map(blockId),
            },
        });
        return result.success
            ? { transaction: result.transaction, account: result.shardAccount }
            : { refused: result.error, exit: result.vmResults?.vmExitCode ?? null };
    },

    async state({ address }) {
        const { accountState, balance } = await chain.getContract(Address.parse(address));
        const active = accountState?.type === 'active' ? accountState.state : undefined;
        return {
            balance: balance.toString(),
            code: active?.code && text(active.code),
            data: active?.data && text(active.data),
        };
    },
};

// The executor, with all that a transaction was made from written down.
const witness = {
    runGetMethod: (of) => executor.runGetMethod(of),
    runTickTock: (of) => executor.runTickTock(of),
    async runTransaction(of) {
        const ran = await executor.runTransaction(of);
        if (ran.result.success) {
            witnessed.push({
                account: of.shardAccount,
                message: text(of.message),
                now: of.now,
                transaction: ran.result.transaction,
                after: ran.result.shardAccount,
            });
        }
        return ran;
    },
};

// Where a mutant is tested, puts it at the address of what it is a mutant of.
async function mutate({ code, data }) {
    const mutant = MUTANTS.get(code.hash().toString('hex'));
    if (!mutant) return false;
    const address = contractAddress(0, { code, data });
    if ((await chain.getContract(address)).accountState?.type === 'active') return false;
    await chain.setShardAccount(address, createShardAccount({ address, code: mutant, data, balance: 0n }));
    return true;
}

// By the hash of the code that they differ from.
function mutants(folder) {
    const codes = (from) => fs.readdirSync(from)
        .filter((file) => file.endsWith('.boc'))
        .map((file) => [file, Cell.fromBoc(fs.readFileSync(path.join(from, file)))[0]]);
    const changed = new Map(codes(path.join(folder, 'compiled')));
    const all = codes(path.join(__dirname, '..', 'compiled'));
    return new Map(all.map(([file, code]) => [code.hash().toString('hex'), changed.get(file)]));
}

function summary(transaction) {
    const { description, inMessage, outMessages, totalFees } = transaction;
    const compute = description.computePhase;
    const info = inMessage.info;
    return {
        from: raw(info.src),
        to: raw(info.dest),
        value: (info.value?.coins ?? 0n).toString(),
        body: text(inMessage.body),
        bounced: info.bounced ?? false,
        exit: compute?.type === 'vm' ? compute.exitCode : null,
        action: description.actionPhase?.resultCode ?? null,
        gas: compute?.type === 'vm' ? Number(compute.gasUsed) : 0,
        fees: (totalFees.coins + forwarding(description)).toString(),
        storage: (description.storagePhase?.storageFeesCollected ?? 0n).toString(),
        aborted: description.aborted ?? true,
        sent: outMessages.size,
    };
}

// What is paid for messages beyond what the sender's own transaction counts.
function forwarding({ actionPhase: action, bouncePhase: bounce }) {
    return (action?.totalFwdFees ?? 0n) - (action?.totalActionFees ?? 0n)
        + (bounce?.type === 'ok' ? bounce.forwardFees : 0n);
}

function seenBlocks({ last, roots }) {
    const block = (seqno) => ({
        workchain: -1,
        shard: -(1n << 63n),
        seqno,
        rootHash: Buffer.from(roots[seqno] ?? '00'.repeat(32), 'hex'),
        fileHash: Buffer.alloc(32),
    });
    const hundred = last - (last % 100);
    return {
        lastMcBlocks: Array.from({ length: 16 }, (_, i) => block(last - i)),
        prevKeyBlock: block(hundred),
        lastMcBlocks100: Array.from({ length: 16 }, (_, i) => block(hundred - 100 * i)),
    };
}

function blockId({ seqno, root, file }) {
    return {
        workchain: -1,
        shard: -(1n << 63n),
        seqno,
        rootHash: Buffer.from(root, 'hex'),
        fileHash: Buffer.from(file, 'hex'),
    };
}

async function answer(line) {
    const { request, ...arguments } = JSON.parse(line);
    return REQUESTS[request](arguments);
}

const MUTANTS = process.env.COCOON_MUTANT ? mutants(process.env.COCOON_MUTANT) : new Map();

(async () => {
    for await (const line of readline.createInterface({ input: process.stdin })) {
        const reply = await answer(line).catch((error) => ({ error: String(error.stack ?? error) }));
        process.stdout.write(`${JSON.stringify(reply)}\n`);
    }
})();
