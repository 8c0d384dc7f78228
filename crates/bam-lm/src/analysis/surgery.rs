//! Prior surgery: other priors in the heads of a trained model, everything else as it was.
//!
//! An encoding names one family a head for all layers, or for those that share an item of its pattern.
//! A head whose family an edit makes differ between such layers becomes one that contains them all,
//! exactly: the generalised Gaussian is the uniform prior at shape 0 and the Laplace prior at shape 1.
//! Families that nothing here contains are refused.

mod overflow;

use crate::Error;
use crate::model::encoding::{Encoding, HeadGroup, LayerEncoding, Position, PriorKind};
use crate::model::{ModelConfig, PriorScope, Transformer, host_values};
use bam_attention::nn;
use bam_prior::{
    GeneralizedGaussian, Link, ParameterSpec, PositionalPrior, Prior, Role, alibi_slopes,
};
use bam_record::history::{HeadChange, HeadPrior};
use overflow::{check_laws, check_weights};
use std::collections::BTreeSet;
use std::str::FromStr;

/// An edit of the priors of some heads.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PriorEdit {
    /// The heads.
    pub heads: Vec<HeadName>,
    /// Another family; its parameters start where a new model's would, at this head's place.
    pub family: Option<PriorKind>,
    /// The parameter of the role [`Role::Scale`]. A factor on a table of log-weights multiplies each.
    pub scale: Option<Change>,
    /// That of the role [`Role::Shape`].
    pub shape: Option<Change>,
    /// That of the role [`Role::Location`], in tokens.
    pub location: Option<Change>,
}

/// The change of a parameter's value in the law (not of the unconstrained number that is stored).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Change {
    /// `x0.5`: so many times what it was.
    Times(f64),
    /// `0.5` or `=0.5`: this.
    Set(f64),
}

/// Heads by layer and number: `1.3`, `1.*`, `*.3`, `all`; `3` where all layers share their priors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadName {
    layer: LayerName,
    head: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LayerName {
    Unsaid,
    Every,
    One(usize),
}

/// A head of one layer, or of the priors that all layers share.
#[derive(Clone, PartialEq)]
struct HeadState {
    kind: PriorKind,
    /// A parameter each, unconstrained.
    theta: Vec<Vec<f32>>,
}

/// `states[place][head]`; a place is a layer, or all of them. A layer without priors has no heads here.
type Places = Vec<Vec<HeadState>>;

/// A model with other priors, and what changed: also heads that were not named, where the encoding
/// could not be kept for them. What they weigh is the same.
///
/// # Errors
/// If the model has no priors, a head or a parameter does not exist, a value is outside its domain,
/// or the encoding can't say what comes of it.
pub fn edit_priors(
    model: &Transformer,
    edit: &PriorEdit,
) -> Result<(Transformer, Vec<HeadChange>), Error> {
    let config = model.config();
    if edit.family.is_none()
        && [edit.scale, edit.shape, edit.location]
            .iter()
            .all(Option::is_none)
    {
        return Err(Error::Value {
            what: "prior edit",
            expected: "a family, scale, shape or location".into(),
            got: "none".into(),
        });
    }
    let before = states(model)?;
    let named = named_heads(&edit.heads, &before, config)?;
    let mut after = before.clone();
    for &(place, head) in &named {
        let at = name_of(config, place, head);
        after[place][head].apply(edit, head, &at, config)?;
    }
    agree_on_families(&mut after, config)?;
    let edited = with_states(model, &after)?;
    let laws = after.iter().enumerate().flat_map(|(place, heads)| {
        let heads = heads.iter().enumerate();
        heads.map(move |(head, state)| (name_of(config, place, head), state.law()))
    });
    check_laws(laws, config)?;
    check_weights(&edited)?;
    Ok((edited, changes(config, &before, &after)?))
}

