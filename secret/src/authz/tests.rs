//! The judgements of every kind of rule, through objects as users make them.

use crate::objects::{OBJECT_TYPES, Registry};

fn judge(object: &str, name: &str) -> crate::Result<bool> {
    let mut registry = Registry::new([OBJECT_TYPES]);
    let _ = registry.add(object)?;
    registry.authorization("a")?.allows(name)
}

#[test]
fn one_identity_is_compared_whole() {
    let object = "authz-simple,id=a,identity=CN=fred,,O=x";
    assert!(judge(object, "CN=fred,O=x").unwrap());
    for other in ["CN=fred", "CN=fred,O=xy", "xCN=fred,O=x", ""] {
        assert!(!judge(object, other).unwrap(), "{other}");
    }
}

#[test]
fn the_first_rule_that_fits_decides_and_else_the_policy() {
    let rules = "rules.0.match=bob,rules.0.policy=deny,rules.1.match=b*,rules.1.format=glob,rules.1.policy=allow,\
                 rules.2.match=fred,rules.2.policy=allow";
    for (policy, name, verdict) in [
        ("deny", "bob", false),
        ("deny", "bobo", true),
        ("deny", "fred", true),
        ("deny", "freddy", false),
        ("allow", "bob", false),
        ("allow", "anybody", true),
    ] {
        assert_eq!(
            judge(&format!("authz-list,id=a,policy={policy},{rules}"), name).unwrap(),
            verdict,
            "{policy} {name}"
        );
    }
    assert!(!judge("authz-list,id=a", "anybody").unwrap());
    let json = r#"{"qom-type":"authz-list","id":"a","rules":[{"match":"x","policy":"allow"}]}"#;
    assert!(judge(json, "x").unwrap());
}

#[test]
fn a_file_of_rules_is_read_again_when_it_changes_and_lets_nobody_in_while_it_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rules.json");
    let write = |text: &str| {
        let new = dir.path().join("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(&new, &path).unwrap();
    };
    write(r#"{"policy":"deny","rules":[{"match":"fred","policy":"allow"}]}"#);
    let mut registry = Registry::new([OBJECT_TYPES]);
    for (id, kind, refresh) in [("a", "authz-list-file", "on"), ("b", "authz-listfile", "off")] {
        let text = format!("{kind},id={id},filename={},refresh={refresh}", path.display());
        let _ = registry.add(text).unwrap();
    }
    let (fresh, fixed) = (registry.authorization("a").unwrap(), registry.authorization("b").unwrap());
    assert!(fresh.allows("fred").unwrap() && !fresh.allows("bob").unwrap());
    write(r#"{"policy":"allow","rules":[{"match":"fred","policy":"deny"}]}"#);
    assert!(!fresh.allows("fred").unwrap() && fresh.allows("bob").unwrap());
    assert!(fixed.allows("fred").unwrap() && !fixed.allows("bob").unwrap());
    for wrong in ["[]", "{", r#"{"rules":[{"match":"bob"}]}"#, r#"{"rule":[]}"#] {
        write(wrong);
        let e = fresh.allows("bob").unwrap_err();
        assert!(e.to_string().contains("rules.json"), "{e}");
    }
    std::fs::remove_file(&path).unwrap();
    assert!(fresh.allows("bob").is_err());
    write(r#"{"policy":"allow"}"#);
    assert!(fresh.allows("bob").unwrap());
}

#[test]
fn a_file_of_rules_that_is_wrong_from_the_start_is_told_at_once() {
    for options in ["filename=/nonexistent/rules", "filename=rules.json"] {
        assert!(judge(&format!("authz-list-file,id=a,{options}"), "x").is_err(), "{options}");
    }
}
