//! `img amend` on key slots: QEMU's options, rules and sentences.

use super::{ITER_TIME, KeyStore, NewKey, holds, matching, open};
use crate::luks::secret as passphrase;
use block::graph::{CreateKind, CreateOption, CreateOptions, Env};
use block::{Error, Result};
use secret::Secret;
use serde::Deserialize;

const fn option(name: &'static str, kind: CreateKind, help: &'static str) -> CreateOption {
    CreateOption { name, kind, help, default: None }
}

/// The options of LUKS images that can be amended.
pub(crate) static OPTIONS: [CreateOption; 5] = [
    option("state", CreateKind::Str, "Select new state of affected keyslots (active/inactive)"),
    option("keyslot", CreateKind::Num, "Select a single keyslot to modify explicitly"),
    option("old-secret", CreateKind::Str, "Select all keyslots that match this password"),
    option(
        "new-secret",
        CreateKind::Str,
        "New secret to set in the matching keyslots. Empty string to erase",
    ),
    option("iter-time", CreateKind::Num, "Time to spend in PBKDF in milliseconds"),
];

/// What slots are to become.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Active,
    Inactive,
}

/// The options, as they were given.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Amend {
    state: State,
    keyslot: Option<u64>,
    old_secret: Option<String>,
    new_secret: Option<String>,
    iter_time: Option<u64>,
}

/// With what a change is made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Context<'a> {
    /// Where secrets are.
    pub(crate) env: Env<'a>,
    /// The id of the secret that opened the image.
    pub(crate) key_secret: Option<&'a str>,
    /// Do what loses data or may lose it.
    pub(crate) force: bool,
}

impl Amend {
    /// The options of a LUKS image.
    ///
    /// # Errors
    /// A value that is none, or no state.
    pub(crate) fn parse(options: &CreateOptions) -> Result<Self> {
        options.parse()
    }

    /// Does what the options say.
    ///
    /// # Errors
    /// QEMU's refusals, or what went wrong.
    pub(crate) fn run(&self, store: &mut dyn KeyStore, ctx: &Context<'_>) -> Result<()> {
        store.check_writable()?;
        match self.state {
            State::Active => self.activate(store, ctx),
            State::Inactive => self.erase(store, ctx),
        }
    }

    fn activate(&self, store: &mut dyn KeyStore, ctx: &Context<'_>) -> Result<()> {
        let Some(new) = &self.new_secret else {
            return Err(Error::invalid("'new-secret' is required to activate a keyslot"));
        };
        if self.old_secret.is_some() {
            return Err(Error::invalid("'old-secret' must not be given when activating keyslots"));
        }
        let slot = self.slot_to_fill(store, ctx.force)?;
        let found = open(store, passphrase::find(ctx.env, ctx.key_secret)?.as_bytes())?;
        let new = named(ctx.env, new)?.as_utf8()?.as_bytes();
        let cost = NewKey { iter_time: self.iter_time.unwrap_or(ITER_TIME), ..NewKey::default() };
        store.fill(slot, &found.key, new, &cost).map_err(|e| match e.hint() {
            Some(_) => e.with_hint(format!("Failed to write to keyslot {slot}")),
            None => e,
        })
    }

    fn slot_to_fill(&self, store: &dyn KeyStore, force: bool) -> Result<usize> {
        let Some(slot) = self.slot(store)? else {
            return store
                .free()
                .ok_or_else(|| Error::invalid("Can't add a keyslot - all keyslots are in use"));
        };
        if store.used().contains(&slot) && !force {
            let text = format!("Refusing to overwrite active keyslot {slot} - please erase it first");
            return Err(Error::invalid(text));
        }
        Ok(slot)
    }

    fn erase(&self, store: &mut dyn KeyStore, ctx: &Context<'_>) -> Result<()> {
        for (name, given) in
            [("new-secret", self.new_secret.is_some()), ("iter-time", self.iter_time.is_some())]
        {
            if given {
                return Err(Error::invalid(format!("'{name}' must not be given when erasing keyslots")));
            }
        }
        let old = self.old_secret.as_deref().map(|id| named(ctx.env, id)).transpose()?;
        match (self.slot(store)?, old) {
            (Some(slot), old) => erase_one(store, slot, old, ctx.force),
            (None, Some(old)) => erase_matching(store, old, ctx.force),
            (None, None) => Err(Error::invalid(
                "To erase keyslot(s), either explicit keyslot index or the password currently contained in them must be given",
            )),
        }
    }

    /// The slot that was named.
    fn slot(&self, store: &dyn KeyStore) -> Result<Option<usize>> {
        let Some(given) = self.keyslot else { return Ok(None) };
        match usize::try_from(given).ok().filter(|slot| *slot < store.slots()) {
            Some(slot) => Ok(Some(slot)),
            None => {
                let (given, last) = (given.cast_signed(), store.slots() - 1);
                let text = format!("Invalid keyslot {given} specified, must be between 0 and {last}");
                Err(Error::invalid(text))
            }
        }
    }
}

/// The secret of that id. Scripts compare what is said when there is none, so there is no hint.
fn named<'a>(env: Env<'a>, id: &str) -> Result<&'a Secret> {
    env.objects.secret(id).map_err(|e| Error::new(e.kind(), e.to_string()))
}

fn erase_one(store: &mut dyn KeyStore, slot: usize, old: Option<&Secret>, force: bool) -> Result<()> {
    let active = store.active();
    if let Some(old) = old
        && !holds(store, slot, old.as_bytes())?
    {
        let text = format!("Given keyslot {slot} doesn't contain the given old password for erase operation");
        return Err(Error::invalid(text));
    }
    if !force && !store.used().contains(&slot) {
        return Err(Error::invalid(format!("Given keyslot {slot} is already erased (inactive) ")));
    }
    if !force && active == [slot] {
        return Err(Error::invalid(format!(
            "Attempt to erase the only active keyslot {slot} which will erase all the data in the image irreversibly - \
             refusing operation"
        )));
    }
    store.erase(slot)
}

fn erase_matching(store: &mut dyn KeyStore, old: &Secret, force: bool) -> Result<()> {
    let slots: Vec<_> = matching(store, old.as_bytes())?.iter().map(|found| found.slot).collect();
    if slots.is_empty() {
        return Err(Error::invalid("No keyslots match given (old) password for erase operation"));
    }
    if !force && slots == store.active() {
        return Err(Error::invalid(
            "All the active keyslots match the (old) password that was given and erasing them will erase all the data in \
             the image irreversibly - refusing operation",
        ));
    }
    slots.into_iter().try_for_each(|slot| store.erase(slot))
}
