use super::*;
use crate::collect::steering::places::tests::two_regions;
use crate::collect::steering::view::tests::view;

const GRACE_NS: u64 = 20 * SECOND_NS;

/// Two regions of hosts that send, one second after the other.
struct Fleet {
    places: Places,
    views: Vec<View>,
    ledger: Ledger,
    limits: Limits,
    s: u64,
    /// Hosts with so many late deliveries of each hundred; all others have one.
    late: Vec<(String, u64)>,
    /// Bytes a second of each.
    bytes: u64,
}

impl Fleet {
    fn new(count: u64) -> Self {
        let host = |n| [view(&format!("fra-{n}")), view(&format!("ams-{n}"))];
        let mut fleet = Self {
            places: two_regions(),
            views: (0..count).flat_map(host).collect(),
            ledger: Ledger::default(),
            limits: Limits::default(),
            s: 1000,
            late: Vec::new(),
            // 2 Gbit/s.
            bytes: 250_000_000,
        };
        fleet.play(120);
        fleet
    }

    fn play(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.s += 1;
            for view in &mut self.views {
                let late = self.late.iter().find(|(host, _)| *host == view.host);
                view.deliveries.n += 100;
                view.deliveries.bad += late.map_or(1, |(_, late)| *late);
                view.acked_bytes += self.bytes;
            }
            self.ledger.note(&self.views, self.s * SECOND_NS);
        }
    }

    fn around(&self) -> Around<'_> {
        Around {
            places: &self.places,
            views: &self.views,
            ledger: &self.ledger,
            limits: self.limits,
            now_ns: self.s * SECOND_NS,
            now_unix_ns: self.s * SECOND_NS,
        }
    }

    fn plan(&self) -> Plan {
        Plan {
            id: "r1".to_owned(),
            from: "fra".to_owned(),
            to: "ams".to_owned(),
            permille: 300,
            actor: "alice".to_owned(),
            auth: Auth::Certificate {
                name: "alice".to_owned(),
            },
            second: None,
            reason: "transit".to_owned(),
            created_unix_ns: self.s * SECOND_NS,
            ttl_s: 1800,
            dead_time_s: 30,
            is_break_glass: false,
        }
    }

    fn begin(&self) -> Rebalance {
        Rebalance::new(self.plan(), false, &self.around())
    }

    fn moved(&self, rebalance: &Rebalance) -> Vec<&str> {
        let hosts = self.views.iter().map(|view| view.host.as_str());
        let is_moved = |host: &&str| {
            let weight = rebalance.weight_permille(host, &self.places);
            assert!(weight.is_none_or(|weight| weight == 700));
            weight.is_some()
        };
        hosts.filter(is_moved).collect()
    }

    /// Plays on, second by second, until it changes.
    fn until_change(&mut self, rebalance: &mut Rebalance, most_s: u64) -> u64 {
        for s in 0..most_s {
            if rebalance.step(&self.around()) {
                return s;
            }
            self.play(1);
        }
        panic!("nothing changed: {:?}", rebalance.kept);
    }
}

#[test]
fn one_host_moves_then_a_tenth_then_three_then_all_each_after_a_dead_time() {
    let mut fleet = Fleet::new(100);
    let mut rebalance = fleet.begin();
    assert_eq!(fleet.moved(&rebalance), [rebalance.kept.canary.as_str()]);
    let mut counts = Vec::new();
    while rebalance.kept.phase != Phase::Moved {
        let before: Vec<_> = fleet
            .moved(&rebalance)
            .into_iter()
            .map(str::to_owned)
            .collect();
        assert_eq!(fleet.until_change(&mut rebalance, 100), 30);
        let after = fleet.moved(&rebalance);
        assert!(before.iter().all(|host| after.contains(&host.as_str())));
        counts.push(after.len());
    }
    assert_eq!(counts.len(), 4);
    assert!((4..=18).contains(&counts[0]), "{counts:?}");
    assert!((18..=42).contains(&counts[1]), "{counts:?}");
    assert_eq!(counts[2..], [100, 100]);
    assert!(
        fleet
            .moved(&rebalance)
            .iter()
            .all(|host| host.starts_with("fra"))
    );
}

#[test]
fn it_ends_by_itself_and_is_undone_as_one() {
    let mut fleet = Fleet::new(10);
    let mut rebalance = fleet.begin();
    while rebalance.kept.phase != Phase::Moved {
        fleet.until_change(&mut rebalance, 100);
    }
    assert_eq!(fleet.moved(&rebalance).len(), 10);
    fleet.until_change(&mut rebalance, 1801);
    assert!(rebalance.kept.phase.why().contains("1800 s are over"));
    assert!(fleet.moved(&rebalance).is_empty());
    assert!(!rebalance.undo("again"));

    let mut rebalance = fleet.begin();
    assert!(rebalance.undo("alice says so"));
    assert!(fleet.moved(&rebalance).is_empty());
    assert!(!rebalance.step(&fleet.around()));
}

#[test]
fn who_is_worse_off_ends_all_of_it() {
    let mut fleet = Fleet::new(10);
    let mut rebalance = fleet.begin();
    fleet.play(5);
    let targets = (0..10).map(|n| (format!("ams-{n}"), 6));
    fleet.late = targets.collect();
    let after_s = fleet.until_change(&mut rebalance, 25);
    assert!(after_s < 25);
    let why = rebalance.kept.phase.why();
    assert!(
        rebalance.is_over() && why.contains("the hosts that take it"),
        "{why}"
    );
}

