//! What the daemon hears besides the kernel: labels, and the names of client networks from a
//! database. Both reach the fold through the intake, so that a recording has them.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use weir_proto::v1;

use crate::config::{self, Config};
use crate::intake::Intake;
use crate::kernel::Record;
use crate::labels::address;
use crate::labels::geo::Geo;
use crate::labels::inlet::Heard;
use crate::labels::pseudonym::Pseudonyms;
use crate::labels::request::RequestLabel;
use crate::recording::Said;

/// A recording that lost its first files learns of a client's network again after so long.
const FORGET_INTERVAL: Duration = Duration::from_secs(600);

/// Where labels and networks' names come from.
#[derive(Debug)]
pub(super) struct Labelling {
    /// None: there is no socket for labels.
    pub(super) heard: Option<Arc<Heard>>,
    sockets: [String; 2],
    /// None: prefixes alone name networks.
    pub(super) geo: Option<Arc<Geo>>,
    /// Room for labels on their way.
    pub(super) batch: Vec<RequestLabel>,
    forgot: Instant,
}

impl Labelling {
    pub(super) fn new(
        labels: &config::Labels,
        heard: Option<Arc<Heard>>,
        geo: Option<Arc<Geo>>,
    ) -> Self {
        let text = |path: &Option<PathBuf>| {
            let path = path.as_deref();
            path.map_or_else(String::new, |path| path.display().to_string())
        };
        Self {
            heard,
            sockets: [text(&labels.access_log_socket), text(&labels.tag_socket)],
            geo,
            batch: Vec::new(),
            forgot: Instant::now(),
        }
    }

    /// What is to be said before a record that begins what is known of a session, if anything.
    pub(super) fn network_of(&self, record: &Record<'_>, intake: &Intake) -> Option<Said<'static>> {
        self.geo.as_ref()?;
        let ends = match record {
            Record::SessionStart(record) => &record.endpoints,
            Record::SessionEnd(record) if !intake.knows(record.cookie) => &record.endpoints,
            Record::Delivery(record) if !intake.knows(record.cookie) => &record.endpoints,
            _ => return None,
        };
        self.network_at(address(ends.remote_addr), intake)
    }

    /// What is to be said of the network that a client is in, if anything.
    pub(super) fn network_at(&self, remote: IpAddr, intake: &Intake) -> Option<Said<'static>> {
        let geo = self.geo.as_ref()?;
        if intake.labels().knows_network(remote) {
            return None;
        }
        let (prefix, name) = geo.network(remote)?;
        Some(Said::ClientNetwork { prefix, name })
    }

    /// Where labels come in; none: nowhere.
    pub(super) fn status(&self) -> Option<v1::LabelStatus> {
        let [access_log_socket, tag_socket] = self.sockets.clone();
        self.heard.as_ref().map(|_| v1::LabelStatus {
            access_log_socket,
            tag_socket,
        })
    }

    /// Whether the names of client networks are to be forgotten and said again.
    pub(super) fn is_time_to_forget(&mut self, now: Instant) -> bool {
        let due = self.geo.is_some() && now.duration_since(self.forgot) >= FORGET_INTERVAL;
        if due {
            self.forgot = now;
        }
        due
    }
}

/// The database that a configuration names.
pub(super) async fn geo(config: &Config) -> anyhow::Result<Option<Arc<Geo>>> {
    let Some(path) = config.labels.mmdb.clone() else {
        return Ok(None);
    };
    let field = config.labels.mmdb_field;
    let opened = tokio::task::spawn_blocking(move || Geo::open(&path, field)).await;
    let geo = opened.context("reading labels.mmdb failed")??;
    Ok(Some(Arc::new(geo)))
}

