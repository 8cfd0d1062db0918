//! Authorisation: objects that judge the names of clients, as certificates or shared keys give them.
//!
//! All answer one question, [`Authorization::allows`]; whoever asks lets nobody in when the answer is an error.

mod file;
mod list;
mod simple;
#[cfg(test)]
mod tests;

use crate::objects::{Object, ObjectType};
use crate::tls::Authorization;
use std::sync::Arc;

/// The object types; the file of rules goes by two names, as the tools we stand in for know it by one and document the other.
pub(crate) const OBJECT_TYPES: [ObjectType; 4] = [simple::TYPE, list::TYPE, file::TYPE, file::SECOND_NAME];

/// An object that is an authorisation.
#[derive(Debug)]
struct Judge<A>(Arc<A>);

impl<A: Authorization + 'static> Judge<A> {
    fn object(authorization: A) -> Box<dyn Object> {
        Box::new(Judge(Arc::new(authorization)))
    }
}

impl<A: Authorization + 'static> Object for Judge<A> {
    fn as_authorization(&self) -> Option<Arc<dyn Authorization>> {
        Some(Arc::clone(&self.0) as _)
    }
}
