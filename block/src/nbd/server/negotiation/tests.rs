//! What the negotiation answers, byte for byte.

use super::super::MetaContext;
use super::*;
use crate::protocol::memory::Memory;
use crate::{Image, Limits, WriteCache};

fn export(name: &str) -> Arc<Export> {
    let image = Image::new(Memory::node(vec![0; 1 << 20], Limits::default()), WriteCache::Back);
    let mut export = Export::new(name, image, 0).unwrap();
    export.contexts.push(MetaContext::AllocationDepth);
    Arc::new(export)
}

fn exports() -> Arc<Exports> {
    Arc::new(Exports(vec![export(""), export("second")]))
}

/// A negotiation after the client's flags, its greeting taken.
fn started(tls: Tls) -> Negotiation {
    let mut server = Negotiation::new(exports(), tls);
    assert_eq!(server.output.len(), 18);
    server.output.clear();
    assert!(matches!(server.receive(&3u32.to_be_bytes()), Step::Continue));
    server
}

fn option_bytes(option: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = OPTION_MAGIC.to_be_bytes().to_vec();
    bytes.extend(option.to_be_bytes());
    bytes.extend(u32::try_from(data.len()).unwrap().to_be_bytes());
    bytes.extend(data);
    bytes
}

/// The kinds and payloads of the replies that wait to be sent.
fn replies(server: &mut Negotiation) -> Vec<(u32, Vec<u8>)> {
    let output = std::mem::take(&mut server.output);
    let mut fields = Fields(&output);
    let mut list = Vec::new();
    while let Some(magic) = fields.u64() {
        assert_eq!(magic, OPTION_REPLY_MAGIC);
        let (_option, kind, len) = (fields.u32().unwrap(), fields.u32().unwrap(), fields.u32().unwrap());
        list.push((kind, fields.bytes(len as usize).unwrap().to_vec()));
    }
    list
}

fn ask(server: &mut Negotiation, option: u32, data: &[u8]) -> Vec<u32> {
    let step = server.receive(&option_bytes(option, data));
    assert!(matches!(step, Step::Continue), "{step:?}");
    replies(server).into_iter().map(|(kind, _)| kind).collect()
}

fn name_and(name: &str, rest: &[u8]) -> Vec<u8> {
    let mut data = u32::try_from(name.len()).unwrap().to_be_bytes().to_vec();
    data.extend(name.as_bytes());
    data.extend(rest);
    data
}

fn queries(name: &str, list: &[&str]) -> Vec<u8> {
    let mut rest = u32::try_from(list.len()).unwrap().to_be_bytes().to_vec();
    list.iter().for_each(|q| rest.extend(name_and(q, &[])));
    name_and(name, &rest)
}

#[test]
fn a_client_that_sends_one_byte_at_a_time_gets_the_same_answers() {
    let mut bytes = 3u32.to_be_bytes().to_vec();
    bytes.extend(option_bytes(option::STRUCTURED_REPLY, &[]));
    bytes.extend(option_bytes(option::GO, &name_and("second", &[0, 0])));
    bytes.extend(b"next");
    let mut whole = Negotiation::new(exports(), Tls::None);
    let Step::Go(session, rest) = whole.receive(&bytes) else { panic!("no transmission") };
    assert_eq!((session.export.name.as_str(), session.headers), ("second", Headers::Structured));
    assert_eq!(rest, b"next");
    let mut slow = Negotiation::new(exports(), Tls::None);
    let steps: Vec<_> = bytes[..bytes.len() - 4].iter().map(|b| slow.receive(&[*b])).collect();
    assert!(matches!(steps.last(), Some(Step::Go(..))));
    assert_eq!(slow.output, whole.output);
}

#[test]
fn headers_can_only_be_upgraded_once_and_forwards() {
    let mut server = started(Tls::None);
    assert_eq!(ask(&mut server, option::STRUCTURED_REPLY, &[1]), [reply::ERR_INVALID]);
    assert_eq!(ask(&mut server, option::STRUCTURED_REPLY, &[]), [reply::ACK]);
    assert_eq!(ask(&mut server, option::STRUCTURED_REPLY, &[]), [reply::ERR_INVALID]);
    assert_eq!(ask(&mut server, option::EXTENDED_HEADERS, &[]), [reply::ACK]);
    assert_eq!(ask(&mut server, option::STRUCTURED_REPLY, &[]), [reply::ERR_EXT_HEADER_REQD]);
}

