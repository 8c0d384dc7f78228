//! Every case of the reference program, by both implementations of attention.

use bam_attention::Implementation;
use bam_lm::interop::parity::compare;
use bam_lm::interop::reference::Case;
use burn::tensor::Device;
use std::path::{Path, PathBuf};

fn cases() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let mut dirs: Vec<PathBuf> = std::fs::read_dir(root)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .collect();
    dirs.sort();
    assert_eq!(dirs.len(), 19);
    dirs
}

fn assert_parity(implementation: Implementation) {
    for dir in cases() {
        let case = Case::open(&dir).unwrap();
        for comparison in compare(&case, implementation, &Device::flex()).unwrap() {
            assert!(
                comparison.passes(),
                "{}: {} is off by {:.2e}, allowed {:.0e}",
                dir.display(),
                comparison.what,
                comparison.error,
                comparison.tolerance
            );
        }
    }
}

#[test]
fn fused() {
    assert_parity(Implementation::Fused);
}

#[test]
fn reference() {
    assert_parity(Implementation::Reference);
}

/// Null control: the right weights under another encoding must not pass.
#[test]
fn another_encoding_is_caught() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let mut case = Case::open(&root.join("alibi")).unwrap();
    for impostor in ["nope", "rotary", "sinusoidal"] {
        case.config.encoding = impostor.parse().unwrap();
        let comparisons = compare(&case, Implementation::Fused, &Device::flex()).unwrap();
        assert!(
            comparisons.iter().any(|c| !c.passes()),
            "{impostor} passes for alibi"
        );
    }
    let mut case = Case::open(&root.join("bam_ssmax_layer_content-scaled")).unwrap();
    case.config.encoding = "bam+ssmax".parse().unwrap();
    let comparisons = compare(&case, Implementation::Fused, &Device::flex()).unwrap();
    assert!(
        comparisons.iter().any(|c| !c.passes()),
        "prior-scaled passes for content-scaled"
    );
}
