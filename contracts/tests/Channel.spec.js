const { toNano } = require('@ton/core');
const { keyPairFromSeed } = require('@ton/crypto');
const { Channel } = require('../wrappers/Channel');
const { COIN, NOW, builders, start } = require('./world');

const { errors } = Channel;
const PAYER_KEY = keyPairFromSeed(Buffer.alloc(32, 9));
const HOUR = 3600;

describe('Channel', () => {
    let world;
    let channel;
    let payer;
    let payee;

    beforeEach(async () => {
        world = await start();
        [payer, payee] = [world.owner, world.anyone];
        channel = world.chain.openContract(Channel.create({
            payer: payer.address, payee: payee.address, market: world.registry.address,
            key: PAYER_KEY.publicKey, fee: 0, until: NOW + 240 * HOUR, delay: 24 * HOUR,
        }));
        await channel.sendDeploy(payer, 10n * COIN);
    });

    const claim = (voucher) => channel.sendClaim(payee, toNano('0.1'), {
        secretKey: PAYER_KEY.secretKey, amount: COIN, tokens: 1_000_000n, cap: COIN,
        epoch: Math.floor(NOW / HOUR), ...voucher,
    });
    const refuses = (sent, error) => expect(sent.transactions)
        .toHaveTransaction({ to: channel.address, exitCode: errors[error] });

    it('pays what a voucher is worth, once, and the difference for the next', async () => {
        const paid = (sent, atLeast) => expect(sent.transactions).toHaveTransaction({
            from: channel.address, to: payee.address,
            value: (value) => value > atLeast && value < atLeast + toNano('0.1'),
        });
        paid(await claim({}), COIN);
        refuses(await claim({}), 'Nothing');
        paid(await claim({ amount: 3n * COIN, tokens: 3_000_000n }), 2n * COIN);
    });

    it.each([
        ['signed by another', { secretKey: builders[0].secretKey }, 'Signature'],
        ['for another network', { globalId: -3 }, 'Target'],
        ['of an epoch to come', { epoch: Math.floor(NOW / HOUR) + 1 }, 'Epoch'],
        ['above its own cap', { tokens: 999_999n }, 'Cap'],
    ])('refuses a voucher %s', async (_, voucher, error) => {
        refuses(await claim(voucher), error);
    });

    it('is closed by the payer after the delay, and by the payee now', async () => {
        await channel.sendClose(payer, COIN);
        refuses(await channel.sendClose(payer, COIN), 'Closing');
        await claim({});
        world.chain.now += 24 * HOUR;
        refuses(await claim({ amount: 2n * COIN, tokens: 2_000_000n }), 'Ended');
        refuses(await channel.sendTopUp(payer, COIN), 'Ended');
        const { transactions } = await channel.sendClose(payee, COIN);
        expect(transactions).toHaveTransaction({
            from: channel.address, to: payer.address, value: (value) => value > 8n * COIN,
        });
    });
});
