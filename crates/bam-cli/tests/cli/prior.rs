//! Prior surgery: `bam prior edit`, `bam prior diff`, and what `config.json` keeps of it.

use crate::program::{FAILED, MISUSED, args, fail, succeed, succeed_json, tree};
use crate::tensors;
use crate::workshop::Workshop;
use serde_json::Value;
use std::path::Path;

fn config(model: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(model.join("config.json")).unwrap()).unwrap()
}

#[test]
fn an_edit_makes_a_whole_model_with_its_history() {
    let shop = Workshop::new();
    let (model, out) = (shop.trained_model(), shop.path("edited"));
    let words = args!["prior edit {} --head 0.1 --scale x0.5 --out {}", model, out];
    let said = succeed(&words);
    assert!(said.contains("0.1 "), "{said}");
    let evaluate = format!("bam eval passkey {} {}", model.display(), out.display());
    assert!(said.ends_with(&format!("evaluate: {evaluate}\n")), "{said}");
    // Weights: one number of one tensor.
    let (old, new) = (
        model.join("model.safetensors"),
        out.join("model.safetensors"),
    );
    let (old_tensors, new_tensors) = (tensors::read(&old), tensors::read(&new));
    assert!(old_tensors.keys().eq(new_tensors.keys()));
    for (name, tensor) in &old_tensors {
        let pairs = tensor.floats().into_iter().zip(new_tensors[name].floats());
        let changed: Vec<usize> = pairs
            .enumerate()
            .filter(|(_, (a, b))| a != b)
            .map(|(i, _)| i)
            .collect();
        let expected = match name.as_str() {
            "layers.0.attention.prior.scale" => vec![1],
            _ => vec![],
        };
        assert_eq!(changed, expected, "{name}");
    }
    // The folder is a model's, and no run's: what was measured belongs to the other one.
    let names = tree(&out)
        .into_iter()
        .map(|path| path.file_name().unwrap().to_owned());
    assert!(names.eq(["config.json", "model.safetensors", "tokenizer.json"]));
    let history = &config(&out)["history"];
    let event = &history[0];
    assert_eq!(event["what"], "prior edit");
    assert_eq!(event["arguments"]["scale"], "x0.5");
    assert_eq!(event["arguments"]["head"], "0.1");
    let head = &event["heads"][0];
    assert_eq!([&head["layer"], &head["head"]], [0, 1]);
    let scale = |when: &str| head[when]["prior"]["scale"].as_f64().unwrap();
    assert!((scale("after") / scale("before") - 0.5).abs() < 1e-6);
    let sum = event["from"].as_str().unwrap();
    let told = std::process::Command::new("sha256sum").arg(&old).output();
    if let Ok(told) = told {
        assert!(
            String::from_utf8_lossy(&told.stdout).starts_with(sum),
            "{sum}"
        );
    }
    assert_eq!(config(&model).get("history"), None);

    // A second edit, in place, remembers the first.
    succeed(&args![
        "prior edit {} --head all --shape=-0.25 --location -3 --in-place",
        out
    ]);
    let events = config(&out)["history"].as_array().unwrap().clone();
    assert_eq!(events.len(), 2);
    assert_eq!(&events[0], event);
    assert_eq!(events[1]["heads"].as_array().unwrap().len(), 2);
    assert_eq!(events[1]["arguments"]["shape"], "=-0.25");
    let seen = succeed(&args!["inspect heads {}", out]);
    assert!(seen.contains("\nhistory\n"), "{seen}");
    assert_eq!(seen.matches("prior edit").count(), 2);
    assert!(seen.contains("shape −0.25"), "{seen}");
}

/// The files that a kill can leave of an edit in place, each state one step further: the old model, then the new one.
#[test]
fn an_edit_in_place_that_was_killed_happened_or_did_not() {
    let shop = Workshop::new();
    let (model, edited, old) = (shop.trained_model(), shop.path("edited"), shop.path("old"));
    let files = ["config.json", "model.safetensors"];
    let copy = |from: &Path, to: &Path| {
        std::fs::create_dir(to).unwrap();
        for file in files {
            std::fs::copy(from.join(file), to.join(file)).unwrap();
        }
    };
    copy(&model, &old);
    let edit = args!["prior edit {} --head 0.1 --family nope", model];
    succeed(&[edit.clone(), args!["--out {}", edited]].concat());
    // Configuration, history and every tensor.
    let same = |other: &Path| {
        let found = succeed_json(&args!["prior diff {} {} --json", model, other]);
        let [a, b] = [0, 1].map(|index| &found["histories"][index]);
        let differences = ["heads", "tensors"].map(|what| found["difference"][what].clone());
        a == b
            && differences
                .iter()
                .all(|list| list.as_array().unwrap().is_empty())
    };
    assert!(same(&old) && !same(&edited));
    let (unnamed, named) = (
        model.join("..replacement.12345.tmp"),
        model.join(".replacement"),
    );
    copy(&edited, &unnamed);
    assert!(same(&old) && !same(&edited));
    std::fs::rename(&unnamed, &named).unwrap();
    assert!(same(&edited) && !same(&old));
    std::fs::remove_file(model.join(files[0])).unwrap();
    assert!(same(&edited));
    std::fs::rename(named.join(files[1]), model.join(files[1])).unwrap();
    assert!(same(&edited));
    // Everything that reads models reads that one; what writes one leaves nothing of it.
    succeed(&args!["doctor {} --length 256", model]);
    let again = args!["prior edit {} --head 0.0 --scale x2 --in-place", model];
    std::fs::create_dir(&unnamed).unwrap();
    succeed(&again);
    assert!(!named.exists() && !unnamed.exists());
    let events = config(&model)["history"].as_array().unwrap().clone();
    assert_eq!(events.len(), 2);
    assert_eq!(events[0], config(&edited)["history"][0]);
    // Null control: the files of two models, as a kill between two plain renames would leave them.
    std::fs::copy(old.join(files[0]), model.join(files[0])).unwrap();
    fail(FAILED, &args!["prior diff {} {}", model, edited]);
}

