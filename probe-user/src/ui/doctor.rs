//! `weir doctor`: the findings, and what to do about them.

use std::io::{self, Write};

use serde::Serialize;

use super::out::{Mark, Style};
use super::table::Format;
use crate::kernel::diagnosis::{Diagnosis, Fact, Health, KILL_SWITCH};
use crate::kernel::rungs::Rung;
use crate::kernel::{BackendKind, Choice, Probe, Verdict};

/// The findings as JSON: one object.
#[derive(Serialize)]
struct Report<'a> {
    kernel_release: &'a str,
    /// The way of measuring that is asked for.
    wanted: &'static str,
    /// The way of measuring that `weir run` would take.
    backend: Option<&'static str>,
    health: &'static str,
    facts: Vec<FactReport<'a>>,
    /// Those of `backend`; without one, of the best way there is.
    probes: Vec<ProbeReport<'a>>,
    /// Every way of measuring, best first.
    rungs: Vec<RungReport<'a>>,
    /// What turning traffic away in the kernel takes.
    gate: Vec<ProbeReport<'a>>,
}

#[derive(Serialize)]
struct FactReport<'a> {
    name: &'a str,
    value: &'a str,
    ok: bool,
    remedy: &'a str,
}

#[derive(Serialize)]
struct ProbeReport<'a> {
    name: &'a str,
    verdict: &'static str,
    reason: &'a str,
    lost: &'a str,
}

#[derive(Serialize)]
struct RungReport<'a> {
    backend: &'static str,
    works: bool,
    reason: &'a str,
    exact: &'static str,
    bounded: &'static str,
    lost: &'static str,
    needs: &'static str,
    budget: &'static str,
    probes: Vec<ProbeReport<'a>>,
}

impl<'a> From<&'a Probe> for ProbeReport<'a> {
    fn from(probe: &'a Probe) -> Self {
        Self {
            name: &probe.name,
            verdict: verdict_word(probe.verdict),
            reason: &probe.reason,
            lost: &probe.lost,
        }
    }
}

impl<'a> From<&'a Rung> for RungReport<'a> {
    fn from(rung: &'a Rung) -> Self {
        let worth = rung.backend.worth();
        Self {
            backend: rung.backend.as_str(),
            works: rung.works,
            reason: &rung.reason,
            exact: worth.exact,
            bounded: worth.bounded,
            lost: worth.lost,
            needs: worth.needs,
            budget: worth.budget,
            probes: rung.probes.iter().map(ProbeReport::from).collect(),
        }
    }
}

fn verdict_word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Ok => "ok",
        Verdict::Unsupported => "unsupported",
        Verdict::Broken => "broken",
        Verdict::NotApplicable => "not_applicable",
    }
}

fn health_word(health: Health) -> &'static str {
    match health {
        Health::Exact => "exact",
        Health::Degraded => "degraded",
        Health::Unable => "unable",
    }
}

/// Writes the findings.
pub fn write(
    diagnosis: &Diagnosis,
    format: Format,
    style: Style,
    to: &mut dyn Write,
) -> io::Result<()> {
    match format {
        Format::Json => write_json(diagnosis, to)?,
        Format::Table => write_text(diagnosis, style, to)?,
    }
    to.flush()
}

/// Those of the way that would be taken; without one, of the way that is asked for, or the best.
fn foremost(diagnosis: &Diagnosis) -> &[Probe] {
    diagnosis
        .taken()
        .or_else(|| match diagnosis.wanted {
            Choice::Auto => diagnosis.rungs.first(),
            Choice::Only(kind) => rung(diagnosis, kind),
        })
        .map_or(&[], |rung| &rung.probes)
}

fn rung(diagnosis: &Diagnosis, kind: BackendKind) -> Option<&Rung> {
    diagnosis.rungs.iter().find(|rung| rung.backend == kind)
}