#[test]
fn silence_stops_it_where_it_is_and_a_panic_takes_it_back() {
    let mut fleet = Fleet::new(10);
    let mut rebalance = fleet.begin();
    let target = fleet
        .views
        .iter()
        .position(|view| view.host == "ams-3")
        .unwrap();
    fleet.views[target].is_fresh = false;
    assert!(rebalance.step(&fleet.around()));
    assert!(
        matches!(&rebalance.kept.phase, Phase::Stopped { stage: 0, why } if why.contains("ams-3"))
    );
    fleet.views[target].is_fresh = true;
    fleet.play(100);
    assert!(!rebalance.step(&fleet.around()), "a human decides");
    assert_eq!(fleet.moved(&rebalance).len(), 1);
    fleet.views[target].gate.as_mut().unwrap().is_panicking = true;
    assert!(rebalance.step(&fleet.around()));
    assert!(rebalance.is_over());
}

#[test]
fn after_a_restart_nobody_is_silent_for_some_seconds_and_the_same_hosts_stay_moved() {
    let mut fleet = Fleet::new(50);
    let mut before = fleet.begin();
    fleet.until_change(&mut before, 40);
    let kept = serde_json::to_string(&before.kept).unwrap();
    let mut rebalance = Rebalance::restored(
        serde_json::from_str(&kept).unwrap(),
        fleet.around().now_ns,
        GRACE_NS,
    );
    assert_eq!(fleet.moved(&rebalance), fleet.moved(&before));
    for view in &mut fleet.views {
        view.is_fresh = false;
    }
    fleet.play(10);
    assert!(!rebalance.step(&fleet.around()));
    for view in &mut fleet.views {
        view.is_fresh = true;
    }
    fleet.until_change(&mut rebalance, 40);
    assert_eq!(rebalance.kept.phase, Phase::Moving { stage: 2 });
    // Numbers are waited for, not for ever.
    let mut rebalance = Rebalance::restored(before.kept.clone(), fleet.around().now_ns, 0);
    let ledger = std::mem::take(&mut fleet.ledger);
    assert!(!rebalance.step(&fleet.around()));
    fleet.s += 60;
    assert!(rebalance.step(&fleet.around()));
    assert!(rebalance.kept.phase.why().contains("not known"));
    fleet.ledger = ledger;
    // Unless they are not heard of after that.
    let mut rebalance = Rebalance::restored(before.kept, fleet.around().now_ns, GRACE_NS);
    for view in &mut fleet.views {
        view.is_fresh = false;
    }
    fleet.until_change(&mut rebalance, 30);
    assert!(matches!(rebalance.kept.phase, Phase::Stopped { .. }));
}

#[test]
fn the_second_person_begins_it() {
    let fleet = Fleet::new(10);
    let mut rebalance = Rebalance::new(fleet.plan(), true, &fleet.around());
    assert!(fleet.moved(&rebalance).is_empty());
    assert!(!rebalance.step(&fleet.around()));
    let bob = Auth::Certificate {
        name: "bob".to_owned(),
    };
    assert!(rebalance.approve(bob.clone(), &fleet.around()));
    assert_eq!(fleet.moved(&rebalance).len(), 1);
    assert!(!rebalance.approve(bob, &fleet.around()));
}

#[test]
fn what_the_targets_cannot_take_is_not_begun_and_not_gone_on_with() {
    let mut fleet = Fleet::new(10);
    let all = |_: &str| true;
    let told = preview(&fleet.plan(), &fleet.around(), all);
    assert_eq!(told.problems, Vec::<String>::new());
    // Ten hosts of 2 Gbit/s give 300 permille, ten have 7 Gbit/s left each.
    assert_eq!(told.moved_bps, 6_000_000_000);
    assert_eq!(told.headroom_bps, Some(70_000_000_000));
    assert!(
        told.takes
            .iter()
            .all(|one| one.gets_bps == Some(600_000_000))
    );
    assert!(
        told.gives
            .iter()
            .all(|one| one.to_permille == 700 && one.why_not.is_none())
    );

    let mut rebalance = fleet.begin();
    // 8 Gbit/s each: a tenth is kept back.
    fleet.bytes = 1_000_000_000;
    fleet.play(60);
    let told = preview(&fleet.plan(), &fleet.around(), all);
    assert!(told.problems[0].contains("can take 10000 Mbit/s more, and 24000 would come"));
    assert!(rebalance.step(&fleet.around()));
    assert!(matches!(
        rebalance.kept.phase,
        Phase::Stopped { stage: 0, .. }
    ));

    for view in &mut fleet.views[..12] {
        view.is_off = true;
    }
    let told = preview(&fleet.plan(), &fleet.around(), all);
    assert!(
        told.problems[0].contains("% of the region \"ams\" is healthy"),
        "{told:?}"
    );
    let mut plan = fleet.plan();
    plan.to = "waw".to_owned();
    let told = preview(&plan, &fleet.around(), all);
    assert!(told.problems[0].contains("no host of the region"));
}

#[test]
fn without_numbers_it_takes_broken_glass() {
    let mut fleet = Fleet::new(3);
    fleet.ledger = Ledger::default();
    let all = |_: &str| true;
    let told = preview(&fleet.plan(), &fleet.around(), all);
    assert!(told.problems[0].contains("it is not known"), "{told:?}");
    let mut plan = fleet.plan();
    plan.is_break_glass = true;
    assert!(preview(&plan, &fleet.around(), all).problems.is_empty());
}