/// What clients are called in what leaves the host; none: by their addresses.
pub(super) fn pseudonyms(labels: &config::Labels) -> anyhow::Result<Option<Pseudonyms>> {
    if !labels.hash_clients {
        return Ok(None);
    }
    let life = Duration::from_secs(u64::from(labels.hash_key_hours) * 3600);
    let pseudonyms = Pseudonyms::new(life, Instant::now());
    let pseudonyms = pseudonyms.context("cannot make a key for clients' addresses")?;
    Ok(Some(pseudonyms))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use probe_ebpf::record::{Delivery, Endpoints, SessionStart};

    use super::*;
    use crate::config::MmdbField;
    use crate::intake::settings_of;
    use crate::kernel::{BackendKind, Ring};
    use crate::labels::geo::tests::{asn, database, open};
    use crate::qoe::Limits;
    use crate::recording::entry;
    use crate::wire::Context;

    fn intake() -> Intake {
        let config = Config::default();
        let context = Context {
            unix_minus_monotonic_ns: 0,
            tick_hz: 1000,
            backend: BackendKind::Exact,
        };
        let settings = Arc::new(settings_of(&config, 1));
        Intake::new(Limits::from(&config.limits), settings, context).unwrap()
    }

    fn endpoints(client: [u8; 4]) -> Endpoints {
        Endpoints {
            remote_addr: Ipv4Addr::from(client).to_ipv6_mapped().octets(),
            local_port: 443,
            ..Endpoints::default()
        }
    }

    fn start(cookie: u64, client: [u8; 4]) -> SessionStart {
        SessionStart {
            cookie,
            endpoints: endpoints(client),
            ..SessionStart::default()
        }
    }

    fn networks(intake: &Intake) -> Vec<String> {
        let cells = intake.cells();
        cells
            .iter()
            .map(|cell| cell.key.network.to_string())
            .collect()
    }

    #[test]
    fn a_network_is_said_before_its_first_session_and_a_replay_knows_it_too() {
        let bytes = database(&[("192.0.2.0/24", asn(64_500, "Example ISP"))]);
        let geo = open(&bytes, MmdbField::AsNumber).unwrap();
        let labels = config::Labels::default();
        let labelling = Labelling::new(&labels, None, Some(Arc::new(geo)));
        let mut daemon = intake();
        let mut recorded = Vec::new();
        let mut said = 0;
        for start in [
            start(1, [192, 0, 2, 1]),
            start(2, [192, 0, 2, 9]),
            start(3, [10, 0, 0, 1]),
        ] {
            let record = Record::SessionStart(&start);
            let network = labelling.network_of(&record, &daemon);
            said += usize::from(network.is_some());
            let ring = Ring::Bulk;
            for said in network.into_iter().chain([Said::Record { ring, record }]) {
                daemon.take(&said);
                entry::append(&mut recorded, &said);
            }
        }
        assert_eq!(said, 1, "it is said once");
        let names = networks(&daemon);
        assert!(names.contains(&"AS64500".to_owned()), "{names:?}");

        let mut replayed = intake();
        entry::read(&recorded, |said| {
            replayed.take(&said);
        })
        .unwrap();
        assert_eq!(networks(&replayed), names);
    }

    #[test]
    fn what_was_forgotten_is_said_again_and_only_for_what_is_new() {
        let bytes = database(&[("192.0.2.0/24", asn(64_500, "Example ISP"))]);
        let geo = Arc::new(open(&bytes, MmdbField::AsNumber).unwrap());
        let labels = config::Labels::default();
        let mut labelling = Labelling::new(&labels, None, Some(geo));
        let mut intake = intake();
        let remote = "192.0.2.1".parse().unwrap();
        let said = labelling.network_at(remote, &intake).unwrap();
        intake.take(&said);
        assert!(labelling.network_at(remote, &intake).is_none());
        let now = Instant::now();
        assert!(!labelling.is_time_to_forget(now));
        assert!(labelling.is_time_to_forget(now + FORGET_INTERVAL));
        assert!(!labelling.is_time_to_forget(now + FORGET_INTERVAL));
        intake.forget_networks();
        assert!(labelling.network_at(remote, &intake).is_some());

        let begun = start(1, [192, 0, 2, 1]);
        let ring = Ring::Bulk;
        let record = Record::SessionStart(&begun);
        intake.take(&Said::Record { ring, record });
        let delivery = |cookie| Delivery {
            cookie,
            endpoints: endpoints([192, 0, 2, 1]),
            ..Delivery::default()
        };
        let is_said = |cookie| {
            let delivery = delivery(cookie);
            labelling
                .network_of(&Record::Delivery(&delivery), &intake)
                .is_some()
        };
        assert!(!is_said(1), "its cell is chosen already");
        assert!(is_said(2));
    }

    #[test]
    fn clients_have_pseudonyms_unless_that_is_turned_off() {
        let mut labels = config::Labels::default();
        assert!(pseudonyms(&labels).unwrap().is_some());
        labels.hash_clients = false;
        assert!(pseudonyms(&labels).unwrap().is_none());
    }
}
