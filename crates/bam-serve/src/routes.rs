//! The server's paths, and what is done for every request.

use super::body::Bodies;
use super::chat::ChatTemplate;
use super::error::ApiError;
use super::request::Fields;
use super::{App, chat, completion, page};
use axum::Json;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::{Value, json};
use std::net::IpAddr;
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
        .fallback(no_path)
        // `limit` reads the body itself, and says so in OpenAI's words.
        .layer(DefaultBodyLimit::disable())
        .layer(CatchPanicLayer::custom(|_| {
            ApiError::internal("the server failed; it goes on").into_response()
        }))
        .layer(middleware::from_fn_with_state(Arc::clone(&app), own_host))
        .layer(middleware::from_fn_with_state(Arc::clone(&app), count));
    if !app.cors.is_empty() {
        let origins = app.cors.iter().filter_map(|origin| origin.parse().ok());
        let origins = match app.cors.iter().any(|origin| origin == "*") {
            true => AllowOrigin::any(),
            false => AllowOrigin::list(origins),
        };
        let cors = CorsLayer::new()
            .allow_origin(origins)
            .allow_methods([Method::GET, Method::POST])
            .allow_headers([header::AUTHORIZATION, header::CONTENT_TYPE]);
        router = router.layer(cors);
    }
    router.with_state(app)
}

/// What was asked for, as far as a message can hold it.
fn asked(method: &Method, uri: &Uri) -> String {
    let asked = format!("{method} {}", uri.path());
    asked.chars().take(200).collect()
}

async fn no_path(method: Method, uri: Uri) -> ApiError {
    ApiError {
        code: Some("unknown_url"),
        ..ApiError::new(
            StatusCode::NOT_FOUND,
            format!(
                "expected a path of /openapi.json, got {}",
                asked(&method, &uri)
            ),
        )
    }
}

/// Other methods are refused as all else is; axum names the right one in `Allow`.
async fn other_method(method: Method, uri: Uri) -> ApiError {
    ApiError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        format!("expected the path's method, got {}", asked(&method, &uri)),
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
    match is_local(name) || !app.loopback {
        true => next.run(request).await,
        false => ApiError::new(
            StatusCode::FORBIDDEN,
            "expected a Host header that names this machine",
        )
        .into_response(),
    }
}

/// Whether a Host header's name is this machine's. A loopback address by its number can be nobody else's.
fn is_local(name: &str) -> bool {
    let number = match name.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').unwrap_or_default(),
        None => name,
    };
    let number = number.parse::<IpAddr>();
    number.is_ok_and(|ip| ip.to_canonical().is_loopback())
        || name.eq_ignore_ascii_case("localhost")
        || name.is_empty()
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

/// Why a body need not be read.
fn refused(headers: &HeaderMap, bodies: &Bodies) -> Option<ApiError> {
    let text = |name| {
        let value = headers.get(name).map(HeaderValue::to_str);
        value.and_then(Result::ok).unwrap_or_default().trim()
    };
    let kind = text(header::CONTENT_TYPE)
        .split(';')
        .next()
        .unwrap_or_default();
    if !kind.trim().eq_ignore_ascii_case("application/json") {
        return Some(ApiError::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            format!("Content-Type: expected application/json, got {kind:?}"),
        ));
    }
    let encoding = text(header::CONTENT_ENCODING);
    if headers.contains_key(header::CONTENT_ENCODING) && !encoding.eq_ignore_ascii_case("identity")
    {
        return Some(ApiError::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            format!("Content-Encoding: expected none, got {encoding:?}"),
        ));
    }
    let length = text(header::CONTENT_LENGTH).parse::<u64>();
    length
        .is_ok_and(|length| !bodies.allow(length))
        .then(|| bodies.too_long())
}

/// Reads the body up to the limit, and asks for JSON.
async fn limit(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let (head, body) = request.into_parts();
    if head.method == Method::POST
        && let Some(error) = refused(&head.headers, &app.bodies)
    {
        return error.into_response();
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
    // Text is only text, as for completions. But lm_eval asks for the ids of the tokens that
    // `/tokenizer_info` names by those names, and wants nothing added.
    let named = match special {
        Some(false) => app.tokenizer.special_named(&prompt),
        _ => None,
    };
    let tokens = match named {
        Some(id) => vec![id as i32],
        None => app.encode(prompt, special.unwrap_or(true)).await?,
    };
    let mut answer = json!({
        "count": tokens.len(),
        "max_model_len": app.longest_row(),
        "tokens": tokens,
    });
    if spell == Some(true) {
        answer["token_strs"] = tokens.iter().map(|id| app.spelling(*id).0).collect();
    }
    Ok(Json(answer))
}

async fn detokenize(State(app): State<Arc<App>>, body: Bytes) -> Result<Json<Value>, ApiError> {
    let mut fields = Fields::of(&body)?;
    let tokens = fields.tokens("tokens")?;
    let model: Option<String> = fields.take("model", "a string")?;
    fields.finish()?;
    app.check_model(model.as_deref())?;
    let text = app.decode(&app.check_tokens("tokens", &tokens)?)?;
    Ok(Json(json!({"prompt": text})))
}

async fn tokenizer_info(State(app): State<Arc<App>>) -> Json<Value> {
    let name = |id: Option<u32>| id.and_then(|id| app.tokenizer.spelling(id));
    Json(json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": name(app.tokenizer.bos()),
        "eos_token": name(app.tokenizer.eos()),
        "unk_token": app.tokenizer.unknown(),
        "pad_token": null,
        "vocab_size": app.tokenizer.vocabulary_size(),
        "model_max_length": app.longest_row(),
        "add_bos_token": app.tokenizer.bos().is_some(),
        "chat_template": app.template.as_ref().and_then(ChatTemplate::source),
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
