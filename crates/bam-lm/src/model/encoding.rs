//! Encodings, the ways that position enters a model: one type for all of them, orthogonal to the temperature of rows.
//!
//! An [`Encoding`] is written as text. That of a layer is `nope`, `sinusoidal`, `rotary`, `rotary_local`, `alibi`,
//! `bam`, the name of any prior family, or several of them with their number of heads, such as
//! `alibi:2,bam:6`. `+ssmax` adds scalable softmax on likelihood and prior, `+ssmax-content` on the likelihood
//! only; `fox` is forget gates, `fox+bam` and the like gates beside another; `+adaptive` and `+adaptive-content` a temperature that every row learns.
//!
//! Layers that differ are a pattern, which repeats over the layers:
//!
//! ```text
//! pattern = item { "," item }          item = position [ "*" layers ] [ suffix ]
//! rotary_local:64*3,nope+ssmax         three layers of windows, then one that sees everything
//! (alibi:2,bam:6)*2,nope               a mixture of heads stands in parentheses there
//! ```

mod fox;
mod layer;

use crate::Error;
pub use layer::{HeadGroup, LayerEncoding, Position, PriorKind, RowTemperature};
use layer::{families, scaling, size};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The encoding of a model: one for all layers, or a pattern that repeats over them.
///
/// Two that mean the same are equal: a pattern is kept as its shortest period.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Encoding {
    /// Layer `l` has that of `l` modulo their number; at least one.
    period: Vec<LayerEncoding>,
}

/// The longest pattern: deeper than any model.
const MOST_LAYERS: usize = 1024;

impl Encoding {
    /// A pattern of layers.
    ///
    /// # Errors
    /// If it has no layer or too many, or sinusoids, which come before all layers, are those of some only.
    pub fn repeating(mut period: Vec<LayerEncoding>) -> Result<Self, Error> {
        let wrong = |expected: String, got: String| Error::Value {
            what: "encoding",
            expected,
            got,
        };
        let length = period.len();
        if !(1..=MOST_LAYERS).contains(&length) {
            let expected = format!("a pattern of 1 to {MOST_LAYERS} layers");
            return Err(wrong(expected, format!("one of {length}")));
        }
        let sinusoids = |layer: &LayerEncoding| layer.position == Position::Sinusoidal;
        if period.iter().any(sinusoids) && !period.iter().all(sinusoids) {
            let expected =
                "sinusoidal in all layers or in none, since it is added before the first";
            return Err(wrong(expected.into(), Self { period }.to_string()));
        }
        let repeats = |&shorter: &usize| {
            length.is_multiple_of(shorter)
                && (shorter..length).all(|i| period[i] == period[i - shorter])
        };
        period.truncate((1..=length).find(repeats).unwrap_or(length));
        Ok(Self { period })
    }

    /// The layers of one period.
    #[must_use]
    pub fn period(&self) -> &[LayerEncoding] {
        &self.period
    }

    /// That of a layer.
    #[must_use]
    pub fn of_layer(&self, layer: usize) -> &LayerEncoding {
        &self.period[layer % self.period.len()]
    }

    /// That of all layers, where they are alike.
    #[must_use]
    pub fn of_all_layers(&self) -> Option<&LayerEncoding> {
        match &self.period[..] {
            [all] => Some(all),
            _ => None,
        }
    }

    /// The same with other layers in their places.
    ///
    /// # Errors
    /// Those of [`Encoding::repeating`].
    pub fn with_layers(
        &self,
        other: impl FnMut(&LayerEncoding) -> LayerEncoding,
    ) -> Result<Self, Error> {
        Self::repeating(self.period.iter().map(other).collect())
    }

    /// The six positions of the paper, each without and with scalable softmax.
    #[must_use]
    pub fn all_twelve() -> Vec<Self> {
        [
            "nope",
            "sinusoidal",
            "rotary",
            "rotary_local",
            "alibi",
            "bam",
        ]
        .iter()
        .flat_map(|name| [(*name).to_owned(), format!("{name}+ssmax")])
        .map(|name| {
            name.parse()
                .expect("the names of the paper's encodings parse")
        })
        .collect()
    }

    /// Whether any layer has any head with parameters of its prior to learn.
    #[must_use]
    pub fn learns_prior(&self) -> bool {
        self.period.iter().any(LayerEncoding::learns_prior)
    }

    /// Whether rows of any layer have a temperature: scalable softmax, or an adaptive one.
    #[must_use]
    pub fn has_temperature(&self) -> bool {
        self.period.iter().any(|layer| layer.temperature.is_some())
    }

    /// Whether rows of any layer have a temperature of their own.
    #[must_use]
    pub fn adapts(&self) -> bool {
        let mut temperatures = self.period.iter().map(|layer| layer.temperature);
        temperatures.any(|of| matches!(of, Some(RowTemperature::Adaptive(_))))
    }

    /// Whether any layer has forget gates.
    #[must_use]
    pub fn forgets(&self) -> bool {
        self.period.iter().any(|layer| layer.forgets)
    }

