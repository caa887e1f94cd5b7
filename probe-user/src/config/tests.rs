use super::*;
use crate::steer::actuators::settings::GateKind;

const DEFAULT_FILE: &str = include_str!("../../../deploy/weir.toml");

fn problems(text: &str) -> Vec<String> {
    match Config::parse(text, "weir.toml") {
        Err(Error::Invalid(problems)) => problems,
        other => panic!("{text:?} should be refused, got {other:?}"),
    }
}

#[test]
fn the_shipped_file_is_the_default() {
    assert_eq!(
        Config::parse(DEFAULT_FILE, "weir.toml").unwrap(),
        Config::default()
    );
}

/// Keys without a default stand in the file as comments; with those uncommented it still parses,
/// and then every key that the reader knows is set.
#[test]
fn the_shipped_file_names_every_key() {
    let uncommented: Vec<_> = DEFAULT_FILE
        .lines()
        .map(|line| line.strip_prefix("#: ").unwrap_or(line))
        .collect();
    let uncommented = uncommented.join("\n");
    let config = Config::parse(&uncommented, "weir.toml").unwrap();
    assert!(!config.services.is_empty() && !config.networks.is_empty());
    assert!(config.collector.url.is_some() && config.collector.host.is_some());
    assert!(config.recording.file.is_some());
    assert!(config.labels.access_log_socket.is_some() && config.labels.mmdb.is_some());
    assert!(config.rules[0].rung.is_some());
    assert!(config.steer.rules.policies[0].cap_kbps.is_some() && !config.steer.roles.is_empty());
    assert_eq!(config.steer.gates.len(), GateKind::ALL.len());
    let known = read::known_keys(&uncommented).unwrap();
    assert!(known.contains(&"network.prefixes".to_owned()), "{known:?}");
    for key in known {
        let last = key.rsplit('.').next().unwrap();
        let table = [format!("[{key}]"), format!("[[{key}]]")];
        let named = |line: &str| {
            line.split_once('=')
                .map_or(table.iter().any(|table| table == line), |(k, _)| {
                    k.trim() == last
                })
        };
        assert!(
            uncommented.lines().any(named),
            "deploy/weir.toml does not name {key}"
        );
    }
}

#[test]
fn an_unknown_key_is_refused_with_its_line_and_a_suggestion() {
    assert_eq!(
        problems("deadline_ms = 4000\n\n[limits]\nmax_session = 5\n"),
        ["weir.toml:4: limits.max_session: unknown key; did you mean `max_sessions`?"]
    );
    let far = problems("[log]\nzzz = 1\n");
    assert_eq!(
        far,
        ["weir.toml:2: log.zzz: unknown key; known here: level, programs"]
    );
}

#[test]
fn a_wrong_value_is_refused_with_its_line_and_what_was_expected() {
    assert_eq!(
        problems("[filter]\nports = [80, \"https\"]\n"),
        [
            "weir.toml:2: filter.ports: element 2: expected a port, 1 to 65535, found the string \"https\""
        ]
    );
    assert_eq!(
        problems("deadline_ms = -1"),
        ["weir.toml:1: deadline_ms: expected a whole number from 0 to 4294967295, found -1"]
    );
    assert_eq!(
        problems("[[network]]\nname = \"isp\"\nprefixes = [\"10.0.0.0/33\"]"),
        [
            "weir.toml:3: network.prefixes: element 1: expected a prefix such as \
             \"192.0.2.0/24\" or \"2001:db8::/32\", found the string \"10.0.0.0/33\""
        ]
    );
}

#[test]
fn all_problems_are_told_at_once_and_in_order() {
    let told = problems("[log]\nlevel = \"loud\"\n[query]\nsocket = 5\nsokcet = \"/x\"\n");
    assert_eq!(told.len(), 3);
    assert!(told[0].starts_with("weir.toml:2:"), "{told:?}");
    assert!(told[1].starts_with("weir.toml:4:"), "{told:?}");
    assert!(told[2].starts_with("weir.toml:5:"), "{told:?}");
}

#[test]
fn a_syntax_error_names_its_line() {
    let told = problems("deadline_ms = 4000\nquiet_gap_ms = = 5\n");
    assert!(told[0].starts_with("weir.toml:2: "), "{told:?}");
}

#[test]
fn a_service_without_ports_is_refused() {
    let told = problems("[[service]]\nname = \"live\"\n");
    assert!(told[0].contains("service.ports: is missing"), "{told:?}");
}

#[test]
fn checks_between_keys_name_both_sides() {
    let told = problems(
        "[[service]]\nname = \"a\"\nports = [80]\n[[service]]\nname = \"b\"\nports = [80]\n",
    );
    assert_eq!(
        told,
        ["weir.toml:6: service.ports: port 80 is in two services, \"a\" and \"b\""]
    );
}

