//! What was learned of player families, and the thresholds that follow: looked up at every event,
//! and so kept at hand.

use hashbrown::HashMap;

use super::super::learn::{Families, Lesson};
use super::super::viewer::Thresholds;
use crate::labels::family::Family;

/// See the module.
#[derive(Debug, Default)]
pub struct Learned {
    families: Families,
    thresholds: HashMap<Family, Thresholds>,
}

impl Learned {
    /// Goes on from what was learned before.
    pub fn from(families: Families) -> Self {
        Self {
            families: families.bounded(),
            thresholds: HashMap::new(),
        }
    }

    /// All that was learned.
    pub fn families(&self) -> &Families {
        &self.families
    }

    /// What a family's viewers are modelled by.
    pub fn thresholds(&self, family: Family) -> Thresholds {
        self.thresholds.get(&family).copied().unwrap_or_default()
    }

    /// A family comes up: what is known of it is at hand from now on.
    pub(super) fn meet(&mut self, family: Family) {
        if !self.thresholds.contains_key(&family) {
            self.renew(family);
        }
    }

    pub(super) fn learn(&mut self, family: Family, lesson: &Lesson) {
        if let Some(known) = self.families.of(&family.to_string()) {
            known.learn(lesson);
            self.renew(family);
        }
    }

    /// How the model of a viewer compares with what its player said.
    pub(super) fn compare(&mut self, family: Family, modelled_us: u64, declared_us: u64) {
        if let Some(known) = self.families.of(&family.to_string()) {
            known.bias.add(modelled_us, declared_us);
        }
    }

    fn renew(&mut self, family: Family) {
        let name = family.to_string();
        let otherwise = Thresholds::of_family(&name);
        let found = self.families.thresholds(&name, &otherwise);
        self.thresholds.insert(family, found);
    }
}
