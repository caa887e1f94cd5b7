//! What may be done with the gates while nothing can be written down.

use crate::steer::position::{Position, Setting, holds};

/// What may be done with the gates, by whether it can be written down first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permit {
    /// Anything that was decided.
    Any,
    /// Only back towards neutral: what cannot be shown afterwards is not begun, and what is there
    /// can always be ended.
    TowardsNeutral,
}

impl Permit {
    /// What of `wanted` may be held where `standing` is held now.
    #[must_use]
    pub fn bound(self, standing: &Position, wanted: &Position) -> Position {
        if self == Self::Any {
            return wanted.clone();
        }
        let named = standing.settings.iter().chain(&wanted.settings);
        let mut scopes: Vec<_> = named.map(|setting| &setting.scope).collect();
        scopes.sort();
        scopes.dedup();
        let settings = scopes.into_iter().map(|scope| {
            let (now_permille, now_bps) = holds(&standing.settings, scope);
            let (then_permille, then_bps) = holds(&wanted.settings, scope);
            Setting {
                scope: scope.clone(),
                weight_permille: now_permille.max(then_permille),
                // Without a cap on either side there is none.
                cap_bps: now_bps.zip(then_bps).map(|(now, then)| now.max(then)),
            }
        });
        Position {
            generation: wanted.generation,
            decision: wanted.decision.clone(),
            settings: settings.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::steer::Scope;
    use fastrand::Rng;

    fn position(rng: &mut Rng) -> Position {
        let scopes = [
            Scope::Host,
            Scope::Service("live".to_owned()),
            Scope::Cell("live/segment/isp/tcp4".to_owned()),
            Scope::Prefix("192.0.2.0/24".parse().unwrap()),
        ];
        let settings = scopes.into_iter().filter_map(|scope| {
            rng.bool().then(|| Setting {
                scope,
                weight_permille: rng.u16(0..=1000),
                cap_bps: rng.bool().then(|| rng.u64(1..5)),
            })
        });
        Position {
            settings: settings.collect(),
            ..Position::default()
        }
    }

    #[test]
    fn what_cannot_be_written_down_never_moves_away_and_always_back() {
        let mut rng = Rng::with_seed(1);
        for _ in 0..10_000 {
            let (standing, wanted) = (position(&mut rng), position(&mut rng));
            let got = Permit::TowardsNeutral.bound(&standing, &wanted);
            for setting in standing.settings.iter().chain(&wanted.settings) {
                let of = |position: &Position| holds(&position.settings, &setting.scope);
                let (was, wants, is) = (of(&standing), of(&wanted), of(&got));
                assert_eq!(is.0, was.0.max(wants.0));
                let limit = |cap: Option<u64>| cap.unwrap_or(u64::MAX);
                assert_eq!(limit(is.1), limit(was.1).max(limit(wants.1)));
            }
            let neutral = Permit::TowardsNeutral.bound(&standing, &Position::default());
            assert!(neutral.is_neutral());
            assert_eq!(Permit::Any.bound(&standing, &wanted), wanted);
        }
    }
}
