//! The object type `authz-list`: rules in order, the first that fits decides.

use super::Judge;
use crate::Result;
use crate::objects::{Object, ObjectType, Request};
use crate::options::glob;
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
            Format::Glob => glob::fits(&rule.r#match, name),
        };
        self.rules.iter().find(fits).map_or(self.policy, |rule| rule.policy) == Policy::Allow
    }
}

impl Authorization for List {
    fn allows(&self, name: &str) -> Result<bool> {
        Ok(self.judge(name))
    }
}
