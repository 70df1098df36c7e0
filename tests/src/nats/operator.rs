//! Who may connect to a NATS: an operator, an account of its, and the account's users, each
//! vouched for by the one before with a token that it signed.
//!
//! Source: NATS by example and reference, JWT authentication, version 2.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use nkeys::KeyPair;
use serde_json::{Map, Value, json};

/// An operator with one account, whose users may do anything, and the system's account.
#[derive(Debug)]
pub struct Operator {
    key: KeyPair,
    account: KeyPair,
    system: KeyPair,
}

impl Default for Operator {
    /// Of random keys.
    fn default() -> Self {
        Self {
            key: KeyPair::new_operator(),
            account: KeyPair::new_account(),
            system: KeyPair::new_account(),
        }
    }
}

impl Operator {
    /// For the server's configuration: whose users it lets in.
    #[must_use]
    pub fn configuration(&self) -> String {
        let operator = token(&self.key, &self.key, &json!({"type": "operator"}));
        // The system's may have none of JetStream's.
        let limits = [&[&USE[..], &STORE].concat(), &USE[..]];
        let accounts = [&self.account, &self.system].into_iter().zip(limits);
        let accounts = accounts.map(|(account, limits)| {
            let limits: Map<_, _> = limits.iter().map(unlimited).collect();
            let of = token(
                &self.key,
                account,
                &json!({"type": "account", "limits": limits}),
            );
            format!("{}: {of}\n", account.public_key())
        });
        format!(
            "operator: {operator}\nsystem_account: {}\nresolver: MEMORY\n\
             resolver_preload: {{ {} }}\n",
            self.system.public_key(),
            accounts.collect::<String>(),
        )
    }

    /// A file of credentials for a new user of the account.
    ///
    /// # Panics
    ///
    /// Never: the key is a new one, with its seed.
    #[must_use]
    pub fn credentials(&self) -> String {
        let user = KeyPair::new_user();
        let may = json!({"type": "user", "subs": -1, "data": -1, "payload": -1});
        let seed = user.seed().expect("of a new key");
        format!(
            "-----BEGIN NATS USER JWT-----\n{}\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n",
            token(&self.account, &user, &may),
        )
    }
}

fn unlimited(name: &&str) -> (String, Value) {
    ((*name).to_owned(), json!(-1))
}

/// What `issuer` says of `subject`.
fn token(issuer: &KeyPair, subject: &KeyPair, says: &Value) -> String {
    let mut says = says.clone();
    says["version"] = json!(2);
    let claims = json!({
        "jti": subject.public_key(),
        "iat": 1_700_000_000,
        "iss": issuer.public_key(),
        "name": "tests",
        "sub": subject.public_key(),
        "nats": says,
    });
    let header = json!({"typ": "JWT", "alg": "ed25519-nkey"});
    let [header, claims] =
        [header, claims].map(|part| BASE64_URL_SAFE_NO_PAD.encode(part.to_string()));
    let signed = format!("{header}.{claims}");
    let signature = issuer.sign(signed.as_bytes()).expect("it has its seed");
    format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
}

/// What an account may use of a server; what is not named, it may not.
const USE: [&str; 7] = [
    "subs", "data", "payload", "imports", "exports", "conn", "leaf",
];

/// And of JetStream.
const STORE: [&str; 4] = ["mem_storage", "disk_storage", "streams", "consumer"];
