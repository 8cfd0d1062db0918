//! The object type `authz-pam`: the system's PAM service of that name decides whether an account may enter.
//!
//! Only its account management is asked; the name was authenticated by TLS already, and nobody is there to answer questions. Built
//! with the feature `authz-pam` only.

use crate::{Error, Result};
use secret::objects::Request;
use secret::tls::Authorization;
use secret::{Object, ObjectType};
use serde::Deserialize;
use std::ffi::CString;
use std::sync::Arc;

/// The row of the type.
pub(crate) const TYPE: ObjectType =
    ObjectType { name: "authz-pam", options: &[("service", "string")], create };

#[derive(Debug, Deserialize)]
struct PamOptions {
    service: String,
}

#[derive(Debug)]
struct Service(CString);

#[derive(Debug)]
struct Pam(Arc<Service>);

impl Object for Pam {
    fn as_authorization(&self) -> Option<Arc<dyn Authorization>> {
        Some(Arc::clone(&self.0) as _)
    }
}

fn create(request: &Request<'_>) -> Result<Box<dyn Object>> {
    let options: PamOptions = request.parse()?;
    let name = CString::new(options.service)
        .ok()
        .filter(|name| !name.is_empty() && !name.as_bytes().contains(&b'/'));
    let name = name.ok_or_else(|| {
        Error::invalid("Parameter 'service' expects the name of a PAM service")
            .with_hint("Services are the files in /etc/pam.d.")
    })?;
    Ok(Box::new(Pam(Arc::new(Service(name)))))
}

impl Authorization for Service {
    fn allows(&self, name: &str) -> Result<bool> {
        let account = CString::new(name).map_err(|_| Error::invalid("The name of an account has no NUL"))?;
        let service = self.0.to_string_lossy();
        crate::sys::pam_account(&self.0, &account)
            .map_err(|why| Error::invalid(format!("PAM service '{service}' cannot be asked: {why}")))
    }
}

#[cfg(test)]
mod tests {
    use secret::Registry;

    /// What a service says whose file is `rules`; `None` where this user may not make services.
    fn ask(service: &str, rules: &str, name: &str) -> Option<bool> {
        let path = format!("/etc/pam.d/{service}");
        std::fs::write(&path, rules).ok()?;
        let mut objects = Registry::new([crate::OBJECT_TYPES]);
        let _ = objects.add(format!("authz-pam,id=a,service={service}")).unwrap();
        let said = objects.authorization("a").unwrap().allows(name);
        std::fs::remove_file(path).unwrap();
        Some(said.unwrap_or(false))
    }

    #[test]
    fn the_service_decides_about_the_account() {
        let service = format!("blockimg-test-{}", std::process::id());
        let Some(permitted) = ask(&service, "account required pam_permit.so\n", "root") else {
            println!("NOT RUN: /etc/pam.d cannot be written");
            return;
        };
        assert!(permitted);
        assert_eq!(ask(&service, "account required pam_deny.so\n", "root"), Some(false));
        // An account that is none.
        assert_eq!(ask(&service, "account required pam_unix.so\n", "no-such-account-here"), Some(false));
        assert_eq!(ask(&service, "account required pam_unix.so\n", "root"), Some(true));
    }
}
