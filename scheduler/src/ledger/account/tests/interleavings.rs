//! Random interleavings of all that happens to two clients, two workers and the chain.

use super::*;

use contracts::channel::Closed;
use proptest::collection::vec;
use proptest::prelude::*;
use tycho_types::models::StdAddr;

use crate::ledger::due::LOOK;

/// Something that happens.
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
        unseen: u64,
        ask: u64,
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
        6 => (two.clone(), two, tokens(), 0..3 * PRICE, 0..PRICE, PRICE / 2..=PRICE)
            .prop_map(|(client, worker, limit, exposure, unseen, ask)| Event::Admit {
                client, worker, limit, exposure, unseen, ask,
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
    earned: [u64; 2],
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
            earned: [0; 2],
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
                    unseen,
                    ask,
                },
                true,
            ) => {
                let order = Order {
                    unseen: *unseen,
                    ask: *ask,
                    ..order(*limit, *exposure)
                };
                let most = order.owed(*limit).unwrap().amount.max(*exposure);
                self.trusted[*worker] = self.trusted[*worker].max(most);
                self.open.push((*client, *worker, order));
            }
            (Event::Settle { which, tokens }, true) => {
                let (client, worker, order) = self.open.remove(which % self.open.len());
                self.charged[client] += order.used(*tokens).unwrap().amount;
                self.earned[worker] += order.owed(*tokens).unwrap().amount;
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
                unseen,
                ask,
            } => {
                let order = Order {
                    unseen,
                    ask,
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
            assert!(
                amounts(clients, of) >= amounts(workers, of),
                "one pays the other, and a fee"
            );
        }
        for of in [
            |book: &Account| book.spent.tokens,
            |book: &Account| book.reserved.tokens,
        ] {
            assert_eq!(amounts(clients, of), amounts(workers, of));
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
        let counted = self.charged.into_iter().chain(self.earned);
        for (book, counted) in self.books.iter().zip(counted) {
            assert_eq!(
                book.spent.amount, counted,
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
