//! Records as the columns of a Parquet file. What most questions are about has a column; the whole
//! is in the column `json`.

use std::fs::File;
use std::io::{Error, Result};
use std::sync::Arc;

use parquet::basic::{Compression, ZstdLevel};
use parquet::column::writer::ColumnWriter;
use parquet::data_type::ByteArray;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

use super::super::record::Record;
use weir_proto::v1;

/// Records in one row group.
const GROUP: usize = 8_192;

/// What a column holds. 0 and the empty text: it did not happen, or is not known.
enum Column {
    Text(&'static str, fn(&Record) -> String),
    Number(&'static str, fn(&Record) -> u64),
    /// Unix time in nanoseconds.
    Time(&'static str, fn(&Record) -> u64),
}

fn of(record: &Record, number: fn(&v1::Delivery) -> u64) -> u64 {
    record.delivery().map_or(0, number)
}

const COLUMNS: &[Column] = &[
    Column::Text("kind", |record| record.kind().to_owned()),
    Column::Text("host", |record| record.origin.host.clone()),
    Column::Text("boot_id", |record| record.origin.boot_id.clone()),
    Column::Text("lane", |record| record.origin.lane.clone()),
    Column::Number("seq", |record| record.origin.seq),
    Column::Number("place", |record| record.origin.place),
    Column::Text("collector", |record| record.origin.collector.clone()),
    Column::Time("heard_unix_ns", |record| record.origin.heard_unix_ns),
    Column::Time("unix_ns", |record| record.unix_ns),
    Column::Text("cell", Record::cell),
    Column::Text("client_address", |record| {
        record.client_address().to_owned()
    }),
    Column::Text("change", Record::change),
    Column::Text("verdict", |record| record.verdict().to_owned()),
    Column::Text("viewer", |record| {
        record
            .viewer()
            .map_or_else(String::new, |viewer| viewer.key.clone())
    }),
    Column::Number("session", |record| of(record, |delivery| delivery.session)),
    Column::Text("phase", |record| {
        let delivery = record.delivery();
        delivery.map_or_else(String::new, |delivery| delivery.phase().word())
    }),
    Column::Time("request_unix_ns", |record| {
        of(record, |delivery| delivery.request_unix_ns)
    }),
    Column::Number("latency_us", |record| {
        of(record, |delivery| delivery.latency_us)
    }),
    Column::Number("think_us", |record| {
        of(record, |delivery| delivery.think_us)
    }),
    Column::Number("first_byte_us", |record| {
        of(record, |delivery| delivery.first_byte_us)
    }),
    Column::Number("tail_us", |record| of(record, |delivery| delivery.tail_us)),
    Column::Number("acked_bytes", |record| {
        of(record, |delivery| delivery.acked_bytes)
    }),
    Column::Number("segments", |record| {
        of(record, |delivery| delivery.segments.into())
    }),
    Column::Number("retrans_fast", |record| {
        of(record, |delivery| delivery.retrans_fast.into())
    }),
    Column::Number("retrans_rto", |record| {
        of(record, |delivery| delivery.retrans_rto.into())
    }),
    Column::Number("retrans_tlp", |record| {
        of(record, |delivery| delivery.retrans_tlp.into())
    }),
    Column::Number("srtt_us", |record| {
        of(record, |delivery| delivery.srtt_us.into())
    }),
    Column::Number("min_rtt_us", |record| {
        of(record, |delivery| delivery.min_rtt_us.into())
    }),
    Column::Number("delivery_rate_bps", |record| {
        of(record, |delivery| delivery.delivery_rate_bps)
    }),
    Column::Text("json", |record| {
        serde_json::to_string(&record.what).unwrap_or_default()
    }),
];

fn schema() -> String {
    let columns: String = COLUMNS
        .iter()
        .map(|column| match column {
            Column::Text(name, _) => format!("  REQUIRED BYTE_ARRAY {name} (STRING);\n"),
            Column::Number(name, _) => format!("  REQUIRED INT64 {name} (INTEGER(64,false));\n"),
            Column::Time(name, _) => {
                format!("  REQUIRED INT64 {name} (TIMESTAMP(NANOS,true));\n")
            }
        })
        .collect();
    format!("message record {{\n{columns}}}")
}

/// A file that is being written.
pub(super) struct Table {
    to: SerializedFileWriter<File>,
    rows: Vec<Record>,
    waiting_bytes: u64,
}

impl Table {
    pub(super) fn new(file: File) -> Result<Self> {
        let schema = parse_message_type(&schema()).map_err(Error::other)?;
        let level = ZstdLevel::try_new(3).map_err(Error::other)?;
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(level))
            .set_created_by(concat!("weir ", env!("CARGO_PKG_VERSION")).to_owned())
            .build();
        let to = SerializedFileWriter::new(file, Arc::new(schema), Arc::new(properties));
        Ok(Self {
            to: to.map_err(Error::other)?,
            rows: Vec::with_capacity(GROUP),
            waiting_bytes: 0,
        })
    }

    pub(super) fn push(&mut self, record: &Record) -> Result<()> {
        // Compressed, one takes about so much.
        self.waiting_bytes += 128;
        self.rows.push(record.clone());
        if self.rows.len() >= GROUP {
            self.write_group()?;
        }
        Ok(())
    }

    pub(super) fn bytes(&self) -> u64 {
        self.to.bytes_written() as u64 + self.waiting_bytes
    }

    pub(super) fn finish(mut self) -> Result<File> {
        self.write_group()?;
        self.to.into_inner().map_err(Error::other)
    }

    fn write_group(&mut self) -> Result<()> {
        if self.rows.is_empty() {
            return Ok(());
        }
        let mut group = self.to.next_row_group().map_err(Error::other)?;
        for column in COLUMNS {
            let Some(mut to) = group.next_column().map_err(Error::other)? else {
                return Err(Error::other("the file has fewer columns than the table"));
            };
            let written = match (column, to.untyped()) {
                (Column::Text(_, text), ColumnWriter::ByteArrayColumnWriter(to)) => {
                    let texts = self.rows.iter().map(text);
                    let texts: Vec<_> = texts
                        .map(|text| ByteArray::from(text.into_bytes()))
                        .collect();
                    to.write_batch(&texts, None, None)
                }
                (
                    Column::Number(_, number) | Column::Time(_, number),
                    ColumnWriter::Int64ColumnWriter(to),
                ) => {
                    let numbers = self.rows.iter().map(number);
                    let numbers: Vec<_> = numbers.map(u64::cast_signed).collect();
                    to.write_batch(&numbers, None, None)
                }
                _ => return Err(Error::other("a column is not of its type")),
            };
            written.map_err(Error::other)?;
            to.close().map_err(Error::other)?;
        }
        group.close().map_err(Error::other)?;
        self.rows.clear();
        self.waiting_bytes = 0;
        Ok(())
    }
}
