use super::order::{Expect, MAX_TTL_S, OnFail};
use super::roles::{Denied, Reach, Role, Roles};
use super::*;
use crate::steer::Scope;
use crate::steer::policy::rules::Metric;

const SECOND_NS: u64 = 1_000_000_000;

/// So many seconds after a beginning.
pub(crate) fn moment(s: u64) -> Moment {
    Moment {
        boot_ns: s * SECOND_NS,
        unix_ns: (1_700_000_000 + s) * SECOND_NS,
        boot_id: "a".to_owned(),
    }
}

/// Of this host's human, given at second 100.
pub(crate) fn order(id: &str, action: Action) -> Order {
    Order {
        id: id.to_owned(),
        generation: 0,
        scope: Scope::Host,
        action,
        level: Level::OnHostHuman,
        actor: "alice".to_owned(),
        auth: Auth::Uid {
            uid: 1000,
            tty: Some("pts/1".to_owned()),
        },
        second: None,
        reason: "disk 3 is slow".to_owned(),
        created_unix_ns: moment(100).unix_ns,
        ttl_s: 600,
        ramp_s: 0,
        expect: None,
        on_fail: OnFail::Revert,
        is_break_glass: false,
        prev_hash: None,
    }
}

fn central(id: &str, generation: u64, action: Action) -> Order {
    Order {
        generation,
        level: Level::CentralHuman,
        auth: Auth::Certificate {
            name: "noc.example".to_owned(),
        },
        ..order(id, action)
    }
}

fn says(book: &Book, scope: &Scope) -> String {
    match book.say(scope) {
        Say::Order(held) => held.order.id.clone(),
        Say::Stays(held) => format!("stays by {}", held.order.id),
        Say::Automation { shed: None } => "automation".to_owned(),
        Say::Automation { shed: Some(held) } => format!("automation, shed by {}", held.order.id),
    }
}

#[test]
fn the_say_is_the_hosts_humans_then_the_centres_then_automations() {
    let mut book = Book::default();
    let now = moment(100);
    assert_eq!(says(&book, &Scope::Host), "automation");
    let automation = Order {
        level: Level::CentralAutomation,
        ..central("rebalance", 1, Action::Weight { permille: 800 })
    };
    book.admit(automation, &now).unwrap();
    assert_eq!(says(&book, &Scope::Host), "rebalance");
    // A hold stops automation, the centre's too.
    book.admit(order("hold", Action::Hold), &now).unwrap();
    assert_eq!(says(&book, &Scope::Host), "stays by hold");
    // And no human.
    book.admit(central("drain", 1, Action::Drain), &now)
        .unwrap();
    assert_eq!(says(&book, &Scope::Host), "drain");
    // This host's human stands above the centre's.
    book.admit(order("undrain", Action::Undrain), &now).unwrap();
    assert_eq!(says(&book, &Scope::Host), "undrain");
    book.admit(central("again", 2, Action::Drain), &now)
        .unwrap();
    assert_eq!(says(&book, &Scope::Host), "undrain");
    // The newer stands above the older.
    book.admit(order("pin", Action::Pin { permille: None }), &now)
        .unwrap();
    assert_eq!(
        says(&book, &Scope::Service("live".to_owned())),
        "stays by pin"
    );
    let mut release = order("release", Action::Release { order: None });
    release.level = Level::CentralHuman;
    release.generation = 3;
    let gone = book.admit(release, &now).unwrap();
    let gone: Vec<_> = gone.iter().map(|held| held.order.id.as_str()).collect();
    assert_eq!(gone, ["rebalance", "drain", "again"]);
    assert_eq!(says(&book, &Scope::Host), "stays by pin");
}