fn states(model: &Transformer) -> Result<Places, Error> {
    let config = model.config();
    if !config.encoding.has_prior() {
        return Err(Error::Value {
            what: "model",
            expected: "one whose heads have priors (nope, alibi, bam, …)".into(),
            got: format!("the encoding {}", config.encoding),
        });
    }
    let places = match config.prior_scope {
        PriorScope::Global => 1,
        PriorScope::Layer => config.layers,
    };
    let of_place = |place| states_of(model.prior_of(place), config.head_groups(place));
    Ok((0..places).map(of_place).collect())
}

fn states_of(prior: &nn::PositionalPrior, groups: &[HeadGroup]) -> Vec<HeadState> {
    let kinds = groups.iter().map(|group| group.prior);
    let groups = prior.groups.iter().zip(kinds).flat_map(|(group, kind)| {
        let specs = group.family().parameters(0);
        let theta = group.theta.iter().map(|param| host_values(param.val()));
        let theta: Vec<Vec<f32>> = theta.collect();
        (0..group.heads()).map(move |head| HeadState::of(kind, &specs, &theta, head))
    });
    groups.collect()
}

impl HeadState {
    /// A head of several whose numbers those are.
    fn of(kind: PriorKind, specs: &[ParameterSpec], theta: &[Vec<f32>], head: usize) -> Self {
        let own = specs.iter().zip(theta);
        Self {
            kind,
            theta: own
                .map(|(spec, all)| spec.of_head(all, head).to_vec())
                .collect(),
        }
    }

    /// The start of a new model's head of this number.
    fn initial(
        kind: PriorKind,
        head: usize,
        heads: usize,
        config: &ModelConfig,
    ) -> Result<Self, Error> {
        let theta = kind.config(heads, config.prior_start)?.theta()?;
        let specs = kind.family().parameters(0);
        Ok(Self::of(kind, &specs, &theta, head))
    }

    fn apply(
        &mut self,
        edit: &PriorEdit,
        head: usize,
        at: &str,
        config: &ModelConfig,
    ) -> Result<(), Error> {
        if let Some(kind) = edit.family {
            *self = Self::initial(kind, head, config.heads, config)?;
        }
        for (what, role, change) in [
            ("scale", Role::Scale, edit.scale),
            ("shape", Role::Shape, edit.shape),
            ("location", Role::Location, edit.location),
        ] {
            if let Some(change) = change {
                self.change(what, role, change, at)?;
            }
        }
        Ok(())
    }

    fn change(
        &mut self,
        what: &'static str,
        role: Role,
        change: Change,
        at: &str,
    ) -> Result<(), Error> {
        let specs = self.kind.family().parameters(1);
        let Some(index) = specs.iter().position(|spec| spec.role == role) else {
            let has: Vec<&str> = specs.iter().map(|spec| spec.role.name()).collect();
            return Err(Error::Value {
                what,
                expected: match has.is_empty() {
                    true => format!("none, for a {} prior", self.kind.name()),
                    false => format!("one of what {} has: {}", self.kind.name(), has.join(", ")),
                },
                got: format!("{change} for head {at}"),
            });
        };
        if matches!(self.kind, PriorKind::Alibi) {
            // Slopes of its own are no longer ALiBi's.
            self.kind = laplace();
        }
        for theta in &mut self.theta[index] {
            let was = specs[index].link.constrain(f64::from(*theta));
            let value = change.of(what, was, &specs[index], at)?;
            let stored = stored_as(specs[index].link, value);
            *theta = stored.ok_or_else(|| Error::Value {
                what,
                expected: domain(specs[index].link).into(),
                got: format!("{} for head {at}", written(value)),
            })?;
        }
        Ok(())
    }

    fn law(&self) -> Result<Prior, Error> {
        let theta = self.theta.iter();
        let theta: Vec<Vec<f64>> = theta
            .map(|values| values.iter().map(|x| f64::from(*x)).collect())
            .collect();
        Ok(self.kind.family().prior(&theta)?)
    }

    fn distribution(&self) -> Result<HeadPrior, Error> {
        let prior = self.law()?;
        // As many digits as the stored number has: they come back from a file as they are.
        let values = prior.parameters().into_iter().map(|of| short(of.value));
        let shortened = prior.with_parameters(&values.collect::<Vec<f64>>());
        Ok(HeadPrior {
            encoding: self.kind.name().into(),
            prior: shortened.unwrap_or(prior),
        })
    }

