//! Records as SVG: pure functions from runs to markup.
//!
//! Colours are CSS variables (`style.css`), so that one drawing serves light, dark and print. A plot with text along
//! long axes is drawn twice, wide and narrow, and CSS shows the one that fits: text keeps its size on a phone.

mod axis;
mod bayes;
mod chart;
mod depth;
mod masses;
mod panel;
mod passkey;
mod perplexity;
mod prior;
mod reach;
mod ruler;
mod series;
mod svg;
mod training;

pub use bayes::bayes;
pub use depth::depth;
pub use masses::{mass_ruler, masses};
pub use passkey::{BANDS, passkey};
pub use perplexity::perplexity;
pub use prior::{class, prior};
pub use reach::reach;
pub use series::key;
pub use training::training;
