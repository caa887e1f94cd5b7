//! A daemon with one gate, and who moves it: its policies, an operator on the host, or one at the centre.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;
use tokio::runtime::Runtime;
use tonic::transport::Channel;
use weir::tls::{Connector, Files};
use weir_proto::v1;
use weir_proto::v1::fleet_client::FleetClient;
use weir_tests::lab::link::Lab;
use weir_tests::lab::process::Process;

use super::actuator::{Actuator, Goal, Kind};
use super::authority::Authority;
use super::{NEUTRAL_PERCENT, TURNED_PERCENT};
use crate::daemon::{Daemon, WITHOUT_BUDGET};
use crate::latency::{Rings, monotonic_ns};
use crate::observer::Tools;
use crate::programs::Producer;

/// Policies of one daemon, each with a service of its own that fares badly once.
const SERVICES: u16 = 25;
const FIRST_PORT: u16 = 20_000;
/// Orders of one daemon, which takes sixty at once and then one a second.
const ORDERS: usize = 50;
/// What a policy asks for at least, and the last of which makes it so many.
const TRIALS: u32 = 20;
/// Networks whose deliveries become late, of which the last raises the alarm: two are left out, and
/// beside one that is well five are the evidence that the alarms' promise asks for.
const LATE: u32 = 7;
/// Client networks have one say in so long.
const ROUND_NS: u64 = weir::qoe::alarms::LATE_ROUND_NS;
/// Between a standstill and what moves next, on average.
const PAUSE: Duration = Duration::from_millis(60);
/// Until what went well is counted, too: the bulk ring, which it is in, is emptied four times a second.
const SWEPT: Duration = Duration::from_millis(300);
/// Until the policies have looked at it: once a second, and a little for it to be taken in.
const LOOKED: Duration = Duration::from_millis(1500);
const PATIENCE: Duration = Duration::from_secs(30);
const CENTRE_PORT: u16 = 7447;
const HOST: &str = "edge-1";
const OPERATOR: &str = "noc";

/// Who moves the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mover {
    /// A policy, when something happens in the kernel.
    Event,
    /// An operator on the host.
    Host,
    /// An operator at the centre.
    Centre,
}

impl Mover {
    pub(super) const ALL: [Self; 3] = [Self::Event, Self::Host, Self::Centre];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Event => "hot event",
            Self::Host => "order on the host",
            Self::Centre => "order at the centre",
        }
    }

    /// What is aimed at, in microseconds.
    pub(super) fn limit_us(self) -> f64 {
        match self {
            Self::Event => 5_000.0,
            Self::Host => 50_000.0,
            Self::Centre => 200_000.0,
        }
    }

    /// Samples that one daemon can give.
    pub(super) fn most(self) -> usize {
        match self {
            Self::Event => SERVICES.into(),
            Self::Host | Self::Centre => ORDERS,
        }
    }
}

/// The daemon, and all around it. Dropped in this order.
pub(super) struct Stand {
    mover: Mover,
    daemon: Daemon,
    actuator: Actuator,
    events: Option<(Producer, Rings)>,
    centre: Option<Centre>,
    given: usize,
    _lab: Lab,
}

impl Stand {
    pub(super) fn start(tools: &Tools, kind: Kind, mover: Mover) -> Result<Self> {
        let lab = Lab::with_veth()?;
        let actuator = Actuator::new(kind, &lab)?;
        let mut config = format!(
            "{WITHOUT_BUDGET}kill_switch = \"{0}/off\"\n{1}\n[steer]\narmed = true\njournal_file = \
             \"{0}/steer.journal\"\n",
            lab.dir().display(),
            actuator.config()
        );
        let mut centre = None;
        match mover {
            Mover::Event => config.push_str(&policies()),
            Mover::Host => {}
            Mover::Centre => {
                let (begun, own) = Centre::start(tools, &lab)?;
                config.push_str(&own);
                centre = Some(begun);
            }
        }
        let mut daemon = Daemon::start_in(&lab.server, &tools.weir, lab.dir(), &config)?;
        if let Some(centre) = &mut centre {
            daemon.wait("a connection to the centre", |status| {
                let uplink = status.uplink.as_ref();
                uplink.is_some_and(|uplink| uplink.connected)
            })?;
            centre.connect(&lab)?;
        }
        let events = (mover == Mover::Event)
            .then(|| {
                let rings = Rings::pin(&daemon)?;
                anyhow::Ok((rings.producer(&tools.programs)?, rings))
            })
            .transpose()?;
        let mut stand = Self {
            mover,
            daemon,
            actuator,
            events,
            centre,
            given: 0,
            _lab: lab,
        };
        stand.warm_up()?;
        Ok(stand)
    }

