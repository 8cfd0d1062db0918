//! Where rules come from: groups of options, or a configuration file with a section for each rule.

use super::EVENTS;
use super::machine::IoType;
use crate::{Context, Error, Options, Result};
use secret::options::OptionError;
use serde::Deserialize;
use serde_json::{Map, Value};

/// What is to happen at an event.
#[derive(Debug, Clone)]
pub(super) struct Rule {
    pub(super) event: String,
    /// The state it holds in; 0 is any.
    pub(super) state: u64,
    pub(super) action: Action,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Action {
    /// Requests fail from now on.
    Inject { errno: i32, once: bool, sector: Option<u64>, iotype: Option<IoType> },
    /// The machine is in another state.
    SetState(u64),
}

#[derive(Debug, Deserialize)]
struct InjectOptions {
    event: Option<String>,
    state: Option<u64>,
    iotype: Option<String>,
    errno: Option<u64>,
    sector: Option<u64>,
    #[serde(default)]
    once: bool,
    /// Requests fail at the same moment either way.
    #[serde(default)]
    #[expect(dead_code, reason = "read for its errors")]
    immediately: bool,
}

#[derive(Debug, Deserialize)]
struct SetStateOptions {
    event: Option<String>,
    state: Option<u64>,
    new_state: Option<u64>,
}

/// A section of rules by its name.
#[derive(Debug, Clone, Copy)]
enum Section {
    InjectError,
    SetState,
}

impl Section {
    fn named(name: &str) -> Option<Self> {
        match name {
            "inject-error" => Some(Section::InjectError),
            "set-state" => Some(Section::SetState),
            _ => None,
        }
    }

    /// Whether it has an option of that name.
    fn has(self, key: &str) -> bool {
        let one = Options::from_pairs([(key, "0")]);
        !matches!(one.map(|one| self.check(&one)), Ok(Err(OptionError::Unknown(_))) | Err(_))
    }

    /// What is wrong with the options of a section, if anything is.
    fn check(self, options: &Options) -> Result<(), OptionError> {
        match self {
            Section::InjectError => options.parse::<InjectOptions>().map(drop),
            Section::SetState => options.parse::<SetStateOptions>().map(drop),
        }
    }

    fn rule(self, options: &Options) -> Result<Rule> {
        match self {
            Section::InjectError => options.parse::<InjectOptions>()?.rule(),
            Section::SetState => options.parse::<SetStateOptions>()?.rule(),
        }
    }
}

impl InjectOptions {
    fn rule(self) -> Result<Rule> {
        let event = known_event(self.event)?;
        let iotype = self.iotype.map(|name| IoType::named(&name).ok_or_else(|| no_value(&name)));
        let errno = self.errno.map_or(nix::libc::EIO, |n| i32::try_from(n).unwrap_or(0));
        let sector = self.sector.filter(|n| *n != u64::MAX);
        let action = Action::Inject { errno, once: self.once, sector, iotype: iotype.transpose()? };
        Ok(Rule { event, state: self.state.unwrap_or(0), action })
    }
}

impl SetStateOptions {
    fn rule(self) -> Result<Rule> {
        let action = Action::SetState(self.new_state.unwrap_or(0));
        Ok(Rule { event: known_event(self.event)?, state: self.state.unwrap_or(0), action })
    }
}

fn known_event(name: Option<String>) -> Result<String> {
    let name = name.ok_or_else(|| Error::invalid("Missing event name for rule"))?;
    if EVENTS.contains(&name.as_str()) { Ok(name) } else { Err(no_value(&name)) }
}

fn no_value(name: &str) -> Error {
    Error::invalid(format!("invalid parameter value: {name}"))
}

/// The rules of a list of options called `name`, a group for each.
///
/// # Errors
/// An option that is unknown, missing or malformed.
pub(super) fn from_options(name: &str, list: Option<&Value>) -> Result<Vec<Rule>> {
    let Some(list) = list else { return Ok(Vec::new()) };
    let section = Section::named(name).ok_or_else(|| no_value(name))?;
    let groups = list.as_object().ok_or_else(|| {
        Error::invalid(format!("Block protocol 'blkdebug' doesn't support the option '{name}'"))
    })?;
    if let Some(rule) = sole_rule(section, name, groups)? {
        return Ok(vec![rule]);
    }
    let mut rules = Vec::new();
    while let Some(group) = groups.get(&rules.len().to_string()).and_then(Value::as_object) {
        let options = Options::from_map(group.clone())?;
        section.check(&options).map_err(|e| match e {
            OptionError::Unknown(key) => {
                Error::invalid(format!("[{name}] section doesn't support the option '{key}'"))
            }
            e => e.into(),
        })?;
        rules.push(section.rule(&options)?);
    }
    match groups.iter().find(|(key, _)| key.parse::<usize>().map_or(true, |n| n >= rules.len())) {
        Some((key, value)) => {
            let index_of_rule = *key == rules.len().to_string() && !value.is_object();
            Err(Error::invalid(match index_of_rule {
                true => format!("[{name}] section (index {key}) does not consist of keys"),
                false => format!("Unused option '{}' for [{name}]", first_leaf(key, value)),
            }))
        }
        None => Ok(rules),
    }
}

/// The rule that a section without numbers is.
fn sole_rule(section: Section, name: &str, group: &Map<String, Value>) -> Result<Option<Rule>> {
    let (own, rest): (Vec<_>, Vec<_>) =
        group.iter().partition(|(key, value)| section.has(key) && !value.is_object());
    if own.is_empty() {
        return Ok(None);
    }
    if let Some((key, value)) = rest.first() {
        let text = format!("Unknown option '{}' for [{name}]", first_leaf(key, value));
        return Err(Error::invalid(text));
    }
    let options =
        Options::from_map(own.into_iter().map(|(key, value)| (key.clone(), value.clone())).collect())?;
    section.rule(&options).map(Some)
}

fn first_leaf(key: &str, value: &Value) -> String {
    let inner = value.as_object().and_then(|map| map.keys().next());
    inner.map_or_else(|| key.to_owned(), |inner| format!("{key}.{inner}"))
}

/// The rules of a configuration file.
///
/// # Errors
/// The file cannot be read, or what is wrong in it.
pub(super) fn from_file(path: &str) -> Result<Vec<Rule>> {
    let text = std::fs::read(path).context(|| "Could not read blkdebug config file")?;
    parse(&String::from_utf8_lossy(&text))
}

fn parse(text: &str) -> Result<Vec<Rule>> {
    let mut sections: Vec<(Section, Options)> = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()) {
        if let Some(name) = line.strip_prefix('[') {
            // The name may be followed by an identifier in quotes, which nothing refers to.
            let name = name.split([']', ' ']).next().unwrap_or_default();
            let section = Section::named(name)
                .ok_or_else(|| Error::invalid(format!("There is no option group '{name}'")))?;
            sections.push((section, Options::new()));
            continue;
        }
        let (section, options) = sections.last_mut().ok_or_else(|| Error::invalid("no group defined"))?;
        let (key, value) = assignment(line);
        let wrong = || Error::invalid(format!("Invalid parameter '{key}'"));
        options.set(key, value).map_err(|_| wrong())?;
        section.check(options).map_err(|e| match e {
            OptionError::Unknown(_) => wrong(),
            e => e.into(),
        })?;
    }
    sections.iter().map(|(section, options)| section.rule(options)).collect()
}

