//! Rebalances as operators order, approve and undo them.

use tonic::Status;
use weir_proto::v1;

use super::at::At;
use super::desk::{REBALANCE_REACH, Refused, author, release};
use super::keep::Now;
use super::preview::{Preview, preview};
use super::rebalance::{Around, PERMILLE, Rebalance};
use super::{State, Steering, order_of};
use crate::steer::Scope;
use crate::steer::central::{Central, Kept, Phase, Plan};
use crate::steer::journal::Body;
use crate::steer::overrides::Order;
use crate::steer::overrides::order::{DEFAULT_TTL_S, MAX_BREAK_GLASS_S, MAX_TEXT_BYTES, MAX_TTL_S};
use crate::steer::overrides::roles::Denied;

/// Under way at the same time.
const MAX_REBALANCES: usize = 8;
const MAX_DEAD_TIME_S: u32 = 3600;

impl Steering {
    /// What would come of a rebalance, and unless that is all that is asked, its beginning.
    pub(in crate::collect) async fn rebalance(
        &self,
        speaker: &str,
        request: v1::RebalanceRequest,
    ) -> Result<v1::RebalanceResponse, Status> {
        let is_dry = request.dry_run;
        let plan = self.plan(speaker, &request);
        let plan = plan.map_err(Status::invalid_argument)?;
        let kept = Kept {
            phase: Phase::WaitsForSecond,
            canary: String::new(),
            plan,
        };
        let order = order_of(&kept, 1000 - kept.plan.permille);
        let at = At::Region(kept.plan.from.clone());
        let waits = match self.roles.authorise(&order, REBALANCE_REACH) {
            Ok(()) => String::new(),
            Err(denied @ Denied::SecondNeeded { .. }) => denied.to_string(),
            Err(denied) => {
                return Err(self
                    .refuse(&order, &at.to_string(), denied.into())
                    .await
                    .into());
            }
        };
        let plan = kept.plan;
        let now = Now::read();
        let told = {
            let state = self.state();
            preview(&plan, &self.around(&state, now), |_| true)
        };
        let mut response = answer(&told);
        if is_dry || !told.problems.is_empty() {
            return Ok(response);
        }
        self.begin(plan, !waits.is_empty(), &mut response).await?;
        response.waits = waits;
        Ok(response)
    }

    async fn begin(
        &self,
        plan: Plan,
        waits: bool,
        response: &mut v1::RebalanceResponse,
    ) -> Result<(), Refused> {
        let rebalance = {
            let state = self.state();
            Rebalance::new(plan, waits, &self.around(&state, Now::read()))
        };
        let kept = rebalance.kept.clone();
        let order = order_of(&kept, 1000 - kept.plan.permille);
        let at = At::Region(kept.plan.from.clone()).to_string();
        if kept.canary.is_empty() {
            let why = format!("no host of {at} would follow: none is armed, heard of and well");
            return Err(self.refuse(&order, &at, Refused::Impossible(why)).await);
        }
        let in_the_way = self.state().in_the_way(&kept.plan);
        if let Some(why) = in_the_way {
            return Err(self.refuse(&order, &at, Refused::Impossible(why)).await);
        }
        self.write(&kept).await?;
        tracing::warn!(
            id = kept.plan.id,
            actor = kept.plan.actor,
            reason = kept.plan.reason,
            "rebalance: {} permille of {} to {}: {}",
            kept.plan.permille,
            kept.plan.from,
            kept.plan.to,
            kept.phase.as_str()
        );
        response.id.clone_from(&kept.plan.id);
        // Another may have been begun while this was written.
        let mut state = self.state();
        if let Some(why) = state.in_the_way(&kept.plan) {
            return Err(Refused::Impossible(why));
        }
        state.rebalances.push(rebalance);
        Ok(())
    }

    async fn write(&self, kept: &Kept) -> Result<(), Refused> {
        let body = Body::Central(Box::new(Central::Rebalance(kept.clone())));
        let written = self.keeper.write(vec![body]).await;
        written.map_err(Refused::Unwritten)
    }

