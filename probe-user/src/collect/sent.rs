//! A cell as its host sent it: checked once, kept as bytes, read again only where it has changed.
//!
//! Of a busy fleet's cells most count nothing from one tick to the next. Those cost a comparison of
//! bytes; of the others each distribution is read in place, without memory of its own.

use bytes::{Bytes, BytesMut};
use prost::Message as _;
use prost::encoding::{WireType, decode_key, decode_varint};
use weir_proto::v1;

use super::decode::{self, Error, MAX_COUNT};
use crate::qoe::cell::{Cell, Counts, RATES, Sustain};
use crate::qoe::{CellKey, Counters, Gauges, Metric};
use crate::wire;

const BROKEN: Error = Error::Missing("the rest of a cell");

/// A part of a cell's bytes; empty: it is not there.
#[derive(Clone, Copy, Debug, Default)]
struct Span {
    from: u32,
    to: u32,
}

impl Span {
    /// Where `part` stands in `all`, which it is a part of.
    fn new(all: &[u8], part: &[u8]) -> Self {
        let from = part.as_ptr().addr().saturating_sub(all.as_ptr().addr());
        // A message is at most 4 MiB.
        let place = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
        Self {
            from: place(from),
            to: place(from + part.len()),
        }
    }

    fn of(self, all: &[u8]) -> &[u8] {
        all.get(self.from as usize..self.to as usize)
            .unwrap_or_default()
    }
}

/// A distribution: its buckets and as many counts.
#[derive(Clone, Copy, Debug, Default)]
struct Distribution {
    is_there: bool,
    bucket: Span,
    count: Span,
}

/// A checked cell.
#[derive(Clone, Debug)]
pub struct SentCell {
    /// Whose it is.
    pub key: CellKey,
    /// What is open.
    pub gauges: Gauges,
    sustain: [Sustain; RATES],
    bytes: Bytes,
    key_at: Span,
    counters_at: Span,
    distributions: [Distribution; Metric::COUNT],
}

/// Reads a frame's cells and checks what `before`, the same connection's latest, did not have
/// already. The cells share one piece of memory of their own.
///
/// # Errors
/// One of them is not as an edge makes it.
pub(super) fn cells(sent: &[Bytes], before: &[SentCell]) -> Result<Vec<SentCell>, Error> {
    let mut all = BytesMut::with_capacity(sent.iter().map(Bytes::len).sum());
    let own: Vec<_> = sent
        .iter()
        .map(|cell| {
            all.extend_from_slice(cell);
            all.split().freeze()
        })
        .collect();
    let cells = own.into_iter().enumerate();
    cells
        .map(|(n, bytes)| SentCell::read(bytes, before.get(n)))
        .collect()
}

/// One field of a message.
enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// What is left of a message.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn number(&mut self) -> Result<u64, Error> {
        decode_varint(&mut self.0).map_err(|_| BROKEN)
    }

    fn take(&mut self, len: u64) -> Result<&'a [u8], Error> {
        let len = usize::try_from(len).map_err(|_| BROKEN)?;
        let (taken, left) = self.0.split_at_checked(len).ok_or(BROKEN)?;
        self.0 = left;
        Ok(taken)
    }

    /// The next field, by its number; none: the message is over. Numbers of fixed length, which no
    /// message here has, are left out.
    fn field(&mut self) -> Result<Option<(u32, Field<'a>)>, Error> {
        while !self.0.is_empty() {
            let (number, wire_type) = decode_key(&mut self.0).map_err(|_| BROKEN)?;
            match wire_type {
                WireType::Varint => return Ok(Some((number, Field::Number(self.number()?)))),
                WireType::LengthDelimited => {
                    let len = self.number()?;
                    return Ok(Some((number, Field::Bytes(self.take(len)?))));
                }
                WireType::SixtyFourBit => self.take(8)?,
                WireType::ThirtyTwoBit => self.take(4)?,
                WireType::StartGroup | WireType::EndGroup => return Err(BROKEN),
            };
        }
        Ok(None)
    }
}

