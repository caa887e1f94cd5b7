//! `weir hosts --versions`: what the fleet runs.

use std::collections::BTreeMap;

use serde::Serialize;

use super::hosts;
use crate::ui::table::Column;

/// What some hosts have in common.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Of weir.
    pub weir_version: String,
    /// How they measure.
    pub backend: String,
    /// How many.
    pub hosts: u64,
    /// Of these, those that have fallen silent.
    pub silent: u64,
    /// One of them.
    pub example: String,
}

/// Counts them, in the order of their versions.
pub fn rows(hosts: &[hosts::Row]) -> Vec<Row> {
    let mut rows = BTreeMap::new();
    for row in hosts {
        let host = &row.host;
        let key = (host.weir_version.clone(), host.backend().word());
        let counted = rows
            .entry(key)
            .or_insert_with_key(|(version, backend)| Row {
                weir_version: version.clone(),
                backend: backend.clone(),
                hosts: 0,
                silent: 0,
                example: host.host.clone(),
            });
        counted.hosts += 1;
        counted.silent += u64::from(row.is_silent());
    }
    rows.into_values().collect()
}

/// The table's columns.
pub const COLUMNS: &[Column<Row>] = &[
    Column::left("weir_version", |row| row.weir_version.as_str().into()),
    Column::left("backend", |row| row.backend.as_str().into()),
    Column::right("hosts", |row| row.hosts.into()),
    Column::right("silent", |row| row.silent.into()),
    Column::left("example", |row| row.example.as_str().into()),
];
