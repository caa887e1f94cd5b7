//! What of a configuration is folded with, as recordings keep it: from the configuration, and to what
//! each part of the fold goes by.

use anyhow::Context as _;
use weir_proto::v1;

use crate::config::{self, Config};
use crate::labels::Labels;
use crate::qoe::Limits;
use crate::qoe::alarms::Promises;
use crate::qoe::audience::{AudienceLimits, AudienceSettings};

impl From<&config::Limits> for Limits {
    fn from(limits: &config::Limits) -> Self {
        Self {
            max_sessions: limits.max_sessions as usize,
            max_viewers: limits.max_viewers as usize,
            max_cells: limits.max_cells as usize,
            max_deliveries_kept: limits.max_deliveries_kept as usize,
        }
    }
}

/// What of a configuration is recorded and folded with.
pub fn settings_of(config: &Config, config_generation: u64) -> v1::RecordedSettings {
    let text = |prefixes: &[ipnet::IpNet]| prefixes.iter().map(ToString::to_string).collect();
    let numbers = |ports: &[u16]| ports.iter().copied().map(u32::from).collect();
    let filter = &config.filter;
    v1::RecordedSettings {
        config_generation,
        deadline_ms: config.deadline_ms,
        quiet_gap_ms: config.quiet_gap_ms,
        progress_ms: config.progress_ms,
        viewers_from_kernel: config.viewers.from_kernel,
        sustain_kbps: config.viewers.sustain_kbps.clone(),
        hears_labels: config.labels.access_log_socket.is_some()
            || config.labels.tag_socket.is_some(),
        alarms: Some(v1::RecordedAlarms {
            start_failures_permille: config.alarms.start_failures_permille,
            stalled_viewers_permille: config.alarms.stalled_viewers_permille,
            late_deliveries_permille: config.alarms.late_deliveries_permille,
            false_alarms_ppm: config.alarms.false_alarms_ppm,
        }),
        services: config
            .services
            .iter()
            .map(|service| v1::RecordedService {
                name: service.name.clone(),
                ports: numbers(&service.ports),
            })
            .collect(),
        networks: config
            .networks
            .iter()
            .map(|network| v1::RecordedNetwork {
                name: network.name.clone(),
                prefixes: text(&network.prefixes),
            })
            .collect(),
        filter_ports: numbers(&filter.ports),
        filter_prefixes: text(&filter.prefixes),
        filter_cgroups: filter
            .cgroups
            .iter()
            .map(|cgroup| cgroup.display().to_string())
            .collect(),
    }
}

/// What is usual, as the settings say.
pub(super) fn promises(settings: &v1::RecordedSettings) -> Promises {
    let Some(alarms) = &settings.alarms else {
        return Promises::default();
    };
    let share = |permille: u32| f64::from(permille) / 1000.0;
    Promises {
        bases: [
            share(alarms.start_failures_permille),
            share(alarms.stalled_viewers_permille),
            share(alarms.late_deliveries_permille),
        ],
        alpha: f64::from(alarms.false_alarms_ppm) / 1e6,
    }
}

/// How viewers are made out, as the settings say.
pub(super) fn audience_settings(settings: &v1::RecordedSettings) -> AudienceSettings {
    AudienceSettings {
        hears: settings.hears_labels,
        infers: settings.viewers_from_kernel,
    }
}

impl From<Limits> for AudienceLimits {
    fn from(limits: Limits) -> Self {
        Self {
            max_viewers: limits.max_viewers,
            max_sessions: limits.max_sessions,
        }
    }
}

/// The names that the settings give.
pub(super) fn labels(settings: &v1::RecordedSettings) -> anyhow::Result<Labels> {
    let service = |service: &v1::RecordedService| {
        let ports = service.ports.iter().map(|port| u16::try_from(*port));
        Ok(config::Service {
            name: service.name.clone(),
            ports: ports.collect::<Result<_, _>>().context("a port is none")?,
        })
    };
    let network = |network: &v1::RecordedNetwork| {
        let prefixes = network.prefixes.iter().map(|prefix| prefix.parse());
        Ok(config::Network {
            name: network.name.clone(),
            prefixes: prefixes
                .collect::<Result<_, _>>()
                .context("a prefix is none")?,
        })
    };
    let services: Vec<_> = settings
        .services
        .iter()
        .map(service)
        .collect::<anyhow::Result<_>>()?;
    let networks: Vec<_> = settings
        .networks
        .iter()
        .map(network)
        .collect::<anyhow::Result<_>>()?;
    Ok(Labels::of(&services, &networks))
}
