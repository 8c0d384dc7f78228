use std::{
    fmt,
    fs::File,
    io::{BufRead, BufReader, ErrorKind, Read},
    path::{Path, PathBuf},
};

use serde::{
    Deserializer,
    de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor},
};
use serde_json::Value;

use super::{
    DataError, Document,
    document::DOCUMENT_LIMIT,
    folder::{Compression, FileKind},
    gzip::Gzip,
    text::{NotText, json_reason, other_encoding, tolerant},
};

/// The documents of a `.jsonl` file, perhaps compressed: one JSON object a line.
pub(super) struct JsonLines {
    path: PathBuf,
    field: String,
    compression: Compression,
    reader: Box<dyn BufRead + Send>,
    buffer: Vec<u8>,
    line: u64,
    /// Bytes before the current line, after decompression.
    offset: u64,
}

impl JsonLines {
    pub(super) fn open(
        path: &Path,
        compression: Compression,
        field: &str,
    ) -> Result<Self, DataError> {
        /// 128 MiB: what `zstd --long=27` and `--ultra` need; anything larger is refused.
        const WINDOW_LOG: u32 = 27;

        let file = File::open(path).map_err(DataError::io("open", path))?;
        let reader: Box<dyn BufRead + Send> = match compression {
            Compression::None => Box::new(BufReader::with_capacity(1 << 16, file)),
            Compression::Gzip => Box::new(BufReader::with_capacity(1 << 16, Gzip::new(file))),
            Compression::Zstandard => {
                let mut plain =
                    zstd::stream::read::Decoder::new(file).map_err(DataError::io("open", path))?;
                plain
                    .window_log_max(WINDOW_LOG)
                    .map_err(DataError::io("open", path))?;
                Box::new(BufReader::with_capacity(1 << 16, plain))
            }
        };
        Ok(Self {
            path: path.to_path_buf(),
            field: field.to_owned(),
            compression,
            reader,
            buffer: Vec::new(),
            line: 0,
            offset: 0,
        })
    }

    /// Reads one line into the buffer; false at the end.
    fn read_line(&mut self) -> Result<bool, DataError> {
        self.offset += self.buffer.len() as u64;
        self.buffer.clear();
        let read = (&mut self.reader)
            .take(DOCUMENT_LIMIT as u64 + 1)
            .read_until(b'\n', &mut self.buffer);
        let read = read.map_err(|error| self.read_error(error))?;
        if read > DOCUMENT_LIMIT {
            return Err(DataError::DocumentTooLarge {
                path: self.path.clone(),
                row: self.line + 1,
                limit: DOCUMENT_LIMIT,
            });
        }
        self.line += 1;
        Ok(read > 0)
    }

    fn read_error(&self, error: std::io::Error) -> DataError {
        let format = match self.compression {
            Compression::None => return DataError::io("read", &self.path)(error),
            Compression::Gzip => "gzip",
            Compression::Zstandard => "zstd",
        };
        let reason = match error.kind() {
            ErrorKind::UnexpectedEof => "it ends too early".to_owned(),
            _ => error.to_string(),
        };
        DataError::Compressed {
            path: self.path.clone(),
            format,
            reason,
        }
    }

    /// The current line, unless it is blank.
    fn text(&self) -> Result<Option<&str>, DataError> {
        let not_text = |reason| DataError::NotText {
            path: self.path.clone(),
            reason,
        };
        if self.line == 1
            && let Some(other) = other_encoding(&self.buffer)
        {
            return Err(not_text(other));
        }
        let line = std::str::from_utf8(&self.buffer).map_err(|error| {
            let byte = self.offset as usize + error.valid_up_to();
            let line = self.line as usize;
            not_text(NotText::InvalidUtf8 { line, byte })
        })?;
        // Files that were joined have marks in the middle.
        let line = line.trim_start_matches('\u{feff}');
        Ok(Some(line).filter(|line| !line.trim().is_empty()))
    }

    fn json_error(&self, error: serde_json::Error) -> DataError {
        let reason = json_reason(&error);
        // What is expected is said once, before.
        let other = reason.strip_prefix("invalid type: ");
        let other = other.and_then(|of| of.split_once(", expected "));
        DataError::Json {
            path: self.path.clone(),
            line: self.line,
            column: error.column(),
            reason: other.map_or(reason.clone(), |(got, _)| format!("got {got}")),
        }
    }

    /// The current line's text; `Some(None)` where that is null, and `None` where the line is blank.
    fn parse(&self) -> Result<Option<Option<Document>>, DataError> {
        let Some(line) = self.text()? else {
            return Ok(None);
        };
        let field = tolerant(line, |line| {
            let mut object = serde_json::Deserializer::from_str(line);
            let field = Field { name: &self.field }.deserialize(&mut object)?;
            object.end().map(|()| field)
        });
        let text = match field.map_err(|error| self.json_error(error))? {
            Ok(Value::String(text)) => text,
            Ok(Value::Null) => return Ok(Some(None)),
            Ok(other) => {
                return Err(DataError::FieldType {
                    path: self.path.clone(),
                    line: self.line,
                    field: self.field.clone(),
                    found: json_type(&other),
                });
            }
            Err(found) => {
                return Err(DataError::MissingField {
                    path: self.path.clone(),
                    line: self.line,
                    field: self.field.clone(),
                    found,
                });
            }
        };
        let origin = format!("{}:{}", self.path.display(), self.line);
        Ok(Some(Some(Document { text, origin })))
    }
}

/// The values of a `.jsonl` file, perhaps compressed, one a line; numbers that are none are null.
///
/// # Errors
///
/// If the file cannot be opened or has another extension; each value, if it is no JSON.
pub fn json_values(
    path: &Path,
) -> Result<impl Iterator<Item = Result<Value, DataError>> + use<>, DataError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let Some(FileKind::JsonLines(compression)) = FileKind::of(&name) else {
        return Err(DataError::NotJsonLines {
            path: path.to_path_buf(),
        });
    };
    let mut lines = JsonLines::open(path, compression, "")?;
    Ok(std::iter::from_fn(move || {
        loop {
            match lines.read_line() {
                Ok(true) => {}
                Ok(false) => return None,
                Err(error) => return Some(Err(error)),
            }
            let value = lines.text().and_then(|line| {
                let value = line.map(|line| tolerant(line, |line| serde_json::from_str(line)));
                let value = value.transpose();
                value.map_err(|error| lines.json_error(error))
            });
            if let Some(value) = value.transpose() {
                return Some(value);
            }
        }
    }))
}

impl Iterator for JsonLines {
    type Item = Result<Option<Document>, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.read_line() {
                Ok(true) => {}
                Ok(false) => return None,
                Err(error) => return Some(Err(error)),
            }
            // Blank lines separate nothing and mean nothing.
            if let Some(document) = self.parse().transpose() {
                return Some(document);
            }
        }
    }
}

fn json_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// Takes one field out of a JSON object and skips the others without building them.
/// Gives the names that were there where it was not.
struct Field<'a> {
    name: &'a str,
}

impl<'de> DeserializeSeed<'de> for Field<'_> {
    type Value = Result<Value, Vec<String>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Field<'_> {
    type Value = Result<Value, Vec<String>>;

    fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        write!(formatter, "an object with a field {:?}", self.name)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut wanted = None;
        let mut others = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            if key != self.name {
                map.next_value::<IgnoredAny>()?;
                others.push(key);
            } else if wanted.replace(map.next_value::<Value>()?).is_some() {
                let twice = format!("field {:?} appears twice", self.name);
                return Err(serde::de::Error::custom(twice));
            }
        }
        Ok(wanted.ok_or(others))
    }
}
