//! Cells: the aggregates that weir is run by, bounded in number, exact to merge.

use std::fmt;
use std::sync::Arc;

use hashbrown::HashMap;
use histogram::{Histogram, SparseHistogram};

use super::poll::Poll;
use super::viewer::Tier;
use super::{Counters, Metric};
use crate::kernel::BackendKind;
use crate::labels::request::Class;
use crate::labels::{Label, Name, Service};

/// What has no cell of its own is counted under this name.
const OTHER: &str = "other";

/// What the wire is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Transport {
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
    /// Mixed: the cell `other`.
    Other,
}

impl Transport {
    /// As the wire writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp4 => "tcp4",
            Self::Tcp6 => "tcp6",
            Self::Other => OTHER,
        }
    }
}

/// What cells call a class; `-` is what has none.
fn class_name(class: Class) -> &'static str {
    match class {
        Class::Unknown => "-",
        Class::Manifest => "manifest",
        Class::Init => "init",
        Class::Segment => "segment",
        Class::Part => "part",
        Class::Key => "key",
        Class::Other => OTHER,
    }
}

/// What a cell's sessions have in common.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CellKey {
    /// What they deliver.
    pub service: Service,
    /// What kind of object.
    pub content_class: Name,
    /// Where their clients are.
    pub network: Name,
    /// Over what.
    pub transport: Transport,
    /// How much is known of what is counted in it.
    pub tier: Tier,
    /// How exactly they are measured: numbers of different kinds have no sum.
    pub backend: BackendKind,
}

impl CellKey {
    /// The key of a session.
    pub fn new(label: Label, transport: Transport, backend: BackendKind) -> Self {
        Self {
            service: label.service,
            content_class: label.content_class,
            network: label.network,
            transport,
            tier: Tier::Kernel,
            backend,
        }
    }

    /// The key of everything that was measured so and found no place.
    pub fn other(backend: BackendKind) -> Self {
        let other: Name = OTHER.into();
        Self {
            service: Service::Named(other.clone()),
            content_class: Arc::from("-"),
            network: other,
            transport: Transport::Other,
            tier: Tier::Kernel,
            backend,
        }
    }
}

impl fmt::Display for CellKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            service,
            content_class,
            network,
            transport,
            tier,
            backend,
        } = self;
        write!(
            f,
            "{service}/{content_class}/{network}/{}",
            transport.as_str()
        )?;
        match tier {
            Tier::Kernel => {}
            Tier::Joined => f.write_str("/server")?,
            Tier::Declared => f.write_str("/cmcd")?,
        }
        match backend {
            BackendKind::Exact => Ok(()),
            other => write!(f, "/{}", other.as_str()),
        }
    }
}

/// Rates that deliveries are tested for.
pub const RATES: usize = 4;
/// Those, unless the configuration says others: a ladder's usual rungs.
pub const RATES_KBPS: [u32; RATES] = [2500, 5000, 8000, 16_000];

/// Of the deliveries that could test a rate, how many sustained it; cumulative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sustain {
    /// Which rate; 0: none has this place.
    pub rate_bps: u64,
    /// Those that could.
    pub tested: u64,
    /// Those that did.
    pub sustained: u64,
}

impl Sustain {
    fn merge(&mut self, other: &Self) {
        self.tested = self.tested.saturating_add(other.tested);
        self.sustained = self.sustained.saturating_add(other.sustained);
    }

    /// What was counted since an older state, in which the rate may have had another place or none.
    fn since(&self, older: &[Self; RATES]) -> Self {
        let same = older.iter().find(|older| older.rate_bps == self.rate_bps);
        let older = same.copied().unwrap_or_default();
        Self {
            rate_bps: self.rate_bps,
            tested: self.tested.saturating_sub(older.tested),
            sustained: self.sustained.saturating_sub(older.sustained),
        }
    }
}

/// What a cell counts beside its distributions; cumulative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// By name.
    pub counters: Counters,
    /// By rate.
    pub sustain: [Sustain; RATES],
}

impl Counts {
    fn of_rate(&self, rate_bps: u64) -> Sustain {
        let same = |one: &&Sustain| one.rate_bps == rate_bps;
        self.sustain.iter().find(same).copied().unwrap_or_default()
    }
}