fn write_json(diagnosis: &Diagnosis, to: &mut dyn Write) -> io::Result<()> {
    let facts = diagnosis.facts.iter().map(|fact| FactReport {
        name: &fact.name,
        value: &fact.value,
        ok: fact.ok,
        remedy: &fact.remedy,
    });
    let report = Report {
        kernel_release: &diagnosis.kernel_release,
        wanted: diagnosis.wanted.as_str(),
        backend: diagnosis.taken().map(|rung| rung.backend.as_str()),
        health: health_word(diagnosis.health()),
        facts: facts.collect(),
        probes: foremost(diagnosis).iter().map(ProbeReport::from).collect(),
        rungs: diagnosis.rungs.iter().map(RungReport::from).collect(),
        gate: diagnosis.gate.iter().map(ProbeReport::from).collect(),
    };
    serde_json::to_writer(&mut *to, &report)?;
    to.write_all(b"\n")
}

fn write_text(diagnosis: &Diagnosis, style: Style, to: &mut dyn Write) -> io::Result<()> {
    heading("Host", style, to)?;
    let width = widest(diagnosis.facts.iter().map(|fact| fact.name.as_str()));
    for Fact {
        name, value, ok, ..
    } in &diagnosis.facts
    {
        let (word, mark) = if *ok {
            ("ok", Mark::Good)
        } else {
            (
                if name == KILL_SWITCH { "ON" } else { "MISSING" },
                Mark::Bad,
            )
        };
        line((word, mark), (name, width), value, style, to)?;
    }

    to.write_all(b"\n")?;
    let taken = match diagnosis.wanted {
        Choice::Auto => "weir run takes the first that works".to_owned(),
        Choice::Only(kind) => format!("the configuration asks for {} alone", kind.as_str()),
    };
    heading(
        &format!("Ways of measuring, best first; {taken}"),
        style,
        to,
    )?;
    let width = widest(diagnosis.rungs.iter().map(|rung| rung.backend.as_str()));
    for rung in &diagnosis.rungs {
        write_rung(rung, width, style, to)?;
    }

    for rung in &diagnosis.rungs {
        to.write_all(b"\n")?;
        let title = format!("Probes of the {} way", rung.backend.as_str());
        heading(&title, style, to)?;
        write_probes(&rung.probes, style, to)?;
    }

    to.write_all(b"\n")?;
    let title = "The kernel gate, for steering alone: nothing of it is needed to measure";
    heading(title, style, to)?;
    write_probes(&diagnosis.gate, style, to)?;

    to.write_all(b"\n")?;
    heading("What to do", style, to)?;
    for step in steps(diagnosis) {
        Mark::Plain.write(to, style, &format!("  {step}"))?;
        to.write_all(b"\n")?;
    }

    to.write_all(b"\n")?;
    let (verdict, mark) = match (diagnosis.health(), diagnosis.taken()) {
        (_, Some(rung)) if diagnosis.is_switched_off() => {
            let text = format!(
                "weir is kept off this host by its kill switch; without it it could measure (backend: \
                 {}).",
                rung.backend.as_str()
            );
            (text, Mark::Bad)
        }
        (Health::Exact, _) => ("weir measures exactly on this host.".to_owned(), Mark::Good),
        (_, Some(rung)) => {
            let text = format!(
                "weir measures on this host (backend: {}), with the losses above.",
                rung.backend.as_str()
            );
            (text, Mark::Warn)
        }
        (_, None) => {
            let text = match diagnosis.wanted {
                Choice::Auto => "weir cannot measure on this host.".to_owned(),
                Choice::Only(kind) => format!(
                    "weir cannot measure on this host in the way that is asked for ({}).",
                    kind.as_str()
                ),
            };
            (text, Mark::Bad)
        }
    };
    mark.write(to, style, &verdict)?;
    to.write_all(b"\n")
}

fn write_rung(rung: &Rung, width: usize, style: Style, to: &mut dyn Write) -> io::Result<()> {
    let worth = rung.backend.worth();
    let name = (rung.backend.as_str(), width);
    if rung.works {
        line(("ok", Mark::Good), name, worth.needs, style, to)?;
    } else {
        line(("NO", Mark::Bad), name, &rung.reason, style, to)?;
    }
    let mut more = |text: &str| line(("", Mark::Plain), ("", width), text, style, to);
    if !rung.works {
        more(&format!("needs: {}", worth.needs))?;
    }
    more(&format!("exact: {}", worth.exact))?;
    more(&format!("bounded: {}", worth.bounded))?;
    more(&format!("lost: {}", worth.lost))?;
    more(&format!("budget: {}", worth.budget))
}

