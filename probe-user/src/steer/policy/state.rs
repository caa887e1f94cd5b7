//! What is remembered from one decision to the next.

use serde::{Deserialize, Serialize};

use super::gate::Gate;
use super::invariants::{Invariant, OPENING_PPM_PER_S};
use crate::qoe::blame::WHOLE_PPM;
use crate::steer::overrides::Book;
use crate::steer::position::holds;
use crate::steer::{Position, Scope, Setting};

/// One scope as it stands, finer than a position says it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turned {
    pub scope: Scope,
    pub weight_ppm: u32,
    pub cap_bps: Option<u64>,
    /// How fast it goes back when nobody holds it any longer.
    pub ease_ppm_per_s: u32,
}

impl Turned {
    pub(super) fn setting(&self) -> Setting {
        // Rounded towards neutral.
        let permille = self.weight_ppm.min(WHOLE_PPM).div_ceil(1000);
        Setting {
            scope: self.scope.clone(),
            weight_permille: u16::try_from(permille).unwrap_or(1000),
            cap_bps: self.cap_bps,
        }
    }
}

/// All that [`super::decide`] knows of before. Begins neutral.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// The latest time that was seen; it never goes back.
    pub now_ns: u64,
    /// Gates were moved last.
    pub(super) ramped_ns: u64,
    /// A weight was another than before last.
    #[serde(default)]
    pub(super) moved_ns: u64,
    /// Decisions so far.
    pub decisions: u64,
    /// The orders in force.
    pub book: Book,
    pub gates: Vec<Gate>,
    /// Scopes for which there was no room.
    pub gates_refused: u64,
    pub settings: Vec<Turned>,
    pub position: Position,
    pub is_panicking: bool,
    /// What invariants hold now, so that each is told once.
    pub bound: Vec<(Scope, Invariant)>,
}

impl State {
    /// After a start: neutral, with orders that still hold, and numbers that go on from those before
    /// so that nothing old is taken for new.
    pub fn resumed(book: Book, generation: u64, decisions: u64) -> Self {
        Self {
            book,
            decisions,
            position: Position {
                generation,
                ..Position::default()
            },
            ..Self::default()
        }
    }

    /// What was not permitted is not gone on from: no scope stands lower than it is `held`.
    pub fn held_back(&mut self, held: &Position) {
        for own in &mut self.settings {
            let (permille, cap_bps) = holds(&held.settings, &own.scope);
            own.weight_ppm = own.weight_ppm.max(u32::from(permille) * 1000);
            own.cap_bps = own.cap_bps.and(cap_bps);
        }
        self.position.settings.clone_from(&held.settings);
    }

    /// Where a scope stands: as it was set, or as the narrowest around it.
    pub fn stands(&self, scope: &Scope) -> Turned {
        let own = self.settings.iter().find(|own| own.scope == *scope);
        own.or_else(|| around(&self.settings, scope)).map_or_else(
            || Turned {
                scope: scope.clone(),
                weight_ppm: WHOLE_PPM,
                cap_bps: None,
                ease_ppm_per_s: OPENING_PPM_PER_S,
            },
            |found| Turned {
                scope: scope.clone(),
                ..found.clone()
            },
        )
    }
}

/// The narrowest other scope that this one is in.
pub(super) fn around<'a>(settings: &'a [Turned], scope: &Scope) -> Option<&'a Turned> {
    settings
        .iter()
        .filter(|other| other.scope != *scope && other.scope.covers(scope))
        .max_by_key(|other| match &other.scope {
            Scope::Host => 0,
            Scope::Service(_) => 1,
            Scope::Cell(_) => 2,
            Scope::Prefix(prefix) => 3 + u16::from(prefix.prefix_len()),
        })
}