#[test]
fn contexts_are_listed_by_namespace_but_set_by_name() {
    let mut server = started(Tls::None);
    let list = option::LIST_META_CONTEXT;
    let set = option::SET_META_CONTEXT;
    let found = [reply::META_CONTEXT, reply::ACK];
    assert_eq!(ask(&mut server, set, &queries("", &["base:allocation"])), [reply::ERR_INVALID]);
    assert_eq!(ask(&mut server, list, &queries("", &[])).len(), 3);
    assert_eq!(ask(&mut server, list, &queries("", &["qemu:"])), found);
    assert_eq!(ask(&mut server, list, &queries("none", &[])), [reply::ERR_UNKNOWN]);
    ask(&mut server, option::STRUCTURED_REPLY, &[]);
    assert_eq!(ask(&mut server, set, &queries("", &["base:"])), [reply::ACK]);
    assert_eq!(ask(&mut server, set, &queries("", &["base:allocation", "x:y"])), found);
    assert_eq!(ask(&mut server, set, &u32::MAX.to_be_bytes()), [reply::ERR_INVALID]);
}

#[test]
fn contexts_hold_only_for_the_export_they_were_set_for() {
    for (name, count) in [("", 1), ("second", 0)] {
        let mut server = started(Tls::None);
        ask(&mut server, option::STRUCTURED_REPLY, &[]);
        ask(&mut server, option::SET_META_CONTEXT, &queries("", &["base:allocation"]));
        let go = option_bytes(option::GO, &name_and(name, &[0, 0]));
        let Step::Go(session, _) = server.receive(&go) else { panic!("no transmission") };
        assert_eq!(session.contexts.len(), count);
    }
}

#[test]
fn nothing_is_told_before_tls_when_tls_is_required() {
    let mut server = started(Tls::Required);
    for option in [option::LIST, option::GO, option::INFO, option::STRUCTURED_REPLY, 77] {
        assert_eq!(ask(&mut server, option, &[]), [reply::ERR_TLS_REQD]);
    }
    assert!(matches!(server.receive(&option_bytes(option::STARTTLS, &[])), Step::StartTls));
    server.output.clear();
    server.secured();
    assert_eq!(ask(&mut server, option::STARTTLS, &[]), [reply::ERR_INVALID]);
    assert_eq!(ask(&mut server, option::LIST, &[]).len(), 3);
    let mut server = started(Tls::Required);
    assert!(matches!(server.receive(&option_bytes(option::EXPORT_NAME, &[])), Step::End(Some(_))));
    let mut injected = option_bytes(option::STARTTLS, &[]);
    injected.extend(option_bytes(option::LIST, &[]));
    assert!(matches!(started(Tls::Required).receive(&injected), Step::End(Some(_))));
}

#[test]
fn garbage_at_any_step_ends_the_negotiation_or_is_refused() {
    let mut server = Negotiation::new(exports(), Tls::None);
    assert!(matches!(server.receive(&0xffu32.to_be_bytes()), Step::End(Some(_))));
    let garbage = [0x55; 64];
    assert!(matches!(started(Tls::None).receive(&garbage), Step::End(Some(_))));
    let mut server = started(Tls::None);
    for option in [option::INFO, option::GO, option::LIST_META_CONTEXT, option::LIST, 6, 9] {
        assert_eq!(ask(&mut server, option, &garbage), [reply::ERR_INVALID], "{option}");
    }
    assert!(matches!(server.receive(&option_bytes(option::EXPORT_NAME, &garbage)), Step::End(Some(_))));
}

#[test]
fn an_option_of_many_megabytes_is_skipped_without_being_kept() {
    let mut server = started(Tls::None);
    let mut header = option_bytes(option::GO, &[]);
    header[12..].copy_from_slice(&(32u32 << 20).to_be_bytes());
    assert!(matches!(server.receive(&header), Step::Continue));
    for _ in 0..512 {
        assert!(matches!(server.receive(&vec![0; 1 << 16]), Step::Continue));
        assert!(server.input.is_empty());
    }
    assert_eq!(replies(&mut server)[0].0, reply::ERR_TOO_BIG);
    header[12..].copy_from_slice(&u32::MAX.to_be_bytes());
    assert!(matches!(server.receive(&header), Step::End(Some(_))));
}

#[test]
fn a_client_that_asks_without_reading_is_not_answered_without_end() {
    let mut server = started(Tls::None);
    let many: Vec<u8> = (0..10_000).flat_map(|_| option_bytes(option::LIST, &[])).collect();
    assert!(matches!(server.receive(&many), Step::Continue));
    assert!(server.output.len() < 2 * MAX_OUTPUT);
    let mut acks = 0;
    while !server.output.is_empty() {
        acks += replies(&mut server).iter().filter(|(kind, _)| *kind == reply::ACK).count();
        server.receive(&[]);
    }
    assert_eq!(acks, 10_000);
}

#[test]
fn the_old_way_to_name_an_export_ends_with_zeroes_unless_they_were_dropped() {
    for (flags, len) in [(1u32, 8 + 2 + 124), (3, 8 + 2)] {
        let mut server = Negotiation::new(exports(), Tls::None);
        server.output.clear();
        server.receive(&flags.to_be_bytes());
        assert!(matches!(server.receive(&option_bytes(option::EXPORT_NAME, b"second")), Step::Go(..)));
        assert_eq!(server.output.len(), len);
    }
}