fn write_probes(probes: &[Probe], style: Style, to: &mut dyn Write) -> io::Result<()> {
    if probes.is_empty() {
        Mark::Warn.write(to, style, "  none could be tried")?;
        to.write_all(b"\n")?;
    }
    let width = widest(probes.iter().map(|probe| probe.name.as_str()));
    let mut above = "";
    for Probe {
        name,
        verdict,
        reason,
        lost,
    } in probes
    {
        let (word, mark) = match verdict {
            Verdict::Ok => ("ok", Mark::Good),
            Verdict::NotApplicable => ("not needed", Mark::Plain),
            Verdict::Unsupported => ("UNSUPPORTED", Mark::Warn),
            Verdict::Broken => ("BROKEN", Mark::Bad),
        };
        // One cause for many probes is mostly a long one.
        let is_known = *verdict == Verdict::Broken && reason == above;
        let told = if is_known {
            "for the same reason"
        } else {
            reason
        };
        above = reason;
        line((word, mark), (name, width), told, style, to)?;
        if !lost.is_empty() {
            let lost = format!("lost: {lost}");
            line(("", Mark::Plain), ("", width), &lost, style, to)?;
        }
    }
    Ok(())
}

/// What an operator can do, most useful first.
fn steps(diagnosis: &Diagnosis) -> Vec<String> {
    let mut steps: Vec<String> = diagnosis
        .facts
        .iter()
        .filter(|fact| !fact.ok)
        .map(|fact| format!("{}: {}", fact.name, fact.remedy))
        .collect();
    if let Choice::Only(kind) = diagnosis.wanted
        && diagnosis.taken().is_none()
    {
        steps.push(format!(
            "backend = \"{}\" is configured and does not work here: mend what stands in its way, or \
             take \"auto\", the best that works",
            kind.as_str()
        ));
    }
    let next_up = diagnosis
        .rungs
        .iter()
        .take_while(|rung| !rung.works)
        .last()
        .filter(|_| diagnosis.wanted == Choice::Auto && diagnosis.taken().is_some());
    if let Some(rung) = next_up {
        let worth = rung.backend.worth();
        steps.push(format!(
            "the next better way, {}, would give: {}; it needs {}",
            rung.backend.as_str(),
            worth.exact,
            worth.needs
        ));
    }
    // Without a privilege nothing can be said of the probes themselves.
    let privileged = diagnosis.facts.iter().all(|fact| fact.ok);
    let broken = foremost(diagnosis)
        .iter()
        .filter(|probe| privileged && probe.verdict == Verdict::Broken);
    steps.extend(broken.map(|probe| {
        format!(
            "{}: should work on this kernel and does not; report its reason above",
            probe.name
        )
    }));
    if steps.is_empty() {
        steps.push("nothing".to_owned());
    }
    steps
}

fn widest<'a>(names: impl Iterator<Item = &'a str>) -> usize {
    names.map(|name| name.chars().count()).max().unwrap_or(0)
}

fn heading(text: &str, style: Style, to: &mut dyn Write) -> io::Result<()> {
    Mark::Heading.write(to, style, text)?;
    to.write_all(b"\n")
}

