//! NBD as a protocol: an export of a server as a node. This file is the row, the options and the file names.

mod driver;
mod link;
mod tls;

use crate::channel::{Address, Families};
use crate::graph::{DriverKind, DriverRow, OpenCtx};
use crate::nbd::client::Wanted;
use crate::nbd::wire::{BASE_ALLOCATION, DEFAULT_PORT, MAX_STRING};
use crate::{Driver, Error, Options, Result};
use link::{Link, LinkOptions};
use serde::Deserialize;
use serde_json::Value;
use std::time::Duration;
use tls::TlsOptions;

/// Network block devices.
pub static NBD: DriverRow = DriverRow {
    prefixes: &["nbd", "nbd+tcp", "nbd+unix", "nbds", "nbds+tcp", "nbds+unix"],
    parse_filename,
    filename: |options, _| filename(options),
    strong_options: &["path", "host", "port", "export", "tls-creds", "tls-hostname", "server"],
    create: Some(&crate::protocol::existing::ROW),
    ..DriverRow::new("nbd", DriverKind::Protocol, open)
};

/// The most connections one node opens.
const MAX_CONNECTIONS: u32 = 16;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct NbdOptions {
    server: Option<Server>,
    host: Option<Text>,
    port: Option<Text>,
    path: Option<Text>,
    #[serde(default)]
    export: String,
    tls_creds: Option<String>,
    /// Ours, from `nbds://`: TLS with the only client credentials there are, where none are named.
    #[serde(default)]
    tls: bool,
    tls_hostname: Option<String>,
    /// Ours, as all below: a folder of certificates, instead of an object.
    tls_certificates: Option<String>,
    tls_verify_peer: Option<bool>,
    /// A file of shared keys, and whose to take.
    tls_psk_file: Option<String>,
    tls_username: Option<String>,
    x_dirty_bitmap: Option<String>,
    #[serde(default)]
    reconnect_delay: u32,
    #[serde(default)]
    open_timeout: u32,
    /// Ours: how many connections to open to a server that allows several.
    multi_conn: Option<u32>,
    /// Ours: after a reconnect, do not fail the flush of writes the dead server had acknowledged.
    #[serde(default)]
    reconnect_unsafe: bool,
}

/// A number given where text is expected stands for its digits.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Text {
    Text(String),
    Number(i64),
}