    fn plan(&self, speaker: &str, request: &v1::RebalanceRequest) -> Result<Plan, String> {
        let author = author(speaker);
        for region in [&request.from, &request.to] {
            if !self.places.has_region(region) {
                return Err(format!(
                    "no [[steer.pool]] is in a region {region:?}; there are: {}",
                    self.places.regions().join(", ")
                ));
            }
        }
        if request.from == request.to {
            return Err("a rebalance is from one region to another".to_owned());
        }
        let permille = u16::try_from(request.permille).unwrap_or(u16::MAX);
        if !PERMILLE.contains(&permille) {
            return Err(format!(
                "{} permille is out of range: {} to {}; less is noise, and half is the most that \
                 automation turns away",
                request.permille,
                PERMILLE.start(),
                PERMILLE.end()
            ));
        }
        let reason = request.reason.trim();
        if reason.is_empty() || reason.len() > MAX_TEXT_BYTES || reason.contains(char::is_control) {
            return Err(format!(
                "an order needs a reason of one line, of 1 to {MAX_TEXT_BYTES} bytes; say why in \
                 --reason"
            ));
        }
        let within = |what: &str, value: u32, most: u32| {
            if (1..=most).contains(&value) {
                return Ok(value);
            }
            Err(format!(
                "{what} of {value} s is out of range: 1 to {most} s"
            ))
        };
        let most_s = if request.break_glass {
            MAX_BREAK_GLASS_S
        } else {
            MAX_TTL_S
        };
        let ttl_s = match request.ttl_s {
            0 => DEFAULT_TTL_S.min(most_s),
            ttl_s => ttl_s,
        };
        let dead_time_s = match request.dead_time_s {
            0 => self.dead_time_s,
            dead_time_s => dead_time_s,
        };
        Ok(Plan {
            id: uuid::Uuid::new_v4().simple().to_string(),
            from: request.from.clone(),
            to: request.to.clone(),
            permille,
            actor: author.actor,
            auth: author.auth,
            second: None,
            reason: reason.to_owned(),
            created_unix_ns: Now::read().unix_ns,
            ttl_s: within("a time to live", ttl_s, most_s)?,
            dead_time_s: within("a dead time", dead_time_s, MAX_DEAD_TIME_S)?,
            is_break_glass: request.break_glass,
        })
    }

    fn around<'a>(&'a self, state: &'a State, now: Now) -> Around<'a> {
        Around {
            places: &self.places,
            views: &state.views,
            ledger: &state.ledger,
            limits: self.limits,
            now_ns: now.boot_ns,
            now_unix_ns: now.unix_ns,
        }
    }

    fn kept(&self, id: &str) -> Result<Kept, Refused> {
        let state = self.state();
        let own = state.rebalances.iter().find(|own| own.kept.plan.id == id);
        own.map(|own| own.kept.clone()).ok_or_else(|| {
            Refused::Impossible(format!(
                "no order and no rebalance {id} is known here (any longer)"
            ))
        })
    }

    /// A second person agrees.
    pub(super) async fn approve_rebalance(&self, speaker: &str, id: &str) -> Result<(), Refused> {
        let kept = self.kept(id)?;
        let at = At::Region(kept.plan.from.clone()).to_string();
        let second = author(speaker).auth;
        let order = Order {
            second: Some(second.clone()),
            ..order_of(&kept, 1000 - kept.plan.permille)
        };
        if kept.phase != Phase::WaitsForSecond {
            let why = format!("the rebalance {id} does not wait: {}", kept.phase.as_str());
            return Err(self.refuse(&order, &at, Refused::Impossible(why)).await);
        }
        if let Err(denied) = self.roles.authorise(&order, REBALANCE_REACH) {
            return Err(self.refuse(&order, &at, denied.into()).await);
        }
        let begun = Kept {
            plan: Plan {
                second: Some(second.clone()),
                ..kept.plan
            },
            phase: Phase::Moving { stage: 0 },
            canary: kept.canary,
        };
        self.write(&begun).await?;
        let mut state = self.state();
        let State {
            rebalances,
            views,
            ledger,
            ..
        } = &mut *state;
        let now = Now::read();
        let around = Around {
            places: &self.places,
            views,
            ledger,
            limits: self.limits,
            now_ns: now.boot_ns,
            now_unix_ns: now.unix_ns,
        };
        if let Some(own) = rebalances.iter_mut().find(|own| own.kept.plan.id == id) {
            own.approve(second, &around);
        }
        Ok(())
    }

