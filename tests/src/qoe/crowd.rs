//! Several viewers at one address: told apart where something tells them apart, else left out of every
//! number. Pure.

use serde::Serialize;

use super::said::ViewerSaid;
use super::scenario::{Set, Tier};
use super::score::match_stalls;
use super::stage::Played;
use super::truth::{Span, Truth};

/// What was made of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// As many viewers as there were players.
    ToldApart,
    /// They were found to be several, and no more is said of them.
    LeftOut,
    /// Neither.
    TakenForOne,
}

/// An address with several viewers.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[expect(missing_docs, reason = "each is named in the report")]
pub struct Crowd {
    pub session: String,
    pub set: Set,
    pub tier: Tier,
    /// Players that began to play.
    pub players: usize,
    /// Viewers that were said to have begun.
    pub viewers: usize,
    pub outcome: Outcome,
    /// True stalls of any of them.
    pub stalls: usize,
    /// Said stalls that none of them had; a viewer's that was left out later, too.
    pub stalls_false: usize,
    /// Said, and taken back later.
    pub stalls_retracted: usize,
    /// Starts that were said to have failed.
    pub failures_false: usize,
    /// Told apart or left out as the labels allow, without a false stall or a false failure.
    pub is_right: bool,
}

/// Judges the sessions that have a second player.
pub fn judge(played: &[Played], said: &[ViewerSaid]) -> Vec<Crowd> {
    played
        .iter()
        .filter_map(|one| {
            let company = one.company.as_ref()?;
            let here: Vec<_> = said
                .iter()
                .filter(|said| said.client == Some(one.client))
                .collect();
            let is_named = one.session.is_named;
            let session = &one.session;
            let crowd = of(&[&one.truth, company], &here, is_named);
            Some(Crowd {
                session: session.name.clone(),
                set: session.set,
                tier: session.tier,
                ..crowd
            })
        })
        .collect()
}

fn of(truths: &[&Truth], said: &[&ViewerSaid], is_named: bool) -> Crowd {
    let players = truths
        .iter()
        .filter(|truth| truth.started_ms.is_some())
        .count();
    let started: Vec<_> = said
        .iter()
        .filter(|said| said.started_unix_ns > 0)
        .collect();
    let outcome = if said.iter().any(|said| said.is_excluded) {
        Outcome::LeftOut
    } else if started.len() == players {
        Outcome::ToldApart
    } else {
        Outcome::TakenForOne
    };
    let mut real: Vec<Span> = truths
        .iter()
        .flat_map(|truth| truth.stalls.iter().copied())
        .collect();
    real.sort_by_key(|stall| stall.begin_ms);
    let stalls_false = said
        .iter()
        .map(|said| match_stalls(&real, &said.stalls).false_ones)
        .sum();
    let failures_false = said.iter().filter(|said| said.failed.is_some()).count();
    let is_as_labels_allow = match outcome {
        Outcome::ToldApart => true,
        Outcome::LeftOut => !is_named,
        Outcome::TakenForOne => false,
    };
    Crowd {
        session: String::new(),
        set: Set::Training,
        tier: Tier::T0,
        players,
        viewers: started.len(),
        outcome,
        stalls: real.len(),
        stalls_false,
        stalls_retracted: said.iter().map(|said| said.retracted.len()).sum(),
        failures_false,
        is_right: is_as_labels_allow && stalls_false == 0 && failures_false == 0,
    }
}

impl Crowd {
    /// A line for a terminal.
    pub fn line(&self) -> String {
        format!(
            "{:<34} {:?}  players {} viewers {} {:<13} stalls {} false {} taken back {} failed starts {}  {}",
            self.session,
            self.tier,
            self.players,
            self.viewers,
            match self.outcome {
                Outcome::ToldApart => "told apart",
                Outcome::LeftOut => "left out",
                Outcome::TakenForOne => "taken for one",
            },
            self.stalls,
            self.stalls_false,
            self.stalls_retracted,
            self.failures_false,
            if self.is_right { "ok" } else { "WRONG" }
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::said::Stall;
    use super::*;

    fn truth(stalls: Vec<Span>) -> Truth {
        Truth {
            load_ms: 1_000,
            started_ms: Some(2_000),
            left_ms: 60_000,
            stalls,
            ..Truth::default()
        }
    }

    fn said(begins_ms: &[u64]) -> ViewerSaid {
        ViewerSaid {
            started_unix_ns: 1,
            stalls: begins_ms
                .iter()
                .map(|ms| Stall {
                    begin_unix_ns: ms * 1_000_000,
                    first_begin_unix_ns: ms * 1_000_000,
                    end_unix_ns: (ms + 500) * 1_000_000,
                    told_unix_ns: ms * 1_000_000,
                    cause: None,
                })
                .collect(),
            ..ViewerSaid::default()
        }
    }

    #[test]
    fn two_that_are_told_apart_have_each_others_stalls_and_no_others() {
        let stall = Span {
            begin_ms: 10_000,
            end_ms: 12_000,
        };
        let truths = [&truth(vec![stall]), &truth(Vec::new())];
        let crowd = of(&truths, &[&said(&[10_300]), &said(&[])], true);
        assert_eq!((crowd.outcome, crowd.is_right), (Outcome::ToldApart, true));
        let crowd = of(&truths, &[&said(&[10_300]), &said(&[30_000])], true);
        assert_eq!((crowd.stalls_false, crowd.is_right), (1, false));
    }

    #[test]
    fn two_in_one_are_right_only_if_left_out_and_only_if_nobody_is_named() {
        let truths = [&truth(Vec::new()), &truth(Vec::new())];
        let one = of(&truths, &[&said(&[])], false);
        assert_eq!((one.outcome, one.is_right), (Outcome::TakenForOne, false));
        let excluded = ViewerSaid {
            is_excluded: true,
            ..said(&[])
        };
        assert!(of(&truths, &[&excluded], false).is_right);
        assert!(!of(&truths, &[&excluded], true).is_right);
        let excluded_late = ViewerSaid {
            is_excluded: true,
            ..said(&[20_000])
        };
        assert!(!of(&truths, &[&excluded_late], false).is_right);
    }
}
