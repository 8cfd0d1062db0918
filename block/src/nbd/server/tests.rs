//! A whole server with our client, in one process: what needs a TLS layer that is not TLS.

use super::*;
use crate::channel::tls::tests::Masks;
use crate::channel::{Address, ClientTls, Listener, ServerTls, Transport};
use crate::nbd::client::{self, Connection, ExportInfo, Sink, Wanted};
use crate::nbd::wire::{CommandFlags, Request, command};
use crate::protocol::memory::Memory;
use crate::{Image, IoVec, IoVecMut, Limits, Result, WriteCache};
use secret::tls::{Authorization, Endpoint};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

/// Allows one name.
#[derive(Debug)]
struct Only(&'static str);

impl Authorization for Only {
    fn allows(&self, name: &str) -> Result<bool> {
        Ok(name == self.0)
    }
}

/// Runs `clients` against a server that serves one megabyte of sevens; gives what the server said.
fn with_server(tls: Option<ServerTls>, clients: impl FnOnce(&Address)) -> Vec<String> {
    static COUNT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    let number = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let name = format!("blockimg-{}-{number}", std::process::id());
    let address = Address::Abstract(name.into_bytes());
    let image = Image::new(Memory::node(vec![7; 1 << 20], Limits::default()), WriteCache::Back);
    let exports = Exports(vec![Arc::new(Export::new("", image, 0).unwrap())]);
    let options =
        ServerOptions { tls, max_clients: None, persistent: true, handshake_limit: None, threads: 2 };
    let said: Arc<Mutex<Vec<String>>> = Arc::default();
    let log = Arc::clone(&said);
    let listeners = Listener::bind(&address).unwrap();
    let (interrupt, end) = UnixStream::pair().unwrap();
    let server = std::thread::spawn(move || {
        let log = Box::new(move |text: &str| log.lock().unwrap().push(text.to_owned()));
        Server::new(exports, listeners, options, log).unwrap().run(interrupt.as_fd())
    });
    clients(&address);
    drop(end);
    server.join().unwrap().unwrap();
    said.lock().unwrap().clone()
}

fn server_tls(name: Option<&'static str>, allowed: Option<&'static str>) -> ServerTls {
    let authorization = allowed.map(|name| Arc::new(Only(name)) as Arc<dyn Authorization>);
    ServerTls { credentials: Arc::new(Masks(Endpoint::Server, name)), authorization }
}

fn client_tls() -> ClientTls {
    ClientTls { credentials: Arc::new(Masks(Endpoint::Client, None)), hostname: None }
}

fn negotiate(address: &Address, tls: bool) -> Result<(ExportInfo, Arc<dyn Transport>)> {
    let socket = Arc::new(address.connect().unwrap());
    client::negotiate(socket, &Wanted::default(), tls.then(client_tls).as_ref())
}

#[test]
fn everything_goes_through_tls_once_it_was_asked_for() {
    let said = with_server(Some(server_tls(Some("CN=me"), Some("CN=me"))), |address| {
        let (info, transport) = negotiate(address, true).unwrap();
        let connection = Connection::new(transport, info);
        let flags = CommandFlags::empty();
        let request = Request { flags, command: command::READ, cookie: 0, offset: 4096, length: 100_000 };
        let mut bytes = vec![0; 100_000];
        let mut to = IoVecMut::from(&mut bytes[..]);
        connection.call(request, &IoVec::new(), Sink::Data(&mut to)).unwrap();
        drop(to);
        connection.disconnect();
        assert!(bytes.iter().all(|b| *b == 7));
    });
    assert!(said.is_empty(), "{said:?}");
}

#[test]
fn whoever_is_not_allowed_gets_nothing_and_is_named() {
    for (name, text) in [
        (Some("CN=you"), "option negotiation failed: TLS x509 authz check for CN=you is denied"),
        (None, "option negotiation failed: TLS peer has no name to authorize"),
    ] {
        let said = with_server(Some(server_tls(name, Some("CN=me"))), |address| {
            assert!(negotiate(address, true).is_err());
        });
        assert_eq!(said, [text]);
    }
}

#[test]
fn a_side_that_wants_tls_does_not_do_without() {
    with_server(Some(server_tls(None, None)), |address| {
        let error = negotiate(address, false).unwrap_err();
        assert_eq!(error.to_string(), "TLS negotiation required before option 7 (go)");
        let hint = error.hint().unwrap_or_default();
        assert_eq!(
            hint,
            "Did you forget a valid tls-creds?\nserver reported: Option 0x7 not permitted before TLS"
        );
    });
    with_server(None, |address| {
        let error = negotiate(address, true).unwrap_err();
        assert_eq!(error.to_string(), "Denied by server for option 5 (starttls)");
    });
}