impl SentCell {
    fn read(bytes: Bytes, before: Option<&Self>) -> Result<Self, Error> {
        let all = bytes.as_ref();
        let mut gauges = Gauges::default();
        let mut rates = Vec::new();
        let (mut key, mut counters) = (None, None);
        let mut distributions = [Distribution::default(); Metric::COUNT];
        let mut reader = Reader(all);
        while let Some((number, field)) = reader.field()? {
            match (number, field) {
                (1, Field::Bytes(found)) => once(&mut key, found, "cell.key")?,
                (2, Field::Bytes(found)) => once(&mut counters, found, "cell.counters")?,
                (3, Field::Bytes(found)) => {
                    let histogram = Histogram::read(found)?;
                    let metric = histogram.metric;
                    let place = &mut distributions[metric as usize];
                    if place.is_there {
                        return Err(Error::Twice(format!("histogram of {metric:?}")));
                    }
                    histogram.check_powers()?;
                    let is_same = |before: &Self| before.distribution(metric) == histogram.buckets;
                    if !before.is_some_and(is_same) {
                        histogram.check_buckets()?;
                    }
                    *place = Distribution {
                        is_there: true,
                        bucket: Span::new(all, histogram.buckets.bucket),
                        count: Span::new(all, histogram.buckets.count),
                    };
                }
                (11, Field::Bytes(rate)) => {
                    rates.push(v1::Sustain::decode(rate).map_err(|_| BROKEN)?);
                    decode::at_most("rates of a cell", rates.len(), RATES)?;
                }
                (4, Field::Number(value)) => gauges.sessions_open = value,
                (5, Field::Number(value)) => gauges.deliveries_open = value,
                (6, Field::Number(value)) => gauges.deliveries_open_late = value,
                (8, Field::Number(value)) => gauges.viewers_active = value,
                (9, Field::Number(value)) => gauges.viewers_stalled = value,
                (10, Field::Number(value)) => gauges.viewers_at_risk = value,
                _ => {}
            }
        }
        let key = key.ok_or(Error::Missing("cell.key"))?;
        let counters = counters.ok_or(Error::Missing("cell.counters"))?;
        if before.is_none_or(|before| before.counter_bytes() != counters) {
            let counters = v1::Counters::decode(counters).map_err(|_| BROKEN)?;
            decode::counted(&Counters::from(&counters))?;
        }
        Ok(Self {
            key: match before {
                Some(before) if before.key_bytes() == key => before.key.clone(),
                _ => decode::key(&v1::CellKey::decode(key).map_err(|_| BROKEN)?)?,
            },
            gauges,
            sustain: decode::sustain(&rates)?,
            key_at: Span::new(all, key),
            counters_at: Span::new(all, counters),
            distributions,
            bytes,
        })
    }

    /// Its key as it was sent.
    pub(super) fn key_bytes(&self) -> &[u8] {
        self.key_at.of(&self.bytes)
    }

    fn counter_bytes(&self) -> &[u8] {
        self.counters_at.of(&self.bytes)
    }

    /// What it counts beside its distributions.
    pub fn counts(&self) -> Counts {
        // It was decoded once.
        let counters = v1::Counters::decode(self.counter_bytes()).unwrap_or_default();
        Counts {
            counters: Counters::from(&counters),
            sustain: self.sustain,
        }
    }

    fn distribution(&self, metric: Metric) -> Buckets<'_> {
        let Distribution { bucket, count, .. } = self.distributions[metric as usize];
        Buckets {
            bucket: bucket.of(&self.bytes),
            count: count.of(&self.bytes),
        }
    }

    /// Whether the same was counted, whatever is open.
    pub(super) fn counts_equal(&self, other: &Self) -> bool {
        let mut metrics = Metric::ALL.into_iter();
        self.counter_bytes() == other.counter_bytes()
            && self.sustain == other.sustain
            && metrics.all(|metric| self.distribution(metric) == other.distribution(metric))
    }
}

fn once<'a>(place: &mut Option<&'a [u8]>, found: &'a [u8], what: &str) -> Result<(), Error> {
    match place.replace(found) {
        None => Ok(()),
        Some(_) => Err(Error::Twice(what.to_owned())),
    }
}

/// A histogram as it was sent.
struct Histogram<'a> {
    metric: Metric,
    grouping_power: u64,
    max_value_power: u64,
    buckets: Buckets<'a>,
}

impl<'a> Histogram<'a> {
    fn read(sent: &'a [u8]) -> Result<Self, Error> {
        let (mut metric, mut grouping_power, mut max_value_power) = (0, 0, 0);
        let mut buckets = Buckets::default();
        let mut reader = Reader(sent);
        while let Some((number, field)) = reader.field()? {
            match (number, field) {
                (1, Field::Number(value)) => metric = value,
                (2, Field::Number(value)) => grouping_power = value,
                (3, Field::Number(value)) => max_value_power = value,
                (4, Field::Bytes(packed)) if buckets.bucket.is_empty() => buckets.bucket = packed,
                (5, Field::Bytes(packed)) if buckets.count.is_empty() => buckets.count = packed,
                (4 | 5, _) => {
                    return Err(Error::Unknown {
                        field: "histogram (its numbers not packed, or in pieces)",
                        value: number.to_string(),
                    });
                }
                _ => {}
            }
        }
        let of_wire = |known: &Metric| u64::try_from(i32::from(wire::metric(*known)));
        let mut all = Metric::ALL.into_iter();
        let known = all.find(|known| of_wire(known) == Ok(metric));
        Ok(Self {
            metric: known.ok_or_else(|| Error::Unknown {
                field: "histogram.metric",
                value: metric.to_string(),
            })?,
            grouping_power,
            max_value_power,
            buckets,
        })
    }

