//! Drives the real binary in temporary folders.
#![cfg(unix)]

mod bad_input;
mod bad_models;
mod end_to_end;
mod inspect;
mod program;
mod quickstart;
mod reference;
mod resume;
mod tensors;
mod terminal;
mod workshop;
