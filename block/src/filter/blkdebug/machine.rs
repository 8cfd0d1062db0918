//! The state machine: which requests fail after which events.
//!
//! The machine starts in state 1. An event makes the errors of its rules (those for any state or the present one) the
//! ones that requests meet, in the place of those of an earlier event; an event without such rules changes nothing.
//! An error that is to happen once is gone when a request has met it.

use super::rules::{Action, Rule};
use std::ops::Range;

const SECTOR: u64 = 512;

/// What a request does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum IoType {
    Read,
    Write,
    WriteZeroes,
    Discard,
    Flush,
    BlockStatus,
}

impl IoType {
    /// The kind of that name.
    pub(super) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "read" => IoType::Read,
            "write" => IoType::Write,
            "write-zeroes" => IoType::WriteZeroes,
            "discard" => IoType::Discard,
            "flush" => IoType::Flush,
            "block-status" => IoType::BlockStatus,
            _ => return None,
        })
    }
}

/// See the module documentation.
#[derive(Debug)]
pub(super) struct Machine {
    state: u64,
    /// Each with whether it is still there.
    rules: Vec<Option<Rule>>,
    /// The rules whose errors requests meet now.
    active: Vec<usize>,
}

impl Machine {
    /// A machine in its first state, after the event `none`.
    pub(super) fn new(rules: Vec<Rule>) -> Self {
        let rules = rules.into_iter().map(Some).collect();
        let mut machine = Machine { state: 1, rules, active: Vec::new() };
        machine.event("none");
        machine
    }

    /// Something happens.
    pub(super) fn event(&mut self, event: &str) {
        let mut errors = Vec::new();
        let mut next = self.state;
        for (i, rule) in self.rules.iter().enumerate() {
            let Some(rule) = rule.as_ref().filter(|r| r.event == event && [0, self.state].contains(&r.state))
            else {
                continue;
            };
            match rule.action {
                Action::SetState(state) => next = state,
                Action::Inject { .. } => errors.push(i),
            }
        }
        self.state = next;
        if !errors.is_empty() {
            self.active = errors;
        }
    }

    /// The error that a request meets, if any.
    pub(super) fn error_for(&mut self, range: Range<u64>, kind: IoType) -> Option<i32> {
        let rules = &self.rules;
        let hit =
            self.active.iter().position(|i| rules[*i].as_ref().is_some_and(|r| r.hits(&range, kind)))?;
        let index = self.active[hit];
        let Action::Inject { errno, once, .. } = self.rules[index].as_ref()?.action else { return None };
        if once {
            self.active.remove(hit);
            self.rules[index] = None;
        }
        (errno > 0).then_some(errno)
    }
}

impl Rule {
    fn hits(&self, range: &Range<u64>, kind: IoType) -> bool {
        let Action::Inject { sector, iotype, .. } = self.action else { return false };
        let kind_fits = match iotype {
            Some(only) => only == kind,
            None => kind != IoType::BlockStatus,
        };
        let place_fits = sector.is_none_or(|n| n.checked_mul(SECTOR).is_some_and(|at| range.contains(&at)));
        kind_fits && place_fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EIO: Action = Action::Inject { errno: 5, once: false, sector: None, iotype: None };

    fn rule(event: &str, state: u64, action: Action) -> Rule {
        Rule { event: event.to_owned(), state, action }
    }

    fn read(machine: &mut Machine) -> Option<i32> {
        machine.error_for(0..512, IoType::Read)
    }

    #[test]
    fn errors_last_until_an_event_brings_others() {
        let full = Action::Inject { errno: 28, once: true, sector: None, iotype: None };
        let mut machine = Machine::new(vec![rule("read_aio", 0, EIO), rule("pwritev", 0, full)]);
        assert_eq!(read(&mut machine), None);
        machine.event("read_aio");
        machine.event("l2_load");
        assert_eq!([read(&mut machine), read(&mut machine)], [Some(5), Some(5)]);
        machine.event("pwritev");
        assert_eq!([read(&mut machine), read(&mut machine)], [Some(28), None]);
    }

    #[test]
    fn an_event_is_judged_by_the_state_before_it() {
        let rules =
            vec![rule("e", 1, Action::SetState(2)), rule("e", 2, Action::SetState(3)), rule("e", 2, EIO)];
        let mut machine = Machine::new(rules);
        machine.event("e");
        assert_eq!((machine.state, read(&mut machine)), (2, None));
        machine.event("e");
        assert_eq!((machine.state, read(&mut machine)), (3, Some(5)));
    }

    #[test]
    fn errors_meet_the_sector_and_the_kind_they_name() {
        let action = Action::Inject { errno: 5, once: false, sector: Some(3), iotype: Some(IoType::Write) };
        let mut machine = Machine::new(vec![rule("none", 0, action)]);
        let mut hit = |range, kind| machine.error_for(range, kind).is_some();
        assert!(hit(0..1537, IoType::Write));
        assert!(!hit(0..1536, IoType::Write));
        assert!(!hit(0..4096, IoType::Read));
        let mut any = Machine::new(vec![rule("none", 0, EIO)]);
        assert_eq!(any.error_for(0..1, IoType::BlockStatus), None);
        assert_eq!(any.error_for(0..0, IoType::Flush), Some(5));
    }
}
