//! No code: this crate's manifest gives shared dependencies one feature set, whichever crate is
//! built, so that `cargo test -p` of any of them does not build Burn again.
