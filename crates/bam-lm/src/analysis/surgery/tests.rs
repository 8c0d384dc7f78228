use super::*;
use crate::model::TokenRows;
use crate::testing::small;
use bam_attention::Implementation;
use bam_attention::Lags;
use bam_prior::{Family, PositionalPrior};
use burn::tensor::Device;

fn model(encoding: &str) -> Transformer {
    small(encoding).init(&Device::flex())
}

fn edit(heads: &str) -> PriorEdit {
    PriorEdit {
        heads: heads.split(',').map(|name| name.parse().unwrap()).collect(),
        ..PriorEdit::default()
    }
}

fn to_family(heads: &str, family: &str) -> PriorEdit {
    PriorEdit {
        family: Some(family.parse().unwrap()),
        ..edit(heads)
    }
}

fn scaled(heads: &str, change: &str) -> PriorEdit {
    PriorEdit {
        scale: Some(change.parse().unwrap()),
        ..edit(heads)
    }
}

fn logits(model: &Transformer) -> Vec<f32> {
    let ids = (0..40).map(|id| id * 7 % 31).collect();
    let tokens = TokenRows::new(1, ids, 31).unwrap();
    let logits = model.forward(&tokens, None, Implementation::Fused).unwrap();
    host_values(logits)
}

fn farthest(a: &[f32], b: &[f32]) -> f32 {
    let differences = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, f32::max)
}

/// Row `head` of a layer's log-weights over some lags.
fn ln_weights(model: &Transformer, layer: usize, head: usize) -> Vec<f32> {
    let keys = 50;
    let priors = model.log_priors(Lags::causal(keys));
    host_values(priors[layer].ln_weights().clone())[head * keys..][..keys].to_vec()
}

#[test]
fn names_of_heads() {
    for text in ["1.3", "1.*", "*.3", "*.*", "3"] {
        assert_eq!(text.parse::<HeadName>().unwrap().to_string(), text);
    }
    assert_eq!("all".parse::<HeadName>().unwrap().to_string(), "*.*");
    for text in ["", ".", "1.", "*", "1.3.4", "-1", "a.b", "1,2"] {
        let error = text.parse::<HeadName>().unwrap_err().to_string();
        assert!(error.starts_with("head: expected layer.head"), "{error}");
    }
}

#[test]
fn changes_of_values() {
    let change = |text: &str| text.parse::<Change>().unwrap();
    assert_eq!(change("x0.5"), Change::Times(0.5));
    assert_eq!(change("=-2"), Change::Set(-2.0));
    assert_eq!(change("−2"), Change::Set(-2.0));
    assert_eq!(change("1e-3"), Change::Set(1e-3));
    for text in ["", "x", "xx2", "NaN", "=inf", "2x", "x-inf"] {
        assert!(text.parse::<Change>().is_err(), "{text}");
    }
}

#[test]
fn a_named_head_changes_and_no_other_number_does() {
    let old = model("bam+ssmax");
    let (new, changes) = edit_priors(&old, &scaled("1.3", "x0.5")).unwrap();
    let [change] = &changes[..] else {
        panic!("{changes:?}");
    };
    assert_eq!((change.layer, change.head), (Some(1), 3));
    let scale = |of: &HeadPrior| of.prior.parameters()[1].value;
    let ratio = scale(&change.after) / scale(&change.before);
    assert!((ratio - 0.5).abs() < 1e-6);
    let (old, new) = (old.to_tensors(), new.to_tensors());
    for (name, (shape, values)) in &old {
        let (new_shape, new_values) = &new[name];
        assert_eq!(shape, new_shape);
        let differ = (0..values.len()).filter(|i| values[*i] != new_values[*i]);
        let expected = match name.as_str() {
            "layers.1.attention.prior.scale" => vec![3],
            _ => vec![],
        };
        assert_eq!(differ.collect::<Vec<_>>(), expected, "{name}");
    }
}