    /// From the event or the order to what is seen of it, in nanoseconds.
    pub(super) fn sample(&mut self) -> Result<u64> {
        let n = self.given;
        self.given += 1;
        let sampled = match self.mover {
            Mover::Event => self.after_event(u16::try_from(n)?),
            Mover::Host | Mover::Centre => self.after_order(n),
        };
        sampled.with_context(|| format!("sample {n}; weir says:\n{}", self.daemon.log_tail()))
    }

    /// Turns it once more and kills the daemon: from SIGKILL until the gate is seen to be neutral, in
    /// nanoseconds.
    pub(super) fn kill(mut self) -> Result<u64> {
        self.order_until(TURNED_PERCENT)?;
        let watching = self.actuator.watch(Goal::Neutral)?;
        pause();
        let begun_ns = monotonic_ns()?;
        self.daemon.kill()?;
        let seen_ns = self.actuator.seen(watching)?;
        if let Some(centre) = self.centre {
            centre.stop()?;
        }
        seen_ns
            .checked_sub(begun_ns)
            .context("it was neutral before weir was killed")
    }

    /// The guard of the gates is there from the first turn on, and all that is made once is made.
    fn warm_up(&mut self) -> Result<()> {
        let (away, back) = match self.mover {
            Mover::Event => (99, 100),
            Mover::Host | Mover::Centre => (TURNED_PERCENT, NEUTRAL_PERCENT),
        };
        self.order_until(away)?;
        let turned = self.actuator.turned_clients()?;
        self.order_until(back)?;
        self.actuator.choose_client(turned)?;
        if self.mover == Mover::Event {
            self.release("")?;
            self.be_known()?;
        }
        Ok(())
    }

