//! A world of contracts: the reference TVM in a process of its own (`tools/tvm.js`).

#![allow(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    dead_code,
    unreachable_pub,
    reason = "helpers of tests, each of which uses its own part"
)]

mod second;

use std::cell::{OnceCell, RefCell};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tycho_types::boc::Boc;
use tycho_types::cell::{Cell, CellBuilder, CellSlice, HashBytes};
use tycho_types::models::StdAddr;

pub use second::{Ran, Second};

/// Whether the npm packages are there; says so where they are not.
pub fn installed() -> bool {
    let found = package().join("node_modules/@ton/sandbox").exists();
    if !found {
        let ci = std::env::var_os("CI");
        assert!(ci.is_none(), "CI needs the npm packages");
        println!("skipped: no npm packages; `cargo xtask contracts build` installs them");
    }
    found
}

fn package() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Collateral under a root of one's own, given by the coordinate of its key.
pub fn collateral_under(root: &[u8; 32]) -> Cell {
    let output = Command::new("node")
        .arg(package().join("tools/compile.js"))
        .args(["--root", &hex::encode(root)])
        .output()
        .expect("node starts");
    cell(str::from_utf8(&output.stdout).unwrap().trim())
}

/// Starts at `now`, where there is a TVM.
pub fn start(now: u32) -> Option<Tvm> {
    if !installed() {
        return None;
    }
    let mut child = Command::new("node")
        .arg(package().join("tools/tvm.js"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("node starts");
    let pipes = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let tvm = Tvm {
        child,
        pipes: RefCell::new((pipes.0, BufReader::new(pipes.1))),
        // A mutant is put where it runs, without the sizes that the second TVM would count.
        alone: std::env::var_os("COCOON_MUTANT").is_some(),
        second: OnceCell::new(),
        ran: RefCell::default(),
    };
    tvm.restart(now);
    Some(tvm)
}

/// The process; it ends with this.
#[derive(Debug)]
pub struct Tvm {
    child: Child,
    pipes: RefCell<(ChildStdin, BufReader<ChildStdout>)>,
    alone: bool,
    second: OnceCell<Second>,
    /// What the newest message and all that followed from it were run from.
    pub ran: RefCell<Vec<Ran>>,
}

impl Drop for Tvm {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Tvm {
    /// Without the second TVM, where messages are others each time: it must not depend on
    /// luck whether a difference between two TVMs is met.
    pub fn alone(mut self) -> Self {
        self.alone = true;
        self
    }

    /// Everything anew.
    pub fn restart(&self, now: u32) {
        self.ask::<Value>(json!({"request": "start", "now": now}));
    }

    pub fn set_time(&self, now: u32) {
        self.ask::<Value>(json!({"request": "time", "now": now}));
    }

    /// Contracts see the masterchain up to block `last`; of `blocks`, the root hashes.
    pub fn set_blocks(&self, now: u32, last: u32, blocks: &[(u32, [u8; 32])]) {
        let roots: serde_json::Map<_, _> = blocks
            .iter()
            .map(|(seqno, root)| (seqno.to_string(), hex::encode(root).into()))
            .collect();
        let blocks = json!({"last": last, "roots": roots});
        self.ask::<Value>(json!({"request": "time", "now": now, "blocks": blocks}));
    }

    pub fn wallet(&self, name: &str) -> StdAddr {
        let found: Value = self.ask(json!({"request": "wallet", "name": name}));
        found["address"].as_str().unwrap().parse().unwrap()
    }

    /// Makes a contract, with a message that it gets first.
    pub fn deploy(&self, code: &Cell, data: &Cell, value: u64, body: &Cell) -> (StdAddr, Vec<Tx>) {
        let init = json!({"code": text(code), "data": text(data)});
        let request = json!({
            "request": "send", "wallet": "deployer", "value": value.to_string(),
            "body": text(body), "init": init, "bounce": false,
        });
        let sent = self.follow(request);
        (sent[1].to.clone().unwrap(), sent)
    }

    /// Sends from a named wallet; what follows, without the wallet's own transaction.
    pub fn send(&self, wallet: &str, to: &StdAddr, value: u64, body: &Cell) -> Vec<Tx> {
        let request = json!({
            "request": "send", "wallet": wallet, "to": to.to_string(),
            "value": value.to_string(), "body": text(body),
        });
        self.follow(request).split_off(1)
    }

    /// Sends as if `from` had.
    pub fn forge(&self, from: &StdAddr, to: &StdAddr, value: u64, body: &Cell) -> Vec<Tx> {
        let request = json!({
            "request": "forge", "from": from.to_string(), "to": to.to_string(),
            "value": value.to_string(), "body": text(body),
        });
        self.follow(request)
    }

    /// What follows, if the second TVM has it too.
    fn follow(&self, request: Value) -> Vec<Tx> {
        let Transactions { transactions, ran } = self.ask(request);
        if !self.alone {
            ran.iter().for_each(|ran| self.second().agrees(ran));
        }
        self.ran.replace(ran);
        transactions
    }

    pub fn second(&self) -> &Second {
        self.second.get_or_init(|| {
            let found: Value = self.ask(json!({"request": "genesis"}));
            Second::new(cell(found["config"].as_str().unwrap()))
        })
    }

    /// Runs a get-method; its exit code, its gas, and its results, the first one first.
    pub fn get(&self, address: &StdAddr, method: &str, arguments: &[Item]) -> Got {
        let request = json!({
            "request": "get", "address": address.to_string(), "method": method,
            "stack": text(&stack(arguments)), "gas": 1_000_000_000,
        });
        let found: Value = self.ask(request);
        Got {
            exit: i32::try_from(found["exit"].as_i64().unwrap()).unwrap(),
            gas: found["gas"].as_u64().unwrap(),
            stack: cell(found["stack"].as_str().unwrap()),
        }
    }

    pub fn balance(&self, address: &StdAddr) -> u64 {
        self.state(address)["balance"]
            .as_str()
            .unwrap()
            .parse()
            .unwrap()
    }

    pub fn data(&self, address: &StdAddr) -> Option<Cell> {
        self.state(address)["data"].as_str().map(cell)
    }

    pub fn code(&self, address: &StdAddr) -> Option<Cell> {
        self.state(address)["code"].as_str().map(cell)
    }

    fn state(&self, address: &StdAddr) -> Value {
        self.ask(json!({"request": "state", "address": address.to_string()}))
    }

    fn ask<T: DeserializeOwned>(&self, request: Value) -> T {
        let (to, from) = &mut *self.pipes.borrow_mut();
        writeln!(to, "{request}").unwrap();
        let mut line = String::new();
        from.read_line(&mut line).unwrap();
        let answer: Value = serde_json::from_str(&line).expect("the TVM answers");
        assert!(answer["error"].is_null(), "{}", answer["error"]);
        serde_json::from_value(answer).unwrap()
    }
}

#[derive(Deserialize)]
struct Transactions {
    transactions: Vec<Tx>,
    ran: Vec<Ran>,
}

/// What one contract did with one message.
#[derive(Clone, Debug, Deserialize)]
pub struct Tx {
    #[serde(deserialize_with = "from_address")]
    pub from: Option<StdAddr>,
    #[serde(deserialize_with = "from_address")]
    pub to: Option<StdAddr>,
    #[serde(deserialize_with = "from_number")]
    pub value: u64,
    #[serde(deserialize_with = "from_cell")]
    pub body: Cell,
    pub bounced: bool,
    /// Of the computation; `None` where there was none.
    pub exit: Option<i32>,
    /// Of sending.
    pub action: Option<i32>,
    pub gas: u64,
    #[serde(deserialize_with = "from_number")]
    pub fees: u64,
    /// Of the fees, what the time since the last transaction cost.
    #[serde(deserialize_with = "from_number")]
    pub storage: u64,
    pub aborted: bool,
    pub sent: u32,
}

impl Tx {
    pub fn op(&self) -> u32 {
        self.body.as_slice_allow_exotic().load_u32().unwrap_or(0)
    }
}

/// Results of a get-method.
#[derive(Clone, Debug)]
pub struct Got {
    pub exit: i32,
    pub gas: u64,
    stack: Cell,
}

impl Got {
    /// Its only result, a number.
    pub fn number(&self) -> HashBytes {
        assert_eq!(self.exit, 0);
        let mut stack = self.stack.as_slice_allow_exotic();
        assert_eq!(stack.load_uint(24).unwrap(), 1, "one result");
        let _rest = stack.load_reference().unwrap();
        match stack.load_u8().unwrap() {
            // vm_stk_tinyint#01 value:int64
            1 => {
                let mut bytes = [0; 32];
                bytes[24..].copy_from_slice(&stack.load_u64().unwrap().to_be_bytes());
                HashBytes(bytes)
            }
            // vm_stk_int#0201_ value:int257, which is not negative here
            2 => {
                assert_eq!(stack.load_uint(8).unwrap(), 0, "not negative");
                stack.load_u256().unwrap()
            }
            tag => panic!("no number: {tag}"),
        }
    }

    /// Its only result, a cell.
    pub fn cell(&self) -> Cell {
        assert_eq!(self.exit, 0);
        let mut stack = self.stack.as_slice_allow_exotic();
        assert_eq!(stack.load_uint(24).unwrap(), 1, "one result");
        let _rest = stack.load_reference().unwrap();
        assert_eq!(stack.load_u8().unwrap(), 3, "a cell");
        stack.load_reference_cloned().unwrap()
    }
}

/// An argument of a get-method.
#[derive(Clone, Debug)]
pub enum Item {
    Number([u8; 32]),
    Cell(Cell),
    Slice(Vec<u8>),
}

/// `vm_stack#_ depth:(## 24) stack:(VmStackList depth)` of block.tlb.
fn stack(items: &[Item]) -> Cell {
    let mut rest = Cell::default();
    let mut list = CellBuilder::new();
    for item in items {
        let mut entry = CellBuilder::new();
        entry.store_reference(rest.clone()).unwrap();
        match item {
            Item::Number(bytes) => {
                entry.store_u16(0x0200).unwrap();
                entry.store_raw(bytes, 256).unwrap();
            }
            Item::Cell(cell) => {
                entry.store_u8(3).unwrap();
                entry.store_reference(cell.clone()).unwrap();
            }
            // vm_stk_slice#04 cell:^Cell st_bits:(## 10) end_bits:(## 10) st_ref:(#<= 4)
            //   end_ref:(#<= 4)
            Item::Slice(slice) => {
                entry.store_u8(4).unwrap();
                let slice = bytes(slice);
                entry.store_uint(0, 10).unwrap();
                entry.store_uint(slice.bit_len().into(), 10).unwrap();
                entry.store_reference(slice).unwrap();
                entry.store_uint(0, 6).unwrap();
            }
        }
        rest = entry.clone().build().unwrap();
        list = entry;
    }
    let mut whole = CellBuilder::new();
    let depth = u64::try_from(items.len()).unwrap();
    whole.store_uint(depth, 24).unwrap();
    whole.store_builder(&list).unwrap();
    whole.build().unwrap()
}

pub fn text(cell: &Cell) -> String {
    STANDARD.encode(Boc::encode(cell))
}

fn cell(text: &str) -> Cell {
    Boc::decode(STANDARD.decode(text).unwrap()).unwrap()
}

fn from_address<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<StdAddr>, D::Error> {
    let text = Option::<String>::deserialize(from)?;
    Ok(text.map(|text| text.parse().unwrap()))
}

fn from_number<'de, D: serde::Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    Ok(String::deserialize(from)?.parse().unwrap())
}

fn from_cell<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Cell, D::Error> {
    Ok(cell(&String::deserialize(from)?))
}

/// Bytes in one cell.
pub fn bytes(slice: &[u8]) -> Cell {
    let mut builder = CellBuilder::new();
    let bits = u16::try_from(slice.len() * 8).unwrap();
    builder.store_raw(slice, bits).unwrap();
    builder.build().unwrap()
}

/// Reads a type from the whole of a cell.
pub fn load<'a, T: tycho_types::cell::Load<'a>>(cell: &'a Cell) -> T {
    let mut slice: CellSlice<'a> = cell.as_slice_allow_exotic();
    T::load_from(&mut slice).unwrap()
}