#[test]
fn a_value_out_of_range_is_told_with_its_line_and_key() {
    for (text, told) in [
        (
            "\n[limits]\n\nmax_cells = 1\n",
            "weir.toml:4: limits.max_cells = 1 is out of range: 2 to 256",
        ),
        (
            "[recording]\nmax_bytes = 5",
            "weir.toml:2: recording.max_bytes = 5 is out of range: 1048576 to 1099511627776",
        ),
        (
            "[recording]\nfile = \"here.weir\"",
            "weir.toml:2: recording.file: here.weir is not an absolute path (e.g. \
             /var/lib/weir/edge.weir)",
        ),
        (
            "[[service]]\nname = \"a\"\nports = [1]\n[[service]]\nports = [2]\nname = \"7\"",
            "weir.toml:6: service.name \"7\" is a number; services without a name are called by \
             their port, so a name must not look like one",
        ),
        (
            "collector.interval_ms = 5",
            "weir.toml:1: collector.interval_ms = 5 is out of range: 100 to 60000",
        ),
    ] {
        assert_eq!(problems(text), [told]);
    }
}

#[test]
fn a_rule_that_cannot_be_used_is_told_with_its_line() {
    for (text, told) in [
        (
            "[[rule]]\nclass = \"film\"\nmatch = \"x\"",
            "weir.toml:2: rule.class: expected \"manifest\", \"init\", \"segment\", \"part\", \"key\" or \
             \"other\", found the string \"film\"",
        ),
        (
            "[[rule]]\nmatch = \"a\"\n[[rule]]\nmatch = \"(?P<x>b)\"",
            "weir.toml:4: rule.match \"(?P<x>b)\" names a group \"x\"; a group can be called rung, \
             number, content, viewer",
        ),
        (
            "[[rule]]\nmatch = \"a\"\nduration_ms = 0",
            "weir.toml:3: rule.duration_ms = 0 is out of range: 1 to 3600000",
        ),
        (
            "[[rule]]\nduration_ms = 5",
            "weir.toml:2: rule.match: is missing; expected a string in quotes",
        ),
        (
            "[labels]\naccess_log_socket = \"/a\"\ntag_socket = \"/a\"",
            "weir.toml:3: labels.tag_socket and labels.access_log_socket are the same; each needs a \
             socket of its own",
        ),
        (
            "[labels]\nmmdb = \"asn.mmdb\"",
            "weir.toml:2: labels.mmdb: asn.mmdb is not an absolute path (e.g. \
             /var/lib/GeoIP/GeoLite2-ASN.mmdb)",
        ),
    ] {
        assert_eq!(problems(text), [told]);
    }
}

#[test]
fn plain_text_stays_on_this_host_and_must_be_asked_for() {
    let plain = |url: &str| format!("[collector]\nurl = \"{url}\"\nplain_text = true");
    for url in [
        "http://127.0.0.1:7447",
        "http://[::1]:7447",
        "http://localhost:7447",
    ] {
        Config::parse(&plain(url), "f").unwrap();
        let told = problems(&format!("[collector]\nurl = \"{url}\""));
        assert!(told[0].contains("plain_text = true"), "{told:?}");
    }
    let told = problems(&plain("http://10.1.2.3:7447"));
    assert!(told[0].starts_with("weir.toml:2: "), "{told:?}");
    assert!(told[0].contains("https://"), "{told:?}");
    let told = problems(&plain("https://10.1.2.3:7447"));
    assert!(told[0].contains("say one"), "{told:?}");
}

#[test]
fn tls_needs_all_three_files() {
    let files = "ca_file = \"/ca\"\ncert_file = \"/cert\"\nkey_file = \"/key\"\n";
    let url = "[collector]\nurl = \"https://c:7447\"\n";
    Config::parse(&format!("{url}{files}"), "f").unwrap();
    let told = problems(url);
    assert!(told[0].contains("cert_file"), "{told:?}");
    let told = problems("[collector]\nca_file = \"/ca\"\ncert_file = \"/cert\"");
    assert!(
        told[0].contains("collector.key_file is missing"),
        "{told:?}"
    );
    let told = problems("[collector]\nca_file = \"ca\"\ncert_file = \"/c\"\nkey_file = \"/k\"");
    assert!(
        told[0].starts_with("weir.toml:2: collector.ca_file"),
        "{told:?}"
    );
}

#[test]
fn rings_must_be_whole_pages_and_powers_of_two() {
    for bytes in ["0", "2048", "12288", "4294967295"] {
        problems(&format!("[limits]\nbulk_ring_bytes = {bytes}"));
    }
    Config::parse("[limits]\nbulk_ring_bytes = 4096", "f").unwrap();
}

