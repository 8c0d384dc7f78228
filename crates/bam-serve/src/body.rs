//! Bodies of requests: each is bounded, all together are, and none is waited for without end.

use super::error::ApiError;
use axum::body::{Body, Bytes};
use http_body_util::BodyExt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bodies of the largest size that there is memory for at once.
const AT_ONCE: usize = 4;
/// The time that a client may be silent in the midst of a body.
const PATIENCE: Duration = Duration::from_secs(30);
/// The unit that memory is shared out in.
const KIB: usize = 1024;

/// The memory for bodies.
pub struct Bodies {
    most: usize,
    patience: Duration,
    room: Arc<Semaphore>,
}

/// A body, and its share of the memory, which it has until it is dropped.
#[derive(Debug)]
pub struct Held {
    pub bytes: Bytes,
    _share: Option<OwnedSemaphorePermit>,
}

impl Bodies {
    /// Of at most so many bytes each.
    pub fn new(most: usize) -> Self {
        let room = most.div_ceil(KIB).saturating_mul(AT_ONCE);
        Self {
            most,
            patience: PATIENCE,
            room: Arc::new(Semaphore::new(room.min(Semaphore::MAX_PERMITS))),
        }
    }

    /// Reads one.
    ///
    /// # Errors
    /// If it is too long (413), does not come (408), breaks off (400), or others take all the memory (429).
    pub async fn read(&self, mut body: Body) -> Result<Held, ApiError> {
        let mut bytes = Vec::new();
        let mut share: Option<OwnedSemaphorePermit> = None;
        loop {
            let frame = tokio::time::timeout(self.patience, body.frame()).await;
            let Some(frame) = frame.map_err(|_| ApiError::Silent {
                seconds: self.patience.as_secs_f64(),
            })?
            else {
                break;
            };
            let broken = |error: axum::Error| ApiError::Broken {
                told: error.to_string(),
            };
            let Ok(data) = frame.map_err(broken)?.into_data() else {
                continue;
            };
            if bytes.len() + data.len() > self.most {
                return Err(self.too_long());
            }
            let has = share.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
            let more = (bytes.len() + data.len()).div_ceil(KIB) - has;
            if more > 0 {
                let room = Arc::clone(&self.room);
                let more = room.try_acquire_many_owned(u32::try_from(more).unwrap_or(u32::MAX));
                let more = more.map_err(|_| ApiError::BodiesFull)?;
                match &mut share {
                    None => share = Some(more),
                    Some(share) => share.merge(more),
                }
            }
            bytes.extend_from_slice(&data);
        }
        Ok(Held {
            bytes: bytes.into(),
            _share: share,
        })
    }

    /// Whether a body may be so long.
    pub fn allow(&self, length: u64) -> bool {
        length <= self.most as u64
    }

    pub fn too_long(&self) -> ApiError {
        ApiError::LongBody { most: self.most }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::StatusCode;
    use futures_util::stream;
    use std::convert::Infallible;

    fn pieces(sizes: &[usize]) -> Body {
        let pieces: Vec<Result<Bytes, Infallible>> = sizes
            .iter()
            .map(|size| Ok(Bytes::from(vec![7; *size])))
            .collect();
        Body::from_stream(stream::iter(pieces))
    }

    fn run<T>(future: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_time().build();
        runtime.unwrap().block_on(future)
    }

    #[test]
    fn bodies_share_a_bounded_memory() {
        run(async {
            let bodies = Bodies::new(3000);
            let status = |read: Result<Held, ApiError>| read.map_err(|error| error.status());
            let whole = bodies.read(pieces(&[1000, 1, 0, 1999])).await.unwrap();
            assert_eq!(whole.bytes, vec![7; 3000]);
            assert_eq!(bodies.read(pieces(&[])).await.unwrap().bytes.len(), 0);
            let long = bodies.read(pieces(&[3000, 1])).await;
            assert_eq!(status(long).unwrap_err(), StatusCode::PAYLOAD_TOO_LARGE);
            let mut held = vec![whole];
            for _ in 1..AT_ONCE {
                held.push(bodies.read(pieces(&[1500, 1500])).await.unwrap());
            }
            let fifth = bodies.read(pieces(&[1])).await;
            assert_eq!(status(fifth).unwrap_err(), StatusCode::TOO_MANY_REQUESTS);
            held.pop();
            assert!(bodies.read(pieces(&[3000])).await.is_ok());
        });
    }

    #[test]
    fn who_is_silent_is_not_waited_for() {
        run(async {
            let mut bodies = Bodies::new(3000);
            bodies.patience = Duration::from_millis(20);
            let endless = Body::from_stream(stream::pending::<Result<Bytes, Infallible>>());
            let error = bodies.read(endless).await.unwrap_err();
            assert_eq!(error.status(), StatusCode::REQUEST_TIMEOUT);
        });
    }
}