    /// The same weights as the other kind says them.
    fn as_kind(&self, kind: PriorKind, head: usize, config: &ModelConfig) -> Result<Self, Error> {
        if self.kind.family() == kind.family() {
            // ALiBi's slopes, learned.
            let theta = self.theta.clone();
            return Ok(Self { kind, theta });
        }
        let slope = alibi_slopes(config.heads)?[head];
        let own = GeneralizedGaussian::containing(&self.law()?, slope)?.map(Prior::from);
        let theta = kind.family().theta(&own.unwrap_or(self.law()?))?;
        let stored = |values: Vec<f64>| values.into_iter().map(|x| x as f32).collect();
        Ok(Self {
            kind,
            theta: theta.into_iter().map(stored).collect(),
        })
    }
}

/// The shortest decimal number that is this one in `f32`.
fn short(value: f64) -> f64 {
    let text = (value as f32).to_string();
    text.parse()
        .ok()
        .filter(|x: &f64| x.is_finite())
        .unwrap_or(value)
}

/// The unconstrained number that says this value, where `f32` has one and the value itself.
fn stored_as(link: Link, value: f64) -> Option<f32> {
    let theta = link.unconstrain(value).ok()? as f32;
    let said = link.constrain(f64::from(theta)) as f32;
    let fits = theta.is_finite() && said.is_finite() && (said != 0.0 || value == 0.0);
    fits.then_some(theta)
}

impl Change {
    fn of(
        self,
        what: &'static str,
        was: f64,
        spec: &ParameterSpec,
        at: &str,
    ) -> Result<f64, Error> {
        match self {
            Self::Times(factor) => Ok(was * factor),
            Self::Set(value) if spec.width == 1 => Ok(value),
            Self::Set(_) => Err(Error::Value {
                what,
                expected: format!("a factor such as x0.5 for a table of {}", spec.width),
                got: format!("{self} for head {at}"),
            }),
        }
    }
}

/// The same families in all layers of an item of the encoding's pattern.
fn agree_on_families(places: &mut Places, config: &ModelConfig) -> Result<(), Error> {
    let period = config.encoding.period().len();
    for item in 0..period.min(places.len()) {
        let alike = places.iter_mut().skip(item).step_by(period);
        agree(&mut alike.collect::<Vec<_>>(), config)?;
    }
    Ok(())
}

/// The kind that says what every layer's head is, head by head, and ALiBi only where its slopes are
/// those of so many heads.
fn agree(places: &mut [&mut Vec<HeadState>], config: &ModelConfig) -> Result<(), Error> {
    for head in 0..places[0].len() {
        let kinds: Vec<PriorKind> = places.iter().map(|heads| heads[head].kind).collect();
        let kind = common_kind(&kinds).ok_or_else(|| {
            let names: BTreeSet<&str> = kinds.iter().map(PriorKind::name).collect();
            let names: Vec<&str> = names.into_iter().collect();
            Error::Value {
                what: "family",
                expected: format!(
                    "one for head {head} in all layers (*.{head}), or only uniform, alibi, laplace \
                     and bam, which bam contains"
                ),
                got: names.join(", "),
            }
        })?;
        for heads in places.iter_mut() {
            heads[head] = heads[head].as_kind(kind, head, config)?;
        }
    }
    let mut start = 0;
    for run in runs(places[0]) {
        let heads = start..start + run.heads.unwrap_or(config.heads);
        start = heads.end;
        if !matches!(run.prior, PriorKind::Alibi) {
            continue;
        }
        let count = heads.len();
        let standard = (0..count)
            .map(|head| HeadState::initial(PriorKind::Alibi, head, count, config))
            .collect::<Result<Vec<_>, Error>>()?;
        let of_run = |place: &&mut Vec<HeadState>| place[heads.clone()] == standard;
        if !places.iter().all(of_run) {
            for state in places
                .iter_mut()
                .flat_map(|place| &mut place[heads.clone()])
            {
                state.kind = laplace();
            }
        }
    }
    Ok(())
}

