//! Models for other programs.

pub mod gguf;
pub mod hf;
pub mod llama_cpp;
mod vocabulary;
