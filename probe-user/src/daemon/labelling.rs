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
