//! Every kind of file, whole and broken: documents in order, and errors that say where.

mod files;
mod read;
mod refused;