/// The law says what was set, family by family.
#[test]
fn values_are_those_of_the_law() {
    let names = [
        ("bam", [Some("scale"), Some("shape"), Some("location")]),
        ("laplace", [Some("slope"), None, None]),
        ("alibi", [Some("slope"), None, None]),
        ("nope", [None; 3]),
        ("gaussian", [None, None, Some("location")]),
        (
            "student_t",
            [Some("scale"), Some("degrees"), Some("location")],
        ),
    ];
    for (family, expected) in names {
        let old = model(family);
        for (index, name) in expected.into_iter().enumerate() {
            let change = Some(Change::Set(0.75));
            let mut wanted = edit("0.2");
            *[&mut wanted.scale, &mut wanted.shape, &mut wanted.location][index] = change;
            let Some(name) = name else { continue };
            let (_, changes) = edit_priors(&old, &wanted).unwrap();
            let changed = changes.iter().find(|c| (c.layer, c.head) == (Some(0), 2));
            let parameters = changed.unwrap().after.prior.parameters();
            let found = parameters.iter().find(|p| p.name.contains(name));
            let value = found.unwrap_or_else(|| panic!("{family} {parameters:?}"));
            assert!((value.value - 0.75).abs() < 1e-6, "{family}: {value:?}");
        }
    }
    // The factor on the squared distance: half its deviation is four times the factor.
    let gaussian = model("gaussian");
    let (_, changes) = edit_priors(&gaussian, &scaled("0.1", "x4")).unwrap();
    let of = |prior: &HeadPrior| prior.prior.ln_weight(-3.0);
    assert!((of(&changes[0].after) / of(&changes[0].before) - 4.0).abs() < 1e-5);
}

#[test]
fn what_a_family_lacks_or_refuses_is_an_error() {
    let shape = |heads: &str, value: f64| PriorEdit {
        shape: Some(Change::Set(value)),
        ..edit(heads)
    };
    let location = |heads: &str| PriorEdit {
        location: Some(Change::Times(2.0)),
        ..edit(heads)
    };
    for (encoding, edit, named) in [
        (
            "bam",
            scaled("0.1", "x-1"),
            "scale: expected a number above 0",
        ),
        ("bam", scaled("0.1", "0"), "got 0 for head 0.1"),
        ("bam", scaled("0.1", "x1e300"), "scale"),
        (
            "bam",
            shape("0.0", 1e300),
            "shape: expected a finite number",
        ),
        (
            "nope",
            scaled("0.1", "x2"),
            "scale: expected none, for a nope prior",
        ),
        (
            "alibi",
            shape("1.5", 1.0),
            "shape: expected one of what alibi has: scale",
        ),
        ("kerple_power", shape("0.0", 2.0), "between 0 and 2"),
        (
            "table",
            scaled("0.0", "=2"),
            "a factor such as x0.5 for a table of 64",
        ),
        ("kerple_log", location("0.0"), "location"),
        ("gaussian", scaled("0.0", "=1e38"), "finite log-weights"),
        (
            "bam",
            shape("0.0", 100.0),
            "finite log-weights in f32 within",
        ),
        ("bam", scaled("0.0", "=1e300"), "got 1e300 for head 0.0"),
        ("bam", edit("2.0"), "a family, scale, shape or location"),
        ("bam", scaled("2.0", "x2"), "a layer from 0 to 1"),
        ("bam", scaled("0.6", "x2"), "a head from 0 to 5"),
        ("bam", scaled("3", "x2"), "layer.head"),
        ("rotary", scaled("all", "x2"), "one whose heads have priors"),
        (
            "bam",
            to_family("0.1", "kerple_log"),
            "family: expected one for head 1 in all layers",
        ),
    ] {
        let error = edit_priors(&model(encoding), &edit)
            .unwrap_err()
            .to_string();
        assert!(error.contains(named), "{encoding} {edit:?}: {error}");
    }
    let shared = ModelConfig {
        prior_scope: PriorScope::Global,
        ..small("bam")
    };
    let shared = shared.init(&Device::flex());
    let error = edit_priors(&shared, &scaled("0.1", "x2")).unwrap_err();
    assert!(error.to_string().contains("without its layer"), "{error}");
    let (_, changes) = edit_priors(&shared, &scaled("1,*.2", "x2")).unwrap();
    let heads: Vec<_> = changes.iter().map(|c| (c.layer, c.head)).collect();
    assert_eq!(heads, [(None, 1), (None, 2)]);
}

#[test]
fn families_change_in_all_layers_by_regrouping() {
    let old = model("bam");
    for family in Family::ALL {
        let (new, changes) = edit_priors(&old, &to_family("*.2", family.name())).unwrap();
        let kind: PriorKind = family.name().parse().unwrap();
        let expected = match kind.name() {
            "bam" => "bam".to_owned(),
            name => format!("bam:2,{name}:1,bam:3"),
        };
        assert_eq!(new.config().encoding.to_string(), expected);
        assert_eq!(changes.len(), if expected == "bam" { 0 } else { 2 });
        for head in [0, 1, 3, 5] {
            assert_eq!(ln_weights(&new, 1, head), ln_weights(&old, 1, head));
        }
        // It starts as a model of that family does.
        let fresh = model(family.name());
        assert_eq!(ln_weights(&new, 1, 2), ln_weights(&fresh, 1, 2));
    }
}

