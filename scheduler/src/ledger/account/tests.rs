use super::*;

use contracts::channel::Closed;
use contracts::voucher::Forged;
use proptest::collection::vec;
use proptest::prelude::*;
use tycho_types::models::StdAddr;

use crate::ledger::due::LOOK;
use crate::ledger::fixture::*;

const MILLION_TOKENS: u64 = 1_000_000;

fn order(limit: u64, exposure: u64) -> Order {
    Order {
        limit,
        price: PRICE,
        exposure,
        claimed: 0,
    }
}

/// A client that has signed for so many coins of ten, and a worker with ten.
fn pair(coins: u64) -> (Account, Account) {
    let mut of_client = Account::new(client(1), holding(10 * PRICE), GLOBAL_ID, NOW);
    let of_worker = Account::new(worker(101), holding(10 * PRICE), GLOBAL_ID, NOW);
    if coins > 0 {
        let signed = sign(1, &voucher(&of_client.channel, coins * MILLION_TOKENS));
        assert_eq!(of_client.receive(&signed, NOW), Ok(true));
    }
    (of_client, of_worker)
}

fn try_admit(pair: &mut (Account, Account), order: &Order) -> Result<Voucher, AdmitError> {
    admit(&mut pair.0, &mut pair.1, order, HashBytes::ZERO, NOW)
}

#[test]
fn a_voucher_counts_that_the_contract_would_pay_and_that_its_channel_covers() {
    let (mut account, _) = pair(2);
    let good = voucher(&account.channel, 3 * MILLION_TOKENS);
    let other = voucher(&client(2), 3 * MILLION_TOKENS);
    let with = |change: fn(&mut Voucher)| {
        let mut changed = good.clone();
        change(&mut changed);
        sign(1, &changed)
    };
    let above = voucher(&account.channel, 10 * MILLION_TOKENS + 1000);
    let mut refused = |signed: &Signed, error: VoucherError| {
        assert_eq!(account.receive(signed, NOW), Err(error));
    };
    refused(&sign(2, &good), Refusal::from(Forged::Signature).into());
    refused(&sign(1, &other), Refusal::Target.into());
    refused(&with(|one| one.global_id = -239), Refusal::Target.into());
    refused(&with(|one| one.epoch += 1), Refusal::Epoch.into());
    refused(&with(|one| one.tokens -= 1), Refusal::Cap.into());
    let error = VoucherError::Funds {
        amount: 10 * PRICE + 1_000_000,
        funds: 10 * PRICE,
    };
    refused(&sign(1, &above), error);
    assert_eq!(account.voucher.amount, 2 * PRICE, "none of them counts");
    assert_eq!(account.receive(&sign(1, &good), NOW), Ok(true));
    assert_eq!(account.receive(&sign(1, &good), NOW), Ok(false), "again");
    let older = sign(1, &voucher(&account.channel, MILLION_TOKENS));
    assert_eq!(account.receive(&older, NOW), Ok(false));
    assert_eq!(account.voucher, good);
}

#[test]
fn a_channel_that_nobody_has_looked_at_for_long_may_be_closing() {
    let mut two = pair(2);
    let last = NOW + DELAY - MARGIN;
    let one = order(1, PRICE);
    let mut at = |now| admit(&mut two.0, &mut two.1, &one, HashBytes::ZERO, now);
    assert!(at(last - 1).is_ok());
    let ends = NOW + DELAY;
    assert_eq!(at(last), Err(AdmitError::ClientEnds { ends }));
    let late = two.0.receive(&sign(1, &two.0.voucher.clone()), last);
    assert_eq!(late, Err(VoucherError::Ended { ends }));
    two.0.seen = last;
    assert!(admit(&mut two.0, &mut two.1, &one, HashBytes::ZERO, last).is_ok());
}

#[test]
fn a_higher_cap_counts_though_all_was_claimed() {
    let (mut account, _) = pair(2);
    account.channel.state.paid = 2 * PRICE;
    let mut dearer = account.voucher.clone();
    dearer.cap += 1;
    assert_eq!(account.receive(&sign(1, &dearer), NOW), Ok(true));
    assert_eq!(account.voucher.cap, PRICE + 1);
}

