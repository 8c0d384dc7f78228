//! The model's facts, and those for whoever watches over the server.

use super::app::App;
use super::error::ApiError;
use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::Serialize;
use std::sync::Arc;

#[derive(Debug, Serialize, JsonSchema)]
pub struct Model {
    id: String,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
    /// The longest sequence that memory holds.
    max_model_len: usize,
    train_length: usize,
    encoding: String,
}

impl Model {
    fn of(app: &App) -> Self {
        Self {
            id: app.settings.name.clone(),
            object: "model",
            created: app.created,
            owned_by: "bam",
            max_model_len: app.longest_sequence(),
            train_length: app.config.train_length,
            encoding: app.config.encoding.to_string(),
        }
    }
}

#[derive(Debug, Serialize, JsonSchema)]
pub struct Models {
    object: &'static str,
    data: Vec<Model>,
}

pub async fn models(State(app): State<Arc<App>>) -> Json<Models> {
    let data = vec![Model::of(&app)];
    let object = "list";
    Json(Models { object, data })
}

pub async fn model(
    State(app): State<Arc<App>>,
    name: Result<Path<String>, PathRejection>,
) -> Result<Json<Model>, ApiError> {
    // Bytes that are no text are no model's name either.
    app.check_model(Some(name.as_deref().map_or("", String::as_str)))?;
    Ok(Json(Model::of(&app)))
}

#[derive(Debug, Serialize, JsonSchema)]
pub struct Health {
    status: &'static str,
}

pub async fn health(State(app): State<Arc<App>>) -> Result<Json<Health>, ApiError> {
    match app.engine.is_alive() {
        true => Ok(Json(Health { status: "ok" })),
        false => Err(ApiError::Dead),
    }
}

pub async fn metrics(State(app): State<Arc<App>>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let text = app.metrics.text(app.engine.load());
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}