#[test]
fn an_order_holds_in_its_scope_alone() {
    let mut book = Book::default();
    let live = Scope::Service("live".to_owned());
    let mut drain = order("a", Action::Drain);
    drain.scope = live.clone();
    book.admit(drain, &moment(100)).unwrap();
    assert_eq!(says(&book, &live), "a");
    assert_eq!(
        says(&book, &Scope::Cell("live/segment/isp/tcp4".to_owned())),
        "a"
    );
    for other in [
        Scope::Host,
        Scope::Service("vod".to_owned()),
        Scope::Cell("liver/segment/isp/tcp4".to_owned()),
        Scope::Prefix("10.0.0.0/8".parse().unwrap()),
    ] {
        assert_eq!(says(&book, &other), "automation");
    }
}

#[test]
fn replayed_expired_reordered_and_unchained_orders_are_refused() {
    let mut book = Book::default();
    let now = moment(100);
    let first = central("a", 5, Action::Hold);
    let hash = first.hash();
    book.admit(first.clone(), &now).unwrap();
    let kept = book.clone();
    let refused = |book: &mut Book, order: Order, now: &Moment| book.admit(order, now).unwrap_err();
    assert!(matches!(
        refused(&mut book, first.clone(), &now),
        Refusal::Replayed { .. }
    ));
    // The same under another name is out of order.
    let mut renamed = first.clone();
    renamed.id = "b".to_owned();
    assert!(matches!(
        refused(&mut book, renamed, &now),
        Refusal::Reordered { latest: 5, .. }
    ));
    let old = central("c", 6, Action::Hold);
    assert!(matches!(
        refused(&mut book, old, &moment(401)),
        Refusal::Expired { age_s: 301, .. }
    ));
    let mut ahead = central("d", 6, Action::Hold);
    ahead.created_unix_ns = moment(131).unix_ns;
    assert!(matches!(
        refused(&mut book, ahead, &now),
        Refusal::Future { ahead_s: 31, .. }
    ));
    let mut unchained = central("e", 6, Action::Hold);
    unchained.prev_hash = Some("00".to_owned());
    assert!(matches!(
        refused(&mut book, unchained, &now),
        Refusal::ChainBroken { .. }
    ));
    assert_eq!(
        book.orders(),
        kept.orders(),
        "what is refused changes nothing"
    );
    assert_eq!(book.next_generation(Level::CentralHuman), 6);
    let mut chained = central("f", 6, Action::Hold);
    chained.prev_hash = Some(hash);
    book.admit(chained, &now).unwrap();
    // A replay long after is too old, also when its name is forgotten.
    assert!(matches!(
        refused(&mut book, first, &moment(20_000)),
        Refusal::Expired { .. }
    ));
}

#[test]
fn what_cannot_be_done_is_refused_with_why() {
    let expect = Expect {
        metric: Metric::RebufferRatio,
        direction: super::order::Direction::Falls,
        window_s: 30,
        min_effect_permille: 1,
        min_n: 1,
    };
    let base = || order("a", Action::Drain);
    for (order, said) in [
        (
            Order {
                reason: " ".to_owned(),
                ..base()
            },
            "needs a reason",
        ),
        (
            Order {
                reason: "x".repeat(600),
                ..base()
            },
            "the reason has 600 bytes",
        ),
        (
            Order {
                id: String::new(),
                ..base()
            },
            "the order's id must not be empty",
        ),
        (Order { ttl_s: 0, ..base() }, "a time to live of 0 s"),
        (
            Order {
                ttl_s: MAX_TTL_S + 1,
                ..base()
            },
            "1 to 14400 s",
        ),
        (
            Order {
                ttl_s: 601,
                is_break_glass: true,
                ..base()
            },
            "1 to 600 s",
        ),
        (
            Order {
                ramp_s: 3601,
                ..base()
            },
            "a ramp of 3601 s",
        ),
        (
            order("a", Action::Weight { permille: 1001 }),
            "a weight of 1001 permille",
        ),
        (order("a", Action::CapBitrate { bps: 0 }), "a cap of 0"),
        (
            Order {
                expect: Some(expect),
                ..base()
            },
            "window of 30 s",
        ),
        (
            order(
                "a",
                Action::Release {
                    order: Some("x".to_owned()),
                },
            ),
            "no order x",
        ),
        (
            Order {
                is_break_glass: true,
                level: Level::CentralAutomation,
                ..base()
            },
            "break-glass is for humans",
        ),
    ] {
        let refused = Book::default().admit(order, &moment(100)).unwrap_err();
        assert!(refused.to_string().contains(said), "{refused}");
    }
}