    /// Whether any layer rotates queries and keys.
    #[must_use]
    pub fn rotates(&self) -> bool {
        self.period.iter().any(|layer| layer.position.rotates())
    }

    /// Whether any layer has a prior over the lag, learned or not.
    #[must_use]
    pub fn has_prior(&self) -> bool {
        let is_prior = |layer: &LayerEncoding| matches!(layer.position, Position::Prior(_));
        self.period.iter().any(is_prior)
    }

    /// Whether sinusoids are added to the embeddings.
    #[must_use]
    pub fn adds_sinusoids(&self) -> bool {
        self.period[0].position == Position::Sinusoidal
    }

    /// The name of a folder or a file for it, another one for every encoding: `rotary_local-64x3-nope+ssmax`.
    #[must_use]
    pub fn file_name(&self) -> String {
        let safe = |c| match c {
            ':' | ',' => '-',
            '*' => 'x',
            '(' | ')' => '_',
            c => c,
        };
        self.to_string().chars().map(safe).collect()
    }
}

impl From<LayerEncoding> for Encoding {
    fn from(all: LayerEncoding) -> Self {
        Self { period: vec![all] }
    }
}

impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(all) = self.of_all_layers() {
            let position = all.position.to_string();
            return write!(f, "{}{}", all.with_gates(position), all.suffix());
        }
        for (index, run) in self.period.chunk_by(|a, b| a == b).enumerate() {
            let (comma, layer) = (if index > 0 { "," } else { "" }, &run[0]);
            let position = match layer.position.counts_heads() {
                true => format!("({})", layer.position),
                false => layer.position.to_string(),
            };
            write!(f, "{comma}{}", layer.with_gates(position))?;
            if run.len() > 1 {
                write!(f, "*{}", run.len())?;
            }
            f.write_str(layer.suffix())?;
        }
        Ok(())
    }
}

impl From<Encoding> for String {
    fn from(encoding: Encoding) -> Self {
        encoding.to_string()
    }
}

impl TryFrom<String> for Encoding {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl FromStr for Encoding {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if let Some(all) = one_layer(text) {
            return Ok(all.into());
        }
        let unknown = |got: &str| Error::Value {
            what: "encoding",
            expected: format!(
                "nope, sinusoidal, rotary, rotary_local, alibi, bam, one of {}, a mixture of heads such \
                 as alibi:2,bam:6, fox, fox+ before one of these, or a pattern of layers such as rotary_local:64*3,nope; each with +ssmax, \
                 +ssmax-content, +adaptive or +adaptive-content if wanted",
                families()
            ),
            got: match got == text {
                true => text.to_owned(),
                false => format!("{got:?} in {text}"),
            },
        };
        let mut period = Vec::new();
        let items = outside_parentheses(text, ',');
        for item in &items {
            let (layer, layers) = several_layers(item).ok_or_else(|| {
                // Heads beside each other would be right, were all items some.
                let is_none =
                    |item: &&&str| one_layer(item).is_none() && several_layers(item).is_none();
                unknown(items.iter().find(is_none).unwrap_or(item))
            })?;
            if layers > MOST_LAYERS - period.len() {
                return Err(Error::Value {
                    what: "encoding",
                    expected: format!("a pattern of at most {MOST_LAYERS} layers"),
                    got: text.to_owned(),
                });
            }
            period.resize(period.len() + layers, layer);
        }
        Self::repeating(period)
    }
}

/// The parts between separators that are not within parentheses.
fn outside_parentheses(text: &str, separator: char) -> Vec<&str> {
    let mut depth = 0_i32;
    let is_separator = |c| {
        depth += i32::from(c == '(') - i32::from(c == ')');
        depth == 0 && c == separator
    };
    text.split(is_separator).collect()
}

/// An encoding that is the same in all layers.
fn one_layer(text: &str) -> Option<LayerEncoding> {
    let (forgets, text) = fox::taken_off(text);
    let (position, suffix) = parted(&text);
    Some(LayerEncoding {
        position: Position::parsed(position)?,
        forgets,
        temperature: scaling(suffix)?,
    })
}

/// An item of a pattern, and its number of layers.
fn several_layers(text: &str) -> Option<(LayerEncoding, usize)> {
    let (forgets, text) = fox::taken_off(text);
    let (rest, suffix) = parted(&text);
    let (position, layers) = match rest.rsplit_once('*') {
        None => (rest, 1),
        Some((position, layers)) => (position, size(layers)?),
    };
    let inside = position
        .strip_prefix('(')
        .and_then(|rest| rest.strip_suffix(')'));
    let position = Position::parsed(inside.unwrap_or(position))?;
    // Heads and layers are not to be mistaken for each other.
    if inside.is_none() && position.counts_heads() {
        return None;
    }
    let temperature = scaling(suffix)?;
    Some((
        LayerEncoding {
            position,
            forgets,
            temperature,
        },
        layers,
    ))
}

fn parted(text: &str) -> (&str, Option<&str>) {
    match text.split_once('+') {
        None => (text, None),
        Some((rest, suffix)) => (rest, Some(suffix)),
    }
}

#[cfg(test)]
mod tests;
