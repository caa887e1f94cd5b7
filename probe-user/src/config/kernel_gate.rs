//! A `[[steer.gate]]` of the kind `kernel`.

use toml::de::DeValue;

use super::check::Problems;
use super::table::{self, Table};
use super::value::Value;
use crate::kernel::gate::Family;
use crate::steer::actuators::kernel::Dealing;

pub use crate::steer::actuators::kernel::KernelGate;

/// The kernel's longest name for a congestion control.
const MAX_CONGESTION_CONTROL_BYTES: usize = 15;

impl Value for Dealing {
    const EXPECTED: &'static str = "\"client\" or \"connection\"";
    fn parse(value: &DeValue<'_>) -> Option<Self> {
        let name = value.as_str()?;
        Self::ALL.into_iter().find(|by| by.as_str() == name)
    }
}

/// Takes its keys out of the table of a gate.
pub(super) fn read(
    table: &mut Table<'_, '_>,
    problems: &mut table::Problems,
) -> Option<KernelGate> {
    let mut gate = KernelGate::default();
    table.set("services", &mut gate.services, problems);
    table.set("by", &mut gate.by, problems);
    table.set("congestion_control", &mut gate.congestion_control, problems);
    gate.others = table.need("other", problems)?;
    Some(gate)
}

impl KernelGate {
    /// `place`: a key of this gate in full. `services`: the names that cells can have.
    pub(super) fn problems(
        &self,
        place: impl Fn(&str) -> String,
        services: &[&str],
        problems: &mut Problems,
    ) {
        for name in &self.services {
            let is_port = name.parse::<u16>().is_ok_and(|port| port > 0);
            if !is_port && !services.contains(&name.as_str()) {
                let message = format!(
                    "steer.gate.services: no [[service]] is called {name:?}; name one, or a port as \
                     \"8080\""
                );
                problems.add(place("services"), message);
            }
        }
        if self.services.is_empty() && services.is_empty() {
            let message = "steer.gate.services: there is no [[service]], so that the gate would turn \
                           nothing; name ports, as \"8080\"";
            problems.add(place("services"), message.to_owned());
        }
        let of = |family| {
            let others = self.others.iter();
            others.filter(move |other| Family::of(**other) == family)
        };
        for family in [Family::V4, Family::V6] {
            if let Some(second) = of(family).nth(1) {
                let message = format!(
                    "steer.gate.other: {second} is a second address of its kind; the gate takes one of \
                     IPv4 and one of IPv6"
                );
                problems.add(place("other"), message);
            }
        }
        if self.others.is_empty() {
            let message = "steer.gate.other is empty: there is nowhere to turn anybody to; name a \
                           local listener, as [\"127.0.0.1:8081\"]";
            problems.add(place("other"), message.to_owned());
        }
        if let Some(other) = self.others.iter().find(|other| other.port() == 0) {
            let message = format!("steer.gate.other: {other} has no port");
            problems.add(place("other"), message);
        }
        let is_name = |name: &String| {
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
            (1..=MAX_CONGESTION_CONTROL_BYTES).contains(&name.len()) && name.chars().all(plain)
        };
        if let Some(name) = self
            .congestion_control
            .as_ref()
            .filter(|name| !is_name(name))
        {
            let message = format!(
                "steer.gate.congestion_control = {name:?} is no name that the kernel can have; \
                 `sysctl net.ipv4.tcp_available_congestion_control` lists those that are there"
            );
            problems.add(place("congestion_control"), message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::table::Source;
    use super::*;

    fn gate(text: &str) -> Result<KernelGate, String> {
        let mut gate = None;
        let source = Source::new(text, "f");
        let read = source.read(|root, problems| gate = super::read(root, problems));
        read.map_err(|err| format!("{err}"))?;
        let gate = gate.expect("read without a problem");
        let mut problems = Problems::default();
        gate.problems(|key| format!("gate.{key}"), &["hls"], &mut problems);
        let problems = problems.into_vec();
        match problems.first() {
            None => Ok(gate),
            Some(problem) => Err(format!("{}: {}", problem.place, problem.message)),
        }
    }

    #[test]
    fn a_gate_is_read_as_it_is_written() {
        let read = gate(
            "services = [\"hls\", \"9000\"]\nother = [\"127.0.0.1:8081\", \"[::1]:8081\"]\n\
             by = \"connection\"\ncongestion_control = \"cubic\"\n",
        );
        let want = KernelGate {
            services: vec!["hls".into(), "9000".into()],
            others: vec![
                "127.0.0.1:8081".parse().unwrap(),
                "[::1]:8081".parse().unwrap(),
            ],
            by: Dealing::Connection,
            congestion_control: Some("cubic".into()),
        };
        assert_eq!(read, Ok(want));
        let least = gate("other = [\"127.0.0.1:8081\"]").unwrap();
        assert_eq!(least.by, Dealing::Client);
    }

    #[test]
    fn what_cannot_be_is_told_with_its_place() {
        for (text, said) in [
            ("", "other: is missing"),
            ("other = []", "nowhere to turn"),
            ("other = [\"127.0.0.1\"]", "other"),
            ("other = [\"127.0.0.1:0\"]", "has no port"),
            (
                "other = [\"127.0.0.1:1\", \"127.0.0.1:2\"]",
                "second address",
            ),
            (
                "other = [\"127.0.0.1:1\"]\nservices = [\"dash\"]",
                "gate.services: steer.gate.services: no [[service]] is called \"dash\"",
            ),
            ("other = [\"127.0.0.1:1\"]\nby = \"luck\"", "\"client\" or"),
            (
                "other = [\"127.0.0.1:1\"]\ncongestion_control = \"a b\"",
                "no name that the kernel",
            ),
            ("other = [\"127.0.0.1:1\"]\nothers = []", "did you mean"),
        ] {
            let error = gate(text).unwrap_err();
            assert!(error.contains(said), "{text}: {error}");
        }
    }
}
