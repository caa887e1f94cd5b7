//! A gate that turns nothing and notes what it was told, and when.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use weir::daemon::steering::{Gate, MakeGates};
use weir::steer::Position;
use weir::steer::actuators::{Actuator, Lease};

/// What it was told: a position, or to let go.
#[derive(Clone, Debug)]
pub struct Told {
    pub at: Instant,
    pub position: Option<Position>,
}

/// What a test holds of it.
#[derive(Clone, Debug, Default)]
pub struct TestGate(Arc<Mutex<Vec<Told>>>);

impl TestGate {
    pub fn make(&self) -> MakeGates {
        let gate = self.clone();
        Box::new(move |_| Ok(vec![Gate::new(gate.clone(), Duration::from_millis(600))]))
    }

    pub fn told(&self) -> Vec<Told> {
        self.0.lock().unwrap().clone()
    }

    /// The host's weight as it stands at the gate.
    pub fn weight(&self) -> u16 {
        weight(self.told().last())
    }

    /// When it first held a weight like that after `since`.
    pub fn held_since(&self, since: Instant, is_it: impl Fn(u16) -> bool) -> Option<Instant> {
        let told = self.told();
        let mut later = told.iter().filter(|told| told.at >= since);
        later
            .find(|told| is_it(weight(Some(told))))
            .map(|told| told.at)
    }

    fn note(&self, position: Option<Position>) {
        let at = Instant::now();
        self.0.lock().unwrap().push(Told { at, position });
    }
}

/// The least weight that it names, as its tests turn one scope at a time.
fn weight(told: Option<&Told>) -> u16 {
    let position = told.and_then(|told| told.position.as_ref());
    let settings = position.map(|position| position.settings.as_slice());
    let weights = settings.unwrap_or_default().iter();
    weights
        .map(|setting| setting.weight_permille)
        .min()
        .unwrap_or(1000)
}

impl Actuator for TestGate {
    fn name(&self) -> &'static str {
        "test gate"
    }

    async fn acquire(&mut self, position: &Position, _: Lease) -> anyhow::Result<()> {
        self.note(Some(position.clone()));
        Ok(())
    }

    async fn renew(&mut self, _: Lease) -> anyhow::Result<()> {
        Ok(())
    }

    async fn release(&mut self) -> anyhow::Result<()> {
        self.note(None);
        Ok(())
    }
}
