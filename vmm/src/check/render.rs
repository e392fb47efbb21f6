//! How requirements are shown.

use std::io::{self, Write};

use serde::Serialize;

use super::{Requirement, Status};

/// Widest column of what was found; longer ones stand as they are.
const WIDEST: usize = 50;

/// Aligned lines, `ok`, `optional` or `MISSING` first; what is lacking has its remedy beneath.
pub(super) fn text(out: &mut impl Write, all: &[Requirement]) -> io::Result<()> {
    let name_width = all.iter().map(|it| it.name.len()).max().unwrap_or(0);
    let found_width = all
        .iter()
        .map(|it| parts(it).1.len())
        .filter(|&len| len <= WIDEST)
        .max()
        .unwrap_or(0);
    for it in all {
        let (label, found, remedy) = parts(it);
        let (name, purpose) = (it.name, it.purpose);
        writeln!(
            out,
            "{label:<9} {name:<name_width$}  {found:<found_width$}  - {purpose}"
        )?;
        if let Some(remedy) = remedy {
            writeln!(out, "{:9} {:name_width$}  remedy: {remedy}", "", "")?;
        }
    }
    let missing = all.iter().filter(|it| !it.is_met()).count();
    match missing {
        0 => writeln!(out, "This host can run microVMs."),
        1 => writeln!(out, "This host cannot run microVMs: one thing is missing."),
        _ => writeln!(
            out,
            "This host cannot run microVMs: {missing} things are missing."
        ),
    }
}

/// `{"schema":1,"ok":...,"requirements":[{name, purpose, status, found, remedy?}]}`, one line.
pub(super) fn json(out: &mut impl Write, all: &[Requirement]) -> io::Result<()> {
    #[derive(Serialize)]
    struct Report<'a> {
        schema: u32,
        ok: bool,
        requirements: Vec<Entry<'a>>,
    }
    #[derive(Serialize)]
    struct Entry<'a> {
        name: &'a str,
        purpose: &'a str,
        status: &'a str,
        found: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        remedy: Option<&'a str>,
    }
    let requirements = all.iter().map(|it| {
        let (_, found, remedy) = parts(it);
        let status = match it.status {
            Status::Found(_) => "found",
            Status::Missing { .. } => "missing",
            Status::Optional { .. } => "optional",
        };
        Entry {
            name: it.name,
            purpose: it.purpose,
            status,
            found,
            remedy,
        }
    });
    let report = Report {
        schema: 1,
        ok: all.iter().all(Requirement::is_met),
        requirements: requirements.collect(),
    };
    serde_json::to_writer(&mut *out, &report)?;
    writeln!(out)
}

fn parts(it: &Requirement) -> (&'static str, &str, Option<&str>) {
    match &it.status {
        Status::Found(found) => ("ok", found, None),
        Status::Missing { found, remedy } => ("MISSING", found, Some(remedy)),
        Status::Optional { found, remedy } => ("optional", found, Some(remedy)),
    }
}
