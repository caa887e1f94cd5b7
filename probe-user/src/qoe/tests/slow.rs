//! Late deliveries: one session or one network of them is no alarm, and an outage is.

use super::*;
use crate::qoe::alarms::{Alarms, Promises, Raised, Standing};

/// Minutes of late deliveries of so many clients, one every five seconds each, as the kernel tells them:
/// late, then over. Returns what was raised.
fn late(addresses: &[[u8; 4]]) -> Vec<Raised> {
    let mut fold = fold_with(100, 10);
    let mut alarms = Alarms::new(Promises::default());
    let mut raised = Vec::new();
    for index in 0..120 {
        let t_ns = (1 + u64::from(index) * 5) * SECOND_NS;
        for (cookie, address) in (1..).zip(addresses) {
            let mut record = exchange(flag::LATE);
            record.cookie = cookie;
            record.index = index;
            record.endpoints.remote_addr[10..12].fill(0xff);
            record.endpoints.remote_addr[12..].copy_from_slice(address);
            record.header = header(kind::DELIVERY_LATE, t_ns);
            fold.delivery(&record, label, None);
            record.header = header(kind::DELIVERY_END, t_ns + SECOND_NS);
            fold.delivery(&record, label, None);
        }
        let nobody = std::iter::empty::<Standing>;
        alarms.look(fold.cells(), t_ns + SECOND_NS, false, nobody, |alarm| {
            raised.push(alarm);
        });
    }
    assert_eq!(total(&fold).0.late_deliveries, 120 * addresses.len() as u64);
    raised
}

#[test]
fn one_slow_session_raises_no_alarm_nor_does_one_slow_site() {
    assert_eq!(late(&[[192, 0, 2, 1]]), []);
    let site: Vec<_> = (1..60).map(|host| [192, 0, 2, host]).collect();
    assert_eq!(late(&site), []);
    assert_eq!(late(&[[192, 0, 2, 1], [198, 51, 100, 1]]), []);
}

#[test]
fn slow_sessions_of_many_networks_raise_one() {
    let many: Vec<_> = (1..20).map(|network| [10, 0, network, 1]).collect();
    let raised = late(&many);
    assert_eq!(raised.len(), 1);
    assert!(raised[0].is_on && raised[0].evidence.n < 120 * 19);
}

/// Rates are those of the settings, and a replay of an older recording has the usual ones.
#[test]
fn deliveries_are_tested_for_the_rates_that_are_set() {
    let mut fold = fold_with(10, 10);
    let rates = |fold: &Fold| -> Vec<u64> {
        let (_, cell) = fold.cells().iter().next().unwrap();
        cell.sustain
            .iter()
            .map(|of_rate| of_rate.rate_bps)
            .collect()
    };
    fold.set_rates_kbps(&[]);
    fold.delivery(&exchange(0), label, None);
    assert_eq!(rates(&fold), [2_500_000, 5_000_000, 8_000_000, 16_000_000]);
    fold.set_rates_kbps(&[100, 700]);
    let next = Delivery {
        index: 1,
        ..exchange(0)
    };
    fold.delivery(&next, label, None);
    assert_eq!(rates(&fold), [100_000, 700_000, 0, 0]);
}
