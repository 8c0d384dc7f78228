use super::*;
use std::collections::BTreeSet;

const TEXTS: [&str; 18] = [
    "nope",
    "rotary_local+ssmax",
    "rotary_local:64",
    "bam+ssmax-content",
    "alibi:2,bam:6+ssmax",
    "bam:6",
    "kerple_log",
    "sinusoidal,sinusoidal+ssmax",
    "rotary_local*3,nope",
    "rotary_local:3,nope",
    "rotary_local:128*3,nope+ssmax",
    "rotary_local*3+ssmax,nope+ssmax-content",
    "alibi,bam",
    "bam+adaptive",
    "nope+adaptive-content,bam+adaptive",
    "(alibi:2,bam:6)*3+ssmax,nope",
    "(alibi:2,bam:6),rotary",
    "nope,(alibi:2,bam:6),rotary*2",
];

#[test]
fn text_and_back() {
    for text in TEXTS {
        assert_eq!(text.parse::<Encoding>().unwrap().to_string(), text);
    }
    assert_eq!(Encoding::all_twelve().len(), 12);
}

/// A mixture of heads and a pattern of layers are told apart, and a suffix belongs to its item.
#[test]
fn layers_repeat_their_pattern() {
    let encoding: Encoding = "rotary_local:128*3,nope+ssmax".parse().unwrap();
    assert_eq!(encoding.period().len(), 4);
    for layer in 0..9 {
        let of = encoding.of_layer(layer);
        let full = layer % 4 == 3;
        assert_eq!(of.position.window(16), (!full).then_some(128), "{layer}");
        assert_eq!(of.temperature.is_some(), full, "{layer}");
        assert_eq!(of.position.rotates(), !full);
    }
    assert_eq!(encoding.of_all_layers(), None);
    let heads: Encoding = "alibi:2,bam:6+ssmax".parse().unwrap();
    let all = heads.of_all_layers().unwrap();
    assert_eq!(all.position.head_groups().len(), 2);
    assert!(all.temperature.is_some());
    let layers: Encoding = "alibi,bam".parse().unwrap();
    assert_eq!(layers.period().len(), 2);
    assert!(layers.learns_prior() && !layers.has_temperature());
    assert!(!"alibi*3,nope".parse::<Encoding>().unwrap().learns_prior());
    let window = "rotary_local,nope".parse::<Encoding>().unwrap();
    assert_eq!(window.of_layer(2).position.window(16), Some(16));
}

/// Two that mean the same are the same.
#[test]
fn the_shortest_period_is_kept() {
    for (long, short) in [
        ("bam*3", "bam"),
        ("bam,bam", "bam"),
        ("bam*2,generalized_gaussian", "bam"),
        ("nope,uniform", "nope"),
        ("(alibi:2,bam:6)*5", "alibi:2,bam:6"),
        ("bam,nope,bam,nope", "bam,nope"),
        ("bam,bam,nope", "bam*2,nope"),
        ("bam,nope,bam", "bam,nope,bam"),
        ("bam*2+ssmax,bam+ssmax", "bam+ssmax"),
    ] {
        let parsed: Encoding = long.parse().unwrap();
        assert_eq!(parsed.to_string(), short, "{long}");
        assert_eq!(parsed, short.parse().unwrap());
    }
    assert_ne!(
        "bam,bam+ssmax".parse::<Encoding>().unwrap(),
        "bam+ssmax".parse().unwrap()
    );
}

/// Every encoding has a file of its own, whose name no shell or file system takes for something else.
#[test]
fn file_names_are_safe_and_differ() {
    let names: BTreeSet<String> = TEXTS
        .iter()
        .map(|text| text.parse::<Encoding>().unwrap().file_name())
        .collect();
    assert_eq!(names.len(), TEXTS.len());
    for name in &names {
        let safe = |c: char| c.is_ascii_alphanumeric() || "_-+".contains(c);
        assert!(name.chars().all(safe), "{name}");
    }
    assert!(names.contains("rotary_local-128x3-nope+ssmax"));
    assert!(names.contains("alibi-2-bam-6+ssmax"), "as before");
}

#[test]
fn what_is_no_encoding_is_an_error_that_names_it() {
    for (text, named) in [
        ("", "got "),
        ("bamm", "got bamm"),
        ("bam+", "got bam+"),
        ("bam+softmax", "got bam+softmax"),
        ("bam:0", "got bam:0"),
        ("bam:x", "bam:x"),
        ("rotary:2", "rotary:2"),
        ("rotary_local:0", "rotary_local:0"),
        ("rotary_local:-1", "rotary_local:-1"),
        ("bam*0", "bam*0"),
        ("bam*", "bam*"),
        ("bam*x,nope", "\"bam*x\" in bam*x,nope"),
        ("bam**2", "bam**2"),
        ("rotary_local*3,nop", "\"nop\" in rotary_local*3,nop"),
        ("rotary_local*3,", "\"\" in rotary_local*3,"),
        ("rotary_local*3,nope+ssmx", "\"nope+ssmx\" in"),
        ("bam+ssmax*2", "bam+ssmax*2"),
        // Six heads or six layers?
        ("bam:6,nope", "\"bam:6\" in bam:6,nope"),
        ("alibi:2,bam:6,nope", "\"alibi:2\" in"),
        ("alibi:1,fox:1", "\"fox:1\" in"),
        ("(alibi:2,bam:6", "got (alibi:2,bam:6"),
        ("(alibi:2,bam:6),nope)", "\"nope)\""),
        ("(alibi,bam),nope", "\"(alibi,bam)\""),
        ("bam*1025", "at most 1024 layers"),
        ("bam,nope*1024", "at most 1024 layers"),
        ("bam*99999999999999999999", "got bam*99999999999999999999"),
        ("sinusoidal,nope", "sinusoidal in all layers or in none"),
    ] {
        let error = text.parse::<Encoding>().unwrap_err().to_string();
        assert!(error.starts_with("encoding: expected"), "{text}: {error}");
        assert!(error.contains(named), "{text}: {error}");
    }
    assert!(Encoding::repeating(Vec::new()).is_err());
}
