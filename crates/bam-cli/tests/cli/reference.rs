//! `parity`, `import reference` and `logits`: the numbers of the reference program.

use crate::program::{FAILED, args, run, succeed, succeed_json};
use crate::tensors::{self, Tensor, Tensors, relative_error};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

pub fn cases_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../bam-lm/tests/fixtures")
}

/// A case's folder in a temporary one, to be spoiled.
pub fn copy_of(case: &str) -> TempDir {
    let copy = TempDir::new().unwrap();
    for entry in std::fs::read_dir(cases_dir().join(case)).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
    }
    copy
}

#[test]
fn every_case_passes() {
    let mut cases = 0;
    for entry in std::fs::read_dir(cases_dir()).unwrap() {
        let case = entry.unwrap().path();
        if !case.is_dir() {
            continue;
        }
        cases += 1;
        let answer = succeed_json(&args!["parity {} --json", case]);
        assert_eq!(answer["passes"], true, "{}", case.display());
        let comparisons = answer["comparisons"].as_array().unwrap();
        assert!(comparisons.len() > 10);
        for comparison in comparisons {
            assert!(comparison["error"].as_f64() <= comparison["tolerance"].as_f64());
        }
    }
    assert_eq!(cases, 19);
    let case = cases_dir().join("bam_ssmax_layer_prior-scaled");
    assert!(succeed(&args!["parity {} --attention reference", case]).contains("gradients"));
}

/// Null control: one weight off, in a case of either kind, is too far.
#[test]
fn a_changed_weight_does_not_pass() {
    for (case, file) in [
        ("bam_layer", "model.safetensors"),
        ("training_rotary", "model_init.safetensors"),
    ] {
        let copy = copy_of(case);
        let path = copy.path().join(file);
        let mut weights = tensors::read(&path);
        let matrix = weights
            .values_mut()
            .find(|tensor| tensor.shape.len() == 2)
            .unwrap();
        let value = matrix.floats()[5];
        matrix.set_float(5, value + 1.0);
        tensors::write(&path, &weights);
        let output = run(&args!["parity {} --json", copy.path()]);
        assert_eq!(output.status.code(), Some(FAILED), "{case}");
        let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(answer["passes"], false);
        let output = run(&args!["parity {}", copy.path()]);
        assert_eq!(output.status.code(), Some(FAILED));
        assert!(
            String::from_utf8(output.stdout)
                .unwrap()
                .contains("TOO FAR")
        );
    }
}

struct Imported {
    folder: TempDir,
    io: Tensors,
}

impl Imported {
    fn new(case: &str) -> Self {
        let folder = TempDir::new().unwrap();
        let case = cases_dir().join(case);
        succeed(&args![
            "import reference {} {}",
            case,
            folder.path().join("model")
        ]);
        Self {
            io: tensors::read(&case.join("io.safetensors")),
            folder,
        }
    }

    fn logits(&self, inputs: &Tensors, attention: &str) -> Vec<f32> {
        let path = |name| self.folder.path().join(name);
        let (tokens, out) = (path("tokens.safetensors"), path("logits.safetensors"));
        tensors::write(&tokens, inputs);
        let model = path("model");
        succeed(&args![
            "logits {} --tokens {} --out {} --attention {}",
            model,
            tokens,
            out,
            attention
        ]);
        let written = tensors::read(&out);
        assert_eq!(written["logits"].shape, self.io["logits"].shape);
        written["logits"].floats()
    }

    fn inputs(&self, names: &[&str]) -> Tensors {
        names
            .iter()
            .map(|&name| (name.to_owned(), self.io[name].clone()))
            .collect()
    }
}

#[test]
fn imported_models_give_the_reference_logits() {
    for (case, inputs) in [
        ("bam_layer", &["tokens", "document_ids"][..]),
        ("rotary_ssmax", &["tokens", "document_ids"][..]),
        ("bam_ssmax_unpacked", &["tokens"][..]),
    ] {
        let imported = Imported::new(case);
        let inputs = imported.inputs(inputs);
        let fused = imported.logits(&inputs, "fused");
        let reference = imported.logits(&inputs, "reference");
        let error = relative_error(&fused, &imported.io["logits"].floats());
        assert!(error <= 1e-4, "{case}: {error:.2e}");
        let error = relative_error(&fused, &reference);
        assert!(error <= 1e-5, "{case}: {error:.2e} between implementations");
    }
}

/// Null control: documents matter, and ids of 64 bits are the same ids.
#[test]
fn logits_read_document_ids() {
    let imported = Imported::new("bam_layer");
    let expected = imported.io["logits"].floats();
    let mut inputs = imported.inputs(&["tokens"]);
    let error = relative_error(&imported.logits(&inputs, "fused"), &expected);
    assert!(error > 1e-2, "{error:.2e} without the documents");
    for name in ["tokens", "document_ids"] {
        let ids = &imported.io[name];
        let wide = ids
            .bytes
            .as_chunks::<4>()
            .0
            .iter()
            .map(|id| i32::from_le_bytes(*id).into());
        inputs.insert(name.to_owned(), Tensor::of_ids(&ids.shape, wide));
    }
    let error = relative_error(&imported.logits(&inputs, "fused"), &expected);
    assert!(error <= 1e-4, "{error:.2e}");
}
