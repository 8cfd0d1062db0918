//! The `ssh` protocol as far as its refusals: names and options are judged and the server is reached for, as the tool we
//! stand in for does; then the user is told that this program does not speak SSH.

use crate::channel::Address;
use crate::graph::{DriverKind, DriverRow, OpenCtx};
use crate::{Driver, Error, Options, Result};
use serde::Deserialize;

/// The `ssh` driver.
pub static SSH: DriverRow = DriverRow {
    prefixes: &["ssh"],
    parse_filename,
    filename: |_, _| None,
    strong_options: &["host", "port", "path", "user", "server"],
    ..DriverRow::new("ssh", DriverKind::Protocol, open)
};

/// What a server is asked for.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct SshOptions {
    host: Option<String>,
    port: Option<u16>,
    path: Option<String>,
    server: Option<Server>,
    // How to log in is nothing to us.
    #[serde(rename = "user")]
    _user: Option<String>,
    #[serde(rename = "host-key-check")]
    _host_key_check: Option<serde_json::Value>,
    #[serde(rename = "host_key_check")]
    _legacy_host_key_check: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Server {
    host: String,
    port: String,
    #[serde(rename = "ipv4")]
    _ipv4: Option<bool>,
    #[serde(rename = "ipv6")]
    _ipv6: Option<bool>,
}

/// `ssh://[USER@]HOST[:PORT]/PATH`.
fn parse_filename(name: &str) -> Result<Options> {
    let rest = name.strip_prefix("ssh:").unwrap_or(name);
    let rest = rest.strip_prefix("//").ok_or_else(|| Error::invalid("missing hostname in URI"))?;
    let (authority, path) = match rest.find('/') {
        Some(slash) => rest.split_at(slash),
        None => (rest, ""),
    };
    let (user, place) = authority.rsplit_once('@').map_or((None, authority), |(u, p)| (Some(u), p));
    let (host, port) = match place.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port),
        _ => (place, "22"),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if host.is_empty() {
        return Err(Error::invalid("missing hostname in URI"));
    }
    if path.is_empty() {
        return Err(Error::invalid("missing remote path in URI"));
    }
    let mut options = Options::from_pairs([("server.host", host), ("server.port", port), ("path", path)])?;
    if let Some(user) = user {
        options.set("user", user)?;
    }
    Ok(options)
}

fn open(ctx: &mut OpenCtx<'_>) -> Result<Box<dyn Driver>> {
    let options: SshOptions = ctx.options()?;
    let address = match (options.server, options.host) {
        (Some(server), _) => Address::inet(server.host, server.port),
        (None, Some(host)) => Address::inet(host, options.port.unwrap_or(22).to_string()),
        (None, None) => return Err(Error::invalid("Parameter 'server' is missing")),
    };
    if options.path.is_none() {
        return Err(Error::invalid("Parameter 'path' is missing"));
    }
    address.connect()?;
    Err(Error::unsupported("This program does not speak SSH")
        .with_hint("Mount the directory with sshfs, or serve the image over NBD."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_names_host_port_user_and_path() {
        let options = parse_filename("ssh://me@host:2222/a/b").unwrap();
        for (key, value) in
            [("server.host", "host"), ("server.port", "2222"), ("user", "me"), ("path", "/a/b")]
        {
            assert_eq!(options.get_str(key), Some(value));
        }
        assert_eq!(parse_filename("ssh:x").unwrap_err().to_string(), "missing hostname in URI");
        assert_eq!(parse_filename("ssh://h").unwrap_err().to_string(), "missing remote path in URI");
    }
}
