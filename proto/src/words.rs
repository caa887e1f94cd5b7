//! Enum values as the words people read and type: the proto's name without the enum's own, in
//! lower case (`SESSION_STATE_LATE` is `late`, `END_CAUSE_CLIENT_FIN` is `client_fin`).

use prost::Message as _;
use serde::Serializer;

use crate::v1::{
    AlarmRate, Backend, Cell, CommandOutcome, DeliveryKind, DeliveryPhase, EndCause, EvidenceTier,
    HotEventKind, Lane, Metric, RecordingEndCause, SessionState, StartFailure, Verdict,
    ViewerChange, ViewerEnd, ViewerKeyKind, ViewerState,
};

macro_rules! words {
    ($($function:ident: $enum:ident, $prefix:literal;)*) => {$(
        impl $enum {
            /// The value as a word.
            pub fn word(self) -> String {
                self.as_str_name().trim_start_matches($prefix).to_ascii_lowercase()
            }
        }

        /// Writes the field as a word; a value that only a newer peer knows, as its number.
        pub(crate) fn $function<S: Serializer>(value: &i32, to: S) -> Result<S::Ok, S::Error> {
            match $enum::try_from(*value) {
                Ok(known) => to.serialize_str(&known.word()),
                Err(_) => to.serialize_i32(*value),
            }
        }
    )*};
}

words! {
    alarm_rate: AlarmRate, "ALARM_RATE_";
    backend: Backend, "BACKEND_";
    command_outcome: CommandOutcome, "COMMAND_OUTCOME_";
    delivery_kind: DeliveryKind, "DELIVERY_KIND_";
    delivery_phase: DeliveryPhase, "DELIVERY_PHASE_";
    end_cause: EndCause, "END_CAUSE_";
    evidence_tier: EvidenceTier, "EVIDENCE_TIER_";
    lane: Lane, "LANE_";
    metric: Metric, "METRIC_";
    recording_end_cause: RecordingEndCause, "RECORDING_END_CAUSE_";
    session_state: SessionState, "SESSION_STATE_";
    start_failure: StartFailure, "START_FAILURE_";
    verdict: Verdict, "VERDICT_";
    viewer_change: ViewerChange, "VIEWER_CHANGE_";
    viewer_end: ViewerEnd, "VIEWER_END_";
    viewer_key_kind: ViewerKeyKind, "VIEWER_KEY_KIND_";
    viewer_state: ViewerState, "VIEWER_STATE_";
}

impl HotEventKind {
    /// The value as a word.
    pub fn word(self) -> String {
        self.as_str_name()
            .trim_start_matches("HOT_EVENT_KIND_")
            .to_ascii_lowercase()
    }
}

/// Writes a list of kinds as words.
pub(crate) fn hot_event_kinds<S: Serializer>(values: &[i32], to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(
        values
            .iter()
            .map(|value| match HotEventKind::try_from(*value) {
                Ok(known) => known.word(),
                Err(_) => value.to_string(),
            }),
    )
}

/// Writes a frame's cells as what they are; one that cannot be read, as nothing.
pub(crate) fn encoded_cells<S, B>(values: &[B], to: S) -> Result<S::Ok, S::Error>
where
    S: Serializer,
    B: AsRef<[u8]>,
{
    to.collect_seq(values.iter().map(|cell| Cell::decode(cell.as_ref()).ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_the_name_without_its_enum() {
        assert_eq!(SessionState::Late.word(), "late");
        assert_eq!(EndCause::ClientFin.word(), "client_fin");
        assert_eq!(DeliveryKind::BusyPeriod.word(), "busy_period");
        assert_eq!(Metric::DeliveryRateKbps.word(), "delivery_rate_kbps");
        assert_eq!(Verdict::NotApplicable.word(), "not_applicable");
    }
}
