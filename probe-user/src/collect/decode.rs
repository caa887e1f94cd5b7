//! What an edge sends, checked before anything of it is kept: sizes, versions, buckets.

use std::sync::{Arc, LazyLock};

use hashbrown::HashSet;
use weir_proto::v1::{self, Lane};

use super::sent::{self, SentCell};
use crate::kernel::BackendKind;
use crate::labels::Service;
use crate::qoe::cell::{RATES, Sustain};
use crate::qoe::{CellKey, Counters, Metric, Transport};
use crate::uplink::VITAL_VALUES;
use crate::wire::{self, WIRE_VERSION};

/// Cells in one frame. An edge makes at most 256.
pub const MAX_CELLS: usize = 1024;
/// Events in one frame.
pub const MAX_EVENTS: usize = 4096;
/// Deliveries in one frame.
pub const MAX_DELIVERIES: usize = 4096;
/// Vital cells in one frame. An edge sends at most 16.
pub const MAX_VITAL_CELLS: usize = 64;
const MAX_NAME_BYTES: usize = 256;
/// In a sentence of a host about itself: it may hold a path (`PATH_MAX`, 4096).
const MAX_SENTENCE_BYTES: usize = 8192;
/// Beyond this a count is no count: 2^48 is 9 years of a million a second. Keeps sums of many
/// hosts in range.
pub(super) const MAX_COUNT: u64 = 1 << 48;
/// Bytes and microseconds of viewers grow faster: 2^60 is four months of a hundred thousand viewers.
const MAX_SUM: u64 = 1 << 60;

/// Why a message cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Another wire.
    #[error("this collector speaks version {WIRE_VERSION} of the wire, not {0}; update the older")]
    Version(u32),
    /// A name is missing or too long.
    #[error("{field} is {len} bytes long; 1 to {MAX_NAME_BYTES} are possible")]
    Name {
        /// Which.
        field: &'static str,
        /// How long.
        len: usize,
    },
    /// Too many of something.
    #[error("{len} {what} in one frame; at most {max} are possible")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        len: usize,
        /// How many may be.
        max: usize,
    },
    /// A value that this version does not know.
    #[error("{field} = {value} is unknown to this collector; update it")]
    Unknown {
        /// Which field.
        field: &'static str,
        /// What it says.
        value: String,
    },
    /// A histogram that does not fit its metric.
    #[error("histogram of {metric:?}: {why}")]
    Histogram {
        /// Which.
        metric: Metric,
        /// What is wrong with it.
        why: String,
    },
    /// A value that nothing can have reached.
    #[error("{field} = {value} cannot be")]
    Count {
        /// Which field.
        field: &'static str,
        /// What it says.
        value: u64,
    },
    /// Something is not there.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// Something stands on a lane that is not its own.
    #[error("{what} on the {lane} lane")]
    WrongLane {
        /// What it is.
        what: &'static str,
        /// Where it stands.
        lane: String,
    },
    /// The same thing twice.
    #[error("{0} comes twice in one frame")]
    Twice(String),
    /// The frame is of another host or boot than the connection.
    #[error("a frame of {frame} on the connection of {connection}")]
    Foreign {
        /// What the frame says.
        frame: String,
        /// What the hello said.
        connection: String,
    },
}

fn name(field: &'static str, name: &str) -> Result<(), Error> {
    if (1..=MAX_NAME_BYTES).contains(&name.len()) {
        Ok(())
    } else {
        Err(Error::Name {
            field,
            len: name.len(),
        })
    }
}

pub(super) fn at_most(what: &'static str, len: usize, max: usize) -> Result<(), Error> {
    if len <= max {
        Ok(())
    } else {
        Err(Error::TooMany { what, len, max })
    }
}

