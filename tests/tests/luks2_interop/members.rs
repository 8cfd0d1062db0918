//! Every member of the metadata wrong in turn: missing, of another type, or out of its range, generated from a header
//! that has all of them.
//!
//! Whatever cryptsetup refuses we refuse. What we refuse and cryptsetup takes is in [`STRICTER`], each with its reason.

use crate::damage::{Image, good, our_verdict, their_verdict};
use serde_json::{Value, json};
use tests::luks::Bench;

/// Members, by the end of their paths, and why we refuse values of them that cryptsetup takes.
const STRICTER: [(&str, &str); 9] = [
    ("/keyslots/0/priority", "it is a number"),
    ("/af/stripes", "it is a number; programs go by 4000 whatever stands there"),
    ("/segments/0/type", "nothing is known about the contents of such a segment"),
    ("/segments/0/encryption", "cryptsetup asks the kernel, and not when a passphrase is only tried"),
    ("/segments/0/offset", "the payload would be in another file, which was not named"),
    ("/config/requirements/mandatory", "cryptsetup asks that only when the payload is opened"),
    ("/digests/0/hash", "without a digest it is not known which key is right"),
    ("/digests/0/salt", "the same"),
    ("/digests/0/digest", "the same"),
];

/// The paths of all members below `value`.
fn paths(value: &Value, path: &str, all: &mut Vec<String>) {
    let Some(members) = value.as_object() else { return };
    for (name, member) in members {
        let path = format!("{path}/{name}");
        paths(member, &path, all);
        all.push(path);
    }
}

/// What a member is set to; `None` stands for its absence. The first few are tried always, the rest with `BLOCKIMG_LONG`.
fn values() -> Vec<Option<Value>> {
    let mut values = vec![None, Some(Value::Null), Some(json!({})), Some(json!("x")), Some(json!(-1))];
    if std::env::var_os("BLOCKIMG_LONG").is_some() {
        values.extend(
            [
                json!([]),
                json!(["0"]),
                json!(["99"]),
                json!([0]),
                json!([null]),
                json!({"0": {}}),
                json!({"type": "x"}),
                json!(true),
                json!(0),
                json!(1),
                json!(1.5),
                json!(i64::MAX),
                json!(u64::MAX),
                json!(""),
                json!("0"),
                json!("-1"),
                json!("18446744073709551615"),
                json!("é"),
                json!("x".repeat(4000)),
            ]
            .map(Some),
        );
    }
    values
}

fn edited(good: &Value, path: &str, value: Option<&Value>) -> Value {
    let mut json = good.clone();
    let (parent, name) = path.rsplit_once('/').unwrap();
    let parent = json.pointer_mut(parent).and_then(Value::as_object_mut).unwrap();
    match value {
        Some(value) => drop(parent.insert(name.to_owned(), value.clone())),
        None => drop(parent.remove(name)),
    }
    json
}

#[test]
fn every_member_wrong_in_turn_is_refused_where_cryptsetup_refuses_it() {
    let bench = crate::bench();
    let good = good(&bench);
    let mut json = good.json();
    json["tokens"]["0"] = json!({"type": "x", "keyslots": ["0"]});
    json["keyslots"]["0"]["priority"] = json!(1);
    json["config"]["flags"] = json!(["allow-discards"]);
    json["config"]["requirements"] = json!({"mandatory": []});
    let mut all = Vec::new();
    paths(&json, "", &mut all);
    assert!(all.len() > 45, "{all:?}");
    let mut wrong = String::new();
    for path in &all {
        for value in values() {
            wrong.extend(compare(&bench, &good, &edited(&json, path, value.as_ref()), path, value.as_ref()));
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// Whether cryptsetup would pay whatever the value asks for: we do not, and it is not waited for.
fn is_a_cost_without_end(path: &str, value: Option<&Value>) -> bool {
    // It takes text for a number too.
    let number = |value: &Value| match value {
        Value::Number(number) => Some(number.as_f64().unwrap_or(f64::MAX)),
        value => value.as_str()?.parse().ok(),
    };
    let large = |value: &Value| number(value).is_some_and(|n| !(0.0..1000.0).contains(&n));
    (path.ends_with("/time") || path.ends_with("/iterations")) && value.is_some_and(large)
}

fn compare(bench: &Bench, good: &Image, json: &Value, path: &str, value: Option<&Value>) -> Option<String> {
    let mut image = Image(good.0.clone());
    image.put(json.to_string().as_bytes());
    bench.write("bad", &image.0);
    let (ours, said) = our_verdict(bench);
    let theirs = !is_a_cost_without_end(path, value) && their_verdict(bench);
    let stricter = STRICTER.iter().any(|(end, _)| path.ends_with(end));
    let fine = ours == theirs || (stricter && !ours);
    let named = ours || said.len() > "qemu-io: can't open: ".len();
    let value = value.map_or_else(|| "missing".to_owned(), Value::to_string);
    (!fine || !named).then(|| format!("{path} {value:.40}: cryptsetup {theirs}, we {ours} ({said})\n"))
}