#[test]
fn what_is_not_covered_is_not_admitted() {
    let mut two = pair(2);
    let error = try_admit(&mut two, &order(2_000_001, 0)).unwrap_err();
    let text = "the request may cost 2000001000, and the client's vouchers cover 2000000000 more";
    assert_eq!(error.to_string(), text);
    let dear = Order {
        price: PRICE + 1,
        ..order(1, 0)
    };
    let error = try_admit(&mut two, &dear).unwrap_err();
    assert_eq!(
        error,
        AdmitError::Price {
            found: PRICE + 1,
            cap: PRICE
        }
    );
    for (limit, price) in [
        (1, 1 << 63),
        (MOST_TOKENS, u64::MAX >> 1),
        (MOST_TOKENS + 1, 0),
    ] {
        let much = Order {
            price,
            ..order(limit, 0)
        };
        assert_eq!(try_admit(&mut two, &much), Err(AdmitError::Overflow));
    }
    two.1.balance = holding(PRICE);
    let error = try_admit(&mut two, &order(2 * MILLION_TOKENS, 0)).unwrap_err();
    let (amount, funds) = (2 * PRICE, PRICE);
    assert_eq!(error, AdmitError::Unfunded { amount, funds });
    two.1.channel.state.ends = NOW + MARGIN;
    let error = try_admit(&mut two, &order(1, 0)).unwrap_err();
    assert_eq!(error, AdmitError::WorkerEnds { ends: NOW + MARGIN });
    two.0.channel.state.ends = NOW + MARGIN;
    let error = try_admit(&mut two, &order(1, 0)).unwrap_err();
    assert_eq!(error, AdmitError::ClientEnds { ends: NOW + MARGIN });
    assert_eq!(two.0.reserved, Sum::default(), "nothing of it is reserved");
}

#[test]
fn a_worker_that_was_given_nothing_back_gets_no_second_voucher() {
    let mut two = pair(4);
    let one = order(MILLION_TOKENS, 0);
    let first = try_admit(&mut two, &one).unwrap();
    assert_eq!((first.amount, first.tokens), (PRICE, MILLION_TOKENS));
    let error = try_admit(&mut two, &one).unwrap_err();
    let (out, allowed) = (2 * PRICE, PRICE);
    assert_eq!(error, AdmitError::Exposed { out, allowed });
    let second = try_admit(&mut two, &order(MILLION_TOKENS, 2 * PRICE)).unwrap();
    assert_eq!(second.amount, 2 * PRICE, "as far as it is trusted");

    // It never answered. What it holds pays for its next two requests.
    for _ in 0..2 {
        settle(&mut two.0, &mut two.1, &one, 0).unwrap();
    }
    assert_eq!(try_admit(&mut two, &one), Ok(second.clone()));
    assert_eq!(try_admit(&mut two, &one), Ok(second));
    assert_eq!(two.1.spent, Sum::default());
}

#[test]
fn what_a_worker_earned_unseen_is_paid_as_far_as_it_is_trusted() {
    let mut two = pair(4);
    let more = |exposure| Order {
        claimed: PRICE,
        ..order(MILLION_TOKENS, exposure)
    };
    let error = try_admit(&mut two, &more(0)).unwrap_err();
    let (out, allowed) = (2 * PRICE, PRICE);
    assert_eq!(error, AdmitError::Exposed { out, allowed });
    let voucher = try_admit(&mut two, &more(2 * PRICE)).unwrap();
    assert_eq!(voucher.amount, 2 * PRICE);
    assert!(voucher.keeps_its_cap());
}

