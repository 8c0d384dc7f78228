//! A model behind OpenAI's protocol, and a page to look into it.
//!
//! ```text
//! routes ─ request ─→ generate ─→ engine ═ thread: Scheduler (bam-lm) ═→ events
//!                                                                          │
//!          reply  ←─ completion, chat ←─ answer (text) ←───────────────────┘
//! ```
//!
//! Requests are parsed into sequences, the one thread that has the model works on all sequences at once, and
//! the events of a sequence come back. A client that leaves drops its end of the events, and the sequence is
//! given up.

#![forbid(unsafe_code)]

mod answer;
mod app;
mod body;
mod chat;
mod completion;
mod encode;
mod engine;
mod error;
mod generate;
mod json;
mod message;
mod metrics;
mod openapi;
mod page;
mod prompts;
mod reply;
mod request;
mod routes;
mod status;
mod template;
mod text;
mod tokens;

use app::App;
pub use app::Settings;
use axum::ServiceExt;
use axum::extract::Request;
use bam_data::Tokenizer;
use bam_lm::engine::scheduler::Scheduler;
use bam_lm::model::Transformer;
pub use error::ServeError;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;
pub use template::ChatTemplate;
use tokio::sync::watch;
use tower_http::normalize_path::NormalizePath;

/// A notice for whoever watches the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Asked to stop: requests that run may finish.
    Stopping,
    /// Some requests did not finish within [`Settings::grace`].
    Unfinished,
}

/// A model to serve, and the terms.
pub struct Server {
    /// The model.
    pub model: Transformer,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// Its chat template; without one, chats are refused.
    pub template: Option<ChatTemplate>,
    /// The terms.
    pub settings: Settings,
}

/// Time for the last words of answers that were cut.
const LAST_WORDS: Duration = Duration::from_secs(2);

impl Server {
    /// The longest sequence, prompt and answer together, that there is memory for; 0 if not even a token fits.
    #[must_use]
    pub fn longest_sequence(&self) -> usize {
        Scheduler::longest_sequence(self.model.config(), &self.settings.limits)
    }

    /// Serves on `listener` until `stop` is done, and then for as long as requests that run need, at most
    /// [`Settings::grace`].
    ///
    /// # Errors
    /// If the listener or the server's threads can't be used.
    pub fn run(
        self,
        listener: TcpListener,
        stop: impl Future<Output = ()> + Send + 'static,
        notify: impl Fn(Notice) + Send + Sync + 'static,
    ) -> Result<(), ServeError> {
        let address = listener
            .local_addr()
            .map_err(ServeError::io("the address"))?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .map_err(ServeError::io("the server's threads"))?;
        let (over, told) = watch::channel(false);
        let loopback = address.ip().to_canonical().is_loopback();
        let (app, thread) = App::start(
            self.model,
            self.tokenizer,
            self.template,
            self.settings,
            loopback,
            told,
        );
        let engine = app.engine.clone();
        runtime.block_on(serve(app, over, listener, stop, notify))?;
        engine.close();
        // Whoever is still waited for was told to go; the thread ends with the sequences.
        let _ = thread.join();
        Ok(())
    }
}

async fn serve(
    app: App,
    over: watch::Sender<bool>,
    listener: TcpListener,
    stop: impl Future<Output = ()> + Send + 'static,
    notify: impl Fn(Notice) + Send + Sync + 'static,
) -> Result<(), ServeError> {
    let failed = ServeError::io;
    listener
        .set_nonblocking(true)
        .map_err(failed("the listener"))?;
    let listener = tokio::net::TcpListener::from_std(listener).map_err(failed("the listener"))?;
    let (stopping, stopped) = watch::channel(false);
    let notify = Arc::new(notify);
    let notify_stop = Arc::clone(&notify);
    tokio::spawn(async move {
        stop.await;
        notify_stop(Notice::Stopping);
        let _ = stopping.send(true);
    });
    let wait = |mut stopped: watch::Receiver<bool>| async move {
        // An error means that the sender is gone, which is an end too.
        let _ = stopped.wait_for(|stop| *stop).await;
    };
    let grace = app.settings.grace;
    let router = routes::router(Arc::new(app));
    // A path may end with a slash.
    let router = NormalizePath::trim_trailing_slash(router);
    let router = ServiceExt::<Request>::into_make_service(router);
    let server = axum::serve(listener, router).with_graceful_shutdown(wait(stopped.clone()));
    let patience = async {
        wait(stopped).await;
        tokio::time::sleep(grace).await;
    };
    let mut server = std::pin::pin!(server.into_future());
    tokio::select! {
        ended = &mut server => ended.map_err(failed("the server"))?,
        () = patience => {
            notify(Notice::Unfinished);
            let _ = over.send(true);
            // Who does not take the last words in time is left.
            let _ = tokio::time::timeout(LAST_WORDS, server).await;
        }
    }
    Ok(())
}
