//! The numbers of `/metrics`, in Prometheus' text form.

use axum::http::StatusCode;
use bam_lm::engine::scheduler::Load;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use std::sync::Mutex;
use std::time::Duration;

/// Requests by path and status.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Answered {
    path: String,
    status: u16,
}

pub struct Metrics {
    registry: Registry,
    answered: Family<Answered, Counter>,
    prompt_tokens: Counter,
    reused_tokens: Counter,
    generated: Followed,
    preemptions: Followed,
    active: Gauge,
    waiting: Gauge,
    cache_bytes: Gauge,
    first_token: Histogram,
    whole: Histogram,
}

/// A counter of what is counted elsewhere.
#[derive(Default)]
struct Followed {
    counter: Counter,
    before: Mutex<u64>,
}

impl Followed {
    fn follow(&self, count: u64) {
        let before = self.before.lock();
        let mut before = before.unwrap_or_else(|poisoned| poisoned.into_inner());
        // After a failure the count begins anew.
        self.counter
            .inc_by(count.checked_sub(*before).unwrap_or(count));
        *before = count;
    }
}

/// Seconds, from a cached short answer to a very long prompt.
const SECONDS: [f64; 14] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
];

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("bam");
        let metrics = Self {
            answered: Family::default(),
            prompt_tokens: Counter::default(),
            reused_tokens: Counter::default(),
            generated: Followed::default(),
            preemptions: Followed::default(),
            active: Gauge::default(),
            waiting: Gauge::default(),
            cache_bytes: Gauge::default(),
            first_token: Histogram::new(SECONDS),
            whole: Histogram::new(SECONDS),
            registry: Registry::default(),
        };
        registry.register(
            "requests",
            "Requests by path and status",
            metrics.answered.clone(),
        );
        for (name, help, counter) in [
            ("prompt_tokens", "Tokens of prompts", &metrics.prompt_tokens),
            (
                "reused_tokens",
                "Tokens of prompts that another sequence had read",
                &metrics.reused_tokens,
            ),
            (
                "generated_tokens",
                "Tokens generated",
                &metrics.generated.counter,
            ),
            (
                "preemptions",
                "Sequences that wait again for want of memory",
                &metrics.preemptions.counter,
            ),
        ] {
            registry.register(name, help, counter.clone());
        }
        for (name, help, gauge) in [
            (
                "sequences_active",
                "Sequences that are worked on",
                &metrics.active,
            ),
            ("sequences_waiting", "Sequences that wait", &metrics.waiting),
            (
                "cache_bytes",
                "Bytes of keys and values",
                &metrics.cache_bytes,
            ),
        ] {
            registry.register(name, help, gauge.clone());
        }
        for (name, help, histogram) in [
            (
                "first_token",
                "Time to the first token of a sequence",
                &metrics.first_token,
            ),
            ("sequence", "Time to the end of a sequence", &metrics.whole),
        ] {
            registry.register_with_unit(name, help, Unit::Seconds, histogram.clone());
        }
        Self {
            registry,
            ..metrics
        }
    }
}

impl Metrics {
    pub fn answered(&self, path: &str, status: StatusCode) {
        let (path, status) = (path.to_owned(), status.as_u16());
        let of_kind = self.answered.get_or_create(&Answered { path, status });
        of_kind.inc();
    }

    pub fn prompt(&self, tokens: usize, reused: usize) {
        self.prompt_tokens.inc_by(tokens as u64);
        self.reused_tokens.inc_by(reused as u64);
    }

    pub fn first_token(&self, after: Duration) {
        self.first_token.observe(after.as_secs_f64());
    }

    pub fn finished(&self, after: Duration) {
        self.whole.observe(after.as_secs_f64());
    }

    /// The text, with the engine's load as it is now.
    pub fn text(&self, load: Load) -> String {
        self.active.set(load.active as i64);
        self.waiting.set(load.waiting as i64);
        self.cache_bytes.set(load.cache_bytes as i64);
        self.generated.follow(load.generated);
        self.preemptions.follow(load.preemptions);
        let mut text = String::new();
        // Writing to a string can't fail.
        let _ = text::encode(&mut text, &self.registry);
        text
    }
}
