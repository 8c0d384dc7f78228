//! Chat templates of models' folders.

use super::error::{ApiError, ServeError};
use super::request::Message;
use bam_data::Tokenizer;
use minijinja::{Environment, ErrorKind};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;

/// A chat as the text that the model was trained on: a Jinja template of the model's folder.
pub struct ChatTemplate {
    environment: Environment<'static>,
    special: Value,
    /// Reads the special tokens that the template spells.
    pub(crate) tokenizer: Arc<Tokenizer>,
}

/// Steps that a template may take: one that loops is stopped.
const FUEL: u64 = 1_000_000;
const NAME: &str = "chat";

impl ChatTemplate {
    /// The template in `chat_template.jinja` or `tokenizer_config.json` of a folder; `None` without.
    ///
    /// # Errors
    /// If the file can't be read, or is no template.
    pub fn find(dir: &Path, tokenizer: &Tokenizer) -> Result<Option<Self>, ServeError> {
        let wrong = |path: &Path, reason| ServeError::Template {
            path: path.to_owned(),
            reason,
        };
        let own = dir.join("chat_template.jinja");
        let config = dir.join("tokenizer_config.json");
        let (source, file) = if own.exists() {
            let source = bam_data::read_text(&own);
            (source.map_err(|error| wrong(&own, error.to_string()))?, own)
        } else if config.exists() {
            let json: Value = bam_lm::model::checkpoint::read_json(&config, "a JSON object")?;
            match of_config(&json).map_err(|reason| wrong(&config, reason))? {
                Some(source) => (source, config),
                None => return Ok(None),
            }
        } else {
            return Ok(None);
        };
        let name = |id: Option<u32>| id.and_then(|id| tokenizer.spelling(id));
        let special = json!({
            "bos_token": name(tokenizer.bos()),
            "eos_token": name(tokenizer.eos()),
        });
        Self::new(source, special, tokenizer)
            .map_err(|reason| wrong(&file, reason))
            .map(Some)
    }

    fn new(source: String, special: Value, tokenizer: &Tokenizer) -> Result<Self, String> {
        let mut environment = Environment::new();
        environment.set_fuel(Some(FUEL));
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |message: String| {
            Err::<String, _>(minijinja::Error::new(ErrorKind::InvalidOperation, message))
        });
        environment
            .add_template_owned(NAME, source)
            .map_err(|error| format!("the chat template: {error}"))?;
        Ok(Self {
            environment,
            special,
            tokenizer: Arc::new(tokenizer.reading_special_tokens()),
        })
    }

    /// The template as it was written.
    pub fn source(&self) -> Option<String> {
        let template = self.environment.get_template(NAME).ok()?;
        Some(template.source().to_owned())
    }

    pub(crate) fn render(&self, messages: &[&Message]) -> Result<String, ApiError> {
        let mut context = self.special.clone();
        context["messages"] = json!(messages);
        context["add_generation_prompt"] = true.into();
        let template = self.environment.get_template(NAME);
        let rendered = template.and_then(|template| template.render(context));
        rendered.map_err(|error| ApiError::Field {
            field: "messages".into(),
            told: format!("the chat template: {error}"),
        })
    }
}

/// The template that a `tokenizer_config.json` holds: a text, or a list of which one is named `default`.
fn of_config(json: &Value) -> Result<Option<String>, String> {
    let expected =
        "chat_template: expected a text, or a list of {name, template} with one named default";
    match &json["chat_template"] {
        Value::Null => Ok(None),
        Value::String(source) => Ok(Some(source.clone())),
        Value::Array(list) => {
            let default = list.iter().find(|entry| entry["name"] == "default");
            match default.and_then(|entry| entry["template"].as_str()) {
                Some(source) => Ok(Some(source.to_owned())),
                None => {
                    let names: Vec<_> = list.iter().filter_map(|e| e["name"].as_str()).collect();
                    Err(format!("{expected}, got a list with {names:?}"))
                }
            }
        }
        other => {
            let shown: String = other.to_string().chars().take(60).collect();
            Err(format!("{expected}, got {shown}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::prompts::Content;
    use super::super::request::Role;
    use super::super::text::tests::tokenizer;
    use super::*;

    fn message(role: Role, content: &str) -> Message {
        Message {
            role,
            content: Content(content.into()),
            name: None,
        }
    }

    #[test]
    fn templates_render_and_refuse() {
        let source = "{{ bos_token }}{% for m in messages %}\n{% if m.role == 'system' %}\n\
                      {{ raise_exception('no system') }}\n{% endif %}\n<{{ m.role }}>{{ m.content.strip() }}\
                      \n{% endfor %}\n{% if add_generation_prompt %}<assistant>{% endif %}";
        let template =
            ChatTemplate::new(source.into(), json!({"bos_token": "<s>"}), &tokenizer()).unwrap();
        let text = template.render(&[&message(Role::User, " hi ")]).unwrap();
        assert_eq!(text, "<s><user>hi\n<assistant>");
        let error = template.render(&[&message(Role::System, "x")]).unwrap_err();
        assert!(error.to_string().contains("no system"), "{error}");
    }

    #[test]
    fn of_several_templates_the_default_one_is_taken() {
        let entry = |name: &str| json!({"name": name, "template": format!("of {name}")});
        let of = |template: Value| of_config(&json!({"chat_template": template}));
        let list = json!([entry("tool_use"), entry("default")]);
        assert_eq!(of(list).unwrap().unwrap(), "of default");
        assert_eq!(of(json!("one")).unwrap().unwrap(), "one");
        assert_eq!(of_config(&json!({})).unwrap(), None);
        for (wrong, got) in [
            (json!([entry("rag")]), "[\"rag\"]"),
            (json!([{"name": "default"}]), "[\"default\"]"),
            (json!(7), "got 7"),
        ] {
            let error = of(wrong).unwrap_err();
            assert!(
                error.contains("named default") && error.contains(got),
                "{error}"
            );
        }
    }

    #[test]
    fn a_template_that_never_ends_is_stopped() {
        let source =
            "{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}";
        let template = ChatTemplate::new(source.into(), json!({}), &tokenizer()).unwrap();
        let error = template.render(&[&message(Role::User, "x")]).unwrap_err();
        assert!(error.to_string().contains("fuel"), "{error}");
        assert!(ChatTemplate::new("{% if %}".into(), json!({}), &tokenizer()).is_err());
    }
}
