// Collateral, Registry and a Node, as they are deployed, and evidence for them.

const path = require('node:path');
const { Cell, toNano } = require('@ton/core');
const { keyPairFromSeed } = require('@ton/crypto');
const { Blockchain, Executor } = require('@ton/sandbox');
require('@ton/test-utils');
const { follow } = require('../tools/follow');
const { config2026 } = require('../tools/network');
const { Collateral } = require('../wrappers/Collateral');
const { Node } = require('../wrappers/Node');
const { FOREVER, Registry, change } = require('../wrappers/Registry');
const fixture = require(path.join(__dirname, 'fixtures', 'attestation.json'));

const NOW = fixture.now;
const HOUR = 3600;
const DELAY = 24 * HOUR;
const COIN = toNano('1');
// What the published configuration serves.
const MODEL = 6n;
const BUILD = BigInt(`0x${fixture.build}`);
const CONFIGURATION = BigInt(`0x${fixture.configuration}`);
const POSTS = fixture.posts.map((post) => Cell.fromBase64(post));
const ATTEST = Cell.fromBase64(fixture.attest);
const REPORT_DATA = Buffer.from(fixture.reportData, 'hex');

const builders = [0, 1, 2].map((number) => keyPairFromSeed(Buffer.alloc(32, number + 1)));
const signedBy = (...numbers) =>
    Object.fromEntries(numbers.map((number) => [number, builders[number]]));

async function start() {
    const chain = await Blockchain.create({ config: config2026(), executor: await follow(await Executor.create()) });
    chain.now = NOW;
    const [anyone, owner, deployer] = await chain.createWallets(3);
    const open = async (contract) => {
        const opened = chain.openContract(contract);
        await opened.sendDeploy(deployer.getSender(), COIN);
        return opened;
    };
    const collateral = await open(Collateral.create('collateral-test'));
    const registry = await open(Registry.create({
        collateral: collateral.address, builders, threshold: 2, delay: DELAY, lifetime: 7 * DELAY,
    }));
    const node = await open(Node.create({
        owner: owner.address, collateral: collateral.address, registry: registry.address,
    }));
    return { chain, anyone: anyone.getSender(), owner: owner.getSender(), collateral, registry, node };
}

// Everything that Intel says of the platform.
async function post({ collateral, anyone }) {
    const sent = [];
    for (const body of POSTS) sent.push(await collateral.sendPost(anyone, COIN, body));
    return sent;
}

// Decided by two builders, and applied after the delay.
async function enact({ chain, registry, anyone }, decision) {
    const { turn } = await registry.getState();
    await registry.sendDecide(anyone, COIN, { turn, change: decision, signers: signedBy(0, 1) });
    chain.now += DELAY;
    return registry.sendApply(anyone, COIN, turn);
}

async function publish(world) {
    const build = { manifest: 0n, version: 1, roles: 1, until: FOREVER };
    await enact(world, change.putBuild(BUILD, build));
    await enact(world, change.putConfiguration(CONFIGURATION, { model: MODEL, until: FOREVER }));
}

// What the Node asks once it has verified the quote; a claim for this Node is made in Rust.
async function appraise(world) {
    const asked = await world.node.getAppraise(ATTEST, REPORT_DATA);
    return sendAs(world, world.node.address, world.collateral.address, asked);
}

// As only that contract can send it. The fee is where TVM 12 asks for the new form of
// bounces.
async function sendAs({ chain }, from, to, body) {
    return chain.sendMessage({
        info: {
            type: 'internal', ihrDisabled: true, bounce: true, bounced: false,
            src: from, dest: to, value: { coins: COIN },
            ihrFee: 1n, forwardFee: 0n, createdAt: 0, createdLt: 0n,
        },
        body,
    });
}

module.exports = {
    ATTEST, BUILD, COIN, CONFIGURATION, DELAY, FOREVER, HOUR, MODEL, NOW, POSTS, REPORT_DATA,
    appraise, builders, change, enact, post, publish, sendAs, signedBy, start,
};
