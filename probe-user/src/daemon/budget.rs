//! The budget: measures what the way of measuring costs, and keeps it within the limit by what that
//! way offers: a share of the sessions, as the [`Governor`] says; fewer looks; or nothing, and says
//! so.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use weir_proto::v1;

use super::governor::Governor;
use crate::kernel::{Backend, Means, Statistics, WHOLE};

/// Between two measurements. One takes from one call of [`Budget::keep`] to the next, and not all
/// the time, because the kernel's statistics cost too.
const INTERVAL: Duration = Duration::from_secs(10);
/// The same after one that was above the limit or changed the share: by then that shows.
const SOON: Duration = Duration::from_secs(1);
/// One that is shorter tells of what happened to happen, not of what goes on.
const LEAST_SPAN: Duration = Duration::from_millis(200);
/// The same where one look at all sockets may be seconds from the next.
const LEAST_SPAN_OF_LOOKS: Duration = Duration::from_secs(5);
/// Loading and adopting are over by then.
const FIRST: Duration = Duration::from_millis(500);
/// From so many measurements in a row above the limit on, there was time to act, and it did not help.
const TIME_TO_ACT: u32 = 3;

pub(super) struct Budget {
    governor: Governor,
    measurement: Option<Measurement>,
    next: Instant,
    begun: Instant,
    /// Measurements above the limit, one after the other.
    too_much: u32,
    status: v1::BudgetStatus,
}

/// One that is under way.
struct Measurement {
    run_time: Duration,
    since: Instant,
    _statistics: Option<Statistics>,
}

impl Budget {
    /// Thousandths of a core; 0: no limit.
    pub(super) fn new(limit_core_permille: u32) -> Self {
        Self {
            governor: Governor::new(limit_core_permille),
            measurement: None,
            next: Instant::now() + FIRST,
            begun: Instant::now(),
            too_much: 0,
            status: v1::BudgetStatus::default(),
        }
    }

    /// Another limit, from now on; it is measured at once.
    pub(super) fn set_limit(&mut self, limit_core_permille: u32) {
        if limit_core_permille != self.governor.limit_core_permille() {
            self.governor.set_limit(limit_core_permille);
            self.too_much = 0;
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

    /// Begins or ends a measurement, if it is time, and does what follows from it. To be called about
    /// four times a second.
    pub(super) fn keep(&mut self, backend: Option<&mut (dyn Backend + 'static)>, unix_ns: u64) {
        let measurement = self.measurement.take();
        let Some(backend) = backend else {
            return;
        };
        backend.pace(self.governor.limit_core_permille());
        let is_limited = self.governor.limit_core_permille() != 0;
        if !is_limited && self.governor.share() == WHOLE {
            return;
        }
        let now = Instant::now();
        if measurement.is_none() && now < self.next {
            return;
        }
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
        let means = backend.means();
        let (least_span, needs_statistics) = match means {
            Means::Share | Means::Nothing(_) => (LEAST_SPAN, true),
            Means::Pace => (LEAST_SPAN_OF_LOOKS, false),
        };
        let Some(measurement) = measurement else {
            self.measurement = Some(Measurement {
                run_time: backend.run_time()?,
                since: now,
                _statistics: needs_statistics.then(Statistics::keep).transpose()?,
            });
            return Ok(());
        };
        if now - measurement.since < least_span {
            self.measurement = Some(measurement);
            return Ok(());
        }
        let ran = backend.run_time()?.saturating_sub(measurement.run_time);
        let took = (now - measurement.since).as_secs_f64();
        let cost_core_permille = ran.as_secs_f64() / took * 1000.0;
        self.status.cost_core_permille = cost_core_permille;
        self.status.measured_unix_ns = unix_ns;
        let limit = self.governor.limit_core_permille();
        let is_too_much = limit != 0 && cost_core_permille > f64::from(limit);
        self.too_much = if is_too_much { self.too_much + 1 } else { 0 };
        self.next = now + if is_too_much { SOON } else { INTERVAL };
        self.status.error = self.why_not_kept(means, cost_core_permille);
        match means {
            Means::Share => self.govern(backend, now, cost_core_permille),
            Means::Pace | Means::Nothing(_) => Ok(()),
        }
    }

    /// Empty if it is kept, or there was no time yet to do something about it.
    fn why_not_kept(&self, means: Means, cost_core_permille: f64) -> String {
        let has_had_time = self.too_much >= TIME_TO_ACT;
        let share = self.governor.share();
        match means {
            _ if self.too_much == 0 => String::new(),
            Means::Nothing(why) => {
                format!(
                    "the programs take {cost_core_permille:.1} thousandths of a core, and {why}"
                )
            }
            Means::Pace if has_had_time => format!(
                "looking as seldom as lateness allows, and hearing of sessions' ends, take \
                 {cost_core_permille:.1} thousandths of a core"
            ),
            // What is left runs for each session, whatever its deliveries do.
            Means::Share if share == 0 => format!(
                "{cost_core_permille:.1} thousandths of a core are needed to count sessions alone"
            ),
            Means::Share if has_had_time => format!(
                "the programs take {cost_core_permille:.1} thousandths of a core, with {:.1} of 1000 \
                 sessions followed",
                thousandths(share)
            ),
            Means::Share | Means::Pace => String::new(),
        }
    }

    /// Follows another share of the sessions, if the cost asks for it.
    fn govern(
        &mut self,
        backend: &mut dyn Backend,
        now: Instant,
        cost_core_permille: f64,
    ) -> anyhow::Result<()> {
        let before = self.governor.share();
        let limit = self.governor.limit_core_permille();
        let Some(share) = self.governor.measured(now - self.begun, cost_core_permille) else {
            return Ok(());
        };
        self.next = now + SOON;
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
