//! The reference TVM, in a node process (`contracts/tools/tvm.js`).

use std::env;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tycho_types::boc::Boc;
use tycho_types::cell::Cell;
use tycho_types::models::BlockId;

/// The process; it ends with this.
#[derive(Debug)]
pub(super) struct Executor {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

/// Whether the npm packages are there; says so where they are not.
pub fn installed() -> bool {
    let found = contracts().join("node_modules/@ton/ton").exists();
    if !found {
        assert!(env::var_os("CI").is_none(), "CI needs the npm packages");
        println!("skipped: no npm packages; `cargo xtask contracts build` installs them");
    }
    found
}

fn contracts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../contracts")
}

/// What a chain starts with.
pub(super) struct Genesis {
    pub(super) config: Cell,
    pub(super) wallet: Cell,
}

/// A message to an account, and where in time.
pub(super) struct Input<'a> {
    pub(super) account: &'a Cell,
    pub(super) message: &'a Cell,
    pub(super) now: u32,
    pub(super) lt: u64,
}

/// What contracts can see of the masterchain, the newest first.
pub(super) struct Seen {
    pub(super) last: Vec<BlockId>,
    pub(super) key: BlockId,
    pub(super) hundreds: Vec<BlockId>,
}

/// What came of a message.
pub(super) enum Outcome {
    Done { transaction: Cell, account: Cell },
    Refused { exit: Option<i32>, reason: String },
}

impl Executor {
    pub(super) fn start() -> Result<Self> {
        let tool = contracts().join("tools/tvm.js");
        let mut child = Command::new("node")
            .arg(&tool)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start node")?;
        let to = child.stdin.take().context("no pipe to node")?;
        let from = child.stdout.take().context("no pipe from node")?;
        Ok(Self {
            child,
            to,
            from: BufReader::new(from),
        })
    }

    pub(super) fn genesis(&mut self) -> Result<Genesis> {
        #[derive(Deserialize)]
        struct Answer {
            config: String,
            wallet: String,
        }
        let answer: Answer = self.ask(&json!({"request": "genesis"}))?;
        Ok(Genesis {
            config: cell(&answer.config)?,
            wallet: cell(&answer.wallet)?,
        })
    }

    pub(super) fn configure(&mut self, config: &Cell) -> Result<()> {
        let request = json!({"request": "configure", "config": text(config)});
        self.ask::<Value>(&request).map(drop)
    }

    pub(super) fn transact(&mut self, input: &Input<'_>, seen: &Seen) -> Result<Outcome> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Answer {
            Done {
                transaction: String,
                account: String,
            },
            Refused {
                refused: String,
                exit: Option<i32>,
            },
        }
        let request = json!({
            "request": "transact",
            "account": text(input.account),
            "message": text(input.message),
            "now": input.now,
            "lt": input.lt.to_string(),
            "blocks": {
                "last": seen.last.iter().map(block).collect::<Vec<_>>(),
                "key": block(&seen.key),
                "hundreds": seen.hundreds.iter().map(block).collect::<Vec<_>>(),
            },
        });
        Ok(match self.ask(&request)? {
            Answer::Done {
                transaction,
                account,
            } => Outcome::Done {
                transaction: cell(&transaction)?,
                account: cell(&account)?,
            },
            Answer::Refused { refused, exit } => Outcome::Refused {
                exit,
                reason: refused,
            },
        })
    }

    fn ask<T: DeserializeOwned>(&mut self, request: &Value) -> Result<T> {
        writeln!(self.to, "{request}").context("the TVM has ended")?;
        let mut line = String::new();
        self.from
            .read_line(&mut line)
            .context("the TVM has ended")?;
        let answer: Value = serde_json::from_str(&line).context("the TVM does not answer")?;
        let error = answer.get("error");
        ensure!(
            error.is_none(),
            "the TVM: {}",
            error.unwrap_or(&Value::Null)
        );
        serde_json::from_value(answer).context("the TVM answers something else")
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn block(id: &BlockId) -> Value {
    let (root, file) = (hex::encode(id.root_hash), hex::encode(id.file_hash));
    json!({"seqno": id.seqno, "root": root, "file": file})
}

fn text(cell: &Cell) -> String {
    STANDARD.encode(Boc::encode(cell))
}

fn cell(text: &str) -> Result<Cell> {
    let bytes = STANDARD.decode(text).context("not base64")?;
    Boc::decode(bytes).context("not a bag of cells")
}
