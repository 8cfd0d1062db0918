//! Requests through the filter: what fails when, and how they are cut.

use super::rules::{Action, Rule};
use super::*;
use crate::protocol::memory::Memory;
use crate::{Image, Kind, Node, NodeFlags, NodeName, WriteCache};

fn node(asked: Asked, rules: Vec<Rule>) -> Arc<Node> {
    let image = Memory::child(vec![1; 64 << 10]);
    let shared = Shared {
        machine: Mutex::new(Machine::new(rules)),
        stops: Stops::default(),
        written: AtomicBool::new(false),
    };
    let driver = Blkdebug::new(image, asked, Arc::new(shared));
    let flags = NodeFlags { discard: true, ..NodeFlags::default() };
    Node::new(Box::new(driver), NodeName::default(), flags)
}

fn fails(event: &str, kind: Option<IoType>) -> Vec<Rule> {
    let action = Action::Inject { errno: nix::libc::ENOSPC, once: true, sector: None, iotype: kind };
    vec![Rule { event: event.to_owned(), state: 0, action }]
}

#[test]
fn the_request_after_an_event_fails_and_the_next_does_not() {
    let image = Image::new(node(Asked::default(), fails("pwritev", None)), WriteCache::Back);
    image.read(0, &mut [0; 10]).unwrap();
    assert_eq!(image.write(0, &[2; 10]).unwrap_err().kind(), Kind::NoSpace);
    image.write(0, &[2; 10]).unwrap();
}

#[test]
fn zeroes_have_an_event_of_their_own() {
    let image = Image::new(node(Asked::default(), fails("pwritev_zero", None)), WriteCache::Back);
    image.write(0, &[2; 10]).unwrap();
    assert!(image.write_zeroes(0..512, ZeroFlags::empty()).is_err());
    image.write_zeroes(0..512, ZeroFlags::empty()).unwrap();
}

#[test]
fn a_flush_of_nothing_meets_no_error() {
    let image = Image::new(node(Asked::default(), fails("none", Some(IoType::Flush))), WriteCache::Back);
    image.flush().unwrap();
    image.write(0, &[2; 10]).unwrap();
    assert_eq!(image.flush().unwrap_err().errno(), nix::libc::ENOSPC);
    image.flush().unwrap();
}

#[test]
fn requests_are_cut_to_the_limits_that_were_asked_for() {
    let asked = Asked {
        align: Some(512),
        max_transfer: Some(1024),
        opt_write_zero: Some(1536),
        max_write_zero: Some(3072),
        opt_discard: Some(1536),
        max_discard: Some(1536),
    };
    let once = Action::Inject { errno: 5, once: true, sector: Some(9), iotype: None };
    let rule = Rule { event: "none".into(), state: 0, action: once };
    let image = Image::new(node(asked, vec![rule]), WriteCache::Back);
    // The unit with sector 9 is not written, those before are.
    assert!(image.write(100, &[2; 8192]).is_err());
    let mut back = [0; 8192];
    image.read(0, &mut back).unwrap();
    assert_eq!([back[99], back[100], back[4095], back[4096]], [1, 2, 2, 1]);
    image.write_zeroes(100..9000, ZeroFlags::empty()).unwrap();
    image.discard(100..9000).unwrap();
    image.read(0, &mut back).unwrap();
    assert_eq!((back[99], back[100], back[8191]), (1, 0, 0));
}

#[test]
fn limits_that_contradict_each_other_are_named() {
    let error = |pairs: &[(&str, &str)]| {
        let options: BlkdebugOptions = Options::from_pairs(pairs.iter().copied()).unwrap().parse().unwrap();
        options.asked().unwrap_err().to_string()
    };
    assert_eq!(error(&[("align", "3")]), "Cannot meet constraints with align 3");
    assert_eq!(error(&[("align", "2G")]), "Cannot meet constraints with align 2147483648");
    let odd = error(&[("align", "512"), ("max-transfer", "1000")]);
    assert_eq!(odd, "Cannot meet constraints with max-transfer 1000");
    assert_eq!(error(&[("max-discard", "3G")]), "Cannot meet constraints with max-discard 3221225472");
}

#[test]
fn a_file_name_is_a_configuration_and_an_image() {
    let parse = |name| parse_filename(name).map(|o| Value::Object(o.into_map()).to_string());
    assert_eq!(parse("blkdebug:c.ini:dir/a:b").unwrap(), r#"{"config":"c.ini","x-image":"dir/a:b"}"#);
    assert_eq!(parse("blkdebug::a").unwrap(), r#"{"x-image":"a"}"#);
    assert_eq!(
        parse("blkdebug:a").unwrap_err().to_string(),
        "blkdebug requires both config file and image path"
    );
}