/// What happens to two clients, two workers and the chain.
#[derive(Clone, Debug)]
enum Event {
    /// A client signs for so many more tokens than it knows of, whatever it has.
    Sign {
        client: usize,
        tokens: u64,
    },
    /// It brings an older voucher, or one for another Channel.
    Replay {
        client: usize,
        from: usize,
        which: usize,
    },
    Admit {
        client: usize,
        worker: usize,
        limit: u64,
        exposure: u64,
        claimed: u64,
    },
    /// A worker's receipt for an open request, perhaps for more than was asked.
    Settle {
        which: usize,
        tokens: u64,
    },
    Release {
        which: usize,
    },
    /// Coins go into a Channel.
    TopUp {
        account: usize,
        amount: u64,
    },
    /// The chain is looked at.
    Observe {
        account: usize,
    },
    /// Its payee claims.
    Claim {
        account: usize,
    },
    /// Its payer begins to close it.
    Close {
        account: usize,
    },
    Wait {
        seconds: u32,
    },
}

fn event() -> impl Strategy<Value = Event> {
    let two = 0..2_usize;
    let four = 0..4_usize;
    let tokens = || 0..2 * MILLION_TOKENS;
    prop_oneof![
        4 => (two.clone(), tokens()).prop_map(|(client, tokens)| Event::Sign { client, tokens }),
        1 => (two.clone(), two.clone(), 0..20_usize)
            .prop_map(|(client, from, which)| Event::Replay { client, from, which }),
        6 => (two.clone(), two, tokens(), 0..3 * PRICE, 0..PRICE)
            .prop_map(|(client, worker, limit, exposure, claimed)| Event::Admit {
                client, worker, limit, exposure, claimed,
            }),
        4 => (0..20_usize, tokens()).prop_map(|(which, tokens)| Event::Settle { which, tokens }),
        1 => (0..20_usize).prop_map(|which| Event::Release { which }),
        2 => (four.clone(), 0..3 * PRICE)
            .prop_map(|(account, amount)| Event::TopUp { account, amount }),
        2 => four.clone().prop_map(|account| Event::Observe { account }),
        2 => four.clone().prop_map(|account| Event::Claim { account }),
        1 => four.prop_map(|account| Event::Close { account }),
        1 => (0..3 * DELAY).prop_map(|seconds| Event::Wait { seconds }),
    ]
}

/// The chain, the books, and what everyone had before.
struct World {
    now: u32,
    /// Two clients', then two workers', as the chain has them.
    chain: Vec<(Channel, u64)>,
    books: Vec<Account>,
    newest: Vec<Option<Signed>>,
    signed: Vec<Vec<Signed>>,
    open: Vec<(usize, usize, Order)>,
    charged: [u64; 2],
    put_in: [u64; 4],
    paid_out: [u64; 4],
    refunded: [u64; 4],
    /// The most that a worker might ever have kept.
    trusted: [u64; 2],
}

impl World {
    fn new() -> Self {
        let channels = [client(1), client(2), worker(101), worker(102)];
        let chain: Vec<_> = channels.map(|channel| (channel, holding(2 * PRICE))).into();
        let open = |(channel, balance): &(Channel, u64)| {
            Account::new(channel.clone(), *balance, GLOBAL_ID, NOW)
        };
        Self {
            now: NOW,
            books: chain.iter().map(open).collect(),
            put_in: [holding(2 * PRICE); 4],
            chain,
            newest: vec![None; 4],
            signed: vec![Vec::new(); 2],
            open: Vec::new(),
            charged: [0; 2],
            paid_out: [0; 4],
            refunded: [0; 4],
            trusted: [0; 2],
        }
    }

    /// A transaction that is lost leaves everything as it was.
    fn happen(&mut self, event: &Event, is_lost: bool) {
        let before = (self.books.clone(), self.newest.clone());
        let done = self.book(event);
        if is_lost {
            (self.books, self.newest) = before;
            return;
        }
        match (event, done) {
            (
                Event::Admit {
                    client,
                    worker,
                    limit,
                    exposure,
                    claimed,
                },
                true,
            ) => {
                let order = Order {
                    claimed: *claimed,
                    ..order(*limit, *exposure)
                };
                let most = order.most().unwrap().amount.max(*exposure);
                self.trusted[*worker] = self.trusted[*worker].max(most);
                self.open.push((*client, *worker, order));
            }
            (Event::Settle { which, tokens }, true) => {
                let (client, _, order) = self.open.remove(which % self.open.len());
                self.charged[client] += order.used(*tokens).unwrap().amount;
            }
            (Event::Release { which }, true) => {
                self.open.remove(which % self.open.len());
            }
            _ => {}
        }
    }