#[test]
fn the_book_is_bounded_and_a_flood_is_refused() {
    let mut book = Book::default();
    let refused = (0..5000).find_map(|n| {
        book.admit(order(&format!("o{n}"), Action::Hold), &moment(100))
            .err()
    });
    assert_eq!(refused, Some(Refusal::Full));
    assert_eq!(book.orders().len(), 256);
    // Releasing is always possible until ids run out.
    let release = |n: u32| order(&format!("r{n}"), Action::Release { order: None });
    let flooded = (0..5000).find_map(|n| book.admit(release(n), &moment(100)).err());
    assert_eq!(flooded, Some(Refusal::Flooded));
    let mut later = release(9999);
    later.created_unix_ns = moment(500).unix_ns;
    book.admit(later, &moment(500)).unwrap();
}

#[test]
fn orders_survive_a_restart_and_end_when_they_would_have() {
    let mut book = Book::default();
    book.admit(order("a", Action::Drain), &moment(100)).unwrap();
    let text = serde_json::to_string(&book).unwrap();
    let kept: Book = serde_json::from_str(&text).unwrap();
    let mut restored = kept.clone().restored(&moment(150), &moment(160));
    assert_eq!(restored, book);
    assert!(matches!(
        restored.admit(order("a", Action::Drain), &moment(160)),
        Err(Refusal::Replayed { .. })
    ));
    assert!(restored.expire(moment(699).boot_ns).is_empty());
    assert_eq!(restored.expire(moment(700).boot_ns).len(), 1);
    let rebooted = Moment {
        boot_ns: 5 * SECOND_NS,
        boot_id: "b".to_owned(),
        ..moment(300)
    };
    let restored = kept.restored(&moment(150), &rebooted);
    assert_eq!(
        restored.orders()[0].deadline.left_ns(rebooted.boot_ns),
        400 * SECOND_NS
    );
}

fn roles() -> Roles {
    let role = |name: &str| Role {
        name: name.to_owned(),
        uids: Vec::new(),
        certificates: Vec::new(),
        verbs: Verb::ALL.to_vec(),
        reach: Reach::Host,
        services: Vec::new(),
        max_turned_permille: 500,
        may_break_glass: false,
    };
    Roles {
        roles: vec![
            Role {
                uids: vec![1000],
                ..role("operator")
            },
            Role {
                uids: vec![1001],
                verbs: vec![Verb::Hold],
                services: vec!["live".to_owned()],
                ..role("live desk")
            },
            Role {
                certificates: vec!["noc.example".to_owned(), "lead.example".to_owned()],
                reach: Reach::Fleet,
                max_turned_permille: 1000,
                may_break_glass: true,
                ..role("noc")
            },
        ],
        two_person_above_permille: 300,
        always: vec![0],
    }
}

#[test]
fn who_has_no_role_can_do_nothing() {
    let roles = roles();
    let mut hold = order("a", Action::Hold);
    hold.auth = Auth::Uid { uid: 33, tty: None };
    let denied = roles.authorise(&hold, Reach::Host).unwrap_err();
    assert_eq!(
        denied.to_string(),
        "user 33 has no role here; [[steer.role]] gives one"
    );
    hold.auth = Auth::Certificate {
        name: "edge-1".to_owned(),
    };
    assert!(matches!(
        roles.authorise(&hold, Reach::Host),
        Err(Denied::Nobody { .. })
    ));
    hold.auth = Auth::Policy {
        name: "p".to_owned(),
        version: 1,
    };
    assert!(matches!(
        roles.authorise(&hold, Reach::Host),
        Err(Denied::Nobody { .. })
    ));
    hold.auth = Auth::Uid { uid: 0, tty: None };
    roles.authorise(&hold, Reach::Host).unwrap();
    // Root of one host is nobody to the others.
    assert!(roles.authorise(&hold, Reach::Fleet).is_err());
}

