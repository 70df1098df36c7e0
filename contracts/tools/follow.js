// Which places of the sources a test reaches: where COCOON_REACHED names a file, an
// executor adds to it the number of each one, once. See cover.js.
//
// A contract runs as it is. What it is sent, its twin is sent too, in the same state and
// with the same coins, and what the twin does is forgotten but for the numbers that it
// says. It needs more gas, so where little is left it ends sooner.

const fs = require('node:fs');
const path = require('node:path');
const {
    Cell, beginCell, loadMessage, loadShardAccount, loadTransaction, storeShardAccount,
} = require('@ton/core');
const { Executor, createShardAccount } = require('@ton/sandbox');

const OUT_OF_GAS = -14;
// A shorter log has only the end of what was said.
const LOUD = { verbosity: 'full', debugEnabled: true };
const SAID = /^#DEBUG#: s0 = (\d+)$/gm;

async function follow(executor, file = process.env.COCOON_REACHED) {
    if (!file) return executor;
    const beside = await Executor.create();
    const twinOf = finder(path.dirname(file));
    const seen = new Set();
    const say = (line) => {
        if (!seen.has(line)) fs.appendFileSync(file, `${line}\n`);
        seen.add(line);
    };
    const hear = (build, logs) => {
        for (const [, place] of logs.matchAll(SAID)) say(`${build} ${place}`);
    };
    return {
        runTickTock: (of) => executor.runTickTock(of),
        async runGetMethod(of) {
            const twin = twinOf(of.code);
            if (twin) {
                const { debugLogs } = await beside.runGetMethod({ ...of, ...LOUD, code: twin.code });
                hear(twin.build, debugLogs);
            }
            return executor.runGetMethod(of);
        },
        async runTransaction(of) {
            const ran = await executor.runTransaction(of);
            const [twin, shardAccount] = withTwin(twinOf, of);
            if (twin) {
                const { result, debugLogs } = await beside.runTransaction({ ...of, ...LOUD, shardAccount });
                hear(twin.build, debugLogs);
                if (![exit(ran.result), OUT_OF_GAS].includes(exit(result))) say(`${twin.build} strays`);
            }
            return ran;
        },
    };
}

// Of a code, where twins.js has made one.
function finder(folder) {
    const known = new Map();
    return (code) => {
        const hash = code?.hash().toString('hex');
        const file = path.join(folder, `${hash}.twin`);
        if (!known.has(hash) && fs.existsSync(file)) {
            const twin = JSON.parse(fs.readFileSync(file, 'utf8'));
            known.set(hash, { ...twin, code: Cell.fromBase64(twin.code) });
        }
        return known.get(hash);
    };
}

// The account with its twin's code, also where the message is what makes it.
function withTwin(twinOf, { shardAccount, message, now }) {
    const account = loadShardAccount(Cell.fromBase64(shardAccount).beginParse());
    const state = account.account?.storage.state;
    if (state?.type === 'active') {
        const twin = twinOf(state.state.code);
        if (twin) state.state.code = twin.code;
        return [twin, text(account)];
    }
    const { init, info } = loadMessage(message.beginParse());
    const twin = init?.code && twinOf(init.code);
    if (!twin) return [];
    const balance = account.account?.storage.balance.coins ?? 0n;
    const made = createShardAccount({ address: info.dest, code: twin.code, data: init.data, balance });
    made.account.storageStats.lastPaid = now;
    return [twin, text(made)];
}

function exit({ success, transaction }) {
    if (!success) return null;
    const { description } = loadTransaction(Cell.fromBase64(transaction).beginParse());
    return description.computePhase?.exitCode ?? null;
}

const text = (account) => beginCell().store(storeShardAccount(account)).endCell().toBoc().toString('base64');

module.exports = { follow };