/// What is open now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gauges {
    /// Sessions.
    pub sessions_open: u64,
    /// Deliveries under way that were reported.
    pub deliveries_open: u64,
    /// Of those, past their deadline.
    pub deliveries_open_late: u64,
    /// Viewers.
    pub viewers_active: u64,
    /// Of those, standing still for want of media.
    pub viewers_stalled: u64,
    /// Of those, about to.
    pub viewers_at_risk: u64,
}

impl Gauges {
    /// Adds another cell's.
    pub fn merge(&mut self, other: &Self) {
        macro_rules! add {
            ($($name:ident),*) => {
                $(self.$name = self.$name.saturating_add(other.$name);)*
            };
        }
        add!(sessions_open, deliveries_open, deliveries_open_late);
        add!(viewers_active, viewers_stalled, viewers_at_risk);
    }
}

/// One cell, as it is counted in.
#[derive(Clone, Debug, Default)]
pub struct Cell {
    /// Cumulative.
    pub counters: Counters,
    /// Now.
    pub gauges: Gauges,
    /// By rate.
    pub sustain: [Sustain; RATES],
    /// Of `deliveries`, those that had been late. `late_deliveries` counts at once, and so in the cell
    /// of the session, before it is known of what class the delivery is; shares need both in one.
    pub late_ended: u64,
    /// Who has a say in the alarm on failed starts.
    pub start_poll: Poll,
    /// In that on late deliveries.
    pub late_poll: Poll,
    /// Each made with its first value.
    histograms: [Option<Histogram>; Metric::COUNT],
}

impl Cell {
    /// Counts one value; beyond the largest bucket it counts in that.
    pub fn record(&mut self, metric: Metric, value: u64) {
        let histogram = self.histogram_mut(metric);
        let largest = (1 << metric.max_value_power()) - 1;
        // Cannot fail: the value is within the histogram's range.
        let _ = histogram.increment(value.min(largest));
    }

    /// Adds what another cell counted. Its histograms have this version's buckets.
    pub fn absorb(&mut self, other: &CellSnapshot) {
        self.counters.merge(&other.counters);
        self.gauges.merge(&other.gauges);
        // Hosts may be configured otherwise; beyond the rates that have a place, others have none.
        for other in other.sustain.iter().filter(|other| other.rate_bps != 0) {
            if let Some(own) = self.rate(other.rate_bps) {
                own.merge(other);
            }
        }
        for (metric, sparse) in &other.histograms {
            let counts = self.buckets_mut(*metric);
            for (bucket, count) in sparse.index().iter().zip(sparse.count()) {
                if let Some(place) = counts.get_mut(*bucket as usize) {
                    *place = place.saturating_add(*count);
                }
            }
        }
    }

    /// The place of a rate, which it may take now; none if others have all places.
    fn rate(&mut self, rate_bps: u64) -> Option<&mut Sustain> {
        let place = |rate_bps| move |own: &Sustain| own.rate_bps == rate_bps;
        let own = &mut self.sustain;
        let known = own.iter().position(place(rate_bps));
        let at = known.or_else(|| own.iter().position(place(0)))?;
        own[at].rate_bps = rate_bps;
        Some(&mut own[at])
    }

    /// Puts what a cell counted in the place of what it had counted before: a sum that held the
    /// older state holds the newer one afterwards, exactly, also if a count went back.
    pub fn exchange_counts(&mut self, older: &Counts, newer: &Counts) {
        self.counters.exchange(&older.counters, &newer.counters);
        // A boot's rates stay as they are; if they do not, those that are not tested any more end here.
        let gone = older.sustain.iter();
        let gone = gone.filter(|old| newer.of_rate(old.rate_bps).rate_bps == 0);
        for rate_bps in newer.sustain.iter().chain(gone).map(|one| one.rate_bps) {
            let (old, new) = (older.of_rate(rate_bps), newer.of_rate(rate_bps));
            if let Some(sum) = self.rate(rate_bps).filter(|_| rate_bps != 0) {
                sum.tested = swap(sum.tested, old.tested, new.tested);
                sum.sustained = swap(sum.sustained, old.sustained, new.sustained);
            }
        }
    }

    /// Adds what a cell counted since an older state of it.
    pub fn absorb_growth(&mut self, older: &Counts, newer: &Counts) {
        self.counters.merge(&newer.counters.since(&older.counters));
        for newer in newer.sustain.iter().filter(|newer| newer.rate_bps != 0) {
            if let Some(own) = self.rate(newer.rate_bps) {
                own.merge(&newer.since(&older.sustain));
            }
        }
    }