#[test]
fn a_role_allows_its_verbs_in_its_reach_up_to_its_share() {
    let roles = roles();
    let mut hold = order("a", Action::Hold);
    hold.auth = Auth::Uid {
        uid: 1001,
        tty: None,
    };
    assert!(roles.authorise(&hold, Reach::Host).is_err());
    hold.scope = Scope::Service("live".to_owned());
    roles.authorise(&hold, Reach::Service).unwrap();
    hold.scope = Scope::Cell("live/segment/isp/tcp4".to_owned());
    roles.authorise(&hold, Reach::Cell).unwrap();
    hold.scope = Scope::Service("vod".to_owned());
    let denied = roles.authorise(&hold, Reach::Service).unwrap_err();
    assert_eq!(
        denied.to_string(),
        "no role of user 1001 allows hold of a service (vod)"
    );
    hold.scope = Scope::Prefix("10.0.0.0/8".parse().unwrap());
    assert!(roles.authorise(&hold, Reach::Prefix).is_err());

    roles
        .authorise(&order("a", Action::Weight { permille: 800 }), Reach::Host)
        .unwrap();
    let far = roles.authorise(&order("a", Action::Hold), Reach::Region);
    assert!(matches!(far, Err(Denied::NotAllowed { .. })));
    let much = roles.authorise(&order("a", Action::Drain), Reach::Host);
    assert!(matches!(
        much,
        Err(Denied::TooMuch {
            most: 500,
            wanted: 1000,
            ..
        })
    ));
    let mut glass = order("a", Action::Weight { permille: 800 });
    glass.is_break_glass = true;
    assert!(matches!(
        roles.authorise(&glass, Reach::Host),
        Err(Denied::BreakGlass { .. })
    ));
}

#[test]
fn above_a_share_two_different_people_are_needed() {
    let roles = roles();
    let certificate = |name: &str| Auth::Certificate {
        name: name.to_owned(),
    };
    let mut drain = central("a", 1, Action::Drain);
    let alone = roles.authorise(&drain, Reach::Region);
    assert!(matches!(
        alone,
        Err(Denied::SecondNeeded {
            wanted: 1000,
            above: 300,
            ..
        })
    ));
    drain.second = Some(certificate("noc.example"));
    assert_eq!(
        roles.authorise(&drain, Reach::Region),
        Err(Denied::SamePerson)
    );
    drain.second = Some(certificate("stranger.example"));
    assert!(matches!(
        roles.authorise(&drain, Reach::Region),
        Err(Denied::Nobody { .. })
    ));
    drain.second = Some(certificate("lead.example"));
    roles.authorise(&drain, Reach::Region).unwrap();
    // One user on two terminals is one human.
    let mut half = order("a", Action::Weight { permille: 500 });
    half.second = Some(Auth::Uid {
        uid: 1000,
        tty: Some("pts/2".to_owned()),
    });
    assert_eq!(roles.authorise(&half, Reach::Host), Err(Denied::SamePerson));
    // A service may be all that a host has, and a few wide prefixes are all clients.
    half.second = None;
    for scope in [
        "service=live",
        "prefix=0.0.0.0/0",
        "prefix=128.0.0.0/1",
        "prefix=::/1",
    ] {
        half.scope = scope.parse().unwrap();
        let alone = roles.authorise(&half, Reach::from(&half.scope));
        assert!(
            matches!(alone, Err(Denied::SecondNeeded { .. })),
            "{scope}: {alone:?}"
        );
    }
    for scope in [
        "prefix=10.0.0.0/8",
        "prefix=2001:db8::/32",
        "cell=live/segment/isp/tcp4",
    ] {
        half.scope = scope.parse().unwrap();
        roles.authorise(&half, Reach::Prefix).unwrap();
    }
}
