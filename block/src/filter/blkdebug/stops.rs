//! Requests held at an event until they are resumed.
//!
//! A breakpoint holds one request: it is gone when a request has met it. What became of it is told in the words of the
//! tool we replace, as its users read them.

use super::EVENTS;
use crate::{Breakpoints, Error, Result, Tell};
use std::fmt;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// See the module documentation.
#[derive(Debug, Default)]
pub(super) struct Stops {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    points: Vec<Point>,
    held: Vec<Held>,
    next: u64,
}

/// A breakpoint that no request has met.
struct Point {
    event: String,
    tag: String,
    tell: Tell,
}

impl fmt::Debug for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Point({} at {})", self.tag, self.event)
    }
}

/// A request that was stopped.
struct Held {
    id: u64,
    tag: String,
    tell: Tell,
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Held({})", self.tag)
    }
}

impl Stops {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request comes to an event; it goes on when nothing holds it any more.
    pub(super) fn meet(&self, event: &str) {
        let mut state = self.lock();
        let ids = state.hold(event);
        if !ids.is_empty() {
            self.changed.notify_all();
        }
        while state.held.iter().any(|held| ids.contains(&held.id)) {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Lets one held request go that is called `tag`.
    fn release(&self, state: &mut State, tag: &str) -> Result<()> {
        let at = state.held.iter().position(|held| held.tag == tag).ok_or_else(none)?;
        let held = state.held.remove(at);
        (held.tell)(format!("blkdebug: Resuming request '{tag}'"));
        self.changed.notify_all();
        Ok(())
    }
}

impl State {
    /// Holds a request once for each breakpoint at this event.
    fn hold(&mut self, event: &str) -> Vec<u64> {
        let (met, points) = std::mem::take(&mut self.points).into_iter().partition(|p| p.event == event);
        self.points = points;
        let met: Vec<Point> = met;
        let first = self.next;
        for Point { tag, tell, .. } in met {
            tell(format!("blkdebug: Suspended request '{tag}'"));
            self.held.push(Held { id: self.next, tag, tell });
            self.next += 1;
        }
        (first..self.next).collect()
    }
}

fn none() -> Error {
    Error::from_errno(nix::libc::ENOENT)
}

impl Breakpoints for Stops {
    fn set(&self, event: &str, tag: &str, tell: Tell) -> Result<()> {
        if !EVENTS.contains(&event) {
            return Err(none());
        }
        self.lock().points.push(Point { event: event.to_owned(), tag: tag.to_owned(), tell });
        Ok(())
    }

    fn remove(&self, tag: &str) -> Result<()> {
        let mut state = self.lock();
        let before = state.points.len();
        state.points.retain(|point| point.tag != tag);
        let found = state.points.len() < before;
        while self.release(&mut state, tag).is_ok() {}
        // As with the tool we replace, a breakpoint that a request has met is none any more.
        if found { Ok(()) } else { Err(none()) }
    }

    fn resume(&self, tag: &str) -> Result<()> {
        self.release(&mut self.lock(), tag)
    }

    fn wait(&self, tag: &str) {
        let mut state = self.lock();
        while !state.held.iter().any(|held| held.tag == tag) {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn a_request_waits_where_it_was_stopped_and_others_go_on() {
        let stops = Stops::default();
        let said = Arc::new(Mutex::new(Vec::new()));
        let tell: Tell = {
            let said = Arc::clone(&said);
            Arc::new(move |line| said.lock().unwrap().push(line))
        };
        stops.set("pwritev", "A", Arc::clone(&tell)).unwrap();
        assert_eq!(stops.set("bogus", "A", tell).unwrap_err().errno(), nix::libc::ENOENT);
        std::thread::scope(|scope| {
            let held = scope.spawn(|| stops.meet("pwritev"));
            stops.wait("A");
            stops.meet("pwritev");
            stops.meet("read_aio");
            assert!(!held.is_finished());
            stops.resume("A").unwrap();
            held.join().unwrap();
        });
        assert_eq!(stops.resume("A").unwrap_err().errno(), nix::libc::ENOENT);
        let said = said.lock().unwrap().join("|");
        assert_eq!(said, "blkdebug: Suspended request 'A'|blkdebug: Resuming request 'A'");
    }

    #[test]
    fn a_breakpoint_taken_back_stops_nobody() {
        let stops = Stops::default();
        stops.set("pwritev", "A", Arc::new(|_| ())).unwrap();
        stops.remove("A").unwrap();
        stops.meet("pwritev");
        assert!(stops.remove("A").is_err());
    }
}
