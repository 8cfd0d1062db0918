//! Changing how an open graph is opened: the right to write, the cache mode, options of drivers.
//!
//! A driver is never changed in place. In a first step, every node concerned gets a new driver that takes over from the
//! old one whatever stays as it is (an unlocked key, the open file), so that anything may fail and nothing has happened
//! yet. Then all nodes get their new drivers. Nodes keep their identity, so handles on them stay valid.

use super::open::{Opener, below};
use super::{CacheMode, DriverRow, Env, OpenFlags, Perms};
use crate::node::State;
use crate::{Child, Error, Kind, Level, Node, Options, Result};
use secret::options::OptionError;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::sync::Arc;

/// What is to change; the rest stays as it is.
#[derive(Debug, Default)]
pub struct Reopen {
    /// The right to write.
    pub writable: Option<bool>,
    /// The cache mode.
    pub cache: Option<CacheMode>,
    /// Options of the top node and, under their roles, of the nodes below.
    pub options: Options,
}

/// What a node was opened with.
#[derive(Debug, Clone)]
pub(crate) struct Opened {
    /// Its driver.
    pub(super) row: &'static DriverRow,
    /// The driver's own options.
    pub(super) options: Options,
    /// The options every node takes, as far as they were given.
    pub(super) common: Options,
    /// What its parent, or for the top node the user, handed down.
    pub(super) inherited: OpenFlags,
    /// What its parent does with it.
    pub(super) perms: Perms,
    /// How far below the top it is.
    pub(super) depth: u32,
}

/// Reopens the graph whose top node is `top`.
///
/// # Errors
/// What cannot be changed, or the drivers'; the graph is then as before.
pub fn reopen(env: Env<'_>, top: &Arc<Node>, change: Reopen) -> Result<()> {
    let _quiesced = top.drain();
    let mut plan = Plan::default();
    match plan.prepare_top(env, top, change) {
        Ok(()) => plan.commit(),
        Err(e) => {
            plan.abort();
            Err(e)
        }
    }
}

/// The nodes that are ready to be changed, children first.
#[derive(Debug, Default)]
pub(super) struct Plan(Vec<Step>);

#[derive(Debug)]
struct Step {
    node: Arc<Node>,
    state: State,
    before: Perms,
    after: Perms,
}

impl Plan {
    fn prepare_top(&mut self, env: Env<'_>, top: &Arc<Node>, change: Reopen) -> Result<()> {
        let mut opened = opened(top)?;
        if let Some(writable) = change.writable {
            opened.common.take("read-only");
            opened.inherited.writable = writable;
        }
        if let Some(cache) = change.cache {
            opened.common.take("cache");
            opened.inherited.cache = cache;
        }
        opened.perms = opened.inherited.perms();
        let was_read_only = top.is_read_only();
        self.prepare(env, top, opened, change.options)?;
        if !was_read_only && change.writable.is_none() && self.0.last().is_some_and(|s| s.state.flags.read_only) {
            let node = &top.name().node;
            let text = format!("Read-only block node '{node}' cannot support read-write users");
            return Err(Error::new(Kind::ReadOnly, text));
        }
        Ok(())
    }

    /// Makes the new driver of `node`, and of the nodes below as far as that driver asks for them.
    fn prepare(&mut self, env: Env<'_>, node: &Arc<Node>, mut opened: Opened, mut delta: Options) -> Result<()> {
        let old = opened_perms(node)?;
        unchangeable(node, &mut delta)?;
        let mut changed = Options::new();
        std::mem::swap(&mut changed, &mut opened.common);
        let mut opener = Opener { env, flags: opened.inherited, perms: opened.perms, depth: opened.depth };
        move_common(&mut delta, &mut changed)?;
        opened.common = changed.clone();
        opener.take_common(&mut changed)?;
        let Opener { flags, perms, .. } = opener;
        if !node.is_read_only() {
            node.flush(Level::Disk)?;
        }
        let mut ctx = ReopenCtx { env, flags, perms, node, opened: &opened, delta, children: Vec::new(), plan: self };
        let driver = node.state().driver.reopen(&mut ctx)?;
        ctx.check_all_taken()?;
        opened.options.overlay(std::mem::take(&mut ctx.delta))?;
        let both = Perms { own: old.own | perms.own, shared: old.shared & perms.shared };
        node.permit(both)?;
        let state = State { driver, flags: flags.node_flags(), opened: Some(opened) };
        self.0.push(Step { node: Arc::clone(node), state, before: old, after: perms });
        Ok(())
    }

    /// Puts the new drivers in place.
    fn commit(self) -> Result<()> {
        let mut nodes = Vec::new();
        for step in self.0 {
            step.node.replace(step.state);
            nodes.push((step.node, step.after));
        }
        let mut result = Ok(());
        for (node, perms) in nodes {
            // Giving rights up does not fail, and what a driver does first can only be reported.
            result = result.and(node.permit(perms)).and(node.state().driver.start());
        }
        result
    }

    fn abort(self) {
        for step in self.0.into_iter().rev() {
            // The rights were held before, so they are free.
            let _ = step.node.permit(step.before);
        }
    }
}

fn opened(node: &Arc<Node>) -> Result<Opened> {
    node.state().opened.clone().ok_or_else(|| unsupported(node))
}
