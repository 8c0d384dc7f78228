//! A run in the words of other programs: names and times.

/// A run as the files name it, besides its figures.
#[derive(Clone, Debug)]
pub struct Run<'a> {
    /// The model's folder, as it was named.
    pub folder: &'a str,
    /// When it began.
    pub began: &'a Moment,
}

/// A time, as two programs write it.
#[derive(Clone, Debug)]
pub struct Moment {
    /// Seconds since 1970.
    pub seconds: f64,
    /// `2026-01-02T03-04-05.678901`: what files are called.
    pub stamp: String,
}

impl Moment {
    /// lm-eval's name of the file of a task's samples.
    pub fn samples_file(&self, task: &str) -> String {
        format!("samples_{}_{}.jsonl", folder_name(task), self.stamp)
    }

    /// lm-eval's name of the file of the results.
    pub fn results_file(&self) -> String {
        format!("results_{}.json", self.stamp)
    }
}

/// A model's name as a folder's: what a file system might take for something else becomes `__`.
pub fn folder_name(model: &str) -> String {
    let mut name = String::with_capacity(model.len());
    let mut inside = false;
    for c in model.chars() {
        let special = "\"<>:/|\\?*[]".contains(c);
        match (special, inside) {
            (true, false) => name += "__",
            (true, true) => {}
            (false, _) => name.push(c),
        }
        inside = special;
    }
    // Nothing that leads elsewhere.
    match name.trim_matches('.') {
        "" => "model".into(),
        _ => name,
    }
}
