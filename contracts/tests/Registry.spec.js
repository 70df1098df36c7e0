const { beginCell } = require('@ton/core');
const { Registry } = require('../wrappers/Registry');
const {
    BUILD, COIN, DELAY, FOREVER, change, enact, publish, sendAs, signedBy, start,
} = require('./world');

const { errors } = Registry;
const RECORD = { manifest: 3n, version: 1, roles: 1, until: FOREVER };

describe('Registry', () => {
    let world;
    let registry;
    let anyone;

    beforeEach(async () => {
        world = await start();
        ({ registry, anyone } = world);
    });

    const decide = (order) => registry.sendDecide(anyone, COIN, {
        turn: 0, change: change.putBuild(BUILD, RECORD), signers: signedBy(0, 1), ...order,
    });

    it('publishes a build that two builders signed, after a day', async () => {
        await decide({});
        expect((await registry.getState()).builds.size).toBe(0);
        const early = await registry.sendApply(anyone, COIN, 0);
        expect(early.transactions).toHaveTransaction({ to: registry.address, exitCode: errors.NotYet });
        world.chain.now += DELAY;
        const applied = await registry.sendApply(anyone, COIN, 0);
        expect(applied.transactions).toHaveTransaction({ to: registry.address, success: true });
        expect((await registry.getState()).builds.get(BUILD)).toEqual(RECORD);
    });

    it.each([
        ['one builder', { signers: signedBy(0) }, 'Signatures'],
        ['nobody', { signers: {} }, 'Signatures'],
        ['a stranger', { signers: { 0: signedBy(1)[1], 1: signedBy(1)[1] } }, 'Signatures'],
        ['another turn', { turn: 1 }, 'Order'],
        ['another network', { globalId: -3 }, 'Order'],
        ['too late', { validUntil: 1 }, 'Late'],
        ['nothing to cancel', { change: change.cancel(7) }, 'Missing'],
        ['nothing to end', { change: change.endBuild(1n, 0) }, 'Missing'],
    ])('refuses %s', async (_, order, error) => {
        const { transactions } = await decide(order);
        expect(transactions).toHaveTransaction({ to: registry.address, exitCode: errors[error] });
        expect((await registry.getState()).turn).toBe(0);
    });

    it('ends a build at once, and never later than it would', async () => {
        await publish(world);
        const end = (until) => registry.sendDecide(anyone, COIN, {
            turn: 2, change: change.endBuild(BUILD, until), signers: signedBy(1, 2),
        });
        const later = await end(FOREVER);
        expect(later.transactions).toHaveTransaction({ to: registry.address, exitCode: errors.Later });
        await end(5);
        expect((await registry.getState()).builds.get(BUILD).until).toBe(5n);
    });

    it('listens to Collateral alone, and gives the value back', async () => {
        const software = beginCell()
            .storeUint(BUILD, 256).storeUint(0, 16 + 48).storeUint(0, 384).storeUint(0, 128 + 2)
            .endCell();
        const admit = beginCell()
            .storeUint(0x41444d31, 32).storeUint(0, 64).storeAddress(world.owner.address)
            .storeUint(0, 8 + 32 + 40).storeRef(software).storeRef(beginCell().endCell())
            .endCell();
        const forged = await sendAs(world, anyone.address, registry.address, admit);
        expect(forged.transactions).toHaveTransaction({ to: registry.address, exitCode: errors.Sender });
        expect(forged.transactions).toHaveTransaction({ to: anyone.address, inMessageBounced: true });
        const unknown = await sendAs(world, world.collateral.address, registry.address, admit);
        expect(unknown.transactions).toHaveTransaction({ to: registry.address, exitCode: errors.Build });
    });

    it('refuses a change that nobody knows, and takes coins', async () => {
        const strange = await enact(world, beginCell().storeUint(1, 32).endCell());
        expect(strange.transactions).toHaveTransaction({ to: registry.address, exitCode: errors.Unknown });
        const coins = await sendAs(world, anyone.address, registry.address, beginCell().endCell());
        expect(coins.transactions).toHaveTransaction({ to: registry.address, success: true });
    });
});
