//! Chat templates of a model's folder, as they are written.

use super::DataError;
use super::special_tokens::{object, wrong};
use super::text::read_text;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Jinja templates by name; most models have only [`ChatTemplates::DEFAULT`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChatTemplates {
    /// The file that has them, or the default one.
    pub file: PathBuf,
    /// The sources.
    pub named: BTreeMap<String, String>,
}

/// The folder with further templates.
const FURTHER: &str = "additional_chat_templates";
const EXPECTED: &str = "a text, or a list of {name, template}";

impl ChatTemplates {
    /// The name of the template for any chat.
    pub const DEFAULT: &str = "default";
    /// The name of the template for chats with tools, where a model has one.
    pub const TOOL_USE: &str = "tool_use";

    /// Reads a folder's templates: of `chat_template.jinja` with those beside it, or else of
    /// `tokenizer_config.json`, or else of `chat_template.json`.
    ///
    /// # Errors
    /// If a file can't be read, or holds no templates where it should.
    pub fn read(folder: &Path) -> Result<Self, DataError> {
        let file = folder.join("chat_template.jinja");
        let mut named = BTreeMap::new();
        if file.is_file() {
            named.insert(Self::DEFAULT.to_owned(), text(&file)?);
        }
        for (name, path) in Self::further(folder)? {
            named.insert(name, text(&folder.join(path))?);
        }
        if !named.is_empty() {
            return Ok(Self { file, named });
        }
        for file in ["tokenizer_config.json", "chat_template.json"] {
            let file = folder.join(file);
            let named = of_field(&file)?;
            if !named.is_empty() {
                return Ok(Self { file, named });
            }
        }
        Ok(Self::default())
    }

    /// The files of a folder's further templates, by their names: their paths in the folder.
    ///
    /// # Errors
    /// If the folder that has them can't be listed.
    pub fn further(folder: &Path) -> Result<Vec<(String, PathBuf)>, DataError> {
        let further = Path::new(FURTHER);
        let folder = folder.join(further);
        if !folder.is_dir() {
            return Ok(Vec::new());
        }
        let mut found = Vec::new();
        for entry in fs::read_dir(&folder).map_err(DataError::io("list", &folder))? {
            let path = entry.map_err(DataError::io("list", &folder))?.path();
            let name = path.file_stem().unwrap_or_default().to_string_lossy();
            if path.extension().is_some_and(|of| of == "jinja") && path.is_file() {
                let inside = path.file_name().unwrap_or_default();
                found.push((name.into_owned(), further.join(inside)));
            }
        }
        found.sort();
        Ok(found)
    }

    /// The name of the template for a chat, by whether it has tools.
    #[must_use]
    pub fn choose(&self, tools: bool) -> Option<&'static str> {
        let names: &[&str] = match tools {
            true => &[Self::TOOL_USE, Self::DEFAULT],
            false => &[Self::DEFAULT],
        };
        names
            .iter()
            .copied()
            .find(|name| self.named.contains_key(*name))
    }
}

fn text(path: &Path) -> Result<String, DataError> {
    read_text(path).map_err(DataError::io("read", path))
}

/// The templates in a file's field `chat_template`: a text, a list of names and texts, or the same as an
/// object.
fn of_field(path: &Path) -> Result<BTreeMap<String, String>, DataError> {
    const FIELD: &str = "chat_template";
    let fields = object(path)?;
    let said = fields.get(FIELD).unwrap_or(&Value::Null);
    let other = || wrong(path, FIELD, EXPECTED, said);
    let entry = |name: &Value, source: &Value| {
        let entry = name.as_str().zip(source.as_str());
        let (name, source) = entry.ok_or_else(other)?;
        Ok((name.to_owned(), source.to_owned()))
    };
    match said {
        Value::Null => Ok(BTreeMap::new()),
        Value::String(_) => entry(&ChatTemplates::DEFAULT.into(), said).map(|one| [one].into()),
        Value::Array(list) => {
            let entries = list.iter().map(|of| entry(&of["name"], &of["template"]));
            entries.collect()
        }
        Value::Object(named) => {
            let entries = named.iter();
            let entries = entries.map(|(name, of)| entry(&name.as_str().into(), of));
            entries.collect()
        }
        _ => Err(other()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        folder
    }

    fn read(files: &[(&str, &str)]) -> Result<ChatTemplates, DataError> {
        ChatTemplates::read(folder(files).path())
    }

    #[test]
    fn templates_come_in_several_files_and_forms() {
        let config = |template: Value| json!({"chat_template": template}).to_string();
        let list = json!([
            {"name": "tool_use", "template": "of tools"},
            {"name": "default", "template": "of all"},
        ]);
        let named = json!({"tool_use": "of tools", "default": "of all"});
        for files in [
            &[("tokenizer_config.json", config(list.clone()))][..],
            &[("tokenizer_config.json", config(named))],
            &[("chat_template.json", config(list))],
            &[
                ("chat_template.jinja", "\u{feff}of all".into()),
                (
                    "additional_chat_templates/tool_use.jinja",
                    "of tools".into(),
                ),
                ("additional_chat_templates/notes.txt", "no template".into()),
                ("tokenizer_config.json", config(json!("of an older time"))),
            ],
        ] {
            let files: Vec<(&str, &str)> = files.iter().map(|(a, b)| (*a, b.as_str())).collect();
            let found = read(&files).unwrap();
            let of = |tools| found.named[found.choose(tools).unwrap()].as_str();
            assert_eq!((of(false), of(true)), ("of all", "of tools"), "{files:?}");
            assert_eq!(found.named.len(), 2);
        }
        let one = read(&[("tokenizer_config.json", &config(json!("one")))]).unwrap();
        assert_eq!(one.choose(true), Some("default"));
        assert_eq!(one.named["default"], "one");
        let none = read(&[
            ("tokenizer_config.json", "{}"),
            ("chat_template.json", "{}"),
        ]);
        assert_eq!(none.unwrap().choose(true), None);
        // Tools alone are no template for any chat.
        let tools = json!([{"name": "rag", "template": "x"}]);
        let tools = read(&[("tokenizer_config.json", &config(tools))]).unwrap();
        assert_eq!((tools.named.len(), tools.choose(true)), (1, None));
    }

    #[test]
    fn no_templates_are_refused_with_their_file() {
        for (text, got) in [
            (r#"{"chat_template": 7}"#, "got 7"),
            (r#"{"chat_template": [{"name": "default"}]}"#, "got [{"),
            (r#"{"chat_template": {"default": null}}"#, "got {"),
            ("[]", "expected a JSON object"),
        ] {
            let error = read(&[("tokenizer_config.json", text)])
                .unwrap_err()
                .to_string();
            let named = error.contains("tokenizer_config.json") && error.contains(got);
            assert!(named, "{error}");
        }
    }
}