    fn book(&mut self, event: &Event) -> bool {
        let now = self.now;
        match *event {
            Event::Sign { client, tokens } => {
                let newest = match self.signed[client].last() {
                    Some(newest) => newest.unverified().unwrap(),
                    None => Voucher::first(GLOBAL_ID, self.books[client].channel.address.clone()),
                };
                let Some(next) = newest.next(tokens, PRICE, now / 3600, HashBytes::ZERO) else {
                    return false;
                };
                let signed = sign(u8::try_from(client).unwrap() + 1, &next);
                let is_taken = self.books[client].receive(&signed, now) == Ok(true);
                if is_taken {
                    self.newest[client] = Some(signed.clone());
                    self.signed[client].push(signed);
                }
                is_taken
            }
            Event::Replay {
                client,
                from,
                which,
            } => {
                let Some(signed) = self.signed[from].get(which).cloned() else {
                    return false;
                };
                let newest = self.books[client].voucher.amount;
                let is_taken = self.books[client].receive(&signed, now) == Ok(true);
                if is_taken {
                    // It was signed, and lost on its way.
                    let voucher = signed.unverified().unwrap();
                    assert!(from == client && voucher.amount > newest);
                    self.newest[client] = Some(signed);
                }
                is_taken
            }
            Event::Admit {
                client,
                worker,
                limit,
                exposure,
                claimed,
            } => {
                let order = Order {
                    claimed,
                    ..order(limit, exposure)
                };
                let (clients, workers) = self.books.split_at_mut(2);
                let (client, worker_book) = (&mut clients[client], &mut workers[worker]);
                match admit(client, worker_book, &order, HashBytes::ZERO, now) {
                    Ok(voucher) => {
                        self.newest[2 + worker] = Some(sign(OURS, &voucher));
                        true
                    }
                    Err(_) => false,
                }
            }
            Event::Settle { which, tokens } => {
                let Some((client, worker, order)) = self.chosen(which) else {
                    return false;
                };
                // As a receipt is checked.
                if tokens > order.limit {
                    return false;
                }
                let (clients, workers) = self.books.split_at_mut(2);
                let done = settle(&mut clients[client], &mut workers[worker], &order, tokens);
                assert!(done.is_some(), "what was reserved can be settled");
                true
            }
            Event::Release { which } => {
                let Some((client, worker, order)) = self.chosen(which) else {
                    return false;
                };
                let (clients, workers) = self.books.split_at_mut(2);
                let done = settle(&mut clients[client], &mut workers[worker], &order, 0);
                assert!(done.is_some());
                true
            }
            Event::TopUp { account, amount } => {
                let at = self.at(account);
                if self.chain[account].0.top_up(&at).is_ok() {
                    self.chain[account].1 += amount;
                    self.put_in[account] += amount;
                }
                true
            }
            Event::Observe { account } => {
                let (channel, balance) = self.chain[account].clone();
                self.books[account].channel = channel;
                self.books[account].balance = balance;
                self.books[account].seen = now;
                true
            }
            Event::Claim { account } => {
                self.claim(account);
                true
            }
            Event::Close { account } => {
                let (at, payer) = (self.at(account), self.payer(account));
                let channel = &mut self.chain[account].0;
                if at.now < channel.state.ends {
                    let closed = channel.close(&at, &payer);
                    assert!(closed.is_err() || matches!(closed, Ok(Closed::At(_))));
                }
                true
            }
            Event::Wait { seconds } => {
                let until = now + seconds;
                while self.now < until {
                    self.now = until.min(self.now + LOOK);
                    (0..4).for_each(|account| self.look(account));
                }
                true
            }
        }
    }