    /// The counts of a distribution, by bucket of [`Metric::buckets`].
    pub fn buckets_mut(&mut self, metric: Metric) -> &mut [u64] {
        self.histogram_mut(metric).as_mut_slice()
    }

    fn histogram_mut(&mut self, metric: Metric) -> &mut Histogram {
        self.histograms[metric as usize]
            .get_or_insert_with(|| Histogram::with_config(&metric.buckets()))
    }

    /// How many values of `metric` were counted.
    pub fn samples(&self, metric: Metric) -> u64 {
        self.histograms[metric as usize]
            .as_ref()
            .map_or(0, |histogram| histogram.as_slice().iter().sum())
    }

    /// What it holds, small enough to keep and to send.
    pub fn snapshot(&self, key: CellKey, with_histograms: bool) -> CellSnapshot {
        let histograms = if with_histograms {
            Metric::ALL
                .into_iter()
                .filter_map(|metric| {
                    let histogram = self.histograms[metric as usize].as_ref()?;
                    Some((metric, SparseHistogram::from(histogram)))
                })
                .collect()
        } else {
            Vec::new()
        };
        CellSnapshot {
            key,
            counters: self.counters,
            gauges: self.gauges,
            sustain: self.sustain,
            histograms,
        }
    }
}

/// A cell at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CellSnapshot {
    /// Whose it is.
    pub key: CellKey,
    /// Cumulative.
    pub counters: Counters,
    /// At that moment.
    pub gauges: Gauges,
    /// Cumulative, by rate.
    pub sustain: [Sustain; RATES],
    /// At most one per metric, in the order of [`Metric::ALL`]; metrics without values are absent.
    pub histograms: Vec<(Metric, SparseHistogram)>,
}

/// `sum` with `new` in the place of `old`; between the two it may leave its range.
fn swap(sum: u64, old: u64, new: u64) -> u64 {
    sum.wrapping_sub(old).wrapping_add(new)
}

impl CellSnapshot {
    /// The distribution of a metric; none: it has no values.
    pub fn histogram(&self, metric: Metric) -> Option<&SparseHistogram> {
        self.histograms
            .iter()
            .find(|(known, _)| *known == metric)
            .map(|(_, histogram)| histogram)
    }

    /// What was counted since an older state of the same cell; what is open, as it is now.
    #[must_use]
    pub fn since(&self, older: &Self) -> Self {
        let histograms = self.histograms.iter().filter_map(|(metric, newer)| {
            let before = older.histograms.iter().find(|(same, _)| same == metric);
            let window = match before {
                // Of one version, so that their buckets fit together.
                Some((_, before)) => newer.checked_sub(before).ok()?,
                None => newer.clone(),
            };
            (!window.index().is_empty()).then_some((*metric, window))
        });
        Self {
            key: self.key.clone(),
            counters: self.counters.since(&older.counters),
            gauges: self.gauges,
            sustain: std::array::from_fn(|n| self.sustain[n].since(&older.sustain)),
            histograms: histograms.collect(),
        }
    }
}

/// All cells. A cell's index stays its own until it is given up, which only a collector does.
#[derive(Debug)]
pub struct Cells {
    index: HashMap<CellKey, u32>,
    all: Vec<(CellKey, Cell)>,
    /// Indices that were given up.
    free: Vec<u32>,
    max: usize,
    overflowed: u64,
    other_used: [bool; OTHERS],
    /// The cells that a session's cell has beside it, for what is known better.
    beside: HashMap<(u32, Option<Class>, Tier), u32>,
}

/// One cell `other` for each way of measuring.
const OTHERS: usize = BackendKind::ALL.len();

impl Cells {
    /// Room for `max` cells, one called `other` included; two more are set aside, because there is
    /// one for each way of measuring, and a host has one way at a time.
    pub fn new(max: usize) -> Self {
        let others = BackendKind::ALL.map(CellKey::other);
        Self {
            index: others.iter().cloned().zip(0..).collect(),
            all: others.map(|key| (key, Cell::default())).into(),
            free: Vec::new(),
            max: max.max(1) + OTHERS - 1,
            overflowed: 0,
            other_used: [false; OTHERS],
            beside: HashMap::new(),
        }
    }

    /// Takes note that a cell is in use.
    fn used(&mut self, index: u32) -> u32 {
        if let Some(used) = self.other_used.get_mut(index as usize) {
            *used = true;
        }
        index
    }

