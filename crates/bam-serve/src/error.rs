//! Errors as OpenAI's clients read them, and those of starting a server.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::Serialize;

/// A server that can't start or go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The operating system said no.
    #[error("{what}: {source}")]
    Io {
        /// The thing that failed.
        what: &'static str,
        /// The reason.
        source: std::io::Error,
    },
}

impl ServeError {
    /// For `map_err`: names the thing that failed.
    pub(crate) fn io(what: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { what, source }
    }
}

/// A request that gets no answer. Status, code and parameter follow from the variant.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ApiError {
    #[error("the body: expected a JSON object, got {got}")]
    NotJson { got: String },
    #[error("unrecognized request argument: {field}")]
    Unknown { field: String },
    #[error("the body: expected each field once, got two fields {field}")]
    Twice { field: String },
    #[error("{field}: expected a value, got nothing")]
    Missing { field: String },
    #[error("{field}: expected nothing: it is not supported, got {got}")]
    Unsupported { field: String, got: String },
    /// A field that was expected to be something else.
    #[error("{field}: {told}")]
    Field { field: String, told: String },
    /// More tokens than a sequence can have.
    #[error("{told}")]
    TooLong { field: &'static str, told: String },
    #[error("this model has no chat template; use /v1/completions")]
    NoTemplate,
    #[error("this model's chat template can't be used; /v1/completions can: {reason}")]
    Template { reason: String },
    #[error("model: expected {expected}, got {got}")]
    Model { expected: String, got: String },
    #[error("expected a path of /openapi.json, got {asked}")]
    Path { asked: String },
    #[error("expected the path's method, got {asked}")]
    Method { asked: String },
    #[error("expected the server's key as `Authorization: Bearer KEY`")]
    Key,
    #[error("expected a Host header that names this machine")]
    Host,
    #[error("{header}: expected {expected}, got {got:?}")]
    MediaType {
        header: &'static str,
        expected: &'static str,
        got: String,
    },
    #[error("the body: expected at most {most} bytes, got more")]
    LongBody { most: usize },
    #[error("the body: nothing came for {seconds} seconds")]
    Silent { seconds: f64 },
    #[error("the body: {told}")]
    Broken { told: String },
    #[error("the bodies of other requests take all memory for them; try again later")]
    BodiesFull,
    #[error("as many requests wait as may; try again later")]
    QueueFull,
    #[error("the server is stopping")]
    Stopping,
    #[error("the server stopped before the answer's end")]
    Cut,
    #[error("the model's thread ended")]
    Dead,
    #[error("{told}")]
    Failed { told: String },
}

/// A kind of error, for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    InvalidJson,
    UnknownParameter,
    DuplicateParameter,
    MissingRequiredParameter,
    UnsupportedParameter,
    InvalidValue,
    ContextLengthExceeded,
    ModelNotFound,
    UnknownUrl,
    InvalidApiKey,
    BodiesFull,
    QueueFull,
}

/// The body of an answer with an error's status.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Error")]
pub struct ErrorBody {
    pub error: ErrorFields,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(inline)]
pub struct ErrorFields {
    /// The expectation, and the thing that came.
    pub message: String,
    pub r#type: &'static str,
    /// The field of the request that is wrong.
    pub param: Option<String>,
    pub code: Option<Code>,
}

impl ApiError {
    pub fn expected(field: &str, expected: &str, got: impl std::fmt::Display) -> Self {
        Self::Field {
            field: field.into(),
            told: format!("expected {expected}, got {got}"),
        }
    }

    /// A text or tokens that the tokenizer has no counterpart for.
    pub fn text(field: &str, error: &bam_data::DataError) -> Self {
        Self::Field {
            field: field.into(),
            told: error.to_string(),
        }
    }

    pub fn failed(told: impl ToString) -> Self {
        Self::Failed {
            told: told.to_string(),
        }
    }

