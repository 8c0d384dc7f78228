//! The server's paths: one table, of which the router and the description are made, and the work that is
//! done for every request.

use super::app::App;
use super::body::Bodies;
use super::chat::{ChatChoice, chat};
use super::completion::{CompletionChoice, completions};
use super::error::ApiError;
use super::json::shown;
use super::openapi::{Access, Operation, describe};
use super::page::{self, Inspection, inspect};
use super::reply::Reply;
use super::request::{Chat, Completion, Detokenize, Inspect, Tokenize};
use super::status::{self, Health, Model, Models};
use super::tokens::{self, Detokenized, Tokenized, TokenizerInfo};
use axum::Json;
use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use std::net::IpAddr;
use std::sync::Arc;
use subtle::ConstantTimeEq;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowOrigin, CorsLayer};

type Endpoint = (Operation, MethodRouter<Arc<App>>);

/// Every path but the description's own.
fn endpoints() -> Vec<Endpoint> {
    let completion = Operation::posted::<Completion, Reply<CompletionChoice>>("/v1/completions");
    let of_chat = Operation::posted::<Chat, Reply<ChatChoice>>("/v1/chat/completions");
    let model = Operation::told::<Model>("/v1/models/{model}");
    let health = Operation::told::<Health>("/health").open();
    let metrics = Operation::file("/metrics", "application/openmetrics-text");
    vec![
        (
            completion.streams().summary("Continue prompts"),
            post(completions),
        ),
        (
            of_chat
                .streams()
                .summary("Answer a chat, where the model has a chat template"),
            post(chat),
        ),
        (
            Operation::told::<Models>("/v1/models").summary("The models"),
            get(status::models),
        ),
        (model.refuses(404).summary("The model"), get(status::model)),
        (
            Operation::posted::<Tokenize, Tokenized>("/tokenize").summary("Text to tokens"),
            post(tokens::tokenize),
        ),
        (
            Operation::posted::<Detokenize, Detokenized>("/detokenize").summary("Tokens to text"),
            post(tokens::detokenize),
        ),
        (
            Operation::told::<TokenizerInfo>("/tokenizer_info").summary("The tokenizer"),
            get(tokens::tokenizer_info),
        ),
        (
            Operation::posted::<Inspect, Inspection>("/inspect")
                .summary("The row posterior of every head at the last of some tokens"),
            post(inspect),
        ),
        (
            health.refuses(503).summary("Whether the model answers"),
            get(status::health),
        ),
        (metrics.summary("Prometheus metrics"), get(status::metrics)),
        (
            Operation::file("/", "text/html").open().summary("A page"),
            get(page::index),
        ),
        (
            Operation::file("/style.css", "text/css")
                .open()
                .summary("The page's style"),
            get(page::style),
        ),
        (
            Operation::file("/script.js", "text/javascript")
                .open()
                .summary("The page's script"),
            get(page::script),
        ),
    ]
}

/// The endpoints with the one that describes them all.
fn described() -> Vec<Endpoint> {
    let mut endpoints = endpoints();
    let own = Operation::file("/openapi.json", "application/json").open();
    let own = own.summary("This description");
    let operations = endpoints.iter().map(|(operation, _)| operation);
    let description = describe(operations.chain([&own]));
    let tell = move || std::future::ready(Json(description.clone()));
    endpoints.push((own, get(tell)));
    endpoints
}

pub fn router(app: Arc<App>) -> Router {
    let (mut open, mut protected, mut posted) = (Router::new(), Router::new(), Router::new());
    for (operation, handler) in described() {
        let part = match operation.access {
            Access::Open => &mut open,
            Access::Key => &mut protected,
            Access::Body => &mut posted,
        };
        // A model's name may have slashes.
        let path = operation.path.replace('{', "{*");
        *part = std::mem::take(part).route(&path, handler);
    }
    let posted = posted
        .method_not_allowed_fallback(other_method)
        .route_layer(middleware::from_fn_with_state(Arc::clone(&app), limit));
    let protected = protected
        .method_not_allowed_fallback(other_method)
        .merge(posted)
        .layer(middleware::from_fn_with_state(Arc::clone(&app), authorize));
    let mut router = protected
        .merge(open.method_not_allowed_fallback(other_method))
        .fallback(no_path)
        // `limit` reads the body itself, and says so in OpenAI's words.
        .layer(DefaultBodyLimit::disable())
        .layer(CatchPanicLayer::custom(|_| {
            ApiError::failed("the server failed; it goes on").into_response()
        }))
        .layer(middleware::from_fn_with_state(Arc::clone(&app), own_host))
        .layer(middleware::from_fn_with_state(Arc::clone(&app), count));
    let origins = &app.settings.cors;
    if !origins.is_empty() {
        let origins = match origins.iter().any(|origin| origin == "*") {
            true => AllowOrigin::any(),
            false => AllowOrigin::list(origins.iter().filter_map(|origin| origin.parse().ok())),
        };
        let cors = CorsLayer::new()
            .allow_origin(origins)
            .allow_methods([Method::GET, Method::POST])
            .allow_headers([header::AUTHORIZATION, header::CONTENT_TYPE]);
        router = router.layer(cors);
    }
    router.with_state(app)
}

async fn no_path(method: Method, uri: Uri) -> ApiError {
    let asked = format!("{method} {}", shown(uri.path()));
    ApiError::Path { asked }
}

/// Other methods are refused as all else is; axum names the right one in `Allow`.
async fn other_method(method: Method, uri: Uri) -> ApiError {
    let asked = format!("{method} {}", shown(uri.path()));
    ApiError::Method { asked }
}

/// Counts answers by path and status; paths that a client made up are no labels.
async fn count(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let path = request.extensions().get::<MatchedPath>().cloned();
    let response = next.run(request).await;
    let path = path.as_ref().map_or("other", MatchedPath::as_str);
    app.metrics.answered(path, response.status());
    response
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
        false => ApiError::Host.into_response(),
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
    let right = match &app.settings.api_key {
        None => true,
        Some(key) => bool::from(key.as_bytes().ct_eq(given)),
    };
    match right {
        true => next.run(request).await,
        false => ApiError::Key.into_response(),
    }
}

/// The reason that a body need not be read, if there is one.
fn refused(headers: &HeaderMap, bodies: &Bodies) -> Option<ApiError> {
    let text = |name| {
        let value = headers.get(name).map(HeaderValue::to_str);
        value.and_then(Result::ok).unwrap_or_default().trim()
    };
    let other = |header, expected, got: &str| {
        let got = got.to_owned();
        Some(ApiError::MediaType {
            header,
            expected,
            got,
        })
    };
    let kind = text(header::CONTENT_TYPE)
        .split(';')
        .next()
        .unwrap_or_default();
    if !kind.trim().eq_ignore_ascii_case("application/json") {
        return other("Content-Type", "application/json", kind);
    }
    let encoding = text(header::CONTENT_ENCODING);
    let is_plain = encoding.eq_ignore_ascii_case("identity");
    if headers.contains_key(header::CONTENT_ENCODING) && !is_plain {
        return other("Content-Encoding", "none", encoding);
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
