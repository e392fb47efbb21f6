//! Within one process.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pager_wire::Header;

use super::{Channel, ChannelError, Received};

/// Messages that may wait in one direction before whoever sends has to.
const MOST: usize = 64;
/// How long whoever sends waits at most.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug)]
struct Message {
    header: Header,
    head: Vec<u8>,
    data: Vec<u8>,
}

#[derive(Debug, Default)]
struct Direction {
    inner: Mutex<Inner>,
    bell: Condvar,
}

#[derive(Debug, Default)]
struct Inner {
    messages: VecDeque<Message>,
    closed: bool,
}

impl Direction {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        self.lock().closed = true;
        self.bell.notify_all();
    }
}

/// One end.
#[derive(Debug)]
pub struct Local {
    out: Arc<Direction>,
    back: Arc<Direction>,
    /// What is left of the last message's data.
    data: Mutex<Vec<u8>>,
}

/// The two ends of a new channel.
pub fn pair() -> (Local, Local) {
    let [one, other] = [(); 2].map(|()| Arc::<Direction>::default());
    let end = |out: &Arc<Direction>, back: &Arc<Direction>| Local {
        out: Arc::clone(out),
        back: Arc::clone(back),
        data: Mutex::default(),
    };
    (end(&one, &other), end(&other, &one))
}

impl Channel for Local {
    fn send(&self, header: Header, head: &[u8], data: &[u8]) -> Result<(), ChannelError> {
        let header = Header {
            head_len: (head.len() as u32).into(),
            data_len: (data.len() as u32).into(),
            ..header
        };
        let full = |inner: &mut Inner| inner.messages.len() >= MOST && !inner.closed;
        let waited = self
            .out
            .bell
            .wait_timeout_while(self.out.lock(), PATIENCE, full);
        let (mut inner, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        if inner.closed {
            return Err(ChannelError::Closed);
        }
        if timeout.timed_out() {
            return Err(ChannelError::Stalled);
        }
        inner.messages.push_back(Message {
            header,
            head: head.to_vec(),
            data: data.to_vec(),
        });
        drop(inner);
        self.out.bell.notify_all();
        Ok(())
    }

    fn receive(
        &self,
        until: Option<Instant>,
        head: &mut Vec<u8>,
    ) -> Result<Option<Received>, ChannelError> {
        let empty = |inner: &mut Inner| inner.messages.is_empty() && !inner.closed;
        let inner = self.back.lock();
        let mut inner = match until {
            None => self
                .back
                .bell
                .wait_while(inner, empty)
                .unwrap_or_else(PoisonError::into_inner),
            Some(until) => {
                let rest = until.saturating_duration_since(Instant::now());
                let waited = self.back.bell.wait_timeout_while(inner, rest, empty);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
        };
        let Some(message) = inner.messages.pop_front() else {
            return match inner.closed {
                true => Err(ChannelError::Closed),
                false => Ok(None),
            };
        };
        drop(inner);
        self.back.bell.notify_all();
        let (kind, status) = message.header.check()?;
        *head = message.head;
        *self.data.lock().unwrap_or_else(PoisonError::into_inner) = message.data;
        Ok(Some(Received {
            header: message.header,
            kind,
            status,
        }))
    }

    fn receive_data(&self, into: &mut [u8]) -> Result<(), ChannelError> {
        let mut data = self.data.lock().unwrap_or_else(PoisonError::into_inner);
        let rest = data.split_off(into.len());
        into.copy_from_slice(&data);
        *data = rest;
        Ok(())
    }

    fn close(&self) {
        self.out.close();
        self.back.close();
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        self.close();
    }
}