fn common_kind(kinds: &[PriorKind]) -> Option<PriorKind> {
    let all_of = |names: &[&str]| kinds.iter().all(|kind| names.contains(&kind.name()));
    if kinds.iter().all(|kind| *kind == kinds[0]) {
        Some(kinds[0])
    } else if all_of(&["alibi", "laplace"]) {
        Some(laplace())
    } else if all_of(&["nope", "alibi", "laplace", BAM]) {
        BAM.parse().ok()
    } else {
        None
    }
}

const BAM: &str = "bam";

fn laplace() -> PriorKind {
    "laplace".parse().expect("the family is registered")
}

/// Neighbouring heads of one kind.
fn runs(heads: &[HeadState]) -> Vec<HeadGroup> {
    let runs = heads.chunk_by(|a, b| a.kind == b.kind);
    runs.map(|run| HeadGroup {
        prior: run[0].kind,
        heads: (run.len() < heads.len()).then_some(run.len()),
    })
    .collect()
}

fn with_states(model: &Transformer, places: &Places) -> Result<Transformer, Error> {
    let mut edited = model.clone();
    let device = model.device();
    let start = model.config.prior_start;
    let of_place = |heads: &[HeadState]| -> Result<nn::PositionalPrior, Error> {
        let (groups, mut rest) = (runs(heads), heads);
        let of_group = |group: &HeadGroup| {
            let (run, others) = rest.split_at(group.heads.unwrap_or(heads.len()));
            rest = others;
            let theta = (0..run[0].theta.len()).map(|index| {
                run.iter()
                    .flat_map(move |state| &state.theta[index])
                    .copied()
            });
            let theta = theta.map(Iterator::collect).collect();
            Ok(group
                .prior
                .config(run.len(), start)?
                .init_at(theta, &device)?)
        };
        let groups = groups.iter().map(of_group).collect::<Result<_, Error>>()?;
        Ok(nn::PositionalPrior::of_groups(groups, &device)?)
    };
    for (index, heads) in places.iter().enumerate() {
        if !heads.is_empty() {
            let own = &mut edited.layers[index].attention.prior;
            *edited.prior.as_mut().unwrap_or(own) = of_place(heads)?;
        }
    }
    edited.config.encoding = encoding_of(&edited.config.encoding, places)?;
    edited.config = edited.config.checked()?;
    Ok(edited)
}

/// The encoding with these heads; one place is that of all layers.
fn encoding_of(before: &Encoding, places: &Places) -> Result<Encoding, Error> {
    let mut places = places.iter().cycle();
    before.with_layers(|layer| match places.next() {
        Some(heads) if !heads.is_empty() => LayerEncoding {
            position: Position::Prior(runs(heads)),
            ..layer.clone()
        },
        _ => layer.clone(),
    })
}

fn changes(
    config: &ModelConfig,
    before: &Places,
    after: &Places,
) -> Result<Vec<HeadChange>, Error> {
    let mut changes = Vec::new();
    for (place, (before, after)) in before.iter().zip(after).enumerate() {
        for (head, (before, after)) in before.iter().zip(after).enumerate() {
            if before != after {
                changes.push(HeadChange {
                    layer: (config.prior_scope == PriorScope::Layer).then_some(place),
                    head,
                    before: before.distribution()?,
                    after: after.distribution()?,
                });
            }
        }
    }
    Ok(changes)
}

