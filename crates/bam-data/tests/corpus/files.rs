//! Files of every kind, written, and read again.

use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
};

use bam_data::{Corpus, DataError, Document, Source};
use parquet::{
    basic::Compression,
    data_type::{ByteArray, ByteArrayType},
    file::{properties::WriterProperties, writer::SerializedFileWriter},
    schema::parser::parse_message_type,
};
use tempfile::TempDir;

pub const SIZES: [usize; 5] = [1, 2, 63, 65, 257];

pub fn read(path: &Path) -> Result<Vec<Document>, DataError> {
    read_field(path, "text")
}

pub fn read_field(path: &Path, field: &str) -> Result<Vec<Document>, DataError> {
    Corpus::new(Source::Local(path.to_path_buf()))
        .with_field(field)
        .documents(|_| {})?
        .collect()
}

pub fn texts(documents: &[Document]) -> Vec<&str> {
    documents
        .iter()
        .map(|document| document.text.as_str())
        .collect()
}

pub fn write(folder: &TempDir, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.path().join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, bytes).unwrap();
    path
}

pub fn lines(texts: &[String]) -> Vec<u8> {
    let line = |text: &String| {
        serde_json::json!({ "id": 1, "text": text, "more": [{}] }).to_string() + "\n"
    };
    texts.iter().map(line).collect::<String>().into_bytes()
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub fn zstandard(bytes: &[u8], window_log: u32) -> Vec<u8> {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(window_log).unwrap();
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A parquet file of one column; row groups of at most `group` rows.
pub fn parquet(path: &Path, column: &str, rows: &[Option<&[u8]>], group: usize) {
    parquet_of(path, column, rows, group, Compression::SNAPPY);
}

pub fn parquet_of(
    path: &Path,
    column: &str,
    rows: &[Option<&[u8]>],
    group: usize,
    compression: Compression,
) {
    let schema = Arc::new(parse_message_type(&format!("message m {{ {column} }}")).unwrap());
    let properties = Arc::new(
        WriterProperties::builder()
            .set_compression(compression)
            .set_data_page_row_count_limit(7)
            .set_write_batch_size(3)
            .build(),
    );
    let file = File::create(path).unwrap();
    let mut writer = SerializedFileWriter::new(file, schema, properties).unwrap();
    let optional = column.starts_with("optional");
    for rows in rows.chunks(group) {
        let mut group = writer.next_row_group().unwrap();
        let mut leaf = group.next_column().unwrap().unwrap();
        let values: Vec<ByteArray> = rows
            .iter()
            .flatten()
            .map(|&row| ByteArray::from(row.to_vec()))
            .collect();
        let levels: Vec<i16> = rows.iter().map(|row| row.is_some().into()).collect();
        leaf.typed::<ByteArrayType>()
            .write_batch(&values, optional.then_some(&levels[..]), None)
            .unwrap();
        leaf.close().unwrap();
        group.close().unwrap();
    }
    writer.close().unwrap();
}

pub const TEXT_COLUMN: &str = "optional binary text (UTF8);";