    /// Orders that share, and waits until the daemon says that the gate has it.
    fn order_until(&mut self, percent: u32) -> Result<()> {
        let begin = Instant::now();
        loop {
            // A centre knows the host with its first frame.
            match self.order(weight(percent)) {
                Ok(()) => break,
                Err(err) if begin.elapsed() > PATIENCE => return Err(err),
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
        while !self.daemon.holds(percent * 10)? {
            if begin.elapsed() > PATIENCE {
                bail!(
                    "the gate never had {percent} %:\n{}",
                    self.daemon.log_tail()
                );
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    fn order(&mut self, order: v1::OrderRequest) -> Result<()> {
        match &mut self.centre {
            Some(centre) => centre.order(order),
            None => self.daemon.order(order).map(drop),
        }
    }

    fn release(&self, id: &str) -> Result<()> {
        let order = v1::OrderRequest {
            releases: id.to_owned(),
            ..order("release")
        };
        self.daemon.order(order).map(drop)
    }

    /// One delivery of each service, and a look of the policies that has it: what comes later is of a
    /// window that they know the beginning of.
    fn be_known(&mut self) -> Result<()> {
        let (events, _) = self.events.as_mut().context("no events")?;
        for n in 0..SERVICES {
            events.delivery(FIRST_PORT + n, client(0), false)?;
        }
        std::thread::sleep(SWEPT + LOOKED);
        Ok(())
    }

    fn after_event(&mut self, service: u16) -> Result<u64> {
        let watching = self.actuator.watch(Goal::Turned)?;
        let port = FIRST_PORT + service;
        let (events, _) = self.events.as_mut().context("no events")?;
        // A round that turns in between would take back what was said in it.
        let left_ns = ROUND_NS - monotonic_ns()? % ROUND_NS;
        if left_ns < 1_000_000_000 {
            std::thread::sleep(Duration::from_nanos(left_ns));
        }
        for _ in 0..TRIALS - LATE {
            events.delivery(port, client(0), false)?;
        }
        for network in 1..LATE {
            events.delivery(port, client(network), true)?;
        }
        std::thread::sleep(SWEPT);
        pause();
        let written_ns = events.delivery(port, client(LATE), true)?;
        let seen_ns = self.actuator.seen(watching)?;
        let took_ns = seen_ns
            .checked_sub(written_ns)
            .context("it turned before the event that was to turn it")?;

        let watching = self.actuator.watch(Goal::Neutral)?;
        let id = self.daemon.order(order("panic"))?;
        self.release(&id)?;
        self.actuator.seen(watching)?;
        pause();
        Ok(took_ns)
    }

    fn after_order(&mut self, n: usize) -> Result<u64> {
        let percent = if n.is_multiple_of(2) {
            TURNED_PERCENT
        } else {
            NEUTRAL_PERCENT
        };
        let watching = self.actuator.watch(Goal::Percent(percent))?;
        pause();
        let begun_ns = monotonic_ns()?;
        self.order(weight(percent))?;
        let seen_ns = self.actuator.seen(watching)?;
        seen_ns
            .checked_sub(begun_ns)
            .context("it turned before the order that was to turn it")
    }
}

/// Of a length that no clock of the daemon knows.
fn pause() {
    std::thread::sleep(PAUSE.mul_f64(fastrand::f64()));
}

/// A client of the `n`th network.
fn client(n: u32) -> u32 {
    (n << 8) | 1
}

fn order(verb: &str) -> v1::OrderRequest {
    v1::OrderRequest {
        scope: "host".to_owned(),
        verb: verb.to_owned(),
        reason: "a bench wants it".to_owned(),
        ..v1::OrderRequest::default()
    }
}

/// At once.
fn weight(percent: u32) -> v1::OrderRequest {
    v1::OrderRequest {
        permille: Some(percent * 10),
        ..order("weight")
    }
}

/// Each turns the host when its own service is late.
fn policies() -> String {
    let policies = (0..SERVICES).map(|n| {
        let port = FIRST_PORT + n;
        format!(
            "[[steer.policy]]\nname = \"p{n}\"\narmed = true\nservice = \"s{n}\"\nmoves = \
             \"host\"\nmetric = \"late_delivery_share\"\nenter_permille = 15\nexit_permille = \
             7\nmin_n = {TRIALS}\ndead_time_s = 1\nblame = []\n[[service]]\nname = \"s{n}\"\nports \
             = [{port}]\n"
        )
    });
    policies.collect()
}

/// A collector, and an operator who is connected to it.
struct Centre {
    process: Process,
    operator: Files,
    connection: Option<(Runtime, FleetClient<Channel>)>,
}

impl Centre {
    /// Starts it in the lab's server's namespace; gives what weir's configuration says of it.
    fn start(tools: &Tools, lab: &Lab) -> Result<(Self, String)> {
        let directory = lab.dir().join("centre");
        let authority = Authority::new()?;
        let own = authority.issue(&directory, "localhost")?;
        let host = authority.issue(&directory, HOST)?;
        let operator = authority.issue(&directory, OPERATOR)?;
        let role = format!(
            "[[steer.role]]\nname = \"{OPERATOR}\"\ncertificates = [\"{OPERATOR}\"]\nverbs = \
             [\"weight\"]\nreach = \"host\"\n"
        );
        let config = format!(
            "listen = \"127.0.0.1:{CENTRE_PORT}\"\n{}name = \"centre\"\noperators = \
             [\"{OPERATOR}\"]\n[steer]\njournal_file = \"{}\"\nsettle_s = 600\n{role}",
            files(&own),
            directory.join("steer.journal").display()
        );
        let path = directory.join("collect.toml");
        fs::write(&path, config).with_context(|| format!("cannot write {}", path.display()))?;
        let mut command = Command::new(&tools.weir);
        command.arg("collect").arg("--config").arg(&path);
        let log = directory.join("collect.log");
        let begun = Self {
            process: Process::spawn(command, Some(&lab.server), &log)?,
            operator,
            connection: None,
        };
        let config = format!(
            "{role}[collector]\nurl = \"https://localhost:{CENTRE_PORT}\"\nhost = \"{HOST}\"\n{}",
            files(&host)
        );
        Ok((begun, config))
    }

    fn connect(&mut self, lab: &Lab) -> Result<()> {
        let files = self.operator.clone();
        // Its socket stays where it was made.
        let connection = lab.server.run(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .context("starting a runtime")?;
            let url = format!("https://localhost:{CENTRE_PORT}").parse()?;
            let connector = Connector::new(url, Some(files));
            let channel = runtime.block_on(connector.connect(|endpoint| endpoint))?;
            Ok((runtime, FleetClient::new(channel)))
        });
        let connection = connection
            .with_context(|| format!("the collector says:\n{}", self.process.log_tail()))?;
        self.connection = Some(connection);
        Ok(())
    }

    fn order(&mut self, order: v1::OrderRequest) -> Result<()> {
        let (runtime, client) = self.connection.as_mut().context("no connection")?;
        let request = v1::FleetOrderRequest {
            at: HOST.to_owned(),
            order: Some(order),
            ..v1::FleetOrderRequest::default()
        };
        let answer = runtime.block_on(client.order(request))?.into_inner();
        match &answer.hosts[..] {
            [only] if only.outcome() == v1::CommandOutcome::Done => Ok(()),
            other => bail!("the host did not take it: {other:?}"),
        }
    }

    fn stop(mut self) -> Result<()> {
        let status = self.process.stop(Signal::SIGTERM)?;
        if !status.success() {
            bail!(
                "the collector ended with {status}:\n{}",
                self.process.log_tail()
            );
        }
        Ok(())
    }
}

fn files(files: &Files) -> String {
    format!(
        "ca_file = \"{}\"\ncert_file = \"{}\"\nkey_file = \"{}\"\n",
        files.ca.display(),
        files.cert.display(),
        files.key.display()
    )
}
