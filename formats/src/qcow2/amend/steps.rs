//! One progress for several operations, of which nobody knows beforehand how long they are.
//!
//! Operations still to come are taken to be as long as the current one, as QEMU's tools do, whose percentages scripts
//! compare.

use std::fmt;

/// See the module documentation.
pub(super) struct Steps<'a> {
    /// Operations not begun yet.
    coming: u64,
    /// Work of the operations that have ended.
    completed: u64,
    /// Work of the current operation.
    current: u64,
    tell: &'a mut dyn FnMut(u64, u64),
}

impl fmt::Debug for Steps<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Steps").field("coming", &self.coming).finish_non_exhaustive()
    }
}

impl<'a> Steps<'a> {
    /// Nothing done yet of `operations` operations.
    pub(super) fn new(operations: u64, tell: &'a mut dyn FnMut(u64, u64)) -> Self {
        Steps { coming: operations, completed: 0, current: 0, tell }
    }

    /// The next operation begins.
    pub(super) fn begin(&mut self) {
        self.completed += self.current;
        self.current = 0;
        self.coming = self.coming.saturating_sub(1);
    }

    /// The current operation has done `done` of `total`.
    pub(super) fn at(&mut self, done: u64, total: u64) {
        self.current = total;
        (self.tell)(self.completed + done, self.completed + total * (1 + self.coming));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_to_come_count_as_much_as_the_current_one() {
        let mut told = Vec::new();
        let mut tell = |done, total| told.push((done, total));
        let mut steps = Steps::new(2, &mut tell);
        steps.begin();
        steps.at(0, 2);
        steps.at(2, 2);
        steps.begin();
        steps.at(0, 100);
        steps.at(100, 100);
        assert_eq!(told, [(0, 4), (2, 4), (2, 102), (102, 102)]);
    }
}
