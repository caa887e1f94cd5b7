//! `[[steer.gate]]`: what this host's traffic is turned by. The keys that all kinds have are read here,
//! with the kind's own beside them.

use std::collections::HashSet;
use std::path::Path;

use tonic::transport::Uri;

use super::check::{Problems, is_loopback, name};
use super::content::ContentGate;
use super::kernel_gate;
use super::table::{self, Table};
use crate::steer::actuators::guard::MAX_GATES;
use crate::steer::actuators::settings::{
    File, GateKind, GateSettings, HaproxyAgent, HaproxySocket, Hook, Serves, Way, Webhook,
};

/// Short enough that traffic is not turned away for long when nobody renews, long enough for what has
/// to be told far away.
const LEASE_S: u32 = 15;
const MAX_SERVERS: usize = 64;
const MAX_ARGUMENTS: usize = 64;
const MAX_ARGUMENT_BYTES: usize = 4096;

/// One table. None: it cannot be used, and the problems say why.
pub(super) fn read(
    table: &mut Table<'_, '_>,
    problems: &mut table::Problems,
) -> Option<GateSettings> {
    let name = table.need("name", problems);
    let kind: Option<GateKind> = table.need("kind", problems);
    let mut service: Option<String> = None;
    table.set("service", &mut service, problems);
    let mut lease_s = LEASE_S;
    table.set("lease_s", &mut lease_s, problems);
    let way = match kind? {
        GateKind::HaproxyAgent => read_agent(table, problems).map(Way::HaproxyAgent),
        GateKind::HaproxySocket => read_socket(table, problems).map(Way::HaproxySocket),
        GateKind::Hook => read_hook(table, problems).map(Way::Hook),
        GateKind::Webhook => read_webhook(table, problems).map(Way::Webhook),
        GateKind::File => read_file(table, problems).map(Way::File),
        GateKind::ContentSteering => ContentGate::read(table, problems).map(Way::Content),
        GateKind::Kernel => kernel_gate::read(table, problems).map(Way::Kernel),
    };
    Some(GateSettings {
        name: name?,
        serves: service.map_or(Serves::Host, Serves::Service),
        lease_s,
        way: way?,
    })
}

fn read_agent(table: &mut Table<'_, '_>, problems: &mut table::Problems) -> Option<HaproxyAgent> {
    let listen = table.need("listen", problems);
    let mut linger_s = 10;
    table.set("linger_s", &mut linger_s, problems);
    let mut all_or_nothing = false;
    table.set("all_or_nothing", &mut all_or_nothing, problems);
    Some(HaproxyAgent {
        listen: listen?,
        linger_s,
        all_or_nothing,
    })
}

fn read_socket(table: &mut Table<'_, '_>, problems: &mut table::Problems) -> Option<HaproxySocket> {
    let socket = table.need("socket", problems);
    let servers = table.need("servers", problems);
    let mut all_or_nothing = false;
    table.set("all_or_nothing", &mut all_or_nothing, problems);
    Some(HaproxySocket {
        socket: socket?,
        servers: servers?,
        all_or_nothing,
    })
}

fn read_hook(table: &mut Table<'_, '_>, problems: &mut table::Problems) -> Option<Hook> {
    let command = table.need("command", problems);
    let mut hook = Hook {
        command: Vec::new(),
        timeout_s: 5,
        tell_renewals: false,
    };
    table.set("timeout_s", &mut hook.timeout_s, problems);
    table.set("tell_renewals", &mut hook.tell_renewals, problems);
    Some(Hook {
        command: command?,
        ..hook
    })
}

fn read_webhook(table: &mut Table<'_, '_>, problems: &mut table::Problems) -> Option<Webhook> {
    let url = table.need("url", problems);
    let secret_file = table.need("secret_file", problems);
    let mut ca_file = None;
    table.set("ca_file", &mut ca_file, problems);
    let (mut timeout_s, mut attempts, mut tell_renewals) = (3, 3, false);
    table.set("timeout_s", &mut timeout_s, problems);
    table.set("attempts", &mut attempts, problems);
    table.set("tell_renewals", &mut tell_renewals, problems);
    Some(Webhook {
        url: url?,
        secret_file: secret_file?,
        ca_file,
        timeout_s,
        attempts,
        tell_renewals,
    })
}

fn read_file(table: &mut Table<'_, '_>, problems: &mut table::Problems) -> Option<File> {
    let file = table.need("file", problems)?;
    Some(File { file })
}

/// Problems of one gate, as they are found.
struct Found<'p> {
    n: usize,
    problems: &'p mut Problems,
}

impl Found<'_> {
    fn add(&mut self, key: &str, what: &str) {
        let place = format!("steer.gate[{}].{key}", self.n);
        self.problems.add(place, format!("steer.gate.{key}{what}"));
    }

    fn within(&mut self, key: &str, value: u32, least: u32, most: u32) {
        if !(least..=most).contains(&value) {
            let what = format!(" = {value} is out of range: {least} to {most}");
            self.add(key, &what);
        }
    }

    fn absolute(&mut self, key: &str, path: &Path, example: &str) {
        if !path.is_absolute() || path.file_name().is_none() {
            let shown = path.display();
            let what = format!(": {shown} is not an absolute path of a file (e.g. {example})");
            self.add(key, &what);
        }
    }
}