/// ALiBi's heads keep their slopes, which a group of fewer heads would not give them.
#[test]
fn alibi_in_part_is_laplace() {
    let old = model("alibi+ssmax");
    let (new, changes) = edit_priors(&old, &to_family("*.3", "uniform")).unwrap();
    let encoding = new.config().encoding.to_string();
    assert_eq!(encoding, "laplace:3,nope:1,laplace:2+ssmax");
    assert_eq!(changes.len(), 12);
    for head in [0, 1, 2, 4, 5] {
        assert_eq!(ln_weights(&new, 0, head), ln_weights(&old, 0, head));
    }
    assert!(ln_weights(&new, 0, 3).iter().all(|ln_w| *ln_w == 0.0));
    let (back, _) = edit_priors(&new, &to_family("all", "alibi")).unwrap();
    assert_eq!(back.config().encoding.to_string(), "alibi+ssmax");
    assert_eq!(logits(&back), logits(&old));
}

/// One layer only: exactly flat, exactly the same elsewhere.
#[test]
fn uniform_in_one_layer_is_bam_of_shape_zero() {
    for encoding in ["bam", "alibi", "laplace+ssmax"] {
        let old = model(encoding);
        let (new, _) = edit_priors(&old, &to_family("1.0", "uniform")).unwrap();
        let flat = ln_weights(&new, 1, 0);
        assert!(flat.iter().all(|ln_w| *ln_w == flat[0]), "{flat:?}");
        let (before, after) = (ln_weights(&old, 0, 0), ln_weights(&new, 0, 0));
        assert!(farthest(&before, &after) < 1e-4, "{encoding}");
        // Null control: the edit is seen.
        assert!(farthest(&logits(&old), &logits(&new)) > 1e-6, "{encoding}");
    }
    // A uniform head that becomes bam again on the way weighs the same.
    let mixed = model("nope:2,laplace:4");
    let (new, _) = edit_priors(&mixed, &to_family("0.0", "laplace")).unwrap();
    assert_eq!(new.config().encoding.to_string(), "bam:1,nope:1,laplace:4");
    let flat = ln_weights(&new, 1, 0);
    assert!(flat.iter().all(|ln_w| *ln_w == flat[0]));
}

/// Of a pattern the layers of an item change together; those without priors have none to change.
#[test]
fn patterns_are_edited_item_by_item() {
    let config = ModelConfig {
        layers: 5,
        ..small("rotary_local:9,bam,alibi+ssmax")
    };
    let old = config.init(&Device::flex());
    for (edit, encoding, changed) in [
        (
            scaled("1.2", "x2"),
            "rotary_local:9,bam,alibi+ssmax",
            vec![(1, 2)],
        ),
        (
            scaled("*.0", "x1"),
            "rotary_local:9,bam,laplace+ssmax",
            vec![(2, 0)],
        ),
        (
            to_family("*.2", "nope"),
            "rotary_local:9,(bam:2,nope:1,bam:3),(laplace:2,nope:1,laplace:3)+ssmax",
            vec![(1, 2), (2, 2), (4, 2)],
        ),
        // Layer 4 has the same item as layer 1.
        (
            to_family("1.2", "nope"),
            "rotary_local:9,bam,alibi+ssmax",
            vec![(1, 2)],
        ),
        (
            to_family("2.*", "bam"),
            "rotary_local:9,bam,bam+ssmax",
            vec![(2, 5)],
        ),
    ] {
        let (new, changes) = edit_priors(&old, &edit).unwrap();
        assert_eq!(new.config().encoding.to_string(), encoding, "{edit:?}");
        let heads: Vec<_> = changes.iter().map(|c| (c.layer.unwrap(), c.head)).collect();
        for place in &changed {
            assert!(heads.contains(place), "{edit:?}: {heads:?}");
        }
        assert!(heads.iter().all(|(layer, _)| *layer % 3 != 0), "{heads:?}");
        let again = serde_json::to_string(&new.config()).unwrap();
        let again: ModelConfig = serde_json::from_str(&again).unwrap();
        let again = again.init(&Device::flex());
        let again = again
            .with_tensors(new.to_tensors(), std::path::Path::new("again"))
            .unwrap();
        assert_eq!(farthest(&logits(&again), &logits(&new)), 0.0, "{edit:?}");
    }
    for (heads, named) in [
        (
            "0.1",
            "a layer with priors, in a model with rotary_local:9,bam,alibi+ssmax",
        ),
        ("3.*", "a layer with priors"),
        ("5.0", "a layer from 0 to 4"),
    ] {
        let error = edit_priors(&old, &scaled(heads, "x2")).unwrap_err();
        assert!(error.to_string().contains(named), "{heads}: {error}");
    }
}