    fn wrong<T>(&self, why: String) -> Result<T, Error> {
        let metric = self.metric;
        Err(Error::Histogram { metric, why })
    }

    /// Whether its buckets are this version's.
    fn check_powers(&self) -> Result<(), Error> {
        let buckets = self.metric.buckets();
        let expected = (
            u64::from(buckets.grouping_power()),
            u64::from(buckets.max_value_power()),
        );
        let sent = (self.grouping_power, self.max_value_power);
        if sent == expected {
            return Ok(());
        }
        let powers = |(grouping, max)| format!("grouping power {grouping}, largest value 2^{max}");
        self.wrong(format!(
            "it has {}, this collector {}",
            powers(sent),
            powers(expected)
        ))
    }

    /// Whether its buckets ascend, and its counts can be.
    fn check_buckets(&self) -> Result<(), Error> {
        let total = self.metric.buckets().total_buckets() as u64;
        let Buckets {
            mut bucket,
            mut count,
        } = self.buckets;
        let mut least = 0;
        while !bucket.is_empty() && !count.is_empty() {
            let at = decode_varint(&mut bucket).map_err(|_| BROKEN)?;
            let values = decode_varint(&mut count).map_err(|_| BROKEN)?;
            if at < least || at >= total {
                return self.wrong(format!("bucket {at} is not ascending, or out of range"));
            }
            if values > MAX_COUNT {
                return self.wrong(format!("{values} values in one bucket cannot be"));
            }
            least = at + 1;
        }
        if bucket.is_empty() && count.is_empty() {
            Ok(())
        } else {
            self.wrong("it has not as many counts as buckets".to_owned())
        }
    }
}

/// A distribution's filled buckets, ascending, each with its count; as they were sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Buckets<'a> {
    bucket: &'a [u8],
    count: &'a [u8],
}

impl Buckets<'_> {
    /// The next bucket and its count; none: there are no more.
    fn take_next(&mut self) -> Option<(usize, u64)> {
        let bucket = decode_varint(&mut self.bucket).ok()?;
        let count = decode_varint(&mut self.count).ok()?;
        Some((usize::try_from(bucket).ok()?, count))
    }
}

/// Puts what a boot counts in a cell in the place of what it had counted there before, in the
/// fleet's sum, exactly; and adds what is new to what was counted lately.
pub(super) fn exchange(
    older: Option<&SentCell>,
    newer: Option<&SentCell>,
    sum: &mut Cell,
    mut lately: Option<&mut Cell>,
) {
    let counts = |cell: Option<&SentCell>| cell.map_or_else(Counts::default, SentCell::counts);
    let (old, new) = (counts(older), counts(newer));
    sum.exchange_counts(&old, &new);
    if let Some(lately) = &mut lately {
        lately.absorb_growth(&old, &new);
    }
    for metric in Metric::ALL {
        let old = older.map_or_else(Buckets::default, |cell| cell.distribution(metric));
        let new = newer.map_or_else(Buckets::default, |cell| cell.distribution(metric));
        if old == new {
            continue;
        }
        let sum = sum.buckets_mut(metric);
        let mut lately = lately.as_mut().map(|lately| lately.buckets_mut(metric));
        changes(old, new, |bucket, old, new| {
            if let Some(place) = sum.get_mut(bucket) {
                *place = place.wrapping_sub(old).wrapping_add(new);
            }
            if let Some(place) = lately.as_mut().and_then(|lately| lately.get_mut(bucket)) {
                *place = place.saturating_add(new.saturating_sub(old));
            }
        });
    }
}

/// Tells of each bucket whose count is another, with its older and its newer count.
fn changes(mut old: Buckets<'_>, mut new: Buckets<'_>, mut tell: impl FnMut(usize, u64, u64)) {
    let (mut before, mut after) = (old.take_next(), new.take_next());
    loop {
        let (bucket, was, is) = match (before, after) {
            (Some((bucket, was)), Some((same, is))) if bucket == same => (bucket, was, is),
            (Some((bucket, was)), later) if later.is_none_or(|(later, _)| bucket < later) => {
                (bucket, was, 0)
            }
            (_, Some((bucket, is))) => (bucket, 0, is),
            (_, None) => return,
        };
        if before.is_some_and(|(old, _)| old == bucket) {
            before = old.take_next();
        }
        if after.is_some_and(|(new, _)| new == bucket) {
            after = new.take_next();
        }
        if was != is {
            tell(bucket, was, is);
        }
    }
}

#[cfg(test)]
mod tests;
