//! The thread that runs the model: it takes sequences from the requests and gives events back.

use super::error::ApiError;
use bam_lm::engine::scheduler::{Limits, Listener, Load, Request, Scheduler, SequenceEvent};
use bam_lm::model::Transformer;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// The way to the thread.
#[derive(Clone)]
pub struct Engine {
    inbox: Arc<Inbox>,
    most: usize,
}

#[derive(Default)]
struct Inbox {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Default)]
struct State {
    arrived: Vec<(Request, Box<dyn Listener>)>,
    load: Load,
    closed: bool,
    /// The thread has ended.
    ended: bool,
}

/// A request's end of the events. When it is dropped, the sequence is given up.
struct Channel(UnboundedSender<SequenceEvent>);

impl Listener for Channel {
    fn hear(&mut self, event: SequenceEvent) {
        // Nobody there: the sequence is given up at the next step.
        let _ = self.0.send(event);
    }

    fn is_gone(&self) -> bool {
        self.0.is_closed()
    }
}

impl Engine {
    /// Starts the thread; `queue` sequences may wait beside those that are worked on.
    pub fn start(model: Transformer, limits: Limits, queue: usize) -> (Self, JoinHandle<()>) {
        let inbox = Arc::new(Inbox::default());
        let engine = Self {
            inbox: Arc::clone(&inbox),
            most: limits.active.saturating_add(queue),
        };
        let thread = std::thread::spawn(move || work(&model, &limits, &inbox));
        (engine, thread)
    }

    /// Hands in sequences, all or none; their events, in the same order.
    pub fn submit(
        &self,
        requests: Vec<Request>,
    ) -> Result<Vec<UnboundedReceiver<SequenceEvent>>, ApiError> {
        let mut state = self.inbox.lock();
        if state.closed || state.ended {
            return Err(ApiError::Stopping);
        }
        let there = state.arrived.len() + state.load.waiting + state.load.active;
        if there + requests.len() > self.most {
            return Err(ApiError::QueueFull);
        }
        let mut receivers = Vec::with_capacity(requests.len());
        for request in requests {
            let (sender, receiver) = unbounded_channel();
            state.arrived.push((request, Box::new(Channel(sender))));
            receivers.push(receiver);
        }
        self.inbox.wake.notify_one();
        Ok(receivers)
    }

    /// Sequences that there can be at once, worked on and waiting.
    pub fn most(&self) -> usize {
        self.most
    }

    /// The load, sequences that were just handed in among those that wait.
    pub fn load(&self) -> Load {
        let state = self.inbox.lock();
        Load {
            waiting: state.load.waiting + state.arrived.len(),
            ..state.load
        }
    }

    /// Whether the thread runs.
    pub fn is_alive(&self) -> bool {
        !self.inbox.lock().ended
    }

    /// Takes nothing new; the thread ends when nobody waits for anything.
    pub fn close(&self) {
        self.inbox.lock().closed = true;
        self.inbox.wake.notify_one();
    }
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, State> {
        // The lock is never held while anything can panic.
        self.state
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

fn work(model: &Transformer, limits: &Limits, inbox: &Inbox) {
    let mut scheduler = Scheduler::new(model, limits.clone());
    loop {
        let mut state = inbox.lock();
        state.load = scheduler.load();
        while state.arrived.is_empty() && scheduler.is_idle() {
            if state.closed {
                state.ended = true;
                return;
            }
            state = inbox
                .wake
                .wait(state)
                .unwrap_or_else(|poisoned| poisoned.into_inner());
        }
        let arrived = std::mem::take(&mut state.arrived);
        // Until they are in the scheduler, they count as waiting.
        state.load.waiting += arrived.len();
        drop(state);
        for (request, listener) in arrived {
            scheduler.add(request, listener);
        }
        let step = catch_unwind(AssertUnwindSafe(|| scheduler.step()));
        if step.is_err() {
            // What it held may be broken. Whoever waited hears that nobody answers any more.
            scheduler = Scheduler::new(model, limits.clone());
            if !works(model) {
                inbox.lock().ended = true;
                return;
            }
        }
    }
}

/// Whether the model's device still works: the first answer may be of what failed just now.
fn works(model: &Transformer) -> bool {
    let sync = || model.device().sync().is_ok();
    (0..2).any(|_| catch_unwind(AssertUnwindSafe(sync)).unwrap_or(false))
}