    /// The cell of `key`: its own, or `other` if there is no room left.
    pub fn place(&mut self, key: CellKey) -> u32 {
        if let Some(index) = self.index.get(&key) {
            let index = *index;
            return self.used(index);
        }
        let other = key.backend as u32;
        if let Some(index) = self.free.pop() {
            self.index.insert(key.clone(), index);
            self.all[index as usize] = (key, Cell::default());
            return index;
        }
        if self.all.len() >= self.max {
            self.overflowed += 1;
            return self.used(other);
        }
        let index = u32::try_from(self.all.len()).unwrap_or(other);
        self.index.insert(key.clone(), index);
        self.all.push((key, Cell::default()));
        index
    }

    /// Likewise, but only what has a cell has its own.
    pub fn place_of_known(&mut self, key: &CellKey) -> u32 {
        if let Some(index) = self.index.get(key) {
            let index = *index;
            return self.used(index);
        }
        self.overflowed += 1;
        self.used(key.backend as u32)
    }

    /// How many more can have their own.
    pub fn room(&self) -> usize {
        self.max.saturating_sub(self.all.len()) + self.free.len()
    }

    /// Whether a cell is one of its own.
    pub fn is_own(&self, index: u32, key: &CellKey) -> bool {
        index as usize >= OTHERS && self.index.get(key) == Some(&index)
    }

    /// Gives up a cell that has its own: what it counted is added to `other`, whose index this gives,
    /// and its index is the next new cell's.
    pub fn give_up(&mut self, index: u32) -> u32 {
        let (key, cell) = &mut self.all[index as usize];
        let other = key.backend as u32;
        if self.index.remove(key).is_none() || other == index {
            return other;
        }
        let counted = std::mem::take(cell).snapshot(key.clone(), true);
        self.free.push(index);
        self.get_mut(other).absorb(&counted);
        self.used(other)
    }

    /// Where the viewers of a session's cell are counted who are known so well.
    pub(super) fn of_viewers(&mut self, cell: u32, tier: Tier) -> u32 {
        self.beside(cell, None, tier)
    }

    /// Where the deliveries of a session's cell are counted that are of this class.
    pub(super) fn of_class(&mut self, cell: u32, class: Class, tier: Tier) -> u32 {
        self.beside(cell, Some(class), tier)
    }

    fn beside(&mut self, cell: u32, class: Option<Class>, tier: Tier) -> u32 {
        if let Some(index) = self.beside.get(&(cell, class, tier)) {
            return self.used(*index);
        }
        let mut key = self.key(cell).clone();
        if (cell as usize) < OTHERS {
            // What has no cell of its own has none beside it either.
            return self.used(cell);
        }
        key.tier = tier;
        if let Some(class) = class {
            key.content_class = class_name(class).into();
        }
        let index = self.place(key);
        self.beside.insert((cell, class, tier), index);
        index
    }

    /// The same, to count in.
    pub fn get_mut(&mut self, index: u32) -> &mut Cell {
        &mut self.all[index as usize].1
    }

    /// A cell by its index.
    pub fn get(&self, index: u32) -> &Cell {
        &self.all[index as usize].1
    }

    /// A cell's key by its index.
    pub fn key(&self, index: u32) -> &CellKey {
        &self.all[index as usize].0
    }

    /// Every key by its index, those called `other` first.
    pub fn keys(&self) -> impl Iterator<Item = &CellKey> {
        self.all.iter().map(|(key, _)| key)
    }

    /// How many have ever counted something: `other` only once it is used.
    pub fn len(&self) -> usize {
        self.iter().count()
    }

    /// Whether nothing was counted yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Every cell that is in use.
    pub fn iter(&self) -> impl Iterator<Item = (&CellKey, &Cell)> {
        self.iter_indexed().map(|(_, key, cell)| (key, cell))
    }

    /// Every cell that is in use, with its index.
    pub fn iter_indexed(&self) -> impl Iterator<Item = (u32, &CellKey, &Cell)> {
        let cells = (0..).zip(&self.all);
        cells
            .filter(|(index, _)| {
                self.other_used
                    .get(*index as usize)
                    .is_none_or(|used| *used)
            })
            .map(|(index, (key, cell))| (index, key, cell))
    }

    /// How often a session found no cell of its own.
    pub fn overflowed(&self) -> u64 {
        self.overflowed
    }
}
