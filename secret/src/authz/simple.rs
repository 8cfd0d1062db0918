//! The object type `authz-simple`: one name may enter.

use super::Judge;
use crate::Result;
use crate::objects::{Object, ObjectType, Request};
use crate::tls::Authorization;
use serde::Deserialize;

pub(super) const TYPE: ObjectType =
    ObjectType { name: "authz-simple", options: &[("identity", "string")], create };

#[derive(Debug, Deserialize)]
struct Simple {
    identity: String,
}

fn create(request: &Request<'_>) -> Result<Box<dyn Object>> {
    Ok(Judge::object(request.parse::<Simple>()?))
}

impl Authorization for Simple {
    fn allows(&self, name: &str) -> Result<bool> {
        Ok(name == self.identity)
    }
}
