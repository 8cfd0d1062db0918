//! Changing how an open graph is opened: the right to write, the cache mode, options of drivers.
//!
//! A driver is never changed in place. In a first step, every node concerned gets a new driver that takes over from the
//! old one whatever stays as it is (an unlocked key, the open file), so that anything may fail and nothing has happened
//! yet. Then all nodes get their new drivers. Nodes keep their identity, so handles on them stay valid.

use super::open::{COMMON, Opener, below};
use super::{CacheMode, DriverRow, Env, OpenFlags, Perm, Perms};
use crate::node::{NodeFlags, NodeName, State};
use crate::{Child, Error, Kind, Level, Node, Options, Result};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::BTreeMap;
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
        let mut opened = reopenable(top)?;
        // How the host is asked stays as it is, and what it went together with when the image was opened is no matter any more.
        opened.inherited.native_aio = false;
        if let Some(writable) = change.writable {
            opened.common.take("read-only");
            opened.inherited.writable = writable;
        }
        if let Some(cache) = change.cache {
            opened.common.take("cache");
            opened.inherited.cache = cache;
        }
        let perms = opened.inherited.perms();
        let was_read_only = top.is_read_only();
        self.prepare(env, top, opened, perms, change.options)?;
        if !was_read_only
            && change.writable.is_none()
            && self.0.last().is_some_and(|s| s.state.flags.read_only)
        {
            let node = &top.name().node;
            let text = format!("Read-only block node '{node}' cannot support read-write users");
            return Err(Error::new(Kind::ReadOnly, text));
        }
        Ok(())
    }

    /// Makes the new driver of `node`, and of the nodes below as far as that driver asks for them.
    fn prepare(
        &mut self,
        env: Env<'_>,
        node: &Arc<Node>,
        mut opened: Opened,
        perms: Perms,
        mut delta: Options,
    ) -> Result<()> {
        check_fixed(node, &mut delta)?;
        for key in COMMON {
            move_option(key, &mut delta, &mut opened.common)?;
        }
        let before = node.perms();
        let mut opener = Opener { env, flags: opened.inherited, perms, depth: opened.depth, guessed: false };
        opener.take_common(&mut opened.common.clone())?;
        let Opener { flags, perms, .. } = opener;
        if flags.copy_on_read && !flags.writable {
            let text = format!("Can't set node '{}' to r/o with copy-on-read enabled", node.name().node);
            return Err(Error::invalid(text));
        }
        if !node.is_read_only() {
            node.flush(Level::Disk)?;
        }
        let children =
            opened.row.children.iter().filter_map(|role| Some((*role, delta.take(role)?))).collect();
        let mut ctx = ReopenCtx { env, flags, perms, node, opened, delta, children, plan: self };
        let driver = node.state().driver.reopen(&mut ctx)?;
        let opened = ctx.finish()?;
        let both = Perms { own: before.own | perms.own, shared: before.shared & perms.shared };
        let flags = NodeFlags { guessed: node.is_guessed(), ..flags.for_node() };
        let state = State { driver, flags, opened: Some(opened) };
        node.permit_for(&state, both)?;
        self.0.push(Step { node: Arc::clone(node), state, before, after: perms });
        Ok(())
    }

    /// Puts the new drivers in place.
    fn commit(self) -> Result<()> {
        let mut result = Ok(());
        for Step { node, state, after, .. } in self.0 {
            node.replace(state);
            // The graph is as was asked by now: what goes wrong from here on can only be reported.
            result = result.and(node.permit(after)).and(node.state().driver.start());
        }
        result
    }

    fn abort(self) {
        for step in self.0.into_iter().rev() {
            // These rights were held all the time.
            let _ = step.node.permit(step.before);
        }
    }
}

/// What `node` was opened with.
fn reopenable(node: &Arc<Node>) -> Result<Opened> {
    node.state().opened.clone().ok_or_else(|| unsupported(node))
}

fn unsupported(node: &Node) -> Error {
    let NodeName { driver, node, .. } = node.name();
    Error::unsupported(format!(
        "Block format '{driver}' used by node '{node}' does not support reopening files"
    ))
}

fn cannot_change(key: &str) -> Error {
    Error::invalid(format!("Cannot change the option '{key}'"))
}

/// Takes out the options that may be named but not changed.
fn check_fixed(node: &Node, delta: &mut Options) -> Result<()> {
    let name = node.name();
    for (key, now) in [("driver", Some(name.driver)), ("node-name", Some(&*name.node)), ("force-share", None)]
    {
        if delta.take(key).is_some_and(|value| value.as_str() != now) {
            return Err(cannot_change(key));
        }
    }
    Ok(())
}

