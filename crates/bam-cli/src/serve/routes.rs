//! The server's paths, and what is done for every request.

use super::error::ApiError;
use super::request::{Fields, Prompts};
use super::{App, chat, completion, page};
use axum::Json;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, MatchedPath, Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::{Value, json};
use std::sync::Arc;
use subtle::ConstantTimeEq;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowOrigin, CorsLayer};

/// The server's own description.
const OPENAPI: &str = include_str!("openapi.json");

pub fn router(app: Arc<App>) -> Router {
    let posted = Router::new()
        .route("/v1/completions", post(completion::completions))
        .route("/v1/chat/completions", post(chat::chat))
        .route("/tokenize", post(tokenize))
        .route("/detokenize", post(detokenize))
        .route("/inspect", post(page::inspect))
        .method_not_allowed_fallback(other_method)
        .route_layer(middleware::from_fn_with_state(Arc::clone(&app), limit));
    let protected = Router::new()
        .route("/v1/models", get(models))
        .route("/v1/models/{model}", get(model))
        .route("/tokenizer_info", get(tokenizer_info))
        .route("/metrics", get(metrics))
        .method_not_allowed_fallback(other_method)
        .merge(posted)
        .layer(middleware::from_fn_with_state(Arc::clone(&app), authorize));
    let open = Router::new()
        .route("/", get(page::index))
        .route("/style.css", get(page::style))
        .route("/script.js", get(page::script))
        .route("/openapi.json", get(openapi))
        .route("/health", get(health))
        .method_not_allowed_fallback(other_method);
    let mut router = protected
        .merge(open)
        .fallback(|| async { ApiError::new(StatusCode::NOT_FOUND, "no such path") })
        // `limit` reads the body itself, and says so in OpenAI's words.
        .layer(DefaultBodyLimit::disable())
        .layer(CatchPanicLayer::custom(|_| {
            ApiError::internal("the server failed; it goes on").into_response()
        }))
        .layer(middleware::from_fn_with_state(Arc::clone(&app), own_host))
        .layer(middleware::from_fn_with_state(Arc::clone(&app), count));
    if !app.cors.is_empty() {
        let cors = CorsLayer::new()
            .allow_origin(AllowOrigin::list(app.cors.clone()))
            .allow_methods([Method::GET, Method::POST])
            .allow_headers([header::AUTHORIZATION, header::CONTENT_TYPE]);
        router = router.layer(cors);
    }
    router.with_state(app)
}

/// Other methods are refused as all else is; axum names the right one in `Allow`.
async fn other_method() -> ApiError {
    ApiError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "this path has another method",
    )
}

/// Counts answers by path and status.
async fn count(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let path = request.extensions().get::<MatchedPath>().cloned();
    let response = next.run(request).await;
    let known = path
        .as_ref()
        .map_or("other", |path| known_path(path.as_str()));
    app.metrics.answered(known, response.status());
    response
}

/// One of the server's paths: what a client made up is no label.
fn known_path(path: &str) -> &'static str {
    const PATHS: [&str; 14] = [
        "/",
        "/style.css",
        "/script.js",
        "/openapi.json",
        "/health",
        "/metrics",
        "/inspect",
        "/v1/completions",
        "/v1/chat/completions",
        "/v1/models",
        "/v1/models/{model}",
        "/tokenize",
        "/detokenize",
        "/tokenizer_info",
    ];
    PATHS
        .into_iter()
        .find(|known| *known == path)
        .unwrap_or("other")
}

/// On a loopback address, only names of this machine are answered: a page from elsewhere whose name was
/// pointed here is not.
async fn own_host(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST);
    let host = host.and_then(|host| host.to_str().ok()).unwrap_or_default();
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let local = ["localhost", "127.0.0.1", "[::1]", ""].contains(&name);
    match local || !app.loopback {
        true => next.run(request).await,
        false => ApiError::new(
            StatusCode::FORBIDDEN,
            "expected a Host header that names this machine",
        )
        .into_response(),
    }
}

/// Asks for the key, where there is one.
async fn authorize(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let given = request.headers().get(header::AUTHORIZATION);
    let given = given.map_or(&[][..], HeaderValue::as_bytes);
    let given = given.strip_prefix(b"Bearer ").unwrap_or_default();
    let right = match &app.api_key {
        None => true,
        Some(key) => bool::from(key.as_bytes().ct_eq(given)),
    };
    match right {
        true => next.run(request).await,
        false => ApiError {
            code: Some("invalid_api_key"),
            ..ApiError::new(
                StatusCode::UNAUTHORIZED,
                "expected the server's key as `Authorization: Bearer KEY`",
            )
        }
        .into_response(),
    }
}

