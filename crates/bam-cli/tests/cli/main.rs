//! Drives the real binary in temporary folders.
#![cfg(unix)]

mod bad_input;
mod bad_models;
mod device;
mod end_to_end;
mod evaluations;
mod export;
mod fuzz;
mod hostile;
mod import;
mod inspect;
mod interrupted;
mod misuse;
#[cfg(feature = "mpi")]
mod mpi;
mod plan;
mod preparing;
mod prior;
mod program;
mod protocol;
mod quickstart;
mod reference;
mod resume;
mod roles;
mod serve;
mod server;
mod study;
mod tensors;
mod terminal;
mod upcycle;
mod workshop;