/// `services`: the names that cells can have.
pub(super) fn problems(gates: &[GateSettings], services: &[&str], problems: &mut Problems) {
    if gates.len() > MAX_GATES {
        let message = format!(
            "{} [[steer.gate]] tables; at most {MAX_GATES} are possible",
            gates.len()
        );
        problems.add("steer.gate", message);
    }
    let mut seen = HashSet::new();
    for (n, gate) in gates.iter().enumerate() {
        let place = format!("steer.gate[{n}].name");
        name("steer.gate", &place, &gate.name, problems);
        let mut found = Found { n, problems };
        if !seen.insert(&gate.name) {
            let what = format!(": two [[steer.gate]] tables are called {:?}", gate.name);
            found.add("name", &what);
        }
        // Renewed at a third of it: less would leave no room for a slow host.
        found.within("lease_s", gate.lease_s, 2, 300);
        if let Serves::Service(service) = &gate.serves
            && !services.contains(&service.as_str())
            && service.parse::<u16>().is_err()
        {
            let what =
                format!(": no [[service]] is called {service:?}, so the gate would never move");
            found.add("service", &what);
        }
        let gate_serves = &gate.serves;
        match &gate.way {
            Way::HaproxyAgent(agent) => agent_problems(agent, &mut found),
            Way::HaproxySocket(socket) => socket_problems(socket, &mut found),
            Way::Hook(hook) => hook_problems(hook, &mut found),
            Way::Webhook(webhook) => webhook_problems(webhook, &mut found),
            Way::File(file) => found.absolute("file", &file.file, "/run/weir/gate.json"),
            Way::Content(gate) => gate.problems(&format!("steer.gate[{n}]"), found.problems),
            Way::Kernel(gate) => {
                if matches!(gate_serves, Serves::Service(_)) {
                    let what = ": a gate of the kind \"kernel\" names its services in `services`";
                    found.add("service", what);
                }
                let place = |key: &str| format!("steer.gate[{n}].{key}");
                gate.problems(place, services, found.problems);
            }
        }
    }
}

fn agent_problems(agent: &HaproxyAgent, found: &mut Found<'_>) {
    found.within("linger_s", agent.linger_s, 1, 60);
    if agent.listen.port() == 0 {
        found.add("listen", ": HAProxy has to know the port; 0 is none");
    }
}

fn socket_problems(socket: &HaproxySocket, found: &mut Found<'_>) {
    found.absolute("socket", &socket.socket, "/run/haproxy/admin.sock");
    if socket.servers.is_empty() || socket.servers.len() > MAX_SERVERS {
        let what = format!(": expected 1 to {MAX_SERVERS} servers");
        found.add("servers", &what);
    }
    // What HAProxy itself allows in names; nothing that would end the command and begin another.
    let is_name = |name: &str| {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
        (1..=128).contains(&name.len()) && name.chars().all(allowed)
    };
    for server in &socket.servers {
        let parts = server.split_once('/');
        if !parts.is_some_and(|(backend, server)| is_name(backend) && is_name(server)) {
            let what = format!(": {server:?} is not BACKEND/SERVER (e.g. \"live/edge1\")");
            found.add("servers", &what);
        }
    }
}

fn hook_problems(hook: &Hook, found: &mut Found<'_>) {
    let program = hook.command.first().map(String::as_str).unwrap_or_default();
    found.absolute("command", Path::new(program), "[\"/usr/local/bin/turn\"]");
    let is_too_long =
        |argument: &String| argument.len() > MAX_ARGUMENT_BYTES || argument.contains('\0');
    if hook.command.len() > MAX_ARGUMENTS || hook.command.iter().any(is_too_long) {
        let what = format!(
            ": at most {MAX_ARGUMENTS} arguments of {MAX_ARGUMENT_BYTES} bytes, none with a NUL"
        );
        found.add("command", &what);
    }
    found.within("timeout_s", hook.timeout_s, 1, 60);
}

fn webhook_problems(webhook: &Webhook, found: &mut Found<'_>) {
    found.absolute(
        "secret_file",
        &webhook.secret_file,
        "/etc/weir/webhook.secret",
    );
    if let Some(file) = &webhook.ca_file {
        found.absolute("ca_file", file, "/etc/weir/webhook-ca.pem");
    }
    found.within("timeout_s", webhook.timeout_s, 1, 30);
    found.within("attempts", webhook.attempts, 1, 10);
    let url = &webhook.url;
    let uri: Option<Uri> = url.parse().ok();
    let host = uri.as_ref().and_then(Uri::host);
    let what = match (uri.as_ref().and_then(Uri::scheme_str), host) {
        (Some("https"), Some(_)) => return,
        (Some("http"), Some(host)) if is_loopback(host) && webhook.ca_file.is_none() => return,
        (Some("http"), Some(host)) if is_loopback(host) => {
            format!(" {url:?} is plain text, to which ca_file is of no use; use https://")
        }
        (Some("http"), Some(_)) => {
            format!(" {url:?} would tell another host in plain text; use https://")
        }
        _ => format!(" {url:?} is no URL of a webhook; e.g. https://balancer.example.net/weir"),
    };
    found.add("url", &what);
}

