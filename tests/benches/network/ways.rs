//! The ways that are compared, each with its processes.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::aws_lc_rs::default_provider;
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use crate::money::Money;
use crate::process::Process;
use crate::{Latency, Load};

/// One way from an application to a server, and what was measured of it.
pub(crate) struct Way {
    pub(crate) name: &'static str,
    load: Load,
    /// Between application and server.
    between: Vec<Process>,
    server: Arc<Process>,
    /// Held for nginx and LiteLLM, who read it.
    _folder: Option<TempDir>,
    times: Vec<Duration>,
    together: Duration,
    count: usize,
    used: Vec<Duration>,
}

/// `python3 -m venv target/tmp/litellm && target/tmp/litellm/bin/pip install
/// 'litellm[proxy]==1.83.0'`
pub(crate) const LITELLM: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/litellm/bin/litellm");

pub(crate) fn all(money: Option<&Money>) -> Vec<Way> {
    let server = Arc::new(Process::role("server", &[]));
    let address: SocketAddr = server.said.parse().unwrap();
    let direct = Way::new("direct", Load::new(address, None), Vec::new(), &server);
    let mut ways = vec![direct];
    if Command::new("nginx")
        .arg("-v")
        .stderr(Stdio::null())
        .status()
        .is_ok()
    {
        ways.push(nginx(address, &server));
    }
    if Path::new(LITELLM).exists() {
        ways.push(litellm(address, &server));
    }
    ways.push(cocoon("cocoon", None));
    if let Some(money) = money {
        ways.push(cocoon("paid", Some(money.folder())));
    }
    ways
}

/// As Debian builds it: TLS 1.3, connections to the server are kept.
fn nginx(upstream: SocketAddr, server: &Arc<Process>) -> Way {
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["localhost".into()]).unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    file("cert.pem", &made.cert.pem());
    file("key.pem", &made.signing_key.serialize_pem());
    let address = free();
    let config = file(
        "nginx.conf",
        &format!(
            "daemon off; pid nginx.pid; error_log stderr warn; worker_processes auto;
             events {{ worker_connections 1024; }}
             http {{
               access_log off;
               client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
               uwsgi_temp_path uwsgi; scgi_temp_path scgi;
               keepalive_requests 1000000;
               upstream server {{ server {upstream}; keepalive 64; keepalive_requests 1000000; }}
               server {{
                 listen {address} ssl;
                 ssl_certificate cert.pem; ssl_certificate_key key.pem; ssl_protocols TLSv1.3;
                 location / {{
                   proxy_pass http://server; proxy_http_version 1.1;
                   proxy_set_header Connection \"\";
                 }}
               }}
             }}"
        ),
    );
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let tls = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut command = Command::new("nginx");
    command.arg("-p").arg(folder.path()).arg("-c").arg(config);
    let process = Process::start("nginx", &mut command);
    let load = Load::new(address, Some(Arc::new(tls)));
    Way::new("nginx", load, vec![process], server).with(folder)
}

/// One process of it; more of them cost as much for each request.
fn litellm(upstream: SocketAddr, server: &Arc<Process>) -> Way {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config.yaml");
    let model = format!(
        "model_list:\n- model_name: echo\n  litellm_params: {{ model: openai/echo, \
         api_base: 'http://{upstream}/v1', api_key: none }}\n"
    );
    std::fs::write(&config, model).unwrap();
    let address = free();
    let mut command = Command::new(LITELLM);
    let port = address.port().to_string();
    command
        .args(["--host", "127.0.0.1", "--port", &port, "--config"])
        .arg(config)
        .envs([
            ("NO_PROXY", "127.0.0.1"),
            ("LITELLM_LOG", "ERROR"),
            ("LITELLM_LOCAL_MODEL_COST_MAP", "True"),
        ])
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let process = Process::start("LiteLLM", &mut command);
    Way::new("LiteLLM", Load::new(address, None), vec![process], server).with(folder)
}

/// Paid for out of what is in a folder, if there is one.
fn cocoon(name: &'static str, folder: Option<&str>) -> Way {
    let role = |role, others| {
        let arguments = [others].into_iter().chain(folder);
        Process::role(role, &arguments.collect::<Vec<_>>())
    };
    let scheduler = role("scheduler", "");
    let (workers, clients) = scheduler.said.split_once(' ').unwrap();
    let worker = Arc::new(role("worker", workers));
    let gateway = role("gateway", clients);
    let load = Load::new(gateway.said.parse().unwrap(), None);
    Way::new(name, load, vec![gateway, scheduler], &worker)
}

impl Way {
    fn new(name: &'static str, load: Load, between: Vec<Process>, server: &Arc<Process>) -> Self {
        Self {
            name,
            load,
            used: vec![Duration::ZERO; between.len() + 1],
            between,
            server: Arc::clone(server),
            _folder: None,
            times: Vec::new(),
            together: Duration::ZERO,
            count: 0,
        }
    }

    fn with(self, folder: TempDir) -> Self {
        Self {
            _folder: Some(folder),
            ..self
        }
    }

    /// Once it answers, a few more, which make connections and wake threads.
    pub(crate) async fn warm(&self) {
        let answers = async {
            while !self.load.works().await {
                sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(PATIENCE, answers).await.expect(self.name);
        self.load.together(16, 64).await;
    }

    pub(crate) async fn one_by_one(&mut self, count: usize) {
        self.times.extend(self.load.one_by_one(count).await);
    }

    pub(crate) async fn together(&mut self, at_once: usize, count: usize) {
        let before = self.used();
        self.together += self.load.together(at_once, count).await;
        self.count += count;
        for ((sum, before), after) in self
            .used
            .iter_mut()
            .zip(before)
            .zip(used(&self.between, &self.server))
        {
            *sum += after - before;
        }
    }

    pub(crate) fn latency(&self) -> Latency {
        let mut times = self.times.clone();
        times.sort_unstable();
        Latency {
            half: times[times.len() / 2],
            most: times[times.len() * 99 / 100],
        }
    }

    pub(crate) fn row(&self, direct: Latency) {
        let found = self.latency();
        let micros = |time: Duration| time.as_secs_f64() * 1e6;
        let (_, between) = self.used.split_last().unwrap();
        let cost = micros(between.iter().sum()) / self.count as f64;
        println!(
            "{:<8} {:>8.0} {:>8.0} {:>8.0} {:>8.0} {:>9.0}  {cost:>9.0} {:>9.0}",
            self.name,
            micros(found.half),
            micros(found.most),
            micros(found.half) - micros(direct.half),
            micros(found.most) - micros(direct.most),
            self.count as f64 / self.together.as_secs_f64(),
            1e6 / cost,
        );
    }

    pub(crate) fn processes(&self) {
        let all = self.between.iter().chain([&*self.server]);
        let each = all.zip(&self.used).map(|(process, used)| {
            let cost = used.as_secs_f64() * 1e6 / self.count as f64;
            format!("{} {cost:.0} µs", process.name)
        });
        println!("{:<8} {}", self.name, each.collect::<Vec<_>>().join(", "));
    }

    fn used(&self) -> Vec<Duration> {
        used(&self.between, &self.server)
    }
}

fn used(between: &[Process], server: &Process) -> Vec<Duration> {
    between.iter().chain([server]).map(Process::used).collect()
}

/// Nobody else takes it in the meantime, with luck.
fn free() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap()
}

/// LiteLLM takes its time.
const PATIENCE: Duration = Duration::from_secs(90);
