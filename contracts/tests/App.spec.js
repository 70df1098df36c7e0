const { Address, beginCell, toNano } = require('@ton/core');
const { App } = require('../wrappers/App');
const { COIN, HOUR, sendAs, start } = require('./world');

const { errors } = App;
const DEMAND = 0x44454d41;
const EXCESSES = 0xd53276db;

describe('App', () => {
    let world;
    let app;
    let owner;
    let anyone;

    beforeEach(async () => {
        world = await start();
        ({ anyone, owner } = world);
        app = world.chain.openContract(App.create({ owner: owner.address }));
        await app.sendDeploy(owner, COIN);
    });

    const want = (via, change) => app.sendWant(via, COIN, {
        market: world.registry.address, model: 6n, requestsPerDay: 2400, tokensPerRequest: 100, ...change,
    });
    const refuses = (sent, error) => expect(sent.transactions)
        .toHaveTransaction({ to: app.address, exitCode: errors[error], success: false });

    it('is asked and left by its owner alone', async () => {
        refuses(await want(anyone), 'Sender');
        refuses(await app.sendLeave(anyone, COIN), 'Sender');
        refuses(await app.sendDeclare(anyone, COIN), 'Absent');
        await want(owner);
        expect((await app.getState()).wanted).not.toBeNull();
    });

    it('says by the hour what it wants, and what it has to pay for it', async () => {
        await want(owner);
        const { transactions } = await app.sendDeclare(anyone, COIN);
        expect(transactions).toHaveTransaction({
            from: app.address, to: world.registry.address, op: DEMAND,
            body: (body) => {
                const demand = body.beginParse().skip(32 + 64 + 32);
                expect(demand.loadAddress().equals(owner.address)).toBe(true);
                expect(demand.loadUintBig(256)).toBe(6n);
                expect(demand.loadUintBig(64)).toBe(10_000n);
                // Both coins are there but for gas.
                expect(demand.loadUintBig(64)).toBeGreaterThan(2n * COIN - toNano('0.01'));
                return true;
            },
        });
        refuses(await app.sendDeclare(anyone, COIN), 'Declared');
        refuses(await app.sendLeave(owner, COIN), 'Declared');
    });

    it.each([
        ['refuses it', (world) => world.registry.address],
        ['is not there', () => new Address(0, Buffer.alloc(32, 3))],
    ])('gives the value back to its owner where the Market %s', async (_, market) => {
        await want(owner, { market: market(world) });
        const { transactions } = await app.sendDeclare(anyone, COIN);
        expect(transactions).toHaveTransaction({ to: app.address, inMessageBounced: true, success: true });
        expect(transactions).toHaveTransaction({
            from: app.address, to: owner.address, op: EXCESSES, value: (value) => value > COIN * 98n / 100n,
        });
    });

    it('gives all of it back an hour later, and is gone', async () => {
        await want(owner);
        await app.sendDeclare(anyone, COIN);
        world.chain.now += HOUR;
        const { transactions } = await app.sendLeave(owner, COIN);
        expect(transactions).toHaveTransaction({
            from: app.address, to: owner.address, op: EXCESSES, value: (value) => value > 2n * COIN,
        });
        expect((await world.chain.getContract(app.address)).balance).toBe(0n);
    });

    it('refuses what it does not know, and takes coins as deposit', async () => {
        const strange = await sendAs(world, anyone.address, app.address, beginCell().storeUint(1, 32).endCell());
        refuses(strange, 'Unknown');
        const coins = await sendAs(world, anyone.address, app.address, beginCell().endCell());
        expect(coins.transactions).toHaveTransaction({ to: app.address, success: true });
    });
});