    /// A sequence that the scheduler refuses, by the field that asks for it.
    pub fn sequence(field: &'static str, error: &bam_lm::Error) -> Self {
        let told = error.to_string();
        match error {
            bam_lm::Error::TooLong { .. } => Self::TooLong { field, told },
            _ => Self::Field {
                field: field.into(),
                told,
            },
        }
    }

    pub fn status(&self) -> StatusCode {
        self.kind().0
    }

    fn kind(&self) -> (StatusCode, Option<Code>) {
        let bad = |code| (StatusCode::BAD_REQUEST, Some(code));
        match self {
            Self::NotJson { .. } => bad(Code::InvalidJson),
            Self::Unknown { .. } => bad(Code::UnknownParameter),
            Self::Twice { .. } => bad(Code::DuplicateParameter),
            Self::Missing { .. } => bad(Code::MissingRequiredParameter),
            Self::Unsupported { .. } | Self::NoTemplate | Self::Template { .. } => {
                bad(Code::UnsupportedParameter)
            }
            Self::Field { .. } => bad(Code::InvalidValue),
            Self::TooLong { .. } => bad(Code::ContextLengthExceeded),
            Self::Broken { .. } => (StatusCode::BAD_REQUEST, None),
            Self::Model { .. } => (StatusCode::NOT_FOUND, Some(Code::ModelNotFound)),
            Self::Path { .. } => (StatusCode::NOT_FOUND, Some(Code::UnknownUrl)),
            Self::Method { .. } => (StatusCode::METHOD_NOT_ALLOWED, None),
            Self::Key => (StatusCode::UNAUTHORIZED, Some(Code::InvalidApiKey)),
            Self::Host => (StatusCode::FORBIDDEN, None),
            Self::MediaType { .. } => (StatusCode::UNSUPPORTED_MEDIA_TYPE, None),
            Self::LongBody { .. } => (StatusCode::PAYLOAD_TOO_LARGE, None),
            Self::Silent { .. } => (StatusCode::REQUEST_TIMEOUT, None),
            Self::BodiesFull => (StatusCode::TOO_MANY_REQUESTS, Some(Code::BodiesFull)),
            Self::QueueFull => (StatusCode::TOO_MANY_REQUESTS, Some(Code::QueueFull)),
            Self::Stopping | Self::Cut | Self::Dead => (StatusCode::SERVICE_UNAVAILABLE, None),
            Self::Failed { .. } => (StatusCode::INTERNAL_SERVER_ERROR, None),
        }
    }

    /// The field of the request, at its outermost.
    fn param(&self) -> Option<&str> {
        let root = |field: &'_ str| field.find(['.', '[']).unwrap_or(field.len());
        match self {
            Self::Missing { field }
            | Self::Unsupported { field, .. }
            | Self::Field { field, .. } => Some(&field[..root(field)]),
            // Of a field that is not known only its surroundings are.
            Self::Unknown { field } | Self::Twice { field } => {
                Some(&field[..root(field)]).filter(|root| root.len() < field.len())
            }
            Self::TooLong { field, .. } => Some(field),
            Self::NoTemplate | Self::Template { .. } => Some("messages"),
            Self::Model { .. } => Some("model"),
            _ => None,
        }
    }

    pub fn body(&self) -> ErrorBody {
        let (status, code) = self.kind();
        let error = ErrorFields {
            message: self.to_string(),
            r#type: match status {
                StatusCode::UNAUTHORIZED => "authentication_error",
                StatusCode::FORBIDDEN => "permission_error",
                StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
                status if status.is_server_error() => "server_error",
                _ => "invalid_request_error",
            },
            param: self.param().map(str::to_owned),
            code,
        };
        ErrorBody { error }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = self.status();
        let mut response = (status, Json(self.body())).into_response();
        let headers = response.headers_mut();
        match status {
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            StatusCode::UNAUTHORIZED => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            _ => {}
        }
        response
    }
}
