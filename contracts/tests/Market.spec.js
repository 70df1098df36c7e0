const { beginCell, toNano } = require('@ton/core');
const { keyPairFromSeed } = require('@ton/crypto');
const { App } = require('../wrappers/App');
const { Channel } = require('../wrappers/Channel');
const { Market } = require('../wrappers/Market');
const { Node } = require('../wrappers/Node');
const { COIN, HOUR, MODEL, NOW, appraise, post, publish, sendAs, start } = require('./world');

const { errors } = Market;
const PAYER_KEY = keyPairFromSeed(Buffer.alloc(32, 9));
const EXCESSES = 0xd53276db;
const REFUSED = 0x52454655;
const TOTALS = 0x544f5441;
const STAKE = 10n * COIN;
// Of tokens, what one worker serves in an hour.
const CAPACITY = 10_000_000n;

describe('Market', () => {
    let world;
    let market;
    let node;
    let anyone;
    let owner;

    // With an attested Node, in the hour that it is.
    beforeEach(async () => {
        world = await start();
        ({ node, anyone, owner } = world);
        await publish(world);
        await post(world);
        await appraise(world);
        market = world.chain.openContract(Market.create({
            epoch: hour(), price: COIN, model: MODEL, gpu: 'H100', capacity: CAPACITY, stake: STAKE,
            ceiling: 100n * COIN, collateral: world.collateral.address, registry: world.registry.address,
        }));
        await market.sendDeploy(owner, COIN);
    });

    const hour = () => Math.floor(world.chain.now / HOUR);
    const refuses = (sent, error) => expect(sent.transactions)
        .toHaveTransaction({ to: market.address, exitCode: errors[error], success: false });

    const present = async (change, stake = STAKE + COIN) => {
        await node.sendOffer(owner, stake, {
            gpu: 'H100', memoryGib: 80, hoursPerWeek: 168, ask: COIN / 2n, market: market.address, ...change,
        });
        return node.sendPresent(anyone, COIN);
    };
    const app = async (change) => {
        const opened = world.chain.openContract(App.create({ owner: owner.address }));
        await opened.sendDeploy(owner, COIN);
        await opened.sendWant(owner, 1000n * COIN, {
            market: market.address, model: MODEL, requestsPerDay: 24_000, tokensPerRequest: 1000, ...change,
        });
        return opened.sendDeclare(anyone, COIN);
    };
    const presence = (epoch) => beginCell()
        .storeUint(0x50524553, 32).storeUint(1, 64).storeUint(epoch, 32)
        .storeAddress(owner.address).storeUint(MODEL, 256).storeCoins(STAKE)
        .storeRef(beginCell().endCell())
        .endCell();
    // A Channel that has paid forty coins for as many million tokens.
    const channel = async (change) => {
        const opened = world.chain.openContract(Channel.create({
            payer: owner.address, payee: anyone.address, market: market.address, key: PAYER_KEY.publicKey,
            fee: 10, until: NOW + 240 * HOUR, delay: 24 * HOUR, ...change,
        }));
        await opened.sendDeploy(owner, 100n * COIN);
        await opened.sendClaim(anyone, COIN, voucher());
        return opened;
    };
    const voucher = () => ({
        secretKey: PAYER_KEY.secretKey, amount: 40n * COIN, tokens: 40_000_000n, cap: COIN, epoch: hour(),
    });

    it('counts Nodes, Channels and Apps, and makes a price of them', async () => {
        expect((await present()).transactions)
            .toHaveTransaction({ from: market.address, to: owner.address, op: EXCESSES });
        expect((await app()).transactions)
            .toHaveTransaction({ from: market.address, to: owner.address, op: EXCESSES });
        const { transactions } = await (await channel()).sendReport(anyone, COIN, voucher());
        // Half of a hundredth of what was paid is for who reports it.
        const share = 40n * COIN / 200n;
        expect(transactions).toHaveTransaction({
            from: market.address, to: anyone.address,
            value: (value) => value > COIN + share - toNano('0.02') && value < COIN + share,
        });
        expect(await market.getState()).toMatchObject({
            workers: 1n, wanted: 1_000_000n, tokens: 40_000_000n, amount: 40n * COIN, reports: 1n, price: COIN,
        });

        world.chain.now += HOUR;
        const ended = await market.sendStep(anyone, COIN);
        expect(ended.externals[0].body.beginParse().loadUint(32)).toBe(TOTALS);
        // A quarter of it is ten million tokens: all that one worker serves.
        expect(await market.getState()).toMatchObject({ workers: 0n, reports: 0n, price: COIN + COIN / 12n });
    });

    it('gives a Node that it does not count back to its owner', async () => {
        const sent = await present({ gpu: 'H200' });
        refuses(sent, 'Class');
        expect(sent.transactions).toHaveTransaction({
            from: market.address, to: node.address, inMessageBounced: true, success: true,
        });
        expect(sent.transactions).toHaveTransaction({
            from: node.address, to: owner.address, op: REFUSED, value: (value) => value > COIN * 98n / 100n,
        });
        expect((await market.getState()).workers).toBe(0n);
    });

    it('gives an App that it does not count back to its owner', async () => {
        const sent = await app({ model: 7n });
        refuses(sent, 'Class');
        expect(sent.transactions).toHaveTransaction({ inMessageBounced: true, success: true });
        expect(sent.transactions).toHaveTransaction({
            to: owner.address, op: EXCESSES, value: (value) => value > COIN * 98n / 100n,
        });
    });

    it('gives a report of a Channel without a fee back to its reporter, and it is taken back', async () => {
        const free = await channel({ fee: 0 });
        const before = await free.getState();
        const sent = await free.sendReport(anyone, COIN, voucher());
        refuses(sent, 'Terms');
        expect(sent.transactions).toHaveTransaction({
            from: market.address, to: free.address, inMessageBounced: true, success: true,
        });
        expect(sent.transactions).toHaveTransaction({
            from: free.address, to: anyone.address, op: EXCESSES, value: (value) => value > COIN * 98n / 100n,
        });
        expect(await free.getState()).toEqual(before);
    });

    it('hears a Node with a stake, once an hour, about this hour', async () => {
        const poor = await present({}, COIN);
        refuses(poor, 'Stake');
        world.chain.now += HOUR;
        expect((await present()).transactions)
            .toHaveTransaction({ from: node.address, to: market.address, success: true });
        expect((await node.sendPresent(anyone, COIN)).transactions)
            .toHaveTransaction({ to: node.address, exitCode: Node.errors.Presented });
        refuses(await sendAs(world, node.address, market.address, presence(hour() - 1)), 'Epoch');
    });

    it('believes nobody who only says what a Node, a Channel, an App would', async () => {
        const redeemed = beginCell()
            .storeUint(0x52454445, 32).storeUint(1, 64).storeUint(0, 3 * 64 + 256)
            .storeAddress(anyone.address).storeRef(beginCell().endCell());
        const demand = beginCell()
            .storeUint(0x44454d41, 32).storeUint(1, 64).storeUint(hour(), 32)
            .storeAddress(anyone.address).storeUint(MODEL, 256).storeUint(1, 2 * 64);
        for (const body of [presence(hour()), redeemed.endCell(), demand.endCell()]) {
            const sent = await sendAs(world, anyone.address, market.address, body);
            refuses(sent, 'Sender');
            expect(sent.transactions).toHaveTransaction({ to: anyone.address, inMessageBounced: true });
        }
    });

    it('ends an hour when it is over, for a bounty', async () => {
        refuses(await market.sendStep(anyone, COIN), 'Early');
        world.chain.now += HOUR;
        expect((await market.sendStep(anyone, COIN)).transactions).toHaveTransaction({
            from: market.address, to: anyone.address, op: EXCESSES, value: (value) => value > COIN,
        });
    });

    it('refuses what it does not know, and takes coins for bounties', async () => {
        const strange = await sendAs(world, anyone.address, market.address, beginCell().storeUint(1, 32).endCell());
        refuses(strange, 'Unknown');
        const coins = await sendAs(world, anyone.address, market.address, beginCell().endCell());
        expect(coins.transactions).toHaveTransaction({ to: market.address, success: true });
    });
});