/// Checks the first message of a connection.
pub fn hello(hello: &v1::Hello) -> Result<(), Error> {
    if hello.wire_version != WIRE_VERSION {
        return Err(Error::Version(hello.wire_version));
    }
    name("host", &hello.host)?;
    name("boot_id", &hello.boot_id)?;
    name("weir_version", &hello.weir_version)?;
    name("kernel_release", &hello.kernel_release)?;
    if wire::backend_kind(hello.backend()).is_none() {
        return Err(Error::Unknown {
            field: "backend",
            value: hello.backend.to_string(),
        });
    }
    if hello.lane() == Lane::Unspecified || (hello.is_recovery && hello.lane() != Lane::Warm) {
        return Err(Error::Unknown {
            field: "lane",
            value: hello.lane.to_string(),
        });
    }
    Ok(())
}

/// Who measured a cell. An edge that does not say is older than the other ways of measuring.
fn backend(key: &v1::CellKey) -> Result<BackendKind, Error> {
    match v1::Backend::try_from(key.backend) {
        Ok(v1::Backend::Unspecified) => Ok(BackendKind::Exact),
        Ok(known) => Ok(wire::backend_kind(known).unwrap_or(BackendKind::Exact)),
        Err(_) => Err(Error::Unknown {
            field: "cell.backend",
            value: key.backend.to_string(),
        }),
    }
}

/// Checks a frame and gives its cells. `before`: the latest cells of the same boot, if they are
/// known; an edge sends the same ones in the same order again and again, and what has not changed
/// is not checked again.
///
/// # Errors
/// It is not as an edge makes it.
pub fn frame(
    frame: &v1::Frame,
    hello: &v1::Hello,
    before: &[SentCell],
) -> Result<Arc<[SentCell]>, Error> {
    envelope(frame, hello)?;
    let cells = sent::cells(&frame.cells, before)?;
    let is_same = |(before, cell): (&SentCell, &SentCell)| before.key_bytes() == cell.key_bytes();
    if cells.len() != before.len() || !before.iter().zip(&cells).all(is_same) {
        let mut all = HashSet::with_capacity(cells.len());
        if let Some(cell) = cells.iter().find(|cell| !all.insert(&cell.key)) {
            return Err(Error::Twice(format!("cell {}", cell.key)));
        }
    }
    Ok(cells.into())
}

/// Checks all of a frame but its cells: whose it is, and that nothing in it is too much.
///
/// # Errors
/// It is not as an edge makes it.
pub(super) fn envelope(frame: &v1::Frame, hello: &v1::Hello) -> Result<(), Error> {
    if (&frame.host, &frame.boot_id) != (&hello.host, &hello.boot_id) {
        // What a stranger says is not repeated at length.
        let short = |name: &str| name.chars().take(MAX_NAME_BYTES).collect::<String>();
        return Err(Error::Foreign {
            frame: format!("{}/{}", short(&frame.host), short(&frame.boot_id)),
            connection: format!("{}/{}", hello.host, hello.boot_id),
        });
    }
    if frame.seq == 0 {
        return Err(Error::Missing("seq"));
    }
    if frame.lane != hello.lane {
        return Err(Error::WrongLane {
            what: "a frame of another",
            lane: hello.lane().word(),
        });
    }
    lane(frame)?;
    at_most("cells", frame.cells.len(), MAX_CELLS)?;
    at_most("events", frame.events.len(), MAX_EVENTS)?;
    at_most("deliveries", frame.deliveries.len(), MAX_DELIVERIES)?;
    at_most("lanes", frame.lanes.len(), 8)?;
    frame.vital.as_ref().map_or(Ok(()), vital)?;
    let error = frame.budget.as_ref().map_or("", |budget| &budget.error);
    at_most("bytes of a reason", frame.off.len(), MAX_SENTENCE_BYTES)?;
    at_most("bytes of a reason", error.len(), MAX_SENTENCE_BYTES)
}

