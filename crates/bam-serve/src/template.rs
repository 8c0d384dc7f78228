//! Chat templates of models' folders, run as `transformers` runs them.

mod arguments;
mod blocks;
mod dump;
mod expressions;
mod filters;
mod items;
mod methods;
mod operators;
mod python;
mod rows;
mod written;

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
const FUEL: u64 = 5_000_000;

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
                none.broken
                    .insert(ChatTemplates::DEFAULT.to_owned(), reason);
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
        filters::equip(&mut environment);
        rows::equip(&mut environment);
        operators::equip(&mut environment);
        environment.add_function("raise_exception", |message: String| {
            Err::<String, _>(minijinja::Error::new(ErrorKind::InvalidOperation, message))
        });
        let mut broken = BTreeMap::new();
        for (name, source) in &sources.named {
            let source = blocks::for_the_engine(source);
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
            told: match error.kind() {
                ErrorKind::OutOfFuel => {
                    format!("the chat template: expected its end in {FUEL} steps")
                }
                _ => format!("the chat template: {error}"),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::text::tests::tokenizer;
    use super::*;
    use serde::Deserialize;

    fn template(source: &str) -> ChatTemplate {
        let default = (ChatTemplates::DEFAULT.to_owned(), source.to_owned());
        let sources = ChatTemplates {
            named: [default].into(),
            ..ChatTemplates::default()
        };
        ChatTemplate::new(sources, &tokenizer())
    }

    fn one(message: &str) -> Chat {
        Chat {
            messages: vec![serde_json::from_str(message).unwrap()],
            ..Chat::default()
        }
    }

    /// Templates, and what transformers makes of them; `tests/constructs/make.py` wrote it.
    #[derive(Deserialize)]
    struct Constructs {
        special: BTreeMap<String, Value>,
        plain: Vec<Value>,
        tooled: Vec<Value>,
        tools: Vec<Value>,
        further: BTreeMap<String, Value>,
        cases: Vec<Case>,
    }

    #[derive(Deserialize)]
    struct Case {
        template: String,
        tooled: bool,
        /// None where transformers refuses.
        text: Option<String>,
    }

    #[test]
    fn templates_say_what_transformers_says() {
        let file = include_str!("../tests/constructs/constructs.json");
        let all: Constructs = serde_json::from_str(file).unwrap();
        let mut others = Vec::new();
        for case in &all.cases {
            let mut template = template(&case.template);
            template.special.clone_from(&all.special);
            let chat = match case.tooled {
                false => Chat {
                    messages: all.plain.clone(),
                    ..Chat::default()
                },
                true => Chat {
                    messages: all.tooled.clone(),
                    tools: Some(all.tools.clone()),
                    further: all.further.clone(),
                },
            };
            let got = template.render(chat);
            if got.as_ref().ok() != case.text.as_ref() {
                others.push(format!("{}\n  {:?}\n  {got:?}", case.template, case.text));
            }
        }
        assert!(
            others.is_empty(),
            "{} of {}:\n{}",
            others.len(),
            all.cases.len(),
            others.join("\n")
        );
    }

    #[test]
    fn constructs_that_are_not_there_are_refused_by_name() {
        for (source, expected) in [
            ("{{ 1000 | filesizeformat }}", "filesizeformat is unknown"),
            ("{{ {'a': 1} | xmlattr }}", "xmlattr is unknown"),
            ("{{ [1] | random }}", "random is unknown"),
            ("{{ 'a'.istitle() }}", "no method named istitle"),
            ("{{ lipsum() }}", "no text by chance"),
            ("{{ messages | map('string') }}", "got a generator"),
            ("{{ [2, 1] | reverse }}", "got a generator"),
            ("{{ range }}", "an object of the engine"),
            ("{% for i in [1] %}{{ loop }}{% endfor %}", "an object of"),
            ("{{ namespace(a=1) }}", "an object of the engine"),
            ("{% macro f() %}{% endmacro %}{{ f }}", "an object of"),
            ("{{ 'a' | attr('upper') }}", "an object with attributes"),
            ("{{ [1] | join(attribute='real') }}", "got a number"),
            ("{{ '٣' | int }}", "digits of ASCII, got ٣"),
            ("{{ '²'.isdigit() }}", "digits of ASCII, got ²"),
            (r"{{ '\N{BULLET}' }}", "none by its name"),
            ("{{ ('%s' | safe) % 'a' }}", "not marked as safe"),
            ("{{ 2 ** 200 }}", "a power of 128 bits"),
            ("{{ '1' * 99999999 }}", "a product of at most"),
        ] {
            let error = template(source).render(one("{}")).unwrap_err();
            assert!(error.to_string().contains(expected), "{source}: {error}");
        }
    }

    #[test]
    fn templates_know_the_day() {
        let date = template("{{ strftime_now('%Y-%m-%d %f %%') }}")
            .render(one("{}"))
            .unwrap();
        let shape = date.replace(|c: char| c.is_ascii_digit(), "0");
        assert_eq!(shape, "0000-00-00 000000 %");
        let error = template("{{ strftime_now('%Q') }}")
            .render(one("{}"))
            .unwrap_err();
        assert!(error.to_string().contains("a format of a time"), "{error}");
    }

    #[test]
    fn a_template_that_never_ends_is_stopped() {
        let source =
            "{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}";
        let error = template(source).render(one("{}")).unwrap_err();
        assert!(error.to_string().contains("in 5000000 steps"), "{error}");
    }

    #[test]
    fn a_template_that_cannot_be_run_says_so_to_chats() {
        let broken = template("{% if %}");
        let error = broken.render(one("{}")).unwrap_err().to_string();
        assert!(error.contains("syntax error"), "{error}");
        assert!(broken.problem().unwrap().contains("syntax error"));
        assert_eq!(broken.source(), Some("{% if %}"));
        let named = |names: &[&str]| {
            let named = names
                .iter()
                .map(|name| ((*name).to_owned(), format!("of {name}")));
            let sources = ChatTemplates {
                named: named.collect(),
                ..ChatTemplates::default()
            };
            ChatTemplate::new(sources, &tokenizer())
        };
        let rag = named(&["rag"]);
        let error = rag.render(one("{}")).unwrap_err().to_string();
        assert!(error.contains(r#"named default, got ["rag"]"#), "{error}");
        let two = named(&["default", "tool_use"]);
        let tooled = Chat {
            tools: Some(Vec::new()),
            ..one("{}")
        };
        assert_eq!(two.render(tooled).unwrap(), "of tool_use");
        assert_eq!(
            (two.render(one("{}")).unwrap().as_str(), two.problem()),
            ("of default", None)
        );
    }
}