#[test]
fn a_difference_names_heads_and_other_tensors() {
    let shop = Workshop::new();
    let (model, out) = (shop.trained_model(), shop.path("edited"));
    let diff = args!["prior diff {} {} --keys 64", model, out];
    succeed(&args![
        "prior edit {} --head *.1 --family uniform --out {}",
        model,
        out
    ]);
    assert_eq!(
        config(&out)["position_embedding_type"],
        "bam:1,nope:1+ssmax"
    );
    let said = succeed(&diff);
    assert!(said.contains("bam+ssmax → bam:1,nope:1+ssmax"), "{said}");
    assert!(
        said.contains("uniform") && said.contains("other tensors are the same"),
        "{said}"
    );
    assert!(
        said.contains(&format!("history of {}", out.display())),
        "{said}"
    );
    let json = [diff.clone(), args!["--json"]].concat();
    let found = succeed_json(&json);
    let heads = found["difference"]["heads"].as_array().unwrap();
    assert_eq!(heads.len(), 1);
    assert_eq!(heads[0]["after"]["family"], "uniform");
    assert_eq!(heads[0]["after"]["class"], "flat");
    assert_eq!(found["difference"]["tensors"].as_array().unwrap().len(), 0);
    assert_eq!(found["histories"][1].as_array().unwrap().len(), 1);
    // A model and itself; another number in another tensor.
    let same = succeed(&args!["prior diff {} {}", model, model]);
    assert!(same.contains("every head is the same"), "{same}");
    let path = out.join("model.safetensors");
    let mut spoiled = tensors::read(&path);
    let value = spoiled["output.weight"].floats()[7];
    spoiled
        .get_mut("output.weight")
        .unwrap()
        .set_float(7, value + 0.5);
    tensors::write(&path, &spoiled);
    let found = succeed_json(&json);
    let tensors = &found["difference"]["tensors"];
    assert_eq!(tensors[0]["name"], "output.weight");
    assert!((tensors[0]["largest"].as_f64().unwrap() - 0.5).abs() < 1e-6);
    assert_eq!(tensors.as_array().unwrap().len(), 1);
}

#[test]
fn what_does_not_exist_is_refused_and_nothing_is_written() {
    let shop = Workshop::new();
    let model = shop.trained_model();
    let out = shop.path("edited");
    let edit = |words: &[&str]| {
        let mut all = args!["prior edit {}", model];
        all.extend(words.iter().map(Into::into));
        all.extend(args!["--out {}", out]);
        all
    };
    for (words, named) in [
        (
            &["--head", "1.0", "--scale", "x2"][..],
            &["head", "a layer from 0 to 0", "got 1.0"][..],
        ),
        (
            &["--head", "0.2", "--scale", "x2"],
            &["head", "from 0 to 1", "got 0.2"],
        ),
        (&["--head", "1", "--scale", "x2"], &["layer.head", "got 1"]),
        (
            &["--head", "0.0", "--scale", "x-2"],
            &["scale", "above 0", "head 0.0"],
        ),
        (
            &["--head", "0.0", "--family", "nope", "--scale", "2"],
            &["scale", "none", "nope"],
        ),
    ] {
        shop.refuses(&edit(words), named);
    }
    for words in [
        &["--head", "0.0"][..],
        &["--scale", "x2"],
        &["--head", "0.0", "--scale", "NaN"],
        &["--head", "0.0", "--scale", "2x"],
        &["--head", "0,0", "--family", "bamm"],
        &["--head", "a.b", "--scale", "x2"],
        &["--head", "0.0", "--scale", "x2", "--in-place"],
    ] {
        let errors = fail(MISUSED, &edit(words));
        assert!(errors.starts_with("error:"), "{words:?}: {errors}");
        assert!(!out.exists());
    }
    // A folder that holds something stays as it is.
    std::fs::create_dir(&out).unwrap();
    std::fs::write(out.join("mine"), "x").unwrap();
    shop.refuses(
        &edit(&["--head", "0.0", "--scale", "x2"]),
        &["expected a new folder"],
    );
    // A history of another form is an error, a missing one is none.
    let right = std::fs::read_to_string(model.join("config.json")).unwrap();
    let with = |history: &str| {
        let config = right.replacen('{', &format!("{{\"history\": {history},"), 1);
        std::fs::write(model.join("config.json"), config).unwrap();
    };
    with("[]");
    succeed(&args!["inspect heads {}", model]);
    for wrong in [
        "{}",
        "[3]",
        r#"[{"what": "x"}]"#,
        r#"[{"what": "x", "date": "y", "z": 1}]"#,
    ] {
        with(wrong);
        shop.refuses(
            &args!["inspect heads {}", model],
            &["config.json", "expected a bam model"],
        );
    }
}
