//! Inference: tokens drawn from a model's logits ([`generate`]), and many sequences at once
//! ([`scheduler`]).

pub mod generate;
pub mod scheduler;
