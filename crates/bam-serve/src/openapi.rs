//! The server's description, of the types that requests and answers have.

use super::error::ErrorBody;
use super::json::Nothing;
use axum::http::StatusCode;
use schemars::generate::SchemaSettings;
use schemars::transform::RecursiveTransform;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Map, Value, json};

const NOTHING: &str = "#/components/schemas/Nothing";

type MakeSchema = fn(&mut SchemaGenerator) -> Schema;

/// The conditions on which a path is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// To everybody who may name this machine.
    Open,
    /// With the key, where there is one.
    Key,
    /// With the key and a body of JSON.
    Body,
}

/// A path with its method.
pub struct Operation {
    pub path: &'static str,
    pub access: Access,
    summary: &'static str,
    body: Option<MakeSchema>,
    /// The answers of each media type.
    answers: Vec<(&'static str, Option<MakeSchema>)>,
    /// Statuses beside those of the access.
    refusals: Vec<u16>,
}

impl Operation {
    /// A body of JSON and an answer of JSON.
    pub fn posted<B: JsonSchema, A: JsonSchema>(path: &'static str) -> Self {
        let body: MakeSchema = SchemaGenerator::subschema_for::<B>;
        Self {
            access: Access::Body,
            body: Some(body),
            refusals: vec![400, 404, 408, 413, 415, 429, 503],
            ..Self::told::<A>(path)
        }
    }

    /// An answer of JSON.
    pub fn told<A: JsonSchema>(path: &'static str) -> Self {
        let answer: MakeSchema = SchemaGenerator::subschema_for::<A>;
        Self {
            answers: vec![("application/json", Some(answer))],
            ..Self::file(path, "")
        }
    }

    /// A text as the answer.
    pub fn file(path: &'static str, media: &'static str) -> Self {
        Self {
            path,
            access: Access::Key,
            summary: "",
            body: None,
            answers: vec![(media, None)],
            refusals: Vec::new(),
        }
    }

    pub fn open(self) -> Self {
        let access = Access::Open;
        Self { access, ..self }
    }

    pub fn summary(self, summary: &'static str) -> Self {
        Self { summary, ..self }
    }

    pub fn refuses(mut self, status: u16) -> Self {
        self.refusals.push(status);
        self
    }

    /// Answers come as server-sent events too.
    pub fn streams(mut self) -> Self {
        self.answers.push(("text/event-stream", None));
        self
    }

    fn describe(&self, requests: &mut SchemaGenerator, answers: &mut SchemaGenerator) -> Value {
        let media = |media: &str, schema: Value| json!({media: {"schema": schema}});
        let mut content = Map::new();
        for (media, make) in &self.answers {
            let schema = match make {
                Some(make) => make(answers).to_value(),
                None => json!({"type": "string"}),
            };
            content.insert((*media).to_owned(), json!({"schema": schema}));
        }
        let mut responses = Map::new();
        responses.insert(
            "200".into(),
            json!({"description": "the answer", "content": content}),
        );
        let of_access: &[u16] = if self.access == Access::Open {
            &[403, 500]
        } else {
            &[401, 403, 500]
        };
        let error = answers.subschema_for::<ErrorBody>().to_value();
        for status in of_access.iter().chain(&self.refusals) {
            let reason = StatusCode::from_u16(*status)
                .ok()
                .and_then(|s| s.canonical_reason());
            let content = media("application/json", error.clone());
            let refusal = json!({"description": reason, "content": content});
            responses.insert(status.to_string(), refusal);
        }
        let mut operation = json!({"summary": self.summary, "responses": responses});
        if self.access != Access::Open {
            operation["security"] = json!([{}, {"key": []}]);
        }
        if let Some(body) = self.body {
            let content = media("application/json", body(requests).to_value());
            operation["requestBody"] = json!({"required": true, "content": content});
        }
        let in_path = self.path.split(['{', '}']).skip(1).step_by(2);
        let parameters = in_path.map(|name| {
            json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}})
        });
        let parameters: Vec<Value> = parameters.collect();
        if !parameters.is_empty() {
            operation["parameters"] = parameters.into();
        }
        let method = if self.body.is_some() { "post" } else { "get" };
        json!({method: operation})
    }
}

/// The description in OpenAPI's form.
pub fn describe<'o>(operations: impl Iterator<Item = &'o Operation>) -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    // Of fields that are not known, those that say nothing are taken.
    let unknown = |schema: &mut Schema| {
        if schema.get("additionalProperties") == Some(&false.into()) {
            schema.insert("additionalProperties".into(), json!({"$ref": NOTHING}));
        }
    };
    let requests = settings.clone().for_deserialize();
    let requests = requests.with_transform(RecursiveTransform(unknown));
    let mut requests = requests.into_generator();
    requests.subschema_for::<Nothing>();
    let mut answers = settings.for_serialize().into_generator();
    let paths: Map<String, Value> = operations
        .map(|of| (of.path.to_owned(), of.describe(&mut requests, &mut answers)))
        .collect();
    let mut schemas = requests.take_definitions(true);
    schemas.extend(answers.take_definitions(true));
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "bam serve",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "A language model behind OpenAI's protocol. Fields that are not known and say something are refused.",
        },
        "paths": paths,
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            "schemas": schemas,
        },
    })
}
