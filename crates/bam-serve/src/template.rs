//! Chat templates of models' folders, run as `transformers` runs them.

mod blocks;
mod python;

use super::error::ApiError;
use bam_data::{ChatTemplates, Tokenizer};
use minijinja::{AutoEscape, Environment, ErrorKind, Value};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// A chat as the text that the model was trained on: Jinja templates of the model's folder.
pub struct ChatTemplate {
    environment: Environment<'static>,
    sources: ChatTemplates,
    /// The reasons of those that can't be run, by name; of all where the files can't be read.
    broken: BTreeMap<String, String>,
    special: BTreeMap<String, Value>,
    /// Reads the special tokens that the template spells.
    pub(crate) tokenizer: Arc<Tokenizer>,
}

/// The things that a template is given.
#[derive(Default)]
pub(crate) struct Chat {
    pub messages: Vec<Value>,
    pub tools: Option<Vec<Value>>,
    /// Variables of the template's own.
    pub further: BTreeMap<String, Value>,
}

/// Steps that a template may take: one that loops is stopped.
const FUEL: u64 = 1_000_000;

impl ChatTemplate {
    /// The templates of a folder; `None` without. One that can't be run refuses chats and nothing else.
    #[must_use]
    pub fn find(folder: &Path, tokenizer: &Tokenizer) -> Option<Self> {
        match ChatTemplates::read(folder) {
            Ok(sources) if sources.named.is_empty() => None,
            Ok(sources) => Some(Self::new(sources, tokenizer)),
            Err(error) => {
                let mut none = Self::new(ChatTemplates::default(), tokenizer);
                let reason = error.to_string();
                none.broken.insert(ChatTemplates::DEFAULT.to_owned(), reason);
                Some(none)
            }
        }
    }

    fn new(sources: ChatTemplates, tokenizer: &Tokenizer) -> Self {
        let mut environment = Environment::new();
        environment.set_fuel(Some(FUEL));
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        python::equip(&mut environment);
        environment.add_function("raise_exception", |message: String| {
            Err::<String, _>(minijinja::Error::new(ErrorKind::InvalidOperation, message))
        });
        let mut broken = BTreeMap::new();
        for (name, source) in &sources.named {
            let source = blocks::without_generation(source);
            if let Err(error) = environment.add_template_owned(name.clone(), source) {
                let file = sources.file.display();
                broken.insert(name.clone(), format!("{file}: the chat template: {error}"));
            }
        }
        let special = tokenizer.special().names.iter();
        Self {
            environment,
            broken,
            special: special
                .map(|(role, name)| (role.clone(), Value::from_serialize(name)))
                .collect(),
            tokenizer: Arc::new(tokenizer.reading_special_tokens()),
            sources,
        }
    }

    /// The reason that chats are refused for, if they are.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        let first = self.broken.values().next().cloned();
        first.or_else(|| match self.sources.choose(false) {
            Some(_) => None,
            None => Some(self.no_default()),
        })
    }

    /// The template as it was written.
    #[must_use]
    pub fn source(&self) -> Option<&str> {
        let name = self.sources.choose(false)?;
        self.sources.named.get(name).map(String::as_str)
    }

    fn no_default(&self) -> String {
        let names: Vec<&String> = self.sources.named.keys().collect();
        format!("expected a chat template named default, got {names:?}")
    }

    pub(crate) fn render(&self, chat: Chat) -> Result<String, ApiError> {
        let unusable = |reason: String| ApiError::Template { reason };
        let name = self.sources.choose(chat.tools.is_some());
        let Some(name) = name else {
            let broken = self.broken.values().next().cloned();
            return Err(unusable(broken.unwrap_or_else(|| self.no_default())));
        };
        if let Some(reason) = self.broken.get(name) {
            return Err(unusable(reason.clone()));
        }
        let mut context = self.special.clone();
        context.insert("documents".into(), ().into());
        context.insert("add_generation_prompt".into(), true.into());
        context.extend(chat.further);
        context.insert("messages".into(), chat.messages.into());
        context.insert("tools".into(), chat.tools.into());
        let template = self.environment.get_template(name);
        let rendered = template.and_then(|template| template.render(context));
        rendered.map_err(|error| ApiError::Field {
            field: "messages".into(),
            told: format!("the chat template: {error}"),
        })
    }
}
