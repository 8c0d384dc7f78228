//! The thread that runs the model: it takes rows from the requests and gives events back.

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
    most_rows: usize,
}

#[derive(Default)]
struct Inbox {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Default)]
struct State {
    rows: Vec<(Request, Box<dyn Listener>)>,
    load: Load,
    closed: bool,
    /// The thread has ended.
    ended: bool,
}

/// Why rows were not taken.
#[derive(Debug, PartialEq, Eq)]
pub enum Refused {
    /// As many wait as may.
    Full,
    /// The server is stopping.
    Closed,
}

/// A request's end of the events. When it is dropped, the row is given up.
struct Channel(UnboundedSender<SequenceEvent>);

impl Listener for Channel {
    fn hear(&mut self, event: SequenceEvent) {
        // Nobody there: the row is given up at the next turn.
        let _ = self.0.send(event);
    }

    fn is_gone(&self) -> bool {
        self.0.is_closed()
    }
}

impl Engine {
    /// Starts the thread; `queue` rows may wait beside those that are worked on.
    pub fn start(model: Transformer, limits: Limits, queue: usize) -> (Self, JoinHandle<()>) {
        let inbox = Arc::new(Inbox::default());
        let engine = Self {
            inbox: Arc::clone(&inbox),
            most_rows: limits.active.saturating_add(queue),
        };
        let thread = std::thread::spawn(move || work(&model, &limits, &inbox));
        (engine, thread)
    }

    /// Hands in rows, all or none; their events, in the same order.
    pub fn submit(
        &self,
        requests: Vec<Request>,
    ) -> Result<Vec<UnboundedReceiver<SequenceEvent>>, Refused> {
        let mut state = self.inbox.lock();
        if state.closed || state.ended {
            return Err(Refused::Closed);
        }
        let there = state.rows.len() + state.load.waiting + state.load.active;
        if there + requests.len() > self.most_rows {
            return Err(Refused::Full);
        }
        let mut receivers = Vec::with_capacity(requests.len());
        for request in requests {
            let (sender, receiver) = unbounded_channel();
            state.rows.push((request, Box::new(Channel(sender))));
            receivers.push(receiver);
        }
        self.inbox.wake.notify_one();
        Ok(receivers)
    }

    /// Rows that there can be at once, worked on and waiting.
    pub fn most_rows(&self) -> usize {
        self.most_rows
    }

    /// Where the work stands, rows that were just handed in among those that wait.
    pub fn load(&self) -> Load {
        let state = self.inbox.lock();
        Load {
            waiting: state.load.waiting + state.rows.len(),
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
        while state.rows.is_empty() && scheduler.is_idle() {
            if state.closed {
                state.ended = true;
                return;
            }
            state = inbox
                .wake
                .wait(state)
                .unwrap_or_else(|poisoned| poisoned.into_inner());
        }
        let rows = std::mem::take(&mut state.rows);
        // Until they are in the scheduler, they count as waiting.
        state.load.waiting += rows.len();
        drop(state);
        for (request, listener) in rows {
            scheduler.add(request, listener);
        }
        let turn = catch_unwind(AssertUnwindSafe(|| scheduler.step()));
        if turn.is_err() {
            // What it held may be broken. Whoever waited hears that nobody answers any more.
            scheduler = Scheduler::new(model, limits.clone());
        }
    }
}