impl Text {
    fn into_string(self) -> String {
        match self {
            Text::Text(text) => text,
            Text::Number(number) => number.to_string(),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Server {
    r#type: String,
    host: Option<Text>,
    port: Option<Text>,
    path: Option<String>,
    #[serde(default)]
    r#abstract: bool,
    cid: Option<Text>,
    r#str: Option<Text>,
    #[serde(default = "yes")]
    ipv4: bool,
    #[serde(default = "yes")]
    ipv6: bool,
    #[serde(rename = "tight")]
    _tight: Option<bool>,
    #[serde(rename = "numeric")]
    _numeric: Option<bool>,
    #[serde(rename = "to")]
    _to: Option<Text>,
    #[serde(rename = "keep-alive")]
    _keep_alive: Option<bool>,
}

fn yes() -> bool {
    true
}

fn open(ctx: &mut OpenCtx<'_>) -> Result<Box<dyn Driver>> {
    let options: NbdOptions = ctx.options()?;
    if options.export.len() > MAX_STRING {
        return Err(Error::invalid("export name too long to send to server"));
    }
    let context = options.x_dirty_bitmap.clone().unwrap_or_else(|| BASE_ALLOCATION.to_owned());
    let bitmap = options.x_dirty_bitmap.is_some();
    let wanted = Wanted { export: options.export.clone(), context: Some(context), ..Wanted::default() };
    let connections = options.multi_conn.unwrap_or(1).clamp(1, MAX_CONNECTIONS);
    let link_options = LinkOptions {
        open_timeout: Duration::from_secs(options.open_timeout.into()),
        reconnect_delay: Duration::from_secs(options.reconnect_delay.into()),
        reconnect_unsafe: options.reconnect_unsafe,
        connections,
    };
    let secure = TlsOptions {
        creds: options.tls_creds.clone(),
        wanted: options.tls,
        hostname: options.tls_hostname.clone(),
        certificates: options.tls_certificates.clone(),
        verify_peer: options.tls_verify_peer.unwrap_or(true),
        psk_file: options.tls_psk_file.clone(),
        username: options.tls_username.clone(),
    };
    let address = address(options)?;
    let tls = secure.client(ctx.env.objects, &address)?;
    let link = Link::open(address, tls, wanted, link_options)?;
    driver::open(link, bitmap, ctx.flags.writable)
}

fn address(options: NbdOptions) -> Result<Address> {
    let NbdOptions { server, host, port, path, .. } = options;
    let legacy = host.is_some() || port.is_some() || path.is_some();
    match (server, path, host) {
        (Some(_), ..) if legacy => {
            Err(Error::invalid("Cannot use 'server' and path/host/port at the same time"))
        }
        (Some(server), ..) => server_address(server),
        (None, Some(_), Some(_)) => Err(Error::invalid("path and host may not be used at the same time")),
        (None, Some(path), None) => Ok(Address::Unix(path.into_string().into())),
        (None, None, Some(host)) => {
            let port = port.map_or_else(|| DEFAULT_PORT.to_string(), Text::into_string);
            Ok(Address::inet(host.into_string(), port))
        }
        (None, None, None) => Err(Error::invalid("NBD server address missing")),
    }
}

fn server_address(server: Server) -> Result<Address> {
    let need = |value: Option<Text>, name: &str| {
        let text = value.map(Text::into_string);
        text.ok_or_else(|| Error::invalid(format!("Parameter '{name}' is missing")))
    };
    let number = |text: String, name: &str| -> Result<u32> {
        text.parse().map_err(|_| Error::invalid(format!("Parameter '{name}' expects a number")))
    };
    match server.r#type.as_str() {
        "inet" => {
            let host = need(server.host, "host")?;
            let port = need(server.port, "port")?;
            Ok(Address::Inet { host, port, families: Families { ipv4: server.ipv4, ipv6: server.ipv6 } })
        }
        "unix" => {
            let path = need(server.path.map(Text::Text), "path")?;
            Ok(if server.r#abstract {
                Address::Abstract(path.into_bytes())
            } else {
                Address::Unix(path.into())
            })
        }
        "vsock" => Ok(Address::Vsock {
            cid: number(need(server.cid, "cid")?, "cid")?,
            port: number(need(server.port, "port")?, "port")?,
        }),
        "fd" => {
            let text = need(server.r#str, "str")?;
            let fd = text.parse().map_err(|_| {
                Error::invalid(format!("No file descriptor named '{text}' found"))
                    .with_hint("Only numbers of inherited descriptors are known.")
            })?;
            Ok(Address::Fd(fd))
        }
        other => Err(Error::invalid(format!("Parameter 'type' does not accept value '{other}'"))),
    }
}

/// `nbd:HOST:PORT[:exportname=E]`, `nbd:unix:PATH[:exportname=E]`, and URIs.
fn parse_filename(filename: &str) -> Result<Options> {
    if filename.contains("://") {
        return parse_uri(filename).ok_or_else(|| Error::invalid("No valid URL specified"));
    }
    let rest = filename.strip_prefix("nbd:").unwrap_or(filename);
    let (address, export) = match rest.split_once(":exportname=") {
        Some((address, export)) => (address, Some(export)),
        None => (rest, None),
    };
    if address.is_empty() {
        return Err(Error::invalid("NBD server address missing"));
    }
    let mut pairs: Vec<(&str, String)> = match address.strip_prefix("unix:") {
        Some(path) => vec![("server.type", "unix".into()), ("server.path", path.into())],
        None => {
            let (host, port) = split_host(address)
                .ok_or_else(|| Error::invalid(format!("error parsing address '{address}'")))?;
            vec![("server.type", "inet".into()), ("server.host", host), ("server.port", port)]
        }
    };
    pairs.extend(export.map(|export| ("export", export.to_owned())));
    Options::from_pairs(pairs)
}

/// `HOST:PORT`, the host in brackets where it contains colons.
fn split_host(address: &str) -> Option<(String, String)> {
    let (host, port) = match address.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            (host, port.strip_prefix(':')?)
        }
        None => address.split_once(':')?,
    };
    Some((host.to_owned(), port.to_owned()))
}

/// `nbd://HOST[:PORT]/EXPORT` and `nbd+unix:///EXPORT?socket=PATH`; with `nbds`, ours, over TLS, where the query may also
/// say all that TLS needs ([`tls::from_query`]).
fn parse_uri(uri: &str) -> Option<Options> {
    let (scheme, rest) = uri.split_once("://")?;
    let rest = rest.split('#').next()?;
    let (rest, query) = rest.split_once('?').map_or((rest, ""), |(rest, query)| (rest, query));
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (family, secure) = match scheme.strip_prefix("nbds") {
        Some(family) => (family, true),
        None => (scheme.strip_prefix("nbd")?, false),
    };
    let (user, authority) =
        authority.rsplit_once('@').map_or((None, authority), |(user, host)| (Some(user), host));
    let mut query = parse_query(query)?;
    let mut pairs = Vec::new();
    match family {
        "+unix" if authority.is_empty() => {
            let at = query.iter().position(|(key, _)| *key == "socket")?;
            let (_, socket) = query.remove(at);
            pairs.extend([("server.type", "unix".to_owned()), ("server.path", socket)]);
        }
        "" | "+tcp" if !authority.is_empty() => {
            let (host, port) = uri_host(authority)?;
            pairs.extend([
                ("server.type", "inet".to_owned()),
                ("server.host", decode(&host)?),
                ("server.port", port),
            ]);
        }
        _ => return None,
    }
    if secure {
        pairs.push(("tls", "on".to_owned()));
        pairs.extend(tls::from_query(&mut query));
        if let Some(user) = user {
            pairs.push(("tls-username", decode(user)?));
        }
    }
    let export = decode(path)?;
    if !export.is_empty() {
        pairs.push(("export", export));
    }
    if query.is_empty() { Options::from_pairs(pairs).ok() } else { None }
}

