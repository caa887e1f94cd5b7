//! How a host is, as the centre sees it at one moment: plain values.

use weir_proto::v1;

use crate::collect::fleet::FRESH_MS;
use crate::steer::validation::Count;

/// Of so many viewers at least, a share says something.
const LEAST_VIEWERS: u64 = 20;
/// A host with more of its viewers standing still or about to is not healthy, in thousandths.
const ILL_PERMILLE: u64 = 200;

/// One host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    pub host: String,
    /// Of the daemon that runs there.
    pub boot_id: String,
    /// It was heard of lately.
    pub is_fresh: bool,
    pub last_heard_unix_ns: u64,
    /// Nothing is measured there now.
    pub is_off: bool,
    pub viewers_active: u64,
    /// That stand still or are about to.
    pub viewers_troubled: u64,
    /// Since the daemon's start; bad ones are late.
    pub deliveries: Count,
    pub acked_bytes: u64,
    /// None: it says nothing of a gate, and follows none of the centre's orders.
    pub gate: Option<Gate>,
}

/// What a host says of its gate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gate {
    /// When it said so, by its own `CLOCK_BOOTTIME`.
    pub boot_ns: u64,
    pub generation: u64,
    /// What the whole host takes of the traffic that would come by itself.
    pub weight_permille: u32,
    /// What automation turns away of it.
    pub automatic_permille: u32,
    /// Down to where automation would go with a token; 1000: it wants none.
    pub wants_floor_permille: u32,
    pub is_armed: bool,
    pub is_panicking: bool,
}

impl From<&v1::GateWord> for Gate {
    fn from(word: &v1::GateWord) -> Self {
        Self {
            boot_ns: word.boot_ns,
            generation: word.generation,
            weight_permille: word.weight_permille.min(1000),
            automatic_permille: word.automatic_permille.min(1000),
            wants_floor_permille: word.wants_floor_permille.min(1000),
            is_armed: word.armed,
            is_panicking: word.panicking,
        }
    }
}

impl View {
    /// As the fleet has it. Counts are those of its latest vital frame.
    pub fn of(host: &v1::Host, now_unix_ns: u64) -> Self {
        let sum = |value: v1::VitalValue| {
            let vital = host.vital.iter();
            let all = vital.flat_map(|vital| {
                let cells = vital.cells.iter().map(|cell| &cell.values);
                cells.chain([&vital.other])
            });
            let each = all.filter_map(|values| values.get(value as usize));
            each.fold(0, |sum: u64, value| sum.saturating_add(*value))
        };
        let n = sum(v1::VitalValue::Deliveries);
        let age_ms = now_unix_ns.saturating_sub(host.last_heard_unix_ns) / 1_000_000;
        Self {
            host: host.host.clone(),
            boot_id: host.boot_id.clone(),
            is_fresh: host.last_heard_unix_ns > 0 && age_ms <= FRESH_MS,
            last_heard_unix_ns: host.last_heard_unix_ns,
            is_off: !host.off.is_empty(),
            viewers_active: host.viewers_active,
            viewers_troubled: host.viewers_stalled.saturating_add(host.viewers_at_risk),
            deliveries: Count {
                n,
                bad: sum(v1::VitalValue::LateDeliveries).min(n),
            },
            acked_bytes: sum(v1::VitalValue::AckedBytes),
            gate: host.gate.as_ref().map(Gate::from),
        }
    }

    /// Whether the host is well, as far as can be known: one that is silent, or of which nothing is
    /// known, is not.
    pub fn is_healthy(&self) -> bool {
        let is_ill = self.viewers_active >= LEAST_VIEWERS
            && self.viewers_troubled.saturating_mul(1000)
                > self.viewers_active.saturating_mul(ILL_PERMILLE);
        self.is_fresh && !self.is_off && !is_ill
    }

    /// What it takes; without a gate nothing is turned away.
    pub fn weight_permille(&self) -> u64 {
        self.gate
            .map_or(1000, |gate| u64::from(gate.weight_permille.min(1000)))
    }

    /// Whether what the centre wants of it is followed.
    pub fn follows(&self) -> bool {
        self.gate.is_some_and(|gate| gate.is_armed)
    }

    pub fn is_panicking(&self) -> bool {
        self.gate.is_some_and(|gate| gate.is_panicking)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A host that is well.
    pub(crate) fn view(host: &str) -> View {
        View {
            host: host.to_owned(),
            boot_id: "boot".to_owned(),
            is_fresh: true,
            gate: Some(Gate {
                boot_ns: 1_000,
                weight_permille: 1000,
                wants_floor_permille: 1000,
                is_armed: true,
                ..Gate::default()
            }),
            ..View::default()
        }
    }

    #[test]
    fn a_host_that_is_silent_off_or_full_of_trouble_is_not_healthy() {
        assert!(view("a").is_healthy());
        let ill = |change: fn(&mut View)| {
            let mut view = view("a");
            change(&mut view);
            !view.is_healthy()
        };
        assert!(ill(|view| view.is_fresh = false));
        assert!(ill(|view| view.is_off = true));
        assert!(ill(|view| {
            view.viewers_active = 100;
            view.viewers_troubled = 21;
        }));
        // A fifth is not more than a fifth, and of few nothing can be said.
        assert!(!ill(|view| {
            view.viewers_active = 100;
            view.viewers_troubled = 20;
        }));
        assert!(!ill(|view| {
            view.viewers_active = 19;
            view.viewers_troubled = 19;
        }));
    }
}