    /// Takes all of one back.
    pub(super) async fn undo_rebalance(
        &self,
        speaker: &str,
        id: &str,
        reason: &str,
    ) -> Result<(), Refused> {
        let kept = self.kept(id)?;
        let order = release(speaker, Scope::Host, Some(id), reason);
        self.may(&order, &At::Region(kept.plan.from.clone()))
            .await?;
        let why = format!("{speaker}: {reason}");
        self.end(&why, |own| own.kept.plan.id == id).await;
        Ok(())
    }

    /// After a panic in a region or of the fleet.
    pub(super) async fn undo_rebalances(&self, at: &At, reason: &str) {
        let is_its = |kept: &Kept| match at {
            At::Fleet => true,
            At::Region(region) => *region == kept.plan.from || *region == kept.plan.to,
            At::Host(host) => {
                let place = self.places.of(host);
                place.is_some_and(|place| {
                    [&kept.plan.from, &kept.plan.to]
                        .iter()
                        .any(|own| **own == place.region)
                })
            }
        };
        let why = format!("panic at {at}: {reason}");
        self.end(&why, |own| is_its(&own.kept)).await;
    }

    /// Back to neutral does not wait for the disk.
    async fn end(&self, why: &str, is_its: impl Fn(&Rebalance) -> bool) {
        let bodies: Vec<_> = {
            let mut state = self.state();
            let its = state.rebalances.iter_mut().filter(|own| is_its(own));
            let undone = its.filter_map(|own| own.undo(why).then(|| own.kept.clone()));
            undone
                .map(|kept| Body::Central(Box::new(Central::Rebalance(kept))))
                .collect()
        };
        self.keeper.note(bodies).await;
    }
}

impl State {
    /// Why another rebalance keeps this one from being begun.
    fn in_the_way(&self, plan: &Plan) -> Option<String> {
        let regions = [&plan.from, &plan.to];
        let touches = |own: &&Rebalance| {
            let its = [&own.kept.plan.from, &own.kept.plan.to];
            !own.is_over() && its.iter().any(|region| regions.contains(region))
        };
        if let Some(own) = self.rebalances.iter().find(touches) {
            return Some(format!(
                "the rebalance {} of {} to {} is under way; undo it first",
                own.kept.plan.id, own.kept.plan.from, own.kept.plan.to
            ));
        }
        (self.rebalances.len() >= MAX_REBALANCES)
            .then(|| format!("{MAX_REBALANCES} rebalances are under way"))
    }
}

fn answer(told: &Preview) -> v1::RebalanceResponse {
    let gives = told.gives.iter().map(|own| v1::RebalanceGives {
        host: own.host.clone(),
        from_permille: own.from_permille.into(),
        to_permille: own.to_permille.into(),
        moved_bps: own.moved_bps,
        why_not: own.why_not.unwrap_or_default().to_owned(),
    });
    let takes = told.takes.iter().map(|own| v1::RebalanceTakes {
        host: own.host.clone(),
        sent_bps: own.sent_bps,
        headroom_bps: own.headroom_bps,
        gets_bps: own.gets_bps,
    });
    v1::RebalanceResponse {
        problems: told.problems.clone(),
        gives: gives.collect(),
        takes: takes.collect(),
        moved_bps: told.moved_bps,
        headroom_bps: told.headroom_bps,
        ..v1::RebalanceResponse::default()
    }
}