#[cfg(test)]
mod tests {
    use crate::config::{Config, Error};
    use crate::steer::actuators::settings::{GateKind, Serves, Way};

    fn told(text: &str) -> String {
        match Config::parse(text, "w.toml") {
            Err(Error::Invalid(problems)) => problems.join("\n"),
            other => panic!("{text:?} should be refused, got {other:?}"),
        }
    }

    #[test]
    fn a_gate_of_each_kind_is_read() {
        let text = "
            [[service]]
            name = 'live'
            ports = [80]
            [[steer.gate]]
            name = 'a'
            kind = 'haproxy-agent'
            service = 'live'
            listen = '127.0.0.1:9777'
            [[steer.gate]]
            name = 'b'
            kind = 'haproxy-socket'
            socket = '/run/haproxy.sock'
            servers = ['live/e1']
            all_or_nothing = true
            [[steer.gate]]
            name = 'c'
            kind = 'hook'
            lease_s = 60
            command = ['/bin/turn', '--fast']
            [[steer.gate]]
            name = 'd'
            kind = 'webhook'
            url = 'https://balancer/weir'
            secret_file = '/etc/weir/secret'
            [[steer.gate]]
            name = 'e'
            kind = 'file'
            file = '/run/weir/gate.json'
            [[steer.gate]]
            name = 'f'
            kind = 'content-steering'
            home = 'here'
            [[steer.gate.pathway]]
            name = 'there'
            [[steer.gate]]
            name = 'g'
            kind = 'kernel'
            other = ['127.0.0.1:8081']
        ";
        let gates = Config::parse(text, "w.toml").unwrap().steer.gates;
        let kinds: Vec<_> = gates.iter().map(|gate| gate.way.kind()).collect();
        assert_eq!(kinds, GateKind::ALL);
        assert_eq!(gates[0].serves, Serves::Service("live".to_owned()));
        assert_eq!((gates[0].lease_s, gates[2].lease_s), (15, 60));
        let Way::Hook(hook) = &gates[2].way else {
            panic!("{:?}", gates[2]);
        };
        assert_eq!(hook.command, ["/bin/turn", "--fast"]);
    }

    #[test]
    fn what_is_wrong_with_a_gate_is_told_with_its_line() {
        let gate = |rest: &str| format!("[[steer.gate]]\nname = 'g'\n{rest}");
        for (text, expected) in [
            (
                "kind = 'dns'",
                "w.toml:3: steer.gate.kind: expected \"haproxy-agent\"",
            ),
            (
                "kind = 'file'\nfile = '/a'\nlisten = '127.0.0.1:1'",
                "w.toml:5: steer.gate.listen: unknown key",
            ),
            ("kind = 'file'", "steer.gate.file: is missing"),
            (
                "kind = 'file'\nfile = 'a'",
                "w.toml:4: steer.gate.file: a is not an absolute",
            ),
            (
                "kind = 'file'\nfile = '/a'\nlease_s = 1",
                "w.toml:5: steer.gate.lease_s = 1 is out of range: 2 to 300",
            ),
            (
                "kind = 'file'\nfile = '/a'\nservice = 'live'",
                "w.toml:5: steer.gate.service: no [[service]] is called \"live\"",
            ),
            (
                "kind = 'haproxy-agent'\nlisten = 'here'",
                "w.toml:4: steer.gate.listen: expected an address",
            ),
            (
                "kind = 'haproxy-socket'\nsocket = '/a'\nservers = ['a/b; shutdown sessions']",
                "w.toml:5: steer.gate.servers: \"a/b; shutdown sessions\" is not BACKEND/SERVER",
            ),
            (
                "kind = 'hook'\ncommand = []",
                "w.toml:4: steer.gate.command:",
            ),
            (
                "kind = 'hook'\ncommand = ['turn']",
                "turn is not an absolute path",
            ),
            (
                "kind = 'webhook'\nurl = 'http://10.0.0.1/x'\nsecret_file = '/s'",
                "w.toml:4: steer.gate.url \"http://10.0.0.1/x\" would tell another host in plain text",
            ),
            (
                "kind = 'webhook'\nurl = 'ftp://a'\nsecret_file = '/s'",
                "is no URL of a webhook",
            ),
        ] {
            let told = told(&gate(text));
            assert!(told.contains(expected), "{text:?}: {told}");
        }
        let twice = "[[steer.gate]]\nname = 'g'\nkind = 'file'\nfile = '/a'\n".repeat(2);
        let told = told(&twice);
        assert!(told.starts_with("w.toml:6: steer.gate.name: two"), "{told}");
    }
}