fn move_option(key: &str, from: &mut Options, to: &mut Options) -> Result<()> {
    match from.take(key) {
        Some(value) => to.set(key, value),
        None => Ok(()),
    }
}

/// Handed to a driver that is to be reopened.
#[derive(Debug)]
pub struct ReopenCtx<'a> {
    /// Drivers and objects.
    pub env: Env<'a>,
    /// How the node will be open.
    pub flags: OpenFlags,
    /// What the node's parent will want.
    pub perms: Perms,
    node: &'a Arc<Node>,
    opened: Opened,
    delta: Options,
    children: BTreeMap<&'static str, Value>,
    plan: &'a mut Plan,
}

impl ReopenCtx<'_> {
    /// Says that these options are one decision: if any of them is given now, those given before hold no longer.
    pub fn replace_together(&mut self, keys: &[&str]) {
        if keys.iter().any(|key| self.delta.get(key).is_some()) {
            for key in keys {
                self.opened.options.take(key);
            }
        }
    }

    /// The driver's options with the changes, of which only those in `changeable` may be any.
    ///
    /// # Errors
    /// A change of another option, or one that is malformed.
    pub fn options<T: DeserializeOwned>(&mut self, changeable: &[&str]) -> Result<T> {
        let mut merged = self.opened.options.clone();
        let delta = std::mem::take(&mut self.delta);
        for key in delta.keys() {
            // A group takes the place of a value, and a value that of a group.
            let is_group = |options: &Options| options.get(key).map(Value::is_object);
            if is_group(&merged).is_some_and(|group| is_group(&delta) != Some(group)) {
                merged.take(key);
            }
        }
        merged.overlay(delta)?;
        let fixed = merged
            .keys()
            .find(|key| !changeable.contains(key) && merged.get(key) != self.opened.options.get(key));
        if let Some(key) = fixed {
            return Err(cannot_change(&leaf(key, merged.get(key))));
        }
        let typed = merged.parse()?;
        self.opened.options = merged;
        Ok(typed)
    }

    /// The error of a driver that cannot be reopened.
    pub fn unsupported(&self) -> Error {
        unsupported(self.node)
    }

    /// The child in this role, to be reopened with this node.
    ///
    /// # Errors
    /// No such child, or its failure to be reopened.
    pub fn child(&mut self, role: &'static str, perms: Perms) -> Result<Child> {
        let delta = self.children.remove(role);
        let node = self.prepare_child(role, delta, Some(perms))?;
        Ok(Child::new(role, node, perms.own.contains(Perm::RESIZE)))
    }

    /// Prepares the child in this role; with `change`, for a parent that is opened otherwise and wants that.
    fn prepare_child(
        &mut self,
        role: &'static str,
        delta: Option<Value>,
        change: Option<Perms>,
    ) -> Result<Arc<Node>> {
        let node = self.node.child(role).ok_or_else(|| cannot_change(&leaf(role, delta.as_ref())))?;
        let delta = match delta {
            None => Options::new(),
            Some(Value::Object(group)) => Options::from_map(group)?,
            Some(Value::String(name)) if name == node.name().node => Options::new(),
            Some(other) => {
                let name = other.as_str().map_or_else(|| other.to_string(), str::to_owned);
                let text = format!("Cannot find device='' nor node-name='{name}'");
                return Err(Error::new(Kind::NotFound, text));
            }
        };
        let mut opened = reopenable(&node)?;
        if change.is_some() {
            opened.inherited = below(self.flags);
        }
        let perms = change.unwrap_or_else(|| node.perms());
        self.plan.prepare(self.env, &node, opened, perms, delta)?;
        Ok(node)
    }

    /// What the node is then open with. A child the driver did not ask for stays as it is, except for its options.
    fn finish(mut self) -> Result<Opened> {
        if let Some(key) = self.delta.keys().next() {
            return Err(cannot_change(&leaf(key, self.delta.get(key))));
        }
        while let Some((role, delta)) = self.children.pop_first() {
            self.prepare_child(role, Some(delta), None)?;
        }
        Ok(self.opened)
    }
}

/// The full name of an option, or of the first in a group.
fn leaf(name: &str, group: Option<&Value>) -> String {
    match group.and_then(Value::as_object).and_then(|map| map.iter().next()) {
        Some((key, value)) => format!("{name}.{}", leaf(key, Some(value))),
        None => name.to_owned(),
    }
}