/// The places and heads that are meant, in order.
fn named_heads(
    names: &[HeadName],
    places: &Places,
    config: &ModelConfig,
) -> Result<BTreeSet<(usize, usize)>, Error> {
    let layer_scope = config.prior_scope == PriorScope::Layer;
    let mut found = BTreeSet::new();
    for name in names {
        let wrong = |expected: String| Error::Value {
            what: "head",
            expected,
            got: name.to_string(),
        };
        let some = match name.layer {
            LayerName::Every => 0..places.len(),
            LayerName::Unsaid if !layer_scope => 0..1,
            LayerName::One(layer) if layer_scope && layer < places.len() => layer..layer + 1,
            LayerName::Unsaid => {
                let expected = "layer.head (1.3, 1.*, *.3) or all: layers have priors of their own";
                return Err(wrong(expected.into()));
            }
            LayerName::One(_) if layer_scope => {
                return Err(wrong(format!("a layer from 0 to {}", places.len() - 1)));
            }
            LayerName::One(_) => {
                let expected = "a head without its layer (3 or *.3): all layers share one prior";
                return Err(wrong(expected.into()));
            }
        };
        let heads = match name.head {
            None => 0..config.heads,
            Some(head) if head < config.heads => head..head + 1,
            Some(_) => return Err(wrong(format!("a head from 0 to {}", config.heads - 1))),
        };
        let (one, with_priors) = (some.len() == 1, |place: &usize| !places[*place].is_empty());
        if one && !some.clone().any(|place| with_priors(&place)) {
            let expected = format!("a layer with priors, in a model with {}", config.encoding);
            return Err(wrong(expected));
        }
        let some = some.filter(with_priors);
        found.extend(some.flat_map(|place| heads.clone().map(move |head| (place, head))));
    }
    Ok(found)
}

fn name_of(config: &ModelConfig, place: usize, head: usize) -> String {
    match config.prior_scope {
        PriorScope::Layer => format!("{place}.{head}"),
        PriorScope::Global => head.to_string(),
    }
}

fn domain(link: Link) -> &'static str {
    match link {
        Link::Identity | Link::TwoSinh => "a finite number",
        Link::Exponential | Link::Softplus => {
            "a number above 0 that f32 can hold (no decay at all is the family uniform)"
        }
        Link::Logistic => "a number between 0 and 1",
        Link::TwoLogistic => "a number between 0 and 2",
    }
}

/// A number in all its digits, and in scientific form where those before or after the point are many.
fn written(value: f64) -> String {
    match value == 0.0 || (1e-7..1e15).contains(&value.abs()) {
        true => value.to_string(),
        false => format!("{value:e}"),
    }
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Times(factor) => write!(f, "x{}", written(*factor)),
            Self::Set(value) => write!(f, "={}", written(*value)),
        }
    }
}

impl FromStr for Change {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let finite = |text: &str| text.parse().ok().filter(|x: &f64| x.is_finite());
        // As tables write it.
        let text = &text.replace('−', "-");
        let change = match text.strip_prefix('x') {
            Some(factor) => finite(factor).map(Self::Times),
            None => finite(text.strip_prefix('=').unwrap_or(text)).map(Self::Set),
        };
        change.ok_or_else(|| Error::Value {
            what: "change",
            expected: "a factor such as x0.5, or a value such as 0.5 or =0.5".into(),
            got: text.to_owned(),
        })
    }
}

impl std::fmt::Display for HeadName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let head = self.head.map_or("*".into(), |head| head.to_string());
        match self.layer {
            LayerName::Unsaid => write!(f, "{head}"),
            LayerName::Every => write!(f, "*.{head}"),
            LayerName::One(layer) => write!(f, "{layer}.{head}"),
        }
    }
}

impl FromStr for HeadName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let number = |text: &str| match text {
            "*" => Some(None),
            text => text.parse().ok().map(Some),
        };
        let name = match text.split_once('.') {
            None if text == "all" => Some((LayerName::Every, None)),
            None => text
                .parse()
                .ok()
                .map(|head| (LayerName::Unsaid, Some(head))),
            Some((layer, head)) => number(layer).zip(number(head)).map(|(layer, head)| {
                let layer = layer.map_or(LayerName::Every, LayerName::One);
                (layer, head)
            }),
        };
        let (layer, head) = name.ok_or_else(|| Error::Value {
            what: "head",
            expected: "layer.head (1.3, 1.*, *.3), a head of shared priors (3), or all".into(),
            got: text.to_owned(),
        })?;
        Ok(Self { layer, head })
    }
}

#[cfg(test)]
mod tests;
