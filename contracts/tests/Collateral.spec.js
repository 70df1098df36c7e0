const { beginCell } = require('@ton/core');
const { Collateral } = require('../wrappers/Collateral');
const { ATTEST, COIN, POSTS, REPORT_DATA, post, sendAs, start } = require('./world');

const { errors } = Collateral;

describe('Collateral', () => {
    let world;
    let collateral;
    let anyone;

    beforeEach(async () => {
        world = await start();
        ({ collateral, anyone } = world);
    });

    it('takes from anyone what Intel signed, and thanks for it', async () => {
        for (const { transactions } of await post(world)) {
            expect(transactions).toHaveTransaction({ to: collateral.address, success: true });
            expect(transactions).toHaveTransaction({ from: collateral.address, to: anyone.address });
        }
        const state = await collateral.getState();
        expect(state.qeIdentity).not.toBeNull();
        expect(state.families).toHaveLength(1);
    });

    it('believes nothing under another root', async () => {
        const production = world.chain.openContract(Collateral.create());
        await production.sendDeploy(anyone, COIN);
        const { transactions } = await production.sendPost(anyone, COIN, POSTS[1]);
        expect(transactions).toHaveTransaction({ to: production.address, exitCode: errors.Signature });
    });

    it('needs the CA before its list', async () => {
        const { transactions } = await collateral.sendPost(anyone, COIN, POSTS[2]);
        expect(transactions).toHaveTransaction({ to: collateral.address, exitCode: errors.Missing });
    });

    it('takes no list or document when its time is over', async () => {
        await post(world);
        world.chain.now += 60 * 24 * 3600;
        for (const index of [0, 2, 3, 4]) {
            const { transactions } = await collateral.sendPost(anyone, COIN, POSTS[index]);
            expect(transactions).toHaveTransaction({ to: collateral.address, exitCode: errors.Window });
        }
    });

    it('appraises a platform, and refuses one that it knows nothing of', async () => {
        const appraise = await world.node.getAppraise(ATTEST, REPORT_DATA);
        const ask = () => sendAs(world, world.node.address, collateral.address, appraise);
        expect((await ask()).transactions)
            .toHaveTransaction({ to: collateral.address, exitCode: errors.Missing });
        await post(world);
        expect((await ask()).transactions)
            .toHaveTransaction({ to: world.registry.address, op: 0x41444d31 });
    });

    it('refuses what it does not know, and takes coins', async () => {
        const strange = await collateral.sendPost(anyone, COIN, beginCell().storeUint(1, 32).endCell());
        expect(strange.transactions).toHaveTransaction({ to: collateral.address, exitCode: errors.Unknown });
        const coins = await collateral.sendPost(anyone, COIN, beginCell().endCell());
        expect(coins.transactions).toHaveTransaction({ to: collateral.address, success: true });
    });
});