/// Whether all that is in a frame belongs on its lane.
fn lane(frame: &v1::Frame) -> Result<(), Error> {
    let lane = frame.lane();
    for (what, own, is_there) in [
        ("cells", Lane::Warm, !frame.cells.is_empty()),
        ("events", Lane::Hot, !frame.events.is_empty()),
        ("vital numbers", Lane::Hot, frame.vital.is_some()),
        ("deliveries", Lane::Cold, !frame.deliveries.is_empty()),
    ] {
        if is_there && lane != own {
            let lane = lane.word();
            return Err(Error::WrongLane { what, lane });
        }
    }
    Ok(())
}

fn vital(vital: &v1::Vital) -> Result<(), Error> {
    at_most("vital cells", vital.cells.len(), MAX_VITAL_CELLS)?;
    let values = vital.cells.iter().map(|cell| &cell.values);
    for values in values.chain([&vital.other]) {
        if values.len() != VITAL_VALUES {
            return Err(Error::Unknown {
                field: "vital.values (how many)",
                value: values.len().to_string(),
            });
        }
        if let Some(value) = values.iter().find(|value| **value > MAX_SUM) {
            return Err(Error::Unknown {
                field: "vital.values",
                value: value.to_string(),
            });
        }
    }
    for cell in &vital.cells {
        key(cell.key.as_ref().ok_or(Error::Missing("vital.key"))?)?;
    }
    Ok(())
}

pub(super) fn key(key: &v1::CellKey) -> Result<CellKey, Error> {
    name("cell.service", &key.service)?;
    name("cell.content_class", &key.content_class)?;
    name("cell.network", &key.network)?;
    let tier = v1::EvidenceTier::try_from(key.tier)
        .ok()
        .filter(|tier| *tier != v1::EvidenceTier::Unspecified)
        .ok_or_else(|| Error::Unknown {
            field: "cell.tier",
            value: key.tier.to_string(),
        })?;
    let transport = [Transport::Tcp4, Transport::Tcp6, Transport::Other]
        .into_iter()
        .find(|transport| transport.as_str() == key.transport)
        .ok_or_else(|| Error::Unknown {
            field: "cell.transport",
            value: key.transport.chars().take(MAX_NAME_BYTES).collect(),
        })?;
    Ok(CellKey {
        service: Service::Named(key.service.as_str().into()),
        content_class: key.content_class.as_str().into(),
        network: key.network.as_str().into(),
        transport,
        tier: wire::tier_kind(tier),
        backend: backend(key)?,
    })
}

/// Counters that can be.
pub(super) fn counted(counters: &Counters) -> Result<(), Error> {
    static MOST: LazyLock<[u64; Counters::COUNT]> = LazyLock::new(|| {
        let is_sum = |name: &str| name.ends_with("_us") || name.ends_with("_bytes");
        let most = |(name, _)| if is_sum(name) { MAX_SUM } else { MAX_COUNT };
        Counters::default().named().map(most)
    });
    let named = counters.named();
    let mut named = named.iter().zip(&*MOST);
    match named.find(|((_, value), most)| value > most) {
        Some(((field, value), _)) => Err(Error::Count {
            field,
            value: *value,
        }),
        None => Ok(()),
    }
}

/// The rates that an edge tests for, each once.
pub(super) fn sustain(sent: &[v1::Sustain]) -> Result<[Sustain; RATES], Error> {
    at_most("rates of a cell", sent.len(), RATES)?;
    let mut sustain = [Sustain::default(); RATES];
    for (at, one) in sent.iter().enumerate() {
        if one.rate_bps == 0 {
            return Err(Error::Missing("sustain.rate_bps"));
        }
        if one.tested > MAX_COUNT {
            return Err(Error::Count {
                field: "sustain.tested",
                value: one.tested,
            });
        }
        if sustain.iter().any(|known| known.rate_bps == one.rate_bps) {
            return Err(Error::Twice(format!("rate of {} bit/s", one.rate_bps)));
        }
        sustain[at] = Sustain {
            rate_bps: one.rate_bps,
            tested: one.tested,
            sustained: one.sustained.min(one.tested),
        };
    }
    Ok(sustain)
}