    /// Whoever is paid looks now and then, and claims when it sees the end coming.
    fn look(&mut self, account: usize) {
        let ends = self.chain[account].0.state.ends;
        if self.now >= ends {
            self.refunded[account] += self.chain[account].1;
            self.chain[account].1 = 0;
        }
        self.book(&Event::Observe { account });
        if ends < UNTIL || self.now + 2 * LOOK >= ends {
            self.claim(account);
        }
    }

    fn chosen(&self, which: usize) -> Option<(usize, usize, Order)> {
        let which = which.checked_rem(self.open.len())?;
        self.open.get(which).copied()
    }

    fn claim(&mut self, account: usize) {
        let at = self.at(account);
        let Some(signed) = self.newest[account].clone() else {
            return;
        };
        let (channel, balance) = &mut self.chain[account];
        if let Ok(payment) = channel.claim(&at, &signed) {
            *balance -= payment;
            self.paid_out[account] += payment;
        }
        self.book(&Event::Observe { account });
    }

    fn at(&self, account: usize) -> At {
        At {
            now: self.now,
            global_id: GLOBAL_ID,
            balance: self.chain[account].1,
        }
    }

    fn payer(&self, account: usize) -> StdAddr {
        self.chain[account].0.terms.payer.clone()
    }

    fn check(&self) {
        let amounts =
            |books: &[Account], of: fn(&Account) -> u64| -> u64 { books.iter().map(of).sum() };
        let (clients, workers) = self.books.split_at(2);
        for of in [
            |book: &Account| book.spent.amount,
            |book: &Account| book.reserved.amount,
        ] {
            assert_eq!(
                amounts(clients, of),
                amounts(workers, of),
                "one pays the other"
            );
        }
        for (number, book) in self.books.iter().enumerate() {
            let taken = book.spent.amount + book.reserved.amount;
            assert!(taken <= book.voucher.amount, "{number}: {taken} {book:?}");
            assert!(book.voucher.keeps_its_cap());
            let had = self.put_in[number];
            let (paid, left) = (self.paid_out[number], self.chain[number].1);
            assert_eq!(
                had,
                paid + left + self.refunded[number],
                "every nano is somewhere"
            );
            if self.refunded[number] == 0 {
                assert!(book.voucher.amount <= book.funds(), "{number}: {book:?}");
                assert!(book.funds() <= had);
            }
        }
        for (client, charged) in clients.iter().zip(self.charged) {
            assert_eq!(
                client.spent.amount, charged,
                "what receipts show, and no more"
            );
        }
        for (worker, trusted) in workers.iter().zip(self.trusted) {
            let lost = worker.voucher.amount - worker.spent.amount;
            assert!(
                lost <= trusted,
                "it could run away with {lost}, not {trusted}"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn whatever_happens_every_nano_is_somewhere_and_nothing_is_owed_that_is_not_covered(
        events in vec((event(), prop::bool::weighted(0.1)), 1..80),
    ) {
        let mut world = World::new();
        for (event, is_lost) in &events {
            // What happens on the chain is not lost with a process.
            let is_ours = matches!(
                event,
                Event::Sign { .. } | Event::Admit { .. } | Event::Settle { .. } | Event::Release { .. }
            );
            world.happen(event, *is_lost && is_ours);
            world.check();
        }
        // All go home: what clients spent was paid to the scheduler, and by it to workers,
        // who have at most what they were trusted with besides.
        while !world.open.is_empty() {
            world.happen(&Event::Release { which: 0 }, false);
        }
        world.happen(&Event::Wait { seconds: UNTIL - world.now }, false);
        world.check();
        for (number, book) in world.books.iter().enumerate() {
            prop_assert!(world.paid_out[number] >= book.spent.amount, "{number}");
        }
        let (came, went): (u64, u64) = (
            world.paid_out[..2].iter().sum(),
            world.paid_out[2..].iter().sum(),
        );
        prop_assert!(went <= came + world.trusted.iter().sum::<u64>());
    }
}
