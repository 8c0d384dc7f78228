//! A model in the place of another one, in the same folder.
//!
//! Two files can't be renamed at once. So the new model is made whole in a folder within, and the rename
//! that gives this one its name, `.replacement`, is the moment from which on the new model is read, by
//! [`place`]. Then its files move up. What a killed process did not move is moved by the next that writes.

use super::shards::{self, WEIGHTS_FILE};
use super::tensors::{NamedTensors, write_tensors};
use crate::Error;
use bam_data::atomic_file::{NewFolder, if_there, sweep, write_atomically};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// `config.json`.
pub const CONFIG_FILE: &str = "config.json";

const REPLACEMENT: &str = ".replacement";

/// The path of a model's file: [`CONFIG_FILE`] or [`WEIGHTS_FILE`].
#[must_use]
pub fn place(dir: &Path, file: &str) -> PathBuf {
    let replacement = dir.join(REPLACEMENT).join(file);
    match replacement.exists() {
        true => replacement,
        false => dir.join(file),
    }
}

/// Writes a model into a folder, which exists and may hold another one. Wherever this is killed, [`place`]
/// leads to both files of the old model or to both of the new one; programs that know no replacement may
/// also find a folder without `config.json`, but never parts of two models.
///
/// # Errors
/// If something can't be written.
pub fn replace(dir: &Path, config: &[u8], tensors: NamedTensors) -> Result<(), Error> {
    settle(dir)?;
    prepare(dir, config, tensors)?
        .finish()
        .map_err(Error::io(dir, "replace its model"))?;
    settle(dir)
}

fn prepare(dir: &Path, config: &[u8], tensors: NamedTensors) -> Result<NewFolder, Error> {
    let new = dir.join(REPLACEMENT);
    let new = NewFolder::create(&new).map_err(Error::io(&new, "create it"))?;
    write_atomically(&new.path().join(CONFIG_FILE), config)?;
    write_tensors(&new.path().join(WEIGHTS_FILE), tensors)?;
    Ok(new)
}

/// Moves up what there is of a replacement, and removes what was not to become one.
fn settle(dir: &Path) -> Result<(), Error> {
    sweep(dir, |name| name == REPLACEMENT)?;
    let new = dir.join(REPLACEMENT);
    for step in STEPS {
        step(dir, &new).map_err(Error::io(dir, "replace its model"))?;
    }
    Ok(())
}

/// From a folder and the replacement in it; what a step does may have been done before.
type Step = fn(&Path, &Path) -> io::Result<()>;

const STEPS: [Step; 5] = [
    // Without it nobody takes the folder for a model while it has files of two.
    |dir, new| match new.join(CONFIG_FILE).exists() {
        true => if_there(fs::remove_file(dir.join(CONFIG_FILE))),
        false => Ok(()),
    },
    |dir, new| move_up(dir, new, WEIGHTS_FILE),
    |dir, new| match new.exists() {
        true => shards::remove(dir),
        false => Ok(()),
    },
    |dir, new| move_up(dir, new, CONFIG_FILE),
    |_, new| if_there(fs::remove_dir(new)),
];

fn move_up(dir: &Path, new: &Path, file: &str) -> io::Result<()> {
    if_there(fs::rename(new.join(file), dir.join(file)))
}

#[cfg(test)]
mod tests {
    use super::super::tensors::read_tensors;
    use super::*;

    const OLD: f32 = 1.0;
    const NEW: f32 = 2.0;

    fn tensors(value: f32) -> NamedTensors {
        NamedTensors::from([("x".to_owned(), (vec![1], vec![value]))])
    }

    fn config(value: f32) -> Vec<u8> {
        value.to_string().into_bytes()
    }

    fn folder(value: f32) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        replace(dir.path(), &config(value), tensors(value)).unwrap();
        dir
    }

    /// Of which model the configuration is and of which the weights; `None` where there is none.
    fn found(config: &Path, weights: &Path) -> [Option<f32>; 2] {
        let config = fs::read_to_string(config).ok();
        let weights = weights.exists().then(|| read_tensors(weights).unwrap());
        [
            config.map(|text| text.parse().unwrap()),
            weights.map(|tensors| tensors["x"].1[0]),
        ]
    }

    fn ours(dir: &Path) -> [Option<f32>; 2] {
        found(&place(dir, CONFIG_FILE), &place(dir, WEIGHTS_FILE))
    }

    fn others(dir: &Path) -> [Option<f32>; 2] {
        found(&dir.join(CONFIG_FILE), &dir.join(WEIGHTS_FILE))
    }

    fn is_mixed([config, weights]: [Option<f32>; 2]) -> bool {
        config.is_some() && weights.is_some() && config != weights
    }

    /// Until it has its name a replacement is none.
    #[test]
    fn killed_before_the_new_model_is_whole_the_old_one_stays() {
        let dir = folder(OLD);
        std::mem::forget(prepare(dir.path(), &config(NEW), tensors(NEW)).unwrap());
        assert_eq!(ours(dir.path()), [Some(OLD); 2]);
        assert_eq!(others(dir.path()), [Some(OLD); 2]);
        // An error is not a kill: nothing is left. What the kill left goes with the next model.
        drop(prepare(dir.path(), &config(NEW), tensors(NEW)).unwrap());
        replace(dir.path(), &config(NEW), tensors(NEW)).unwrap();
        assert_eq!(others(dir.path()), [Some(NEW); 2]);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn killed_between_any_two_steps_the_new_model_is_there() {
        let third = 3.0;
        for done in 0..=STEPS.len() {
            let dir = folder(OLD);
            let dir = dir.path();
            let new = prepare(dir, &config(NEW), tensors(NEW)).unwrap();
            new.finish().unwrap();
            for step in &STEPS[..done] {
                step(dir, &dir.join(REPLACEMENT)).unwrap();
            }
            assert_eq!(ours(dir), [Some(NEW); 2], "{done}");
            assert!(!is_mixed(others(dir)), "{done}: {:?}", others(dir));
            // The next model finds its place.
            replace(dir, &config(third), tensors(third)).unwrap();
            assert_eq!(others(dir), [Some(third); 2], "{done}");
            assert_eq!(fs::read_dir(dir).unwrap().count(), 2, "{done}");
        }
    }

    /// Null control: one file after the other, each of them whole, and the same test finds the mixture.
    #[test]
    fn one_file_after_the_other_would_be_found_out() {
        let dir = folder(OLD);
        write_tensors(&dir.path().join(WEIGHTS_FILE), tensors(NEW)).unwrap();
        assert!(is_mixed(ours(dir.path())));
        let dir = folder(OLD);
        write_atomically(&dir.path().join(CONFIG_FILE), &config(NEW)).unwrap();
        assert!(is_mixed(others(dir.path())));
    }
}
