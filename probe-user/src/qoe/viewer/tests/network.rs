//! One request over a link, and what the server's kernel and log say of it, as late as they do.

use fastrand::Rng;

use super::super::*;
use super::link::Link;

const MS: u64 = 1_000_000;
/// What the server's socket holds.
const SNDBUF_BYTES: u64 = 400_000;
/// How often the kernel programs look for what to report.
const SWEEP_MS: u32 = 250;
/// The clock's origin, so that nothing is at 0.
pub(super) const EPOCH_NS: u64 = 1_000_000_000_000;

pub(super) fn ns(t_ms: u32) -> u64 {
    EPOCH_NS + u64::from(t_ms) * MS
}

/// What is said to the model.
#[derive(Clone, Copy, Debug)]
pub(super) enum Input {
    UnderWay(UnderWay),
    Labelled(Labelled),
    Finished(Finished),
}

/// When a record or a label is heard, in milliseconds, and what it says.
pub(super) type Said = Vec<(u32, Input)>;

/// How the server's side is measured.
#[derive(Clone, Copy, Debug)]
pub(super) struct Measuring {
    pub quiet_gap_ms: u32,
    pub progress_ms: u32,
    /// Labels that are lost, in thousandths.
    pub lost_labels_permille: u32,
}

/// One request.
#[derive(Debug)]
pub(super) struct Transfer {
    pub id: RequestId,
    pub object: Object,
    pub bytes: u64,
    pub claim: Option<Claim>,
    /// When it reached the server.
    pub t_request_ms: u32,
    t_first_write_ms: u32,
    /// Bytes at the client, and what each step added to them lately, in bits over bytes.
    arrived_bytes: u64,
    remainder: u64,
    /// Bytes at the client at each step since the request.
    history: Vec<u64>,
    is_labelled: bool,
    /// When the last byte reached the client.
    pub t_arrived_ms: Option<u32>,
}

impl Transfer {
    pub(super) fn new(
        id: RequestId,
        object: Object,
        bytes: u64,
        claim: Option<Claim>,
        t_request_ms: u32,
        rng: &mut Rng,
    ) -> Self {
        Self {
            id,
            object,
            bytes,
            claim,
            t_request_ms,
            t_first_write_ms: t_request_ms + rng.u32(1..20),
            arrived_bytes: 0,
            remainder: 0,
            history: Vec::new(),
            is_labelled: false,
            t_arrived_ms: None,
        }
    }

    /// Whether the link is carrying it.
    pub(super) fn is_carried(&self, t_ms: u32, link: &Link) -> bool {
        t_ms >= self.t_first_write_ms + link.rtt_ms / 2 && self.t_arrived_ms.is_none()
    }

    /// A step of `step_ms` over its share of the link.
    pub(super) fn step(&mut self, t_ms: u32, step_ms: u32, link: &Link, rate_bps: u64) {
        if self.is_carried(t_ms, link) {
            let scaled = rate_bps * u64::from(step_ms) + self.remainder;
            self.remainder = scaled % 8000;
            self.arrived_bytes = (self.arrived_bytes + scaled / 8000).min(self.bytes);
            if self.arrived_bytes == self.bytes {
                self.t_arrived_ms = Some(t_ms);
            }
        }
        self.history.push(self.arrived_bytes);
    }

    /// What is said of it at `t_ms`, the step that was just made; later labels go to `said` too.
    pub(super) fn report(
        &mut self,
        t_ms: u32,
        step_ms: u32,
        link: &Link,
        measuring: &Measuring,
        rng: &mut Rng,
        said: &mut Said,
    ) {
        let Some(age_ms) = t_ms.checked_sub(self.t_request_ms) else {
            return;
        };
        let back = (link.rtt_ms / 2 / step_ms) as usize;
        let at = self.history.len().checked_sub(1 + back);
        let acked_bytes = at.map_or(0, |at| self.history[at]);
        let written_bytes = if t_ms < self.t_first_write_ms {
            0
        } else {
            self.bytes.min(acked_bytes + SNDBUF_BYTES)
        };
        let is_due = age_ms % measuring.progress_ms < SWEEP_MS && age_ms >= measuring.progress_ms;
        if t_ms.is_multiple_of(SWEEP_MS) && is_due {
            let under_way = UnderWay {
                id: self.id,
                t_request_ns: ns(self.t_request_ms),
                t_ns: ns(t_ms),
                is_sole: true,
                acked_bytes,
                written_bytes,
                srtt_us: link.rtt_ms * 1000,
                ..UnderWay::default()
            };
            said.push((t_ms, Input::UnderWay(under_way)));
        }
        if written_bytes == self.bytes && !self.is_labelled {
            self.is_labelled = true;
            if rng.u32(0..1000) < measuring.lost_labels_permille {
                self.object = Object::default();
                return;
            }
            let label = Labelled {
                id: self.id,
                t_request_ns: ns(self.t_request_ms),
                object: self.object,
                status: 200,
                is_written: true,
                expected_bytes: self.bytes,
                claim: self.claim,
            };
            said.push((t_ms + rng.u32(2..40), Input::Labelled(label)));
        }
    }

    /// The record of its end, once its last byte has been acknowledged.
    pub(super) fn finished(&self, t_ms: u32, link: &Link, rng: &mut Rng) -> Option<Finished> {
        let t_acked_ms = self.t_arrived_ms? + link.rtt_ms / 2;
        (t_ms > t_acked_ms).then(|| Finished {
            id: self.id,
            t_request_ns: ns(self.t_request_ms),
            t_first_write_ns: ns(self.t_first_write_ms),
            t_last_acked_ns: ns(t_acked_ms),
            t_ns: ns(t_ms),
            acked_bytes: self.bytes,
            srtt_us: link.rtt_ms * 1000 * rng.u32(90..130) / 100,
            status: 200,
            object: (self.object != Object::default()).then_some(self.object),
            ..Finished::default()
        })
    }
}
