use std::{
    fs::File,
    path::{Path, PathBuf},
};

use parquet::{
    basic::{Compression, ConvertedType, LogicalType, Repetition, Type as PhysicalType},
    column::reader::{ColumnReader, ColumnReaderImpl},
    data_type::{ByteArray, ByteArrayType},
    errors::ParquetError,
    file::reader::{FileReader, SerializedFileReader},
    schema::types::Type,
};

use super::{DataError, Document, caught::caught, document::DOCUMENT_LIMIT};

/// The documents of a parquet file: one string column of the top level, a few rows at a time.
///
/// Reads the column directly, without Arrow: strings are all there is, and the bytes can be checked here.
pub(super) struct ParquetRows {
    path: PathBuf,
    file: SerializedFileReader<File>,
    /// The leaf column that holds the text.
    leaf: usize,
    /// Row groups not yet opened.
    next_group: usize,
    group: Option<Group>,
    /// Texts decoded and not yet given out, in reverse.
    decoded: Vec<Option<ByteArray>>,
    row: u64,
}

struct Group {
    reader: ColumnReaderImpl<ByteArrayType>,
    rows_left: u64,
}

impl ParquetRows {
    pub(super) fn open(path: &Path, column: &str) -> Result<Self, DataError> {
        let file = File::open(path).map_err(DataError::io("open", path))?;
        let file = guarded(|| SerializedFileReader::new(file))
            .map_err(|error| parquet_error(path, &error))?;
        let schema = file.metadata().file_metadata().schema_descr();
        let fields = schema.root_schema().get_fields();
        let Some(field) = fields.iter().find(|field| field.name() == column) else {
            return Err(DataError::MissingColumn {
                path: path.to_path_buf(),
                column: column.to_owned(),
                found: fields.iter().map(|field| field.name().to_owned()).collect(),
            });
        };
        let leaf =
            (0..schema.num_columns()).find(|&leaf| schema.column(leaf).path().parts() == [column]);
        let (Some(leaf), true) = (leaf, is_string(field)) else {
            return Err(DataError::ColumnType {
                path: path.to_path_buf(),
                column: column.to_owned(),
                found: describe(field),
            });
        };
        for group in file.metadata().row_groups() {
            if group.column(leaf).compression() == Compression::LZO {
                return Err(DataError::ParquetCompression {
                    path: path.to_path_buf(),
                    got: "LZO",
                });
            }
        }
        Ok(Self {
            path: path.to_path_buf(),
            file,
            leaf,
            next_group: 0,
            group: None,
            decoded: Vec::new(),
            row: 0,
        })
    }

    /// Decodes some more rows; false at the end of the file.
    fn refill(&mut self) -> Result<bool, DataError> {
        guarded(|| self.decode()).map_err(|error| parquet_error(&self.path, &error))
    }

    fn decode(&mut self) -> Result<bool, ParquetError> {
        /// Rows decoded at once: bounds the memory, whatever the size of a row group.
        const ROWS: usize = 64;

        let Some(group) = &mut self.group else {
            return self.open_group();
        };
        let mut present = Vec::with_capacity(ROWS);
        let mut values = Vec::with_capacity(ROWS);
        let (rows, _, levels) =
            group
                .reader
                .read_records(ROWS, Some(&mut present), None, &mut values)?;
        group.rows_left = group
            .rows_left
            .checked_sub(rows as u64)
            .ok_or_else(|| ParquetError::General("more rows than the footer says".to_owned()))?;
        if rows == 0 {
            if group.rows_left > 0 {
                let missing = format!("{} rows fewer than the footer says", group.rows_left);
                return Err(ParquetError::General(missing));
            }
            self.group = None;
            return Ok(true);
        }
        // Levels are only there for an optional column: 1 where the row has a value.
        let optional = levels == present.len() && levels > 0;
        let mut values = values.into_iter();
        self.decoded = (0..rows)
            .map(|row| match optional && present[row] == 0 {
                true => None,
                false => values.next(),
            })
            .collect();
        self.decoded.reverse();
        Ok(true)
    }

    fn open_group(&mut self) -> Result<bool, ParquetError> {
        if self.next_group == self.file.num_row_groups() {
            return Ok(false);
        }
        let group = self.file.get_row_group(self.next_group)?;
        let rows = u64::try_from(group.metadata().num_rows())
            .map_err(|_| ParquetError::General("a negative number of rows".to_owned()))?;
        let ColumnReader::ByteArrayColumnReader(reader) = group.get_column_reader(self.leaf)?
        else {
            return Err(ParquetError::General(
                "a row group whose column is not of the schema's type".to_owned(),
            ));
        };
        self.next_group += 1;
        self.group = Some(Group {
            reader,
            rows_left: rows,
        });
        Ok(true)
    }

    fn document(&self, text: &ByteArray) -> Result<Document, DataError> {
        if text.len() > DOCUMENT_LIMIT {
            return Err(DataError::DocumentTooLarge {
                path: self.path.clone(),
                row: self.row,
                limit: DOCUMENT_LIMIT,
            });
        }
        let text = std::str::from_utf8(text.data()).map_err(|error| DataError::Parquet {
            path: self.path.clone(),
            reason: format!(
                "expected UTF-8 in row {}, got an invalid sequence at its byte {}",
                self.row,
                error.valid_up_to()
            ),
        })?;
        Ok(Document {
            text: text.to_owned(),
            origin: format!("{}:{}", self.path.display(), self.row),
        })
    }
}

impl Iterator for ParquetRows {
    type Item = Result<Option<Document>, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.decoded.is_empty() {
            match self.refill() {
                Ok(true) => {}
                Ok(false) => return None,
                Err(error) => return Some(Err(error)),
            }
        }
        let text = self.decoded.pop()?;
        self.row += 1;
        Some(text.map(|text| self.document(&text)).transpose())
    }
}

/// The decoder asserts some of what a damaged page can violate. Such a file is an error like any other;
/// it is not read any further.
fn guarded<T>(read: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, ParquetError> {
    caught(read).unwrap_or_else(|| Err(ParquetError::General("its pages are damaged".to_owned())))
}

fn is_string(field: &Type) -> bool {
    let info = field.get_basic_info();
    field.is_primitive()
        && field.get_physical_type() == PhysicalType::BYTE_ARRAY
        && info.has_repetition()
        && info.repetition() != Repetition::REPEATED
        && (info.logical_type_ref() == Some(&LogicalType::String)
            || info.converted_type() == ConvertedType::UTF8)
}

fn describe(field: &Type) -> String {
    if !field.is_primitive() {
        return "a group of columns".to_owned();
    }
    let info = field.get_basic_info();
    if info.has_repetition() && info.repetition() == Repetition::REPEATED {
        return "a list".to_owned();
    }
    match info.logical_type_ref() {
        Some(LogicalType::Unknown) => "nulls alone".to_owned(),
        Some(logical) => format!("{} ({logical:?})", field.get_physical_type()),
        None => field.get_physical_type().to_string(),
    }
}

fn parquet_error(path: &Path, error: &ParquetError) -> DataError {
    DataError::Parquet {
        path: path.to_path_buf(),
        reason: error.to_string(),
    }
}
