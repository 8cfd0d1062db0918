//! The object type `authz-list`: rules in order, the first that fits decides.

use super::Judge;
use crate::Result;
use crate::objects::{Object, ObjectType, Request};
use crate::tls::Authorization;
use serde::Deserialize;

pub(super) const TYPE: ObjectType = ObjectType {
    name: "authz-list",
    options: &[("policy", "QAuthZListPolicy"), ("rules", "QAuthZListRule")],
    create,
};

/// What becomes of who it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Policy {
    #[default]
    Deny,
    Allow,
}

/// How a rule's text is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Format {
    #[default]
    Exact,
    Glob,
}

#[derive(Debug, Deserialize)]
struct Rule {
    r#match: String,
    policy: Policy,
    #[serde(default)]
    format: Format,
}

/// Rules, and what happens where none fits.
#[derive(Debug, Deserialize)]
pub(super) struct List {
    #[serde(default)]
    policy: Policy,
    #[serde(default)]
    rules: Vec<Rule>,
}

fn create(request: &Request<'_>) -> Result<Box<dyn Object>> {
    Ok(Judge::object(request.parse::<List>()?))
}

impl List {
    /// Rules that let nobody in.
    pub(super) fn nobody() -> Self {
        List { policy: Policy::Deny, rules: Vec::new() }
    }

    /// Whether `name` may enter.
    pub(super) fn judge(&self, name: &str) -> bool {
        let fits = |rule: &&Rule| match rule.format {
            Format::Exact => rule.r#match == name,
            Format::Glob => glob(&rule.r#match, name),
        };
        self.rules.iter().find(fits).map_or(self.policy, |rule| rule.policy) == Policy::Allow
    }
}

impl Authorization for List {
    fn allows(&self, name: &str) -> Result<bool> {
        Ok(self.judge(name))
    }
}

/// Whether the whole of `text` fits a pattern in which `*` stands for anything and `?` for one character.
fn glob(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t) = (0, 0);
    // Where to go on when what follows the last star does not fit: one more character is the star's.
    let mut retry = None;
    while t < text.len() {
        match pattern.get(p) {
            Some('*') => {
                retry = Some((p + 1, t));
                p += 1;
            }
            Some(c) if *c == '?' || *c == text[t] => (p, t) = (p + 1, t + 1),
            _ => match &mut retry {
                Some((after, from)) => {
                    *from += 1;
                    (p, t) = (*after, *from);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::glob;

    #[test]
    fn a_pattern_covers_the_whole_text() {
        for (pattern, text) in [
            ("", ""),
            ("*", ""),
            ("*", "a"),
            ("a*", "a"),
            ("a?c", "abc"),
            ("*b*", "abc"),
            ("*a*a*", "aa"),
            ("**", "x"),
            ("CN=*,O=Foo", "CN=a,CN=b,O=Foo"),
            ("?", "ä"),
            ("*ab", "aab"),
            ("a*b*c", "aXbXbXc"),
        ] {
            assert!(glob(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [
            ("", "a"),
            ("a", ""),
            ("?", ""),
            ("a*", "ba"),
            ("*a", "ab"),
            ("a?c", "ac"),
            ("[a]", "a"),
            ("a*b", "abc"),
            ("CN=fred", "CN=freddy"),
        ] {
            assert!(!glob(pattern, text), "{pattern} {text}");
        }
    }

    #[test]
    fn many_stars_do_not_take_for_ever() {
        let pattern = "a*".repeat(200) + "b";
        assert!(!glob(&pattern, &"a".repeat(4000)));
    }
}