/// The keys and values of a query.
fn parse_query(query: &str) -> Option<Vec<(&str, String)>> {
    let parts = query.split('&').filter(|part| !part.is_empty());
    parts.map(|part| part.split_once('=').and_then(|(key, value)| Some((key, decode(value)?)))).collect()
}

fn uri_host(authority: &str) -> Option<(String, String)> {
    let default = || DEFAULT_PORT.to_string();
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
    };
    let port = match port.strip_prefix(':') {
        Some("") => default(),
        Some(port) => port.parse::<u16>().ok()?.to_string(),
        None if port.is_empty() => default(),
        None => return None,
    };
    Some((host.to_owned(), port))
}

/// Undoes percent-encoding; `None` when the result is no text.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let escaped = |rest: &mut std::str::Bytes<'_>| {
            let (a, b) = (char::from(rest.next()?).to_digit(16)?, char::from(rest.next()?).to_digit(16)?);
            u8::try_from(a * 16 + b).ok()
        };
        bytes.push(if byte == b'%' { escaped(&mut rest)? } else { byte });
    }
    String::from_utf8(bytes).ok()
}

/// The URI of a node, where its options are what a URI can say.
fn filename(options: &Options) -> Option<String> {
    // How the connection is secured is not said, as in the tool we stand in for.
    let text = |key: &str| match options.get(key)? {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    };
    let export = text("export").map(|export| format!("/{export}"));
    let unix = text("path").or_else(|| text("server.path"));
    if options.get("server.abstract").is_some() {
        return None;
    }
    if let Some(path) = unix {
        return Some(format!("nbd+unix://{}?socket={path}", export.unwrap_or_default()));
    }
    let host = text("host").or_else(|| text("server.host"))?;
    let port = text("port").or_else(|| text("server.port")).unwrap_or_else(|| DEFAULT_PORT.to_string());
    Some(format!("nbd://{host}:{port}{}", export.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(name: &str) -> Option<String> {
        filename(&parse_filename(name).ok()?)
    }

    #[test]
    fn every_spelling_of_a_server_comes_out_as_one_uri() {
        for (name, uri) in [
            ("nbd:h:1", "nbd://h:1"),
            ("nbd:h:1:exportname=a:b", "nbd://h:1/a:b"),
            ("nbd:[::1]:1", "nbd://::1:1"),
            ("nbd:unix:/s", "nbd+unix://?socket=/s"),
            ("nbd:unix:/s:exportname=e", "nbd+unix:///e?socket=/s"),
            ("nbd://h", "nbd://h:10809"),
            ("nbd+tcp://h:2/e%20f", "nbd://h:2/e f"),
            ("nbd+unix:///e?socket=/s%3f", "nbd+unix:///e?socket=/s?"),
        ] {
            assert_eq!(parsed(name).as_deref(), Some(uri), "{name}");
        }
    }

    #[test]
    fn secure_uris_ask_for_tls_and_may_name_credentials() {
        let options = parse_filename("nbds+unix:///e?tls-creds=t0&socket=/s%26&tls-hostname=h").unwrap();
        let text = |key: &str| options.get(key).and_then(Value::as_str).map(str::to_owned);
        let found = ["tls", "tls-creds", "tls-hostname", "server.path", "export"].map(text);
        assert_eq!(found.map(Option::unwrap), ["on", "t0", "h", "/s&", "e"]);
        assert!(parse_filename("nbds://h:1/e").unwrap().get("tls").is_some());
    }

    #[test]
    fn uris_that_say_too_much_or_too_little_are_refused() {
        for name in [
            "nbd+unix:///e",
            "nbd+unix:///e?foo=1",
            "nbd://h?tls-creds=t",
            "nbds://h?socket=/s",
            "nbdx://h",
            "nbd://h?x=y",
            "nbd://",
            "nbd:",
            "nbd:foo",
            "nbd://h:99999",
        ] {
            assert_eq!(parsed(name), None, "{name}");
        }
    }
}
