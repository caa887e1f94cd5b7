//! The budget: measures what the kernel programs cost, and follows as many sessions as the
//! [`Governor`] says.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use weir_proto::v1;

use super::governor::Governor;
use crate::kernel::{Backend, Statistics, WHOLE};

/// Between two measurements. One takes from one call of [`Budget::keep`] to the next, and not all
/// the time, because the kernel's statistics cost too.
const INTERVAL: Duration = Duration::from_secs(10);
/// One that is shorter tells of what happened to happen, not of what goes on.
const LEAST_SPAN: Duration = Duration::from_millis(200);
/// Loading and adopting are over by then.
const FIRST: Duration = Duration::from_millis(500);

pub(super) struct Budget {
    governor: Governor,
    measurement: Option<Measurement>,
    next: Instant,
    begun: Instant,
    status: v1::BudgetStatus,
}

/// One that is under way.
struct Measurement {
    run_time: Duration,
    since: Instant,
    _statistics: Statistics,
}

impl Budget {
    /// Thousandths of a core; 0: no limit.
    pub(super) fn new(limit_core_permille: u32) -> Self {
        Self {
            governor: Governor::new(limit_core_permille),
            measurement: None,
            next: Instant::now() + FIRST,
            begun: Instant::now(),
            status: v1::BudgetStatus::default(),
        }
    }

    /// Another limit, from now on; it is measured at once.
    pub(super) fn set_limit(&mut self, limit_core_permille: u32) {
        if limit_core_permille != self.governor.limit_core_permille() {
            self.governor.set_limit(limit_core_permille);
            self.next = Instant::now();
        }
    }

    /// There is a new backend, which follows every session.
    pub(super) fn begin_again(&mut self) {
        *self = Self::new(self.governor.limit_core_permille());
    }

    /// How it stands; none if there is no limit.
    pub(super) fn status(&self) -> Option<v1::BudgetStatus> {
        let limit_core_permille = self.governor.limit_core_permille();
        (limit_core_permille != 0).then(|| v1::BudgetStatus {
            limit_core_permille,
            followed_permille: thousandths(self.governor.share()),
            ..self.status.clone()
        })
    }

    /// Begins or ends a measurement, if it is time, and follows another share of the sessions if
    /// it says so. To be called about four times a second.
    pub(super) fn keep(&mut self, backend: Option<&mut (dyn Backend + 'static)>, unix_ns: u64) {
        let measurement = self.measurement.take();
        let Some(backend) = backend else {
            return;
        };
        let is_limited = self.governor.limit_core_permille() != 0;
        if !is_limited && self.governor.share() == WHOLE {
            return;
        }
        let now = Instant::now();
        if measurement.is_none() && now < self.next {
            return;
        }
        self.status.error.clear();
        if let Err(err) = self.step(backend, measurement, now, unix_ns) {
            self.next = now + INTERVAL;
            self.status.error = format!("{err:#}");
        }
    }

    fn step(
        &mut self,
        backend: &mut dyn Backend,
        measurement: Option<Measurement>,
        now: Instant,
        unix_ns: u64,
    ) -> anyhow::Result<()> {
        let Some(measurement) = measurement else {
            let Some(run_time) = backend.run_time()? else {
                anyhow::bail!("this way of measuring cannot be bounded");
            };
            self.measurement = Some(Measurement {
                run_time,
                since: now,
                _statistics: Statistics::keep()?,
            });
            return Ok(());
        };
        if now - measurement.since < LEAST_SPAN {
            self.measurement = Some(measurement);
            return Ok(());
        }
        self.next = now + INTERVAL;
        let run_time = backend.run_time()?.unwrap_or_default();
        let ran = run_time.saturating_sub(measurement.run_time);
        let took = (now - measurement.since).as_secs_f64();
        let cost_core_permille = ran.as_secs_f64() / took * 1000.0;
        self.status.cost_core_permille = cost_core_permille;
        self.status.measured_unix_ns = unix_ns;
        let before = self.governor.share();
        let limit = self.governor.limit_core_permille();
        if before == 0 && limit != 0 && cost_core_permille > f64::from(limit) {
            // What is left runs for each session, whatever its deliveries do.
            self.status.error = format!(
                "{cost_core_permille:.1} thousandths of a core are needed to count sessions alone"
            );
        }
        let Some(share) = self.governor.measured(now - self.begun, cost_core_permille) else {
            return Ok(());
        };
        let followed = thousandths(share);
        if share < before {
            tracing::warn!(
                "the kernel programs cost {cost_core_permille:.1} thousandths of a core, {limit} \
                 are allowed: {followed:.1} of 1000 sessions are followed now"
            );
        } else {
            tracing::info!(
                "the kernel programs cost {cost_core_permille:.1} thousandths of a core: \
                 {followed:.1} of 1000 sessions are followed now"
            );
        }
        let followed = backend.follow(share);
        if followed.is_err() {
            // To be tried again after the next measurement.
            self.governor.not_taken(before);
        }
        followed.context("following another share of the sessions")
    }
}

fn thousandths(share: u32) -> f64 {
    f64::from(share) * 1000.0 / f64::from(WHOLE)
}