#[test]
fn a_reload_takes_what_can_change_and_names_the_rest() {
    let mut config = Config::default();
    let mut new = Config {
        deadline_ms: 2000,
        ..Config::default()
    };
    new.filter.ports = vec![443];
    new.limits.max_cells = 7;
    new.query.socket = "/elsewhere".into();
    new.query.allow_users = vec![Principal::Id(33)];
    new.labels.tag_socket = Some("/elsewhere".into());
    new.labels.max_per_s = 100;
    assert_eq!(
        config.reload(new),
        ["limits.max_cells", "labels.tag_socket", "query.socket"]
    );
    assert_eq!(config.labels.tag_socket, None);
    assert_eq!(config.labels.max_per_s, 100);
    assert_eq!(config.deadline_ms, 2000);
    assert_eq!(config.filter.ports, [443]);
    assert_eq!(config.query.allow_users, [Principal::Id(33)]);
    assert_eq!(config.limits, Config::default().limits);
    assert_eq!(config.query.socket, Config::default().query.socket);
}

/// A policy with these lines added, after the line 5.
fn policy(lines: &str) -> String {
    let keys =
        "name = \"p\"\nmetric = \"rebuffer_ratio\"\nenter_permille = 15\nexit_permille = 7\n";
    format!("[[steer.policy]]\n{keys}{lines}")
}

#[test]
fn a_policy_is_advice_unless_it_and_the_host_are_armed() {
    let config = Config::parse(&policy(""), "f").unwrap();
    let steer = config.steer;
    assert!(!steer.rules.is_armed && !steer.rules.policies[0].is_armed);
    assert_eq!(steer.rules.policies[0].floor_permille, 500);
    assert_eq!(
        problems("[steer]\narmed = true"),
        [
            "weir.toml:2: steer.armed = true needs steer.journal_file: what moves traffic is written \
          down first"
        ]
    );
    Config::parse("[steer]\narmed = true\njournal_file = \"/j\"", "f").unwrap();
}

#[test]
fn a_policy_that_cannot_be_used_is_told_with_its_line() {
    for (lines, told) in [
        (
            "ramp_ppm_per_s = 50000",
            "weir.toml:6: steer.policy.ramp_ppm_per_s = 50000 is out of range: 1 to 30656, which is \
             1/(e x 12 s): faster overshoots",
        ),
        (
            "blame = [\"network\"]",
            "weir.toml:6: steer.policy.blame: element 1: expected \"think\", \"application write\" or \
             \"pacing\", found the string \"network\"",
        ),
        (
            "service = \"live\"",
            "weir.toml:6: steer.policy.service: no [[service]] is called \"live\", so the policy would \
             never see anything",
        ),
        (
            "floor_permille = 1000",
            "weir.toml:6: steer.policy.floor_permille = 1000 leaves nothing to turn away; give \
             cap_kbps, or a lower floor",
        ),
        (
            "step_permille = 500",
            "weir.toml:6: steer.policy.step_permille = 500 is out of range: 50 to 333",
        ),
        (
            "dwel_s = 5",
            "weir.toml:6: steer.policy.dwel_s: unknown key; did you mean `dwell_s`?",
        ),
    ] {
        assert_eq!(problems(&policy(lines)), [told]);
    }
    let told = problems(&policy("").replace("= 7", "= 15"));
    assert!(
        told[0].starts_with("weir.toml:5: steer.policy.exit_permille = 15 must be below"),
        "{told:?}"
    );
    let told = problems("[[steer.policy]]\nname = \"p\"\nenter_permille = 15\nexit_permille = 7\n");
    assert!(
        told[0].contains("steer.policy.metric: is missing"),
        "{told:?}"
    );
    let twice = policy("") + &policy("");
    assert!(problems(&twice)[0].contains("two [[steer.policy]] tables"));
}

#[test]
fn a_role_that_cannot_be_used_is_told_with_its_line() {
    let role = |lines: &str| format!("[[steer.role]]\nname = \"noc\"\n{lines}");
    for (lines, told) in [
        (
            "verbs = [\"hold\", \"kill\"]\nusers = [1]",
            "weir.toml:3: steer.role.verbs: element 2: expected \"hold\", \"weight\", \"drain\", \
             \"undrain\", \"pin\", \"cap\", \"shed\", \"release\" or \"panic\", found the string \"kill\"",
        ),
        (
            "verbs = []\nusers = [1]",
            "weir.toml:3: steer.role.verbs: the role \"noc\" allows nothing",
        ),
        (
            "users = []\nverbs = [\"hold\"]",
            "weir.toml:3: steer.role.users: nobody has the role \"noc\"; name users or certificates",
        ),
    ] {
        assert_eq!(problems(&role(lines)), [told]);
    }
    let config = Config::parse(&role("verbs = [\"hold\"]\nusers = [\"root\"]"), "f").unwrap();
    let roles = config.steer.roles().unwrap();
    assert_eq!(roles.roles[0].uids, [0]);
    let config = Config::parse(&role("verbs = [\"hold\"]\nusers = [\"no-such\"]"), "f").unwrap();
    let said = config.steer.roles().unwrap_err().to_string();
    assert!(
        said.contains("steer.role.users") && said.contains("no-such"),
        "{said}"
    );
}