/// Reads the body up to the limit, and asks for JSON.
async fn limit(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let (head, body) = request.into_parts();
    if head.method == Method::POST {
        let kind = head.headers.get(header::CONTENT_TYPE);
        let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim();
        if !kind.eq_ignore_ascii_case("application/json") {
            return ApiError::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                format!("Content-Type: expected application/json, got {kind:?}"),
            )
            .into_response();
        }
    }
    match app.bodies.read(body).await {
        // It has its share of the memory until the answer begins.
        Ok(held) => {
            let body = Body::from(held.bytes.clone());
            next.run(Request::from_parts(head, body)).await
        }
        Err(error) => error.into_response(),
    }
}

fn description(app: &App) -> Value {
    json!({
        "id": app.name,
        "object": "model",
        "created": app.created,
        "owned_by": "bam",
        "max_model_len": app.longest_row(),
        "train_length": app.config.train_length,
        "encoding": app.config.encoding.to_string(),
    })
}

async fn models(State(app): State<Arc<App>>) -> Json<Value> {
    Json(json!({"object": "list", "data": [description(&app)]}))
}

async fn model(
    State(app): State<Arc<App>>,
    name: Result<axum::extract::Path<String>, axum::extract::rejection::PathRejection>,
) -> Result<Json<Value>, ApiError> {
    // What is no text is no model's name either.
    app.check_model(Some(name.as_deref().map_or("", String::as_str)))?;
    Ok(Json(description(&app)))
}

async fn tokenize(State(app): State<Arc<App>>, body: Bytes) -> Result<Json<Value>, ApiError> {
    let mut fields = Fields::of(&body)?;
    let prompt: String = fields.need("prompt", "a string")?;
    let special = fields.take("add_special_tokens", "true or false")?;
    let spell: Option<bool> = fields.take("return_token_strs", "true or false")?;
    let model: Option<String> = fields.take("model", "a string")?;
    fields.finish()?;
    app.check_model(model.as_deref())?;
    // Text is only text; but a special token's name by itself is how clients ask for its id.
    let tokens = match app.tokenizer.special_named(&prompt) {
        Some(id) => vec![id as i32],
        None => app.encode(prompt, special.unwrap_or(true)).await?,
    };
    let mut answer = json!({
        "count": tokens.len(),
        "max_model_len": app.longest_row(),
        "tokens": tokens,
    });
    if spell == Some(true) {
        answer["token_strs"] = tokens.iter().map(|id| app.spelling(*id)).collect();
    }
    Ok(Json(answer))
}

async fn detokenize(State(app): State<Arc<App>>, body: Bytes) -> Result<Json<Value>, ApiError> {
    let mut fields = Fields::of(&body)?;
    let tokens: Prompts = fields.need("tokens", "an array of token ids")?;
    let model: Option<String> = fields.take("model", "a string")?;
    fields.finish()?;
    app.check_model(model.as_deref())?;
    let Prompts::Tokens(rows) = tokens else {
        return Err(ApiError::expected(
            "tokens",
            "an array of token ids",
            "text",
        ));
    };
    let [row] = rows.as_slice() else {
        return Err(ApiError::expected("tokens", "one array", rows.len()));
    };
    let text = app.decode(&app.check_tokens(row)?)?;
    Ok(Json(json!({"prompt": text})))
}

async fn tokenizer_info(State(app): State<Arc<App>>) -> Json<Value> {
    let name = |id: Option<u32>| id.and_then(|id| app.tokenizer.spelling(id));
    Json(json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": name(app.tokenizer.bos()),
        "eos_token": name(app.tokenizer.eos()),
        "unk_token": null,
        "pad_token": null,
        "vocab_size": app.tokenizer.vocabulary_size(),
        "model_max_length": app.longest_row(),
        "add_bos_token": app.tokenizer.bos().is_some(),
        "chat_template": null,
    }))
}

async fn health(State(app): State<Arc<App>>) -> Result<Json<Value>, ApiError> {
    match app.engine.is_alive() {
        true => Ok(Json(json!({"status": "ok"}))),
        false => Err(ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "the model's thread ended",
        )),
    }
}

async fn metrics(State(app): State<Arc<App>>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    (
        [(header::CONTENT_TYPE, kind)],
        app.metrics.text(app.engine.load()),
    )
        .into_response()
}

async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI).into_response()
}