/// `key = "value"`; what is not in quotes counts for nothing.
fn assignment(line: &str) -> (&str, &str) {
    let line = line.trim();
    let (key, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let quoted = rest.trim_start().strip_prefix('=').and_then(|rest| rest.trim_start().strip_prefix('"'));
    (key, quoted.and_then(|rest| rest.split('"').next()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_a_section_for_each_rule() {
        let text = "# what for\n[inject-error]\nevent = \"l2_load\"\nerrno = \"28\"\nonce =\"on\"\n\n\
                    [set-state \"a\"]\n  event = \"none\"\n state = \"1\"\n  new_state = \"2\"\n";
        let rules = parse(text).unwrap();
        assert!(matches!(rules[0].action, Action::Inject { errno: 28, once: true, sector: None, .. }));
        assert!(matches!(
            (&*rules[1].event, rules[1].state, rules[1].action),
            ("none", 1, Action::SetState(2))
        ));
    }

    #[test]
    fn what_is_wrong_in_a_file_is_named() {
        let error = |text: &str| parse(text).unwrap_err().to_string();
        assert_eq!(error("event = \"none\"\n"), "no group defined");
        assert_eq!(error("[bogus]\n"), "There is no option group 'bogus'");
        assert_eq!(error("[inject-error]\nbogus = \"1\"\n"), "Invalid parameter 'bogus'");
        assert_eq!(error("[inject-error]\nevent=\"none\"\n"), "Invalid parameter 'event=\"none\"'");
        assert_eq!(error("[inject-error]\nerrno = 28\n"), "Parameter 'errno' expects a number");
        assert_eq!(error("[inject-error]\nerrno = \"28\"\n"), "Missing event name for rule");
        assert_eq!(error("[set-state]\nevent = \"xx\"\n"), "invalid parameter value: xx");
    }

    #[test]
    fn groups_of_options_are_rules_and_others_are_refused() {
        let list = |json: &str| serde_json::from_str::<Value>(json).unwrap();
        let one = list(r#"{"0": {"event": "none", "iotype": "read"}}"#);
        assert_eq!(from_options("inject-error", Some(&one)).unwrap().len(), 1);
        let error = |json: &str| from_options("inject-error", Some(&list(json))).unwrap_err().to_string();
        assert_eq!(error(r#"{"5": {"event": "none"}}"#), "Unused option '5.event' for [inject-error]");
        assert_eq!(
            error(r#"{"0": {"event": "none", "x": "1"}}"#),
            "[inject-error] section doesn't support the option 'x'"
        );
        assert_eq!(error("\"foo\""), "Block protocol 'blkdebug' doesn't support the option 'inject-error'");
    }
}
