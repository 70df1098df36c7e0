const { beginCell, toNano } = require('@ton/core');
const { Node } = require('../wrappers/Node');
const {
    ATTEST, COIN, DELAY, appraise, post, publish, sendAs, start,
} = require('./world');

const { errors } = Node;
const REFUSED = 0x52454655;
const EXCESSES = 0xd53276db;

describe('Node', () => {
    let world;
    let node;
    let anyone;
    let owner;

    beforeEach(async () => {
        world = await start();
        ({ node, anyone, owner } = world);
    });

    const offer = { gpu: 'H100', memoryGib: 80, hoursPerWeek: 168, ask: 5n };
    const refuses = (sent, error) => expect(sent.transactions)
        .toHaveTransaction({ to: node.address, exitCode: errors[error] });
    const ask = () => appraise(world);

    it('is attested when Collateral and Registry agree', async () => {
        await publish(world);
        await post(world);
        const { transactions } = await ask();
        expect(transactions).toHaveTransaction({ from: world.registry.address, to: node.address, success: true });
        expect(transactions).toHaveTransaction({ to: owner.address, op: EXCESSES });
        const state = await node.getState();
        expect(state.attestation).not.toBeNull();
        expect(state.seqno).toBe(40000);
        refuses(await ask(), 'Replay');
    });

    it('tells the owner who refused, with the value that is left', async () => {
        const refused = await ask();
        expect(refused.transactions).toHaveTransaction({ from: world.collateral.address, to: node.address, inMessageBounced: true });
        expect(refused.transactions).toHaveTransaction({
            from: node.address, to: owner.address, op: REFUSED,
            value: (value) => value > COIN * 95n / 100n,
        });
        await post(world);
        const { transactions } = await ask();
        expect(transactions).toHaveTransaction({ from: world.registry.address, to: world.collateral.address, inMessageBounced: true });
        expect(transactions).toHaveTransaction({ from: node.address, to: owner.address, op: REFUSED });
        expect((await node.getState()).attestation).toBeNull();
    });

    it('verifies a quote to the last byte', async () => {
        await expect(node.getAppraise(ATTEST, Buffer.alloc(64))).rejects.toThrow(/101/);
        refuses(await node.sendAttest(anyone, COIN, ATTEST), 'ClaimTarget');
        refuses(await node.sendAttest(anyone, toNano('0.02'), ATTEST), 'Value');
    });

    it.each([
        ['an admission', beginCell().storeUint(0x41444d32, 32).storeUint(0, 64).storeRef(beginCell().endCell())],
        ['a refusal', beginCell().storeUint(REFUSED, 32).storeUint(0, 96)],
        ['an offer', beginCell().storeUint(0x4f464652, 32).storeUint(0, 64).storeRef(beginCell().endCell())],
        ['leaving', beginCell().storeUint(0x4c454156, 32).storeUint(0, 64)],
        ['withdrawing', beginCell().storeUint(0x57495448, 32).storeUint(0, 64)],
    ])('takes %s from nobody else', async (_, body) => {
        const sent = await sendAs(world, anyone.address, node.address, body.endCell());
        refuses(sent, 'Sender');
        expect(sent.transactions).toHaveTransaction({ to: anyone.address, inMessageBounced: true });
    });

    it('lets the owner offer, leave, and take the stake after a day', async () => {
        await node.sendOffer(owner, 10n * COIN, { ...offer, market: anyone.address });
        refuses(await node.sendPresent(anyone, COIN), 'Absent');
        refuses(await node.sendWithdraw(owner, COIN), 'NotYet');
        await node.sendLeave(owner, COIN);
        refuses(await node.sendOffer(owner, COIN, { ...offer, market: anyone.address }), 'Leaving');
        refuses(await node.sendWithdraw(owner, COIN), 'NotYet');
        world.chain.now += DELAY;
        const { transactions } = await node.sendWithdraw(owner, COIN);
        expect(transactions).toHaveTransaction({
            from: node.address, to: owner.address, op: EXCESSES,
            value: (value) => value > 10n * COIN,
        });
        expect((await node.getState()).host).toBeNull();
    });

    it('refuses what it does not know, and takes coins as stake', async () => {
        const strange = await sendAs(world, anyone.address, node.address, beginCell().storeUint(1, 32).endCell());
        refuses(strange, 'Unknown');
        const coins = await sendAs(world, anyone.address, node.address, beginCell().endCell());
        expect(coins.transactions).toHaveTransaction({ to: node.address, success: true });
    });
});
