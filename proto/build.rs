//! Generates the wire types. protox is a protobuf compiler in Rust, so no `protoc` is needed.

/// Fields that hold an enum or an encoded message, and the function in `words.rs` that writes it as a
/// word or as that message.
const WORDED_FIELDS: [(&str, &str); 31] = [
    ("Delivery.kind", "delivery_kind"),
    ("Delivery.phase", "delivery_phase"),
    ("Delivery.ended", "end_cause"),
    ("Delivery.backend", "backend"),
    ("Session.state", "session_state"),
    ("Session.ended", "end_cause"),
    ("Session.backend", "backend"),
    ("CellKey.tier", "evidence_tier"),
    ("CellKey.backend", "backend"),
    ("Histogram.metric", "metric"),
    ("Viewer.key_kind", "viewer_key_kind"),
    ("Viewer.state", "viewer_state"),
    ("Viewer.ended", "viewer_end"),
    ("Viewer.start_failure", "start_failure"),
    ("ViewerEvent.change", "viewer_change"),
    ("Alarm.rate", "alarm_rate"),
    ("Probe.verdict", "verdict"),
    ("Status.backend", "backend"),
    ("Hello.backend", "backend"),
    ("Host.backend", "backend"),
    ("RecordingHeader.backend", "backend"),
    ("RecordingEnd.cause", "recording_end_cause"),
    ("Hello.lane", "lane"),
    ("Frame.lane", "lane"),
    ("Frame.cells", "encoded_cells"),
    ("LaneCounts.lane", "lane"),
    ("LaneStatus.lane", "lane"),
    ("HostLane.lane", "lane"),
    ("Selector.events", "hot_event_kinds"),
    ("CommandResult.outcome", "command_outcome"),
    ("HostOutcome.outcome", "command_outcome"),
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=weir");
    println!("cargo:rerun-if-changed=prometheus");
    let files = protox::compile(
        [
            "weir/v1/weir.proto",
            "weir/v1/engine.proto",
            "weir/v1/journal.proto",
        ],
        ["."],
    )?;
    let mut builder = tonic_prost_build::configure()
        .bytes(".")
        .message_attribute(".", "#[derive(serde::Serialize)]");
    for oneof in [
        "HotEvent.event",
        "EdgeMessage.message",
        "CollectorMessage.message",
        "RecordMessage.message",
        "ViewerMessage.message",
        "FleetSubscribeMessage.message",
        "Journalled.what",
        "Word.word",
        "Ask.what",
        "Command.what",
    ] {
        builder = builder.type_attribute(
            format!(".weir.v1.{oneof}"),
            "#[derive(serde::Serialize)] #[serde(rename_all = \"snake_case\")]",
        );
    }
    for (field, function) in WORDED_FIELDS {
        builder = builder.field_attribute(
            format!(".weir.v1.{field}"),
            format!("#[serde(serialize_with = \"crate::words::{function}\")]"),
        );
    }
    // Bytes for a machine; in JSON they would be a list of numbers.
    for field in [
        "RecordBlock.entries",
        "RecordedLabel.remote_address",
        "Frame.padding",
        "Told.bytes",
    ] {
        builder = builder.field_attribute(format!(".weir.v1.{field}"), "#[serde(skip)]");
    }
    builder.compile_fds(files)?;
    let others = protox::compile(["prometheus/remote.proto"], ["."])?;
    tonic_prost_build::configure().compile_fds(others)?;
    Ok(())
}