fn line(
    (word, mark): (&str, Mark),
    (name, width): (&str, usize),
    text: &str,
    style: Style,
    to: &mut dyn Write,
) -> io::Result<()> {
    to.write_all(b"  ")?;
    mark.write(to, style, &format!("{word:<11}"))?;
    Mark::Plain.write(to, style, &format!("  {name:<width$}  {text}"))?;
    to.write_all(b"\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::BackendKind;

    fn degraded(works: bool) -> Diagnosis {
        let fact = |name: &str, ok, remedy: &str| Fact {
            name: name.into(),
            value: "x".into(),
            ok,
            remedy: remedy.into(),
        };
        let probe = |name: &str, verdict, lost: &str| Probe {
            name: name.into(),
            verdict,
            reason: "why".into(),
            lost: lost.into(),
        };
        Diagnosis {
            kernel_release: "6.1.0".into(),
            facts: vec![fact("BTF", true, ""), fact("CAP_BPF", false, "run as root")],
            rungs: vec![
                Rung {
                    works,
                    ..Rung::tried(
                        BackendKind::Exact,
                        vec![
                            probe("tp_btf/tcp_probe", Verdict::Ok, ""),
                            probe(
                                "tp_btf/tcp_sendmsg_locked",
                                Verdict::Unsupported,
                                "first write exact",
                            ),
                        ],
                        false,
                    )
                },
                Rung::tried(
                    BackendKind::Polled,
                    vec![probe("sock_diag/inet_diag", Verdict::Ok, "")],
                    true,
                ),
            ],
            wanted: Choice::Auto,
            gate: vec![probe("sk_lookup", Verdict::Broken, "turning connections")],
        }
    }

    fn written(works: bool, format: Format) -> String {
        let mut to = Vec::new();
        write(&degraded(works), format, Style::default(), &mut to).unwrap();
        String::from_utf8(to).unwrap()
    }

    #[test]
    fn every_finding_is_printed_with_what_is_lost_and_what_to_do() {
        let text = written(true, Format::Table);
        for want in [
            "MISSING      CAP_BPF",
            "UNSUPPORTED  tp_btf/tcp_sendmsg_locked",
            "lost: first write exact",
            "CAP_BPF: run as root",
            "with the losses above",
            "BROKEN       sk_lookup",
            "lost: turning connections",
        ] {
            assert!(text.contains(want), "{want} not in:\n{text}");
        }
        assert!(!text.contains('\x1b'), "{text}");
    }

    #[test]
    fn json_is_one_object_with_words_for_verdicts() {
        let json: serde_json::Value = serde_json::from_str(&written(true, Format::Json)).unwrap();
        assert_eq!(json["health"], "degraded");
        assert_eq!(json["backend"], "exact");
        assert_eq!(json["facts"][1]["ok"], false);
        assert_eq!(json["probes"][1]["verdict"], "unsupported");
        assert_eq!(json["gate"][0]["name"], "sk_lookup");
    }
    #[test]
    fn what_the_next_better_way_would_give_is_told_with_what_it_needs() {
        let text = written(false, Format::Table);
        for want in [
            "NO           exact   tp_btf/tcp_sendmsg_locked: why",
            "ok           polled",
            "the next better way, exact, would give: every time",
            "backend: polled",
        ] {
            assert!(text.contains(want), "{want} not in:\n{text}");
        }
        let json: serde_json::Value = serde_json::from_str(&written(false, Format::Json)).unwrap();
        assert_eq!(json["backend"], "polled");
        assert_eq!(json["rungs"][0]["works"], false);
        assert_eq!(json["probes"][0]["name"], "sock_diag/inet_diag");
    }

    #[test]
    fn a_way_that_is_asked_for_and_does_not_work_is_no_other() {
        let mut diagnosis = degraded(false);
        diagnosis.wanted = Choice::Only(BackendKind::Exact);
        let mut to = Vec::new();
        write(&diagnosis, Format::Table, Style::default(), &mut to).unwrap();
        let text = String::from_utf8(to).unwrap();
        for want in [
            "the configuration asks for exact alone",
            "backend = \"exact\" is configured and does not work here",
            "in the way that is asked for (exact)",
        ] {
            assert!(text.contains(want), "{want} not in:\n{text}");
        }
        assert!(!text.contains("the next better way"), "{text}");

        let mut to = Vec::new();
        write(&diagnosis, Format::Json, Style::default(), &mut to).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&to).unwrap();
        assert_eq!(json["wanted"], "exact");
        assert_eq!(json["backend"], serde_json::Value::Null);
        assert_eq!(json["probes"][0]["name"], "tp_btf/tcp_probe");
    }

    #[test]
    fn one_reason_for_many_probes_is_told_once() {
        let mut diagnosis = degraded(false);
        for probe in &mut diagnosis.rungs[0].probes {
            probe.verdict = Verdict::Broken;
            probe.reason = "no permission".into();
        }
        let mut to = Vec::new();
        write_probes(&diagnosis.rungs[0].probes, Style::default(), &mut to).unwrap();
        let text = String::from_utf8(to).unwrap();
        assert_eq!(text.matches("no permission").count(), 1, "{text}");
        assert_eq!(text.matches("for the same reason").count(), 1, "{text}");
    }
}
