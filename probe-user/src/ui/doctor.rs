//! `weir doctor`: the findings, and what to do about them.

use std::io::{self, Write};

use serde::Serialize;

use super::out::{Mark, Style};
use super::table::Format;
use crate::kernel::diagnosis::{Diagnosis, Fact, Health};
use crate::kernel::{BackendKind, Probe, Verdict};

/// The findings as JSON: one object.
#[derive(Serialize)]
struct Report<'a> {
    kernel_release: &'a str,
    backend: Option<&'static str>,
    health: &'static str,
    facts: Vec<FactReport<'a>>,
    probes: Vec<ProbeReport<'a>>,
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

fn write_json(diagnosis: &Diagnosis, to: &mut dyn Write) -> io::Result<()> {
    let facts = diagnosis.facts.iter().map(|fact| FactReport {
        name: &fact.name,
        value: &fact.value,
        ok: fact.ok,
        remedy: &fact.remedy,
    });
    let probes = diagnosis.probes.iter().map(|probe| ProbeReport {
        name: &probe.name,
        verdict: verdict_word(probe.verdict),
        reason: &probe.reason,
        lost: &probe.lost,
    });
    let report = Report {
        kernel_release: &diagnosis.kernel_release,
        backend: diagnosis.backend.map(BackendKind::as_str),
        health: health_word(diagnosis.health()),
        facts: facts.collect(),
        probes: probes.collect(),
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
            ("MISSING", Mark::Bad)
        };
        line((word, mark), (name, width), value, style, to)?;
    }

    to.write_all(b"\n")?;
    heading("Probes", style, to)?;
    if diagnosis.probes.is_empty() {
        Mark::Warn.write(to, style, "  none could be tried")?;
        to.write_all(b"\n")?;
    }
    let width = widest(diagnosis.probes.iter().map(|probe| probe.name.as_str()));
    for Probe {
        name,
        verdict,
        reason,
        lost,
    } in &diagnosis.probes
    {
        let (word, mark) = match verdict {
            Verdict::Ok => ("ok", Mark::Good),
            Verdict::NotApplicable => ("not needed", Mark::Plain),
            Verdict::Unsupported => ("UNSUPPORTED", Mark::Warn),
            Verdict::Broken => ("BROKEN", Mark::Bad),
        };
        line((word, mark), (name, width), reason, style, to)?;
        if !lost.is_empty() {
            line(
                ("", Mark::Plain),
                ("", width),
                &format!("lost: {lost}"),
                style,
                to,
            )?;
        }
    }

    to.write_all(b"\n")?;
    heading("What to do", style, to)?;
    let mut steps: Vec<String> = diagnosis
        .facts
        .iter()
        .filter(|fact| !fact.ok)
        .map(|fact| format!("{}: {}", fact.name, fact.remedy))
        .collect();
    // Without a privilege nothing can be said of the probes themselves.
    let privileged = diagnosis.facts.iter().all(|fact| fact.ok);
    let broken = diagnosis
        .probes
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
    for step in &steps {
        Mark::Plain.write(to, style, &format!("  {step}"))?;
        to.write_all(b"\n")?;
    }

    to.write_all(b"\n")?;
    let (verdict, mark) = match (diagnosis.health(), diagnosis.backend) {
        (Health::Exact, _) => ("weir measures exactly on this host.".to_owned(), Mark::Good),
        (Health::Degraded, backend) => {
            let backend = backend.map_or("none", BackendKind::as_str);
            let text =
                format!("weir measures on this host (backend: {backend}), with the losses above.");
            (text, Mark::Warn)
        }
        (Health::Unable, _) => ("weir cannot measure on this host.".to_owned(), Mark::Bad),
    };
    mark.write(to, style, &verdict)?;
    to.write_all(b"\n")
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

    fn degraded() -> Diagnosis {
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
            probes: vec![
                probe("tp_btf/tcp_probe", Verdict::Ok, ""),
                probe(
                    "tp_btf/tcp_sendmsg_locked",
                    Verdict::Unsupported,
                    "first write exact",
                ),
            ],
            backend: Some(BackendKind::Exact),
        }
    }

    fn written(format: Format) -> String {
        let mut to = Vec::new();
        write(&degraded(), format, Style::default(), &mut to).unwrap();
        String::from_utf8(to).unwrap()
    }

    #[test]
    fn every_finding_is_printed_with_what_is_lost_and_what_to_do() {
        let text = written(Format::Table);
        for want in [
            "MISSING      CAP_BPF",
            "UNSUPPORTED  tp_btf/tcp_sendmsg_locked",
            "lost: first write exact",
            "CAP_BPF: run as root",
            "with the losses above",
        ] {
            assert!(text.contains(want), "{want} not in:\n{text}");
        }
        assert!(!text.contains('\x1b'), "{text}");
    }

    #[test]
    fn json_is_one_object_with_words_for_verdicts() {
        let json: serde_json::Value = serde_json::from_str(&written(Format::Json)).unwrap();
        assert_eq!(json["health"], "degraded");
        assert_eq!(json["backend"], "exact");
        assert_eq!(json["facts"][1]["ok"], false);
        assert_eq!(json["probes"][1]["verdict"], "unsupported");
    }
}
