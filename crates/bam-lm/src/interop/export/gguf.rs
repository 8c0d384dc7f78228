//! The GGUF container, version 3: metadata and `f32` tensors.
//!
//! Source: the specification in `docs/gguf.md` of ggml. Little-endian throughout:
//!
//! ```text
//! "GGUF"  u32 version  u64 tensors  u64 entries
//! each entry:   key  u32 type  value           a string is u64 length and UTF-8
//! each tensor:  name u32 dimensions  u64 sizes, the innermost first  u32 type  u64 offset
//! data, every tensor at a multiple of 32 bytes
//! ```

use crate::Error;

/// A file in the making.
#[derive(Clone, Debug, Default)]
pub struct Gguf {
    entries: Vec<(String, Entry)>,
    tensors: Vec<NamedTensor>,
}

/// A value of the metadata.
#[derive(Clone, Debug, PartialEq)]
pub enum Entry {
    /// A count or an id.
    U32(u32),
    /// A number.
    F32(f32),
    /// Yes or no.
    Bool(bool),
    /// A text.
    Text(String),
    /// Texts.
    Texts(Vec<String>),
    /// Whole numbers.
    I32s(Vec<i32>),
    /// Numbers.
    F32s(Vec<f32>),
}

#[derive(Clone, Debug)]
struct NamedTensor {
    name: String,
    /// As in every other format, the innermost last.
    shape: Vec<usize>,
    values: Vec<f32>,
}

const VERSION: u32 = 3;
const ALIGNMENT: usize = 32;
/// `f32`, among the types of tensors.
const TENSOR_F32: u32 = 0;

/// Types of values.
const I32: u32 = 5;
const F32: u32 = 6;
const TEXT: u32 = 8;
const ARRAY: u32 = 9;

impl Gguf {
    /// Adds a value.
    pub fn entry(&mut self, key: impl Into<String>, value: Entry) {
        self.entries.push((key.into(), value));
    }

    /// Adds a tensor; `shape` has the innermost dimension last.
    pub fn tensor(&mut self, name: impl Into<String>, shape: Vec<usize>, values: Vec<f32>) {
        debug_assert_eq!(shape.iter().product::<usize>(), values.len());
        self.tensors.push(NamedTensor {
            name: name.into(),
            shape,
            values,
        });
    }

    /// The file.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = Bytes(Vec::new());
        out.0.extend(b"GGUF");
        out.u32(VERSION);
        out.u64(self.tensors.len());
        out.u64(self.entries.len());
        for (key, value) in &self.entries {
            out.text(key);
            out.entry(value);
        }
        let mut offset = 0;
        for tensor in &self.tensors {
            out.text(&tensor.name);
            out.u32(tensor.shape.len() as u32);
            tensor.shape.iter().rev().for_each(|size| out.u64(*size));
            out.u32(TENSOR_F32);
            out.u64(offset);
            offset = (offset + 4 * tensor.values.len()).next_multiple_of(ALIGNMENT);
        }
        for tensor in &self.tensors {
            out.align();
            out.0
                .extend(tensor.values.iter().flat_map(|x| x.to_le_bytes()));
        }
        out.align();
        out.0
    }
}

struct Bytes(Vec<u8>);

impl Bytes {
    fn u32(&mut self, value: u32) {
        self.0.extend(value.to_le_bytes());
    }

    fn u64(&mut self, value: usize) {
        self.0.extend((value as u64).to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.u64(text.len());
        self.0.extend(text.as_bytes());
    }

    fn align(&mut self) {
        self.0.resize(self.0.len().next_multiple_of(ALIGNMENT), 0);
    }

    fn entry(&mut self, entry: &Entry) {
        match entry {
            Entry::U32(value) => {
                self.u32(4);
                self.u32(*value);
            }
            Entry::F32(value) => {
                self.u32(F32);
                self.0.extend(value.to_le_bytes());
            }
            Entry::Bool(value) => {
                self.u32(7);
                self.0.push(u8::from(*value));
            }
            Entry::Text(text) => {
                self.u32(TEXT);
                self.text(text);
            }
            Entry::Texts(texts) => {
                self.array(TEXT, texts.len());
                texts.iter().for_each(|text| self.text(text));
            }
            Entry::I32s(values) => {
                self.array(I32, values.len());
                self.0.extend(values.iter().flat_map(|x| x.to_le_bytes()));
            }
            Entry::F32s(values) => {
                self.array(F32, values.len());
                self.0.extend(values.iter().flat_map(|x| x.to_le_bytes()));
            }
        }
    }

    fn array(&mut self, of: u32, count: usize) {
        self.u32(ARRAY);
        self.u32(of);
        self.u64(count);
    }
}

/// A thing that GGUF can't say, with what can be done instead.
pub(super) fn refused(expected: &str, got: String) -> Error {
    Error::Value {
        what: "export to GGUF",
        expected: format!("{expected}; bam export hf and bam serve take every model"),
        got,
    }
}
